"""iommu: pages that a device reaches by I/O addresses; the CPU's own tables stay as they are.

Mechanism and policies are the kernel's: Linux drivers/iommu/dma-iommu.c and iova.c (v6.12). I/O
addresses come from below 4 GiB, with magazines per CPU (ptcore.allocators.IovaAllocator).
`iommu_strict` invalidates the IOMMU's TLB at every release, before address and frames can serve
somebody else. `iommu_deferred` frees the memory at once and queues the address: a ring of 256 per
CPU that is full, or a timer of 10 ms, invalidates everything together; until then the device may
reach what was freed. `iommu_passthrough` has no tables: the device reaches all memory. `ptcore
validate iommu` holds the addresses against recorded kernels.
"""

from __future__ import annotations

from functools import partial

from ptcore.allocators import FlushQueues, IovaAllocator
from ptcore.allocators.flush_queue import TIMEOUT_MS
from ptcore.errors import MapError, NoAddressSpace
from ptcore.machine import Event, Handle, Machine, Request
from ptcore.strategies import Known
from ptcore.strategies.live import Live
from ptcore.units import Span

TIMEOUT_NS = TIMEOUT_MS * 1_000_000


class Iommu:
    """One domain and one device. `deferred`: releases wait in the queues. `last_page`: the highest I/O page
    (default: below 4 GiB)."""

    exposure_by_design: str | None = None

    def __init__(self, machine: Machine, *, deferred: bool, last_page: int | None = None) -> None:
        self.machine = machine
        self.name = "iommu_deferred" if deferred else "iommu_strict"
        self.device = machine.attach()
        self.space = (
            IovaAllocator(machine.cpus)
            if last_page is None
            else IovaAllocator(machine.cpus, last_page=last_page)
        )
        self.queues = FlushQueues(machine.cpus) if deferred else None
        self._armed = False
        self._live = Live()

    def acquire(self, request: Request) -> Handle:
        """Take frames and an I/O address, and map the one at the other for the device."""
        page = self.machine.page_bytes
        pa = self.machine.allocate_frames(request.pages, request.cpu)
        hits = self.space.cache_hits
        try:
            number = self._address(request)
        except NoAddressSpace:
            self.machine.free_frames(pa, request.pages, request.cpu)
            raise
        iova, size = number * page, request.pages * page
        try:
            self.device.map(iova, pa, size, request.cpu)
        except MapError:
            self.space.free(request.cpu, number)
            self.machine.free_frames(pa, request.pages, request.cpu)
            raise
        hit = self.space.cache_hits > hits
        self.machine.note(Event.POOL_HIT if hit else Event.POOL_MISS, request.cpu)
        handle = self._live.add(request.pages, pa, Span.of(iova, size))
        self.machine.note(Event.ACQUIRED, request.cpu, request.pages)
        return handle

    def _address(self, request: Request) -> int:
        try:
            return self.space.allocate(request.cpu, request.pages)
        except NoAddressSpace:
            if self.queues is None or not len(self.queues):
                raise
            self._expire(request.cpu)
            return self.space.allocate(request.cpu, request.pages)

    def access(self, handle: Handle, span: Span, cpu: int, kind: str = "r") -> None:
        """Let the device touch pages."""
        self._live.check(handle)
        assert handle.span is not None
        self.machine.mmu(cpu)
        handle.check_offsets(span, self.machine.page_bytes)
        start = handle.span.start
        self.device.access(Span(start + span.start, start + span.last), cpu, kind)

    def release(self, handle: Handle, cpu: int) -> None:
        """Unmap; invalidate now (strict), or when the ring is full or the timer runs (deferred)."""
        self.machine.mmu(cpu)
        self._live.end(handle)
        assert handle.span is not None
        number = handle.span.start // self.machine.page_bytes
        self.device.unmap(handle.span.start, handle.span.size, cpu)
        if self.queues is None:
            self.device.invalidate(handle.span, cpu)
            self.space.free(cpu, number)
        else:
            self._queue(number, cpu)
        self.machine.free_frames(handle.pa, handle.pages, cpu)
        self.machine.note(Event.RELEASED, cpu, handle.pages)

    def _queue(self, number: int, cpu: int) -> None:
        assert self.queues is not None
        # What is queued now is not covered by the flush that makes room for it: it is invalidated first.
        full, released = self.queues.add(cpu, number)
        if full:
            self._drained(cpu, len(released))
        for page in released:
            self.space.free(cpu, page)
        if not self._armed:
            self._armed = True
            self.machine.call_at(self.machine.now_ns + TIMEOUT_NS, partial(self._timer, cpu))

    def _timer(self, cpu: int) -> None:
        self._armed = False
        self._expire(cpu)

    def _expire(self, cpu: int) -> None:
        if self.queues is None or not len(self.queues):
            return
        released = self.queues.expire()
        self._drained(cpu, len(released))
        for page in released:
            self.space.free(cpu, page)

    def _drained(self, cpu: int, ranges: int) -> None:
        self.device.invalidate(None, cpu)
        self.machine.note(Event.DRAINED, cpu, ranges)

    def idle(self) -> None:
        """Time alone ends what is queued: Machine.advance runs the timer."""


class Passthrough:
    """No tables: an I/O address is the physical one."""

    name = "iommu_passthrough"
    exposure_by_design: str | None = "the device reaches all memory by design"

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self._live = Live()

    def acquire(self, request: Request) -> Handle:
        """Take frames."""
        pa = self.machine.allocate_frames(request.pages, request.cpu)
        handle = self._live.add(request.pages, pa, None)
        self.machine.note(Event.ACQUIRED, request.cpu, request.pages)
        return handle

    def access(self, handle: Handle, span: Span, cpu: int, kind: str = "r") -> None:
        """Let the device touch pages; nothing is translated."""
        self._live.check(handle)
        self.machine.mmu(cpu)
        page = self.machine.page_bytes
        handle.check_offsets(span, page)
        count = span.last // page - span.start // page + 1
        first, last = handle.pa + span.start, handle.pa + span.last
        self.machine.note(Event.DEVICE_ACCESSED, cpu, count, first=first, last=last)

    def release(self, handle: Handle, cpu: int) -> None:
        """Give the frames back; the device reaches them still."""
        self.machine.mmu(cpu)
        self._live.end(handle)
        self.machine.free_frames(handle.pa, handle.pages, cpu)
        self.machine.note(Event.RELEASED, cpu, handle.pages)

    def idle(self) -> None:
        """Nothing is ever put off."""


STRATEGIES = (
    Known(
        "iommu_strict",
        "A device reaches pages by I/O addresses; every release invalidates the IOMMU's TLB.",
        "the kernel's",
        partial(Iommu, deferred=False),
    ),
    Known(
        "iommu_deferred",
        "The same, but freed addresses wait for a ring of 256 or 10 ms.",
        "the kernel's",
        partial(Iommu, deferred=True),
    ),
    Known(
        "iommu_passthrough",
        "The device uses physical addresses; nothing is mapped or invalidated.",
        "the kernel's",
        Passthrough,
    ),
)
