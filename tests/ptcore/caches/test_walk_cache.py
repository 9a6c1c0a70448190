"""WalkCache against a naive one: which references it saves, and that it never knows a stale table."""

from __future__ import annotations

import random
from collections import Counter

import pytest

import ptcore
from oracles import lru
from ptcore.caches import Mmu, Tlb, TlbArray, TlbLevel, WalkCache
from ptcore.errors import FormatError

SHIFT = {1: 21, 2: 30, 3: 39, 4: 48}
BASE = 0x0000_1000_0000_0000
ONE_ENTRY = (TlbLevel("L1", (TlbArray(1, 1),)),)


def made(levels: int = 4, rooms: dict[int, int] | None = None):
    memory = ptcore.PhysicalMemory("8M")
    table = ptcore.PageTable(f"x86_64_{levels}level", memory)
    cache = WalkCache(rooms if rooms is not None else {3: 2, 2: 4, 1: 6})
    return table, Mmu(table, Tlb(ONE_ENTRY), cache), cache


def items_of(table: ptcore.PageTable, va: int) -> list[tuple[int, bool, int]]:
    path = table.walk(va).path
    below = [step.table for step in path[1:]] + [None]
    return [(step.level, at is not None, at or 0) for step, at in zip(path, below, strict=True)]


@pytest.mark.parametrize("levels", [4, 5])
@pytest.mark.parametrize("rooms", [{}, {1: 1}, {3: 2, 2: 4, 1: 6}, {2: 3}, {3: 1, 1: 4}], ids=str)
def test_the_references_saved_are_those_of_a_naive_cache(levels: int, rooms) -> None:
    chance = random.Random(5)
    table, mmu, cache = made(levels, rooms)
    naive = lru.WalkCache(rooms, SHIFT)
    pages = [
        BASE + (a << 39) + (b << 30) + (c << 21) + (d << 12)
        for a in range(3)
        for b in range(2)
        for c in range(3)
        for d in range(2)
    ]
    for n, va in enumerate(pages):
        if n % 7 == 0 and not va & 0x1FF000:
            table.map(va, 1 << 30, "2M")
        elif n % 5 and table.walk(va).pa is None:
            table.map(va, 0x1000, "4K")
    mmu.invalidate_all()
    seen: Counter[str] = Counter()
    for _ in range(2000):
        va = chance.choice(pages)
        if chance.random() < 0.02:
            mmu.invalidate(va, va + 0xFFF)
            naive.invalidate(va, va + 0xFFF)
        mmu.tlb.invalidate_all()  # every access walks
        before = mmu.counts.references
        items = items_of(table, va)
        outcome = mmu.access(va)
        expected = naive.references(va, items)
        assert mmu.counts.references - before == expected
        assert outcome.status == table.walk(va).status
        assert [(int(r["level"]), int(r["va"]), int(r["table"])) for r in cache.entries()] == [
            (level, key << SHIFT[level], table_at)
            for level, found in sorted(naive.found.items())
            for key, table_at in reversed(found.items())
        ]
        seen[f"saved {len(items) - expected}"] += 1
        seen[outcome.status.name] += 1
    assert seen["OK"] > 500
    assert seen["NOT_PRESENT"] > 100
    assert (seen["saved 0"] == 2000) == (not rooms)
    if 1 in rooms:
        assert seen[f"saved {levels - 1}"] > 50


def test_a_table_that_was_replaced_is_not_walked_after_the_invalidation_owed() -> None:
    table, mmu, cache = made()
    table.map(BASE, 0x1000, "4K")
    assert mmu.access(BASE).pa == 0x1000
    owed = table.unmap(BASE, "4K")
    for span in owed.spans:
        mmu.invalidate(span.start, span.last)
    assert len(cache) == 0
    owed.discharge()
    table.map(BASE, 0x20_0000, "2M")
    table.map(BASE + (1 << 30), 0x5000, "4K")  # may take the frames that were freed
    assert mmu.access(BASE + 0x1234).pa == 0x20_1234


def test_a_walk_that_starts_below_still_holds_what_the_tables_above_withhold() -> None:
    table, mmu, _ = made()
    table.map(BASE, 0x1000, "8K", access="rw", page_size="4K")
    step = table.walk(BASE).path[1]
    table.memory.write_word(step.entry_address, step.entry & ~2)  # R/W of the PDPTE
    assert mmu.access(BASE).pa == 0x1000
    before = mmu.counts.references
    assert mmu.access(BASE + 0x1000, "w").status == ptcore.Status.PERMISSION
    assert mmu.counts.references - before == 1


def test_one_cache_serves_one_table() -> None:
    table, _, cache = made()
    Mmu(table, Tlb(ONE_ENTRY), cache)  # another CPU's TLB over the same table
    other = ptcore.PageTable("x86_64_4level", table.memory)
    with pytest.raises(FormatError, match="another table"):
        Mmu(other, Tlb(ONE_ENTRY), cache)
    tagged = Mmu(other, Tlb(ONE_ENTRY), cache, 7)
    assert (tagged.asid, tagged.table) == (7, other)
    cache.invalidate_all(asid=0)
    assert Mmu(other, Tlb(ONE_ENTRY), cache).table is other
    with pytest.raises(FormatError, match="another table"):
        Mmu(table, Tlb(ONE_ENTRY), cache, 7)


def test_a_level_that_the_format_lacks_is_refused() -> None:
    table, _, _ = made()
    with pytest.raises(FormatError, match="no level 4"):
        Mmu(table, Tlb(ONE_ENTRY), WalkCache({4: 2}))


def test_what_is_larger_than_the_addresses_stays_if_asked_for_and_nothing_else() -> None:
    chance = random.Random(11)
    vas = [n << 21 for n in (0, 1, 2, 511, 512, 513, 1 << 18, (1 << 18) + 1)]
    edges = sorted(
        {
            max(at + by, 0)
            for va in vas
            for at in (va, va + (1 << 21), va + (1 << 30))
            for by in (-1, 0)
        }
    )
    seen: Counter[str] = Counter()
    for _ in range(400):
        table, mmu, cache = made(rooms={1: 16, 2: 8, 3: 4})
        for va in vas:
            table.map(va, 0, "4K")
            mmu.access(va)
        first, last = sorted(chance.choice(edges) for _ in range(2))
        if chance.random() < 0.1:
            last = (1 << 64) - 1
        before = [(int(r["level"]), int(r["va"])) for r in cache.entries()]
        within = [(n, va) for n, va in before if first <= va and va + (1 << SHIFT[n]) - 1 <= last]
        touched = [(n, va) for n, va in before if va <= last and va + (1 << SHIFT[n]) - 1 >= first]
        assert cache.invalidate(first, last, larger_stay=True) == len(within)
        left = [(int(r["level"]), int(r["va"])) for r in cache.entries()]
        assert left == [item for item in before if item not in within]
        assert cache.invalidate(first, last) == len(touched) - len(within)
        for n in SHIFT:
            seen[f"level {n} went"] += any(level == n for level, _ in within)
            seen[f"level {n} stayed"] += any(level == n for level, _ in set(touched) - set(within))
        seen["nothing went"] += not within
    assert all(seen[f"level {n} {end}"] > 20 for n in (1, 2, 3) for end in ("went", "stayed")), seen
    assert seen["nothing went"] > 20
