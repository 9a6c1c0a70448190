"""Freed I/O addresses that wait for one invalidation together: a ring per CPU.

Mechanism: Linux drivers/iommu/dma-iommu.c (v6.12), queue_iova(), fq_ring_free_locked(), fq_flush_iotlb(),
fq_flush_timeout().
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from ptcore.errors import OutOfRange

# Linux drivers/iommu/dma-iommu.c: IOVA_DEFAULT_FQ_SIZE, IOVA_DEFAULT_FQ_TIMEOUT (ms), and the same of the one
# queue for all CPUs, IOVA_SINGLE_FQ_SIZE, IOVA_SINGLE_FQ_TIMEOUT.
ENTRIES = 256
TIMEOUT_MS = 10
SINGLE_ENTRIES = 32768
SINGLE_TIMEOUT_MS = 1000

Released = list[int]


@dataclass(slots=True)
class FlushQueues:
    """A ring per CPU (or `single`: one for all) of first pages, each with the flushes begun before it.

    A ring of so many entries holds one less: full and empty must differ.
    """

    cpus: int
    entries: int = ENTRIES
    single: bool = False
    flushes: int = 0
    rings: list[deque[tuple[int, int]]] = field(init=False)

    def __post_init__(self) -> None:
        if self.cpus < 1 or self.entries < 2:
            raise OutOfRange(f"{self.cpus} CPUs with rings of {self.entries} entries hold nothing")
        self.rings = [deque() for _ in range(1 if self.single else self.cpus)]

    def __len__(self) -> int:
        return sum(map(len, self.rings))

    def _done(self, ring: deque[tuple[int, int]]) -> Released:
        released = []
        while ring and ring[0][0] < self.flushes:
            released.append(ring.popleft()[1])
        return released

    def add(self, cpu: int, page: int) -> tuple[bool, Released]:
        """Queue a page on `cpu`. Returns whether all had to be flushed first, and what may be freed there."""
        ring = self.rings[0 if self.single else cpu]
        released = self._done(ring)
        full = len(ring) == self.entries - 1
        if full:
            self.flushes += 1
            released += self._done(ring)
        ring.append((self.flushes, page))
        return full, released

    def expire(self) -> Released:
        """The timer runs: one flush; return what may be freed, on the CPU that runs it."""
        self.flushes += 1
        return [page for ring in self.rings for page in self._done(ring)]


__all__ = [
    "ENTRIES",
    "SINGLE_ENTRIES",
    "SINGLE_TIMEOUT_MS",
    "TIMEOUT_MS",
    "FlushQueues",
    "Released",
]
