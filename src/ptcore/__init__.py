"""ptcore: page tables that you can compute with."""

from __future__ import annotations

from ptcore import errors, formats, units
from ptcore.errors import Status
from ptcore.memory import PhysicalMemory
from ptcore.table import PageTable
from ptcore.units import Span

__all__ = ["PageTable", "PhysicalMemory", "Span", "Status", "errors", "formats", "units"]
