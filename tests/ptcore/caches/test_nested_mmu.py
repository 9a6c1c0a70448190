"""An Mmu behind two stages: what walks read, what each cache saves, and that no answer is ever wrong."""

from __future__ import annotations

import random
from collections import Counter

import numpy as np
import pytest

import ptcore
from ptcore.caches import FAULT, WALK, Mmu, Tlb, TlbArray, TlbLevel, WalkCache
from ptcore.errors import Fault, Status
from ptcore.table.nested import guest_memory

VA = 0x4000_0000
TINY = (TlbLevel("L1", (TlbArray(1, 1, ("4K", "2M", "1G")),)),)
SMALL = (
    TlbLevel("L1", (TlbArray(4, 2, ("4K",)), TlbArray(2, 2, ("2M", "1G")))),
    TlbLevel("L2", (TlbArray(16, 4, ("4K", "2M")), TlbArray(4, 4, ("1G",)))),
)
# first stage, second stage, sizes of pages of each
PAIRS = {
    "x86_64_4level on ept_4level": ("x86_64_4level", "ept_4level"),
    "x86_64_5level on ept_5level": ("x86_64_5level", "ept_5level"),
    "sv39 on sv39x4": ("sv39", "sv39x4"),
    "sv48 on sv48x4": ("sv48", "sv48x4"),
}


def nested(first: str, second: str, *, host: str = "4K", guest: str = "4K") -> ptcore.Nested:
    """16 MiB of guest memory at IPA 0, in pieces of `host`; tables at its end."""
    memory = ptcore.PhysicalMemory("128M")
    stage2 = ptcore.PageTable(second, memory)
    start = 64 << 20
    if host == "1G":
        stage2.map(0, 0, 1 << 30, access="rwx", page_size="1G")
    else:
        stage2.map(0, start, 16 << 20, access="rwx", page_size=host)
    seen = guest_memory(stage2, frames=(8 << 20, "8M") if host != "1G" else (96 << 20, "8M"))
    stage1 = ptcore.PageTable(first, seen)
    stage1.map(VA, 0, 4 << 20, access="rwx", user=True, page_size=guest)
    return ptcore.Nested(stage1, stage2)


def read_by(space: ptcore.Nested, va: int = VA, **caches) -> int:
    mmu = Mmu(space, Tlb(TINY), marks=False, **caches)
    assert mmu.access(va, user=True).code == WALK
    assert mmu.counts.references == space.walk(va).references or caches
    return mmu.counts.references


@pytest.mark.parametrize(
    ("first", "second", "references"),
    [
        ("x86_64_4level", "ept_4level", 24),
        ("x86_64_5level", "ept_5level", 35),
        ("x86_64_5level", "ept_4level", 29),
        ("sv39", "sv39x4", 15),
    ],
)
def test_a_walk_without_caches_reads_g_plus_1_times_h_plus_1_less_1(
    first: str, second: str, references: int
) -> None:
    assert read_by(nested(first, second)) == references


def test_large_leaves_shorten_their_axis() -> None:
    def references(host: str, guest: str) -> int:
        return read_by(nested("x86_64_4level", "ept_4level", host=host, guest=guest))

    assert references("4K", "2M") == 4 * 5 - 1  # one item of the guest less
    assert references("2M", "4K") == 5 * 4 - 1  # one item of the host less, five times
    assert references("2M", "2M") == 4 * 4 - 1
    assert references("1G", "2M") == 4 * 3 - 1


def test_each_cache_saves_what_it_holds() -> None:
    space = nested("x86_64_4level", "ept_4level")

    def second_walk(**caches) -> int:
        mmu = Mmu(space, Tlb(TINY), marks=False, **caches)
        mmu.access(VA, user=True)
        before = mmu.counts.references
        assert mmu.access(VA + 0x1000, user=True).code == WALK
        return mmu.counts.references - before

    assert second_walk() == 24
    # The last table is known at its physical address: its item, and a walk for the page.
    assert second_walk(walk_cache=WalkCache({1: 4})) == 1 + 4
    # It is known at the guest's address: that takes a walk too.
    assert second_walk(guest_cache=WalkCache({1: 4})) == 4 + 1 + 4
    # Of every walk of the second stage only the last item is read.
    assert second_walk(host_cache=WalkCache({1: 16})) == 4 * (1 + 1) + 1
    # All of the guest's tables are known to the second stage's TLB; the page is not.
    assert second_walk(ipa_tlb=Tlb((TlbLevel("L1", (TlbArray(8, 8),)),))) == 4 + 4
    both = {"walk_cache": WalkCache({1: 4}), "host_cache": WalkCache({1: 16})}
    assert second_walk(**both) == 1 + 1


@pytest.mark.parametrize("guest", ["4K", "2M"])
@pytest.mark.parametrize("host", ["4K", "2M", "1G"])
def test_an_entry_has_the_smaller_of_both_pages(host: str, guest: str) -> None:
    space = nested("x86_64_4level", "ept_4level", host=host, guest=guest)
    mmu = Mmu(space, Tlb(SMALL), vmid=3, asid=5)
    assert mmu.access(VA + 0x12_3456, user=True).pa == space.translate(VA + 0x12_3456, user=True)
    smaller = min(guest, host, key={"4K": 12, "2M": 21, "1G": 30}.get)
    hit = mmu.tlb.lookup(VA + 0x12_3000, asid=5, vmid=3)
    assert hit is not None
    assert hit.page_size == {"4K": 1 << 12, "2M": 1 << 21, "1G": 1 << 30}[smaller]
    assert mmu.tlb.lookup(VA + 0x12_3000, asid=5, vmid=4) is None


def expectation(space: ptcore.Nested, va: int, kind: str) -> tuple[int | None, Status, int | None]:
    try:
        return space.translate(va, kind, user=True), Status.OK, None
    except Fault as fault:
        return None, fault.status, fault.stage or 1


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("seed", range(4))
def test_no_answer_is_wrong_whatever_is_cached_and_edited(pair: str, seed: int) -> None:
    rng = random.Random(seed)
    space = nested(*PAIRS[pair])
    mmu = Mmu(
        space,
        Tlb(SMALL),
        WalkCache({2: 2, 1: 4}) if rng.random() < 0.7 else None,
        guest_cache=WalkCache({2: 2, 1: 4}) if rng.random() < 0.7 else None,
        host_cache=WalkCache({1: 4}) if rng.random() < 0.7 else None,
        ipa_tlb=Tlb(SMALL) if rng.random() < 0.7 else None,
    )
    seen: Counter[str] = Counter()
    frames = [n << 12 for n in range(64)]
    for _ in range(1500):
        va = VA + (rng.randrange(64) << 12) + rng.randrange(4096)
        kind = rng.choice("rwx")
        outcome = mmu.access(va, kind, user=True)
        expected = expectation(space, va, kind)
        assert (outcome.pa, outcome.status, outcome.stage) == expected
        if outcome.pa is None:
            assert outcome.code == FAULT
            seen[f"stage {outcome.stage}"] += 1
        else:
            seen["walked" if outcome.code == WALK else "hit"] += 1
        if rng.random() < 0.03:
            page = rng.choice(frames)
            stage = rng.choice((1, 2))
            table, at = (space.stage1, VA + page) if stage == 1 else (space.stage2, page)
            access = rng.choice(("r", "rw", "rx", "rwx"))
            table.protect(at, "4K", access=access).discharge()
            mmu.invalidate_all()
            seen[f"edited {stage}"] += 1
    assert min(seen[k] for k in ("hit", "walked", "stage 1", "stage 2", "edited 1", "edited 2")) > 5


def test_dirty_and_accessed_are_marked_in_both_stages() -> None:
    space = nested("x86_64_4level", "ept_4level")
    mmu = Mmu(space, Tlb(SMALL))
    mmu.access(VA, user=True)
    rows, owed = space.stage1.harvest("accessed", clear=False)
    owed.discharge()
    assert VA in rows["va"].tolist()
    assert VA not in space.stage1.harvest("dirty", clear=False)[0]["va"].tolist()
    assert mmu.access(VA, "w", True).code == WALK  # clean in both: the tables are asked
    assert mmu.access(VA, "w", True).code == 0
    assert VA in space.stage1.harvest("dirty", clear=False)[0]["va"].tolist()


def test_batches_and_single_accesses_agree() -> None:
    one, many = (
        Mmu(
            nested("x86_64_4level", "ept_4level"),
            Tlb(SMALL),
            WalkCache({1: 2}),
            ipa_tlb=Tlb(SMALL),
        )
        for _ in range(2)
    )
    vas = VA + np.random.default_rng(3).integers(0, 1100, 3000) * 4096
    outcomes = many.access_many(vas, user=True)
    assert outcomes.tolist() == [one.access(int(va), user=True).code for va in vas]
    assert one.counts == many.counts
    assert np.bincount(outcomes, minlength=256)[[0, 1, WALK, FAULT]].min() > 5
