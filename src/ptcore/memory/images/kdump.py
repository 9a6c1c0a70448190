"""kdump-compressed files: what makedumpfile and QEMU's dump-guest-memory write.

makedumpfile IMPLEMENTATION ("The kdump-compressed format") and diskdump_mod.h (`disk_dump_header`,
`kdump_sub_header`, `page_desc`, the flags of pages); QEMU include/sysemu/dump.h. The first bitmap says which
pages are memory, the second which of them are in the file: the others do not exist here.
"""

from __future__ import annotations

import struct
from typing import Literal

import numpy as np
import numpy.typing as npt

from ptcore.errors import ImageError
from ptcore.formats import notes
from ptcore.memory.images import decompression, flattened
from ptcore.memory.images.elf import NT_PRSTATUS, Note, cpus_of, details_of, notes_in
from ptcore.memory.images.image import Image, lazy_image
from ptcore.memory.images.mapped_file import MappedFile
from ptcore.memory.images.page_bitmap import Ranks, runs
from ptcore.units import Span

FORM = "kdump"
MAGIC = b"KDUMP   "
UTS_FIELD_BYTES = 65
_UTS = ("sysname", "nodename", "release", "version", "machine", "domainname")
UTS_AT = 12
# Where the fields after the time stamp begin, whose size and alignment depend on the bits of a long.
_STATUS_AT = {64: 424, 32: 412}
_FIELDS = ("status", "block_size", "sub_hdr_size", "bitmap_blocks", "max_mapnr", "total_ram_blocks")
# Fields of the sub header and the version that brought each: `struct` codes for both sizes of a long.
_SUB_HEADER = (
    ("phys_base", "Q", "I", 0),
    ("dump_level", "i", "i", 1),
    ("split", "i", "i", 2),
    ("start_pfn", "Q", "I", 2),
    ("end_pfn", "Q", "I", 2),
    ("offset_vmcoreinfo", "Q", "Q", 3),
    ("size_vmcoreinfo", "Q", "I", 3),
    ("offset_note", "Q", "Q", 4),
    ("size_note", "Q", "I", 4),
    ("offset_eraseinfo", "Q", "Q", 5),
    ("size_eraseinfo", "Q", "I", 5),
    ("start_pfn_64", "Q", "Q", 6),
    ("end_pfn_64", "Q", "Q", 6),
    ("max_mapnr_64", "Q", "Q", 6),
)
_MOST_VERSION = 16
MOST_BLOCK_BYTES = 1 << 20
MOST_SUB_BLOCKS = 64
_PAGE = np.dtype([("offset", "u8"), ("size", "u4"), ("flags", "u4"), ("page_flags", "u8")])
# Flags of a page.
METHODS = {
    1: decompression.ZLIB,
    2: decompression.LZO,
    4: decompression.SNAPPY,
    32: decompression.ZSTD,
}
_ANY_METHOD = sum(METHODS)


def matches(file: MappedFile) -> bool:
    """Whether the file begins as such files do, flattened or not."""
    return file.starts_with(MAGIC) or file.starts_with(flattened.MAGIC)


def read(file: MappedFile) -> Image:
    """Return the pages, decompressed one by one when they are wanted, and the CPUs of the notes."""
    if file.starts_with(flattened.MAGIC):
        file = flattened.FlattenedFile(file)
    headers = Headers(file)
    image = lazy_image(file, CompressedPages(file, headers))
    found = headers.notes()
    known = _architecture(headers, found)
    details = {f"uts.{name}": text for name, text in headers.uts.items() if text}
    details |= {"phys_base": hex(headers.sub["phys_base"])}
    return image.describe(
        FORM,
        file.path,
        cpus_of(found, known, headers.byteorder),
        details | headers.kernel() | details_of(found),
        known,
    )


def _architecture(headers: Headers, found: list[Note]) -> notes.Architecture:
    """Tell the architecture by the system's name, or its 32-bit one by notes that are too short."""
    known = notes.of_uname(headers.uts["machine"], headers.bits)
    threads = [len(note.text) for note in found if (note.owner, note.type) == ("CORE", NT_PRSTATUS)]
    if known.thread is not None and threads and min(threads) < known.thread.end:
        narrow = notes.of_uname(headers.uts["machine"], 32)
        return narrow if narrow.name else known
    return known


class Headers:
    """The main header and the sub header, in the byte order and with the size of a long that fit."""

    def __init__(self, file: MappedFile) -> None:
        self.file = file
        if not file.starts_with(MAGIC):
            raise file.wrong(0, "signature", f"it is not {MAGIC!r}")
        self.bits, self.order = self._shape()
        self.byteorder: Literal["little", "big"] = "little" if self.order == "<" else "big"
        self.version = file.number(self.order + "i", len(MAGIC), "header_version")
        at = _STATUS_AT[self.bits]
        numbers = file.values(self.order + "IiiIII", at, "main header")
        self.main = dict(zip(_FIELDS, numbers, strict=True))
        self.block = self.main["block_size"]
        texts = (
            bytes(file.part(UTS_AT + n * UTS_FIELD_BYTES, UTS_FIELD_BYTES, f"utsname.{name}"))
            for n, name in enumerate(_UTS)
        )
        decoded = (text.split(b"\0")[0].decode("latin-1") for text in texts)
        self.uts = dict(zip(_UTS, decoded, strict=True))
        self.sub = self._sub_header()
        if self.sub["split"]:
            rule = "a part of a split dump; `makedumpfile --reassemble` joins them"
            raise file.wrong(self.block, "split", rule)
        self.pages = self.sub["max_mapnr_64"] or self.main["max_mapnr"]

    def _shape(self) -> tuple[int, str]:
        """Tell the size of a long and the byte order from which reading of the header makes sense."""
        fair: list[tuple[int, str]] = []
        for order in "<>":
            if 0 <= self.file.number(order + "i", len(MAGIC), "header_version") <= _MOST_VERSION:
                for bits, at in _STATUS_AT.items():
                    _, block, sub, bitmaps, pages, _ = self.file.values(
                        order + "IiiIII", at, "main header"
                    )
                    if not 4096 <= block <= MOST_BLOCK_BYTES or block & (block - 1):
                        continue
                    if 0 < sub <= MOST_SUB_BLOCKS and 0 < pages <= bitmaps * block * 4:
                        return bits, order
                    fair.append((bits, order))
        if fair:
            return fair[0]
        rule = (
            "it is no power of two from 4096 on, of a 64-bit or a 32-bit system in any byte order"
        )
        raise self.file.wrong(_STATUS_AT[64] + 4, "header_version, block_size", rule)

    def _sub_header(self) -> dict[str, int]:
        found = dict.fromkeys((name for name, _, _, _ in _SUB_HEADER), 0)
        at = self.block
        if self.main["sub_hdr_size"] < 1:
            raise self.file.wrong(
                _STATUS_AT[self.bits] + 8, "sub_hdr_size", "no sub header follows"
            )
        for name, wide, narrow, since in _SUB_HEADER:
            code = wide if self.bits == 64 else narrow
            if since <= self.version:
                found[name] = self.file.number(self.order + code, at, name)
            at += struct.calcsize("=" + code)
        return found

    def bitmaps(self) -> tuple[memoryview, memoryview]:
        """Return the bitmap of what is memory, and that of what is in the file."""
        at = (1 + self.main["sub_hdr_size"]) * self.block
        size = self.main["bitmap_blocks"] * self.block
        both = self.file.part(at, size, "bitmaps (sub_hdr_size, bitmap_blocks)")
        needed = (self.pages + 7) // 8
        if not self.pages or needed > size // 2:
            rule = f"{self.pages} pages are not what two bitmaps of {size // 2:#x} bytes say"
            raise self.file.wrong(_STATUS_AT[self.bits] + 16, "max_mapnr, bitmap_blocks", rule)
        return both[:needed], both[size // 2 : size // 2 + needed]

    @property
    def descriptors_at(self) -> int:
        """The offset of the first page's descriptor."""
        return (1 + self.main["sub_hdr_size"] + self.main["bitmap_blocks"]) * self.block

    def _text(self, name: str) -> tuple[memoryview, int]:
        at, size = self.sub[f"offset_{name}"], self.sub[f"size_{name}"]
        return self.file.part(at, size, f"offset_{name}, size_{name}"), at

    def notes(self) -> list[Note]:
        """Return the notes of CPUs, which are those of an ELF core."""
        text, at = self._text("note")
        return list(notes_in(self.file, text, at, self.order))

    def kernel(self) -> dict[str, str]:
        """Return the lines of VMCOREINFO, where they are not in a note."""
        text = bytes(self._text("vmcoreinfo")[0])
        return details_of([Note("VMCOREINFO", 0, text)])


class CompressedPages:
    """The reader: pages by their descriptors, which lie in the order of the second bitmap's ones."""

    def __init__(self, file: MappedFile, headers: Headers) -> None:
        self.file = file
        self.page_bytes = headers.block
        memory, stored = headers.bitmaps()
        # What is stored is memory, whatever the first bitmap says.
        either = np.frombuffer(memory, dtype=np.uint8) | np.frombuffer(stored, dtype=np.uint8)
        self.spans = tuple(
            Span(first * headers.block, (first + count) * headers.block - 1)
            for first, count in runs(memoryview(either.tobytes()), headers.pages)
        )
        self._ranks = Ranks(stored)
        self._table_at = headers.descriptors_at
        self._pages = np.frombuffer(
            file.part(
                headers.descriptors_at,
                self._ranks.ones * _PAGE.itemsize,
                f"descriptors of {self._ranks.ones} pages",
            ),
            dtype=_PAGE.newbyteorder(headers.byteorder),
        )
        self._check()

    def _check(self) -> None:
        """Raise ImageError for the first page that lies beyond the end of the file."""
        # Lost pages of an incomplete dump have offset 0.
        ends = self._pages["offset"] + self._pages["size"]
        wrong = (ends > self.file.size) | (ends < self._pages["offset"])
        wrong |= self._pages["size"] > self.page_bytes
        if wrong.any():
            n = int(np.argmax(wrong))
            page = self._pages[n]
            rule = (
                f"{int(page['size']):#x} bytes at {int(page['offset']):#x} go beyond the end of the "
                f"file at {self.file.size:#x}, or are more than a page"
            )
            raise self.file.wrong(self._table_at + n * _PAGE.itemsize, "page descriptor", rule)

    def read_pages(self, pas: npt.NDArray[np.uint64]) -> list[bytes | memoryview | None]:
        """Return the pages that are in the file."""
        frames = pas // np.uint64(self.page_bytes)
        stored = self._ranks.has(frames)
        numbers = self._ranks.before(frames[stored])
        found: list[bytes | memoryview | None] = [None] * len(pas)
        places = zip(numbers.tolist(), self._pages[numbers].tolist(), strict=True)
        for n, (number, page) in zip(np.flatnonzero(stored).tolist(), places, strict=True):
            found[n] = self._page(number, *page[:3])
        return found

    def _page(self, n: int, offset: int, size: int, flags: int) -> bytes | memoryview | None:
        if not offset:
            return None  # an incomplete dump: the disk was full before this page
        text = self.file.part(offset, size, "page")
        if not flags & _ANY_METHOD:
            if size != self.page_bytes:
                raise self._wrong(n, offset, f"{size} plain bytes are no page")
            return text
        method = METHODS.get(flags & _ANY_METHOD)
        if method is None:
            raise self._wrong(n, offset, f"flags {flags:#x} name several ways of compression")
        decompression.require(self.file.path, method)
        found = decompression.DECOMPRESSORS[method](bytes(text), self.page_bytes)
        if found is None or len(found) != self.page_bytes:
            raise self._wrong(
                n, offset, f"{method} does not give the {self.page_bytes} bytes of a page"
            )
        return found

    def _wrong(self, n: int, offset: int, rule: str) -> ImageError:
        return self.file.wrong(offset, f"page (descriptor {n})", rule)


__all__ = ["FORM", "CompressedPages", "Headers", "matches", "read"]
