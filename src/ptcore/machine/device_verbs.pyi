"""What a Device does for every request, compiled."""

from typing_extensions import disjoint_base

from ptcore.caches import Mmu
from ptcore.machine.verbs import Verbs
from ptcore.table import PageTable
from ptcore.units import Span

LINE_BYTES: int

@disjoint_base
class DeviceVerbs:
    """Mappings, invalidations and accesses of a Device, whose `flush_lines` is called where its IOMMU's walks
    do not see the CPUs' caches (`coherent` False)."""

    machine: Verbs
    number: int
    @property
    def table(self) -> PageTable:
        """Its own tables; others may be put in their place before anything is mapped."""

    @table.setter
    def table(self, table: PageTable) -> None:
        """Put other tables in their place."""
    mmu: Mmu
    coherent: bool

    def __init__(self, machine: Verbs, number: int, table: PageTable, mmu: Mmu) -> None: ...
    def stale(self) -> tuple[Span, ...]:
        """Return the spans that it may still hold though its tables do not."""

    def map(self, iova: int, pa: int, length: int, cpu: int, access: str = "rw") -> None:
        """Map frames at an I/O address, with the best page sizes. Raises as PageTable.map, and
        InvalidationOwed where the device may still hold an older translation."""

    def unmap(self, iova: int, length: int, cpu: int) -> None:
        """Take an I/O address out of the tables; the device may hold it until `invalidate`.

        Tables stay, for the next use of the address.
        """

    def invalidate(self, span: Span | None, cpu: int) -> None:
        """Let the device's TLB drop what it holds of `span` (None: everything), as `cpu` asks."""

    def access(self, span: Span, cpu: int, kind: str = "r") -> None:
        """Let the device touch every page of `span` once, in order, on behalf of `cpu`."""

    def access_at(self, start: int, span: Span, cpu: int, kind: str = "r") -> None:
        """The same for the bytes `span`, counted from the I/O address `start`."""
