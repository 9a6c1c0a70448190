"""A device behind an IOMMU: tables of its own, a TLB, and the same ledger."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ptcore.caches import Mmu, Tlb, TlbLevel
from ptcore.caches.iommu import Iommu, context_tables
from ptcore.errors import InvalidationOwed
from ptcore.formats.schema import Format
from ptcore.machine.events import Event
from ptcore.table import Nested, PageTable
from ptcore.units import ALL_ONES, Span

if TYPE_CHECKING:
    from ptcore.machine.machine import Machine

DEVICE_FORMAT = "vtd_ss_4level"
DEVICE_TLB = "smmuv3_gem5"
# Of gem5's SMMUv3 (src/dev/arm/SMMUv3.py): its configuration cache.
CONTEXT_ENTRIES = 64
LINE_BYTES = 64


class Device:
    """What reaches memory by I/O addresses. `number` stands for it where the ledger names CPUs.

    Made by Machine.attach. Addresses and lengths in bytes; frames are the machine's.
    """

    def __init__(
        self, machine: Machine, number: int, format: str | Format, levels: Sequence[TlbLevel]
    ) -> None:
        self.machine = machine
        self.number = number
        self.table = PageTable(format, machine.memory)
        self.mmu = Mmu(self.table, Tlb(levels))
        self.coherent = True
        """Whether the IOMMU's walks see what CPUs have in their caches; else edits flush lines."""
        self._stale: list[Span] = []

    def put_behind(
        self,
        contexts: str,
        *,
        process: int = 0,
        own_tlb: Sequence[TlbLevel] | None = None,
        second_stage: PageTable | None = None,
    ) -> None:
        """Let an IOMMU read tables to learn by which ones the device translates; its caches are empty then.

        `contexts`: the kind of those tables (caches.iommu.context_tables_names()), of which
        CONTEXT_ENTRIES are cached; `process`: the number (PASID) that the accesses are for; `own_tlb`: what
        the device has itself (ATS); `second_stage`: what the device's own tables lie behind. Frames for the
        context tables are taken, one each. Raises FormatError for an unknown kind, NoFrame.
        """
        kind = context_tables(contexts)
        count = len(kind.device) + len(kind.process)
        size = self.table.format.table_bytes(0)
        at = [self.machine.memory.frames.allocate(size) for _ in range(count)]
        self.machine.note(Event.TABLES_ALLOCATED, 0, count * size)
        iommu = Iommu(
            self.mmu.tlb, tables=contexts, context_entries=CONTEXT_ENTRIES, device_table=at[0]
        )
        space = self.table if second_stage is None else Nested(self.table, second_stage)
        self.mmu = iommu.attach(
            self.number << 3,  # one function of a device each
            space,
            process=process,
            process_table=at[-1] if kind.process else 0,
            device_tlb=own_tlb,
        )

    def stale(self) -> tuple[Span, ...]:
        """Return the spans that it may still hold though its tables do not."""
        return tuple(self._stale)

    def map(self, iova: int, pa: int, length: int, cpu: int, access: str = "rw") -> None:
        """Map frames at an I/O address, with the best page sizes. Raises as PageTable.map, and
        InvalidationOwed where the device may still hold an older translation."""
        span = Span.of(iova, length)
        for stale in self._stale:
            if stale.start <= span.last and span.start <= stale.last:
                raise InvalidationOwed(
                    f"{span} is mapped anew while device {self.number} may still hold {stale}"
                )
        owed = self.table.map(iova, pa, length, access=access)
        self.machine.account(owed, cpu)
        if not self.coherent:
            self._flush_lines(span, owed.tables_allocated_bytes, cpu)
        pages = span.size // self.machine.page_bytes
        mine = frozenset({self.number})
        self.machine.note(Event.MAPPED, cpu, pages, first=iova, last=span.last, pa=pa, cpus=mine)
        owed.discharge()

    def unmap(self, iova: int, length: int, cpu: int) -> None:
        """Take an I/O address out of the tables; the device may hold it until `invalidate`.

        Tables stay, for the next use of the address.
        """
        span = Span.of(iova, length)
        pa = self.table.translate(iova)
        if not self.coherent:
            self._flush_lines(span, 0, cpu)
        owed = self.table.unmap(iova, length, free_tables=False)
        self.machine.account(owed, cpu)
        pages = span.size // self.machine.page_bytes
        mine = frozenset({self.number})
        self.machine.note(Event.UNMAPPED, cpu, pages, first=iova, last=span.last, pa=pa, cpus=mine)
        self._stale.append(span)
        self.machine.open_stale(span, pa, mine)
        owed.discharge()

    def _flush_lines(self, span: Span, new_bytes: int, cpu: int) -> None:
        """Note the lines of the items of `span`, of new tables, and of the items that point to those.

        Linux drivers/iommu/generic_pt/iommu_pt.h, flush_writes_range(): the items written of each table.
        """
        fmt = self.table.format
        lines = new_bytes // LINE_BYTES + new_bytes // fmt.table_bytes(0)
        at = span.start
        while at <= span.last:
            page_size = self.table.walk(at).page_size or self.machine.page_bytes
            reach = page_size << fmt.levels[fmt.level_of(page_size)].bits
            last = min(span.last, at | (reach - 1))
            items = [address // page_size * fmt.entry_bytes // LINE_BYTES for address in (at, last)]
            lines += items[1] - items[0] + 1
            at = last + 1
        self.machine.note(Event.LINES_FLUSHED, cpu, lines)

    def invalidate(self, span: Span | None, cpu: int) -> None:
        """Let the device's TLB drop what it holds of `span` (None: everything), as `cpu` asks."""
        asked = Span(0, ALL_ONES) if span is None else span
        if span is None:
            self.mmu.invalidate_all()
        else:
            self.mmu.invalidate(asked.start, asked.last)
        pages = 0 if span is None else -(-asked.size // self.machine.page_bytes)
        mine = frozenset({self.number})
        told = [Event.DEVICE_INVALIDATED]
        if self.mmu.device_tlb is not None:
            # After the IOMMU's: what the device asks again then finds nothing old there.
            self.mmu.device_tlb.invalidate(asked.start, asked.last, with_global=True)
            told.append(Event.DEVICE_TLB_INVALIDATED)
        for event in told:
            self.machine.note(event, cpu, pages, first=asked.start, last=asked.last, cpus=mine)
        self.machine.settle(asked, mine, cpu)
        self._stale = [
            stale
            for stale in self._stale
            if not (asked.start <= stale.start and stale.last <= asked.last)
        ]

    def access(self, span: Span, cpu: int, kind: str = "r") -> None:
        """Let the device touch every page of `span` once, in order, on behalf of `cpu`."""
        page = self.machine.page_bytes
        first = span.start & -page
        count = (span.last - first) // page + 1
        before = self.mmu.counts
        self.mmu.access_span(first, count, page, kind)
        after = self.mmu.counts
        self.machine.note(Event.DEVICE_ACCESSED, cpu, count, first=span.start, last=span.last)
        for event, number in (
            (Event.DEVICE_WALKS, after.walks - before.walks),
            (Event.DEVICE_REFERENCES, after.references - before.references),
            (Event.DEVICE_HITS, after.device_hits - before.device_hits),
            (Event.CONTEXT_REFERENCES, after.context_references - before.context_references),
            (Event.FAULTS, after.faults - before.faults),
        ):
            if number:
                self.machine.note(event, cpu, number)


__all__ = ["DEVICE_FORMAT", "DEVICE_TLB", "Device"]
