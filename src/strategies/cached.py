"""A page-table cache in front of another strategy: hot pages get ready mappings, page by page.

The idea of a page-table cache for pages outside the direct map comes from a secondary article on the
2026 discussion of such pages; the closest thing in a real kernel is kmap_local's and vmap's caching of
ready page tables. The policy here is ours: a window of slots whose tables are built at boot; a page that
is touched gets a slot (one entry written, no allocation); slots taken from pages are owed an
invalidation, and all of them are cleaned by one, when no clean slot is left.

It stands in front of any strategy: `page_table_cache+NAME`. Where NAME's pages have no address of their own
(`unmapped_pool`, `ephemeral_map` ...), their memory is NAME's, and the cache is where small allocations are
reached. Where they have one, small allocations go past NAME: they are frames alone, and never get an
area. Allocations of more than a sixteenth of the window, and a device's, are NAME's in all.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from ptcore.caches import PageTableCache
from ptcore.errors import NotAllocated
from ptcore.machine import Event, Handle, Machine, Request, Strategy
from ptcore.strategies import Known, get
from ptcore.strategies.layouts import CACHE_WINDOW, layout_of
from ptcore.strategies.windows import build_tables
from ptcore.units import Span

FRONT = "page_table_cache"
ACQUIRED, CACHE_HIT, CACHE_MISS = Event.ACQUIRED, Event.CACHE_HIT, Event.CACHE_MISS
SLOTS = 1024
LARGEST_SHARE = 16  # an allocation of more than SLOTS / LARGEST_SHARE pages goes past the cache


class Cached:
    """Small allocations are reached through the cache's window, others through `inner`.

    `memory_of_inner`: the memory of small ones is the inner strategy's too.
    """

    def __init__(
        self,
        machine: Machine,
        inner: Strategy,
        *,
        slots: int = SLOTS,
        policy: str = "lru",
        memory_of_inner: bool = False,
    ) -> None:
        self.machine = machine
        self.inner = inner
        self.name = f"{FRONT}+{inner.name}"
        self.exposure_by_design = inner.exposure_by_design
        self.cache = PageTableCache(slots, policy)
        start = layout_of(machine).window(CACHE_WINDOW).start
        self._window = Span.of(start, slots * machine.page_bytes)
        self._largest = max(1, slots // LARGEST_SHARE)
        self._of_inner = memory_of_inner
        # Number: the inner strategy's handle if it has one, and whether the cache reaches it.
        self._live: dict[int, tuple[Handle | None, bool]] = {}
        self._next = 0
        build_tables(machine, self._window)

    @property
    def stranded_pages(self) -> int:
        """Pages that the strategy behind keeps and that serve nobody."""
        return int(getattr(self.inner, "stranded_pages", 0))

    @property
    def hit_rate(self) -> float:
        """The share of page touches that found a ready mapping; 0 before the first."""
        counts = self.cache.counts
        return counts.hits / max(counts.hits + counts.misses, 1)

    def acquire(self, request: Request) -> Handle:
        """Take frames, or let the strategy behind do it; small ones become reachable when touched."""
        pages = request.pages
        small = pages <= self._largest and request.device is None
        inner = span = None
        if self._of_inner:
            inner = self.inner.acquire(request)
            self._live[inner.number] = inner, small
            return inner
        if small:
            pa = self.machine.allocate_frames(pages, request.cpu)
            self.machine.note(ACQUIRED, request.cpu, pages)
        else:
            inner = self.inner.acquire(request)
            pa, span = inner.pa, inner.span
        self._next += 1
        handle = Handle(self._next, pages, pa, span, request.memory_type)
        self._live[handle.number] = inner, small
        return handle

    def _known(self, handle: Handle) -> tuple[Handle | None, bool]:
        found = self._live.get(handle.number)
        if found is None:
            raise NotAllocated(f"handle {handle.number} is not live")
        return found

    def access(self, handle: Handle, span: Span, cpu: int, kind: str = "r") -> None:
        """Touch each page through its slot, mapping it first where it has none."""
        inner, small = self._known(handle)
        if not small:
            assert inner is not None
            self.inner.access(inner, span, cpu, kind)
            return
        self.machine.mmu(cpu)
        page = self.machine.page_bytes
        handle.check_offsets(span, page)
        start = handle.pa // page
        at, end = start + span.start // page, start + span.last // page + 1
        while at < end:
            at = self._touch_some(at, end, cpu, kind, handle.memory_type)

    def _touch_some(
        self, first: int, end: int, cpu: int, kind: str, memory_type: str | None
    ) -> int:
        """Touch pages from `first` on, as many as find a slot or a clean one; return where that ends.

        What lies in a row on both sides is mapped, and touched, together.
        """
        cache, machine, start = self.cache, self.machine, self._window.start
        if not cache.clean and first not in cache:
            self._make_clean(cpu)
        pages, touched, new, hits, misses = cache.serve(first, end)
        machine.map_rows(start, new, cpu, memory_type=memory_type)
        if hits:
            machine.note(CACHE_HIT, cpu, hits)
        if misses:
            machine.note(CACHE_MISS, cpu, misses)
        machine.access_rows(start, touched, cpu, kind)
        return first + pages

    def _make_clean(self, cpu: int) -> None:
        """Give up pages if too few slots are owed, then let one invalidation clean them all."""
        short = self.cache.evict_batch - self.cache.owed
        given_up = sorted(map(tuple, self.cache.evict(max(short, 0)).tolist()))
        self.machine.unmap_rows(self._window.start, _rows(given_up), cpu)
        self.machine.invalidate(self._window, cpu)
        self.cache.invalidated()

    def release(self, handle: Handle, cpu: int) -> None:
        """Clear the slots of its pages; their invalidation is owed until a slot is wanted."""
        self.machine.mmu(cpu)
        inner, small = self._known(handle)
        del self._live[handle.number]
        if small:
            first = handle.pa // self.machine.page_bytes
            gone = self.cache.drop_all(first, first + handle.pages)
            self.machine.unmap_rows(self._window.start, gone, cpu)
        if inner is not None:
            self.inner.release(inner, cpu)
            return
        self.machine.free_frames(handle.pa, handle.pages, cpu)
        self.machine.note(Event.RELEASED, cpu, handle.pages)

    def idle(self) -> None:
        """Let the strategy behind do what it put off."""
        self.inner.idle()


def _rows(pairs: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int, int]]:
    """Join (page, slot) that follow each other in both: (first page, first slot, how many)."""
    page = slot = count = 0
    for one, place in pairs:
        if count and (one, place) == (page + count, slot + count):
            count += 1
            continue
        if count:
            yield page, slot, count
        page, slot, count = one, place, 1
    if count:
        yield page, slot, count


def in_front_of(behind: Known) -> Known:
    """Return the page-table cache in front of a strategy, as a strategy."""

    def make(machine: Machine) -> Cached:
        return Cached(machine, behind.make(machine), memory_of_inner=not behind.addresses)

    return replace(
        behind,
        name=f"{FRONT}+{behind.name}",
        sentence=f"Small allocations through a window of ready mappings, others by {behind.name}.",
        provenance=f"ours, after a secondary article's proposal; behind it: {behind.provenance}",
        make=make,
        addresses=False,
    )


FRONTS = {FRONT: in_front_of}


def _vmalloc(machine: Machine) -> Strategy:
    return in_front_of(get("vmalloc_lazy")).make(machine)


def _pool(machine: Machine) -> Strategy:
    return in_front_of(get("unmapped_pool")).make(machine)


STRATEGIES = (
    Known(
        "page_table_cache+vmalloc_lazy",
        "Small allocations through a window of ready mappings; large ones through lazy vmalloc.",
        "ours, after a secondary article's proposal",
        _vmalloc,
        addresses=False,
    ),
    Known(
        "page_table_cache+unmapped_pool",
        "Pages of the pool that are hot keep ready mappings; others go through the ephemeral map.",
        "ours, after a secondary article's proposal, over a proposal's pool",
        _pool,
        addresses=False,
    ),
)
