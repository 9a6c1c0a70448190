"""What a walk costs: items through a cache of lines, busy walkers, and leaves that are held as one."""

from __future__ import annotations

import numpy as np
import pytest

from ptcore import AddressSpace, PageTable, PhysicalMemory, formats
from ptcore.caches import FAULT, WALK, Mmu, Tlb, TlbArray, TlbLevel, WalkCache
from ptcore.errors import FormatError, OutOfRange

ONE = (TlbLevel("L1", (TlbArray(1, 1, ("4K", "2M", "1G")),)),)


def table(pages: int = 64) -> PageTable:
    made = PageTable("x86_64_4level", PhysicalMemory("4M"))
    made.map(0, 0, pages << 12, "rw", page_size="4K")
    return made


def lines(first: int = 8, second: int = 64) -> Tlb:
    """Two levels of 64-byte lines, 4 and 14 cycles."""
    return Tlb(
        (
            TlbLevel("L1", (TlbArray(first, first, ("64",)),), cycles=4),
            TlbLevel("L2", (TlbArray(second, second, ("64",)),), cycles=14),
        )
    )


def test_items_are_read_through_a_cache_of_lines() -> None:
    mmu = Mmu(table(), Tlb(ONE), line_cache=lines(), memory_cycles=100)
    mmu.access(0)
    assert (mmu.counts.served, mmu.counts.walk_cycles) == ((0, 0, 4), 400)
    # Eight items of 8 bytes share a line: page 1 finds all four lines.
    mmu.access(1 << 12)
    assert (mmu.counts.served, mmu.counts.walk_cycles) == ((4, 0, 4), 416)
    mmu.access(8 << 12)
    assert (mmu.counts.served, mmu.counts.walk_cycles) == ((7, 0, 5), 528)
    assert sum(mmu.counts.served) == mmu.counts.references == 12


def test_a_line_that_the_first_level_lost_comes_from_the_second() -> None:
    mmu = Mmu(table(), Tlb(ONE), WalkCache({1: 1}), line_cache=lines(2), memory_cycles=100)
    mmu.access_many([n * 8 << 12 for n in (0, 1, 2, 0)])
    # The last item alone is read, but for the first walk: lines 0, 1, 2, and 0 again.
    assert mmu.counts.served == (0, 1, 6)


def test_a_level_of_lines_says_its_cycles() -> None:
    silent = Tlb((TlbLevel("L1", (TlbArray(8, 8, ("64",)),)),))
    with pytest.raises(FormatError, match="level L1 says no cycles"):
        Mmu(table(), Tlb(ONE), line_cache=silent)
    with pytest.raises(OutOfRange, match=r"walkers 99 is not in 0..16"):
        Mmu(table(), Tlb(ONE), walkers=99)


@pytest.mark.parametrize(("walkers", "cycles"), [(1, 4000), (2, 2000), (4, 1000)])
def test_walkers_bound_the_throughput(walkers: int, cycles: int) -> None:
    mmu = Mmu(table(), Tlb(ONE), memory_cycles=10, walkers=walkers)
    mmu.access_many(np.arange(100) % 64 << 12)
    assert mmu.counts.walk_cycles == 100 * 4 * 10
    assert cycles <= mmu.counts.cycles <= cycles + 40 + walkers
    assert mmu.counts.waited_cycles > 0


def test_walkers_that_are_free_are_not_waited_for() -> None:
    mmu = Mmu(table(), Tlb(ONE), memory_cycles=10, walkers=2, issue_cycles=20)
    mmu.access_many(np.arange(100) % 64 << 12)
    assert mmu.counts.waited_cycles == 0
    assert mmu.counts.cycles == 100 * 20 + 40


# -- adjacent small pages in one entry ----------------------------------------------------------

TWO_SIZES = (TlbLevel("L1", (TlbArray(4, 4, ("4K",)), TlbArray(4, 4, ("16K",), coalesces=True))),)


def held(mapped: list[tuple[int, int, str]]) -> dict[int, int]:
    """Size of the entry that serves each of pages 0 to 3, of (page, frame, access)."""
    made = PageTable("x86_64_4level", PhysicalMemory("4M"))
    for page, frame, access in mapped:
        made.map(page << 12, frame << 12, "4K", access)
    mmu = Mmu(made, Tlb(TWO_SIZES), marks=False)
    mmu.access_many([page << 12 for page, _, _ in mapped])
    found = {}
    for page, frame, _ in mapped:
        hit = mmu.tlb.lookup(page << 12)
        assert hit is not None
        assert hit.pa == frame << 12
        found[page] = hit.page_size
    return found


def test_four_adjacent_pages_in_a_row_are_one_entry() -> None:
    small, large = 1 << 12, 1 << 14
    assert held([(n, 8 + n, "rw") for n in range(4)]) == dict.fromkeys(range(4), large)
    # One of them elsewhere, one with other rights, one missing, or frames that are not aligned: none.
    assert set(held([(n, 8 + n if n < 3 else 40, "rw") for n in range(4)]).values()) == {small}
    assert set(held([(n, 8 + n, "rw" if n else "r") for n in range(4)]).values()) == {small}
    assert set(held([(n, 8 + n, "rw") for n in range(3)]).values()) == {small}
    assert set(held([(n, 9 + n, "rw") for n in range(4)]).values()) == {small}


def test_an_entry_of_four_goes_with_any_of_them() -> None:
    made = table(8)
    mmu = Mmu(made, Tlb(TWO_SIZES), marks=False)
    assert mmu.access(0).code == WALK
    assert [mmu.access(n << 12).code for n in range(4)] == [0] * 4
    owed = made.unmap(2 << 12, "4K")
    mmu.invalidate(2 << 12, (2 << 12) + 4095)
    owed.discharge()
    assert [mmu.access(n << 12).code for n in range(4)] == [WALK, WALK, FAULT, WALK]


def test_marks_that_differ_keep_pages_apart() -> None:
    mmu = Mmu(table(8), Tlb(TWO_SIZES))
    assert [mmu.access(n << 12).code for n in range(4)] == [
        WALK
    ] * 4  # each is marked accessed first
    mmu.invalidate(0, 0)
    assert [mmu.access(n << 12).code for n in range(4)] == [WALK, 0, 0, 0]
    hit = mmu.tlb.lookup(0)
    assert hit is not None
    assert hit.page_size == 1 << 14


def test_two_halves_have_their_own_tables() -> None:
    memory = PhysicalMemory("8M")
    low = PageTable("aarch64_4k_48", memory)
    high = PageTable(formats.get("aarch64_4k_48", upper=True), memory)
    start = high.legal_spans()[0].start
    low.map(0x1000, 0x5000, "4K", "rw")
    high.map(start + 0x1000, 0x6000, "4K", "rw")
    mmu = Mmu(AddressSpace((low, high)), Tlb(ONE), WalkCache({1: 2, 2: 2}))
    for _ in range(3):
        assert mmu.access(0x1000).pa == 0x5000
        assert mmu.access(start + 0x1000).pa == 0x6000
        assert mmu.access(1 << 50).code == FAULT
