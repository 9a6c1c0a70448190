"""The Tlb against a naive one made of OrderedDicts: every answer, and every entry in its place."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from oracles import lru
from ptcore.caches import Tlb, TlbArray, TlbLevel
from ptcore.errors import AddressError, Misaligned, OutOfRange

LG2 = {"4K": 12, "2M": 21, "1G": 30}

# Name: levels of arrays (entries, ways, page sizes). Set counts that are no powers of two; arrays of
# several sizes; direct-mapped and fully associative ones; a size that only some levels hold.
GEOMETRIES = {
    "one_entry": [[(1, 1, ("4K",))]],
    "one_level": [[(8, 2, ("4K",))]],
    "three_sets": [[(12, 4, ("4K", "2M"))]],
    "fully_associative": [[(6, 6, ("4K", "2M", "1G"))]],
    "like_skylake": [
        [(8, 4, ("4K",)), (4, 2, ("2M",)), (2, 2, ("1G",))],
        [(36, 12, ("4K", "2M")), (4, 4, ("1G",))],
    ],
    "three_levels": [
        [(2, 1, ("4K", "2M"))],
        [(6, 2, ("4K",)), (3, 3, ("2M", "1G"))],
        [(40, 8, ("4K", "2M", "1G"))],
    ],
}


def both(name: str) -> tuple[Tlb, lru.Tlb]:
    declared = GEOMETRIES[name]
    real = Tlb(
        [
            TlbLevel(f"L{n}", tuple(TlbArray(*a) for a in arrays))
            for n, arrays in enumerate(declared)
        ]
    )
    naive = lru.Tlb(
        [
            [lru.Array(e // w, w, (LG2[s] for s in sizes)) for e, w, sizes in level]
            for level in declared
        ]
    )
    return real, naive


def rows_of(real: Tlb) -> list[tuple]:
    return [
        (
            int(row["level"]),
            int(row["page_lg2"]),
            lru.GLOBAL if row["global_"] else int(row["asid"]),
            int(row["va"]) >> int(row["page_lg2"]),
            (int(row["pa"]), int(row["rights"])),
        )
        for row in real.entries()
    ]


class Driver:
    """Makes the same random calls to both, and compares what they return and what they hold."""

    def __init__(self, name: str, seed: int) -> None:
        self.real, self.naive = both(name)
        self.sizes = sorted({s for level in GEOMETRIES[name] for a in level for s in a[2]})
        self.random = random.Random(seed)
        self.seen: Counter[str] = Counter()

    def va(self) -> int:
        # Two gigabyte pages' worth of addresses, but few pages: so sizes overlap and sets conflict.
        high = self.random.choice((0x7F00_0000_0000, 0xFFFF_8000_0000_0000))
        return high + (self.random.randrange(3) << 21) + (self.random.randrange(9) << 12)

    def insert(self) -> None:
        size = self.random.choice(self.sizes)
        lg2 = LG2[size]
        page = self.va() >> lg2
        # Never both for one page: which of the two answers is no CPU's promise.
        tag = lru.GLOBAL if page % 3 == 0 else self.random.choice((0, 7))
        value = (self.random.randrange(1 << 20) << lg2, self.random.randrange(16))
        self.real.insert(
            page << lg2,
            value[0],
            size,
            asid=0 if tag == lru.GLOBAL else tag,
            global_=tag == lru.GLOBAL,
            rights=value[1],
        )
        self.naive.insert(lg2, page, tag, value)
        self.seen["inserted"] += 1

    def lookup(self) -> None:
        va, asid = self.va() + self.random.randrange(4096), self.random.choice((0, 7, 8))
        hit, expected = self.real.lookup(va, asid), self.naive.lookup(va, asid)
        if expected is None:
            assert hit is None
            self.seen["missed"] += 1
            return
        level, (lg2, _, tag), (pa, rights) = expected
        assert (hit.level, hit.page_size, hit.rights) == (level, 1 << lg2, rights)
        assert hit.pa == pa + va % (1 << lg2)
        self.seen[f"hit in level {level}"] += 1
        self.seen["hit a global entry"] += tag == lru.GLOBAL

    def invalidate(self) -> None:
        first = self.va() + self.random.randrange(4096)
        last = first + self.random.choice((0, 1, 0x1000, 0x7FFF, 0x30_0000, 0x8000_0000))
        asid = self.random.choice((None, 0, 7))
        dropped = self.real.invalidate(first, last, asid)
        assert dropped == self.naive.invalidate(first, last, asid)
        self.seen["dropped by address"] += dropped
        if asid is None:
            assert not self.real.holds(first, last)

    def invalidate_all(self) -> None:
        asid, keep = self.random.choice((None, 0, 7)), self.random.random() < 0.5
        dropped = self.real.invalidate_all(asid, keep)
        assert dropped == self.naive.invalidate_all(asid, keep)
        self.seen["dropped by tag"] += dropped

    def run(self, steps: int) -> Counter[str]:
        verbs = [self.insert, self.lookup, self.invalidate, self.invalidate_all]
        for _ in range(steps):
            self.random.choices(verbs, (30, 60, 6, 1))[0]()
            assert rows_of(self.real) == self.naive.rows()
        assert len(self.real) == len(self.naive.rows())
        return self.seen


@pytest.mark.parametrize("name", GEOMETRIES)
def test_every_answer_and_every_entry_are_those_of_a_naive_lru(name: str) -> None:
    seen: Counter[str] = Counter()
    for seed in range(8):
        seen += Driver(name, seed).run(400)
    for outcome in ("missed", "hit in level 0", "hit a global entry", "dropped by address"):
        assert seen[outcome] >= 5, (outcome, seen)
    assert seen["dropped by tag"] > 0
    for level in range(1, len(GEOMETRIES[name])):
        assert seen[f"hit in level {level}"] >= 5, seen


def test_a_hit_in_the_second_level_refills_the_first() -> None:
    tlb = Tlb((TlbLevel("L1", (TlbArray(1, 1),)), TlbLevel("L2", (TlbArray(2, 2),))))
    tlb.insert(0x1000, 0xA000, "4K")
    tlb.insert(0x2000, 0xB000, "4K")
    assert [tlb.lookup(0x1000).level for _ in range(2)] == [1, 0]


def test_a_page_is_dropped_when_a_byte_of_it_is_invalidated() -> None:
    tlb = Tlb.preset("skylake_sp")
    tlb.insert(0x4000_0000, 0, "1G")
    assert tlb.invalidate(0x3FFF_F000, 0x3FFF_FFFF) == 0
    assert tlb.invalidate(0x7FFF_FFFF, 0x7FFF_FFFF) == 2  # in both levels
    assert len(tlb) == 0


def test_all_addresses_can_be_invalidated_at_once() -> None:
    tlb = Tlb.preset("zen4")
    for va in (0, 0x1000, (1 << 64) - 0x1000):
        tlb.insert(va, 0, "4K")
    assert tlb.invalidate(0, (1 << 64) - 1) == 6


def test_the_rights_that_were_stored_come_back() -> None:
    tlb = Tlb.preset("zen4")
    tlb.insert(0x1000, 0x5000, "4K", rights=5)
    assert tlb.lookup(0x1FFF).rights == 5
    assert tlb.lookup(0x1FFF).pa == 0x5FFF


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ((0x1800, 0, "4K"), Misaligned, "va 0x1800"),
        ((0, 0x1800, "4K"), Misaligned, "pa 0x1800"),
        ((0, 0, 1024), AddressError, "no array holds pages"),
        ((0, 0, 3000), AddressError, "page_size 3000"),
        ((1 << 64, 0, "4K"), OutOfRange, "64-bit"),
        ((-4096, 0, "4K"), OutOfRange, "64-bit"),
        ((0, 0, "4K", 0xFFFF_FFFF), OutOfRange, "asid 4294967295"),
        ((0, 0, "4K", -1), OutOfRange, "asid -1"),
        ((0, 0, "4K", 0, False, 64), OutOfRange, "rights 64"),
        ((0, 0, "4K", 0, False, -1), OutOfRange, "rights -1"),
    ],
)
def test_what_cannot_be_cached_is_refused_and_nothing_changes(arguments, error, words) -> None:
    tlb = Tlb.preset("zen4")
    tlb.insert(0x1000, 0x1000, "4K")
    with pytest.raises(error, match=words):
        tlb.insert(*arguments)
    assert len(tlb) == 2


def test_a_span_that_ends_before_it_begins_is_refused() -> None:
    with pytest.raises(OutOfRange, match="comes after"):
        Tlb.preset("zen4").invalidate(0x2000, 0x1000)
    with pytest.raises(OutOfRange, match="comes after"):
        Tlb.preset("zen4").holds(0x2000, 0x1000)
