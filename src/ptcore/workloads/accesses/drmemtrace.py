"""Read the traces of DynamoRIO's drmemtrace: a zip per thread, or a folder of them.

A record is u16 type, u16 size, u64 address (u32 of 32-bit programs), little-endian and packed; the
members chunk.0000, chunk.0001 ... of a zip are such records back to back. Markers (type 28; size says
which) give the time, in microseconds since 1601, and the CPU, for the records that follow. Prefetches,
cache flushes and instructions without a fetch (of a repeated string instruction) are no accesses here.
Source: DynamoRIO clients/drcachesim/common/trace_entry.h.

The threads of a folder are merged by time: what stands between two timestamps of a thread stays
together, as the recorder knows no finer order.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ptcore.errors import TraceError
from ptcore.workloads.accesses.archives import MAGIC, Member, open_archive
from ptcore.workloads.accesses.chunks import (
    CHUNK,
    Accesses,
    Damage,
    empty_chunk,
    gather,
)
from ptcore.workloads.accesses.drmemtrace_records import ThreadRecords
from ptcore.workloads.accesses.source import Source

MEMBERS = "chunk."
_HEADER, _VERSION, _MARKER = 25, 12, 28


def begins_thread(head: bytes) -> bool:
    """Whether these are the first bytes of a thread's records."""
    return _address_bytes(head) is not None


def _address_bytes(head: bytes) -> int | None:
    """Return how wide addresses are, from the header record and the marker after it, or None."""
    for width in (8, 4):
        record = np.dtype([("type", "<u2"), ("size", "<u2"), ("address", f"<u{width}")])
        if len(head) < 2 * record.itemsize:
            continue
        first, second = np.frombuffer(head, record, 2)
        if first["type"] == _HEADER and second["type"] == _MARKER and second["size"] == _VERSION:
            return width
    return None


def threads_in(path: Path) -> list[Path]:
    """Return the threads' files of a trace: itself, or those in the folder or its folder trace."""
    if not path.is_dir():
        return [path]
    for folder in (path, path / "trace"):
        found = sorted(folder.glob("*.trace.zip")) or sorted(folder.glob("*.trace.gz"))
        if found:
            return found
    raw = any((path / "raw").glob("*")) or any(path.glob("*.raw*"))
    hint = "; it holds raw files, which `drrun -t drmemtrace -indir` makes readable" if raw else ""
    raise TraceError(f"{path.name}: no *.trace.zip is in this folder{hint}")


class _Thread:
    """The records of one thread's file."""

    def __init__(self, path: Path, damage: Damage) -> None:
        self._path = path
        self._damage = damage.part(path.name)
        self._records = ThreadRecords()
        self._width: int | None = None

    def __iter__(self) -> Iterator[Accesses]:
        with open(self._path, "rb") as file:
            zipped = file.read(len(MAGIC)) == MAGIC
        if zipped:
            yield from self._members()
        else:
            with Source(self._path, self._damage) as source:
                yield from self._blocks(source)

    def _members(self) -> Iterator[Accesses]:
        with open_archive(self._path) as archive:
            names = [name for name in archive.namelist() if name.startswith(MEMBERS)]
            if not names:
                raise TraceError(f"{self._path.name}: no member is called {MEMBERS}0000")
            for name in names:
                self._damage.where = f"{self._path.name}, {name}"
                with Member(archive, name, self._damage) as member:
                    yield from self._blocks(member)

    def _blocks(self, source: Source | Member) -> Iterator[Accesses]:
        block = np.empty(CHUNK * 12, np.uint8)
        got = len(block)
        while got == len(block):
            offset = source.offset
            got = source.fill(block)
            if self._width is None and got:
                self._width = self._address_width(block[:got])
            whole = got - got % (4 + (self._width or 8))
            yield from self._unpacked(block[:whole], offset)
            if got > whole and not source.broken:
                reason = f"the trace ends within this record, after {got - whole} bytes"
                self._damage.found(reason, offset=offset + whole)

    def _address_width(self, head: NDArray[np.uint8]) -> int:
        width = _address_bytes(head[:64].tobytes())
        if width is None:
            raise TraceError(
                f"{self._damage.where}: the records do not begin with a header and a version",
                offset=0,
            )
        return width

    def _unpacked(self, block: NDArray[np.uint8], offset: int) -> Iterator[Accesses]:
        width = self._width or 8
        record_bytes = 4 + width
        chunk, made, at = empty_chunk(len(block) // record_bytes, timed=True), 0, 0
        while at < len(block):
            records, made = self._records.unpack(block[at:], width, chunk, made)
            at += records * record_bytes
            if at < len(block):
                kind, size = block[at : at + 4].view("<u2")
                reason = f"a record of type {kind} and size {size} cannot be read"
                self._damage.found(reason, offset=offset + at)
                at += record_bytes
        if made:
            yield chunk[:made]


class _Queue:
    """What is left of a thread, in the order of its times."""

    def __init__(self, chunks: Iterator[Accesses]) -> None:
        self._chunks = chunks
        self.chunk: Accesses | None = None
        self._times = np.empty(0, np.int64)
        self._at = 0
        self._next()

    def _next(self) -> None:
        self.chunk = next(self._chunks, None)
        self._at = 0
        if self.chunk is not None:
            assert self.chunk.time_ns is not None
            self._times = np.maximum.accumulate(self.chunk.time_ns)

    @property
    def time(self) -> int:
        return int(self._times[self._at])

    def take(self, until: int | None) -> Accesses:
        """Take the accesses up to a time, inclusive, as far as they are in the chunk at hand."""
        assert self.chunk is not None
        last = len(self.chunk)
        if until is not None:
            last = int(np.searchsorted(self._times, until, side="right"))
        taken = self.chunk[self._at : last]
        self._at = last
        if last == len(self.chunk):
            self._next()
        return taken


def merge(threads: list[Iterator[Accesses]]) -> Iterator[Accesses]:
    """Yield the accesses of all threads, earliest first; equal times in the threads' order."""
    queues = [queue for queue in map(_Queue, threads) if queue.chunk is not None]
    while queues:
        first = min(queues, key=lambda queue: queue.time)
        others = [queue.time for queue in queues if queue is not first]
        yield first.take(min(others) if others else None)
        if first.chunk is None:
            queues.remove(first)


def read(path: Path, damage: Damage) -> Iterator[Accesses]:
    """Yield the accesses of a thread's file, or of all threads in a folder merged by time."""
    threads = [iter(_Thread(thread, damage)) for thread in threads_in(path)]
    if len(threads) == 1:
        yield from threads[0]
    else:
        yield from gather(merge(threads))
