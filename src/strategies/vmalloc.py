"""vmalloc: pages mapped one by one at addresses of their own, and unmapped when freed.

The mechanism is the kernel's: Linux mm/vmalloc.c (v6.18). `vmalloc_lazy` is its policy: a free clears
the entries and leaves the invalidation to a drain, which is due when more than lazy_max_pages() pages
are lazy and which invalidates once, from the lowest to the highest address (vmap_areas.py has the
addresses). `vmalloc_eager` is ours, the cautionary baseline: every free invalidates at once, before
the frames go back.

As in the kernel, the page tables of the vmalloc range are not freed when an area is, and an area ends
with a guard page that is never mapped. A drain runs when it is due (the kernel's runs from a work
queue, some hundred microseconds later: `ptcore validate vmalloc` models that delay).

`vmalloc_huge` is the kernel's with VM_ALLOW_HUGE_VMAP (__vmalloc_node_range()): a request of PMD_SIZE
and more is rounded up to it, aligned to it, and mapped with leaves of it; where frames, addresses or
tables for that are not to be had, it falls back to pages. What rounding takes serves nobody.
`vmalloc_prebuilt` is ours, after a secondary article's "pre-allocated shadow page tables": the tables of
the first part of the range, which leftmost fit fills first, are built at boot, so that a mapping there
allocates none.
"""

from __future__ import annotations

from functools import partial

from ptcore.allocators import AddressTree
from ptcore.errors import MapError, NoAddressSpace
from ptcore.machine import Event, Handle, Machine, Request
from ptcore.machine.requests import Book
from ptcore.strategies import Known
from ptcore.strategies.layouts import block_bytes, layout_of
from ptcore.strategies.vmap_areas import VmapAreas, VmapOptions
from ptcore.strategies.windows import build_tables
from ptcore.units import Span

POOL_HIT, POOL_MISS = Event.POOL_HIT, Event.POOL_MISS
GUARD_PAGES = 1  # Linux mm/vmalloc.c, __get_vm_area_node(): size += PAGE_SIZE unless VM_NO_GUARD
PREBUILT = 256 << 20  # bytes: ours


class Vmalloc:
    """Areas in the vmalloc range. `lazy`: drains invalidate; else every release does.

    `huge`: large leaves for large requests. `prebuilt`: bytes from the start of the range whose tables are
    built at boot. `span`: the range, by default the layout's.
    """

    exposure_by_design: str | None = None

    def __init__(
        self,
        machine: Machine,
        *,
        lazy: bool,
        huge: bool = False,
        prebuilt: int = 0,
        span: Span | None = None,
    ) -> None:
        self.machine = machine
        self.name = "vmalloc_lazy" if lazy else "vmalloc_eager"
        self.name = "vmalloc_huge" if huge else "vmalloc_prebuilt" if prebuilt else self.name
        self._lazy = lazy
        self._large = block_bytes(machine) if huge else 0
        span = span or layout_of(machine).vmalloc
        self._tree = AddressTree(span.start, span.last)
        if prebuilt:
            build_tables(machine, Span.of(span.start, prebuilt))
        options = VmapOptions(cpus=machine.cpus, page_bytes=machine.page_bytes)
        self.areas = VmapAreas(self._tree, options)
        self._book = Book(machine)
        self._rounded: dict[int, int] = {}  # handle: pages, where they are more than its own
        self.stranded_pages = 0
        """Pages that rounding up to large leaves took and that serve nobody."""

    def acquire(self, request: Request) -> Handle:
        """Take frames and an area, and map the one at the other."""
        large = self._large
        if large and request.pages * self.machine.page_bytes >= large:
            try:
                return self._acquire(request, large)
            except MapError:
                self.machine.note(Event.FALLBACK, request.cpu)
        return self._acquire(request, self.machine.page_bytes)

    def _acquire(self, request: Request, leaf: int) -> Handle:
        page = self.machine.page_bytes
        size = -(-request.pages * page // leaf) * leaf
        pages = size // page
        pa = self.machine.allocate_frames(pages, request.cpu, align=leaf)
        try:
            start = self._place(request, size, leaf)
        except NoAddressSpace:
            self.machine.free_frames(pa, pages, request.cpu)
            raise
        try:
            self.machine.map(
                start, pa, size, request.cpu, page_size=leaf, memory_type=request.memory_type
            )
        except MapError:
            # No frame for a table. As in the kernel, the area goes the way of a freed one.
            if self._forget(start, pages):
                self._drain(request.cpu)
            self.machine.free_frames(pa, pages, request.cpu)
            raise
        handle = self._book.give(request, pa, Span(start, start + request.pages * page - 1))
        if pages > request.pages:
            self._rounded[handle.number] = pages
            self.stranded_pages += pages - request.pages
        return handle

    def _place(self, request: Request, size: int, leaf: int) -> int:
        """Return where `size` bytes go."""
        guarded = size + GUARD_PAGES * self.machine.page_bytes
        align = request.align if leaf == self.machine.page_bytes else max(leaf, request.align)
        return self._area(request.cpu, guarded, align)

    def _forget(self, start: int, pages: int) -> bool:
        """Give addresses back, lazily; return whether a drain is due."""
        return self.areas.free(start)

    def _area(self, cpu: int, size: int, align: int) -> int:
        areas = self.areas
        served = areas.served_by_pools
        try:
            start = areas.allocate(cpu, size, align)
        except NoAddressSpace:
            # The kernel purges everything, pools included, and tries once more.
            self._drain(cpu, full=True)
            start = areas.allocate(cpu, size, align)
        self.machine.note(POOL_HIT if areas.served_by_pools > served else POOL_MISS, cpu)
        return start

    def access(self, handle: Handle, span: Span, cpu: int, kind: str = "r") -> None:
        """Touch pages of the area."""
        self._book.check(handle, span)
        assert handle.span is not None
        self.machine.access_at(handle.span.start, span, cpu, kind)

    def release(self, handle: Handle, cpu: int) -> None:
        """Clear the entries; invalidate now (eager) or at the next drain (lazy)."""
        self._book.take_back(handle, cpu)
        assert handle.span is not None
        start, pages = handle.span.start, handle.pages
        if self._rounded and handle.number in self._rounded:
            pages = self._rounded.pop(handle.number)
            self.stranded_pages -= pages - handle.pages
        self.machine.unmap(start, pages * self.machine.page_bytes, cpu)
        due = self._forget(start, pages)
        if not self._lazy:
            self._drain(cpu)
        self._book.free_frames(handle, cpu, pages)
        if self._lazy and due:
            self._drain(cpu)

    def _drain(self, cpu: int, *, full: bool = False, also: Span | None = None) -> None:
        """Invalidate once for all that is lazy (and `also`), and let it be used again."""
        drained = self.areas.begin_drain(full)
        whole = also
        if drained.first is not None and drained.last is not None:
            whole = Span(drained.first, drained.last)
            if also is not None:
                whole = Span(min(whole.start, also.start), max(whole.last, also.last))
        if whole is not None:
            self.machine.invalidate(whole, cpu)
            self.machine.note(Event.DRAINED, cpu, drained.areas, first=whole.start, last=whole.last)
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
    Known(
        "vmalloc_huge",
        "vmalloc_lazy with leaves of 2 MiB for requests of 2 MiB and more, else pages.",
        "the kernel's (VM_ALLOW_HUGE_VMAP)",
        partial(Vmalloc, lazy=True, huge=True),
    ),
    Known(
        "vmalloc_prebuilt",
        "vmalloc_lazy with the tables of the first 256 MiB of its range built at boot.",
        "ours, after a secondary article's proposal",
        partial(Vmalloc, lazy=True, prebuilt=PREBUILT),
    ),
)
