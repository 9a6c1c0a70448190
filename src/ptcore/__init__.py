"""ptcore: page tables that you can compute with.

The front door: public names only. Floors 0 to 3 (`PhysicalMemory`, `PageTable`, `formats`) are useful
alone; `Tlb`, `Mmu` and `PageTableCache` stand on them, and `Machine`, `strategies` and `study` on those.
"""

from __future__ import annotations

from ptcore import errors, formats, units
from ptcore.allocators import AddressTree
from ptcore.caches import Mmu, PageTableCache, Tlb, TlbArray, TlbLevel, WalkCache
from ptcore.errors import PtcoreError, Status
from ptcore.machine import Event, Handle, Ledger, Machine, Request, Strategy
from ptcore.memory import PhysicalMemory
from ptcore.table import AddressSpace, Nested, Owed, PageTable, Walk, guest_memory
from ptcore.table.diff import diff
from ptcore.units import Span

from ptcore import strategies, study, workloads  # isort: skip  # the floors above, which use the names above

__all__ = [
    "AddressSpace",
    "AddressTree",
    "Event",
    "Handle",
    "Ledger",
    "Machine",
    "Mmu",
    "Nested",
    "Owed",
    "PageTable",
    "PageTableCache",
    "PhysicalMemory",
    "PtcoreError",
    "Request",
    "Span",
    "Status",
    "Strategy",
    "Tlb",
    "TlbArray",
    "TlbLevel",
    "Walk",
    "WalkCache",
    "diff",
    "errors",
    "formats",
    "guest_memory",
    "strategies",
    "study",
    "units",
    "workloads",
]
