"""A device behind an IOMMU: tables of its own, a TLB, and the same ledger."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ptcore.caches import Mmu, Tlb, TlbLevel
from ptcore.caches.iommu import Iommu, context_tables
from ptcore.formats.schema import Format
from ptcore.machine.device_verbs import LINE_BYTES, DeviceVerbs
from ptcore.machine.events import Event
from ptcore.table import Nested, PageTable
from ptcore.units import Span

if TYPE_CHECKING:
    from ptcore.machine.machine import Machine

DEVICE_FORMAT = "vtd_ss_4level"
DEVICE_TLB = "smmuv3_gem5"
# Of gem5's SMMUv3 (src/dev/arm/SMMUv3.py): its configuration cache.
CONTEXT_ENTRIES = 64


class Device(DeviceVerbs):
    """What reaches memory by I/O addresses. `number` stands for it where the ledger names CPUs.

    Made by Machine.attach. Addresses and lengths in bytes; frames are the machine's. `coherent`: whether the
    IOMMU's walks see what CPUs have in their caches; else edits flush lines.
    """

    def __init__(
        self, machine: Machine, number: int, format: str | Format, levels: Sequence[TlbLevel]
    ) -> None:
        table = PageTable(format, machine.memory)
        super().__init__(machine, number, table, Mmu(table, Tlb(levels)))

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

    def flush_lines(self, span: Span, new_bytes: int, cpu: int) -> None:
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


__all__ = ["DEVICE_FORMAT", "DEVICE_TLB", "Device"]
