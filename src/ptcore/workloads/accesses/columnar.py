"""Read and write Parquet, and read Arrow's files and streams, in batches and never as a whole.

The columns are those of `Accesses`: va (any integer), and those of kind, size, cpu and time_ns (an
integer, or a timestamp) that there are; others are not read. Needs pyarrow, which is imported here
when such a file is opened and nowhere else.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ptcore.errors import TraceError
from ptcore.workloads.accesses.chunks import CHUNK, COLUMNS, Accesses, Damage, join
from ptcore.workloads.accesses.rows import check_names, chunk_of

PARQUET_MAGIC = b"PAR1"
ARROW_MAGIC = b"ARROW1"
STREAM_MAGIC = b"\xff\xff\xff\xff"
_ROW_GROUP = 1 << 20


def _arrow(module: str = "pyarrow") -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError:
        raise TraceError("Parquet and Arrow need pyarrow: pip install 'ptcore[parquet]'") from None


@contextmanager
def _damage_of(where: str, damage: Damage, rows: int = 1) -> Iterator[None]:
    """Turn what pyarrow raises on damaged bytes into damage; errors of the system stay errors."""
    pa = _arrow()
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        damage.found(f"{where}: {str(error).splitlines()[0]}", records=rows)


def _check_columns(schema: Any, where: str) -> list[str]:
    types = _arrow("pyarrow.types")
    names = check_names(schema.names, where)
    for name in names:
        kind = schema.field(name).type
        if not types.is_integer(kind) and not (name == "time_ns" and types.is_timestamp(kind)):
            raise TraceError(f"{where}: the column {name} is {kind}, not whole numbers")
    return names


def _chunks(batch: Any, names: list[str], first: int, damage: Damage) -> Iterator[Accesses]:
    pa = _arrow()
    for start in range(0, batch.num_rows, CHUNK):
        columns = {}
        missing = np.zeros(min(CHUNK, batch.num_rows - start), bool)
        for name in names:
            column = batch.column(name).slice(start, CHUNK)
            if pa.types.is_timestamp(column.type):
                column = column.cast(pa.timestamp("ns", column.type.tz)).cast(pa.int64())
            if column.null_count:
                missing |= column.is_null().to_numpy(zero_copy_only=False)
                column = column.fill_null(0)
            columns[name] = column.to_numpy(zero_copy_only=False)
        yield chunk_of(columns, first + start, damage, missing)


def read_parquet(path: Path, damage: Damage) -> Iterator[Accesses]:
    """Yield the accesses of a Parquet file. A damaged row group costs the rest of its rows."""
    parquet = _arrow("pyarrow.parquet")
    with _damage_of(f"{path.name} is no whole Parquet file", Damage(path.name)):
        file = parquet.ParquetFile(path)
    with file:
        names = _check_columns(file.schema_arrow, path.name)
        first = 0
        for group in range(file.num_row_groups):
            rows = done = file.metadata.row_group(group).num_rows
            done = 0
            with _damage_of(f"row group {group}, from row {first}", damage):
                batches = file.iter_batches(CHUNK, row_groups=[group], columns=names)
                for batch in batches:
                    yield from _chunks(batch, names, first + done, damage)
                    done += batch.num_rows
            if done < rows and damage.skip:
                damage.count += rows - done - 1
            first += rows


def read_arrow(path: Path, damage: Damage) -> Iterator[Accesses]:
    """Yield the accesses of an Arrow IPC file (Feather) or stream; a file is mapped, not loaded."""
    ipc, pa = _arrow("pyarrow.ipc"), _arrow()
    with pa.memory_map(str(path)) as mapped:
        is_file = mapped.read(len(ARROW_MAGIC)) == ARROW_MAGIC
        mapped.seek(0)
        with _damage_of(f"{path.name} is no whole Arrow file", Damage(path.name)):
            reader = ipc.open_file(mapped) if is_file else ipc.open_stream(mapped)
        names = _check_columns(reader.schema, path.name)
        first = number = 0
        while not is_file or number < reader.num_record_batches:
            batch = None
            with _damage_of(f"record batch {number}, from row {first}", damage):
                try:
                    batch = reader.get_batch(number) if is_file else reader.read_next_batch()
                    batch.validate(full=True)
                except StopIteration:
                    break
            if batch is None and not is_file:
                break  # what follows in a stream cannot be found
            if batch is not None:
                yield from _chunks(batch, names, first, damage)
                first += batch.num_rows
            number += 1


class Writer:
    """Writes Parquet, compressed with zstd, in row groups of about a million rows."""

    keeps = tuple(COLUMNS)

    def __init__(self, file: Any) -> None:
        self._parquet = _arrow("pyarrow.parquet")
        self._pa = _arrow()
        self._file = file
        self._writer: Any = None
        self._held: list[Accesses] = []
        self._rows = 0

    def write(self, chunk: Accesses) -> None:
        """Append the rows. Raises TraceError when only some of the chunks have times."""
        self._held.append(chunk)
        self._rows += len(chunk)
        if self._rows >= _ROW_GROUP:
            self._flush()

    def _flush(self) -> None:
        if not self._held:
            return
        table = self._pa.table(join(self._held).columns())
        if self._writer is None:
            self._writer = self._parquet.ParquetWriter(self._file, table.schema, compression="zstd")
        if self._writer.schema != table.schema:
            raise TraceError("only a part of the trace has times")
        self._writer.write_table(table, row_group_size=len(table))
        self._held, self._rows = [], 0

    def close(self) -> None:
        """Write the last row group and the file's footer."""
        self._flush()
        if self._writer is not None:
            self._writer.close()
