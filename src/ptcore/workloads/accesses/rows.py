"""Make chunks out of columns that someone else wrote: types checked once, ranges row by row."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptcore.errors import TraceError
from ptcore.workloads.accesses.chunks import COLUMNS, Accesses, AccessKind, Damage

Columns = dict[str, NDArray[Any]]
_LARGEST = {name: int(np.iinfo(dtype).max) for name, dtype in COLUMNS.items()}
_LARGEST["kind"] = max(AccessKind)


def check_names(names: list[str], where: str) -> list[str]:
    """Return those of `names` that are columns of accesses. Raises TraceError without va."""
    if "va" not in names:
        has = ", ".join(map(str, names[:20])) or "none"
        raise TraceError(f"{where}: no column is called va; there is {has}")
    return [name for name in COLUMNS if name in names]


def check_type(name: str, dtype: np.dtype[Any], where: str) -> None:
    """Raise TraceError unless a column holds whole numbers."""
    if dtype.kind not in "iu":
        raise TraceError(f"{where}: the column {name} is {dtype}, not whole numbers")


def chunk_of(
    columns: Columns, first: int, damage: Damage, missing: NDArray[np.bool_] | None = None
) -> Accesses:
    """Make a chunk of columns whose first row is row `first` (0-based) of the trace.

    Without a kind they are loads; sizes and CPUs that are not there are 0. Rows with a number that
    its column cannot hold, and those `missing`, are damaged.
    """
    count = len(columns["va"])
    bad = np.zeros(count, bool) if missing is None else missing.copy()
    if bad.any():
        row = int(np.argmax(bad))
        damage.found(f"row {first + row}: a value is missing", records=int(bad.sum()))
    for name, column in columns.items():
        wrong = _out_of_range(name, column) & ~bad
        if wrong.any():
            row = int(np.argmax(wrong))
            reason = f"{name} = {column[row]} is not from {_least(name)} to {_LARGEST[name]}"
            damage.found(f"row {first + row}: {reason}", records=int(wrong.sum()))
            bad |= wrong
    kept = slice(None) if not bad.any() else np.flatnonzero(~bad)
    left = count - int(bad.sum())
    made = {
        name: np.ascontiguousarray(columns[name][kept].astype(dtype, copy=True))
        if name in columns
        else np.zeros(left, dtype)
        for name, dtype in COLUMNS.items()
        if name in columns or name != "time_ns"
    }
    return Accesses(**made)


def _least(name: str) -> int:
    return int(np.iinfo(COLUMNS[name]).min)


def _out_of_range(name: str, column: NDArray[Any]) -> NDArray[np.bool_]:
    limits = np.iinfo(column.dtype)
    wrong = np.zeros(len(column), bool)
    if limits.min < _least(name):
        wrong |= column < _least(name)
    if limits.max > _LARGEST[name]:
        wrong |= column > _LARGEST[name]
    return wrong
