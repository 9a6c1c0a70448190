"""mappings() and stats(): complete, merged, and as cheap as the tables are few."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptcore import PageTable, PhysicalMemory, Span, Status
from ptcore.errors import OutOfRange
from ptcore.table import Flag, Right, RowKind

ALL_ONES = (1 << 64) - 1
K, M, G = 1 << 10, 1 << 20, 1 << 30
PAGE = 4096


def new(size: str = "4M", **options: Any) -> PageTable:
    return PageTable("x86_64_4level", PhysicalMemory(size), **options)


def kasan_like() -> PageTable:
    """A region of 2**32 pages that are all one page: one table of each level, aliased throughout."""
    ram = PhysicalMemory("64K")
    frames = ram.frames
    root, pdpt, pd, pt = (frames.allocate() for _ in range(4))
    zero_page = frames.allocate()
    ram.write(pt, np.full(512, zero_page | 1, dtype=np.uint64))
    ram.write(pd, np.full(512, pt | 7, dtype=np.uint64))
    ram.write(pdpt, np.full(512, pd | 7, dtype=np.uint64))
    ram.write(root + 8 * 256, np.full(32, pdpt | 7, dtype=np.uint64))  # 32 * 2**27 pages
    return PageTable("x86_64_4level", ram, root=root)


def mapped_by(rows: np.ndarray[Any, Any], va: int) -> int | None:
    """What `va` translates to according to a listing, by the contract of its rows."""
    for row in rows:
        if row["first"] <= va <= row["last"]:
            if row["kind"] == RowKind.LEAF:
                return int(row["pa"]) + va - int(row["first"])
            if row["kind"] == RowKind.REPEAT:
                offset = (va - int(row["first"])) % int(row["page_size"])
                return mapped_by(rows, int(row["repeat_of"]) + offset)
            return None
    return None


def test_an_empty_table_has_no_rows() -> None:
    assert len(new().mappings()) == 0


def test_neighbours_are_merged_but_never_across_page_sizes() -> None:
    table = new()
    table.map(2 * M - 8 * K, 2 * M - 8 * K, 2 * M + 16 * K)
    rows = table.mappings()
    assert rows["page_size"].tolist() == [4 * K, 2 * M, 4 * K]
    assert rows["first"].tolist() == [2 * M - 8 * K, 2 * M, 4 * M]
    assert rows["last"].tolist() == [2 * M - 1, 4 * M - 1, 4 * M + 8 * K - 1]
    assert rows["pa"].tolist() == rows["first"].tolist()
    assert rows["level"].tolist() == [0, 1, 0]
    assert set(rows["kind"].tolist()) == {RowKind.LEAF}
    assert set(rows["repeat_of"].tolist()) == {ALL_ONES}


@pytest.mark.parametrize(
    ("column", "value", "arguments"),
    [
        ("rights", Right.READ, {"access": "r"}),
        ("rights", Right.READ | Right.WRITE | Right.EXECUTE, {"access": "rwx"}),
        ("rights", Right.READ | Right.WRITE | Right.USER, {"user": True}),
        ("memory_type", 7, {"memory_type": 7}),
        ("pkey", 15, {"pkey": 15}),
        ("software", 1023, {"software": 1023}),
        ("flags", Flag.GLOBAL, {"global_": True}),
    ],
)
def test_a_difference_in_any_attribute_starts_a_row(
    column: str, value: int, arguments: dict[str, Any]
) -> None:
    table = new()
    table.map(0, 0, "4M", page_size="4K")
    table.protect(M, "64K", **arguments)
    rows = table.mappings()
    assert rows["first"].tolist() == [0, M, M + 64 * K]
    assert rows[column][1] == value
    assert rows[column][0] == rows[column][2] != value


def test_accessed_and_dirty_start_no_row() -> None:
    table = new()
    table.map(0, 0, "2M", page_size="4K")
    for va in (0, 0x3000, 0x1FF000):
        step = table.walk(va).path[-1]
        table.memory.write_word(step.entry_address, step.entry | 0x60)
    assert len(table.mappings()) == 1


def test_pages_that_lie_apart_on_either_side_are_rows_of_their_own() -> None:
    table = new()
    for va, pa in ((0, 0), (0x1000, 0x2000), (0x2000, 0x1000), (0x4000, 0x3000)):
        table.map(va, pa, "4K")
    assert table.mappings()["pa"].tolist() == [0, 0x2000, 0x1000, 0x3000]


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 9 * PAGE), st.integers(0, 9 * PAGE))
def test_a_listing_is_cut_to_the_addresses_asked_for(first: int, last: int) -> None:
    table = new()
    table.map(0x1000, 0x81000, "16K", page_size="4K")
    table.map(0x6000, 0x6000, "8K")
    if first > last:
        with pytest.raises(OutOfRange, match="comes after"):
            table.mappings(first, last)
        return
    whole = [(0x1000, 0x4FFF, 0x81000), (0x6000, 0x7FFF, 0x6000)]
    expected = [
        (max(first, a), min(last, b), pa + max(0, first - a))
        for a, b, pa in whole
        if a <= last and b >= first
    ]
    rows = table.mappings(first, last)
    assert [(int(r["first"]), int(r["last"]), int(r["pa"])) for r in rows] == expected


def test_the_ends_of_the_address_space_are_listed() -> None:
    table = new()
    table.map((1 << 64) - PAGE, 0x5000, "4K")
    table.map((1 << 47) - PAGE, 0x6000, "4K")
    table.map((1 << 64) - (1 << 47), 0x7000, "4K")
    rows = table.mappings()
    assert rows["last"].tolist() == [(1 << 47) - 1, (1 << 64) - (1 << 47) + PAGE - 1, ALL_ONES]
    assert len(table.mappings((1 << 64) - 1)) == 1
    assert len(table.mappings(1 << 47, (1 << 64) - (1 << 47) - 1)) == 0


# -- repeats -------------------------------------------------------------------------------------


def test_four_thousand_million_aliased_pages_are_a_few_rows() -> None:
    table = kasan_like()
    rows = table.mappings()
    kinds = Counter(rows["kind"].tolist())
    # One table's leaves, then the rest of the PD, of the PDPT, and of the root, as repeats.
    assert kinds == {RowKind.LEAF: 512, RowKind.REPEAT: 3}
    repeats = rows[rows["kind"] == RowKind.REPEAT]
    assert repeats["page_size"].tolist() == [2 * M, G, 512 * G]
    assert set(repeats["repeat_of"].tolist()) == {0xFFFF800000000000}
    assert int(rows["last"][-1]) - int(rows["first"][0]) + 1 == 32 * 512 * G
    assert table.stats().mapped_bytes == 32 * 512 * G
    assert table.stats().tables == (1, 1, 1, 1)
    assert table.stats().shared_tables == 511 + 511 + 31


def test_every_address_of_a_listing_with_repeats_maps_what_a_walk_finds() -> None:
    table = kasan_like()
    table.map(0x5000, 0x123000, "8K")
    rows = table.mappings()
    start = 0xFFFF800000000000
    for va in (
        start,
        start + 5 * M + 7,
        start + 700 * G,
        start + 16383 * G + 0x3123,
        0x5FFF,
        0x7000,
    ):
        assert mapped_by(rows, va) == table.walk(va).pa


def test_subtrees_under_other_rights_are_no_repeats() -> None:
    table = new()
    table.map(0, 0x200000, "2M", page_size="4K")
    step = table.walk(0).path[2]
    table.memory.write_word(step.entry_address + 8, step.entry & ~2)  # the same table, read-only
    table.memory.write_word(step.entry_address + 16, step.entry & ~2)
    rows = table.mappings()
    assert rows["kind"].tolist() == [RowKind.LEAF, RowKind.LEAF, RowKind.REPEAT]
    assert rows["rights"][0] & Right.WRITE
    assert not rows["rights"][1] & Right.WRITE
    assert rows["repeat_of"].tolist()[2] == 2 * M


def test_repeats_can_be_listed_in_full() -> None:
    table = new()
    table.map(0, 0x200000, "2M", page_size="4K")
    step = table.walk(0).path[2]
    table.memory.write_word(step.entry_address + 8, step.entry)
    assert table.mappings()["kind"].tolist() == [RowKind.LEAF, RowKind.REPEAT]
    full = table.mappings(repeats=False)
    assert full["first"].tolist() == [0, 2 * M]
    assert full["pa"].tolist() == [0x200000, 0x200000]


def test_tables_that_hold_nothing_are_no_repeats() -> None:
    table = new()
    table.map(0, 0, "4K")
    step = table.walk(0).path[2]
    table.unmap(0, "4K", free_tables=False)
    for n in range(1, 512):
        table.memory.write_word(step.entry_address + 8 * n, step.entry)
    assert len(table.mappings()) == 0
    assert table.stats().shared_tables == 511


def test_a_table_that_maps_itself_ends_and_is_reported() -> None:
    table = new()
    table.map(0x1000, 0x5000, "4K")
    at = table.root + 8 * 510
    table.memory.write_word(at, table.root | 3 | 1 << 63)
    stats = table.stats()
    assert stats.self_maps == (at,)
    rows = table.mappings()
    window = 0xFFFF000000000000 + (510 << 39) - (510 << 39) | (510 << 39)
    for va in (0x1000, window, window | 510 << 30, window | 510 << 30 | 510 << 21 | 510 << 12):
        assert mapped_by(rows, va) == table.walk(va).pa
    tables = table.walk(0x1000).path
    # The window shows every table as a page: x86's recursive mapping.
    shown = set(rows["pa"][rows["first"] >= window].tolist())
    assert {step.table for step in tables} <= shown


def test_a_page_of_nothing_but_itself_is_listed_at_once() -> None:
    ram = PhysicalMemory("64K")
    root = ram.frames.allocate()
    ram.write(root, np.full(512, root | 7, dtype=np.uint64))
    table = PageTable("x86_64_4level", ram, root=root)
    rows = table.mappings()
    assert len(rows) < 2000
    assert int((rows["last"] - rows["first"] + np.uint64(1)).sum()) == 1 << 48
    assert table.stats().mapped_bytes == 1 << 48
    assert table.stats().self_maps


# -- what cannot be read -------------------------------------------------------------------------


def test_reserved_items_and_tables_outside_the_memory_have_rows() -> None:
    table = new(physical_bits=46)
    table.map(0, 0, "4K")
    pd, pt = table.walk(0).path[2].table, table.walk(0).path[3].table
    table.memory.write_word(pt + 8 * 3, 1 << 51 | 1)
    table.memory.write_word(pd + 8 * 2, 1 << 45 | 7)
    table.memory.write_word(pd + 8 * 3, 1 << 45 | 7)
    table.memory.write_word(pd + 8 * 5, 1 << 51 | 1 << 7 | 1)
    rows = table.mappings()
    seen = [
        (RowKind(r["kind"]).name, int(r["first"]), int(r["last"]), int(r["level"])) for r in rows
    ]
    assert seen == [
        ("LEAF", 0, 0xFFF, 0),
        ("RESERVED", 0x3000, 0x3FFF, 0),
        ("OUTSIDE", 4 * M, 6 * M - 1, 0),
        ("REPEAT", 6 * M, 8 * M - 1, 0),
        ("RESERVED", 10 * M, 12 * M - 1, 1),
    ]
    assert rows["pa"].tolist()[2] == 1 << 45
    stats = table.stats()
    assert stats.reserved == (1, 1, 0, 0)
    assert stats.outside == (512, 0, 0, 0)
    full = table.mappings(repeats=False)["kind"].tolist()
    assert full == [RowKind.LEAF, RowKind.RESERVED, RowKind.OUTSIDE, RowKind.RESERVED]


@pytest.mark.parametrize("seed", range(12))
def test_every_address_is_in_a_row_or_not_present(seed: int) -> None:
    """Plausible tables with reserved items, aliases, loops and pointers that lead nowhere."""
    random = np.random.default_rng(seed)
    frames = 12
    words = np.zeros((frames, 512), dtype=np.uint64)
    for frame in range(frames):
        for index in random.choice(512, 14, replace=False):
            choice = random.random()
            target = int(random.integers(0, frames)) << 12
            if choice < 0.7:
                item = target | 7
            elif choice < 0.8:
                item = int(random.integers(0, 1 << 20)) << 30 | 0x83
            elif choice < 0.9:
                item = int(random.integers(0, 1 << 12)) << 12 | 1
            else:
                item = int(random.integers(0, 1 << 64, dtype=np.uint64))
            words[frame, index] = item
    ram = PhysicalMemory.from_buffer(words)
    table = PageTable("x86_64_4level", ram, root=0, physical_bits=46)
    rows = table.mappings()
    assert np.all(rows["first"][1:] > rows["last"][:-1])
    used = [np.flatnonzero(words[frame]) for frame in range(frames)]
    seen: Counter[str] = Counter()
    for _ in range(600):
        va = 0
        for shift in (39, 30, 21, 12):
            picks = used[int(random.integers(0, frames))] if random.random() < 0.8 else [3]
            va |= int(random.choice(picks)) << shift
        if random.random() < 0.6:  # along the items that are there
            va, at = 0, 0
            for shift in (39, 30, 21, 12):
                index = int(random.choice(used[at]))
                va |= index << shift
                following = int(words[at, index]) >> 12 & 0xFFFFFFFFFF
                if following >= frames:
                    break
                at = following
        va |= int(random.integers(0, PAGE))
        va |= 0xFFFF << 48 if va >> 47 & 1 else 0
        walk = table.walk(va)
        row = next((r for r in rows if r["first"] <= va <= r["last"]), None)
        seen[walk.status.name] += 1
        if walk.status is Status.NOT_PRESENT:
            assert row is None or row["kind"] == RowKind.REPEAT
            continue
        assert row is not None, (hex(va), walk)
        assert mapped_by(rows, va) == walk.pa
        if row["kind"] != RowKind.REPEAT:
            kinds = {Status.OK: RowKind.LEAF, Status.RESERVED_BITS: RowKind.RESERVED}
            assert row["kind"] == kinds.get(walk.status, RowKind.OUTSIDE)
    assert min(seen[name] for name in ("OK", "NOT_PRESENT", "RESERVED_BITS")) > 10, seen


def test_stats_count_every_item_of_every_table() -> None:
    table = new()
    table.map(0, 0, "2M", page_size="4K")
    table.map(4 * M, 4 * M, "2M")
    table.map(G, G, "1G")
    stats = table.stats()
    assert stats.tables == (1, 1, 1, 1)
    assert stats.leaves == (512, 1, 1, 0)
    assert stats.empty == (0, 510, 510, 511)
    assert stats.table_bytes == 4 * PAGE
    assert stats.mapped_bytes == G + 4 * M
    assert stats.shared_tables == 0


def test_listing_does_not_change_a_byte() -> None:
    table = kasan_like()
    span = Span(0, table.memory.size - 1)
    before = table.memory.read(span.start, span.size)
    table.mappings()
    table.stats()
    table.harvest("dirty", clear=False)
    assert table.memory.read(span.start, span.size) == before
