"""Floor 3: one engine for all formats. `PageTable` is the door."""

from __future__ import annotations

from pathlib import Path

from ptcore.table.address_space import AddressSpace
from ptcore.table.diff import DIFF_DTYPE, Change
from ptcore.table.listing import Columns, Listing
from ptcore.table.nested import Nested, NestedWalk, guest_memory
from ptcore.table.owed import Owed
from ptcore.table.page_table import PageTable
from ptcore.table.path import Step, Walk
from ptcore.table.rows import ROW_DTYPE, Flag, Right, RowKind, Rule, Stats

__all__ = [
    "DIFF_DTYPE",
    "ROW_DTYPE",
    "AddressSpace",
    "Change",
    "Columns",
    "Flag",
    "Listing",
    "Nested",
    "NestedWalk",
    "Owed",
    "PageTable",
    "Right",
    "RowKind",
    "Rule",
    "Stats",
    "Step",
    "Walk",
    "guest_memory",
    "include_dirs",
]


def include_dirs() -> list[str]:
    """Return the folders of C headers that an extension needs which cimports from ptcore."""
    room = Path(__file__).parent
    return [str(room), str(room.parent / "memory")]
