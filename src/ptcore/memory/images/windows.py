"""Crash dumps of 64-bit Windows: complete ones, with their list of runs or with a bitmap of pages.

Microsoft, Debugging Tools for Windows, "Varieties of Kernel-Mode Dump Files"; the layout of `_DUMP_HEADER64`
and `_SUMMARY_DUMP64` as volatility3 (symbols/windows/crash64.json, crash_common.json) and rekall have it.
DumpType 1 lists runs of pages; 5 and 6 (bitmap dumps, full and of the kernel) have a bit for every page. The
header holds CR3 alone; what else 64-bit Windows runs with is ptcore.formats.notes' to say.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from ptcore.formats import notes
from ptcore.memory.images.image import Cpu, Extent, Image, mapped_image
from ptcore.memory.images.mapped_file import MappedFile
from ptcore.memory.images.page_bitmap import runs

FORM = "windows"
MAGIC, MAGIC_32 = b"PAGEDU64", b"PAGEDUMP"
PAGE_BYTES = 4096
HEADER_BYTES = 2 * PAGE_BYTES
# Fields of the header: name, offset, `struct` code.
_FIELDS = (
    ("MajorVersion", 8, "I"),
    ("MinorVersion", 12, "I"),
    ("DirectoryTableBase", 16, "Q"),
    ("PfnDataBase", 24, "Q"),
    ("PsLoadedModuleList", 32, "Q"),
    ("PsActiveProcessHead", 40, "Q"),
    ("MachineImageType", 48, "I"),
    ("NumberProcessors", 52, "I"),
    ("BugCheckCode", 56, "I"),
    ("KdDebuggerDataBlock", 128, "Q"),
    ("DumpType", 3992, "I"),
)
RUN_COUNT_AT, PAGE_COUNT_AT, RUNS_AT = 136, 144, 152
CONTEXT_AT, CONTEXT_BYTES = 840, 3000
FULL, BITMAP_FULL, BITMAP_KERNEL = 1, 5, 6
# A run list that fills the room before CONTEXT is no list.
MOST_RUNS = (CONTEXT_AT - RUNS_AT) // 16
SUMMARY_MAGICS = (b"SDMPDUMP", b"FDMPDUMP")
FIRST_PAGE_AT, BITMAP_BITS_AT, BITMAP_AT = HEADER_BYTES + 32, HEADER_BYTES + 48, HEADER_BYTES + 56


def matches(file: MappedFile) -> bool:
    """Whether the file begins as crash dumps do."""
    return file.starts_with(MAGIC) or file.starts_with(MAGIC_32)


def read(file: MappedFile) -> Image:
    """Return the pages of a complete or bitmap dump, in place, and the CPU whose root the header holds."""
    if file.starts_with(MAGIC_32):
        raise file.wrong(4, "ValidDump", "a dump of 32-bit Windows; 64-bit ones are read")
    if not file.starts_with(MAGIC):
        raise file.wrong(0, "Signature, ValidDump", f"they are not {MAGIC!r}")
    file.part(0, HEADER_BYTES, "header")
    header = {name: file.number("<" + code, at, name) for name, at, code in _FIELDS}
    reader = _EXTENTS.get(header["DumpType"])
    if reader is None:
        rule = (
            f"{header['DumpType']} is not {', '.join(map(str, _EXTENTS))}: no dump with all memory"
        )
        raise file.wrong(_FIELDS[-1][1], "DumpType", rule)
    image = mapped_image(file, reader(file))
    details = {name: hex(number) for name, number in header.items()}
    return image.describe(FORM, file.path, [_cpu(file, header)], details)


def _cpu(file: MappedFile, header: dict[str, int]) -> Cpu:
    known = notes.of_windows(header["MachineImageType"])
    context = bytes(file.part(CONTEXT_AT, CONTEXT_BYTES, "ContextRecord"))
    return Cpu(
        known.name,
        known.settle(header["DirectoryTableBase"]) if known.settle else {},
        known.context.read(context, "little") if known.context else {},
    )


def _listed(file: MappedFile) -> Iterator[Extent]:
    """Yield the runs of the header's list; their pages follow it, one run after the other."""
    count = file.number("<I", RUN_COUNT_AT, "NumberOfRuns")
    if not 0 < count <= MOST_RUNS:
        raise file.wrong(RUN_COUNT_AT, "NumberOfRuns", f"{count} is not in 1..{MOST_RUNS}")
    offset = HEADER_BYTES
    for n in range(count):
        at = RUNS_AT + 16 * n
        first, pages = struct.unpack("<QQ", file.part(at, 16, f"Run[{n}]"))
        file.part(offset, pages * PAGE_BYTES, f"pages of Run[{n}] (BasePage, PageCount at {at:#x})")
        yield Extent(first * PAGE_BYTES, pages * PAGE_BYTES, offset)
        offset += pages * PAGE_BYTES


def _marked(file: MappedFile) -> Iterator[Extent]:
    """Yield the runs of pages whose bits are set; they lie one after the other from HeaderSize on."""
    magic = bytes(file.part(HEADER_BYTES, 8, "signature of the summary header"))
    if magic not in SUMMARY_MAGICS:
        rule = f"{magic!r} is neither {SUMMARY_MAGICS[0]!r} nor {SUMMARY_MAGICS[1]!r}"
        raise file.wrong(HEADER_BYTES, "signature of the summary header", rule)
    offset = file.number("<Q", FIRST_PAGE_AT, "HeaderSize")
    bits = file.number("<Q", BITMAP_BITS_AT, "BitmapSize")
    bitmap = file.part(BITMAP_AT, (bits + 7) // 8, "bitmap (BitmapSize)")
    if offset < BITMAP_AT + len(bitmap):
        raise file.wrong(FIRST_PAGE_AT, "HeaderSize", f"{offset:#x} is inside the bitmap")
    for first, pages in runs(bitmap, bits):
        file.part(offset, pages * PAGE_BYTES, f"{pages} pages from page {first:#x} on")
        yield Extent(first * PAGE_BYTES, pages * PAGE_BYTES, offset)
        offset += pages * PAGE_BYTES


_EXTENTS = {FULL: _listed, BITMAP_FULL: _marked, BITMAP_KERNEL: _marked}
