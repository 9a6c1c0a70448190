"""reverse(): every address that leads to a byte."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptcore import PageTable, PhysicalMemory
from ptcore.errors import PtcoreError
from ptcore.testing import strategies as ours

M, G = 1 << 20, 1 << 30


def new() -> PageTable:
    return PageTable("x86_64_4level", PhysicalMemory("4M"))


def test_every_mapping_of_a_byte_is_found_whatever_the_page_size() -> None:
    table = new()
    table.map(0x5000, G + 0x3000, "4K")
    table.map(8 * M, G, "2M", page_size="2M")
    table.map(4 * G, G, "1G", page_size="1G")
    table.map(0xFFFF800000000000, G, "16K", page_size="4K")
    found = table.reverse(G + 0x3123)
    assert found.dtype == np.uint64
    assert found.tolist() == [0x5123, 8 * M + 0x3123, 4 * G + 0x3123, 0xFFFF800000003123]
    assert table.reverse(G + 2 * M).tolist() == [4 * G + 2 * M]
    assert table.reverse(2 * G).tolist() == []


def test_aliases_are_found_at_every_address() -> None:
    table = new()
    table.map(0, 0x200000, "2M", page_size="4K")
    step = table.walk(0).path[2]
    for n in (3, 511):
        table.memory.write_word(step.entry_address + 8 * n, step.entry)
    assert table.reverse(0x201005).tolist() == [0x1005, 6 * M + 0x1005, 1022 * M + 0x1005]


def test_more_addresses_than_anybody_wants_are_refused() -> None:
    ram = PhysicalMemory("64K")
    root = ram.frames.allocate()
    ram.write(root, np.full(512, root | 7, dtype=np.uint64))
    table = PageTable("x86_64_4level", ram, root=root)
    with pytest.raises(PtcoreError, match="more than 1000000 addresses translate to 0x1005"):
        table.reverse(root + 5)
    assert table.reverse(0x5000).tolist() == []


def test_unreadable_items_lead_nowhere() -> None:
    table = PageTable("x86_64_4level", PhysicalMemory("4M"), physical_bits=46)
    table.map(0, 0, "4K")
    path = table.walk(0).path
    table.memory.write_word(path[3].entry_address + 8, 1 << 51 | 0x5001)
    table.memory.write_word(path[2].entry_address + 8, 1 << 45 | 7)
    assert table.reverse(0x5000).tolist() == []
    assert table.reverse(0).tolist() == [0]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_reverse_is_the_inverse_of_translate(data: st.DataObject) -> None:
    fmt = data.draw(ours.configured_formats())
    table = PageTable(fmt, PhysicalMemory("256K"))
    live = {}
    for _ in range(data.draw(st.integers(1, 4))):
        size = data.draw(ours.page_sizes(fmt))
        span = data.draw(ours.aligned_spans(fmt, size))
        pa = data.draw(st.integers(0, 3)) * size
        try:
            table.map(span.start, pa, size, "rwx", page_size=size)
        except PtcoreError:
            continue
        live[span.start] = (size, pa)
    pa = data.draw(st.integers(0, 4 * G))
    expected = sorted(
        va + pa - start for va, (size, start) in live.items() if 0 <= pa - start < size
    )
    assert table.reverse(pa).tolist() == expected
    assert all(table.translate(va) == pa for va in expected)
