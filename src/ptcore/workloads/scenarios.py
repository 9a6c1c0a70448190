"""Scenarios: made-up workloads of the field, each a seeded generator with a size dial.

The first three are the cases that the 2026 discussion of memory outside the direct map began with:
device memory that is mapped for a while, memory that is added and removed, and large pages that
alignment forbids. Sizes that a kernel fixes are the kernel's and cited; rates, lifetimes and mixes
are ours, and part of each scenario's words. The same name, size, CPUs and seed give the same steps,
bit for bit.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from ptcore.errors import OutOfRange, TraceError
from ptcore.workloads.replay import STEP_DTYPE, StepKind, Workload

DEFAULT_SIZE = 1000
DEFAULT_CPUS = 8
STACK_PAGES = 4  # Linux arch/x86/include/asm/page_64_types.h: THREAD_SIZE, 16 KiB
SECTION_PAGES = 32768  # Linux arch/x86/include/asm/sparsemem.h: SECTION_SIZE_BITS 27, 128 MiB
LARGE_PAGES = 512  # 2 MiB
PAGE_BITS = 4096 * 8


@dataclass(frozen=True, slots=True)
class Life:
    """An allocation to be: ns after the one before, ns that it lives, pages, whether a device's."""

    after_ns: int
    lives_ns: int
    pages: int
    device: bool = False


Generator = Callable[[np.random.Generator, int], Iterator[Life]]


@dataclass(frozen=True, slots=True)
class Scenario:
    """A name, one sentence with what is assumed, and the generator: (random numbers, requests) -> lives."""

    name: str
    sentence: str
    lives: Generator


def _device_memory(rng: np.random.Generator, size: int) -> Iterator[Life]:
    for _ in range(size):
        pages = int(rng.choice([LARGE_PAGES, 4 * LARGE_PAGES, 100]))
        yield Life(int(rng.exponential(1e6)), int(rng.exponential(4e7)), pages, device=True)


def _hotplug(rng: np.random.Generator, size: int) -> Iterator[Life]:
    for _ in range(max(size // 50, 2)):
        yield Life(int(rng.exponential(1e8)), int(rng.exponential(1e9)), SECTION_PAGES, device=True)


def _alignment_holes(rng: np.random.Generator, size: int) -> Iterator[Life]:
    for _ in range(size):
        pages = LARGE_PAGES + int(rng.integers(-8, 9))  # just beside what a large leaf holds
        yield Life(int(rng.exponential(1e6)), int(rng.exponential(5e7)), pages)


def _guest_memfd(rng: np.random.Generator, size: int) -> Iterator[Life]:
    for _ in range(size):
        yield Life(807, 10**10, 1)  # 3 GiB in 635 ms: 807 ns a page (lkml.iu.edu 2501.1/04717)


def _page_cache(rng: np.random.Generator, size: int) -> Iterator[Life]:
    for _ in range(size):
        pages = 1 << int(rng.integers(0, 5))
        yield Life(int(rng.exponential(2e4)), int(rng.exponential(5e6)), pages)


def _secrets(rng: np.random.Generator, size: int) -> Iterator[Life]:
    for _ in range(size):
        yield Life(int(rng.exponential(5e6)), int(rng.exponential(1e9)), int(rng.integers(1, 5)))


def _modules(rng: np.random.Generator, size: int) -> Iterator[Life]:
    for _ in range(size):
        yield Life(int(rng.exponential(1e7)), int(rng.exponential(2e8)), int(rng.integers(4, 129)))


def _nic_ring(rate_bits: float) -> Generator:
    gap = max(round(PAGE_BITS / rate_bits * 1e9), 1)

    def lives(rng: np.random.Generator, size: int) -> Iterator[Life]:
        for _ in range(size):
            yield Life(gap, 512 * gap, 1, device=True)  # a ring of 512 buffers, in order

    return lives


def _gpu(rng: np.random.Generator, size: int) -> Iterator[Life]:
    for _ in range(size):
        yield Life(130_000, int(rng.exponential(5e6)), LARGE_PAGES, device=True)


def _processes(rng: np.random.Generator, size: int) -> Iterator[Life]:
    for _ in range(size):
        yield Life(int(rng.exponential(1e5)), int(rng.exponential(1e6)), STACK_PAGES)


def _zipf(rng: np.random.Generator, size: int) -> Iterator[Life]:
    for _ in range(size):
        pages = int(min(rng.zipf(1.6), 2 * LARGE_PAGES))
        yield Life(int(rng.exponential(1e4)), int(rng.exponential(1e6)), pages)


def _phases(rng: np.random.Generator, size: int) -> Iterator[Life]:
    parts = (_processes, _device_memory, _zipf, _page_cache)
    for part in parts:
        yield from part(rng, max(size // len(parts), 1))


_KNOWN = (
    (
        "device_memory",
        "A device's buffers of 400 KiB to 8 MiB, mapped for some 40 ms.",
        _device_memory,
    ),
    ("hotplug", "Sections of 128 MiB added and removed; a fiftieth of the size.", _hotplug),
    (
        "alignment_holes",
        "Allocations a few pages beside 2 MiB: large leaves do not fit.",
        _alignment_holes,
    ),
    (
        "guest_memfd",
        "A guest's memory populated page by page, 807 ns each, and kept.",
        _guest_memfd,
    ),
    ("page_cache", "Unmapped page-cache folios of 1 to 16 pages, used for some 5 ms.", _page_cache),
    ("secrets", "Secret memory of 1 to 4 pages that lives for a second.", _secrets),
    ("modules", "Modules and programs of 16 to 512 KiB loaded and unloaded.", _modules),
    ("nic_10g", "A receive ring of 512 pages at 10 Gb/s, a page a buffer.", _nic_ring(10e9)),
    ("nic_100g", "The same at 100 Gb/s.", _nic_ring(100e9)),
    ("nic_200g", "The same at 200 Gb/s.", _nic_ring(200e9)),
    ("gpu_migration", "Buffers of 2 MiB to and from a GPU, one in 130 us.", _gpu),
    ("process_churn", "Threads that come and go: kernel stacks of 16 KiB.", _processes),
    ("zipf", "Sizes by Zipf's law, 1 page to 4 MiB, most of them small and short.", _zipf),
    ("phases", "Four phases: processes, device memory, Zipf, page cache.", _phases),
)
SCENARIOS = {name: Scenario(name, sentence, lives) for name, sentence, lives in _KNOWN}


def scenario(
    name: str, size: int = DEFAULT_SIZE, cpus: int = DEFAULT_CPUS, seed: int = 1
) -> Workload:
    """Return the steps of a scenario: `size` allocations on `cpus` CPUs, each freed on any of them.

    What outlives the last allocation is freed after it. Raises TraceError for a name that is none, and
    OutOfRange for a size or number of CPUs below 1. O(size log size).
    """
    if name not in SCENARIOS:
        raise TraceError(f"no scenario is called {name!r}; there are {', '.join(SCENARIOS)}")
    if size < 1 or cpus < 1:
        raise OutOfRange(
            f"a scenario has at least one allocation and one CPU, not {size} and {cpus}"
        )
    rng = np.random.default_rng(seed)
    ends: list[tuple[int, int, int, bool]] = []
    rows: list[tuple[int, ...]] = []
    now = 0

    def release(end: tuple[int, int, int, bool]) -> None:
        at, number, pages, device = end
        rows.append((at, StepKind.RELEASE, int(rng.integers(cpus)), number, pages, 1, device))

    for number, life in enumerate(SCENARIOS[name].lives(rng, size)):
        now += life.after_ns
        while ends and ends[0][0] <= now:
            release(heapq.heappop(ends))
        cpu = int(rng.integers(cpus))
        rows.append((now, StepKind.ACQUIRE, cpu, number, life.pages, 1, life.device))
        heapq.heappush(ends, (now + life.lives_ns, number, life.pages, life.device))
    while ends:
        release(heapq.heappop(ends))
    return Workload(
        f"{name}, size {size}, seed {seed}", np.array(rows, dtype=STEP_DTYPE), cpus, 0, 0, 0
    )


__all__ = ["DEFAULT_CPUS", "DEFAULT_SIZE", "SCENARIOS", "Life", "Scenario", "scenario"]
