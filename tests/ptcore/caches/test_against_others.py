"""The same geometry and policy in implementations that nobody here wrote, access by access or hit by hit.

cachetools and OrderedDict (one set, and sets by index), pycachesim 0.3.1 (LRU and FIFO, one and two levels;
its licence, AGPL, keeps it among the tests).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import cachesim
import cachetools
import numpy as np
import pytest

from ptcore.caches import Tlb, TlbArray, TlbLevel
from ptcore.caches.tlb import MISS

N = 40_000


def streams() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(20_26)
    ranks = rng.zipf(1.2, N) % 5000
    return {
        "uniform": rng.integers(0, 700, N),
        "zipf": rng.permutation(5000)[ranks],
        "sequential": np.arange(N) // 4 % 3000,
        "stride": np.arange(N) * 128 % (1 << 18),
        "scan and loop": np.where(rng.random(N) < 0.5, np.arange(N) % 90, rng.integers(0, 4000, N)),
    }


def array(entries: int, ways: int, policy: str = "lru", index_xor: int = 0) -> TlbArray:
    return TlbArray(entries, ways, policy=policy, index_xor=index_xor)


def with_cachetools(size: int) -> Callable[[int], bool]:
    cache: cachetools.LRUCache[int, bool] = cachetools.LRUCache(size)

    def access(page: int) -> bool:
        hit = cache.get(page) is not None
        if not hit:
            cache[page] = True
        return hit

    return access


def with_ordered_dict(size: int) -> Callable[[int], bool]:
    held: OrderedDict[int, None] = OrderedDict()

    def access(page: int) -> bool:
        hit = page in held
        if hit:
            held.move_to_end(page)
        else:
            if len(held) == size:
                held.popitem(last=False)
            held[page] = None
        return hit

    return access


@pytest.mark.parametrize("stream", streams())
@pytest.mark.parametrize("other", [with_cachetools, with_ordered_dict])
@pytest.mark.parametrize(
    ("entries", "ways", "index_xor"),
    [(64, 64, 0), (100, 100, 0), (64, 4, 0), (1536, 12, 0), (1536, 12, 7), (96, 6, 4)],
)
def test_lru_is_others_lru_access_by_access(
    stream: str,
    other: Callable[[int], Callable[[int], bool]],
    entries: int,
    ways: int,
    index_xor: int,
) -> None:
    pages = streams()[stream]
    tlb = Tlb((TlbLevel("L1", (array(entries, ways, index_xor=index_xor),)),))
    ours = tlb.access_many(pages.astype(np.uint64) << 12) == 0
    sets = entries // ways
    theirs = [other(ways) for _ in range(sets)]
    hashed = pages ^ pages >> index_xor if index_xor else pages
    expected = [
        theirs[number](page)
        for page, number in zip(pages.tolist(), (hashed % sets).tolist(), strict=True)
    ]
    assert ours.tolist() == expected
    assert not all(expected)


def hits_of_cachesim(
    pages: np.ndarray, geometry: list[tuple[int, int]], policy: str
) -> list[tuple[int, int]]:
    """(hits, misses) per level: a line of 64 bytes stands for a page."""
    levels: list[cachesim.Cache] = []
    for number, (entries, ways) in reversed(list(enumerate(geometry, 1))):
        below = {"load_from": levels[-1], "store_to": levels[-1]} if levels else {}
        name = f"L{number}"
        levels.append(cachesim.Cache(name, entries // ways, ways, 64, policy, **below))
    memory = cachesim.MainMemory()
    memory.load_to(levels[0])
    memory.store_from(levels[0])
    simulator = cachesim.CacheSimulator(levels[-1], memory)
    for address in (pages * 64).tolist():
        simulator.load(address)
    stats = {one["name"]: one for one in simulator.stats()}
    return [
        (stats[f"L{n}"]["HIT_count"], stats[f"L{n}"]["MISS_count"])
        for n in range(1, len(geometry) + 1)
    ]


@pytest.mark.parametrize("stream", streams())
@pytest.mark.parametrize("policy", ["LRU", "FIFO"])
@pytest.mark.parametrize(
    "geometry", [[(64, 4)], [(64, 64)], [(1024, 8)], [(64, 4), (1024, 8)], [(16, 16), (512, 4)]]
)
def test_hits_are_those_of_pycachesim(
    stream: str, policy: str, geometry: list[tuple[int, int]]
) -> None:
    pages = streams()[stream]
    tlb = Tlb(
        tuple(
            TlbLevel(f"L{n}", (array(entries, ways, policy.lower()),))
            for n, (entries, ways) in enumerate(geometry, 1)
        )
    )
    outcomes = np.bincount(tlb.access_many(pages.astype(np.uint64) << 12), minlength=256)
    asked = N
    ours = []
    for level in range(len(geometry)):
        ours.append((int(outcomes[level]), asked - int(outcomes[level])))
        asked -= int(outcomes[level])
    assert ours == hits_of_cachesim(pages, geometry, policy)
    assert outcomes[MISS] > 0
