"""naive_unmap: pages leave the direct map one allocation at a time, and every removal invalidates
on all CPUs.

The cautionary baseline. The mechanism is the kernel's (Linux arch/x86/mm/pat/set_memory.c,
set_direct_map_invalid_noflush(), with a flush after it, as mm/secretmem.c has it): splits of the
direct map's large leaves, entries cleared page by page, an invalidation each. To touch such a page
the kernel must put it back for a moment and take it out again, with another invalidation.
"""

from __future__ import annotations

from ptcore.errors import MapError
from ptcore.machine import Handle, Machine, Request
from ptcore.machine.requests import Book
from ptcore.strategies import Known
from ptcore.strategies.direct_map import map_all, split
from ptcore.units import Span


class NaiveUnmap:
    """Memory is out of the direct map while it is allocated; page by page."""

    name = "naive_unmap"
    exposure_by_design: str | None = None

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self._book = Book(machine)
        self._start = map_all(machine, changes=True)

    def acquire(self, request: Request) -> Handle:
        """Take frames and remove each from the direct map, with an invalidation on all CPUs."""
        page = self.machine.page_bytes
        pa = self.machine.allocate_frames(request.pages, request.cpu)
        span = Span.of(self._start + pa, request.pages * page)
        try:
            split(self.machine, span, page, request.cpu)
        except MapError:  # no frame for a table
            self.machine.free_frames(pa, request.pages, request.cpu)
            raise
        self.machine.unmap_by_page(self._start + pa, request.pages, request.cpu)
        return self._book.give(request, pa)

    def access(self, handle: Handle, span: Span, cpu: int, kind: str = "r") -> None:
        """Put each page back, touch it, and remove it again."""
        self._book.check(handle, span)
        self.machine.mmu(cpu)
        page = self.machine.page_bytes
        first, last = span.start // page, span.last // page
        pa, pages, kept = handle.pa + first * page, last - first + 1, handle.memory_type
        va = self._start + pa
        self.machine.touch_by_page(va, pa, pages, cpu, kind, step=page, memory_type=kept)

    def release(self, handle: Handle, cpu: int) -> None:
        """Put the pages back into the direct map, in leaves of the smallest size: it does not heal."""
        self._book.take_back(handle, cpu)
        page = self.machine.page_bytes
        size = handle.pages * page
        self.machine.map(self._start + handle.pa, handle.pa, size, cpu, page_size=page)
        self._book.free_frames(handle, cpu)

    def idle(self) -> None:
        """Nothing is ever put off."""


STRATEGIES = (
    Known(
        "naive_unmap",
        "Every page out of the direct map by itself, with an invalidation on all CPUs each time.",
        "the kernel's mechanism, used as the cautionary baseline",
        NaiveUnmap,
        addresses=False,
    ),
)
