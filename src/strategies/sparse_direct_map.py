"""sparse_direct_map: linear segments with holes between them, and a second direct map for device memory.

Segments and holes are the kernel's: memory hotplug adds sections of the direct map and removes them
(Linux arch/x86/mm/init_64.c, arch_add_memory(), arch_remove_memory()), in leaves as large as their
alignment allows: where pa and va differ modulo 1G, or a hole cuts it, there is no leaf of 1G. A second
direct map, for memory that only a device's driver may reach, comes from a secondary article on the
2026 discussion; here it is a range of its own, in which a device's memory is a segment for as long as it
lives. Whatever is in no segment is unreachable: a hole.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from functools import partial

from ptcore.errors import AddressError, AlreadyMapped, MapError, NotMapped
from ptcore.machine import Handle, Machine, Request
from ptcore.machine.requests import Book
from ptcore.strategies import Known
from ptcore.strategies.layouts import layout_of
from ptcore.units import Span


@dataclass(frozen=True, slots=True)
class Segment:
    """Memory from `pa` on is at `va` and on, in leaves of `page_size` (None: as large as fit). Bytes."""

    pa: int
    length: int
    va: int
    page_size: int | None = None


class SparseDirectMap:
    """Segments by physical address. `holes`: (pa, length) of memory that is in none, in bytes."""

    exposure_by_design: str | None = "reachable by design, but device memory"

    def __init__(
        self, machine: Machine, *, holes: tuple[tuple[int, int], ...] = (), name: str = ""
    ) -> None:
        self.machine = machine
        self.name = name or "sparse_direct_map"
        self.segments: list[Segment] = []
        self.layout = layout_of(machine)
        base = self.layout.direct_map.start
        self._book = Book(machine)
        self._devices: set[int] = set()
        start = 0
        for pa, length in (*sorted(holes), (machine.data_bytes, 0)):
            if pa > start:
                self.add_segment(Segment(start, pa - start, base + start), 0)
            start = pa + length

    def add_segment(self, segment: Segment, cpu: int) -> None:
        """Map a segment, in leaves as large as pa, va and length allow. O(log segments) and its leaves.

        Raises AlreadyMapped where another one has some of the memory, AddressError for parts of pages.
        """
        page = self.machine.page_bytes
        if (segment.pa | segment.va | segment.length) % page or segment.length <= 0:
            raise AddressError(f"{segment} has parts of pages")
        at = bisect_right(self.segments, segment.pa, key=lambda s: s.pa)
        for other in self.segments[max(at - 1, 0) : at + 1]:
            if other.pa < segment.pa + segment.length and segment.pa < other.pa + other.length:
                raise AlreadyMapped(f"{segment} has memory of {other}")
        self.machine.map(segment.va, segment.pa, segment.length, cpu, page_size=segment.page_size)
        self.segments.insert(at, segment)

    def remove_segment(self, pa: int, cpu: int) -> None:
        """Unmap the segment that begins at `pa`, with one invalidation on all CPUs. NotMapped without one."""
        segment = self.find(pa)
        if segment is None or segment.pa != pa:
            raise NotMapped(f"no segment begins at {pa:#x}")
        self.machine.unmap(segment.va, segment.length, cpu)
        self.machine.invalidate(Span.of(segment.va, segment.length), cpu)
        self.segments.remove(segment)

    def find(self, pa: int) -> Segment | None:
        """Return the segment that has `pa`, None in a hole. O(log segments)."""
        at = bisect_right(self.segments, pa, key=lambda s: s.pa) - 1
        if at < 0 or pa >= self.segments[at].pa + self.segments[at].length:
            return None
        return self.segments[at]

    def acquire(self, request: Request) -> Handle:
        """Take frames; a device's become a segment of the second direct map."""
        page = self.machine.page_bytes
        size = request.pages * page
        pa = self.machine.allocate_frames(
            request.pages, request.cpu, align=max(request.align, page)
        )
        segment = self.find(pa)
        start = None if segment is None else segment.va + pa - segment.pa
        if request.device is not None:
            start = self.layout.second_map.start + pa
            try:
                self.machine.map(start, pa, size, request.cpu, memory_type=request.memory_type)
            except MapError:
                self.machine.free_frames(pa, request.pages, request.cpu)
                raise
        span = None if start is None else Span.of(start, size)
        handle = self._book.give(request, pa, span)
        if request.device is not None:
            self._devices.add(handle.number)
        return handle

    def access(self, handle: Handle, span: Span, cpu: int, kind: str = "r") -> None:
        """Touch pages in their segment. Raises NotMapped for memory in a hole."""
        self._book.check(handle, span)
        if handle.span is None:
            raise NotMapped(f"the memory at {handle.pa:#x} is in a hole of the direct map")
        self.machine.access_at(handle.span.start, span, cpu, kind)

    def release(self, handle: Handle, cpu: int) -> None:
        """Remove a device's segment; other memory stays reachable: that is the design."""
        self._book.take_back(handle, cpu)
        if handle.number in self._devices and handle.span is not None:
            self._devices.remove(handle.number)
            self.machine.unmap(handle.span.start, handle.span.size, cpu)
            self.machine.invalidate(handle.span, cpu)
        self._book.free_frames(handle, cpu)

    def idle(self) -> None:
        """Nothing is ever put off."""


STRATEGIES = (
    Known(
        "sparse_direct_map",
        "Linear segments with holes; a device's memory in a second direct map while it lives.",
        "the kernel's hotplug; the second direct map a secondary article's",
        partial(SparseDirectMap),
    ),
)
