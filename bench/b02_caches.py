"""Translation hardware: accesses through a two-level TLB over real tables."""

from __future__ import annotations

from collections.abc import Iterator

import limit
import numpy as np
from side_by_side import Result, measure

import ptcore
from ptcore.caches import Mmu, Tlb, TlbArray, TlbLevel

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
    memory = ptcore.PhysicalMemory("64M")
    table = ptcore.PageTable("x86_64_4level", memory)
    table.map(BASE, 0, PAGES * 4096, page_size="4K")
    for name, vas in streams():
        addresses = vas.astype(np.uint64)
        levels = (
            TlbLevel("L1", (TlbArray(64, 4),)),
            TlbLevel("L2", (TlbArray(1536, 12),)),
        )
        mmu = Mmu(table, Tlb(levels))
        l1 = np.full(64, ~np.uint64(0))
        l2 = np.full(1536, ~np.uint64(0))
        counts = np.zeros(3, dtype=np.uint64)
        mmu.access_many(addresses)
        c.tlb_lru(l1, l2, addresses, ACCESSES, counts)
        assert [*mmu.counts.hits, mmu.counts.walks] == counts.tolist()
        yield measure(
            f"tlb_{name}",
            lambda mmu=mmu, vas=addresses: mmu.access_many(vas),
            lambda l1=l1, l2=l2, vas=addresses, n=counts: c.tlb_lru(l1, l2, vas, ACCESSES, n),
            ACCESSES,
            rounds=7,
            note=f"{counts[2] / ACCESSES:.1%} walks; ptcore walks real tables, C only counts",
        )
