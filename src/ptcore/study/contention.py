"""Threads that wait for locks, and packets that wait for a CPU: what serial parts do to throughput.

A small simulation in time, of the operations that the modelled mechanisms do. What an operation costs comes
from the table of constants (a visit of a tree's node is a reference, of 14 cycles); what a lock costs to be
handed over has no citation and is taken as nothing, so that only waiting is counted. Shapes, not figures.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from heapq import heappop, heappush

from ptcore.allocators import AddressTree
from ptcore.errors import OutOfRange
from ptcore.machine import Event, Machine, Request
from ptcore.machine.cost import DEFAULT_CONSTANTS, Constant, price
from ptcore.strategies import get
from ptcore.strategies.vmap_areas import AreaState, VmapAreas, VmapOptions

Part = tuple[str | None, float]
"""A lock by name, or None, and for how many ns it is held, or work goes on without one."""

GIB = 1 << 30


def run_threads(threads: int, parts_of: Callable[[int, int], Sequence[Part]], each: int) -> float:
    """Return the ns that `threads` take for `each` operations apiece; locks are given in the order asked.

    `parts_of(thread, number)`: the parts of an operation, asked for when it begins. A CPU per thread.
    O(parts log threads). Raises OutOfRange without threads or operations.
    """
    if threads < 1 or each < 1:
        raise OutOfRange(f"{threads} threads with {each} operations do nothing")
    free_at: dict[str, float] = {}
    left = [deque[Part]() for _ in range(threads)]
    begun = [0] * threads
    queue = [(0.0, thread) for thread in range(threads)]
    end = 0.0
    while queue:
        now, thread = heappop(queue)
        if not left[thread]:
            if begun[thread] == each:
                end = max(end, now)
                continue
            left[thread].extend(parts_of(thread, begun[thread]))
            begun[thread] += 1
        lock, ns = left[thread].popleft()
        done = now + ns
        if lock is not None:
            done = max(now, free_at.get(lock, 0.0)) + ns
            free_at[lock] = done
        heappush(queue, (done, thread))
    return end


class VmallocThreads:
    """Threads that take and give back areas of `pages` pages: over one lock for each tree, or over nodes.

    The areas are the model's (strategies.vmap_areas), so that pools are hit and lists drained as there.
    Locks: Linux mm/vmalloc.c before and after 'Mitigate a vmap lock contention' (U. Rezki, 2024).
    """

    def __init__(
        self,
        threads: int,
        nodes: int,
        pages: int = 1,
        constants: Mapping[str, Constant] = DEFAULT_CONSTANTS,
    ) -> None:
        self.threads, self.nodes, self.pages, self.constants = threads, nodes, pages, constants
        self._tree = AddressTree(GIB, 64 * GIB - 1)
        options = VmapOptions(cpus=self.threads, nodes=self.nodes)
        self._areas = VmapAreas(self._tree, options)
        self._live = [0] * self.nodes
        self._lazy = [0] * self.nodes
        self._clock = self.constants["clock"].value

    def _visits(self, areas: int, times: int = 1) -> float:
        """The ns to go down a tree of so many areas, so many times."""
        each = self.constants["walk_reference"].value / self._clock
        return times * (areas.bit_length() + 1) * each

    def operation(self, thread: int, number: int) -> list[Part]:
        """The parts of an allocation and a free, on the thread's CPU."""
        size = (self.pages + 1) * 4096
        pool = self._areas.pool(self._areas.node_of(thread), self.pages + 1)
        ready = len(pool)
        start = self._areas.allocate(thread, size)
        hit = len(pool) < ready
        owner = thread % self.nodes
        home = start // (16 * 4096) % self.nodes
        edit = self.constants["edit_call"].value + self.pages * self.constants["entry"].value
        tree = self._visits(len(self._tree), 2)  # found, and its sizes written upwards
        parts: list[Part] = [(f"pool {owner}", self._visits(0))] if self.nodes > 1 else []
        if not hit:
            parts.append(("free", tree))
        self._live[home] += 1
        busy = self._visits(self._live[home])
        parts += [(f"busy {home}", busy), (None, edit), (f"busy {home}", 2 * busy), (None, edit)]
        parts.append((f"lazy {owner}", self._visits(self._lazy[owner])))
        self._live[home] -= 1
        self._lazy[owner] += 1
        if self._areas.free(start):
            parts += self._drain(tree)
        return parts

    def _drain(self, tree: float) -> list[Part]:
        """An invalidation on all CPUs, and every area into its pool or the tree, one at a time."""
        lazy = [area for area in self._areas.areas() if area.state is AreaState.LAZY]
        self._areas.drain()
        self._lazy = [0] * self.nodes
        flush = self.constants["invalidate_all"].value / self._clock
        flush += self.constants["interrupt"].value * (self.threads - 1)
        parts: list[Part] = [(None, flush)]
        for area in lazy:
            pooled = self.nodes > 1
            parts.append(
                (f"pool {area.node}" if pooled else "free", self._visits(0) if pooled else tree)
            )
        return parts

    @property
    def until_drained(self) -> int:
        """Operations of each thread until the lazy lists are drained once: pools have filled."""
        return self._areas.lazy_max_pages // (self.pages + 1) // self.threads + 1


def vmalloc_gain(threads: int = 64, each: int = 600) -> float:
    """How many times the operations per second of one lock per tree nodes reach, with so many threads.

    Counted after a first drain, and over the next ones.
    """
    times = []
    for nodes in (1, threads):
        model = VmallocThreads(threads, nodes)
        for number in range(model.until_drained):
            for thread in range(threads):
                model.operation(thread, number)
        times.append(run_threads(threads, model.operation, each))
    return times[0] / times[1]


WIRE_NS = (1500 + 38) * 8 / 10  # a frame of 1500 bytes and what surrounds it, at 10 Gb/s
RING = 512
AGAIN = 20  # times the packets of a run, so that a full ring is the usual state
WAIT_NS = DEFAULT_CONSTANTS["device_invalidate"].value


def line_rate(service_ns: Iterable[float], wire_ns: float = WIRE_NS, ring: int = RING) -> float:
    """The share of a line's packets that a CPU serves: one comes each `wire_ns`, and is lost where
    `ring` packets wait."""
    done: deque[float] = deque()
    now, free_at, served, came = 0.0, 0.0, 0, 0
    for ns in service_ns:
        while True:
            now += wire_ns
            came += 1
            while done and done[0] <= now:
                done.popleft()
            if len(done) < ring:
                break
        free_at = max(free_at, now) + ns
        done.append(free_at)
        served += 1
    return served / came if came else 0.0


def packet_costs(strategy: str, packets: int = 1024) -> list[float]:
    """The ns of each packet: a CPU that just keeps up with the line, and what its buffer's mapping adds."""
    machine = Machine(1, ram="1G")
    made = get(strategy).make(machine)
    row = len(machine.ledger)
    ring: deque[object] = deque()
    marks = []
    for _ in range(packets + RING):
        if len(ring) == RING:
            made.release(ring.popleft(), 0)  # type: ignore[arg-type]
        ring.append(made.acquire(Request(0, 1, device="nic")))
        marks.append(len(machine.ledger))
        machine.advance(machine.now_ns + round(WIRE_NS))
    lines = price(machine.ledger, first_row=row).lines
    edits = sum(line.cycles for line in lines if line.name != "device_invalidate")
    each = edits / DEFAULT_CONSTANTS["clock"].value / (packets + RING)
    rows = machine.ledger.rows()["event"] == Event.DEVICE_INVALIDATED
    waits = [int(rows[a:b].sum()) for a, b in zip(marks[RING - 1 :], marks[RING:], strict=False)]
    return [WIRE_NS + each + WAIT_NS * count for count in waits]


def strict_over_deferred() -> float:
    """The line rate with an invalidation per packet, over that with invalidations put off."""
    rates = [line_rate(AGAIN * packet_costs(f"iommu_{mode}")) for mode in ("strict", "deferred")]
    return rates[0] / rates[1]


__all__ = [
    "VmallocThreads",
    "line_rate",
    "packet_costs",
    "run_threads",
    "strict_over_deferred",
    "vmalloc_gain",
]
