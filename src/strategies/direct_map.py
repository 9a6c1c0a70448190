"""The baseline: all memory is mapped once, at boot, with the largest leaves.

The mechanism and the policy are the kernel's: Linux arch/x86/mm/init.c, init_memory_mapping(), maps
physical memory at PAGE_OFFSET with the largest page sizes that alignment allows; an allocation is
reachable there before, during and after its life.
"""

from __future__ import annotations

from ptcore.machine import Event, Handle, Machine, Request
from ptcore.strategies import Known
from ptcore.strategies.live import Live
from ptcore.units import Span

# Linux Documentation/arch/x86/x86_64/mm.rst, "Complete virtual memory map with 4-level page tables":
# direct mapping of all physical memory (page_offset_base).
PAGE_OFFSET = 0xFFFF_8880_0000_0000


def map_all(machine: Machine) -> None:
    """Map all memory with the largest leaves."""
    machine.map(PAGE_OFFSET, 0, machine.data_bytes, cpu=0)


class DirectMap:
    """A page's address is PAGE_OFFSET + its physical address, always."""

    name = "direct_map"
    exposure_by_design: str | None = "reachable by design"

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self._live = Live()
        map_all(machine)

    def acquire(self, request: Request) -> Handle:
        """Take frames; they are reachable already."""
        size = request.pages * self.machine.page_bytes
        align = max(request.align, self.machine.page_bytes)
        pa = self.machine.allocate_frames(request.pages, request.cpu, align=align)
        handle = self._live.add(request.pages, pa, Span.of(PAGE_OFFSET + pa, size))
        self.machine.note(Event.ACQUIRED, request.cpu, request.pages)
        return handle

    def access(self, handle: Handle, span: Span, cpu: int, kind: str = "r") -> None:
        """Touch pages where they always are."""
        self._live.check(handle)
        handle.check_offsets(span, self.machine.page_bytes)
        start = PAGE_OFFSET + handle.pa
        self.machine.access(Span(start + span.start, start + span.last), cpu, kind)

    def release(self, handle: Handle, cpu: int) -> None:
        """Give the frames back. They stay reachable: that is the design."""
        self.machine.mmu(cpu)
        self._live.end(handle)
        self.machine.free_frames(handle.pa, handle.pages, cpu)
        self.machine.note(Event.RELEASED, cpu, handle.pages)

    def idle(self) -> None:
        """Nothing is ever put off."""


STRATEGIES = (
    Known(
        "direct_map",
        "All memory mapped at boot with large leaves; nothing is ever unmapped.",
        "the kernel's",
        DirectMap,
    ),
)
