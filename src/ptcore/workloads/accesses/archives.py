"""Read the members of a zip archive in blocks; a damaged archive is damage, not a Python error."""

from __future__ import annotations

import errno
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptcore.errors import TraceError
from ptcore.workloads.accesses.chunks import Damage

MAGIC = b"PK\x03\x04"
# RuntimeError: a header asks for a password, or (NotImplementedError) for a version or a compression
# that there is not. OSError and ValueError: it points to before the file.
_BROKEN = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, OSError, ValueError)


def _check(error: Exception) -> None:
    """Raise an error of the system; what a damaged archive makes zipfile do is none."""
    if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
        raise error


@contextmanager
def open_archive(path: Path) -> Iterator[zipfile.ZipFile]:
    """Open a zip. Raises TraceError when it has no directory, as one that is cut short."""
    with open(path, "rb") as file:
        try:
            archive = zipfile.ZipFile(file)
        except _BROKEN as error:
            _check(error)
            reason = f"the archive is cut short or damaged ({error})"
            raise TraceError(f"{path.name}: {reason}") from None
        with archive:
            yield archive


class Member:
    """A member read from front to end; `offset` counts the bytes given out, `broken`: it was cut."""

    def __init__(self, archive: zipfile.ZipFile, name: str, damage: Damage) -> None:
        self.damage = damage
        self.offset = 0
        self.broken = False
        self._file: Any = None
        try:
            self._file = archive.open(name)
        except _BROKEN as error:
            self._break(error)

    def __enter__(self) -> Member:
        return self

    def __exit__(self, *raised: object) -> None:
        if self._file is not None:
            self._file.close()

    def fill(self, room: NDArray[np.uint8]) -> int:
        """Read until `room` is full or the member ends; return the bytes read."""
        view, done = room.data, 0
        try:
            while done < len(view) and not self.broken:
                found = self._file.read1(len(view) - done)
                if not found:
                    break
                view[done : done + len(found)] = found
                done += len(found)
                self.offset += len(found)
        except _BROKEN as error:
            self._break(error)
        return done

    def _break(self, error: Exception) -> None:
        _check(error)
        self.broken = True
        self.damage.found(f"the archive is damaged ({error})", offset=self.offset)
