"""AVML, compressed: ranges of memory, each a stream of Snappy frames behind a header like LiME's.

AVML src/image.rs (the header: magic "AVML", version 2, first and last address, 8 bytes reserved; pages are
whole) and src/io/snappy.rs (8 bytes after each stream: how long it was); google/snappy framing_format.txt,
"Chunk types". What AVML writes without --compress is LiME. A page is read by decompressing the chunk of at
most 64 KiB that it lies in, whose checksum is checked.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ptcore.memory.images import decompression
from ptcore.memory.images.image import Image, lazy_image
from ptcore.memory.images.lime import HEADER_BYTES, range_header
from ptcore.memory.images.mapped_file import MappedFile
from ptcore.units import Span

FORM = "avml"
MAGIC = b"AVML"
VERSION = 2
TRAILER_BYTES = 8
PAGE_BYTES = 4096
STREAM_BEGINS = b"\xff\x06\x00\x00sNaPpY"
COMPRESSED, PLAIN, FIRST_SKIPPABLE = 0, 1, 128
CHECKSUM_BYTES = 4
MOST_CHUNK_BYTES = 1 << 16
CHUNKS_KEPT = 64


def matches(file: MappedFile) -> bool:
    """Whether the file begins with the header of a compressed range."""
    return file.starts_with(MAGIC)


def read(file: MappedFile) -> Image:
    """Return the ranges, decompressed chunk by chunk when they are wanted. Needs the package cramjam."""
    decompression.require(file.path, decompression.SNAPPY)
    streams = _from_the_end(file) or _from_the_start(file)
    return lazy_image(file, CompressedRanges(file, streams))


@dataclass(slots=True)
class Stream:
    """One compressed range: its addresses, and where its frames lie."""

    span: Span
    offset: int
    end: int
    # Of each chunk: where in the range it begins, and where in the file. Made when first wanted.
    starts: npt.NDArray[np.uint64] | None = None
    places: tuple[int, ...] = ()


def _from_the_end(file: MappedFile) -> list[Stream] | None:
    """Return the streams by the lengths that follow them: nothing else has to be read.

    None if they do not lead back to the start of the file: something is damaged.
    """
    found: list[Stream] = []
    end = file.size
    while end > 0:
        if end < HEADER_BYTES + TRAILER_BYTES:
            return None
        length = file.number("<Q", end - TRAILER_BYTES, "length of a stream")
        at = end - TRAILER_BYTES - length - HEADER_BYTES
        if at < 0 or not file.starts_with(MAGIC, at):
            return None
        found.append(_stream(file, at, end - TRAILER_BYTES))
        end = at
    return found[::-1]


def _stream(file: MappedFile, at: int, end: int) -> Stream:
    start, last = range_header(file, at, MAGIC, VERSION)
    return Stream(Span(start, last), at + HEADER_BYTES, end)


def _from_the_start(file: MappedFile) -> list[Stream]:
    """Return the streams frame by frame, so that the first damage is found and named."""
    found = []
    at = 0
    while at < file.size:
        stream = _stream(file, at, file.size)
        _index(file, stream)
        length = file.number("<Q", stream.end, "length of a stream")
        if length != stream.end - stream.offset:
            rule = f"{length:#x} is not the {stream.end - stream.offset:#x} bytes before it"
            raise file.wrong(stream.end, "length of a stream", rule)
        found.append(stream)
        at = stream.end + TRAILER_BYTES
    return found


def _index(file: MappedFile, stream: Stream) -> None:
    """Find the chunks of a stream, up to the last byte of its range."""
    at, begun, size = stream.offset, 0, stream.span.size
    starts, places = [], []
    while begun < size:
        word = file.number("<I", at, "chunk header")
        kind, length = word & 0xFF, word >> 8
        field = f"chunk of type {kind}"
        body = at + 4
        if body + length > stream.end:
            raise file.wrong(at, field, f"{length:#x} bytes go beyond the end of its stream")
        if kind in (COMPRESSED, PLAIN):
            starts.append(begun)
            places.append(at)
            begun += _chunk_bytes(file, at, kind, length)
        elif kind < FIRST_SKIPPABLE:
            raise file.wrong(at, field, "no such chunk may be skipped")
        at = body + length
    if begun != size:
        raise file.wrong(places[-1], "chunk", f"it goes beyond its range {stream.span}")
    stream.end = at
    stream.starts = np.array([*starts, size], dtype=np.uint64)
    stream.places = tuple(places)


def _chunk_bytes(file: MappedFile, at: int, kind: int, length: int) -> int:
    """Return how many bytes a chunk comes to, which the first bytes of a compressed one say."""
    if length <= CHECKSUM_BYTES:
        raise file.wrong(at, "chunk", f"{length} bytes have no room for a checksum and content")
    number, shift = length - CHECKSUM_BYTES, 0
    if kind == COMPRESSED:
        number = 0
        for byte in file.part(at + 8, min(3, length - CHECKSUM_BYTES), "length of a chunk"):
            number |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
    if not 0 < number <= MOST_CHUNK_BYTES:
        raise file.wrong(at + 8, "length of a chunk", f"{number} is not in 1..{MOST_CHUNK_BYTES}")
    return number


class CompressedRanges:
    """The reader: pages out of the chunks that hold them."""

    def __init__(self, file: MappedFile, streams: Sequence[Stream]) -> None:
        self.file = file
        self.page_bytes = PAGE_BYTES
        self._streams = sorted(streams, key=lambda stream: stream.span.start)
        self.spans = tuple(stream.span for stream in self._streams)
        self._begins = np.array([span.start for span in self.spans], dtype=np.uint64)
        self._kept: OrderedDict[int, memoryview] = OrderedDict()

    def read_pages(self, pas: npt.NDArray[np.uint64]) -> list[bytes | None]:
        """Return the pages; what lies beside a range in its last page is zero, and seen by nobody."""
        which = np.maximum(np.searchsorted(self._begins, pas, side="right").astype(int) - 1, 0)
        return [
            self._page(self._streams[n], pa)
            for n, pa in zip(which.tolist(), pas.tolist(), strict=True)
        ]

    def _page(self, stream: Stream, pa: int) -> bytes:
        page = bytearray(PAGE_BYTES)
        at = max(pa, stream.span.start)
        end = min(pa + PAGE_BYTES, stream.span.last + 1)
        if stream.starts is None:
            _index(self.file, stream)
        assert stream.starts is not None
        while at < end:
            begun = at - stream.span.start
            n = int(np.searchsorted(stream.starts, np.uint64(begun), side="right")) - 1
            first = begun - int(stream.starts[n])
            part = self._chunk(stream, n)[first : first + end - at]
            page[at - pa : at - pa + len(part)] = part
            at += len(part)
        return bytes(page)

    def _chunk(self, stream: Stream, n: int) -> memoryview:
        at = stream.places[n]
        if at in self._kept:
            self._kept.move_to_end(at)
            return self._kept[at]
        assert stream.starts is not None
        wanted = int(stream.starts[n + 1]) - int(stream.starts[n])
        length = self.file.number("<I", at, "chunk header") >> 8
        frame = STREAM_BEGINS + self.file.part(at, 4 + length, "chunk")
        found = decompression.snappy_frames(frame)
        if found is None or len(found) != wanted:
            raise self.file.wrong(at, "chunk", f"it does not decompress to {wanted} bytes")
        self._kept[at] = memoryview(found)
        if len(self._kept) > CHUNKS_KEPT:
            self._kept.popitem(last=False)
        return self._kept[at]


__all__ = ["FORM", "CompressedRanges", "Stream", "matches", "read"]
