"""Read and write NumPy's files: .npy of addresses or of rows, .npz of columns.

An .npy is one dimension of whole numbers, the addresses (loads, then), or of a structured type with
the columns' names as fields. An .npz has one array per column: va, and those of kind, size, cpu and
time_ns that there are. Both are read in chunks and never as a whole; nothing is unpickled.
"""

from __future__ import annotations

import shutil
import tempfile
import tokenize
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from ptcore.errors import TraceError
from ptcore.workloads.accesses.archives import Member, open_archive
from ptcore.workloads.accesses.chunks import CHUNK, COLUMNS, Accesses, Damage
from ptcore.workloads.accesses.rows import Columns, check_names, check_type, chunk_of
from ptcore.workloads.accesses.source import Source

NPY_MAGIC = b"\x93NUMPY"
_SUFFIX = ".npy"
_BLOCK = 1 << 20


class _Stream:
    """One array, read from front to end."""

    def __init__(self, source: Source | Member, where: str) -> None:
        self._source = source
        self._where = where
        self.shape, self.dtype = self._header()
        if len(self.shape) != 1 or self.dtype.hasobject:
            raise TraceError(
                f"{where}: {self.dtype} of shape {self.shape} is no single column of numbers"
            )
        self.left = self.shape[0]

    def read(self, count: int) -> bytes:
        """Read bytes, as a file does: for NumPy's own reader of headers."""
        room = np.empty(count, np.uint8)
        return room[: self._source.fill(room)].tobytes()

    def _header(self) -> tuple[tuple[int, ...], np.dtype[Any]]:
        file: Any = self
        try:
            version = npy.read_magic(file)
            if version not in ((1, 0), (2, 0)):
                raise ValueError(f"version {version} is not read")
            first = version == (1, 0)
            read = npy.read_array_header_1_0 if first else npy.read_array_header_2_0
            shape, _, dtype = read(file)
        except (ValueError, SyntaxError, tokenize.TokenError) as error:
            raise TraceError(f"{self._where}: damaged header ({error})", offset=0) from None
        return shape, dtype

    def rows(self, count: int) -> NDArray[Any]:
        """Return the next rows, fewer at the end or where the file was cut short."""
        count = min(count, self.left)
        room = np.empty(count * self.dtype.itemsize, np.uint8)
        offset = self._source.offset
        got = self._source.fill(room) // self.dtype.itemsize
        self.left -= count
        if got < count:
            self.left = 0
            if not self._source.broken:
                row = self.shape[0] - count + got
                reason = f"the array ends at row {row} of {self.shape[0]}"
                self._source.damage.found(reason, offset=offset + got * self.dtype.itemsize)
        return room[: got * self.dtype.itemsize].view(self.dtype)


def read_npy(path: Path, damage: Damage) -> Iterator[Accesses]:
    """Yield the accesses of an .npy file, plain or compressed."""
    with Source(path, damage) as source:
        stream = _Stream(source, path.name)
        fields = stream.dtype.names
        names = check_names(list(fields), path.name) if fields is not None else ["va"]
        for name in names:
            check_type(name, stream.dtype[name] if fields is not None else stream.dtype, path.name)
        first = 0
        while stream.left:
            rows = stream.rows(CHUNK)
            columns = {name: rows[name] if fields is not None else rows for name in names}
            yield chunk_of(columns, first, damage)
            first += len(rows)


def read_npz(path: Path, damage: Damage) -> Iterator[Accesses]:
    """Yield the accesses of an .npz file, stored or deflated."""
    with open_archive(path) as archive, ExitStack() as stack:
        members = [n.removesuffix(_SUFFIX) for n in archive.namelist() if n.endswith(_SUFFIX)]
        streams = {}
        for name in check_names(members, path.name):
            member = stack.enter_context(Member(archive, name + _SUFFIX, damage))
            streams[name] = _Stream(member, f"{path.name}, {name}")
            check_type(name, streams[name].dtype, path.name)
        if len({stream.shape for stream in streams.values()}) > 1:
            shapes = ", ".join(f"{name} {stream.shape[0]}" for name, stream in streams.items())
            raise TraceError(f"{path.name}: the columns are not of one length: {shapes}")
        first = 0
        while all(stream.left for stream in streams.values()):
            columns: Columns = {name: stream.rows(CHUNK) for name, stream in streams.items()}
            count = min(len(column) for column in columns.values())
            yield chunk_of({n: column[:count] for n, column in columns.items()}, first, damage)
            first += count


def write_npz(chunks: Iterable[Accesses], file: Any) -> None:
    """Write an .npz that numpy.load reads; the columns wait in temporary files until the end.

    Raises TraceError when only some of the chunks have times.
    """
    with ExitStack() as stack:
        waiting: dict[str, IO[bytes]] = {}
        count = 0
        for chunk in chunks:
            columns = chunk.columns()
            if not waiting:
                waiting = {n: stack.enter_context(tempfile.TemporaryFile()) for n in columns}
            if waiting.keys() != columns.keys():
                raise TraceError("only a part of the trace has times")
            for name, column in columns.items():
                waiting[name].write(column.tobytes())
            count += len(chunk)
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            for name, rows in waiting.items():
                header = {"descr": COLUMNS[name].str, "fortran_order": False, "shape": (count,)}
                with archive.open(name + _SUFFIX, "w", force_zip64=True) as member:
                    npy.write_array_header_1_0(member, header)
                    rows.seek(0)
                    shutil.copyfileobj(rows, member, _BLOCK)
