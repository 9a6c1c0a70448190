"""Where vmalloc puts an area, and when the addresses of a freed one come back. No tables, no cost.

The policy is the kernel's: Linux mm/vmalloc.c (v6.18), alloc_vmap_area() with node_alloc(),
free_vmap_area_noflush() and __purge_vmap_area_lazy(). In short:

- One tree holds the free addresses; a request takes the lowest hole that fits.
- Before the tree, a request over the whole range asks a pool of its own CPU's *node*: one stack of
  ready areas per size from 1 to 256 pages. Only the area on top is looked at. If that is not
  aligned as asked it goes to the bottom, and the tree serves the request.
- A freed area stays out of use on the *lazy* list of the node that allocated it. When the lazy
  pages of all nodes exceed `lazy_max_pages`, a drain is due. Somebody else runs it later.
- A drain first gives the top quarter of each pool back to the tree, then detaches the lazy lists,
  invalidates once from the lowest to the highest address, and puts the areas, in ascending order,
  on top of their node's pools. What no pool takes goes back to the tree.

Not modelled: blocks of vm_map_ram() (a block itself is an area like any other), areas of the
per-CPU allocator (taken top-down), and the shrinker that empties pools under memory pressure.
For an alignment beyond a page the kernel looks for a hole of size + align - 1 bytes, so that any
start fits, but also takes a shorter one that it happens to pass; this model only does the former.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple, Protocol

from ptcore.errors import InvalidationOwed, Misaligned, NotAllocated, OutOfRange

POOLED_PAGES = 256
"""The largest area that a pool takes. Linux mm/vmalloc.c, MAX_VA_SIZE_PAGES (v6.18)."""

MAX_NODES = 128
"""Linux mm/vmalloc.c, vmap_init_nodes(): clamp(num_possible_cpus(), 1, 128) (v6.18)."""

NODE_ZONE_PAGES = 16
"""Pages in a row whose unowned areas share a node. Linux mm/vmalloc.c, vmap_zone_size (v6.18)."""

LAZY_BYTES = 32 * 1024 * 1024
"""Lazy bytes per bit of the CPU count. Linux mm/vmalloc.c, lazy_max_pages() (v6.18)."""

DECAY_SHIFT = 2
"""A drain gives pool_length >> 2 areas back. Linux mm/vmalloc.c, decay_va_pool_node() (v6.18)."""

UNOWNED = -1
"""The node of an area that was not asked for over the whole range: no pool ever takes it."""


class Addresses(Protocol):
    """What the policy needs of the free addresses; `ptcore.allocators.AddressTree` has it."""

    def allocate(
        self, size: int, align: int = 1, first: int | None = None, last: int | None = None
    ) -> int:
        """Take the lowest hole that fits; raises NoAddressSpace."""

    def free(self, start: int, size: int) -> None:
        """Give a range back."""

    def reserve(self, start: int, size: int) -> None:
        """Take exactly this range; raises MapError unless all of it is free."""


@dataclass(frozen=True, slots=True)
class VmapOptions:
    """The machine that the areas live on.

    `cpus` are the CPUs that are online. `nodes` is the number of nodes, by default one per CPU up
    to MAX_NODES; the kernel counts the CPUs that are possible, and with one node it has no pools.
    """

    cpus: int = 1
    page_bytes: int = 4096
    nodes: int | None = None

    def __post_init__(self) -> None:
        """Check the numbers. Raises OutOfRange or Misaligned."""
        if self.cpus < 1:
            raise OutOfRange(f"cpus is {self.cpus}; a machine has at least one CPU")
        if self.page_bytes < 1 or self.page_bytes & (self.page_bytes - 1):
            raise Misaligned(f"page_bytes is {self.page_bytes}; it must be a power of two")
        if self.nodes is not None and not 1 <= self.nodes <= MAX_NODES:
            raise OutOfRange(f"nodes is {self.nodes}; the kernel has 1 to {MAX_NODES}")

    @property
    def node_count(self) -> int:
        """Nodes in use."""
        return min(self.cpus, MAX_NODES) if self.nodes is None else self.nodes


class Drained(NamedTuple):
    """What one drain detached: its areas and pages, and the span to invalidate (`last` inclusive).

    A drain that found nothing has areas 0 and no span; it needs no invalidation.
    """

    areas: int
    pages: int
    first: int | None
    last: int | None


class AreaState(Enum):
    """What a known area is doing."""

    LIVE = "live"
    LAZY = "lazy"
    DRAINING = "draining"
    POOLED = "pooled"


@dataclass(frozen=True, slots=True)
class Area:
    """One known area: its first address, its pages, its node (or UNOWNED), and what it is doing."""

    start: int
    pages: int
    node: int
    state: AreaState


def lazy_max_pages(cpus: int, page_bytes: int = 4096) -> int:
    """Return how many pages may be lazy before a drain is due: fls(cpus) * 32 MiB of them.

    `cpus` are the CPUs that are online. Linux mm/vmalloc.c, lazy_max_pages() (v6.18).
    """
    return cpus.bit_length() * (LAZY_BYTES // page_bytes)


class LazyLists:
    """The lazily freed areas, a list per node, and the one count of their pages.

    The count goes up when an area is freed, but comes down only when its drain has finished:
    whoever frees in between still sees the pages of the drain (atomic_long_sub() at the end of
    purge_vmap_node()). `pages` may start above 0, for areas that were freed before we looked.
    """

    __slots__ = ("_filled", "_lists", "_zone_bytes", "max_pages", "pages")

    def __init__(self, options: VmapOptions, pages: int = 0) -> None:
        """Start with empty lists and `pages` that are lazy already."""
        self.pages = pages
        self.max_pages = lazy_max_pages(options.cpus, options.page_bytes)
        self._zone_bytes = NODE_ZONE_PAGES * options.page_bytes
        self._lists: list[dict[int, tuple[int, int]]] = [{} for _ in range(options.node_count)]
        self._filled: set[int] = set()  # nodes that have some

    def add(self, start: int, pages: int, node: int) -> bool:
        """File a freed area by its node, or else its address; return whether a drain is due."""
        nodes = len(self._lists)
        at = node if node >= 0 else start // self._zone_bytes % nodes
        self._lists[at][start] = (pages, node)
        self._filled.add(at)
        self.pages += pages
        return self.pages > self.max_pages

    def nodes(self) -> list[int]:
        """Return the nodes that have lazy areas."""
        return sorted(self._filled)

    def detach(self, node: int) -> list[tuple[int, int, int]]:
        """Take one node's list: (start, pages, owner) by ascending start. The count stays."""
        areas = self._lists[node]
        taken = []
        for start in sorted(areas):
            pages, owner = areas[start]
            taken.append((start, pages, owner))
        areas.clear()
        self._filled.discard(node)
        return taken

    def discard(self, start: int) -> bool:
        """Drop an area as if it had never been freed; return whether it was there."""
        for node, areas in enumerate(self._lists):
            if start in areas:
                self.pages -= areas.pop(start)[0]
                if not areas:
                    self._filled.discard(node)
                return True
        return False

    def items(self) -> Iterator[tuple[int, int, int]]:
        """Yield (start, pages, owner) of every lazy area."""
        for areas in self._lists:
            for start, (pages, node) in areas.items():
                yield start, pages, node


class VmapAreas:
    """The addresses of vmalloc areas: nodes, pools, lazy lists and drains over one free tree.

    `tree` holds the addresses that are free now; nobody else changes it. Starts and sizes are bytes
    in whole pages; a size includes the guard page if there is one, as the kernel's does. Operations
    cost O(1), those that reach the tree O(log holes); a drain costs O(areas * log areas).
    """

    def __init__(self, tree: Addresses, options: VmapOptions | None = None) -> None:
        """Manage the addresses of `tree`."""
        self.tree = tree
        self.options = options if options is not None else VmapOptions()
        self._page_bytes = self.options.page_bytes
        self._nodes = self.options.node_count
        self._pools: list[dict[int, list[int]]] = [{} for _ in range(self._nodes)]
        # Which sizes' pools may be long enough to decay: most drains find few.
        self._long: dict[int, set[int]] = {}
        self._lazy = LazyLists(self.options)
        self._live: dict[int, tuple[int, int]] = {}
        self._draining: list[tuple[int, int, int]] | None = None
        self._skip_pools = False
        self.served_by_pools = 0
        """How many areas came out of a pool."""

    @property
    def lazy_pages(self) -> int:
        """Pages of areas that are freed and whose drain has not finished."""
        return self._lazy.pages

    @property
    def lazy_max_pages(self) -> int:
        """A drain is due when `lazy_pages` exceeds this."""
        return self._lazy.max_pages

    def node_of(self, cpu: int) -> int:
        """Return the node that serves a CPU; UNOWNED where there is one node, hence no pools."""
        return cpu % self._nodes if self._nodes > 1 else UNOWNED

    def allocate(
        self, cpu: int, size: int, align: int = 1, first: int | None = None, last: int | None = None
    ) -> int:
        """Return the start of an area of `size` bytes, asked for on `cpu`.

        `first` and `last` (inclusive) bound it to a window, a module's say; such a request goes
        past the pools, and its area never enters one. Raises NoAddressSpace with nothing taken:
        the kernel then drains with `full=True` and tries once more.
        """
        pages, rest = divmod(size, self._page_bytes)
        if rest or pages <= 0 or align & (align - 1) or align <= 0:
            self._pages(size, align)  # says what is wrong
        windowed = first is not None or last is not None
        node = UNOWNED if windowed or self._nodes == 1 else cpu % self._nodes
        pool = self._pools[node].get(pages) if node >= 0 else None
        if pool:
            start = pool.pop()
            if start % align == 0:
                self._live[start] = (pages, node)
                self.served_by_pools += 1
                return start
            pool.insert(0, start)
        start = self._from_tree(size, align, first, last)
        self._live[start] = (pages, node)
        return start

    def free(self, start: int) -> bool:
        """Make a live area lazy; return whether a drain is due. Raises NotAllocated."""
        area = self._live.pop(start, None)
        if area is None:
            raise NotAllocated(f"no live area starts at {start:#x}")
        return self._lazy.add(start, *area)

    def drain(self, full: bool = False) -> Drained:
        """Run a drain as if nobody else ran meanwhile; the caller invalidates what it returns."""
        drained = self.begin_drain(full)
        self.finish_drain()
        return drained

    def begin_drain(self, full: bool = False) -> Drained:
        """Decay the pools and detach the lazy lists; nothing of it is in use before the finish.

        The caller invalidates the returned span, then calls `finish_drain`. `full` empties the
        pools instead of taking a quarter, and nothing will enter them. Raises InvalidationOwed
        if the last drain is not finished (the kernel holds vmap_purge_lock).
        """
        if self._draining is not None:
            raise InvalidationOwed("the last drain is not finished: call finish_drain() first")
        self._draining = taken = []
        self._skip_pools = full
        for node in range(self._nodes) if full else sorted(self._long):
            self._decay(node, full)
        for node in self._lazy.nodes():
            taken += self._lazy.detach(node)
        if not taken:
            return Drained(0, 0, None, None)
        first = end = taken[0][0]
        total, page = 0, self._page_bytes
        for start, pages, _ in taken:
            total += pages
            first = start if start < first else first
            end = start + pages * page if start + pages * page > end else end
        return Drained(len(taken), total, first, end - 1)

    def finish_drain(self) -> None:
        """Put the detached areas into their nodes' pools, or back into the tree."""
        for start, pages, node in self._draining or ():
            self._lazy.pages -= pages
            if node >= 0 and pages <= POOLED_PAGES and not self._skip_pools:
                self._put(node, pages, start)
            else:
                self.tree.free(start, pages * self._page_bytes)
        self._draining = None

    # What follows is for holding the policy against a recording: seeing and correcting its state.

    def pool(self, node: int, pages: int) -> Sequence[int]:
        """Return the starts in one pool, the next to be used last; it is not to be changed."""
        return self._pools[node].get(pages, ()) if node >= 0 else ()

    def areas(self) -> Iterator[Area]:
        """Yield every area that is not in the tree, in no order."""
        for start, (pages, node) in self._live.items():
            yield Area(start, pages, node, AreaState.LIVE)
        for start, pages, node in self._lazy.items():
            yield Area(start, pages, node, AreaState.LAZY)
        for start, pages, node in self._draining or ():
            yield Area(start, pages, node, AreaState.DRAINING)
        for node, pools in enumerate(self._pools):
            for pages, starts in pools.items():
                for start in starts:
                    yield Area(start, pages, node, AreaState.POOLED)

    def place(self, start: int, size: int, node: int) -> None:
        """Make a live area of `node` out of exactly these addresses, which are free in the tree.

        Raises MapError, with nothing taken, unless all of them are.
        """
        pages = self._pages(size, 1)
        self.tree.reserve(start, size)
        self._live[start] = (pages, node)

    def remove(self, area: Area) -> None:
        """Give one area's addresses to the tree at once. Raises NotAllocated if it is not there."""
        if not self._forget(area):
            raise NotAllocated(f"no {area.state.value} area starts at {area.start:#x}")
        self.tree.free(area.start, area.pages * self._page_bytes)

    def put_back(self, start: int) -> None:
        """Undo the last `allocate`, which a pool served: its area is on top again."""
        pages, node = self._live.pop(start)
        self._put(node, pages, start)

    def copy(self, tree: Addresses) -> VmapAreas:
        """Return an independent twin over `tree`, which must hold the same free addresses."""
        twin = VmapAreas(tree, self.options)
        twin._pools = [{size: list(pool) for size, pool in pools.items()} for pools in self._pools]
        twin._long = {node: set(sizes) for node, sizes in self._long.items()}
        for start, pages, node in self._lazy.items():
            twin._lazy.add(start, pages, node)
        twin._lazy.pages = self._lazy.pages
        twin._live = dict(self._live)
        twin._draining = None if self._draining is None else list(self._draining)
        twin._skip_pools = self._skip_pools
        return twin

    def _pages(self, size: int, align: int) -> int:
        pages, rest = divmod(size, self._page_bytes)
        if rest or pages <= 0:
            raise Misaligned(f"size {size} is not a whole number of {self._page_bytes}-byte pages")
        if align <= 0 or align & (align - 1):
            raise Misaligned(f"alignment {align} is not a power of two")
        return pages

    def _from_tree(self, size: int, align: int, first: int | None, last: int | None) -> int:
        if align <= self._page_bytes:
            return self.tree.allocate(size, 1, first, last)
        if first is not None and last is not None and last - first + 1 == size:
            return self.tree.allocate(size, align, first, last)
        # The hole must do for any start, so it is sought by size + align - 1 rounded up to pages.
        hole = self.tree.allocate(size + align, 1, first, last)
        self.tree.free(hole, size + align)
        start = (hole + align - 1) & ~(align - 1)
        self.tree.reserve(start, size)
        return start

    def _put(self, node: int, pages: int, start: int) -> None:
        pool = self._pools[node].setdefault(pages, [])
        pool.append(start)
        if len(pool) >> DECAY_SHIFT:
            self._long.setdefault(node, set()).add(pages)

    def _decay(self, node: int, full: bool) -> None:
        long = self._long.get(node, set())
        for pages in tuple(self._pools[node]) if full else tuple(long):
            pool = self._pools[node][pages]
            if not len(pool) >> DECAY_SHIFT:
                long.discard(pages)  # it has been used meanwhile
            keep = 0 if full else len(pool) - (len(pool) >> DECAY_SHIFT)
            for start in pool[keep:]:
                self.tree.free(start, pages * self._page_bytes)
            del pool[keep:]
        if not long:
            self._long.pop(node, None)

    def _forget(self, area: Area) -> bool:
        if area.state is AreaState.LIVE:
            return self._live.pop(area.start, None) is not None
        if area.state is AreaState.LAZY:
            return self._lazy.discard(area.start)
        if area.state is AreaState.DRAINING:
            entry = (area.start, area.pages, area.node)
            if entry not in (self._draining or ()):
                return False
            assert self._draining is not None
            self._draining.remove(entry)
            self._lazy.pages -= area.pages
            return True
        pool = self._pools[area.node].get(area.pages, [])
        if area.start not in pool:
            return False
        pool.remove(area.start)
        return True
