"""LiME: ranges of memory, each behind a header of its own.

LiME README, "Spec" (`lime_mem_range_header`: magic, version, first and last address, 8 bytes reserved). Its
format "padded" is a raw file. AVML writes the same without --compress.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from ptcore.memory.images.image import Extent, Image, mapped_image
from ptcore.memory.images.mapped_file import MappedFile

FORM = "lime"
MAGIC = b"EMiL"
VERSION = 1
HEADER = "<4sIQQQ"
HEADER_BYTES = struct.calcsize(HEADER)


def matches(file: MappedFile) -> bool:
    """Whether the file begins with a range's header."""
    return file.starts_with(MAGIC)


def read(file: MappedFile) -> Image:
    """Return the ranges, in place."""
    return mapped_image(file, ranges(file))


def ranges(file: MappedFile) -> Iterator[Extent]:
    """Yield each range. ImageError names the header or the range at which the file is wrong."""
    at = 0
    while at < file.size:
        start, last = range_header(file, at, MAGIC, VERSION)
        size = last - start + 1
        file.part(at + HEADER_BYTES, size, f"range {start:#x}..{last:#x}")
        yield Extent(start, size, at + HEADER_BYTES)
        at += HEADER_BYTES + size


def range_header(file: MappedFile, at: int, magic: bytes, version: int) -> tuple[int, int]:
    """Return the first and the last address of the range whose header is at offset `at`."""
    text = file.part(at, HEADER_BYTES, "range header")
    found, number, start, last, _ = struct.unpack(HEADER, text)
    if found != magic:
        raise file.wrong(at, "magic of a range header", f"{found!r} is not {magic!r}")
    if number != version:
        raise file.wrong(at + 4, "version of a range header", f"{number} is not {version}")
    if last < start:
        raise file.wrong(at + 8, "s_addr, e_addr", f"{start:#x} comes after {last:#x}")
    return start, last
