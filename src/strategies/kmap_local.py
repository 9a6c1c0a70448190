"""kmap_local: pages that are mapped nowhere, reached one by one through slots of the CPU, in the
order of a stack.

The mechanism and the policy are the kernel's, for memory without a direct map: Linux mm/highmem.c
(v6.18), __kmap_local_pfn_prot() takes the next slot of the CPU, kunmap_local_indexed() gives the
last one back, and on x86 each of them invalidates its one page on that CPU
(arch/x86/include/asm/highmem.h, arch_kmap_local_post_map(), arch_kmap_local_post_unmap()). With a
direct map, kmap_local is the direct map's address: see `direct_map`.
"""

from __future__ import annotations

from ptcore.errors import OutOfRange
from ptcore.machine import Handle, Machine, Request
from ptcore.machine.requests import Book
from ptcore.strategies import Known
from ptcore.strategies.layouts import SLOTS_WINDOW, layout_of
from ptcore.strategies.windows import build_tables
from ptcore.units import Span

SLOTS = 16  # Linux include/asm-generic/kmap_size.h: KM_MAX_IDX without debugging


class KmapLocal:
    """Frames without an address; a stack of slots per CPU."""

    name = "kmap_local"
    exposure_by_design: str | None = None

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self._depth = [0] * machine.cpus
        self._book = Book(machine)
        self._start = layout_of(machine).window(SLOTS_WINDOW).start
        build_tables(machine, Span.of(self._start, SLOTS * machine.cpus * machine.page_bytes))

    def acquire(self, request: Request) -> Handle:
        """Take frames; they are reachable only while they are touched."""
        pa = self.machine.allocate_frames(request.pages, request.cpu)
        return self._book.give(request, pa)

    def push(self, pa: int, cpu: int, memory_type: str | None = None) -> int:
        """Map a frame in the CPU's next slot; return the address. OutOfRange when all are in use."""
        self.machine.mmu(cpu)
        page = self.machine.page_bytes
        if self._depth[cpu] == SLOTS:
            raise OutOfRange(f"all {SLOTS} slots of CPU {cpu} are in use")
        va = self._start + (cpu * SLOTS + self._depth[cpu]) * page
        self.machine.map(va, pa, page, cpu, page_size=page, memory_type=memory_type, cpus=(cpu,))
        self._depth[cpu] += 1
        return va

    def pop(self, va: int, cpu: int) -> None:
        """Give a slot back. Raises OutOfRange unless it is the one that was taken last."""
        page = self.machine.page_bytes
        if va != self._start + (cpu * SLOTS + self._depth[cpu] - 1) * page:
            raise OutOfRange(f"{va:#x} is not the slot that CPU {cpu} took last")
        self._depth[cpu] -= 1
        self.machine.unmap(va, page, cpu, cpus=(cpu,))
        self.machine.invalidate(Span.of(va, page), cpu, (cpu,))

    def access(self, handle: Handle, span: Span, cpu: int, kind: str = "r") -> None:
        """Map, touch and unmap, page by page: what `push` and `pop` do, in one slot."""
        self._book.check(handle, span)
        self.machine.mmu(cpu)
        page = self.machine.page_bytes
        if self._depth[cpu] == SLOTS:
            raise OutOfRange(f"all {SLOTS} slots of CPU {cpu} are in use")
        slot = self._start + (cpu * SLOTS + self._depth[cpu]) * page
        first, last = span.start // page, span.last // page
        pa, pages = handle.pa + first * page, last - first + 1
        self.machine.touch_by_page(
            slot, pa, pages, cpu, kind, memory_type=handle.memory_type, cpus=(cpu,)
        )

    def release(self, handle: Handle, cpu: int) -> None:
        """Give the frames back; nobody holds a translation to them."""
        self._book.take_back(handle, cpu)
        self._book.free_frames(handle, cpu)

    def idle(self) -> None:
        """Nothing is ever put off."""


STRATEGIES = (
    Known(
        "kmap_local",
        "Pages without an address; one slot per touch, invalidated on its CPU at once.",
        "the kernel's, for memory without a direct map",
        KmapLocal,
        addresses=False,
    ),
)
