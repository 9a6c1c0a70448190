"""Scenarios: made-up workloads of the field, each a seeded generator with a size dial.

The first three are the cases that the 2026 discussion of memory outside the direct map began with:
device memory that is mapped for a while, memory that is added and removed, and large pages that
alignment forbids. Sizes that a kernel fixes are the kernel's and cited beside them; rates, lifetimes
and mixes are ours where nothing is cited, and part of each scenario's words. The same name, size,
CPUs and seed give the same steps, bit for bit.

A scenario says how its memory is used as well: which pages are read and written when, and by which
CPU. `zipf` does not, so that the touch model of a comparison decides.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from ptcore.errors import OutOfRange, TraceError
from ptcore.workloads.planning import Draws, steps_of_lives
from ptcore.workloads.steps import STEP_DTYPE, Workload

DEFAULT_SIZE = 1000
DEFAULT_CPUS = 8
MOST_CPUS = np.iinfo(STEP_DTYPE["cpu"]).max + 1
STACK_PAGES = 4  # Linux arch/x86/include/asm/page_64_types.h: THREAD_SIZE, 16 KiB
CACHED_STACKS = 2  # Linux kernel/fork.c: NR_CACHED_STACKS per CPU, which vmalloc does not see
SECTION_PAGES = 32768  # Linux arch/x86/include/asm/sparsemem.h: SECTION_SIZE_BITS 27, 128 MiB
LARGE_PAGES = 512  # 2 MiB
HUGE_PAGES = LARGE_PAGES * 512  # 1 GiB
READAHEAD_PAGES = 32  # Linux include/linux/pagemap.h: VM_READAHEAD_PAGES, 128 KiB
SECRET_PAGES = 2048  # Linux include/uapi/linux/resource.h: MLOCK_LIMIT, 8 MiB, bounds secret memory
RING_BUFFERS = 512  # Linux drivers/net/ethernet/intel/ixgbe/ixgbe.h: IXGBE_DEFAULT_RXD
POLL_BUFFERS = 64  # Linux include/linux/netdevice.h: NAPI_POLL_WEIGHT, buffers given back at a time
POPULATE_NS = 807  # 3 GiB of guest_memfd in 635 ms, a page at a time (lkml.iu.edu 2501.1/04717)
MIGRATE_NS = 130_000  # a 2 MiB buffer to a GPU (M. Brost, J. Gunthorpe, 2026, passthrough)
PAGE_BITS = 4096 * 8
SPREAD = 64  # accesses by which large memory is sampled: one in so many parts of it


class Use(NamedTuple):
    """An access to be: ns after the memory came, `pages` from the one numbered `first` on, r or w.

    `cpu`: None for the one that acquired the memory, -1 for any, else that one.
    """

    after_ns: int
    first: int
    pages: int
    mode: str = "r"
    cpu: int | None = None


class Life(NamedTuple):
    """An allocation to be: ns after the one before, ns that it lives, pages, and how it is used.

    `device`: a device reaches it too; `memory` its memory type; `align` in bytes. `cpu` acquires it and
    `freed_on` gives it back; None: any. `sensitive`: usual memory that must not be reachable afterwards.
    """

    after_ns: int
    lives_ns: int
    pages: int
    device: bool = False
    memory: str | None = None
    align: int = 1
    uses: tuple[Use, ...] = ()
    cpu: int | None = None
    freed_on: int | None = None
    sensitive: bool = False


@dataclass(frozen=True, slots=True)
class Dials:
    """How many allocations, and on how many CPUs."""

    size: int
    cpus: int


Generator = Callable[[Draws, Dials], Iterator[Life]]


@dataclass(frozen=True, slots=True)
class Scenario:
    """A name, one sentence with what is assumed, and the generator: (random numbers, dials) -> lives."""

    name: str
    sentence: str
    lives: Generator


def _whole(pages: int, mode: str = "w", after_ns: int = 0, cpu: int | None = None) -> Use:
    return Use(after_ns, 0, pages, mode, cpu)


def _sampled(pages: int, mode: str, after_ns: int = 0) -> tuple[Use, ...]:
    """Return SPREAD accesses of one page, evenly over large memory."""
    step = max(pages // SPREAD, 1)
    return tuple(Use(after_ns, first, 1, mode, -1) for first in range(0, pages, step))


def _now_and_then(
    rng: Draws, lives_ns: int, pages: int, times: int, mode: str = "r"
) -> tuple[Use, ...]:
    """Return accesses of one page each, at any time of the life, on any CPU."""
    return tuple(
        Use(rng.integers(1, max(lives_ns, 2)), rng.integers(pages), 1, mode, -1)
        for _ in range(times)
    )


def _device_memory(rng: Draws, dials: Dials) -> Iterator[Life]:
    """Yield registers and apertures of devices: written whole once, then poked 4 times."""
    for _ in range(dials.size):
        pages = (100, LARGE_PAGES, 4 * LARGE_PAGES)[rng.integers(3)]
        lives = int(rng.exponential(4e7))
        # A PCI device's region is aligned to its size (PCI Local Bus 3.0, "Base Addresses").
        align = 4096 * LARGE_PAGES if pages >= LARGE_PAGES else 1
        uses = (_whole(pages), *_now_and_then(rng, lives, pages, 4, "w"))
        yield Life(int(rng.exponential(1e6)), lives, pages, True, "device", align, uses)


def _hotplug(rng: Draws, dials: Dials) -> Iterator[Life]:
    """Yield sections of memory that come and go; of each, one page in 2 MiB is touched."""
    for _ in range(max(dials.size // 50, 2)):
        lives = int(rng.exponential(1e9))
        uses = _sampled(SECTION_PAGES, "w", 1)
        align = 4096 * SECTION_PAGES
        yield Life(int(rng.exponential(1e8)), lives, SECTION_PAGES, True, None, align, uses)


def _alignment_holes(rng: Draws, dials: Dials) -> Iterator[Life]:
    """Yield memory a little beside 1 GiB, one in 100, and beside 2 MiB, so that leaves of those do not
    fill it. That beside 1 GiB lives 20 ms at most, so that few are there together."""
    for number in range(dials.size):
        if number % 100 == 0:
            pages = HUGE_PAGES + LARGE_PAGES * rng.integers(-8, 9)
            yield Life(
                10_000_000,
                rng.integers(10_000_000, 20_000_000),
                pages,
                uses=_sampled(pages, "w", 1),
            )
        else:
            pages = LARGE_PAGES + rng.integers(-8, 9)
            lives = int(rng.exponential(5e7))
            yield Life(int(rng.exponential(1e6)), lives, pages, uses=(_whole(pages),))


def _guest_memfd(rng: Draws, dials: Dials) -> Iterator[Life]:
    """Yield a guest's pages, populated one by one, faulted in once each in any order, and kept to its end;
    one in 64 is a page of a device that the guest was given."""
    end = POPULATE_NS * dials.size
    for number in range(dials.size):
        fault = end - POPULATE_NS * number + rng.integers(1, end + 1)
        given = number % 64 == 63
        uses = (_whole(1), Use(fault, 0, 1, "w", -1))
        memory = "device" if given else None
        yield Life(POPULATE_NS, 4 * end, 1, given, memory, 1, uses, sensitive=not given)


def _page_cache(rng: Draws, dials: Dials) -> Iterator[Life]:
    """Yield folios of unmapped page cache: filled once, then read() or written by any CPU, 4 times on
    average, a part of the folio each time."""
    for _ in range(dials.size):
        pages = 1 << rng.integers(0, READAHEAD_PAGES.bit_length())
        lives = int(rng.exponential(5e6)) + 1
        uses = [_whole(pages)]
        for _ in range(int(rng.geometric(0.2)) - 1):
            first = rng.integers(pages)
            count = rng.integers(1, pages - first + 1)
            mode = "w" if rng.random() < 0.25 else "r"
            uses.append(Use(rng.integers(1, lives + 1), first, count, mode, -1))
        yield Life(int(rng.exponential(2e4)), lives, pages, uses=tuple(uses))


def _secrets(rng: Draws, dials: Dials) -> Iterator[Life]:
    """Yield secret memory: keys of 1 to 4 pages, one in 50 as large as a process may lock; written once,
    and 8 pages of it read while it lives."""
    for number in range(dials.size):
        pages = SECRET_PAGES if number % 50 == 49 else rng.integers(1, 5)
        lives = int(rng.exponential(1e9))
        uses = (_whole(pages), *_now_and_then(rng, lives, pages, 8))
        yield Life(int(rng.exponential(5e6)), lives, pages, uses=uses, sensitive=True)


def _modules(rng: Draws, dials: Dials) -> Iterator[Life]:
    """Yield modules of 16 to 512 KiB and programs of one page: written when loaded, then run."""
    for _ in range(dials.size):
        pages = 1 if rng.random() < 0.5 else rng.integers(4, 129)
        lives = int(rng.exponential(2e8))
        uses = (_whole(pages), *_now_and_then(rng, lives, pages, 8))
        yield Life(int(rng.exponential(1e7)), lives, pages, uses=uses)


def _nic_ring(rate_bits: float) -> Generator:
    """Return rings at their share of the line rate: a buffer of a page, filled by the device and read by the
    ring's CPU, which gives back as many at a time as it polls. There is a ring per CPU, but no more than
    are filled twice."""

    def lives(rng: Draws, dials: Dials) -> Iterator[Life]:
        gap = max(round(PAGE_BITS / rate_bits * 1e9), 1)
        rings = min(max(dials.size // (2 * RING_BUFFERS), 1), dials.cpus)
        for number in range(dials.size):
            ring, place = number % rings, number // rings
            filled = RING_BUFFERS * rings * gap
            # The whole poll's buffers are read and given back when the last of them is full.
            wait = (POLL_BUFFERS - 1 - place % POLL_BUFFERS) * rings * gap
            jitter = rng.integers(0, gap)
            read = Use(filled + wait, 0, 1, "r")
            yield Life(gap, filled + wait + 1 + jitter, 1, True, None, 1, (read,), ring, ring)

    return lives


def _gpu(rng: Draws, dials: Dials) -> Iterator[Life]:
    """Yield buffers that move to a GPU and back: copied whole once there, once back."""
    for _ in range(dials.size):
        lives = int(rng.exponential(5e6)) + MIGRATE_NS
        back = _whole(LARGE_PAGES, "r", lives - 1, -1)
        align = 4096 * LARGE_PAGES
        yield Life(MIGRATE_NS, lives, LARGE_PAGES, True, None, align, (_whole(LARGE_PAGES), back))


@dataclass(slots=True)
class _Stack:
    """A kernel stack, which several threads may have one after the other."""

    start: int
    cpu: int
    uses: list[Use]
    end: int = 0
    freed_on: int = 0


def _processes(rng: Draws, dials: Dials) -> Iterator[Life]:
    """Yield the kernel stacks of `size` threads, in bursts of 16 on one CPU: 3 in 4 threads are short, and
    one in 4 goes deeper than the top page. A stack whose thread ends waits in the cache of the CPU that it
    ended on, if there is room; the next thread there takes it, and the allocator sees neither."""
    cached: list[list[_Stack]] = [[] for _ in range(dials.cpus)]
    running: list[tuple[int, int, _Stack, int]] = []
    stacks: list[_Stack] = []
    now = cpu = 0

    def end_one() -> None:
        at, _, stack, on = heapq.heappop(running)
        stack.end, stack.freed_on = at, on
        if len(cached[on]) < CACHED_STACKS:
            cached[on].append(stack)

    for number in range(dials.size):
        now += int(rng.exponential(2e4 if number % 16 else 2e6))
        while running and running[0][0] <= now:
            end_one()
        cpu = rng.integers(dials.cpus) if number % 16 == 0 else cpu
        if not cached[cpu]:
            stacks.append(_Stack(now, cpu, []))
        stack = cached[cpu].pop() if cached[cpu] else stacks[-1]
        lives = int(rng.exponential(1e6 if rng.random() < 0.75 else 2e8))
        pages = 2 if rng.random() < 0.25 else 1
        stack.uses.append(Use(now - stack.start, STACK_PAGES - pages, pages, "w", cpu))
        heapq.heappush(running, (now + lives, number, stack, rng.integers(dials.cpus)))
    while running:
        end_one()
    before = 0
    for stack in stacks:
        lives = stack.end - stack.start
        uses = tuple(stack.uses)
        yield Life(
            stack.start - before,
            lives,
            STACK_PAGES,
            uses=uses,
            cpu=stack.cpu,
            freed_on=stack.freed_on,
        )
        before = stack.start


def _zipf(rng: Draws, dials: Dials) -> Iterator[Life]:
    for _ in range(dials.size):
        pages = int(min(rng.zipf(1.6), 2 * LARGE_PAGES))
        yield Life(int(rng.exponential(1e4)), int(rng.exponential(1e6)), pages)


PHASES = ("process_churn", "device_memory", "page_cache", "secrets")


def _phases(rng: Draws, dials: Dials) -> Iterator[Life]:
    part = replace(dials, size=max(dials.size // len(PHASES), 1))
    for name in PHASES:
        yield from SCENARIOS[name].lives(rng, part)


_KNOWN = (
    (
        "device_memory",
        "A device's regions of 400 KiB, 2 and 8 MiB, mapped with its memory type for some 40 ms.",
        _device_memory,
    ),
    ("hotplug", "Sections of 128 MiB added and removed; a fiftieth of the size.", _hotplug),
    (
        "alignment_holes",
        "Memory a little beside 1 GiB (one in 100) or 2 MiB: large leaves leave a rest.",
        _alignment_holes,
    ),
    (
        "guest_memfd",
        "A guest's memory populated page by page, 807 ns each, then faulted in; some is a device's.",
        _guest_memfd,
    ),
    (
        "page_cache",
        "Unmapped page-cache folios of 1 to 32 pages: filled, then read() and written 4 times.",
        _page_cache,
    ),
    (
        "secrets",
        "Secret memory of 1 to 4 pages, some of 8 MiB, for a second; a page read 8 times.",
        _secrets,
    ),
    ("modules", "Modules of 16 to 512 KiB and programs of a page, loaded and unloaded.", _modules),
    (
        "nic_10g",
        "Receive rings of 512 pages at 10 Gb/s, up to one per CPU; 64 buffers polled at a time.",
        _nic_ring(10e9),
    ),
    ("nic_100g", "The same at 100 Gb/s.", _nic_ring(100e9)),
    ("nic_200g", "The same at 200 Gb/s.", _nic_ring(200e9)),
    ("gpu_migration", "Buffers of 2 MiB to a GPU, one in 130 us, and back after some 5 ms.", _gpu),
    (
        "process_churn",
        "Threads in bursts: kernel stacks of 16 KiB that two per CPU's cache did not have.",
        _processes,
    ),
    ("zipf", "Sizes by Zipf's law, 1 page to 4 MiB, most of them small and short.", _zipf),
    ("phases", "Four phases: processes, device memory, page cache, secrets.", _phases),
)
SCENARIOS = {name: Scenario(name, sentence, lives) for name, sentence, lives in _KNOWN}


def scenario(
    name: str, size: int = DEFAULT_SIZE, cpus: int = DEFAULT_CPUS, seed: int = 1
) -> Workload:
    """Return the steps of a scenario: `size` allocations on `cpus` CPUs, each freed on any of them.

    What outlives the last allocation is freed after it. Raises TraceError for a name that is none, and
    OutOfRange for a size or number of CPUs below 1, or more CPUs than steps can number. O(size log size).
    """
    if name not in SCENARIOS:
        raise TraceError(f"no scenario is called {name!r}; there are {', '.join(SCENARIOS)}")
    if size < 1 or cpus < 1:
        raise OutOfRange(
            f"a scenario has at least one allocation and one CPU, not {size} and {cpus}"
        )
    if cpus > MOST_CPUS:
        raise OutOfRange(f"steps number at most {MOST_CPUS:,} CPUs, not {cpus:,}")
    draws = Draws(seed)
    rows = steps_of_lives(SCENARIOS[name].lives(draws, Dials(size, cpus)), draws, cpus)
    return Workload(f"{name}, size {size}, seed {seed}", rows, cpus)


__all__ = [
    "DEFAULT_CPUS",
    "DEFAULT_SIZE",
    "PHASES",
    "SCENARIOS",
    "Dials",
    "Life",
    "Scenario",
    "Use",
    "scenario",
]
