"""What listings are made of: the row of `mappings`, and the small value types around it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, IntFlag

import numpy as np


class RowKind(IntEnum):
    """What a row of `mappings` is."""

    LEAF = 2
    """Pages of one size, at consecutive addresses on both sides, with equal attributes."""
    RESERVED = 3
    """Items that are neither table nor leaf, or that break the must-be-zero rule."""
    REPEAT = 4
    """Subtrees that were listed before: address x maps what repeat_of + (x - first) % page_size maps."""
    OUTSIDE = 5
    """Items of a table that lies outside the memory; `pa` is that table's address."""


class Flag(IntFlag):
    """Bits of the `flags` column."""

    GLOBAL = 1
    ENCRYPTED = 2
    UNACCESSED = 4
    """Any access faults (ACCESS_FLAG) until software sets the accessed mark: only in formats where the
    hardware does not set it."""


class Right(IntFlag):
    """Bits of the `rights` column: what the leaf and every table above it grant."""

    READ = 1
    WRITE = 2
    EXECUTE = 4
    USER = 8
    USER_EXECUTE = 16
    USER_WRITE = 32
    """The last two exist only where user mode has rights of its own (`Format.rights`)."""


ROW_DTYPE = np.dtype(
    [
        ("first", "<u8"),
        ("last", "<u8"),
        ("pa", "<u8"),
        ("page_size", "<u8"),
        ("repeat_of", "<u8"),
        ("software", "<u2"),
        ("rights", "u1"),
        ("memory_type", "u1"),
        ("pkey", "u1"),
        ("flags", "u1"),
        ("kind", "u1"),
        ("level", "u1"),
    ]
)
"""Addresses and sizes in bytes; `last` inclusive; `pa` and `repeat_of` all-ones where they say nothing."""


class Rule(IntEnum):
    """What a finding of `check` is about."""

    RESERVED_ITEM = 1
    """Items with reserved bits set, of a refused combination, or that are neither table nor leaf."""
    OUTSIDE_MEMORY = 2
    """An item that points to a table which is not wholly inside the memory; `other` is that table."""
    LOOP = 3
    """An item that points back to its own table or to one above it; `other` is that table."""
    WRITABLE_EXECUTABLE = 4
    """Pages that one mode may both write and execute."""
    USER_IN_KERNEL_HALF = 5
    """Pages in the kernel's half of the addresses that user mode may reach."""
    MEMORY_TYPE_ALIAS = 6
    """Physical addresses that are mapped with another memory type as well, at `other`."""
    WRITABLE_ALIAS = 7
    """Executable pages that are written at another address, `other`: by the kernel what the kernel executes,
    or by user mode what anyone executes."""
    USER_WRITABLE_TABLE = 8
    """Pages that user mode may write and that hold a table of these very tables; `other` is the table."""


FINDING_DTYPE = np.dtype(
    [
        ("first", "<u8"),
        ("last", "<u8"),
        ("entry_address", "<u8"),
        ("items", "<u8"),
        ("other", "<u8"),
        ("rule", "u1"),
        ("level", "u1"),
    ]
)
"""`first` to `last`: the addresses that a finding concerns (bytes, inclusive); `entry_address` and
`level`: the item that begins it; `items`: how many side by side are alike; `other`: see Rule, else 0."""

HARVEST_DTYPE = np.dtype([("va", "<u8"), ("pa", "<u8"), ("page_size", "<u8")])


@dataclass(frozen=True, slots=True)
class Stats:
    """How a table is filled. Tuples run from level 0 upwards and count each table once.

    `empty`, `leaves`, `reserved`: items; `outside`: items of tables that lie outside the memory.
    `mapped_bytes` counts every way to reach a leaf. `shared_tables`: references to a table beyond
    the first. `self_maps`: the addresses of items that point back to a table above them, on any way
    that leads to them.
    """

    tables: tuple[int, ...]
    leaves: tuple[int, ...]
    empty: tuple[int, ...]
    reserved: tuple[int, ...]
    outside: tuple[int, ...]
    mapped_bytes: int
    shared_tables: int
    self_maps: tuple[int, ...]
    table_bytes: int
