"""harvest(): which pages were touched or written since the last time."""

from __future__ import annotations

import numpy as np
import pytest

from ptcore import PageTable, PhysicalMemory, Span

A, D = 1 << 5, 1 << 6
M, G = 1 << 20, 1 << 30


def marked(marks: dict[int, int]) -> PageTable:
    """4K, 2M and 1G pages; `marks` are set in the leaves of these addresses."""
    table = PageTable("x86_64_4level", PhysicalMemory("4M"))
    table.map(0, 8 * M, "2M", page_size="4K")
    table.map(2 * M, 2 * M, "4M", page_size="2M")
    table.map(G, G, "2G", page_size="1G")
    table.map(0xFFFF800000000000, 0, "4K")
    for va, bits in marks.items():
        step = table.walk(va).path[-1]
        table.memory.write_word(step.entry_address, step.entry | bits)
    return table


MARKS = {0x3000: D, 0x4000: A, 0x5000: A | D, 4 * M: D, 2 * G: A | D, 0xFFFF800000000000: D}


@pytest.mark.parametrize(("what", "bit"), [("dirty", D), ("accessed", A)])
def test_marked_leaves_of_all_sizes_are_listed_once_in_order(what: str, bit: int) -> None:
    table = marked(MARKS)
    rows, owed = table.harvest(what)  # type: ignore[arg-type]
    expected = sorted(va for va, bits in MARKS.items() if bits & bit)
    assert rows["va"].tolist() == expected
    assert rows["pa"].tolist() == [table.translate(va) for va in expected]
    assert rows["page_size"].tolist() == [table.walk(va).page_size for va in expected]
    assert owed.spans == tuple(Span.of(va, table.walk(va).page_size or 0) for va in expected)
    assert owed.entries_written == len(expected)


def test_a_harvest_clears_its_marks_and_nothing_else() -> None:
    table = marked(MARKS)
    table.harvest("dirty")
    assert len(table.harvest("dirty")[0]) == 0
    for va, bits in MARKS.items():
        walk = table.walk(va)
        assert (walk.accessed, walk.dirty) == (bool(bits & A), False)
    untouched = marked({va: bits & ~D for va, bits in MARKS.items()})
    assert table.memory.read(0, 1 << 16) == untouched.memory.read(0, 1 << 16)


def test_a_harvest_can_leave_the_marks() -> None:
    table = marked(MARKS)
    first, owed = table.harvest("dirty", clear=False)
    assert not owed
    assert np.array_equal(first, table.harvest("dirty", clear=False)[0])
    assert len(first) == 5


def test_nothing_marked_is_nothing_harvested() -> None:
    rows, owed = marked({}).harvest("accessed")
    assert len(rows) == 0
    assert not owed
    assert owed.entries_written == 0


def test_an_aliased_leaf_is_listed_once_and_owed_wherever_it_hangs() -> None:
    table = marked({0x3000: D})
    step = table.walk(0).path[2]
    table.memory.write_word(step.entry_address + 8 * 7, step.entry)
    rows, owed = table.harvest("dirty")
    assert rows["va"].tolist() == [0x3000]
    assert owed.spans == (Span.of(0x3000, "4K"), Span.of(14 * M, "2M"))
    assert not table.walk(14 * M + 0x3000).dirty


def test_a_page_of_nothing_but_itself_is_harvested_at_once() -> None:
    ram = PhysicalMemory("64K")
    root = ram.frames.allocate()
    ram.write(root, np.full(512, root | 7 | A, dtype=np.uint64))
    table = PageTable("x86_64_4level", ram, root=root)
    rows, owed = table.harvest("accessed")
    assert len(rows) == 512
    assert owed.spans
    assert len(table.harvest("accessed")[0]) == 0


def test_only_dirty_and_accessed_can_be_harvested() -> None:
    with pytest.raises(ValueError, match="'dirty' or 'accessed', not 'wet'"):
        marked({}).harvest("wet")  # type: ignore[arg-type]
