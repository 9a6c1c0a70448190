"""vmalloc: pages mapped one by one at addresses of their own, and unmapped when freed.

The mechanism is the kernel's: Linux mm/vmalloc.c (v6.18). `vmalloc_lazy` is its policy: a free clears
the entries and leaves the invalidation to a drain, which is due when more than lazy_max_pages() pages
are lazy and which invalidates once, from the lowest to the highest address (vmap_areas.py has the
addresses). `vmalloc_eager` is ours, the cautionary baseline: every free invalidates at once, before
the frames go back.

As in the kernel, the page tables of the vmalloc range are not freed when an area is, and an area ends
with a guard page that is never mapped. A drain runs when it is due (the kernel's runs from a work
queue, some hundred microseconds later: `ptcore validate vmalloc` models that delay).
"""

from __future__ import annotations

from functools import partial

from ptcore.allocators import AddressTree
from ptcore.errors import MapError, NoAddressSpace
from ptcore.machine import Event, Handle, Machine, Request
from ptcore.strategies import Known
from ptcore.strategies.layouts import layout_of
from ptcore.strategies.live import Live
from ptcore.strategies.vmap_areas import VmapAreas, VmapOptions
from ptcore.units import Span

GUARD_PAGES = 1  # Linux mm/vmalloc.c, __get_vm_area_node(): size += PAGE_SIZE unless VM_NO_GUARD


class Vmalloc:
    """Areas in the vmalloc range. `lazy`: drains invalidate; else every release does."""

    exposure_by_design: str | None = None

    def __init__(self, machine: Machine, *, lazy: bool) -> None:
        self.machine = machine
        self.name = "vmalloc_lazy" if lazy else "vmalloc_eager"
        self._lazy = lazy
        span = layout_of(machine).vmalloc
        self._tree = AddressTree(span.start, span.last)
        options = VmapOptions(cpus=machine.cpus, page_bytes=machine.page_bytes)
        self.areas = VmapAreas(self._tree, options)
        self._live = Live()

    def acquire(self, request: Request) -> Handle:
        """Take frames and an area, and map the one at the other."""
        page = self.machine.page_bytes
        size = request.pages * page
        pa = self.machine.allocate_frames(request.pages, request.cpu)
        try:
            start = self._area(request, size + GUARD_PAGES * page)
        except NoAddressSpace:
            self.machine.free_frames(pa, request.pages, request.cpu)
            raise
        try:
            self.machine.map(
                start, pa, size, request.cpu, page_size=page, memory_type=request.memory_type
            )
        except MapError:
            # No frame for a table. As in the kernel, the area goes the way of a freed one.
            if self.areas.free(start):
                self._drain(request.cpu)
            self.machine.free_frames(pa, request.pages, request.cpu)
            raise
        handle = self._live.add(request.pages, pa, Span.of(start, size))
        self.machine.note(Event.ACQUIRED, request.cpu, request.pages)
        return handle

    def _area(self, request: Request, size: int) -> int:
        pool = self.areas.pool(self.areas.node_of(request.cpu), size // self.machine.page_bytes)
        ready = len(pool)
        try:
            start = self.areas.allocate(request.cpu, size, request.align)
        except NoAddressSpace:
            # The kernel purges everything, pools included, and tries once more.
            self._drain(request.cpu, full=True)
            start = self.areas.allocate(request.cpu, size, request.align)
            ready = 0
        event = Event.POOL_HIT if len(pool) < ready else Event.POOL_MISS
        self.machine.note(event, request.cpu)
        return start

    def access(self, handle: Handle, span: Span, cpu: int, kind: str = "r") -> None:
        """Touch pages of the area."""
        self._live.check(handle)
        assert handle.span is not None
        handle.check_offsets(span, self.machine.page_bytes)
        start = handle.span.start
        self.machine.access(Span(start + span.start, start + span.last), cpu, kind)

    def release(self, handle: Handle, cpu: int) -> None:
        """Clear the entries; invalidate now (eager) or at the next drain (lazy)."""
        self.machine.mmu(cpu)
        self._live.end(handle)
        assert handle.span is not None
        self.machine.unmap(handle.span.start, handle.span.size, cpu)
        due = self.areas.free(handle.span.start)
        if not self._lazy:
            self._drain(cpu)
        self.machine.free_frames(handle.pa, handle.pages, cpu)
        self.machine.note(Event.RELEASED, cpu, handle.pages)
        if self._lazy and due:
            self._drain(cpu)

    def _drain(self, cpu: int, *, full: bool = False) -> None:
        drained = self.areas.begin_drain(full)
        if drained.first is not None and drained.last is not None:
            self.machine.invalidate(Span(drained.first, drained.last), cpu)
            self.machine.note(
                Event.DRAINED, cpu, drained.areas, first=drained.first, last=drained.last
            )
        self.areas.finish_drain()

    def idle(self) -> None:
        """Nothing is due by time alone: the kernel drains by pages, not by a timer."""


STRATEGIES = (
    Known(
        "vmalloc_eager",
        "Own addresses for every allocation; every free invalidates on all CPUs at once.",
        "ours, over the kernel's mechanism",
        partial(Vmalloc, lazy=False),
    ),
    Known(
        "vmalloc_lazy",
        "The same, but freed areas wait for a drain with one ranged invalidation.",
        "the kernel's",
        partial(Vmalloc, lazy=True),
    ),
)
