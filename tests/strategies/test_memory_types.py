"""Device memory is mapped with its memory type, by every strategy that gives it a mapping of its own."""

from __future__ import annotations

import pytest

from ptcore import formats, strategies
from ptcore.errors import FormatError
from ptcore.machine import Machine, Request
from ptcore.memory import PhysicalMemory
from ptcore.table import PageTable
from ptcore.units import Span

OWN_MAPPINGS = (
    "ephemeral_map",
    "kmap_local",
    "naive_unmap",
    "sparse_direct_map",
    "unmapped_pool",
    "vmalloc_eager",
    "vmalloc_lazy",
    "page_table_cache+vmalloc_lazy",
)


@pytest.mark.parametrize("name", OWN_MAPPINGS)
@pytest.mark.parametrize(("asked", "number"), [("device", 2), ("UC", 3), (None, 0)])
def test_the_type_of_a_request_is_that_of_the_leaves_when_they_are_touched(
    name: str, asked: str | None, number: int
) -> None:
    machine = Machine(2, ram="1G")
    strategy = strategies.get(name).make(machine)
    device = "device" if name == "sparse_direct_map" else None
    handle = strategy.acquire(Request(0, 3, device=device, memory_type=asked))
    seen: list[int | None] = []
    touch = machine.access

    def look(span: Span, cpu: int, kind: str = "r") -> None:
        for va in range(span.start, span.last + 1, machine.page_bytes):
            seen.append(machine.table.walk(va).memory_type)
        touch(span, cpu, kind)

    machine.access = look
    strategy.access(handle, Span.of(0, 3 * machine.page_bytes), 1, "w")
    assert seen == [number] * 3  # Intel SDM vol. 3A, PAT after reset: WB, WT, UC-, UC
    strategy.release(handle, 1)


def test_an_unknown_type_is_refused_before_anything_is_mapped() -> None:
    machine = Machine(1, ram="1G")
    with pytest.raises(FormatError, match="no memory type 'DEV'"):
        machine.map(0xFFFF_C900_0000_0000, 0x1000, 4096, 0, memory_type="DEV")
    assert not len(machine.ledger)


@pytest.mark.parametrize("name", formats.names())
def test_the_type_that_a_format_names_for_devices_can_be_mapped(name: str) -> None:
    fmt = formats.get(name)
    if not fmt.device_memory:
        return
    table = PageTable(fmt, PhysicalMemory("64M"))
    va = 1 << 20
    if fmt.address_rule.name == "UPPER_ONLY":
        va = (1 << 64) - (1 << 30)
    table.map(
        va, 1 << 20, fmt.page_sizes[0], memory_type=fmt.device_memory, page_size=fmt.page_sizes[0]
    )
    walked = table.walk(va).memory_type
    assert fmt.memory_types[walked] == fmt.device_memory


def test_the_formats_of_cpus_name_one() -> None:
    named = {name for name in formats.names() if formats.get(name).device_memory}
    assert {"loongarch64", "ppc64_radix", "sv39", "x86_32", "x86_64_4level"} <= named
