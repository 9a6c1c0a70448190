"""unmapped_pool: whole page blocks leave the direct map; allocations inside them cost no invalidation.

The mechanism and the policy are a proposal's: the __GFP_UNMAPPED series of 2026 (v4:
ALLOC_UNMAPPED) keeps free lists of unmapped page blocks. A refill takes a block of 2 MiB out of the
direct map as a whole (one large leaf cleared, split off a larger one if need be) with one
invalidation on all CPUs. Pages inside are allocated and freed without touching the direct map, and
reached through the ephemeral map (windows.py). A block that is wholly free goes back when there is
time: it is mapped again, which needs no invalidation.
"""

from __future__ import annotations

from ptcore.allocators import AddressTree
from ptcore.errors import MapError, NoAddressSpace
from ptcore.machine import Event, Handle, Machine, Request
from ptcore.machine.requests import Book
from ptcore.strategies import Known
from ptcore.strategies.direct_map import map_all, split
from ptcore.strategies.ephemeral_map import MOST_PAGES
from ptcore.strategies.layouts import block_bytes
from ptcore.strategies.windows import EphemeralWindow
from ptcore.units import Span

POOL_HIT, POOL_MISS, RELEASED = Event.POOL_HIT, Event.POOL_MISS, Event.RELEASED


class UnmappedPool:
    """Blocks out of the direct map, and pages out of blocks."""

    name = "unmapped_pool"
    exposure_by_design: str | None = None

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self._block = block_bytes(machine)
        self.block_pages = self._block // machine.page_bytes
        self._start = map_all(machine, changes=True)
        self.window = EphemeralWindow(machine)
        self._free = AddressTree(0, machine.data_bytes - 1)
        self._free.reserve(0, machine.data_bytes)
        self._book = Book(machine)
        self._blocks: set[int] = set()

    @property
    def stranded_pages(self) -> int:
        """Pages of the pool's blocks that serve nobody."""
        return self._free.free_bytes // self.machine.page_bytes

    def acquire(self, request: Request) -> Handle:
        """Take pages out of the pool; without enough in a row, blocks out of the direct map first."""
        machine, cpu, pages = self.machine, request.cpu, request.pages
        size = pages * machine.page_bytes
        machine.mmu(cpu)
        try:
            pa = self._free.allocate(size)
            machine.note(POOL_HIT, cpu)
        except NoAddressSpace:
            self._refill(-(-size // self._block), cpu)
            pa = self._free.allocate(size)
            machine.note(POOL_MISS, cpu)
        machine.take_from_pool(pa, pages, cpu)
        return self._book.give(request, pa)

    def _refill(self, blocks: int, cpu: int) -> None:
        size = blocks * self._block
        pa = self.machine.allocate_frames(blocks * self.block_pages, cpu, align=self._block)
        try:
            split(self.machine, Span.of(self._start + pa, size), self._block, cpu)
        except MapError:
            self.machine.free_frames(pa, blocks * self.block_pages, cpu)
            raise
        self.machine.unmap(self._start + pa, size, cpu)
        self.machine.invalidate(Span.of(self._start + pa, size), cpu)
        self._free.free(pa, size)
        self._blocks.update(range(pa, pa + size, self._block))

    def access(self, handle: Handle, span: Span, cpu: int, kind: str = "r") -> None:
        """Touch pages through the CPU's window."""
        self._book.check(handle, span)
        self.machine.mmu(cpu)
        self.window.reach(cpu, handle.pa, span, kind, MOST_PAGES, handle.memory_type)

    def release(self, handle: Handle, cpu: int) -> None:
        """Give the pages back to the pool: no table changes, and no invalidation."""
        self._book.take_back(handle, cpu)
        pa, pages = handle.pa, handle.pages
        self._free.free(pa, pages * self.machine.page_bytes)
        self.machine.return_to_pool(pa, pages, cpu)
        self.machine.note(RELEASED, cpu, pages)

    def idle(self) -> None:
        """Give whole free blocks back to the direct map."""
        for first, last in self._free.spans().tolist():
            for pa in range(-(-first // self._block) * self._block, last + 1, self._block):
                if pa in self._blocks and pa + self._block - 1 <= last:
                    self._give_back(pa)

    def _give_back(self, pa: int) -> None:
        self._free.reserve(pa, self._block)
        self._blocks.remove(pa)
        self.machine.map(self._start + pa, pa, self._block, cpu=0)
        self.machine.free_frames(pa, self.block_pages, cpu=0)
        self.machine.note(Event.DRAINED, 0, 1, first=pa, last=pa + self._block - 1)


STRATEGIES = (
    Known(
        "unmapped_pool",
        "Blocks of 2 MiB out of the direct map at once; pages inside through the ephemeral map.",
        "a proposal's (__GFP_UNMAPPED, 2026)",
        UnmappedPool,
        addresses=False,
    ),
)
