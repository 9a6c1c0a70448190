"""CPUs, tables and caches behind a few verbs; everything that happens lands in the ledger."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ptcore.allocators import AddressTree
from ptcore.caches import Mmu, Tlb, TlbLevel, WalkCache, preset
from ptcore.errors import AddressError, InvalidationOwed, NoAddressSpace, NoFrame, OutOfRange
from ptcore.machine.events import Event
from ptcore.machine.ledger import Ledger
from ptcore.memory import PhysicalMemory
from ptcore.table import Owed, PageTable
from ptcore.units import ALL_ONES, Span, parse_size

# Linux arch/x86/mm/tlb.c, tlb_single_page_flush_ceiling: "unsigned long ... = 33"; beyond it, everything.
SINGLE_PAGE_CEILING = 33
DEFAULT_PRESET = "skylake_sp"
TABLE_SHARE = 16  # one part in so many of the memory is kept for page tables


@dataclass(slots=True)
class _Stale:
    """A translation that the tables no longer have and that some CPUs may still hold."""

    first: int
    last: int
    pa: int
    cpus: set[int]


class Machine:
    """N CPUs, each with its own TLB and paging-structure cache, over one shared kernel table.

    `ram` is simulated: tables live in it as real bytes, data frames are only handed out. `tlb` is a
    preset's name or levels; `walk_cache` entries by level, by default the preset's. Time moves only
    by `advance`. Verbs raise before they change anything.
    """

    def __init__(
        self,
        cpus: int = 2,
        format: str = "x86_64_4level",
        ram: int | str = "64G",
        *,
        tlb: str | Sequence[TlbLevel] = DEFAULT_PRESET,
        walk_cache: Mapping[int, int] | None = None,
        ledger: Ledger | None = None,
    ) -> None:
        if cpus < 1:
            raise OutOfRange(f"a machine has at least one CPU, not {cpus}")
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
        """Let time pass until `to_ns`. Raises OutOfRange when that is in the past."""
        if to_ns < self.now_ns:
            raise OutOfRange(f"time {to_ns} ns is before now, {self.now_ns} ns")
        self.now_ns = to_ns

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
        for stale in self._stale:
            if stale.pa < pa + size and pa < stale.pa + (stale.last - stale.first + 1):
                held = frozenset(
                    n for n in stale.cpus if self._mmus[n].tlb.holds(stale.first, stale.last)
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

    def _account(self, owed: Owed, cpu: int) -> None:
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
    ) -> None:
        """Map memory, for all CPUs; as PageTable.map.

        Raises InvalidationOwed when a CPU may still hold an older translation of these addresses.
        """
        self.mmu(cpu)
        span = Span.of(va, length)
        for stale in self._stale:
            if stale.first <= span.last and span.start <= stale.last:
                raise InvalidationOwed(
                    f"{span} is mapped anew while CPUs {sorted(stale.cpus)} may still hold "
                    f"{stale.first:#x}..{stale.last:#x}"
                )
        owed = self.table.map(va, pa, length, access=access, page_size=page_size)
        self._account(owed, cpu)
        self.note(Event.MAPPED, cpu, span.size // self.page_bytes, first=va, last=span.last, pa=pa)
        if owed:
            self._owed.append((owed, set(range(self.cpus))))

    def unmap(self, va: int, length: int | str, cpu: int, *, free_tables: bool = False) -> None:
        """Take memory out of the tables. Its translations are stale until `invalidate`."""
        self.mmu(cpu)
        span = Span.of(va, length)
        pa = self.table.translate(va)
        owed = self.table.unmap(va, length, free_tables=free_tables)
        self._account(owed, cpu)
        self.note(
            Event.UNMAPPED, cpu, span.size // self.page_bytes, first=va, last=span.last, pa=pa
        )
        self._stale.append(_Stale(va, span.last, pa, set(range(self.cpus))))
        if owed.tables:
            self._owed.append((owed, set(range(self.cpus))))

    # -- invalidation ------------------------------------------------------------------------

    def invalidate(self, span: Span | None, cpu: int, cpus: Iterable[int] | None = None) -> None:
        """Let `cpus` (default: all) drop what they cache of `span` (None: of everything).

        Up to 33 pages go one by one, more by dropping everything, global entries included (Linux
        arch/x86/mm/tlb.c, flush_tlb_kernel_range()). CPUs other than `cpu` are interrupted.
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
        remote = targets - {cpu}
        if remote:
            self.note(Event.INTERRUPTED, cpu, len(remote), cpus=remote)
        self._settle(asked, targets, cpu)

    def _settle(self, span: Span, targets: frozenset[int], cpu: int) -> None:
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
        lower = sum(after.hits[1:]) - sum(before.hits[1:])
        for event, number in (
            (Event.TLB_HITS, lower),
            (Event.WALKS, after.walks - before.walks),
            (Event.WALK_REFERENCES, after.references - before.references),
            (Event.FAULTS, after.faults - before.faults),
        ):
            if number:
                self.note(event, cpu, number)
