"""CPUs, tables and caches behind a few verbs; everything that happens lands in the ledger."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt

from ptcore.caches import Mmu, Tlb, TlbLevel, WalkCache, preset
from ptcore.caches.mmu import Counts, access_on
from ptcore.errors import AddressError, FormatError, InvalidationOwed, OutOfRange
from ptcore.formats.schema import Format
from ptcore.machine import processes
from ptcore.machine.device import DEVICE_FORMAT, DEVICE_TLB, Device
from ptcore.machine.events import Event
from ptcore.machine.ledger import Ledger
from ptcore.machine.processes import CpuContexts, Process
from ptcore.machine.shootdown import SHOOTDOWNS, SINGLE_PAGE_CEILING
from ptcore.machine.verbs import Verbs
from ptcore.memory import PhysicalMemory
from ptcore.table import Owed, PageTable
from ptcore.units import ALL_ONES, Span, parse_size

DEFAULT_PRESET = "skylake_sp"
TABLE_SHARE = 16  # one part in so many of the memory is kept for page tables


class Machine(Verbs):
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
        size = parse_size(ram)
        tables = size // TABLE_SHARE
        memory = PhysicalMemory(size, frames=(size - tables, tables))
        table = PageTable(format, memory)
        page_bytes = 1 << table.format.granule_lg2
        super().__init__(
            table,
            _make_mmus(table, cpus, tlb, walk_cache),
            ledger if ledger is not None else Ledger(),
            (size - tables) & ~(page_bytes - 1),
            SHOOTDOWNS[shootdown],
        )
        self._contexts = [CpuContexts(mmu, table) for mmu in self.mmus]
        self._made = 0
        self._asids: set[int] = set()
        self._batch: set[int] | None = None

    # -- tables ------------------------------------------------------------------------------

    def collapse(self, va: int, length: int | str, page_size: int | str, cpu: int) -> None:
        """Make larger leaves of smaller ones, and invalidate on all CPUs; raises as PageTable.collapse."""
        self.mmu(cpu)
        span = Span.of(va, length)
        owed = self.table.collapse(va, length, page_size)
        self.account(owed, cpu)
        gone = sum(size for _, size in owed.tables)
        self.note(Event.COLLAPSED, cpu, gone, first=span.start, last=span.last)
        self.owe(owed)
        self.invalidate(None, cpu)

    # -- access ------------------------------------------------------------------------------

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
        before = [mmu.counts for mmu in self.mmus]
        outcomes = access_on(self.mmus, vas, kinds, cpus, user)
        for cpu, (mmu, counts) in enumerate(zip(self.mmus, before, strict=True)):
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
        self.processes.append(made)
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
        self.processes.remove(process)

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
            self.tell(remote, cpu, pages)
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
                self.mmus[n].invalidate_all(keep_global=True)
            if targets:
                whole = Span(0, ALL_ONES)
                self.note(Event.INVALIDATED, cpu, 0, first=0, last=whole.last, cpus=targets)
                self.tell(targets - {cpu}, cpu, 0)

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
        if process not in self.processes:
            raise AddressError(f"process {process.number} is not one of this machine's")

    def _own(self, process: Process, va: int, length: int | str) -> Span:
        self._known(process)
        span = Span.of(va, length)
        if span.start < process.span.start or span.last > process.span.last:
            raise AddressError(f"{span} is not all of a process's own: {process.span}")
        return span


def _make_mmus(
    table: PageTable,
    cpus: int,
    tlb: str | Sequence[TlbLevel],
    walk_cache: Mapping[int, int] | None,
) -> tuple[Mmu, ...]:
    if walk_cache is None:
        walk_cache = preset(tlb if isinstance(tlb, str) else DEFAULT_PRESET).walk_cache
    known = {n: size for n, size in walk_cache.items() if n <= table.format.top_level}
    levels = preset(tlb).levels if isinstance(tlb, str) else tlb
    return tuple(Mmu(table, Tlb(levels), WalkCache(known)) for _ in range(cpus))
