"""diff(): what translates otherwise in a second table."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ptcore
from ptcore import PageTable, PhysicalMemory
from ptcore.errors import OutOfRange, PtcoreError
from ptcore.table import DIFF_DTYPE, Change

ALL_ONES = (1 << 64) - 1
K, M, G = 1 << 10, 1 << 20, 1 << 30


def new(name: str = "x86_64_4level", size: str = "4M") -> PageTable:
    return PageTable(name, PhysicalMemory(size))


def shown(rows: np.ndarray[Any, Any]) -> list[tuple[int, int, str]]:
    return [(int(r["first"]), int(r["last"]), Change(r["change"]).name) for r in rows]


def change_at(rows: np.ndarray[Any, Any], va: int) -> tuple[int, int | None, int | None] | None:
    """(change, old pa, new pa) at `va` by the contract of the rows; None where nothing changed."""
    for row in rows:
        if row["first"] <= va <= row["last"]:
            offset = va - int(row["first"])
            if row["change"] == Change.REPEAT:
                return change_at(rows, int(row["repeat_of"]) + offset % int(row["period"]))
            pas = [int(row[name]) for name in ("old_pa", "new_pa")]
            old, moved = (None if pa == ALL_ONES else pa + offset for pa in pas)
            return int(row["change"]), old, moved
    return None


def expected_at(a: PageTable, b: PageTable, va: int) -> tuple[int, int | None, int | None] | None:
    old, young = a.walk(va), b.walk(va)
    if old.pa is None and young.pa is None:
        return None
    if old.pa is None or young.pa is None:
        return (Change.ADDED if old.pa is None else Change.REMOVED), old.pa, young.pa
    if old.pa != young.pa:
        return Change.MOVED, old.pa, young.pa
    names = ("rights", "page_size", "memory_type", "pkey", "software", "global_")
    if any(getattr(old, name) != getattr(young, name) for name in names):
        return Change.CHANGED, old.pa, young.pa
    return None


def test_equal_tables_have_no_difference() -> None:
    a, b = new(), new("x86_64_5level")
    for table in (a, b):
        table.map(0, 0, "1G")
        table.map(5 * G, 0, "64K", "rx")
    rows = ptcore.diff(a, b)
    assert rows.dtype == DIFF_DTYPE
    assert len(rows) == 0
    assert len(ptcore.diff(new(), new())) == 0


def test_each_kind_of_change_is_one_merged_row() -> None:
    a, b = new(), new()
    a.map(0, 0x100000, "64K")
    b.map(0, 0x100000, "16K")
    b.map(16 * K, 0x900000, "16K")
    b.map(32 * K, 0x100000 + 32 * K, "16K", "r")
    b.map(M, 0x500000, "8K", "rx", user=True)
    rows = ptcore.diff(a, b)
    assert shown(rows) == [
        (16 * K, 32 * K - 1, "MOVED"),
        (32 * K, 48 * K - 1, "CHANGED"),
        (48 * K, 64 * K - 1, "REMOVED"),
        (M, M + 8 * K - 1, "ADDED"),
    ]
    assert rows["old_pa"].tolist() == [0x104000, 0x108000, 0x10C000, ALL_ONES]
    assert rows["new_pa"].tolist() == [0x900000, 0x108000, ALL_ONES, 0x500000]
    assert rows["old_rights"].tolist() == [3, 3, 3, 0]
    assert rows["new_rights"].tolist() == [3, 1, 0, 13]
    assert rows["new_page_size"].tolist() == [4096, 4096, 0, 4096]


def test_a_split_is_a_change_of_page_size_only() -> None:
    a, b = new(), new()
    for table in (a, b):
        table.map(0, 0, "8M")
    b.split(2 * M, "2M")
    rows = ptcore.diff(a, b)
    assert shown(rows) == [(2 * M, 4 * M - 1, "CHANGED")]
    assert (rows["old_page_size"][0], rows["new_page_size"][0]) == (2 * M, 4 * K)


def test_the_ends_of_the_address_space_are_compared() -> None:
    a, b = new(), new()
    b.map((1 << 64) - 4096, 0, "4K")
    b.map((1 << 47) - 4096, 0, "4K")
    assert shown(ptcore.diff(a, b)) == [
        ((1 << 47) - 4096, (1 << 47) - 1, "ADDED"),
        ((1 << 64) - 4096, ALL_ONES, "ADDED"),
    ]


def test_a_difference_is_cut_to_the_addresses_asked_for() -> None:
    a, b = new(), new()
    b.map(0, 0x100000, "64K")
    rows = ptcore.diff(a, b, 0x1800, 0x27FF)
    assert shown(rows) == [(0x1800, 0x27FF, "ADDED")]
    assert rows["new_pa"].tolist() == [0x101800]
    with pytest.raises(OutOfRange):
        ptcore.diff(a, b, 5, 4)


def aliased(pages: dict[int, int], root_items: int = 32) -> PageTable:
    """One table of each level, hung everywhere; its leaves are `pages` (index -> address)."""
    ram = PhysicalMemory("64K")
    root, pdpt, pd, pt = (ram.frames.allocate() for _ in range(4))
    for index, pa in pages.items():
        ram.write_word(pt + 8 * index, pa | 3)
    ram.write(pd, np.full(512, pt | 7, dtype=np.uint64))
    ram.write(pdpt, np.full(512, pd | 7, dtype=np.uint64))
    ram.write(root, np.full(root_items, pdpt | 7, dtype=np.uint64))
    return PageTable("x86_64_4level", ram, root=root)


def test_aliased_regions_are_compared_once() -> None:
    a = aliased({0: 0x5000, 7: 0x9000})
    b = aliased({0: 0x5000, 8: 0x9000})
    assert len(ptcore.diff(a, a)) == 0
    rows = ptcore.diff(a, b)
    assert len(rows) < 20
    counts = Counter(rows["change"].tolist())
    assert counts[Change.REMOVED] == counts[Change.ADDED]
    assert counts[Change.REPEAT] >= 3
    for va in (
        0x7000,
        0x8000,
        0,
        5 * M + 0x7123,
        700 * G + 0x8001,
        31 * 512 * G + 0x107000,
        1 << 46,
    ):
        assert change_at(rows, va) == expected_at(a, b, va)


def test_an_aliased_region_against_nothing_or_against_plain_pages() -> None:
    a, b = new(), aliased({0: 0x5000, 1: 0x6000})
    a.map(2 * M, 0x5000, "8K")
    a.map(6 * M, 0x100000, "2M", page_size="4K")
    for left, right in ((a, b), (b, a)):
        rows = ptcore.diff(left, right)
        assert len(rows) < 30
        vas = [n * M + offset for n in range(10) for offset in (0, 0x1234, 0x2000, 0x1FF000)]
        for va in [*vas, 3 * G + 0x1005, 1 << 45]:
            assert change_at(rows, va) == expected_at(left, right, va), hex(va)


def test_self_maps_and_pages_of_nothing_but_themselves_end() -> None:
    tables = []
    for items in (512, 256, 1):
        ram = PhysicalMemory("64K")
        root = ram.frames.allocate()
        ram.write(root, np.full(items, root | 7, dtype=np.uint64))
        tables.append(PageTable("x86_64_4level", ram, root=root))
    for a in tables:
        for b in tables:
            rows = ptcore.diff(a, b)
            assert (len(rows) == 0) == (a is b)
            for va in (0, 1 << 40, 0x7F_FFFF_F000, 0xFFFF_FFFF_FFFF_F000, 255 << 39 | 5 << 30):
                assert change_at(rows, va) == expected_at(a, b, va)


def test_large_tables_are_compared_row_by_row() -> None:
    a, b = new(size="64M"), new(size="64M")
    a.map(0, 0, "4G", page_size="4K")  # a million pages, one row
    b.map(0, 0, "4G", page_size="4K")
    for n in range(0, 1 << 20, 1 << 14):
        b.unmap(n << 12, "4K").discharge()
    rows = ptcore.diff(a, b)
    assert len(rows) == 64
    assert set(rows["change"].tolist()) == {Change.REMOVED}


SEEN: Counter[str] = Counter()


@settings(max_examples=80, deadline=None, derandomize=True)
@given(st.data())
def _tables_drawn(data: st.DataObject) -> None:
    a, b = new(size="256K"), new(size="256K")
    vas = set()
    for table in (a, b):
        for _ in range(data.draw(st.integers(1, 5))):
            size = data.draw(st.sampled_from([4 * K, 4 * K, 2 * M]))
            va = data.draw(st.integers(0, 6)) * size
            pa = data.draw(st.sampled_from([0, va, size]))
            access = data.draw(st.sampled_from(["r", "rw"]))
            pages = data.draw(st.integers(1, 3))
            vas |= {va, va + size * pages - 1, va + size * pages}
            try:
                table.map(va, pa, size * pages, access)
            except PtcoreError:
                continue
    for old, young in ((a, b), (b, a)):
        rows = ptcore.diff(old, young)
        assert np.all(rows["first"][1:] > rows["last"][:-1])
        ends = {int(end) for row in rows for end in (row["first"], row["last"])}
        for va in sorted(vas | ends | {end + 1 for end in ends}):
            assert change_at(rows, va) == expected_at(old, young, va), hex(va)
        SEEN.update(Change(change).name for change in rows["change"].tolist())


def test_a_difference_is_what_two_walks_say() -> None:
    _tables_drawn()
    assert all(SEEN[name] > 20 for name in ("ADDED", "REMOVED", "MOVED", "CHANGED")), SEEN
