"""What changed between two tables: spans of addresses that translate otherwise."""

from __future__ import annotations

from enum import IntEnum
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ptcore.table.listing import Listing, listing
from ptcore.table.rows import RowKind
from ptcore.units import ALL_ONES

Rows = npt.NDArray[Any]


class Listed(Protocol):
    """What can be listed: a PageTable, a Nested, an AddressSpace."""

    def mappings(self, first: int = 0, last: int | None = None) -> Rows:
        """Return rows of ROW_DTYPE, ascending."""


class Change(IntEnum):
    """How a span of addresses differs."""

    ADDED = 1
    """Translates in the second table only; what is old is all-ones or 0."""
    REMOVED = 2
    """Translates in the first table only; what is new is all-ones or 0."""
    MOVED = 3
    """Translates to other addresses (rights and page sizes may differ as well)."""
    CHANGED = 4
    """Translates to the same addresses, with other rights, page size, memory type, key or flags."""
    REPEAT = 5
    """Differs as repeat_of + (address - first) % period does: subtrees that both tables repeat."""


DIFF_DTYPE = np.dtype(
    [
        ("first", "<u8"),
        ("last", "<u8"),
        ("old_pa", "<u8"),
        ("new_pa", "<u8"),
        ("old_page_size", "<u8"),
        ("new_page_size", "<u8"),
        ("repeat_of", "<u8"),
        ("period", "<u8"),
        ("old_rights", "u1"),
        ("new_rights", "u1"),
        ("change", "u1"),
    ]
)
"""Addresses and sizes in bytes; `last` inclusive; `rights` as ptcore.table.Right."""

_COMPARED = ("rights", "page_size", "memory_type", "pkey", "software", "flags")


def diff(table_a: Listed, table_b: Listed, first: int = 0, last: int | None = None) -> Listing:
    """Return what translates otherwise in `table_b` than in `table_a`: rows of DIFF_DTYPE, ascending.

    Looked at from `first` to `last` (inclusive; all by default). The tables may have different formats;
    two-stage tables and whole address spaces are compared as well. Addresses that translate in neither
    are equal, whatever the reason. Neighbours that changed alike are one row. Raises OutOfRange as
    mappings does. Cost: O(tables) of both, not O(leaves): subtrees that both tables repeat are compared
    once and become REPEAT rows.
    """
    end = ALL_ONES if last is None else last
    pair = _Pair(table_a.mappings(first, end), table_b.mappings(first, end))
    pair.compare(first, first, first, end - first)
    found = _merged(np.concatenate(pair.found)) if pair.found else np.empty(0, dtype=DIFF_DTYPE)
    return listing(found)


class _Cut:
    """The part of a listing that lies in one region, in offsets from where the region begins."""

    def __init__(self, rows: Rows, base: int | None, extent: int) -> None:
        if base is None:
            rows = rows[:0]
            base = 0
        low = int(np.searchsorted(rows["last"], np.uint64(base)))
        high = int(np.searchsorted(rows["first"], np.uint64(base + extent), side="right"))
        self.rows = rows[low:high]
        self.base = base
        start = np.uint64(base)
        self.starts = np.maximum(self.rows["first"], start) - start
        self.lasts = np.minimum(self.rows["last"], np.uint64(base + extent)) - start

    def edges(self, extent: int) -> Rows:
        """Return the offsets at which what is mapped may change."""
        return np.concatenate(
            [self.starts, self.lasts[self.lasts < np.uint64(extent)] + np.uint64(1)]
        )

    def at(self, offsets: Rows) -> tuple[Rows, npt.NDArray[np.bool_]]:
        """Return the row at each offset, and whether there is one that maps something."""
        if not len(self.rows):
            return np.zeros(len(offsets), dtype=self.rows.dtype), np.zeros(len(offsets), dtype=bool)
        index = np.searchsorted(self.starts, offsets, side="right").astype(np.int64) - 1
        inside = (index >= 0) & (offsets <= self.lasts[index])
        rows = self.rows[index]
        says = (rows["kind"] == RowKind.LEAF) | (rows["kind"] == RowKind.REPEAT)
        return rows, inside & says


class _Pair:
    """Two listings that are compared region by region."""

    def __init__(self, rows_a: Rows, rows_b: Rows) -> None:
        self.rows = (rows_a, rows_b)
        self.found: list[Rows] = []
        # Regions compared before: where that was, or None where nothing differed.
        self.seen: dict[tuple[int | None, int | None, int], int | None] = {}

    def compare(self, va: int, base_a: int | None, base_b: int | None, extent: int) -> bool:
        """Compare A from `base_a` on with B from `base_b` on, as seen at `va`; return if they differ."""
        a, b = _Cut(self.rows[0], base_a, extent), _Cut(self.rows[1], base_b, extent)
        zero = np.zeros(1, dtype=np.uint64)
        starts = np.unique(np.concatenate([zero, a.edges(extent), b.edges(extent)]))
        lasts = np.append(starts[1:] - np.uint64(1), np.uint64(extent))
        (rows_a, in_a), (rows_b, in_b) = a.at(starts), b.at(starts)
        repeat_a = in_a & (rows_a["kind"] == RowKind.REPEAT)
        repeat_b = in_b & (rows_b["kind"] == RowKind.REPEAT)
        plain = ~(repeat_a | repeat_b)
        new = _differences(
            va, (starts, lasts), (a.base, rows_a, in_a & plain), (b.base, rows_b, in_b & plain)
        )
        if len(new):
            self.found.append(new)
        differs = bool(len(new))
        for n in np.flatnonzero(~plain).tolist():
            sides = (
                (a.base, rows_a[n], bool(in_a[n]), bool(repeat_a[n])),
                (b.base, rows_b[n], bool(in_b[n]), bool(repeat_b[n])),
            )
            differs = self._compare_repeats(va, int(starts[n]), int(lasts[n]), sides) or differs
        return differs

    def _compare_repeats(self, va: int, start: int, last: int, sides: Any) -> bool:
        """Compare [start, last] where at least one side repeats a subtree, period by period."""
        period = min(int(row["page_size"]) for _, row, _, repeats in sides if repeats)
        differs = False
        while start <= last:
            chunk = min(period - (va + start) % period, last - start + 1)
            at_a, at_b = (_resolved(side, start) for side in sides)
            key = (at_a, at_b, chunk)
            if key not in self.seen:
                found = self.compare(va + start, at_a, at_b, chunk - 1)
                self.seen[key] = va + start if found else None
                differs = differs or found
            elif self.seen[key] is not None:
                differs = True
                row = np.zeros(1, dtype=DIFF_DTYPE)
                row["first"], row["last"] = va + start, va + start + chunk - 1
                row["old_pa"] = row["new_pa"] = ALL_ONES
                row["repeat_of"], row["period"] = self.seen[key], chunk
                row["change"] = Change.REPEAT
                self.found.append(row)
            start += chunk
        return differs


def _resolved(side: Any, offset: int) -> int | None:
    """Return the address in a side's listing that says what is at `offset`; None for nothing."""
    base, row, inside, repeats = side
    if not inside:
        return None
    address: int = base + offset
    if repeats:
        return int(row["repeat_of"]) + (address - int(row["first"])) % int(row["page_size"])
    return address


def _differences(va: int, spans: Any, side_a: Any, side_b: Any) -> Rows:
    """Return the spans whose leaves differ, as rows of DIFF_DTYPE."""
    (starts, lasts), (base_a, a, in_a), (base_b, b, in_b) = spans, side_a, side_b
    pa_a = np.where(in_a, a["pa"] + (starts + np.uint64(base_a) - a["first"]), np.uint64(ALL_ONES))
    pa_b = np.where(in_b, b["pa"] + (starts + np.uint64(base_b) - b["first"]), np.uint64(ALL_ONES))
    both = in_a & in_b
    moved = both & (pa_a != pa_b)
    changed = np.zeros(len(starts), dtype=bool)
    for name in _COMPARED:
        changed |= both & (a[name] != b[name])
    change = np.select(
        [in_b & ~in_a, in_a & ~in_b, moved, changed],
        [Change.ADDED, Change.REMOVED, Change.MOVED, Change.CHANGED],
        0,
    )
    rows = np.zeros(len(starts), dtype=DIFF_DTYPE)
    rows["first"], rows["last"] = starts + np.uint64(va), lasts + np.uint64(va)
    rows["old_pa"], rows["new_pa"] = pa_a, pa_b
    rows["repeat_of"] = ALL_ONES
    rows["change"] = change
    for name in ("rights", "page_size"):
        rows[f"old_{name}"] = np.where(in_a, a[name], 0)
        rows[f"new_{name}"] = np.where(in_b, b[name], 0)
    differing: Rows = rows[change != 0]
    return differing


def _merged(rows: Rows) -> Rows:
    """Sort rows by address, and join those that only carry the one before on."""
    rows = rows[np.argsort(rows["first"], kind="stable")]
    before, after = rows[:-1], rows[1:]
    goes_on = (before["last"] != ALL_ONES) & (before["last"] + np.uint64(1) == after["first"])
    for name in rows.dtype.names or ():
        if name not in ("first", "last", "old_pa", "new_pa"):
            goes_on &= before[name] == after[name]
    step = after["first"] - before["first"]
    for name in ("old_pa", "new_pa"):
        nothing = (before[name] == ALL_ONES) & (after[name] == ALL_ONES)
        goes_on &= nothing | (before[name] + step == after[name])
    begins = np.flatnonzero(np.append(True, ~goes_on))
    merged: Rows = rows[begins].copy()
    merged["last"] = rows["last"][np.append(begins[1:], len(rows)) - 1]
    return merged
