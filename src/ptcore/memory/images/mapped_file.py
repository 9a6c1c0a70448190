"""A file of memory, mapped and read-only, whose fields are read by name."""

from __future__ import annotations

import errno
import mmap
import os
import stat
import struct
import weakref
from collections.abc import Iterator
from pathlib import Path

from ptcore.errors import ImageError


class MappedFile:
    """A whole file as bytes of this process, read when touched.

    The mapping lives as long as anything that was cut from it. A file that another program cuts short
    meanwhile takes its pages away (the operating system ends the process that touches them).
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Map the file. Raises OSError as open does, ImageError for an empty file or no regular one."""
        self.path = os.fspath(path)
        with open(path, "rb") as stream:
            status = os.fstat(stream.fileno())
            if not stat.S_ISREG(status.st_mode) and not stat.S_ISBLK(status.st_mode):
                raise ImageError(f"{self.path}: no regular file, it cannot be mapped")
            self.size = os.lseek(stream.fileno(), 0, os.SEEK_END)
            if not self.size:
                raise ImageError(f"{self.path}: the file is empty")
            self._bytes = memoryview(mmap.mmap(stream.fileno(), self.size, access=mmap.ACCESS_READ))
            self._descriptor = os.dup(stream.fileno())  # the mapping's own is out of reach
        weakref.finalize(self, os.close, self._descriptor)

    @property
    def suffix(self) -> str:
        """The end of the name from the last dot on, in lower case."""
        return Path(self.path).suffix.lower()

    def wrong(self, offset: int, field: str, rule: str) -> ImageError:
        """Return the error of a field at `offset`."""
        return ImageError(f"{self.path}: {field} at offset {offset:#x}: {rule}")

    def starts_with(self, magic: bytes, offset: int = 0) -> bool:
        """Whether the bytes at `offset` are `magic`."""
        return bytes(self._bytes[offset : offset + len(magic)]) == magic

    def part(self, offset: int, size: int, field: str) -> memoryview:
        """Return the bytes of a part, not a copy. ImageError, naming `field`, if the file ends before it."""
        if offset < 0 or offset + size > self.size:
            rule = f"{size:#x} bytes there go beyond the end of the file at {self.size:#x}"
            raise self.wrong(offset, field, rule)
        return self._bytes[offset : offset + size]

    def stored(self, offset: int, size: int) -> Iterator[tuple[int, int]]:
        """Yield (offset, size) of what the part has besides the holes of the file, which read as zeros.

        The whole part where the file system knows of no holes. Asks anew each time: files grow.
        """
        end = offset + size
        while offset < end:
            try:
                first = os.lseek(self._descriptor, offset, os.SEEK_DATA)
                hole = os.lseek(self._descriptor, first, os.SEEK_HOLE)
            except OSError as error:
                if error.errno == errno.ENXIO:
                    return  # no more data
                first, hole = offset, end
            if first < end:
                yield first, min(hole, end) - first
            offset = hole

    def values(self, layout: str, offset: int, field: str) -> tuple[int, ...]:
        """Return the numbers of a `struct` layout at `offset`; ImageError as `part`."""
        return struct.unpack(layout, self.part(offset, struct.calcsize(layout), field))

    def number(self, layout: str, offset: int, field: str) -> int:
        """Return one number of a `struct` layout at `offset`; ImageError as `part`."""
        return self.values(layout, offset, field)[0]
