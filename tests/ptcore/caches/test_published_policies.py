"""What was measured of Skylake's TLBs: permutation vectors, which tell a replacement policy from all others.

Source: vusec/tlbdr, TLB/README.md, "Sample output", tests 13 to 15 (agreement of 99.9, 93 and 73 per cent
or more over 1000 tries). A vector of position i: which element each position holds after a hit at position i;
position 0 is the last to be evicted. Abel and Reineke, "Measurement-based modeling of the cache replacement
policy", 2013.
"""

from __future__ import annotations

import pytest

from ptcore.caches import Tlb, TlbArray, TlbLevel

STLB = [
    [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11],
    [1, 2, 0, 4, 5, 3, 7, 8, 6, 10, 11, 9],
    [2, 0, 1, 5, 3, 4, 8, 6, 7, 11, 9, 10],
    [3, 1, 2, 0, 4, 5, 9, 7, 8, 6, 10, 11],
    [4, 2, 0, 1, 5, 3, 10, 8, 6, 7, 11, 9],
    [5, 0, 1, 2, 3, 4, 11, 6, 7, 8, 9, 10],
    [6, 1, 2, 3, 4, 5, 0, 7, 8, 9, 10, 11],
    [7, 2, 0, 4, 5, 3, 1, 8, 6, 10, 11, 9],
    [8, 0, 1, 5, 3, 4, 2, 6, 7, 11, 9, 10],
    [9, 1, 2, 0, 4, 5, 3, 7, 8, 6, 10, 11],
    [10, 2, 0, 1, 5, 3, 4, 8, 6, 7, 11, 9],
    [11, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10],
]
DTLB = [[0, 1, 2, 3], [1, 0, 3, 2], [2, 1, 0, 3], [3, 0, 1, 2]]
ITLB = [
    [0, 1, 2, 3, 4, 5, 6, 7],
    [1, 0, 3, 2, 5, 4, 7, 6],
    [2, 1, 0, 3, 6, 5, 4, 7],
    [3, 0, 1, 2, 7, 4, 5, 6],
    [4, 1, 2, 3, 0, 5, 6, 7],
    [5, 0, 3, 2, 1, 4, 7, 6],
    [6, 1, 0, 3, 2, 5, 4, 7],
    [7, 0, 1, 2, 3, 4, 5, 6],
]
PUBLISHED = {"mru_plru4": STLB, "plru of 4": DTLB, "plru of 8": ITLB}


def positions(tlb: Tlb, ways: int) -> list[int]:
    """Page of each position: misses evict the last position first. Spends the TLB."""
    order = []
    for fresh in range(ways):
        before = {int(row["va"]) for row in tlb.entries()}
        tlb.access_many([(1 << 30) + fresh * 4096])
        order += [va >> 12 for va in before - {int(row["va"]) for row in tlb.entries()}]
    return order[::-1]


def filled(policy: str, ways: int) -> Tlb:
    tlb = Tlb((TlbLevel("L1", (TlbArray(ways, ways, policy=policy),)),))
    tlb.access_many([page << 12 for page in range(ways)])
    return tlb


def vectors(policy: str, ways: int) -> list[list[int]]:
    start = positions(filled(policy, ways), ways)
    found = []
    for page in start:
        tlb = filled(policy, ways)
        assert tlb.access_many([page << 12]).tolist() == [0]
        found.append([start.index(other) for other in positions(tlb, ways)])
    return found


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_measured_permutation_vectors_are_those_of_the_policy(name: str) -> None:
    policy = name.split(" ", 1)[0]
    assert vectors(policy, len(PUBLISHED[name])) == PUBLISHED[name]


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("policy", ["lru", "fifo"])
def test_other_policies_fail_them(name: str, policy: str) -> None:
    ways = len(PUBLISHED[name])
    assert vectors(policy, ways) != PUBLISHED[name]
    expected = [[i, *range(i), *range(i + 1, ways)] for i in range(ways)]
    assert policy == "fifo" or vectors("lru", ways) == expected
