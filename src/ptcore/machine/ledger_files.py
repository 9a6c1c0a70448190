"""Files of a ledger: each is written under another name first, so that what stands under its own is whole.

A ledger that outgrows its limit is a folder of parts, each a file that can be read without the others:
Parquet (with the extra `parquet`) or .npz. A row of a part stands for `times` rows; see PARQUET_COLUMNS.
"""

from __future__ import annotations

import importlib
import json
import os
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp
from typing import IO, Any, NamedTuple
from weakref import finalize

import numpy as np
from numpy.typing import NDArray

from ptcore.errors import FormatError, TraceError
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
        ("page_lg2", "u1"),
    ]
)
# The two bits above a stored row's page_lg2: what moves when it happens again.
MOVES_AT = 6
PAGE_LG2 = (1 << MOVES_AT) - 1
REPEAT_DTYPE = np.dtype(
    [("at", "<u8"), ("times", "<u8"), ("step", "<i8"), ("period", "<u4"), ("unused", "<u4")]
)


class TemporaryFolder:
    """A new folder that goes with this object, or when the program ends."""

    def __init__(self) -> None:
        self.path = Path(mkdtemp(prefix="ptcore-ledger-"))
        self._end = finalize(self, shutil.rmtree, self.path, ignore_errors=True)


class Part(NamedTuple):
    """Rows of a ledger as they are stored: each row once, and which of them happened several times in a row.

    `before`: how many stored rows come before; `length`: how many rows the part stands for.
    """

    rows: NDArray[Any]
    repeats: NDArray[Any]
    before: int
    length: int


def _rows_of_repeats(part: Part) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the rows that happened more than once, and of which repeat each is."""
    starts = part.repeats["at"].astype(np.int64) - part.before
    periods = part.repeats["period"].astype(np.int64)
    which = np.repeat(np.arange(len(starts)), periods)
    inside = np.arange(len(which)) - np.repeat(np.cumsum(periods) - periods, periods)
    return starts[which] + inside, which


def weights_of(part: Part) -> NDArray[np.int64]:
    """Return how often each stored row of a part happened."""
    weights = np.ones(len(part.rows), dtype=np.int64)
    at, which = _rows_of_repeats(part)
    weights[at] = part.repeats["times"][which]
    return weights


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
    except OSError as error:
        if error.filename is None:  # a full disk is said of a write, which knows no name
            error.filename = path
        raise
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


# -- parts ---------------------------------------------------------------------------------------

FORMS = ("parquet", "npz")
PARQUET_COLUMNS = {
    "moves": "1 where first and last, 2 where pa goes on by `step` each time that the rows happen again",
    "times": "how often the row happened",
    "period": "of the first of several rows that happened again in turn: how many they are; else 0",
    "step": "bytes, see moves",
}
"""What columns of a Parquet part say besides those of ROW_DTYPE."""


def _arrow(path: object) -> Any:
    try:
        importlib.import_module("pyarrow.parquet")
    except ImportError:
        raise FormatError(
            f"{path}: parts in Parquet need pyarrow: pip install 'ptcore[parquet]', or form='npz'"
        ) from None
    return importlib.import_module("pyarrow")


def form_of(form: str | None) -> str:
    """Return the form that parts are written in: by default Parquet, where pyarrow is there, else .npz.

    Raises FormatError for one that is none, and for Parquet without pyarrow.
    """
    if form is None:
        try:
            _arrow("a ledger")
        except FormatError:
            return "npz"
        return "parquet"
    if form not in FORMS:
        raise FormatError(f"parts of a ledger are {' or '.join(FORMS)}, not {form!r}")
    if form == "parquet":
        _arrow("a ledger")
    return form


def part_name(number: int, form: str) -> str:
    """Return the name of a part in its folder."""
    return f"part-{number:06}.{form}"


def part_files(folder: str | os.PathLike[str]) -> list[Path]:
    """Return the parts in a folder in their order. Raises TraceError where there is none, or not all."""
    found = sorted(path for path in Path(folder).glob("part-*") if path.suffix[1:] in FORMS)
    if not found:
        raise TraceError(f"{os.fspath(folder)} is no ledger: no part-000000 is in it")
    for number, path in enumerate(found):
        if path.stem != part_name(number, "").rstrip("."):
            raise TraceError(f"{os.fspath(folder)}: part {number} of the ledger is missing")
    return found


def write_part(path: Path, part: Part, sets: list[list[int]]) -> None:
    """Write a part, with all sets of CPUs that the ledger had named by then. Raises OSError."""
    facts = {"before": part.before, "length": part.length, "cpu_sets": sets}
    with whole_file(path) as out:
        if path.suffix == ".npz":
            np.savez(out, rows=part.rows, repeats=part.repeats, facts=np.array(json.dumps(facts)))
            return
        _write_parquet(out, part, json.dumps(facts), _arrow(path))


_COLUMNS = tuple(name for name in ROW_DTYPE.names or () if name != "page_lg2")


ROWS_AT_ONCE = 1 << 15  # a group of rows whose columns stay in a CPU's cache while they are written


def _write_parquet(out: IO[bytes], part: Part, facts: str, arrow: Any) -> None:
    """Write a group of rows after the other. No column has nulls, and none is sought by its least and most:
    to say so of each costs a third of the time."""
    dtypes = {name: ROW_DTYPE[name] for name in _COLUMNS} | _REPEAT_COLUMNS
    fields = [
        arrow.field(name, arrow.from_numpy_dtype(dtype), nullable=False)
        for name, dtype in dtypes.items()
    ]
    schema = arrow.schema(fields, metadata={"ptcore.ledger": facts})
    repeats = _columns_of(part)
    writer = arrow.parquet.ParquetWriter(
        out, schema, compression="snappy", use_dictionary=False, write_statistics=False
    )
    with writer:
        for start in range(0, len(part.rows), ROWS_AT_ONCE):
            some = slice(start, start + ROWS_AT_ONCE)
            columns = [np.ascontiguousarray(part.rows[name][some]) for name in _COLUMNS]
            columns += [repeats[name][some] for name in _REPEAT_COLUMNS]
            writer.write_table(arrow.table(columns, schema=schema))


_REPEAT_COLUMNS = {
    "page_lg2": np.dtype("u1"),
    "moves": np.dtype("u1"),
    "times": np.dtype("i8"),
    "period": np.dtype("u4"),
    "step": np.dtype("i8"),
}


def _columns_of(part: Part) -> dict[str, NDArray[Any]]:
    found = {name: np.zeros(len(part.rows), dtype) for name, dtype in _REPEAT_COLUMNS.items()}
    found["page_lg2"][:] = part.rows["page_lg2"] & PAGE_LG2
    found["moves"][:] = part.rows["page_lg2"] >> MOVES_AT
    found["times"] = weights_of(part)
    at, which = _rows_of_repeats(part)
    found["period"][part.repeats["at"].astype(np.int64) - part.before] = part.repeats["period"]
    found["step"][at] = part.repeats["step"][which]
    return found


def read_part(path: Path) -> tuple[Part, list[list[int]]]:
    """Read what `write_part` wrote. Raises TraceError for anything else."""
    try:
        if path.suffix == ".npz":
            with np.load(path) as found:
                facts = json.loads(str(found["facts"]))
                rows, repeats = found["rows"], found["repeats"]
        else:
            rows, repeats, facts = _read_parquet(path)
        part = Part(rows, repeats, int(facts["before"]), int(facts["length"]))
        sets = facts["cpu_sets"]
    except (AttributeError, EOFError, KeyError, TypeError, ValueError, zipfile.BadZipFile) as error:
        raise TraceError(f"{path} is no part of a ledger: {error}") from None
    check_rows(path, part, len(sets))
    if part.length != len(rows) + int((repeats["period"] * (repeats["times"] - 1)).sum()):
        raise TraceError(f"{path} says that it stands for {part.length} rows, and does not")
    return part, sets


def _read_parquet(path: Path) -> tuple[NDArray[Any], NDArray[Any], dict[str, Any]]:
    arrow = _arrow(path)
    table = arrow.parquet.read_table(path)
    facts = json.loads((table.schema.metadata or {})[b"ptcore.ledger"])
    columns = {name: table.column(name).to_numpy() for name in table.column_names}
    rows = np.zeros(table.num_rows, dtype=ROW_DTYPE)
    for name in _COLUMNS:
        rows[name] = columns[name]
    rows["page_lg2"] = columns["page_lg2"] | columns["moves"] << MOVES_AT
    starts = np.flatnonzero(columns["period"])
    repeats = np.zeros(len(starts), dtype=REPEAT_DTYPE)
    repeats["at"] = starts + int(facts["before"])
    for name in ("times", "step", "period"):
        repeats[name] = columns[name][starts]
    return rows, repeats, facts


__all__ = [
    "FORMS",
    "PARQUET_COLUMNS",
    "REPEAT_DTYPE",
    "ROW_DTYPE",
    "Part",
    "TemporaryFolder",
    "check_rows",
    "form_of",
    "part_files",
    "part_name",
    "read_part",
    "weights_of",
    "whole_file",
    "write_part",
]
