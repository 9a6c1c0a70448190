"""Translation hardware: TLBs alone, and full models over real tables, against C and against pycachesim."""

from __future__ import annotations

from collections.abc import Iterator
from ctypes import CDLL

import cachesim
import limit
import numpy as np
from side_by_side import Result, measure

import ptcore
from ptcore.caches import Mmu, Tlb, TlbArray, TlbLevel, WalkCache
from ptcore.caches.tlb import MISS

ACCESSES = 1_000_000
PAGES = 1 << 18
BASE = 0x7F00_0000_0000


def zipf(rng: np.random.Generator) -> np.ndarray:
    weight = 1.0 / np.arange(1, PAGES + 1) ** 0.99
    cumulative = np.cumsum(weight) / weight.sum()
    return rng.permutation(PAGES)[np.searchsorted(cumulative, rng.random(ACCESSES))]


def streams() -> Iterator[tuple[str, np.ndarray]]:
    rng = np.random.default_rng(1)
    yield "uniform", BASE + rng.integers(0, PAGES, ACCESSES) * 4096
    yield "zipf", BASE + zipf(rng) * 4096
    yield "sequential", BASE + np.arange(ACCESSES) * 64


def results() -> Iterator[Result]:
    c = limit.load()
    yield from tlbs_alone(c)
    yield from full_models(c)
    yield from against_pycachesim()


TWO_LEVELS = (TlbLevel("L1", (TlbArray(64, 4),)), TlbLevel("L2", (TlbArray(1536, 12),)))
THREE_SIZES = (
    TlbLevel("L1", (TlbArray(64, 4), TlbArray(32, 4, ("2M",)), TlbArray(4, 4, ("1G",)))),
    TlbLevel("L2", (TlbArray(1536, 12, ("4K", "2M")), TlbArray(16, 4, ("1G",)))),
)


def tlbs_alone(c: CDLL) -> Iterator[Result]:
    """A TLB that counts, against C that counts: no tables on either side."""
    for name, vas in streams():
        addresses = vas.astype(np.uint64)
        tlb = Tlb(TWO_LEVELS)
        l1, l2 = np.full(64, ~np.uint64(0)), np.full(1536, ~np.uint64(0))
        counts = np.zeros(3, dtype=np.uint64)
        outcomes = np.bincount(tlb.access_many(addresses), minlength=256)
        c.tlb_lru(l1, l2, addresses, ACCESSES, counts)
        assert outcomes[[0, 1, MISS]].tolist() == counts.tolist()
        yield measure(
            f"tlb_{name}",
            lambda tlb=tlb, vas=addresses: tlb.access_many(vas),
            lambda l1=l1, l2=l2, vas=addresses, n=counts: c.tlb_lru(l1, l2, vas, ACCESSES, n),
            ACCESSES,
            rounds=9,
            note=f"{counts[2] / ACCESSES:.1%} misses",
        )


def full_models(c: CDLL) -> Iterator[Result]:
    """Tags, three sizes, paging-structure caches and walks of real tables, on both sides."""
    image = np.zeros(16 << 20, dtype=np.uint8)
    memory = ptcore.PhysicalMemory.from_buffer(image, frames=(0, "16M"))
    table = ptcore.PageTable("x86_64_4level", memory)
    table.map(BASE, 0, PAGES * 4096, "rwx", page_size="4K")
    for name, vas in streams():
        addresses = vas.astype(np.uint64)
        mmu = Mmu(table, Tlb(THREE_SIZES), WalkCache({1: 32, 2: 4, 3: 2}), 5)
        state = np.zeros(int(c.model_bytes()), dtype=np.uint8)
        codes = np.empty(ACCESSES, dtype=np.uint8)
        ours = mmu.access_many(addresses)
        c.model_access(state, image, table.root, 5, addresses, codes, ACCESSES)
        assert np.array_equal(ours, codes)
        walks, items = state.view(np.uint64)[-2:].tolist()
        assert (mmu.counts.walks, mmu.counts.references) == (walks, items)
        yield measure(
            f"full_{name}",
            lambda mmu=mmu, vas=addresses: mmu.access_many(vas),
            lambda state=state, vas=addresses, codes=codes: c.model_access(
                state, image, table.root, 5, vas, codes, ACCESSES
            ),
            ACCESSES,
            rounds=9,
            note=f"{walks / ACCESSES:.1%} walks",
        )


def against_pycachesim() -> Iterator[Result]:
    """The same two levels of lines in pycachesim, by its bulk loop; the ratio is ours over its."""
    for name, vas in streams():
        if name == "sequential":
            continue
        addresses = vas.astype(np.uint64)[: ACCESSES // 4]
        lines = [((line,), ()) for line in (addresses >> np.uint64(6)).tolist()]
        l2 = cachesim.Cache("L2", 128, 12, 64, "LRU")
        l1 = cachesim.Cache("L1", 16, 4, 64, "LRU", load_from=l2, store_to=l2)
        below = cachesim.MainMemory()
        below.load_to(l2)
        below.store_from(l2)
        simulator = cachesim.CacheSimulator(l1, below)
        tlb = Tlb(TWO_LEVELS)
        yield measure(
            f"pycachesim_{name}",
            lambda tlb=tlb, vas=addresses: tlb.access_many(vas),
            lambda simulator=simulator, lines=lines: simulator.loadstore(lines),
            len(addresses),
            rounds=3,
        )
