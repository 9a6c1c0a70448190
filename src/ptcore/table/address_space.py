"""An address space as a CPU has it: one table or one per half, behind a second stage or not."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ptcore.errors import AddressError, NotCanonical, Status
from ptcore.formats import registers as known_registers
from ptcore.formats.registers import Part
from ptcore.memory import PhysicalMemory
from ptcore.table.listing import Listing, listing
from ptcore.table.nested import Nested, NestedWalk, guest_memory
from ptcore.table.owed import Owed
from ptcore.table.page_table import PageTable
from ptcore.table.path import Walk
from ptcore.table.rows import Stats
from ptcore.units import ALL_ONES, Span

Table = PageTable | Nested


class AddressSpace:
    """Tables that share the 64-bit addresses among them, with the verbs of PageTable.

    `tables` translate disjoint spans. An address that none of them translates is NOT_CANONICAL.
    `asid` is the number that tags the translations (PCID, ASID), None where there is none.
    """

    def __init__(
        self, tables: Iterable[Table], *, asid: int | None = None, vmid: int | None = None
    ) -> None:
        self.tables = tuple(tables)
        self.asid = asid
        self.vmid = vmid
        if not self.tables:
            raise AddressError("an address space has at least one table")

    @classmethod
    def from_registers(
        cls, architecture: str, memory: PhysicalMemory, **registers: int | str
    ) -> AddressSpace:
        """Return the address space that a CPU with these registers has.

        `architecture`: one of `ptcore.formats.registers.architectures()`; registers by the vendor's names
        in lower case (x86_64: cr0, cr3, cr4, efer, pkru, rflags, eptp, ncr3, and physical_bits,
        encryption_mask; aarch64: ttbr0_el1, ttbr1_el1, tcr_el1, sctlr_el1, mair_el1, hcr_el2, vttbr_el2,
        vtcr_el2, id_aa64mmfr0_el1, id_aa64mmfr1_el1, pan, and those of EL2 and EL3; riscv64: satp or vsatp,
        hgatp, sstatus, adue; `ptcore.formats.registers.known` says what each is), and `presence` where the
        format has it. `memory` is physical memory: that behind the second stage, where there is
        one. Raises FormatError for registers that are unknown or that no CPU accepts together, and what
        PageTable raises for a root.
        """
        plan = known_registers.decode(architecture, registers)
        if plan.stage2 is None:
            tables: list[Table] = [_table(part, memory) for part in plan.parts]
        else:
            stage2 = _table(plan.stage2, memory)
            tables = [stage2]
            if plan.parts:
                seen = guest_memory(stage2)
                tables = [Nested(_table(part, seen), stage2) for part in plan.parts]
        return cls(tables, asid=plan.asid, vmid=plan.vmid)

    # -- which table -------------------------------------------------------------------------

    def table_of(self, va: int) -> Table:
        """Return the table that translates `va`. NotCanonical if none does."""
        for table in self.tables:
            first = _first_stage(table)
            if any(first.untagged(va) in span for span in first.legal_spans()):
                return table
        raise NotCanonical(f"not canonical: {va:#x} is in none of {self._legal_text()}", va=va)

    def legal_spans(self) -> tuple[Span, ...]:
        """Return the input addresses that are translated, in order."""
        spans = [span for table in self.tables for span in _first_stage(table).legal_spans()]
        return tuple(sorted(spans))

    def _legal_text(self) -> str:
        return ", ".join(f"{span.start:#x}..{span.last:#x}" for span in self.legal_spans())

    # -- translation -------------------------------------------------------------------------

    def translate(self, va: int, access: str = "r", user: bool = False) -> int:
        """Return the physical address of `va`; raises as PageTable.translate."""
        return self.table_of(va).translate(va, access, user)

    def walk(self, va: int) -> Walk | NestedWalk:
        """Return the path of `va`, as PageTable.walk or Nested.walk."""
        try:
            return self.table_of(va).walk(va)
        except NotCanonical as fault:
            return Walk(va=va, status=Status.NOT_CANONICAL, path=(), fault=fault)

    def translate_many(
        self, vas: npt.ArrayLike, access: str = "r", user: bool = False
    ) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint8]]:
        """Return (physical addresses uint64[n], statuses uint8[n]); failed outputs are all-ones."""
        pas, statuses = self.tables[0].translate_many(vas, access, user)
        addresses = np.asarray(vas, dtype=np.uint64)
        for table in self.tables[1:]:
            left = statuses == Status.NOT_CANONICAL
            pas[left], statuses[left] = table.translate_many(addresses[left], access, user)
        return pas, statuses

    # -- listings ----------------------------------------------------------------------------

    def mappings(self, first: int = 0, last: int | None = None) -> Listing:
        """Return rows of ROW_DTYPE, ascending, as PageTable.mappings."""
        end = ALL_ONES if last is None else last
        rows = np.concatenate([table.mappings(first, end) for table in self.tables])
        return listing(rows[np.argsort(rows["first"], kind="stable")])

    def reverse(self, pa: int) -> npt.NDArray[np.uint64]:
        """Return the addresses that translate to `pa`, ascending."""
        found: npt.NDArray[np.uint64] = np.sort(
            np.concatenate([table.reverse(pa) for table in self.tables])
        )
        return found

    def stats(self) -> tuple[Stats, ...]:
        """Return how the (first-stage) tables are filled, one Stats per table."""
        return tuple(_first_stage(table).stats() for table in self.tables)

    def harvest(
        self, what: Literal["dirty", "accessed"], *, clear: bool = True
    ) -> tuple[npt.NDArray[Any], Owed]:
        """List the marked leaves of all tables, as PageTable.harvest."""
        found = [table.harvest(what, clear=clear) for table in self.tables]
        owed = Owed(
            spans=tuple(sorted(span for _, o in found for span in o.spans)),
            entries_written=sum(o.entries_written for _, o in found),
        )
        rows: npt.NDArray[Any] = np.concatenate([rows for rows, _ in found])
        return rows[np.argsort(rows["va"], kind="stable")], owed

    # -- edits -------------------------------------------------------------------------------

    def _verb(self, name: str, va: int) -> Callable[..., Owed]:
        verb: Callable[..., Owed] = getattr(self.table_of(va), name)
        return verb

    def map(self, va: int, *arguments: Any, **options: Any) -> Owed:
        """PageTable.map of the table that translates `va`."""
        return self._verb("map", va)(va, *arguments, **options)

    def unmap(self, va: int, *arguments: Any, **options: Any) -> Owed:
        """PageTable.unmap of the table that translates `va`."""
        return self._verb("unmap", va)(va, *arguments, **options)

    def protect(self, va: int, *arguments: Any, **options: Any) -> Owed:
        """PageTable.protect of the table that translates `va`."""
        return self._verb("protect", va)(va, *arguments, **options)

    def split(self, va: int, *arguments: Any, **options: Any) -> Owed:
        """PageTable.split of the table that translates `va`."""
        return self._verb("split", va)(va, *arguments, **options)

    def collapse(self, va: int, *arguments: Any, **options: Any) -> Owed:
        """PageTable.collapse of the table that translates `va`."""
        return self._verb("collapse", va)(va, *arguments, **options)

    def __iter__(self) -> Iterator[Table]:
        return iter(self.tables)

    def __repr__(self) -> str:
        return f"AddressSpace({', '.join(map(repr, self.tables))}, asid={self.asid})"


def _first_stage(table: Table) -> PageTable:
    return table.stage1 if isinstance(table, Nested) else table


def _table(part: Part, memory: PhysicalMemory) -> PageTable:
    return PageTable(
        part.format,
        memory,
        part.root,
        physical_bits=part.physical_bits,
        encryption_mask=part.encryption_mask,
        tag_bits=part.tag_bits,
    )
