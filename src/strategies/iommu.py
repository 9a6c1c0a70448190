"""iommu: pages that a device reaches by I/O addresses; the CPU's own tables stay as they are.

Mechanism and policies are the kernel's: Linux drivers/iommu/dma-iommu.c and iova.c (v6.12). I/O
addresses come from below 4 GiB until that is full once, and from then on from all that the tables translate
(iommu_dma_alloc_iova(), pci_32bit_workaround). Magazines per CPU (ptcore.allocators.IovaAllocator) have a
depot, which gives one magazine per size back every 100 ms while it has more than there are CPUs.
`iommu_strict` invalidates the IOMMU's TLB at every release, before address and frames can serve
somebody else. `iommu_deferred` frees the memory at once and queues the address: a ring of 256 per
CPU that is full, or a timer of 10 ms, invalidates everything together; until then the device may
reach what was freed. `iommu_single_queue` has one queue of 32768 for all CPUs and a timer of a second
(IOMMU_DMA_OPTS_SINGLE_QUEUE). `iommu_passthrough` has no tables: the device reaches all memory.
`ptcore validate iommu` holds the addresses against recorded kernels.

Before its first walk, and whenever it does not have it cached, the IOMMU reads which tables the device
translates by: context tables (VT-d's legacy mode; ptcore.caches.iommu). Variants of the strict policy:
- `iommu_ats`: the device keeps translations itself (PCIe ATS); every invalidation of the IOMMU is followed by
  one of the device (Linux drivers/iommu/intel/cache.c, cache_tag_flush_range()).
- `iommu_nested`: a guest's tables behind the host's second stage, found by PASID (scalable mode); addresses
  are handed out as before, by the guest.
- `iommu_incoherent`: the IOMMU's walks do not look into the CPU's caches, so that written items of
  tables, and new tables, are flushed line by line (drivers/iommu/generic_pt/iommu_pt.h,
  flush_writes_range()).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from ptcore.allocators import FlushQueues, IovaAllocator
from ptcore.allocators.flush_queue import (
    ENTRIES,
    SINGLE_ENTRIES,
    SINGLE_TIMEOUT_MS,
    TIMEOUT_MS,
)
from ptcore.allocators.iova import END_32_BITS
from ptcore.caches import preset
from ptcore.errors import MapError, NoAddressSpace
from ptcore.machine import Event, Handle, Machine, Request
from ptcore.machine.device import DEVICE_FORMAT, DEVICE_TLB
from ptcore.machine.machine import TABLE_SHARE
from ptcore.machine.requests import Book
from ptcore.strategies import Known
from ptcore.table import PageTable, guest_memory
from ptcore.units import Span

TIMEOUT_NS = TIMEOUT_MS * 1_000_000
SINGLE_TIMEOUT_NS = SINGLE_TIMEOUT_MS * 1_000_000
TRIM_NS = 100 * 1_000_000  # Linux drivers/iommu/iova.c: IOVA_DEPOT_DELAY, msecs_to_jiffies(100)
GUEST_PASID = 1
GUEST_SHARE = 8  # one part in so many of the room for tables is a guest's


@dataclass(frozen=True, slots=True)
class Way:
    """How the device reaches memory, and who waits. `single_queue`: one for all CPUs; `own_tlb`: the device
    has one (ATS); `nested`: its tables are a guest's; `coherent`: walks see the CPU's caches."""

    single_queue: bool = False
    own_tlb: bool = False
    nested: bool = False
    coherent: bool = True


USUAL = Way()


class Iommu:
    """One domain and one device. `deferred`: releases wait in the queues. `last_page`: the highest I/O page
    (default: the last that the device's table translates)."""

    exposure_by_design: str | None = None

    def __init__(
        self,
        machine: Machine,
        *,
        deferred: bool,
        way: Way = USUAL,
        last_page: int | None = None,
        name: str = "",
    ) -> None:
        self.machine = machine
        self.name = name or ("iommu_deferred" if deferred else "iommu_strict")
        self.device = machine.attach(DEVICE_FORMAT)
        self._put_behind(way)
        if last_page is None:
            last_page = self.device.table.legal_spans()[0].last // machine.page_bytes
        self.space = IovaAllocator(machine.cpus, last_page=last_page)
        self._below_4g = last_page >= END_32_BITS
        entries = SINGLE_ENTRIES if way.single_queue else ENTRIES
        self._timeout_ns = SINGLE_TIMEOUT_NS if way.single_queue else TIMEOUT_NS
        self.queues = FlushQueues(machine.cpus, entries, way.single_queue) if deferred else None
        self._armed = False
        self._trimming = False
        self._book = Book(machine)

    def _put_behind(self, way: Way) -> None:
        """Give the device its context, its own TLB, and its guest's tables, as the way has them."""
        self.device.coherent = way.coherent
        second = None
        if way.nested:
            second = self.device.table
            self._nest(second)
        self.device.put_behind(
            "vtd_scalable" if way.nested else "vtd_legacy",
            process=GUEST_PASID if way.nested else 0,
            own_tlb=preset(DEVICE_TLB).levels[:1] if way.own_tlb else None,
            second_stage=second,
        )

    def _nest(self, second: PageTable) -> None:
        """Map a guest's memory, all of it and where it is, and let the device's tables be the guest's."""
        machine = self.machine
        owed = second.map(0, 0, machine.memory.size)
        machine.account(owed, 0)
        size = machine.memory.size // TABLE_SHARE // GUEST_SHARE
        at = machine.memory.frames.allocate(size, zero=False)  # a table is cleared when it is taken
        memory = guest_memory(second, frames=(at, size))
        self.device.table = PageTable(machine.table.format, memory)

    def _give_back(self, pages: Sequence[int], cpu: int) -> None:
        """Free addresses. The depot is trimmed 100 ms after it got more magazines than there are CPUs."""
        for page in pages:
            self.space.free(cpu, page)
        if not self._trimming and self.space.depot_magazines > self.machine.cpus:
            self._trimming = True
            self.machine.call_at(self.machine.now_ns + TRIM_NS, self._trim)

    def _trim(self) -> None:
        self._trimming = self.space.trim()
        if self._trimming:
            self.machine.call_at(self.machine.now_ns + TRIM_NS, self._trim)

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
        return self._book.give(request, pa, Span(iova, iova + size - 1))

    def _address(self, request: Request) -> int:
        if self._below_4g:
            try:
                return self.space.allocate(request.cpu, request.pages, END_32_BITS - 1, flush=False)
            except NoAddressSpace:
                self._below_4g = False  # for good, as in the kernel
        try:
            return self.space.allocate(request.cpu, request.pages)
        except NoAddressSpace:
            if self.queues is None or not len(self.queues):
                raise
            self._expire(request.cpu)
            return self.space.allocate(request.cpu, request.pages)

    def access(self, handle: Handle, span: Span, cpu: int, kind: str = "r") -> None:
        """Let the device touch pages."""
        self._book.check(handle, span)
        assert handle.span is not None
        self.machine.mmu(cpu)
        self.device.access_at(handle.span.start, span, cpu, kind)

    def release(self, handle: Handle, cpu: int) -> None:
        """Unmap; invalidate now (strict), or when the ring is full or the timer runs (deferred)."""
        self._book.take_back(handle, cpu)
        assert handle.span is not None
        number = handle.span.start // self.machine.page_bytes
        self.device.unmap(handle.span.start, handle.span.size, cpu)
        if self.queues is None:
            self.device.invalidate(handle.span, cpu)
            self._give_back((number,), cpu)
        else:
            self._queue(number, cpu)
        self._book.free_frames(handle, cpu)

    def _queue(self, number: int, cpu: int) -> None:
        assert self.queues is not None
        # What is queued now is not covered by the flush that makes room for it: it is invalidated first.
        full, released = self.queues.add(cpu, number)
        if full:
            self._drained(cpu, len(released))
        self._give_back(released, cpu)
        if not self._armed:
            self._armed = True
            self.machine.call_at(self.machine.now_ns + self._timeout_ns, partial(self._timer, cpu))

    def _timer(self, cpu: int) -> None:
        self._armed = False
        self._expire(cpu)

    def _expire(self, cpu: int) -> None:
        if self.queues is None or not len(self.queues):
            return
        released = self.queues.expire()
        self._drained(cpu, len(released))
        self._give_back(released, cpu)

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
        self._book = Book(machine)

    def acquire(self, request: Request) -> Handle:
        """Take frames."""
        pa = self.machine.allocate_frames(request.pages, request.cpu)
        return self._book.give(request, pa)

    def access(self, handle: Handle, span: Span, cpu: int, kind: str = "r") -> None:
        """Let the device touch pages; nothing is translated."""
        self._book.check(handle, span)
        self.machine.mmu(cpu)
        page = self.machine.page_bytes
        count = span.last // page - span.start // page + 1
        first, last = handle.pa + span.start, handle.pa + span.last
        self.machine.note(Event.DEVICE_ACCESSED, cpu, count, first=first, last=last)

    def release(self, handle: Handle, cpu: int) -> None:
        """Give the frames back; the device reaches them still."""
        self._book.take_back(handle, cpu)
        self._book.free_frames(handle, cpu)

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
        "iommu_single_queue",
        "Deferred, with one queue of 32768 for all CPUs and a timer of a second.",
        "the kernel's",
        partial(Iommu, deferred=True, way=Way(single_queue=True), name="iommu_single_queue"),
    ),
    Known(
        "iommu_ats",
        "Strict, and the device keeps translations itself, which are invalidated too.",
        "the kernel's",
        partial(Iommu, deferred=False, way=Way(own_tlb=True), name="iommu_ats"),
    ),
    Known(
        "iommu_nested",
        "Strict, with a guest's tables behind the host's, found by PASID.",
        "the kernel's",
        partial(Iommu, deferred=False, way=Way(nested=True), name="iommu_nested"),
    ),
    Known(
        "iommu_incoherent",
        "Strict, for an IOMMU that does not see the CPU's caches: lines of tables are flushed.",
        "the kernel's",
        partial(Iommu, deferred=False, way=Way(coherent=False), name="iommu_incoherent"),
    ),
    Known(
        "iommu_passthrough",
        "The device uses physical addresses; nothing is mapped or invalidated.",
        "the kernel's",
        Passthrough,
    ),
)
