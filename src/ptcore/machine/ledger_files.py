"""Files of a ledger: each is written under another name first, so that what stands under its own is whole."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ptcore.errors import TraceError
from ptcore.machine.events import Event

ROW_DTYPE = np.dtype(
    [
        ("time_ns", "<i8"),
        ("first", "<u8"),
        ("last", "<u8"),
        ("pa", "<u8"),
        ("count", "<i8"),
        ("cpus", "<u4"),
        ("cpu", "<i2"),
        ("event", "u1"),
        ("unused", "u1"),
    ]
)
REPEAT_DTYPE = np.dtype(
    [("at", "<u8"), ("times", "<u8"), ("step", "<i8"), ("period", "<u4"), ("unused", "<u4")]
)


class Part(NamedTuple):
    """Rows of a ledger as they are stored: each row once, and which of them happened several times in a row.

    `before`: how many stored rows come before; `length`: how many rows the part stands for.
    """

    rows: NDArray[Any]
    repeats: NDArray[Any]
    before: int
    length: int


@contextmanager
def whole_file(file: str | os.PathLike[str] | IO[bytes]) -> Iterator[IO[bytes]]:
    """Yield a file to write; it takes the name `file` once it is whole. An open file is yielded as it is."""
    if not isinstance(file, str | os.PathLike):
        yield file
        return
    path = os.fspath(file)
    unfinished = f"{path}.unfinished"
    try:
        with open(unfinished, "wb") as out:
            yield out
        os.replace(unfinished, path)
    finally:
        if os.path.exists(unfinished):
            os.remove(unfinished)


def check_rows(file: object, part: Part, sets: int) -> None:
    """Raise TraceError unless these are rows of a ledger with so many sets of CPUs, and repeats of them."""
    rows, repeats = part.rows, part.repeats
    if rows.dtype != ROW_DTYPE or repeats.dtype != REPEAT_DTYPE:
        raise TraceError(f"{file} holds rows of another kind: {rows.dtype}")
    known = np.isin(rows["event"], [int(event) for event in Event]) & (rows["cpus"] < sets)
    known[1:] &= rows["time_ns"][1:] >= rows["time_ns"][:-1]
    if not known.all():
        raise TraceError(f"{file}: row {int(np.argmin(known))} is no row of a ledger")
    starts = repeats["at"].astype(np.int64) - part.before
    ends = starts + repeats["period"]
    if len(repeats) and not (
        (ends > starts).all()
        and (repeats["times"] > 0).all()
        and int(starts[0]) >= 0
        and int(ends[-1]) <= len(rows)
        and (starts[1:] >= ends[:-1]).all()
    ):
        raise TraceError(f"{file}: its repeats are none of its rows")


__all__ = ["REPEAT_DTYPE", "ROW_DTYPE", "Part", "check_rows", "whole_file"]
