"""ptcore: page tables that you can compute with.

The front door: public names only. Floors 0 to 3 (`PhysicalMemory`, `PageTable`, `formats`) are useful
alone; `Tlb`, `Mmu` and `PageTableCache` stand on them, and `Machine`, `strategies` and `study` on those.
What stands above floor 3 is imported when it is first named (`ptcore.upstairs`): reading the tables of
an image waits for nothing else. `__init__.pyi` says where each name comes from.
"""

from __future__ import annotations

from ptcore import errors, formats, units
from ptcore.errors import PtcoreError, Status
from ptcore.memory import Cpu, Image, PageReader, PhysicalMemory, open_image
from ptcore.table import AddressSpace, Nested, Owed, PageTable, Walk, guest_memory
from ptcore.table.diff import diff
from ptcore.table.listing import Columns
from ptcore.units import Span
from ptcore.upstairs import __dir__ as __dir__
from ptcore.upstairs import __getattr__ as __getattr__

__all__ = [
    "AddressSpace",
    "AddressTree",
    "Columns",
    "Cpu",
    "Event",
    "Handle",
    "Image",
    "Ledger",
    "Machine",
    "Mmu",
    "Nested",
    "Owed",
    "PageReader",
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
    "check",
    "diff",
    "errors",
    "find_roots",
    "formats",
    "guest_memory",
    "live",
    "open_image",
    "reverse_many",
    "strategies",
    "study",
    "units",
    "workloads",
]
