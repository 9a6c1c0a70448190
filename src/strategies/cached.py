"""A page-table cache in front of another strategy: hot pages get ready mappings, page by page.

The idea of a page-table cache for pages outside the direct map comes from a secondary article on the
2026 discussion of such pages; the closest thing in a real kernel is kmap_local's and vmap's caching of
ready page tables. The policy here is ours: a window of slots whose tables are built at boot; a page that
is touched gets a slot (one entry written, no allocation); slots taken from pages are owed an
invalidation, and all of them are cleaned by one, when no clean slot is left.

Allocations of more pages than a part of the window go to the strategy behind, as do their accesses.
"""

from __future__ import annotations

from ptcore.caches import PageTableCache
from ptcore.errors import NotAllocated
from ptcore.machine import Event, Handle, Machine, Request, Strategy
from ptcore.strategies import Known
from ptcore.strategies.layouts import CACHE_WINDOW, layout_of
from ptcore.strategies.vmalloc import Vmalloc
from ptcore.strategies.windows import build_tables
from ptcore.units import Span

SLOTS = 1024
LARGEST_SHARE = 16  # an allocation of more than SLOTS / LARGEST_SHARE pages goes past the cache


class Cached:
    """Small allocations are reached through the cache's window, large ones through `inner`."""

    exposure_by_design: str | None = None

    def __init__(
        self, machine: Machine, inner: Strategy, *, slots: int = SLOTS, policy: str = "lru"
    ) -> None:
        self.machine = machine
        self.inner = inner
        self.name = f"{inner.name}+page_table_cache"
        self.cache = PageTableCache(slots, policy)
        start = layout_of(machine).window(CACHE_WINDOW).start
        self._window = Span.of(start, slots * machine.page_bytes)
        self._largest = max(1, slots // LARGEST_SHARE)
        self._live: dict[int, Handle] = {}
        self._behind: dict[int, Handle] = {}
        self._next = 0
        build_tables(machine, self._window)

    def _slot_va(self, slot: int) -> int:
        return self._window.start + slot * self.machine.page_bytes

    def acquire(self, request: Request) -> Handle:
        """Take frames only; they become reachable page by page, when they are touched."""
        self._next += 1
        if request.pages > self._largest:
            inner = self.inner.acquire(request)
            handle = Handle(self._next, inner.pages, inner.pa, inner.span)
            self._behind[handle.number] = inner
            return handle
        pa = self.machine.allocate_frames(request.pages, request.cpu)
        handle = Handle(self._next, request.pages, pa, None, request.memory_type)
        self._live[handle.number] = handle
        self.machine.note(Event.ACQUIRED, request.cpu, request.pages)
        return handle

    def access(self, handle: Handle, span: Span, cpu: int, kind: str = "r") -> None:
        """Touch each page through its slot, mapping it first where it has none."""
        inner = self._behind.get(handle.number)
        if inner is not None:
            self.inner.access(inner, span, cpu, kind)
            return
        if handle.number not in self._live:
            raise NotAllocated(f"handle {handle.number} is not live")
        page = self.machine.page_bytes
        handle.check_offsets(span, page)
        for number in range(span.start // page, span.last // page + 1):
            slot = self._slot_of(handle.pa // page + number, cpu, handle.memory_type)
            va = self._slot_va(slot)
            self.machine.access(Span.of(va, page), cpu, kind)

    def _slot_of(self, page: int, cpu: int, memory_type: str | None) -> int:
        slot = self.cache.lookup(page)
        if slot >= 0:
            self.machine.note(Event.CACHE_HIT, cpu)
            return slot
        self.machine.note(Event.CACHE_MISS, cpu)
        if not self.cache.clean:
            self._make_clean(cpu)
        slot = self.cache.admit(page)
        size = self.machine.page_bytes
        va = self._slot_va(slot)
        self.machine.map(va, page * size, size, cpu, page_size=size, memory_type=memory_type)
        return slot

    def _make_clean(self, cpu: int) -> None:
        """Give up pages if too few slots are owed, then let one invalidation clean them all."""
        short = self.cache.evict_batch - self.cache.owed
        for _, slot in self.cache.evict(max(short, 0)).tolist():
            self.machine.unmap(self._slot_va(slot), self.machine.page_bytes, cpu)
        self.machine.invalidate(self._window, cpu)
        self.cache.invalidated()

    def release(self, handle: Handle, cpu: int) -> None:
        """Clear the slots of its pages; their invalidation is owed until a slot is wanted."""
        self.machine.mmu(cpu)
        inner = self._behind.pop(handle.number, None)
        if inner is not None:
            self.inner.release(inner, cpu)
            return
        if self._live.pop(handle.number, None) is None:
            raise NotAllocated(f"handle {handle.number} is not live")
        size = self.machine.page_bytes
        for page in range(handle.pa // size, handle.pa // size + handle.pages):
            if page in self.cache:
                self.machine.unmap(self._slot_va(self.cache.drop(page)), size, cpu)
        self.machine.free_frames(handle.pa, handle.pages, cpu)
        self.machine.note(Event.RELEASED, cpu, handle.pages)

    def idle(self) -> None:
        """Let the strategy behind do what it put off."""
        self.inner.idle()


def vmalloc_lazy_cached(machine: Machine) -> Cached:
    """Return the page-table cache in front of lazy vmalloc."""
    return Cached(machine, Vmalloc(machine, lazy=True))


STRATEGIES = (
    Known(
        "vmalloc_lazy+page_table_cache",
        "Small allocations through a window of ready mappings; large ones through lazy vmalloc.",
        "ours, after a secondary article's proposal",
        vmalloc_lazy_cached,
    ),
)
