"""The flattened form of a dump: what makedumpfile -F writes to a pipe, and QEMU for kdump-compressed files.

makedumpfile makedumpfile.h (`makedumpfile_header`, `makedumpfile_data_header`): a header of
4096 bytes, then records of an offset, a length and bytes, all numbers big-endian; offset -1 ends them. What a
later record writes replaces what an earlier one wrote.
"""

from __future__ import annotations

import bisect
import struct

from ptcore.memory.images.image import Extent, disjoint, joined
from ptcore.memory.images.mapped_file import MappedFile

MAGIC = b"makedumpfile\0\0\0\0"
HEADER_BYTES = 4096
RECORD = ">qq"
RECORD_BYTES = 16


class FlattenedFile(MappedFile):
    """The file that the records write, in place where one record holds all that is wanted."""

    def __init__(self, file: MappedFile) -> None:
        """Follow the records of `file`. Raises ImageError that names the one that is wrong."""
        self._flat = file
        self._parts = joined(disjoint(reversed(self._records())))
        self._starts = [part.start for part in self._parts]
        self.path = file.path
        self.size = max((part.start + part.size for part in self._parts), default=0)

    def _records(self) -> list[Extent]:
        kind, version = self._flat.values(RECORD, len(MAGIC), "type, version")
        if (kind, version) != (1, 1):
            rule = f"type {kind}, version {version} is not type 1, version 1"
            raise self._flat.wrong(len(MAGIC), "type, version", rule)
        found: list[Extent] = []
        at, whole, size = HEADER_BYTES, self._flat.size, 0
        text = self._flat.part(0, whole, "records")
        while at + RECORD_BYTES <= whole:
            offset, size = struct.unpack_from(RECORD, text, at)
            if offset == -1:
                return found
            if offset < 0 or size < 0:
                rule = f"{offset} and {size} are no offset and length"
                raise self._flat.wrong(at, "record header", rule)
            at += RECORD_BYTES + size
            found.append(Extent(offset, size, at - size))
        self._flat.part(at - size, size, "record")
        self._flat.part(at, RECORD_BYTES, "record header")
        raise self._flat.wrong(at, "record header", "no record ends the file")

    def starts_with(self, magic: bytes, offset: int = 0) -> bool:
        """Whether the bytes at `offset` of what is written are `magic`."""
        if offset + len(magic) > self.size:
            return False
        return bytes(self.part(offset, len(magic), "magic")) == magic

    def part(self, offset: int, size: int, field: str) -> memoryview:
        """Return bytes of what is written, a copy if several records hold them; ImageError for a gap."""
        if offset < 0 or offset + size > self.size:
            rule = f"{size:#x} bytes there go beyond the end of what is written at {self.size:#x}"
            raise self.wrong(offset, f"{field}, after flattening", rule)
        n = bisect.bisect_right(self._starts, offset) - 1
        found: list[memoryview] = []
        at, end = offset, offset + size
        while at < end or not found:
            if n < 0 or n >= len(self._parts) or not self._starts[n] <= at:
                raise self.wrong(
                    at, f"{field}, after flattening", "no record writes the bytes there"
                )
            part = self._parts[n]
            length = min(end, part.start + part.size) - at
            if length < 0 or (length == 0 and size):
                raise self.wrong(
                    at, f"{field}, after flattening", "no record writes the bytes there"
                )
            found.append(self._flat.part(part.offset + at - part.start, length, field))
            at += length
            n += 1
        return found[0] if len(found) == 1 else memoryview(b"".join(found))
