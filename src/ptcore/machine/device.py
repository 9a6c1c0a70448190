"""A device behind an IOMMU: tables of its own, a TLB, and the same ledger."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ptcore.caches import Mmu, Tlb, TlbLevel
from ptcore.errors import InvalidationOwed
from ptcore.formats.schema import Format
from ptcore.machine.events import Event
from ptcore.table import PageTable
from ptcore.units import ALL_ONES, Span

if TYPE_CHECKING:
    from ptcore.machine.machine import Machine

DEVICE_FORMAT = "vtd_ss_4level"
DEVICE_TLB = "smmuv3_gem5"


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
        self._stale: list[Span] = []

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
        owed = self.table.unmap(iova, length, free_tables=False)
        self.machine.account(owed, cpu)
        pages = span.size // self.machine.page_bytes
        mine = frozenset({self.number})
        self.machine.note(Event.UNMAPPED, cpu, pages, first=iova, last=span.last, pa=pa, cpus=mine)
        self._stale.append(span)
        self.machine.open_stale(span, pa, mine)
        owed.discharge()

    def invalidate(self, span: Span | None, cpu: int) -> None:
        """Let the device's TLB drop what it holds of `span` (None: everything), as `cpu` asks."""
        asked = Span(0, ALL_ONES) if span is None else span
        if span is None:
            self.mmu.invalidate_all()
        else:
            self.mmu.invalidate(asked.start, asked.last)
        pages = 0 if span is None else -(-asked.size // self.machine.page_bytes)
        mine = frozenset({self.number})
        self.machine.note(
            Event.DEVICE_INVALIDATED, cpu, pages, first=asked.start, last=asked.last, cpus=mine
        )
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
            (Event.FAULTS, after.faults - before.faults),
        ):
            if number:
                self.machine.note(event, cpu, number)


__all__ = ["DEVICE_FORMAT", "DEVICE_TLB", "Device"]
