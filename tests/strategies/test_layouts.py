"""Where strategies put their maps: inside what the format translates, apart, and as kernels have it."""

from __future__ import annotations

from itertools import pairwise

import pytest

from ptcore import formats
from ptcore.errors import OutOfRange
from ptcore.machine import Machine
from ptcore.strategies.layouts import OWN, WINDOWS, layout_of

OF_CPUS = [
    *("x86_64_4level", "x86_64_5level", "aarch64_4k_39", "aarch64_4k_48", "aarch64_64k_52"),
    *("aarch64_16k_47", "sv39", "sv48", "sv57", "loongarch64", "ppc64_radix"),
]


@pytest.mark.parametrize("name", OF_CPUS)
def test_the_ranges_lie_apart_in_the_upper_half_and_hold_whole_pages(name: str) -> None:
    machine = Machine(1, name, ram="4G")
    found = layout_of(machine)
    half = machine.table.legal_spans()[-1]
    ranges = [found.vmalloc, found.direct_map, *map(found.window, range(WINDOWS))]
    ranges.sort(key=lambda span: span.start)
    assert all(a.last < b.start for a, b in pairwise(ranges))
    assert all(half.start <= span.start and span.last <= half.last for span in ranges)
    assert all(span.start % machine.page_bytes == 0 for span in ranges)
    assert found.second_map.start > found.direct_map.start + machine.data_bytes
    assert found.second_map.last == found.direct_map.last


def test_the_kernels_layouts_are_those_of_its_documents() -> None:
    four, upper, sv39 = (
        layout_of(Machine(1, fmt, ram="4G"))
        for fmt in ("x86_64_4level", formats.get("aarch64_4k_48", upper=True), "sv39")
    )
    assert four.direct_map.start == 0xFFFF_8880_0000_0000
    assert four.vmalloc.start == 0xFFFF_C900_0000_0000
    assert upper.direct_map.start == 0xFFFF_0000_0000_0000
    assert upper.vmalloc.start == 0xFFFF_8000_8000_0000
    assert sv39.direct_map.size == 128 << 30
    assert all("Documentation" in found.source for found in (four, upper, sv39))


def test_other_formats_and_smaller_halves_get_shares() -> None:
    assert layout_of(Machine(1, "loongarch64", ram="4G")).source == OWN
    narrow = formats.get("aarch64_4k_48", va_bits=40)
    assert layout_of(Machine(1, narrow, ram="4G")).source == OWN


def test_memory_without_room_in_the_direct_map_is_refused() -> None:
    with pytest.raises(OutOfRange, match="direct map of sv39 has room for 128G"):
        layout_of(Machine(1, "sv39", ram="256G"))
