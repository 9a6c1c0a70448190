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

HARVEST_DTYPE = np.dtype([("va", "<u8"), ("pa", "<u8"), ("page_size", "<u8")])


@dataclass(frozen=True, slots=True)
class Stats:
    """How a table is filled. Tuples run from level 0 upwards and count each table once.

    `empty`, `leaves`, `reserved`: items; `outside`: items of tables that lie outside the memory.
    `mapped_bytes` counts every way to reach a leaf. `shared_tables`: references to a table beyond
    the first. `self_maps`: the addresses of items that point back to a table above them.
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
