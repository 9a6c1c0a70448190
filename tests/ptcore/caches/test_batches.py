"""A batch is its accesses one by one: on every geometry and table that has a loop of its own, and on others.

The same accesses are made on a twin, through the scalar verbs, which share no loop with the batches.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest

import ptcore
from oracles import lru
from ptcore.caches import FAULT, WALK, Mmu, Tlb, TlbArray, TlbLevel, WalkCache
from ptcore.caches.tlb import MISS
from ptcore.table.nested import guest_memory

BASE = 0x7F00_0000_0000
KIB4, MIB2, GIB1 = 1 << 12, 1 << 21, 1 << 30
ALL_RIGHTS = 63

# Upper and lower ways that have loops of their own, indexes that fold, ways beyond one word and one vector,
# sides, sizes that share an array, and what no plan serves.
GEOMETRIES: dict[str, list[list[TlbArray]]] = {
    "4_over_12": [[TlbArray(16, 4)], [TlbArray(96, 12)]],
    "4_over_8": [[TlbArray(8, 4)], [TlbArray(64, 8)]],
    "4_over_12_folded": [[TlbArray(16, 4)], [TlbArray(96, 12, index_xor=3)]],
    "3_over_5": [[TlbArray(6, 3)], [TlbArray(40, 5)]],
    "16_over_17": [[TlbArray(16, 16)], [TlbArray(68, 17)]],
    "24_over_40": [[TlbArray(24, 24)], [TlbArray(80, 40)]],
    "one_level": [[TlbArray(32, 4)]],
    "three_levels": [[TlbArray(8, 4)], [TlbArray(32, 4)], [TlbArray(96, 12)]],
    "sets_of_no_power": [[TlbArray(12, 4)], [TlbArray(84, 12)]],
    "shared_sizes": [[TlbArray(16, 4, ("4K", "2M"))], [TlbArray(96, 12, ("4K", "2M"))]],
    "split_sizes": [[TlbArray(16, 4), TlbArray(8, 4, ("2M",))], [TlbArray(96, 12, ("4K", "2M"))]],
    "sides": [
        [TlbArray(16, 4, sides=("load", "store")), TlbArray(8, 2, sides=("fetch",))],
        [TlbArray(96, 12)],
    ],
    "plru": [[TlbArray(16, 4, policy="plru")], [TlbArray(64, 8, policy="srrip")]],
}
PLAIN = [name for name in GEOMETRIES if name not in ("4_over_12_folded", "sides", "plru")]
LG2 = {"4K": 12, "2M": 21}


def made(name: str) -> Tlb:
    return Tlb([TlbLevel(f"L{n}", tuple(a)) for n, a in enumerate(GEOMETRIES[name])])


def naive(name: str) -> lru.Tlb:
    return lru.Tlb(
        [
            [
                lru.Array(a.entries // a.ways, a.ways, (LG2[str(s)] for s in a.page_sizes))
                for a in arrays
            ]
            for arrays in GEOMETRIES[name]
        ]
    )


def addresses(rng: random.Random, count: int) -> list[int]:
    """Pages that come again soon, later or never; runs within a page; pages 2**44 bytes apart."""
    found: list[int] = []
    while len(found) < count:
        page = min(rng.randrange(200), rng.randrange(200)) * KIB4 + rng.choice((0, 0, 0, 1 << 44))
        found += [BASE + page + rng.randrange(KIB4) for _ in range(rng.choice((1, 1, 1, 5)))]
    return found[:count]


class Twins:
    """One Tlb is asked in batches, the other by lookup and insert."""

    def __init__(self, name: str, seed: int) -> None:
        self.whole, self.single = made(name), made(name)
        self.rng = random.Random(seed)
        self.seen: Counter[str] = Counter()

    def one(self, va: int, kind: str, asid: int) -> int:
        hit = self.single.lookup(va, asid, kind)
        if hit is not None:
            return hit.level
        page = va - va % KIB4
        self.single.insert(page, page, "4K", asid, rights=ALL_RIGHTS, kind=kind)
        return MISS

    def batch(self) -> None:
        asid = self.rng.choice((0, 0, 0, 7))
        vas = addresses(self.rng, self.rng.randrange(1, 400))
        kinds = self.rng.choice(("r", "r", "w", "x", None, "mixed"))
        each = [self.rng.choice("rwx") if kinds == "mixed" else kinds or "r" for _ in vas]
        got = self.whole.access_many(vas, each if kinds == "mixed" else kinds, asid)
        assert got.tolist() == [self.one(va, k, asid) for va, k in zip(vas, each, strict=True)]
        self.seen.update(f"level {code}" if code != MISS else "missed" for code in got.tolist())

    def insert(self) -> None:
        """An entry that no access makes: another address, fewer rights, for all tags, or a larger page."""
        sizes = [s for a in self.whole.levels[0].arrays for s in a.page_sizes]
        size = self.rng.choice([*["4K"] * 8, *[str(s) for s in sizes]])
        page = (BASE + self.rng.randrange(200) * KIB4) >> LG2[size] << LG2[size]
        pa, everyone = self.rng.randrange(1 << 10) << 21, self.rng.random() < 0.3
        for tlb in (self.whole, self.single):
            tlb.insert(page, pa, size, 0 if everyone else 7, everyone, 5)
        self.seen["inserted"] += 1

    def invalidate(self) -> None:
        first = BASE + self.rng.randrange(200) * KIB4
        last = first + self.rng.choice((0, 20 * KIB4, 80 * KIB4))
        asid = self.rng.choice((None, 0, 7))
        dropped = [tlb.invalidate(first, last, asid) for tlb in (self.whole, self.single)]
        assert dropped[0] == dropped[1]
        self.seen["dropped"] += dropped[0]

    def invalidate_all(self) -> None:
        asid = self.rng.choice((None, None, 7))
        dropped = [tlb.invalidate_all(asid) for tlb in (self.whole, self.single)]
        assert dropped[0] == dropped[1]

    def run(self, steps: int, verbs: list[Callable[[], None]]) -> Counter[str]:
        for _ in range(steps):
            self.rng.choices(verbs, (10, 4, 4, 1)[: len(verbs)])[0]()
            assert self.whole.entries().tolist() == self.single.entries().tolist()
        return self.seen


@pytest.mark.parametrize("name", GEOMETRIES)
def test_a_batch_in_a_tlb_leaves_what_its_accesses_leave_one_by_one(name: str) -> None:
    seen: Counter[str] = Counter()
    for seed in range(6):
        twins = Twins(name, seed)
        verbs = [twins.batch, twins.invalidate, twins.insert, twins.invalidate_all]
        seen += twins.run(40, verbs)
    wanted = ["missed", "inserted", "dropped"]
    wanted += [f"level {n}" for n in range(len(GEOMETRIES[name]))]
    assert min(seen[what] for what in wanted) >= 20, seen


@pytest.mark.parametrize("name", GEOMETRIES)
def test_batches_alone_leave_what_their_accesses_leave(name: str) -> None:
    """Without entries of other origin the loops for two arrays of one size are never left."""
    twins = Twins(name, 99)
    seen = twins.run(40, [twins.batch, twins.invalidate])
    assert min(seen[what] for what in ("missed", "level 0", "dropped")) >= 20, seen


@pytest.mark.parametrize("name", PLAIN)
def test_the_outcomes_of_a_batch_are_those_of_a_naive_lru(name: str) -> None:
    rng, real, model = random.Random(5), made(name), naive(name)
    seen: Counter[int] = Counter()
    for _ in range(10):
        vas = addresses(rng, 300)
        expected = []
        for va in vas:
            hit = model.lookup(va, 0)
            expected.append(MISS if hit is None else hit[0])
            if hit is None:
                model.insert(12, va >> 12, 0, (va - va % KIB4, ALL_RIGHTS))
        assert real.access_many(vas).tolist() == expected
        seen.update(expected)
    assert seen[0] > 100
    assert seen[MISS] > 100


# -- over real tables ---------------------------------------------------------------------------------------

TWO = (
    TlbLevel("L1", (TlbArray(16, 4), TlbArray(8, 4, ("2M",)), TlbArray(2, 2, ("1G",)))),
    TlbLevel("L2", (TlbArray(96, 12, ("4K", "2M")), TlbArray(8, 4, ("1G",)))),
)
FORMATS = (
    "x86_64_4level",
    "x86_64_5level",
    "sv39",
    "sv48",
    "aarch64_4k_48",
    "x86_pae",
    "amd_iommu_v1",
)


@dataclass
class System:
    """A CPU, the tables that it asks (the first of them the one to edit), and where pages are mapped."""

    mmu: Mmu
    tables: list[ptcore.PageTable]
    starts: list[int]


def fill(table: ptcore.PageTable, start: int) -> None:
    """Small pages with holes between, spread over many tables, some read-only; and two large ones."""
    for n in range(24):
        table.map(start + n * MIB2, n * MIB2, 12 * KIB4, "rw", page_size="4K")
        table.map(start + n * MIB2 + 16 * KIB4, n * MIB2, 4 * KIB4, "r", page_size="4K")
    table.map(start + 40 * MIB2, 8 * MIB2, 2 * MIB2, "rw", page_size="2M")


def one_stage(name: str) -> System:
    table = ptcore.PageTable(name, ptcore.PhysicalMemory("4M"))
    start = GIB1 - 12 * MIB2  # on both sides of a gigabyte
    fill(table, start)
    return System(Mmu(table, Tlb(TWO), WalkCache({1: 4, 2: 2}), 3), [table], [start])


def two_halves() -> System:
    memory = ptcore.PhysicalMemory("8M")
    low = ptcore.PageTable("aarch64_4k_48", memory)
    high = ptcore.PageTable(ptcore.formats.get("aarch64_4k_48", upper=True), memory)
    starts = [GIB1 - 12 * MIB2, high.legal_spans()[0].start]
    for table, start in zip((low, high), starts, strict=True):
        fill(table, start)
    mmu = Mmu(ptcore.AddressSpace((low, high)), Tlb(TWO), WalkCache({1: 4, 2: 2}))
    return System(mmu, [low, high], starts)


def with_costs() -> System:
    """Walkers that are busy, and items through a cache of lines."""
    table = ptcore.PageTable("x86_64_4level", ptcore.PhysicalMemory("4M"))
    fill(table, 0)
    lines = Tlb((TlbLevel("L1", (TlbArray(16, 4, ("64",)),), cycles=4),))
    mmu = Mmu(
        table,
        Tlb(TWO),
        WalkCache({1: 4}),
        line_cache=lines,
        memory_cycles=90,
        walkers=2,
        issue_cycles=3,
    )
    return System(mmu, [table], [0])


def nested() -> System:
    memory = ptcore.PhysicalMemory("64M")
    host = ptcore.PageTable("ept_4level", memory)
    host.map(0, 32 << 20, 16 << 20, access="rwx", page_size="4K")
    guest = ptcore.PageTable("x86_64_4level", guest_memory(host, frames=(8 << 20, "8M")))
    fill(guest, 0)
    mmu = Mmu(ptcore.Nested(guest, host), Tlb(TWO), WalkCache({1: 4, 2: 2}))
    return System(mmu, [guest, host], [0])


SYSTEMS: dict[str, Callable[[], System]] = {
    **{name: partial(one_stage, name) for name in FORMATS},
    "two_halves": two_halves,
    "with_costs": with_costs,
    "nested": nested,
}


def asked_of(system: System, rng: random.Random) -> list[int]:
    """Stretches of pages at random, so that most accesses walk, and of the same page again and again."""
    vas: list[int] = []
    for _ in range(rng.randrange(1, 8)):
        start = rng.choice(system.starts)
        pages = [rng.randrange(24) * MIB2 + rng.randrange(18) * KIB4 for _ in range(40)]
        pages += [40 * MIB2 + rng.randrange(MIB2) for _ in range(3)]
        if rng.random() < 0.4:
            pages = [page for page in pages[:8] for _ in range(rng.randrange(1, 12))]
        rng.shuffle(pages)
        vas += [start + page + rng.randrange(KIB4) for page in pages]
    return vas


def edit(twins: list[System], rng: random.Random) -> None:
    """The same change of the first table of both, and perhaps the invalidations that it owes."""
    va = twins[0].starts[0] + rng.randrange(24) * MIB2 + rng.randrange(12) * KIB4
    pay = rng.random() < 0.7
    for system in twins:
        table = system.tables[0]
        if table.walk(va).pa is None:
            table.map(va, 3 * MIB2, KIB4, "rw", page_size="4K").discharge()
            continue
        owed = table.unmap(va, KIB4)
        if pay:
            system.mmu.invalidate(va, va + KIB4 - 1)
        owed.discharge()


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_batch_of_walks_is_its_accesses_one_by_one(name: str) -> None:
    """Outcomes, every count, what the caches hold, and the tables' own bytes with the marks in them."""
    seen: Counter[str] = Counter()
    for seed in range(4):
        rng, twins = random.Random(seed), [SYSTEMS[name](), SYSTEMS[name]()]
        for _ in range(12):
            vas, user = asked_of(twins[0], rng), rng.random() < 0.2
            kinds = rng.choice(("r", "r", "w", None, "mixed"))
            each = [rng.choice("rrwx") if kinds == "mixed" else kinds or "r" for _ in vas]
            whole = (
                twins[0]
                .mmu.access_many(
                    np.array(vas, dtype=np.uint64), each if kinds == "mixed" else kinds, user
                )
                .tolist()
            )
            single = [
                twins[1].mmu.access(va, k, user).code for va, k in zip(vas, each, strict=True)
            ]
            assert whole == single
            assert twins[0].mmu.counts == twins[1].mmu.counts
            seen.update({WALK: "walks", FAULT: "faults"}.get(code, "hits") for code in whole)
            edit(twins, rng)
        for hold in ("tlb", "walk_cache", "line_cache"):
            held = [getattr(system.mmu, hold) for system in twins]
            if held[0] is not None:
                assert held[0].entries().tolist() == held[1].entries().tolist()
        for ours, theirs in zip(*(system.tables for system in twins), strict=True):
            assert ours.mappings().tolist() == theirs.mappings().tolist()
            for mark in ("accessed", "dirty"):
                found = [t.harvest(mark, clear=False)[0].tolist() for t in (ours, theirs)]
                assert found[0] == found[1]
    assert min(seen[what] for what in ("walks", "faults", "hits")) > 200, seen
