"""Address spaces of ptcore's in real drgn programs."""

from __future__ import annotations

import sys
from collections import Counter

import drgn
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ptcore
from ptcore.errors import PtcoreError
from ptcore.interop.drgn import add_memory, mapped_spans, memory_of

PAGE = 4096
HIGH = -(1 << 56) % (1 << 64)  # the lowest address of the upper half of 57 bits
DIRECT = 0xFFFF_FFD6_0000_0000  # where a RISC-V kernel may have its direct map


def five_levels() -> tuple[ptcore.PageTable, bytes]:
    """A 5-level space of pages in no order, with a hole, over memory of known bytes."""
    ram = ptcore.PhysicalMemory("16M", frames=(0x80_0000, "4M"))
    known = bytes((n * 7 + (n >> 12)) & 0xFF for n in range(64 * PAGE))
    ram.write(0x10_0000, known)
    table = ptcore.PageTable("x86_64_5level", ram)
    for n, frame in enumerate((5, 3, 4, 0, 63)):
        table.map(HIGH + n * PAGE, 0x10_0000 + frame * PAGE, PAGE)
    table.map(HIGH + 7 * PAGE, 0x10_0000 + 9 * PAGE, 2 * PAGE)
    table.map(1 << 50, 0x20_0000, "2M")
    return table, known


def page(known: bytes, frame: int) -> bytes:
    return known[frame * PAGE : (frame + 1) * PAGE]


def program(architecture: drgn.Architecture = drgn.Architecture.X86_64) -> drgn.Program:
    return drgn.Program(drgn.Platform(architecture))


def test_a_kernel_of_five_levels_is_read_across_pages() -> None:
    table, known = five_levels()
    prog = program()
    assert add_memory(prog, table) == 3
    assert prog.read(HIGH, 5 * PAGE) == b"".join(page(known, n) for n in (5, 3, 4, 0, 63))
    assert prog.read(HIGH + PAGE - 4, 8) == page(known, 5)[-4:] + page(known, 3)[:4]
    assert prog.read_u64(HIGH + 7 * PAGE + 8) == int.from_bytes(page(known, 9)[8:16], "little")
    assert prog.read(0x10_0000, 100, physical=True) == known[:100]


def test_what_is_not_mapped_is_a_fault_that_names_the_address() -> None:
    table, _ = five_levels()
    prog = program()
    add_memory(prog, table, physical=False)
    for address in (HIGH + 5 * PAGE, HIGH - 1, 0, 1 << 55):
        with pytest.raises(drgn.FaultError) as caught:
            prog.read(address, 8)
        assert caught.value.address == address
    with pytest.raises(drgn.FaultError) as caught:
        prog.read(HIGH + 4 * PAGE, 2 * PAGE)  # the second of these is a hole
    assert caught.value.address == HIGH + 5 * PAGE
    with pytest.raises(drgn.FaultError):
        prog.read(0x10_0000, 8, physical=True)


def test_tables_that_changed_are_seen_and_their_faults_are_ptcores() -> None:
    table, known = five_levels()
    prog = program()
    add_memory(prog, table)
    table.unmap(HIGH + PAGE, PAGE).discharge()
    with pytest.raises(drgn.FaultError, match="not present at PT") as caught:
        prog.read(HIGH + PAGE - 4, 8)
    assert caught.value.address == HIGH + PAGE
    table.map(HIGH + PAGE, 0x10_0000 + 20 * PAGE, PAGE)
    assert prog.read(HIGH + PAGE, PAGE) == page(known, 20)


def test_a_page_outside_the_memory_is_a_fault() -> None:
    ram = ptcore.PhysicalMemory("1M")
    table = ptcore.PageTable("x86_64_5level", ram)
    table.map(HIGH, 1 << 40, 2 * PAGE)
    prog = program()
    add_memory(prog, table)
    for size in (8, PAGE + 8):
        with pytest.raises(drgn.FaultError) as caught:
            prog.read(HIGH, size)
        assert caught.value.address == HIGH


def test_a_riscv_kernel_opens() -> None:
    ram = ptcore.PhysicalMemory("64M", start=0x8000_0000, frames=(0x8200_0000, "8M"))
    table = ptcore.PageTable("sv48", ram)
    table.map(DIRECT, 0x8000_0000, "4M")
    ram.write(0x8000_1000, b"Linux version 6.12\0")
    space = ptcore.AddressSpace.from_registers(
        "riscv64", ram, satp=9 << 60 | table.root >> 12, sstatus=0
    )
    prog = program(drgn.Architecture.RISCV64)
    assert add_memory(prog, space) == 1
    assert prog.platform is not None
    assert prog.platform.arch is drgn.Architecture.RISCV64
    assert prog.read_c_string(DIRECT + 0x1000) == b"Linux version 6.12"
    # Objects are read through the space as well, by the platform's byte order.
    value = drgn.Object(prog, prog.int_type("unsigned int", 4, False), address=DIRECT + 0x1000)
    assert value.value_() == int.from_bytes(b"Linu", "little")


def test_a_search_looks_at_what_is_mapped_alone() -> None:
    table, _ = five_levels()
    for frame in (3, 9, 40):  # the last of these is mapped nowhere
        table.memory.write(0x10_0000 + frame * PAGE + 100, b"a needle")
    table.memory.write(0x10_0000 + 4 * PAGE - 3, b"over")  # frame 4 follows 3 in both orders
    prog = program()
    add_memory(prog, table, physical=False)
    found = sorted(int(address) for address in prog.search_memory(b"a needle"))
    assert found == [HIGH + PAGE + 100, HIGH + 7 * PAGE + 100]
    assert [int(address) for address in prog.search_memory(b"over")] == [HIGH + 2 * PAGE - 3]


def test_pages_that_only_run_are_read_all_the_same() -> None:
    ram = ptcore.PhysicalMemory("16M")
    table = ptcore.PageTable("sv48", ram)
    ram.write(0x5000, b"code" * 2048)
    table.map(0x1000, 0x5000, 2 * PAGE, access="x")
    prog = program(drgn.Architecture.RISCV64)
    add_memory(prog, table)
    assert prog.read(0x1000, 4) == b"code"
    assert prog.read(0x1FF0, 32) == b"code" * 8


def test_both_stages_of_a_guest_are_read() -> None:
    ram = ptcore.PhysicalMemory("64M", frames=(0x100_0000, "16M"))
    second = ptcore.PageTable("ept_4level", ram)
    second.map(0, 0x200_0000, "16M", access="rwx")
    guest = ptcore.guest_memory(second, frames=(0x80_0000, "4M"))
    first = ptcore.PageTable("x86_64_5level", guest)
    first.map(HIGH, 0x3000, PAGE)
    ram.write(0x200_3000, b"inside")
    prog = program()
    nested = ptcore.Nested(first, second)
    assert memory_of(nested) is ram
    add_memory(prog, nested)
    assert prog.read(HIGH, 6) == b"inside"


def test_a_space_of_unknown_memory_must_be_given_it() -> None:
    table, _ = five_levels()

    class Own:
        translate, translate_many = table.translate, table.translate_many
        walk, mappings = table.walk, table.mappings

    with pytest.raises(TypeError, match="memory="):
        add_memory(program(), Own())
    prog = program()
    assert add_memory(prog, Own(), memory=table.memory) == 3


def test_without_drgn_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    table, _ = five_levels()
    monkeypatch.setitem(sys.modules, "drgn", None)
    with pytest.raises(PtcoreError, match="pip install drgn"):
        add_memory(object(), table)


@settings(max_examples=60, deadline=None)
@given(
    pages=st.lists(st.tuples(st.integers(0, 40), st.integers(0, 63)), max_size=30),
    start=st.integers(0, 41 * PAGE),
    size=st.integers(1, 6 * PAGE),
)
def test_any_read_is_what_a_dict_of_pages_says(
    pages: list[tuple[int, int]], start: int, size: int
) -> None:
    ram = ptcore.PhysicalMemory("4M", frames=(0x20_0000, "1M"))
    known = bytes((n * 11 + (n >> 12) * 3) & 0xFF for n in range(64 * PAGE))
    ram.write(0x10_0000, known)
    table = ptcore.PageTable("sv57", ram)
    model: dict[int, int] = {}
    for slot, frame in pages:
        if slot not in model:
            model[slot] = frame
            table.map(HIGH + slot * PAGE, 0x10_0000 + frame * PAGE, PAGE)
    prog = program(drgn.Architecture.RISCV64)
    assert add_memory(prog, table) == len(mapped_spans(table))
    wanted = range(start, start + size)
    missing = next((n for n in wanted if n // PAGE not in model), None)
    if missing is None:
        expected = bytes(known[model[n // PAGE] * PAGE + n % PAGE] for n in wanted)
        assert prog.read(HIGH + start, size) == expected
    else:
        with pytest.raises(drgn.FaultError) as caught:
            prog.read(HIGH + start, size)
        assert caught.value.address == HIGH + missing
    OUTCOMES["read" if missing is None else "fault"] += 1


OUTCOMES = Counter[str]()


def test_the_reads_above_were_of_both_kinds() -> None:
    assert min(OUTCOMES["read"], OUTCOMES["fault"]) > 0, OUTCOMES
