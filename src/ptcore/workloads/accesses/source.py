"""Open a trace file, plain or compressed (gzip, xz, bzip2: told by content), and read it in blocks."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptcore.workloads.accesses.chunks import Damage

HEAD_BYTES = 1 << 16  # what a form is guessed from
_COMPRESSED: dict[bytes, Callable[[Any, str], Any]] = {
    b"\x1f\x8b": gzip.open,
    b"\xfd7zXZ\x00": lzma.open,
    b"BZh": bz2.open,
}
_BROKEN = (EOFError, lzma.LZMAError, gzip.BadGzipFile, zlib.error)
COMPRESSIONS: dict[str, Callable[[Any, str], Any]] = {
    ".gz": gzip.open,
    ".xz": lzma.open,
    ".bz2": bz2.open,
}


class Source:
    """A file read from front to end.

    `offset` counts the bytes that were given out, decompressed; `broken`: it ended before its end.
    """

    def __init__(self, path: str | os.PathLike[str], damage: Damage) -> None:
        self.damage = damage
        self.offset = 0
        self.broken = False
        self._file: Any = io.FileIO(path)
        start = self._file.read(max(map(len, _COMPRESSED)))
        self._file.seek(0)
        opener = next((o for magic, o in _COMPRESSED.items() if start.startswith(magic)), None)
        self._raw = self._file
        self.compressed = opener is not None
        if opener is not None:
            self._file = opener(self._raw, "rb")

    def __enter__(self) -> Source:
        return self

    def __exit__(self, *raised: object) -> None:
        self._file.close()
        self._raw.close()

    def fill(self, room: NDArray[np.uint8]) -> int:
        """Read until `room` is full or the file ends; return the bytes read.

        A compressed file that is cut short or damaged ends there: TraceError, or counted as one
        damaged record where those are skipped.
        """
        view, done = room.data, 0
        try:
            while done < len(view) and not self.broken:
                got = self._read(view[done:])
                if not got:
                    break
                done += got
                self.offset += got
        except _BROKEN as error:
            self._break(error)
        except OSError as error:
            if not self.compressed or error.errno is not None:
                raise
            self._break(error)  # bz2 has no class of its own for this
        return done

    def _break(self, error: Exception) -> None:
        self.broken = True
        reason = f"the compressed file is truncated or damaged ({error})"
        self.damage.found(reason, offset=self.offset)

    def _read(self, view: memoryview) -> int:
        if not self.compressed:
            return self._file.readinto(view) or 0
        found = self._file.read1(len(view))  # what one call decompresses: damage loses no more
        view[: len(found)] = found
        return len(found)


def head_of(path: str | os.PathLike[str]) -> bytes:
    """Return the first bytes of a file, decompressed as far as they can be."""
    room = np.empty(HEAD_BYTES, np.uint8)
    with Source(path, Damage(Path(path).name, skip=True)) as source:
        return room[: source.fill(room)].tobytes()


def open_target(path: Path, name: str) -> Any:
    """Open `path` for writing bytes, compressed as the suffix of `name` says."""
    opener = COMPRESSIONS.get(Path(name).suffix)
    return open(path, "wb") if opener is None else opener(path, "wb")
