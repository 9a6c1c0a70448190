"""Windows of ready tables: where pages without an address of their own are reached for a moment.

`EphemeralWindow` is the mechanism of the ephemeral map ("mermap") proposed for Linux with the
__GFP_UNMAPPED series of 2026 (bjackman/linux, mm/mermap.c): a region per CPU whose tables are built
beforehand, a pointer that only goes up, no invalidation when a mapping is given up, and one, of
this CPU alone, when the region is used up. It may fail; the last page of a region is a reserve that
always serves one page and is invalidated at once. There it is a region per address space and CPU;
here they lie in the kernel's one table, the regions of one address space after those of another.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ptcore.errors import OutOfRange
from ptcore.machine import Event, Machine
from ptcore.strategies.layouts import EPHEMERAL_WINDOW, layout_of
from ptcore.units import Span

# The early prototype's region: PAGE_SIZE << MAX_PAGECACHE_ORDER, 2 MiB with pages of 4 KiB.
REGION_PAGES = 512
RESERVE_PAGES = 1


@dataclass(slots=True)
class Region:
    """One CPU's: its first address, the next page that was never used, and what is live in it."""

    start: int
    next: int = 0
    live: dict[int, int] = field(default_factory=dict)  # first page: pages


class EphemeralWindow:
    """A region of REGION_PAGES per address space and CPU, in the layout's window (`layouts`).

    `regions`: those of the address spaces that the CPUs are in, by CPU; in the beginning, of the first one.
    """

    def __init__(self, machine: Machine, pages: int = REGION_PAGES) -> None:
        self.machine = machine
        self.pages = pages
        self._room = layout_of(machine).window(EPHEMERAL_WINDOW)
        self._spaces: dict[int, list[Region]] = {}
        self.regions = list(self._begin(0))

    @property
    def spaces(self) -> tuple[int, ...]:
        """The address spaces that have regions, by age."""
        return tuple(self._spaces)

    def enter(self, cpu: int, space: int) -> None:
        """Let a CPU be in an address space, whose regions and their tables are built when it is new."""
        self.machine.mmu(cpu)
        self.regions[cpu] = (self._spaces.get(space) or self._begin(space))[cpu]

    def end(self, space: int, cpu: int) -> None:
        """End an address space: its CPUs go to the first one, no CPU holds anything of it, its tables go.

        Raises OutOfRange for the first one, one that is not there, and while something is mapped in it.
        """
        regions = self._spaces.get(space)
        if regions is None or space == 0 or any(region.live for region in regions):
            raise OutOfRange(f"address space {space} cannot end: not there, the first, or in use")
        for number, region in enumerate(self.regions):
            if region is regions[number]:
                self.regions[number] = self._spaces[0][number]
        span = self._span(regions)
        self.machine.invalidate(span, cpu)
        page = self.machine.page_bytes
        self.machine.map(
            span.start, 0, span.size, cpu, page_size=page
        )  # to take tables out, fill them
        self.machine.unmap(span.start, span.size, cpu, free_tables=True)
        self.machine.invalidate(span, cpu)
        del self._spaces[space]

    def _begin(self, space: int) -> list[Region]:
        """Build the regions of a new address space for every CPU there is. OutOfRange without room."""
        size = self.pages * self.machine.page_bytes
        each = size * self.machine.cpus
        taken = {regions[0].start for regions in self._spaces.values()}
        starts = range(self._room.start, self._room.last + 2 - each, each)
        start = next((start for start in starts if start not in taken), None)
        if start is None:
            raise OutOfRange(
                f"no room for the regions of another address space: {len(taken)} have some"
            )
        made = [Region(start + cpu * size) for cpu in range(self.machine.cpus)]
        build_tables(self.machine, self._span(made))
        self._spaces[space] = made
        return made

    def _span(self, regions: list[Region]) -> Span:
        return Span.of(regions[0].start, len(regions) * self.pages * self.machine.page_bytes)

    def _take(self, cpu: int, pages: int) -> int | None:
        """Return the first of so many pages of the CPU's region that it cannot hold; None without room."""
        region = self.regions[cpu]
        usable = self.pages - RESERVE_PAGES
        first = region.next
        if first + pages > usable:
            first = max((start + count for start, count in region.live.items()), default=0)
            if first + pages > usable:
                return None
            span = Span.of(region.start, self.pages * self.machine.page_bytes)
            self.machine.invalidate(span, cpu, (cpu,))
        region.next = first + pages
        return first

    def get(self, cpu: int, pa: int, pages: int, memory_type: str | None = None) -> int | None:
        """Map frames in the CPU's region; return the address, or None where there is no room."""
        first = self._take(cpu, pages)
        if first is None:
            return None
        region, page = self.regions[cpu], self.machine.page_bytes
        region.live[first] = pages
        va, size = region.start + first * page, pages * page
        self.machine.map(va, pa, size, cpu, page_size=page, memory_type=memory_type, cpus=(cpu,))
        return va

    def put(self, cpu: int, va: int) -> None:
        """Clear the entries of what `get` returned; the CPU may hold them until its region wraps."""
        region, page = self.regions[cpu], self.machine.page_bytes
        pages = region.live.pop((va - region.start) // page)
        self.machine.unmap(va, pages * page, cpu, cpus=(cpu,))

    def reach(
        self,
        cpu: int,
        pa: int,
        span: Span,
        kind: str,
        most: int,
        memory_type: str | None = None,
    ) -> None:
        """Touch the bytes `span` of the memory at `pa`, up to `most` pages at a time."""
        page, mine = self.machine.page_bytes, (cpu,)
        at, last = span.start // page, span.last // page
        while at <= last:
            left = last - at + 1
            first = self._take(cpu, left if left < most else most)
            if first is not None:
                # What goes into the region behind it, in pieces of `most`, is reached with it.
                room = self.pages - RESERVE_PAGES - first
                count = left if left <= room else room // most * most
                region = self.regions[cpu]
                region.next = first + count
                va, frame = region.start + first * page, pa + at * page
                self.machine.reach(
                    va, frame, count, cpu, kind, at_once=most, memory_type=memory_type, cpus=mine
                )
            else:
                count = 1
                self._through_reserve(cpu, pa + at * page, kind, memory_type)
            at += count

    def _through_reserve(self, cpu: int, pa: int, kind: str, memory_type: str | None) -> None:
        page = self.machine.page_bytes
        va = self.regions[cpu].start + (self.pages - 1) * page
        self.machine.note(Event.FALLBACK, cpu)
        self.machine.map(va, pa, page, cpu, page_size=page, memory_type=memory_type, cpus=(cpu,))
        self.machine.access(Span.of(va, page), cpu, kind)
        self.machine.unmap(va, page, cpu, cpus=(cpu,))
        self.machine.invalidate(Span.of(va, page), cpu, (cpu,))


def build_tables(machine: Machine, span: Span) -> None:
    """Have every table of a window before its first use, and nothing mapped."""
    page = machine.page_bytes
    machine.map(span.start, 0, span.size, cpu=0, page_size=page)
    machine.unmap(span.start, span.size, cpu=0)
    machine.invalidate(span, cpu=0)
