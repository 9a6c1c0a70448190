"""Processes: roots of their own beside the shared kernel's, and how CPUs switch among them.

A CPU keeps a few address-space numbers of its own (Linux arch/x86/mm/tlb.c: TLB_NR_DYN_ASIDS, 6) and the
generation up to which each is flushed; a process counts its flushes. A CPU that turns to kernel work keeps
what it has loaded (lazy TLB mode) and is not interrupted; it looks at the generation when it returns.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ptcore.caches import Mmu
from ptcore.errors import AddressError, OutOfRange
from ptcore.formats.schema import Format
from ptcore.memory import PhysicalMemory
from ptcore.table import PageTable
from ptcore.table.address_space import AddressSpace
from ptcore.units import Span

# Linux arch/x86/mm/tlb.c, TLB_NR_DYN_ASIDS.
DYNAMIC_ASIDS = 6
# Numbers that mean one process on every CPU lie above those, up to the 12 bits of a PCID (Intel SDM vol. 3A,
# "Process-Context Identifiers (PCIDs)"); Linux shares them out so (MAX_ASID_AVAILABLE, MAX_DYN_ASIDS).
FIRST_GLOBAL_ASID = DYNAMIC_ASIDS + 1
LAST_GLOBAL_ASID = (1 << 12) - 1


@dataclass(eq=False, slots=True)
class Process:
    """An address space that CPUs switch to: `table` its own, `space` what a CPU translates by.

    `generation` counts its flushes. `cpus` have it loaded, lazily or not. `asid`: its number on every CPU, or
    None where each CPU gives it one.
    """

    number: int
    table: PageTable
    space: PageTable | AddressSpace
    span: Span
    generation: int = 1
    cpus: set[int] = field(default_factory=set)
    asid: int | None = None


@dataclass(slots=True)
class CpuContexts:
    """What one CPU knows: the process of each of its numbers, and up to which generation it is flushed."""

    mmu: Mmu
    kernel: PageTable
    slots: list[tuple[Process, int] | None] = field(default_factory=lambda: [None] * DYNAMIC_ASIDS)
    flushed: dict[int, int] = field(default_factory=dict)
    loaded: Process | None = None
    lazy: bool = False
    following: int = 0

    def asid_of(self, process: Process) -> int | None:
        """Return the number that the process has here, None if it has none."""
        if process.asid is not None:
            return process.asid
        for n, slot in enumerate(self.slots):
            if slot is not None and slot[0] is process:
                return n + 1
        return None

    def load(self, process: Process) -> bool:
        """Translate by `process`. Returns whether what was cached under its number had to go."""
        asid = self.asid_of(process)
        known = asid is not None
        if asid is None:
            asid = self.following + 1
            self.following = (self.following + 1) % DYNAMIC_ASIDS
        dropped = not known or self.generation_of(process) < process.generation
        if dropped:
            self.drop(asid)
        self.mmu.switch(process.space, asid)
        self.note_flushed(process)
        self.loaded, self.lazy = process, False
        return dropped

    def generation_of(self, process: Process) -> int:
        """Return the generation of the process up to which this CPU is flushed."""
        if process.asid is not None:
            return self.flushed.get(process.number, process.generation)
        return next(s[1] for s in self.slots if s is not None and s[0] is process)

    def note_flushed(self, process: Process) -> None:
        """Note that nothing older than the process's generation is cached under its number."""
        if process.asid is not None:
            self.flushed[process.number] = process.generation
        else:
            self.slots[self.mmu.asid - 1] = (process, process.generation)

    def drop(self, asid: int) -> None:
        """Drop all that is cached under a number, but global entries."""
        self.mmu.tlb.invalidate_all(asid, keep_global=True)
        if self.mmu.walk_cache is not None:
            self.mmu.walk_cache.invalidate_all(asid)

    def forget(self, process: Process) -> None:
        """Give up the number that the process has here; what is cached under it goes when it is reused."""
        for n, slot in enumerate(self.slots):
            if slot is not None and slot[0] is process:
                self.drop(n + 1)
                self.slots[n] = None

    def unload(self) -> None:
        """Translate by the kernel's own root, with the number 0."""
        self.mmu.switch(self.kernel, 0)
        self.loaded, self.lazy = None, False


def new_process(
    number: int, kernel: PageTable, memory: PhysicalMemory, own_format: str | Format | None
) -> Process:
    """Make a process: a root whose upper half is the kernel's items, or a table for the other half.

    Raises AddressError where both would translate the same addresses.
    """
    spans = kernel.legal_spans()
    if len(spans) == 2 and own_format is None:
        table = PageTable(kernel.format, memory)
        share_upper_half(kernel, table)
        return Process(number, table, table, spans[0])
    table = PageTable(kernel.format if own_format is None else own_format, memory)
    span = table.legal_spans()[0]
    if any(span.start <= other.last and other.start <= span.last for other in spans):
        table.destroy().discharge()
        raise AddressError(
            f"the kernel translates {spans[0]} too: give the machine a format of the upper half"
        )
    return Process(number, table, AddressSpace((table, kernel)), span)


def share_upper_half(kernel: PageTable, table: PageTable) -> bool:
    """Copy the items of the kernel's half into a root; return whether any had changed.

    Linux copies them when a root is made, and when one appears later (arch_sync_kernel_mappings()).
    """
    half = kernel.format.table_bytes(kernel.format.top_level) // 2
    items = kernel.memory.read(kernel.root + half, half)
    if table.memory.read(table.root + half, half) == items:
        return False
    table.memory.write(table.root + half, items)
    return True


def drop_upper_half(table: PageTable) -> None:
    """Clear the kernel's items from a root, before its tables are freed."""
    half = table.format.table_bytes(table.format.top_level) // 2
    table.memory.write(table.root + half, bytes(half))


def number_for_all(taken: set[int]) -> int:
    """Return a free number that means one process on every CPU. OutOfRange when all are taken."""
    for asid in range(FIRST_GLOBAL_ASID, LAST_GLOBAL_ASID + 1):
        if asid not in taken:
            taken.add(asid)
            return asid
    raise OutOfRange(f"all address-space numbers up to {LAST_GLOBAL_ASID} are taken")


__all__ = [
    "DYNAMIC_ASIDS",
    "FIRST_GLOBAL_ASID",
    "LAST_GLOBAL_ASID",
    "CpuContexts",
    "Process",
    "drop_upper_half",
    "new_process",
    "number_for_all",
    "share_upper_half",
]
