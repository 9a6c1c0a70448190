"""Replacement, index hashes, sides, inclusion, parts of pages, limits of address spaces."""

from __future__ import annotations

import random
from collections import Counter

import numpy as np
import pytest

from oracles import streams
from oracles.replacement import POLICIES
from ptcore.caches import Tlb, TlbArray, TlbLevel
from ptcore.caches.tlb import MISS

PAGE = 4096
STREAMS = {
    # Cyclic over one page more than there are ways; a hot part and a scan; uniform.
    "cyclic": lambda rng, ways, n: [i % (ways + 1) for i in range(n)],
    "scan": lambda rng, ways, n: [
        rng.randrange(ways // 2) if rng.random() < 0.6 else i % (3 * ways) for i in range(n)
    ],
    "uniform": lambda rng, ways, n: [rng.randrange(2 * ways) for _ in range(n)],
}


def one_level(**fields: object) -> Tlb:
    return Tlb((TlbLevel("L1", (TlbArray(**fields),)),))


@pytest.mark.parametrize("stream", STREAMS)
@pytest.mark.parametrize(
    ("policy", "ways"),
    [
        *((policy, ways) for policy in ("lru", "fifo", "srrip") for ways in (3, 4, 12, 32)),
        *(("plru", ways) for ways in (2, 4, 8, 32)),
        *(("mru_plru4", ways) for ways in (4, 12, 56)),
    ],
)
def test_a_set_keeps_what_the_naive_policy_keeps(policy: str, ways: int, stream: str) -> None:
    sets = 4
    rng = random.Random(f"{policy} {ways} {stream}")
    tlb = one_level(entries=sets * ways, ways=ways, policy=policy)
    naive = [POLICIES[policy](ways) for _ in range(sets)]
    pages = [number * sets + rng.randrange(sets) for number in STREAMS[stream](rng, ways, 4000)]
    expected = [naive[page % sets].access(page) for page in pages]
    outcomes = tlb.access_many([page * PAGE + 5 for page in pages])
    assert (outcomes == 0).tolist() == expected
    assert set(outcomes.tolist()) <= {0, MISS}
    assert 0 < sum(expected) < len(expected) or stream == "cyclic"


def test_policies_differ_where_they_should() -> None:
    # Cyclic over 13 pages in 12 ways: LRU and FIFO never hit, the others now and then.
    pages = np.arange(13 * 200) % 13 * PAGE
    hits = {
        policy: int((one_level(entries=12, ways=12, policy=policy).access_many(pages) == 0).sum())
        for policy in ("lru", "fifo", "mru_plru4", "random")
    }
    assert hits["lru"] == hits["fifo"] == 0
    assert hits["mru_plru4"] > 0
    assert hits["random"] > 1000


def test_random_replacement_is_seeded_and_evicts_every_way() -> None:
    rng = np.random.default_rng(1)
    pages = rng.integers(0, 24, 5000) * PAGE
    array = TlbArray(8, 8, policy="random")
    level = (TlbLevel("L1", (array,)),)
    first, again, other = (Tlb(level, seed=s).access_many(pages) for s in (7, 7, 8))
    assert (first == again).all()
    assert (first != other).any()
    # Uniform over 24 pages in 8 ways: a third of the accesses hit, whatever the victims are.
    assert 0.28 < (first == 0).mean() < 0.39


def test_an_index_hash_spreads_a_stride_that_the_plain_index_cannot() -> None:
    pages = np.arange(10_000) % 600 * 128 * PAGE
    plain = one_level(entries=1536, ways=12).access_many(pages)
    hashed = one_level(entries=1536, ways=12, index_xor=7).access_many(pages)
    assert (plain == 0).sum() == 0
    assert (hashed == MISS).sum() == 600


def test_each_side_has_its_own_arrays_and_shares_the_second_level() -> None:
    tlb = Tlb(
        (
            TlbLevel(
                "L1",
                (
                    TlbArray(4, 4, sides=("load",)),
                    TlbArray(2, 2, sides=("store",)),
                    TlbArray(2, 2, sides=("fetch",)),
                ),
            ),
            TlbLevel("L2", (TlbArray(16, 4),)),
        )
    )
    assert tlb.access_many([0, 0], "r").tolist() == [MISS, 0]
    # A store finds the page in the second level, and then in its own array.
    assert tlb.access_many([0, 0], "w").tolist() == [1, 0]
    assert tlb.access_many([0, 0], np.array([2, 2], dtype=np.uint8)).tolist() == [1, 0]
    assert Counter(row["level"] for row in tlb.entries()) == {0: 3, 1: 1}
    # Three stores are one too many for the store array; loads lose nothing.
    tlb.access_many([PAGE, 2 * PAGE], "w")
    assert tlb.lookup(0, kind="w").level == 1
    assert tlb.lookup(0, kind="r").level == 0


def test_two_arrays_of_a_level_share_the_pages_that_both_hold() -> None:
    # Ice Lake's second level: 1024 entries for 4K and 2M, 1024 for 4K and 1G.
    level = TlbLevel("L2", (TlbArray(1024, 8, ("4K", "2M")), TlbArray(1024, 8, ("4K", "1G"))))
    for size, reach in (("4K", 2048), ("2M", 1024), ("1G", 1024)):
        step = {"4K": 12, "2M": 21, "1G": 30}[size]
        pages = np.arange(reach, dtype=np.uint64) << np.uint64(step)
        tlb = Tlb((level,))
        tlb.access_many(pages, page_size=size)
        assert (tlb.access_many(pages, page_size=size) == 0).all()
        more = np.arange(reach + 256, dtype=np.uint64) << np.uint64(step)
        tlb.access_many(more, page_size=size)
        assert (tlb.access_many(more, page_size=size) == MISS).sum() >= 256


def test_a_page_that_no_array_holds_is_held_in_parts() -> None:
    tlb = Tlb((TlbLevel("L1", (TlbArray(4, 4, ("4K", "2M")),)),))
    tlb.insert(1 << 30, 5 << 30, "1G")
    (row,) = tlb.entries()
    assert (row["page_lg2"], row["va"], row["pa"]) == (21, 1 << 30, 5 << 30)
    pages = (1 << 30) + np.arange(8, dtype=np.uint64) * np.uint64(2 << 20)
    assert (tlb.access_many(pages, page_size="1G") == MISS).sum() == 7


def levels(inclusion: str) -> Tlb:
    return Tlb(
        (
            TlbLevel("L1", (TlbArray(2, 2),)),
            TlbLevel("L2", (TlbArray(4, 4),), inclusion),
        )
    )


def held(tlb: Tlb) -> dict[int, list[int]]:
    return {
        level: sorted(row["va"] // PAGE for row in tlb.entries() if row["level"] == level)
        for level in (0, 1)
    }


def test_inclusion_rules() -> None:
    def after(inclusion: str, *pages: int) -> dict[int, list[int]]:
        tlb = levels(inclusion)
        tlb.access_many([page * PAGE for page in pages])
        return held(tlb)

    assert after("non_inclusive", 0, 1, 2) == {0: [1, 2], 1: [0, 1, 2]}
    assert after("victim", 0, 1, 2) == {0: [1, 2], 1: [0]}
    assert after("exclusive", 0, 1, 2) == {0: [1, 2], 1: [0]}
    # A hit in the second level: a victim level keeps the page, an exclusive one hands it over.
    assert after("victim", 0, 1, 2, 0) == {0: [0, 2], 1: [0, 1]}
    assert after("exclusive", 0, 1, 2, 0) == {0: [0, 2], 1: [1]}
    # Page 0 stays in use above, but the second level, which does not see that, drops it.
    assert after("non_inclusive", 0, 1, 0, 2, 0, 3, 0, 4)[0] == [0, 4]
    assert after("inclusive", 0, 1, 0, 2, 0, 3, 0, 4)[0] == [4]


def test_exclusive_levels_reach_as_far_as_both_together() -> None:
    pages = np.arange(6) * PAGE
    for inclusion, found in (("exclusive", 6), ("non_inclusive", 4)):
        tlb = levels(inclusion)
        tlb.access_many(pages)
        assert len({int(row["va"]) for row in tlb.entries()}) == found


def test_a_level_that_keeps_few_address_spaces_drops_the_one_unused_for_longest() -> None:
    tlb = Tlb((TlbLevel("L1", (TlbArray(64, 64),), live_asids=2),))
    tlb.insert(0x9000, 0x9000, "4K", asid=1, global_=True)
    for asid in (1, 2):
        assert tlb.access_many([0, 0], asid=asid).tolist() == [MISS, 0]
    assert tlb.access_many([0], asid=1).tolist() == [0]
    assert tlb.access_many([0], asid=3).tolist() == [MISS]
    assert tlb.access_many([0], asid=1).tolist() == [0]
    assert tlb.access_many([0], asid=2).tolist() == [MISS]
    assert tlb.lookup(0x9000, asid=9) is not None  # a global entry is nobody's


@pytest.mark.parametrize("policy", ["lru", "fifo", "random", "plru", "srrip", "mru_plru4"])
@pytest.mark.parametrize("inclusion", ["non_inclusive", "inclusive", "victim", "exclusive"])
def test_no_policy_and_no_rule_ever_answers_wrongly(policy: str, inclusion: str) -> None:
    rng = random.Random(f"{policy} {inclusion}")
    small = TlbArray(8, 4, ("4K", "2M"), policy=policy)
    large = TlbArray(32, 8, ("4K",), policy=policy, index_xor=2)
    if policy == "mru_plru4":
        large = TlbArray(32, 8, ("4K",), policy=policy)
    tlb = Tlb((TlbLevel("L1", (small,)), TlbLevel("L2", (large,), inclusion, live_asids=3)), seed=3)
    truth: dict[tuple[int, int], int] = {}  # (asid, 4K page) -> pa of the page; forgotten ones stay
    seen = Counter[str]()
    for _ in range(4000):
        asid = rng.randrange(5)
        page = rng.randrange(512)
        verb = rng.random()
        if verb < 0.45:
            size = rng.choice((PAGE, 2 << 20))
            pages = [page] if size == PAGE else list(range(512))
            pa = rng.randrange(1 << 20) * (2 << 20) + (pages[0] * PAGE if size == PAGE else 0)
            first, last = pages[0] * PAGE, pages[-1] * PAGE + PAGE - 1
            tlb.invalidate(first, last, asid)  # what a change of the tables owes
            for number in pages:
                truth[asid, number] = pa + (number - pages[0]) * PAGE
            tlb.insert(first, pa, size, asid)
        elif verb < 0.95:
            hit = tlb.lookup(page * PAGE + 7, asid)
            seen["hit" if hit else "miss"] += 1
            assert hit is None or hit.pa == truth[asid, page] + 7
        else:
            tlb.invalidate(page * PAGE, page * PAGE, asid)
            assert tlb.lookup(page * PAGE, asid) is None
            seen["invalidated"] += 1
    assert min(seen["hit"], seen["miss"], seen["invalidated"]) > 50, seen


# What an index hash makes of the streams of tests/oracles/streams.py: the share of walks at n = 2,000,000.
HASHED = {
    "uniform_32p": 0.00002,
    "uniform_1024p": 0.00051,
    "uniform_256Kp": 0.99412,
    "zipf099_256Kp": 0.52574,
    "sequential_64B": 0.01562,
    "stride_128p": 0.00003,
}


def test_the_published_streams_walk_as_often_as_published_with_a_hashed_second_level() -> None:
    for name, vas in streams.streams(2_000_000):
        tlb = Tlb(
            (
                TlbLevel("L1", (TlbArray(64, 4),)),
                TlbLevel("L2", (TlbArray(1536, 12, index_xor=7),)),
            )
        )
        walks = float((tlb.access_many(vas) == MISS).mean())
        assert round(walks, 5) == HASHED[name], name
