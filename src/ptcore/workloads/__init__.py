"""Floor 6: recorded traces as workloads."""

from __future__ import annotations

from ptcore.workloads.accesses import Accesses, AccessKind, convert, open_accesses
from ptcore.workloads.ftrace import (
    AREA_DTYPE,
    EVENT_DTYPE,
    Areas,
    Damaged,
    EventKind,
    FtraceLog,
    join_areas,
    read_ftrace,
    read_sample,
    sample_path,
)

__all__ = [
    "AREA_DTYPE",
    "EVENT_DTYPE",
    "AccessKind",
    "Accesses",
    "Areas",
    "Damaged",
    "EventKind",
    "FtraceLog",
    "convert",
    "join_areas",
    "open_accesses",
    "read_ftrace",
    "read_sample",
    "sample_path",
]
