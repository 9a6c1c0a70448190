"""ptcore: page tables that you can compute with. Where each name of the front door comes from."""

from ptcore import errors, formats, live, strategies, study, units, workloads
from ptcore.allocators import AddressTree
from ptcore.caches import Mmu, PageTableCache, Tlb, TlbArray, TlbLevel, WalkCache
from ptcore.errors import PtcoreError, Status
from ptcore.machine import Event, Handle, Ledger, Machine, Request, Strategy
from ptcore.memory import Cpu, Image, PageReader, PhysicalMemory, open_image
from ptcore.table import AddressSpace, Nested, Owed, PageTable, Walk, guest_memory
from ptcore.table.check import check
from ptcore.table.diff import diff
from ptcore.table.listing import Columns
from ptcore.table.ranges import reverse_many
from ptcore.table.roots import find_roots
from ptcore.units import Span

__version__: str
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
