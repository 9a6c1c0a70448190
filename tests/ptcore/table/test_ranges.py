"""Ranges, usage and the way back from physical addresses, against page-by-page counts."""

from __future__ import annotations

import itertools
import random
import time
from collections import Counter, defaultdict

import numpy as np
import pytest

from ptcore import PageTable, PhysicalMemory, Span, reverse_many
from ptcore.table import Right, RowKind
from ptcore.table.ranges import merged, usage

ALL_ONES = (1 << 64) - 1
PAGE = 4096
M = 1 << 20
UPPER = 0xFFFF_8000_0000_0000
SPACE = 24 * M


def random_table(seed: int) -> PageTable:
    rng = random.Random(seed)
    table = PageTable("x86_64_4level", PhysicalMemory("4M"))
    at = {0: 0, UPPER: UPPER}
    for _ in range(120):
        start = rng.choice([0, UPPER])
        at[start] += rng.choice([0, 0, 0, 0, 1, 5]) * PAGE
        if rng.random() < 0.05:
            at[start] = -(-at[start] // (2 * M)) * 2 * M
        size = rng.choice([PAGE, 2 * PAGE, 7 * PAGE, 7 * PAGE, 2 * M])
        pa = at[start] % (SPACE) if rng.random() < 0.5 else rng.randrange(1 << 12) * PAGE
        access = rng.choice(["rw", "rw", "rw", "rx"])
        user, kind = rng.random() < 0.1, rng.choice([None] * 9 + [1])
        if pa % PAGE == 0 and at[start] + size < start + SPACE:
            table.map(at[start], pa, size, access, user=user, memory_type=kind)
            at[start] += size
    return table


def by_page(table: PageTable) -> dict[int, tuple[int, int, int, int]]:
    """(pa, page size, rights, memory type) of every 4K page, by walking to each."""
    found = {}
    for start in (0, UPPER):
        for va in range(start, start + SPACE, PAGE):
            walk = table.walk(va)
            if walk.pa is not None:
                rights = sum(1 << n for n, c in enumerate("rwxu") if c in (walk.rights or ""))
                found[va] = (walk.pa, walk.page_size or 0, rights, walk.memory_type or 0)
    return found


@pytest.mark.parametrize("seed", range(3))
def test_merged_ranges_say_of_every_page_what_a_walk_says(seed: int) -> None:
    table = random_table(seed)
    pages = by_page(table)
    rows = table.mappings()
    for over in ("sizes", "addresses"):
        ranges = merged(rows, over)  # type: ignore[arg-type]
        seen = 0
        for row in ranges:
            first, last = int(row["first"]), int(row["last"])
            sizes, in_line = set(), True
            for va in range(first, last + 1, PAGE):
                pa, size, rights, kind = pages[va]
                sizes.add(size)
                in_line &= pa == pages[first][0] + va - first
                assert (rights, kind) == (row["rights"], row["memory_type"])
                seen += 1
            assert sum(sizes) == row["page_sizes"]
            assert row["pa"] == (pages[first][0] if in_line else ALL_ONES)
            assert in_line or over == "addresses"
        assert seen == len(pages) > 1000
        # Nothing more could be joined.
        for a, b in itertools.pairwise(ranges):
            alike = all(a[name] == b[name] for name in ("rights", "memory_type"))
            joins = int(a["last"]) + 1 == int(b["first"]) and alike
            follows = int(a["pa"]) + int(b["first"]) - int(a["first"]) == int(b["pa"])
            assert not (joins and (over == "addresses" or follows))
        assert ranges["rows"].sum() == len(rows)
    assert len(merged(rows, "addresses")) < len(merged(rows)) <= len(rows)


@pytest.mark.parametrize("seed", range(3))
def test_usage_counts_pages_holes_and_aliases(seed: int) -> None:
    table = random_table(seed)
    pages = by_page(table)
    found = usage(table.mappings(), table.legal_spans())
    sizes = Counter(size for _, size, _, _ in pages.values())
    assert found.by_page_size == {size: n * PAGE for size, n in sorted(sizes.items())}
    frames = Counter(pa for pa, *_ in pages.values())
    assert found.physical_bytes == len(frames) * PAGE
    assert found.aliased_bytes == sum(n > 1 for n in frames.values()) * PAGE > 0
    gaps = []
    for start in (0, UPPER):
        mapped = sorted(va for va in pages if (va >= UPPER) == (start == UPPER))
        gaps += [b - a - PAGE for a, b in itertools.pairwise(mapped) if b - a > PAGE]
    assert (found.holes, found.hole_bytes) == (len(gaps), sum(gaps))
    assert found.largest_hole == max(gaps)
    assert found.share_of_pages_above(PAGE) == sizes[2 * M] / len(pages)
    empty = usage(table.mappings()[:0], (Span(0, ALL_ONES),))
    assert (empty.mapped_bytes, empty.holes, empty.share_of_pages_above(1)) == (0, 0, 0.0)


@pytest.mark.parametrize("seed", range(3))
def test_reverse_many_finds_every_address_of_every_frame(seed: int) -> None:
    table = random_table(seed)
    where = defaultdict(list)
    for va, (pa, size, rights, _) in by_page(table).items():
        where[pa].append((va, size, rights))
    rng = random.Random(seed)
    wanted = [pa + rng.randrange(PAGE) for pa in rng.sample(sorted(where), 200)] + [1 << 40]
    found = reverse_many(table.mappings(), wanted)
    assert set(found["kind"].tolist()) == {RowKind.LEAF}
    for pa in wanted:
        rows = found[found["pa"] == pa]
        offset = pa % PAGE
        assert [(r["first"] - offset, r["page_size"], r["rights"]) for r in rows] == sorted(
            where[pa - offset]
        )
        assert rows["first"].tolist() == table.reverse(pa).tolist()
    assert len(found) > 200


def test_reverse_many_reports_repeats_as_ranges_and_leaves_nothing_out() -> None:
    """A region of 2**32 pages that are all one page."""
    ram = PhysicalMemory("64K")
    root, pdpt, pd, pt = (ram.frames.allocate() for _ in range(4))
    zero_page = ram.frames.allocate()
    ram.write(pt, np.full(512, zero_page | 1, dtype=np.uint64))
    ram.write(pd, np.full(512, pt | 7, dtype=np.uint64))
    ram.write(pdpt, np.full(512, pd | 7, dtype=np.uint64))
    ram.write(root + 8 * 256, np.full(32, pdpt | 7, dtype=np.uint64))
    table = PageTable("x86_64_4level", ram, root=root)
    start = time.perf_counter()
    found = reverse_many(table.mappings(), [zero_page + 5, zero_page + PAGE])
    assert time.perf_counter() - start < 1
    assert set(found["pa"].tolist()) == {zero_page + 5}
    leaves = found[found["kind"] == RowKind.LEAF]
    assert leaves["first"].tolist() == [UPPER + n * PAGE + 5 for n in range(512)]

    def holds(va: int) -> bool:
        """Whether the rows say that `va` leads to the page, by the contract of FOUND_DTYPE."""
        for row in found[found["kind"] == RowKind.REPEAT]:
            if int(row["first"]) <= va <= int(row["last"]):
                return holds(
                    int(row["repeat_of"]) + (va - int(row["first"])) % int(row["page_size"])
                )
        return va in leaves["first"]

    rng = random.Random(1)
    said = Counter[bool]()
    for _ in range(300):
        va = UPPER + rng.randrange(0, 40 << 27) * PAGE + rng.choice([5, 6])
        try:
            expected = table.translate(va) == zero_page + 5
        except LookupError:
            expected = False
        assert holds(va) == expected
        said[expected] += 1
    assert min(said[True], said[False]) > 50


def test_a_large_row_among_many_small_ones_costs_what_is_found() -> None:
    rows = np.zeros(200_001, dtype=PageTable("sv39", PhysicalMemory("1M")).mappings().dtype)
    rows["kind"], rows["rights"] = RowKind.LEAF, Right.READ
    rows["first"][1:] = np.arange(200_000) * 2 * PAGE
    rows["last"][1:] = rows["first"][1:] + np.uint64(PAGE - 1)
    rows["pa"][1:] = rows["first"][1:]
    rows["first"][0], rows["last"][0] = 1 << 40, (1 << 40) + (1 << 35) - 1
    wanted = np.arange(100_000, dtype=np.uint64) * np.uint64(4 * PAGE)
    start = time.perf_counter()
    found = reverse_many(rows, wanted)
    assert time.perf_counter() - start < 5
    assert len(found) == 200_000
