"""Read and write Parquet, and read Arrow's files and streams, in batches and never as a whole.

The columns are those of `Accesses`: va (any integer), and those of kind, size, cpu and time_ns (an
integer, or a timestamp) that there are; others are not read. Needs pyarrow, which is imported here
when such a file is opened and nowhere else.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from ptcore.errors import TraceError
from ptcore.workloads.accesses.chunks import CHUNK, Accesses, Damage, gather
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


def _errors() -> tuple[type[Exception], ...]:
    return (_arrow().ArrowException, OSError)


def _report(error: Exception, where: str, damage: Damage, rows: int = 1) -> None:
    """Turn what pyarrow raised on damaged bytes into damage; errors of the system stay errors."""
    if isinstance(error, OSError) and error.errno is not None:
        raise error
    said = (str(error).splitlines() or ["damaged"])[0]
    damage.found(f"{where}: {said}", records=rows)


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
    try:
        file = parquet.ParquetFile(path)
    except _errors() as error:
        _report(error, "this is no whole Parquet file", Damage(path.name))
    with file:
        names = _check_columns(file.schema_arrow, path.name)
        first = 0
        for group in range(file.num_row_groups):
            rows, done = file.metadata.row_group(group).num_rows, 0
            try:
                for batch in file.iter_batches(CHUNK, row_groups=[group], columns=names):
                    yield from _chunks(batch, names, first + done, damage)
                    done += batch.num_rows
            except _errors() as error:
                _report(error, f"row group {group}, row {first + done}", damage, rows - done)
            first += rows


def _batches(mapped: Any, path: Path, damage: Damage) -> Iterator[Any]:
    """Yield the record batches of a file or a stream; in a stream, none after a damaged one."""
    ipc = _arrow("pyarrow.ipc")
    is_file = mapped.read(len(ARROW_MAGIC)) == ARROW_MAGIC
    mapped.seek(0)
    try:
        reader = ipc.open_file(mapped) if is_file else ipc.open_stream(mapped)
    except _errors() as error:
        _report(error, "this is no whole Arrow file", Damage(path.name))
    _check_columns(reader.schema, path.name)
    number = 0
    while not is_file or number < reader.num_record_batches:
        try:
            batch = reader.get_batch(number) if is_file else reader.read_next_batch()
            batch.validate(full=True)
            yield batch
        except StopIteration:
            return
        except _errors() as error:
            _report(error, f"record batch {number}", damage)
            if not is_file:
                return
        number += 1


def read_arrow(path: Path, damage: Damage) -> Iterator[Accesses]:
    """Yield the accesses of an Arrow IPC file (Feather) or stream; it is mapped, not loaded."""
    first = 0
    with _arrow().memory_map(str(path)) as mapped:
        for batch in _batches(mapped, path, damage):
            yield from _chunks(batch, _check_columns(batch.schema, path.name), first, damage)
            first += batch.num_rows


def write_parquet(chunks: Iterable[Accesses], file: Any) -> None:
    """Write Parquet, compressed with zstd, in row groups of about a million rows.

    Raises TraceError when only some of the chunks have times.
    """
    pa, parquet = _arrow(), _arrow("pyarrow.parquet")
    with ExitStack() as stack:
        writer: Any = None
        for chunk in gather(iter(chunks), _ROW_GROUP):
            table = pa.table(chunk.columns())
            if writer is None:
                writer = parquet.ParquetWriter(file, table.schema, compression="zstd")
                stack.enter_context(writer)
            if writer.schema != table.schema:
                raise TraceError("only a part of the trace has times")
            writer.write_table(table, row_group_size=len(table))
