"""CPUs, tables and caches behind a few verbs; everything that happens lands in the ledger."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from heapq import heappop, heappush

import numpy as np
import numpy.typing as npt

from ptcore.allocators import AddressTree
from ptcore.caches import Mmu, Tlb, TlbLevel, WalkCache, preset
from ptcore.caches.mmu import Counts, access_on
from ptcore.errors import (
    AddressError,
    FormatError,
    InvalidationOwed,
    NoAddressSpace,
    NoFrame,
    OutOfRange,
)
from ptcore.formats.schema import Format
from ptcore.machine import processes
from ptcore.machine.device import DEVICE_FORMAT, DEVICE_TLB, Device
from ptcore.machine.events import Event
from ptcore.machine.ledger import Ledger
from ptcore.machine.processes import CpuContexts, Process
from ptcore.machine.shootdown import SHOOTDOWNS, SINGLE_PAGE_CEILING
from ptcore.memory import PhysicalMemory
from ptcore.table import Owed, PageTable
from ptcore.units import ALL_ONES, Span, parse_size

DEFAULT_PRESET = "skylake_sp"
DEVICE_MEMORY = "device"  # a memory type that every format can be asked for
TABLE_SHARE = 16  # one part in so many of the memory is kept for page tables


@dataclass(slots=True)
class _Stale:
    """A translation that the tables no longer have and that some CPUs may still hold."""

    first: int
    last: int
    pa: int
    cpus: set[int]


class Machine:
    """N CPUs, each with its own TLB and paging-structure cache, over a shared kernel table and processes.

    `ram` is simulated: tables live in it as real bytes, data frames are only handed out. `tlb` is a
    preset's name or levels; `walk_cache` entries by level, by default the preset's. `shootdown`: how other
    CPUs are reached: by `interrupts`, or by a broadcast of commands of `ranges` or of `counts` of pages
    (machine.shootdown has their rules). Time moves only by `advance`. Verbs raise before they change
    anything.
    """

    def __init__(
        self,
        cpus: int = 2,
        format: str | Format = "x86_64_4level",
        ram: int | str = "64G",
        *,
        tlb: str | Sequence[TlbLevel] = DEFAULT_PRESET,
        walk_cache: Mapping[int, int] | None = None,
        ledger: Ledger | None = None,
        shootdown: str = "interrupts",
    ) -> None:
        if cpus < 1:
            raise OutOfRange(f"a machine has at least one CPU, not {cpus}")
        if shootdown not in SHOOTDOWNS:
            raise FormatError(f"shootdown {shootdown!r} is none of {', '.join(SHOOTDOWNS)}")
        self.shootdown = SHOOTDOWNS[shootdown]
        size = parse_size(ram)
        tables = size // TABLE_SHARE
        self.memory = PhysicalMemory(size, frames=(size - tables, tables))
        self.table = PageTable(format, self.memory)
        self.page_bytes = 1 << self.table.format.granule_lg2
        self.data_bytes = (size - tables) & ~(self.page_bytes - 1)
        # Page 0 stays free, as kernels keep it: a physical address of 0 reads as "none".
        self._frames = AddressTree(self.page_bytes, self.data_bytes - 1)
        self.ledger = ledger if ledger is not None else Ledger()
        self.now_ns = 0
        self._mmus = self._make_mmus(cpus, tlb, walk_cache)
        self._stale: list[_Stale] = []
        self._owed: list[tuple[Owed, set[int]]] = []
        self._contexts = [CpuContexts(mmu, self.table) for mmu in self._mmus]
        self._processes: list[Process] = []
        self._made = 0
        self._asids: set[int] = set()
        self._batch: set[int] | None = None
        self.devices: list[Device] = []
        self._timers: list[tuple[int, int, Callable[[], None]]] = []
        self._timers_set = 0

    def _make_mmus(
        self, cpus: int, tlb: str | Sequence[TlbLevel], walk_cache: Mapping[int, int] | None
    ) -> tuple[Mmu, ...]:
        if walk_cache is None:
            walk_cache = preset(tlb if isinstance(tlb, str) else DEFAULT_PRESET).walk_cache
        known = {n: size for n, size in walk_cache.items() if n <= self.table.format.top_level}
        levels = preset(tlb).levels if isinstance(tlb, str) else tlb
        return tuple(Mmu(self.table, Tlb(levels), WalkCache(known)) for _ in range(cpus))

    # -- facts -------------------------------------------------------------------------------

    @property
    def cpus(self) -> int:
        """How many CPUs are online."""
        return len(self._mmus)

    def mmu(self, cpu: int) -> Mmu:
        """Return a CPU's Mmu, to look at; OutOfRange for a CPU that the machine has not."""
        if not 0 <= cpu < self.cpus:
            raise OutOfRange(f"cpu {cpu} is not in 0..{self.cpus - 1}")
        return self._mmus[cpu]

    def stale(self) -> tuple[Span, ...]:
        """Return the spans whose translations some CPU may still hold though the tables do not."""
        return tuple(Span(stale.first, stale.last) for stale in self._stale)

    # -- time and notes ----------------------------------------------------------------------

    def advance(self, to_ns: int) -> None:
        """Let time pass until `to_ns`; timers that are due on the way run, each at its time.

        Raises OutOfRange when that is in the past.
        """
        if to_ns < self.now_ns:
            raise OutOfRange(f"time {to_ns} ns is before now, {self.now_ns} ns")
        while self._timers and self._timers[0][0] <= to_ns:
            self.now_ns, _, run = heappop(self._timers)
            run()
        self.now_ns = to_ns

    def call_at(self, when_ns: int, run: Callable[[], None]) -> None:
        """Have `run` called when time comes to `when_ns`. Raises OutOfRange when that is in the past."""
        if when_ns < self.now_ns:
            raise OutOfRange(f"time {when_ns} ns is before now, {self.now_ns} ns")
        self._timers_set += 1  # of two at one time the first one set runs first
        heappush(self._timers, (when_ns, self._timers_set, run))

    def note(
        self,
        event: Event,
        cpu: int,
        count: int = 1,
        *,
        first: int = 0,
        last: int = 0,
        pa: int = 0,
        cpus: frozenset[int] = frozenset(),
    ) -> None:
        """Write a row of the ledger; strategies note what only they know (a pool hit, a drain)."""
        self.ledger.append(event, self.now_ns, cpu, count, first=first, last=last, pa=pa, cpus=cpus)

    # -- frames ------------------------------------------------------------------------------

    def allocate_frames(self, pages: int, cpu: int, *, align: int | None = None) -> int:
        """Take `pages` frames in a row; return the first one's address. Raises NoFrame."""
        self.mmu(cpu)
        try:
            pa = self._frames.allocate(pages * self.page_bytes, align or self.page_bytes)
        except NoAddressSpace as error:
            raise NoFrame(f"no {pages} frames in a row are left: {error}") from None
        self.note(Event.FRAMES_ALLOCATED, cpu, pages, pa=pa)
        return pa

    def free_frames(self, pa: int, pages: int, cpu: int) -> None:
        """Give frames back. What may still be reached through a stale translation is noted.

        Raises NotAllocated for frames that are free.
        """
        self.mmu(cpu)
        size = pages * self.page_bytes
        self._frames.free(pa, size)
        self.note(Event.FRAMES_FREED, cpu, pages, pa=pa)
        self._note_held(pa, size, cpu)

    def take_from_pool(self, pa: int, pages: int, cpu: int) -> None:
        """Note that frames which a strategy has and keeps for itself serve somebody now."""
        self.note(Event.POOL_TAKEN, cpu, pages, pa=pa)

    def return_to_pool(self, pa: int, pages: int, cpu: int) -> None:
        """Note that they may serve somebody else; what is stale then is noted as for `free_frames`."""
        self.note(Event.POOL_RETURNED, cpu, pages, pa=pa)
        self._note_held(pa, pages * self.page_bytes, cpu)

    def _tlb_of(self, n: int) -> Tlb:
        return self._mmus[n].tlb if n < self.cpus else self.devices[n - self.cpus].mmu.tlb

    def _note_held(self, pa: int, size: int, cpu: int) -> None:
        for stale in self._stale:
            if stale.pa < pa + size and pa < stale.pa + (stale.last - stale.first + 1):
                held = frozenset(
                    n for n in stale.cpus if self._tlb_of(n).holds(stale.first, stale.last)
                )
                if held:
                    self.note(
                        Event.STALE_HELD,
                        cpu,
                        len(held),
                        first=stale.first,
                        last=stale.last,
                        pa=stale.pa,
                        cpus=held,
                    )

    @property
    def free_frame_bytes(self) -> int:
        """How many bytes of data frames are free."""
        return self._frames.free_bytes

    # -- tables ------------------------------------------------------------------------------

    def account(self, owed: Owed, cpu: int) -> None:
        """Note what an edit of tables in this memory wrote and allocated."""
        if owed.tables_allocated_bytes:
            self.note(Event.TABLES_ALLOCATED, cpu, owed.tables_allocated_bytes)
        if owed.entries_written:
            self.note(Event.ENTRIES_WRITTEN, cpu, owed.entries_written)

    def map(
        self,
        va: int,
        pa: int,
        length: int | str,
        cpu: int,
        access: str = "rw",
        *,
        page_size: int | str | None = None,
        memory_type: str | None = None,
        cpus: Iterable[int] | None = None,
    ) -> None:
        """Map memory; as PageTable.map. `cpus`: those that will use it, by contract (default: all).

        `memory_type`: one of the format's, or "device": what its `device_memory` names, if anything.

        Raises InvalidationOwed when one of them may still hold an older translation of these addresses.
        """
        self.mmu(cpu)
        span = Span.of(va, length)
        self._check_stale(span, range(self.cpus) if cpus is None else cpus)
        if memory_type == DEVICE_MEMORY:
            memory_type = self.table.format.device_memory or None
        owed = self.table.map(
            va, pa, length, access=access, memory_type=memory_type, page_size=page_size
        )
        self._share_kernel_half(owed)
        self.account(owed, cpu)
        self.note(Event.MAPPED, cpu, span.size // self.page_bytes, first=va, last=span.last, pa=pa)
        if owed:
            self._owed.append((owed, set(range(self.cpus))))

    def open_stale(self, span: Span, pa: int, holders: Iterable[int]) -> None:
        """Note that `holders` (CPUs, or devices by number) may hold `span` though no table does."""
        self._stale.append(_Stale(span.start, span.last, pa, set(holders)))

    def _check_stale(self, span: Span, cpus: Iterable[int]) -> None:
        asked = set(cpus)
        for stale in self._stale:
            if stale.first <= span.last and span.start <= stale.last and stale.cpus & asked:
                raise InvalidationOwed(
                    f"{span} is mapped anew while CPUs {sorted(stale.cpus)} may still hold "
                    f"{stale.first:#x}..{stale.last:#x}"
                )

    def split(self, va: int, length: int | str, page_size: int | str, cpu: int) -> None:
        """Make leaves of `page_size` of larger ones that the span touches, and invalidate on all CPUs.

        Linux arch/x86/mm/pat/set_memory.c, __split_large_page(): a split is followed by flush_tlb_all().
        Raises as PageTable.split; without larger leaves nothing happens.
        """
        self.mmu(cpu)
        span = Span.of(va, length)
        owed = self.table.split(va, length, page_size)
        if not owed:
            return
        self.account(owed, cpu)
        made = owed.tables_allocated_bytes
        self.note(Event.SPLIT, cpu, made, first=span.start, last=span.last)
        self._owed.append((owed, set(range(self.cpus))))
        self.invalidate(None, cpu)

    def collapse(self, va: int, length: int | str, page_size: int | str, cpu: int) -> None:
        """Make larger leaves of smaller ones, and invalidate on all CPUs; raises as PageTable.collapse."""
        self.mmu(cpu)
        span = Span.of(va, length)
        owed = self.table.collapse(va, length, page_size)
        self.account(owed, cpu)
        gone = sum(size for _, size in owed.tables)
        self.note(Event.COLLAPSED, cpu, gone, first=span.start, last=span.last)
        self._owed.append((owed, set(range(self.cpus))))
        self.invalidate(None, cpu)

    def unmap(
        self,
        va: int,
        length: int | str,
        cpu: int,
        *,
        free_tables: bool = False,
        cpus: Iterable[int] | None = None,
    ) -> None:
        """Take memory out of the tables. Its translations are stale until `invalidate`.

        `cpus`: those that ever used it, where a mapping is one CPU's own by contract (default: all).
        """
        self.mmu(cpu)
        holders = frozenset(range(self.cpus) if cpus is None else cpus)
        span = Span.of(va, length)
        pa = self.table.translate(va)
        owed = self.table.unmap(va, length, free_tables=free_tables)
        self._share_kernel_half(owed)
        self.account(owed, cpu)
        pages = span.size // self.page_bytes
        named = frozenset() if cpus is None else holders
        self.note(Event.UNMAPPED, cpu, pages, first=va, last=span.last, pa=pa, cpus=named)
        self.open_stale(span, pa, holders)
        if owed.tables:
            self._owed.append((owed, set(range(self.cpus))))

    # -- invalidation ------------------------------------------------------------------------

    def invalidate(self, span: Span | None, cpu: int, cpus: Iterable[int] | None = None) -> None:
        """Let `cpus` (default: all) drop what they cache of `span` (None: of everything).

        Up to 33 pages go one by one, more by dropping everything, global entries included (Linux
        arch/x86/mm/tlb.c, flush_tlb_kernel_range()). CPUs other than `cpu` are interrupted, or reached by
        a broadcast, as the machine has it.
        """
        self.mmu(cpu)
        targets = frozenset(range(self.cpus) if cpus is None else cpus)
        if not targets <= set(range(self.cpus)):
            raise OutOfRange(f"CPUs {sorted(targets)} are not all in 0..{self.cpus - 1}")
        whole = Span(0, ALL_ONES)
        asked = whole if span is None else span
        pages = 0 if span is None else -(-span.size // self.page_bytes)
        if pages > SINGLE_PAGE_CEILING:
            asked, pages = whole, 0
        for n in targets:
            if pages:
                self._mmus[n].invalidate(asked.start, asked.last)
            else:
                self._mmus[n].invalidate_all()
        self.note(Event.INVALIDATED, cpu, pages, first=asked.start, last=asked.last, cpus=targets)
        self._reach(targets - {cpu}, cpu, pages)
        self.settle(asked, targets, cpu)

    def _reach(self, remote: Iterable[int], cpu: int, pages: int) -> None:
        """Note how other CPUs were told: interrupted, and waited for, or by broadcast commands."""
        others = frozenset(remote)
        if not others:
            return
        if self.shootdown.interrupts:
            self.note(Event.INTERRUPTED, cpu, len(others), cpus=others)
            self.note(Event.ACKNOWLEDGED, cpu, len(others), cpus=others)
        else:
            self.note(Event.BROADCAST, cpu, self.shootdown.commands(pages), cpus=others)

    def settle(self, span: Span, targets: frozenset[int], cpu: int) -> None:
        """Close what the invalidation of `span` on `targets` closes."""
        left = []
        for stale in self._stale:
            if span.start <= stale.first and stale.last <= span.last:
                stale.cpus -= targets
            if stale.cpus:
                left.append(stale)
        self._stale = left
        owed_left = []
        for owed, waiting in self._owed:
            if all(span.start <= s.start and s.last <= span.last for s in owed.spans):
                waiting -= targets
            if waiting:
                owed_left.append((owed, waiting))
            else:
                owed.discharge()
                self.note(Event.TABLES_FREED, cpu, sum(size for _, size in owed.tables))
        self._owed = owed_left

    # -- access ------------------------------------------------------------------------------

    def access(self, span: Span, cpu: int, kind: str = "r") -> None:
        """Let `cpu` touch every page of `span` once, in order; misses and walks are counted."""
        mmu = self.mmu(cpu)
        if kind not in ("r", "w", "x"):
            raise AddressError(f"an access is 'r', 'w' or 'x', not {kind!r}")
        first = span.start & ~(self.page_bytes - 1)
        count = (span.last - first) // self.page_bytes + 1
        before = mmu.counts
        mmu.access_span(first, count, self.page_bytes, kind)
        after = mmu.counts
        self.note(Event.ACCESSED, cpu, count, first=span.start, last=span.last)
        self._note_counts(cpu, before, after)

    def access_many(
        self,
        vas: npt.ArrayLike,
        kinds: npt.ArrayLike | str | None = None,
        cpus: npt.ArrayLike | None = None,
        user: bool = False,
    ) -> npt.NDArray[np.uint8]:
        """Make an access per address, in order, each on its CPU (default the first).

        Returns the outcome codes, uint8 shaped as `vas`: the TLB level that served it, WALK or FAULT. Each
        CPU that took part gets rows in the ledger. Raises as Mmu.access_many, and OutOfRange for a CPU
        that the machine has not, before any access. The GIL is released.
        """
        before = [mmu.counts for mmu in self._mmus]
        outcomes = access_on(self._mmus, vas, kinds, cpus, user)
        for cpu, (mmu, counts) in enumerate(zip(self._mmus, before, strict=True)):
            count = mmu.counts.accesses - counts.accesses
            if count:
                self.note(Event.ACCESSED, cpu, count)
                self._note_counts(cpu, counts, mmu.counts)
        return outcomes

    def _note_counts(self, cpu: int, before: Counts, after: Counts) -> None:
        lower = sum(after.hits[1:]) - sum(before.hits[1:])
        for event, number in (
            (Event.TLB_HITS, lower),
            (Event.WALKS, after.walks - before.walks),
            (Event.WALK_REFERENCES, after.references - before.references),
            (Event.FAULTS, after.faults - before.faults),
        ):
            if number:
                self.note(event, cpu, number)

    # -- devices -----------------------------------------------------------------------------

    def attach(
        self, format: str | Format = DEVICE_FORMAT, tlb: str | Sequence[TlbLevel] = DEVICE_TLB
    ) -> Device:
        """Put a device behind an IOMMU of its own: a root of `format` and a TLB (a preset or levels)."""
        levels = preset(tlb).levels if isinstance(tlb, str) else tlb
        self.devices.append(Device(self, self.cpus + len(self.devices), format, levels))
        return self.devices[-1]

    # -- processes ---------------------------------------------------------------------------

    def process(self, own_format: str | Format | None = None) -> Process:
        """Make a process: a root of its own that shares the kernel's half.

        `own_format`: of its tables, where kernel and processes have a table each for their half; the
        machine's format is then that of the upper half. Raises AddressError where both would translate the
        same addresses, NoFrame without a frame for the root.
        """
        made = processes.new_process(self._made + 1, self.table, self.memory, own_format)
        self._made += 1
        if self.shootdown.name == "ranges":
            made.asid = processes.number_for_all(self._asids)
        self._processes.append(made)
        return made

    def end(self, process: Process, cpu: int) -> None:
        """Take a process away: its CPUs turn to the kernel's root, all that is cached of it goes."""
        self._known(process)
        everything = Span(process.span.start, process.span.last)
        self.flush(process, everything, cpu, tables_freed=True)
        for context in self._contexts:
            if context.loaded is process:
                context.unload()
            context.forget(process)
            if process.asid is not None:
                context.drop(process.asid)
        if process.space is process.table:
            processes.drop_upper_half(process.table)
        process.table.destroy().discharge()
        self._asids.discard(process.asid or 0)
        self._processes.remove(process)

    def switch(self, cpu: int, process: Process | None) -> bool:
        """Let `cpu` run a process, or kernel work alone (None): it then keeps what it has, lazily.

        Returns whether what was cached under the process's number had to go: it had no number there, or
        was flushed meanwhile.
        """
        self.mmu(cpu)
        context = self._contexts[cpu]
        if process is None:
            context.lazy = context.loaded is not None
            return False
        self._known(process)
        if context.loaded is not None and context.loaded is not process:
            context.loaded.cpus.discard(cpu)
        dropped = context.load(process)
        process.cpus.add(cpu)
        self.note(Event.SWITCHED, cpu, int(dropped))
        return dropped

    def map_in(
        self,
        process: Process,
        va: int,
        pa: int,
        length: int | str,
        cpu: int,
        access: str = "rw",
        *,
        page_size: int | str | None = None,
    ) -> None:
        """Map memory for a process, for user mode; raises as PageTable.map."""
        span = self._own(process, va, length)
        owed = process.table.map(va, pa, length, access=access, user=True, page_size=page_size)
        self.account(owed, cpu)
        self.note(Event.MAPPED, cpu, span.size // self.page_bytes, first=va, last=span.last, pa=pa)
        self._pay(process, owed, span, cpu)

    def unmap_in(
        self, process: Process, va: int, length: int | str, cpu: int, *, free_tables: bool = False
    ) -> None:
        """Take memory out of a process and flush it from the CPUs that may hold it (in a batch: later)."""
        span = self._own(process, va, length)
        pa = process.table.translate(va)
        owed = process.table.unmap(va, length, free_tables=free_tables)
        self.account(owed, cpu)
        pages = span.size // self.page_bytes
        self.note(Event.UNMAPPED, cpu, pages, first=va, last=span.last, pa=pa)
        self._pay(process, owed, span, cpu)

    def flush(
        self, process: Process, span: Span, cpu: int, *, tables_freed: bool = False
    ) -> frozenset[int]:
        """Let every CPU that runs a process drop what it caches of `span`; return which CPUs did.

        Lazy CPUs are left alone unless tables were freed: they look at the generation when they return.
        Up to 33 pages go one by one, where nothing else was missed (Linux arch/x86/mm/tlb.c,
        flush_tlb_func()). A broadcast reaches every CPU, lazy or not, and needs one number for all of them:
        processes on enough CPUs get one (`shootdown.least_cpus`), others are flushed by interrupts.
        """
        self._known(process)
        self.mmu(cpu)
        self._number_for_all(process)
        process.generation += 1
        pages = -(-span.size // self.page_bytes)
        pages = 0 if pages > SINGLE_PAGE_CEILING or tables_freed else pages
        broadcast = process.asid is not None
        targets = frozenset(range(self.cpus)) if broadcast else self._targets(process, tables_freed)
        for n in targets:
            self._flush_one(self._contexts[n], process, span, pages)
        self.note(Event.INVALIDATED, cpu, pages, first=span.start, last=span.last, cpus=targets)
        remote = targets - {cpu}
        if broadcast:
            self._reach(remote, cpu, pages)
        elif remote:
            self.note(Event.INTERRUPTED, cpu, len(remote), cpus=remote)
            self.note(Event.ACKNOWLEDGED, cpu, len(remote), cpus=remote)
        return targets

    @contextmanager
    def batch(self, cpu: int) -> Iterator[None]:
        """Put off the flushes of `unmap_in` until the end: then one, of everything, on each CPU concerned.

        Linux arch/x86/mm/tlb.c, arch_tlbbatch_flush(). Until then translations are stale.
        """
        if self._batch is not None:
            raise InvalidationOwed("a batch is open already")
        self._batch = set()
        try:
            yield
        finally:
            targets, self._batch = frozenset(self._batch), None
            for n in targets:
                self._mmus[n].invalidate_all(keep_global=True)
            if targets:
                whole = Span(0, ALL_ONES)
                self.note(Event.INVALIDATED, cpu, 0, first=0, last=whole.last, cpus=targets)
                self._reach(targets - {cpu}, cpu, 0)

    def _pay(self, process: Process, owed: Owed, span: Span, cpu: int) -> None:
        if self._batch is not None and owed and not owed.tables:
            process.generation += 1  # CPUs that do not run it will notice
            for n in process.cpus:
                context = self._contexts[n]
                if process.asid is not None or not context.lazy:
                    self._batch.add(n)
                    context.note_flushed(process)
            if process.asid is not None:
                self._batch |= set(range(self.cpus))
        elif owed:
            self.flush(process, span, cpu, tables_freed=bool(owed.tables))
        owed.discharge()

    def _targets(self, process: Process, tables_freed: bool) -> frozenset[int]:
        return frozenset(n for n in process.cpus if tables_freed or not self._contexts[n].lazy)

    def _flush_one(self, context: CpuContexts, process: Process, span: Span, pages: int) -> None:
        asid = context.asid_of(process)
        if asid is None:
            return
        missed = context.generation_of(process) < process.generation - 1
        if pages and (not missed or process.asid is not None):
            context.mmu.tlb.invalidate(span.start, span.last, asid, with_global=False)
            if context.mmu.walk_cache is not None:
                context.mmu.walk_cache.invalidate(span.start, span.last, asid)
        else:
            context.drop(asid)
        if process.asid is not None or context.loaded is process:
            context.note_flushed(process)

    def _number_for_all(self, process: Process) -> None:
        """Give a process on enough CPUs one number on all, where invalidations are broadcast."""
        way = self.shootdown
        if way.interrupts or process.asid is not None or len(process.cpus) < way.least_cpus:
            return
        asid = processes.number_for_all(self._asids)
        for context in self._contexts:
            context.forget(process)
        process.asid = asid
        for n in process.cpus:
            context = self._contexts[n]
            lazy = context.lazy
            context.load(process)
            context.lazy = lazy

    def _known(self, process: Process) -> None:
        if process not in self._processes:
            raise AddressError(f"process {process.number} is not one of this machine's")

    def _own(self, process: Process, va: int, length: int | str) -> Span:
        self._known(process)
        span = Span.of(va, length)
        if span.start < process.span.start or span.last > process.span.last:
            raise AddressError(f"{span} is not all of a process's own: {process.span}")
        return span

    def _share_kernel_half(self, owed: Owed) -> None:
        if owed.entries_written:
            for process in self._processes:
                if process.space is process.table:
                    processes.share_upper_half(self.table, process.table)
