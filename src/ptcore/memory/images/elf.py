"""ELF core files: what QEMU's dump-guest-memory, /proc/vmcore and makedumpfile -E write.

System V ABI, "ELF Header", "Program Header", "Note Section"; Linux
Documentation/admin-guide/kdump/vmcoreinfo.rst (the note VMCOREINFO), include/uapi/linux/elf.h (PN_XNUM,
NT_PRSTATUS). Only the bytes that the file has exist: where p_memsz is more than p_filesz, the rest does not.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from ptcore.formats import notes
from ptcore.memory.images.image import Cpu, Extent, Image, mapped_image
from ptcore.memory.images.mapped_file import MappedFile

FORM = "elf"
MAGIC = b"\x7fELF"
ET_CORE = 4
PT_LOAD, PT_NOTE = 1, 4
NT_PRSTATUS = 1
PN_XNUM = 0xFFFF
IDENT_BYTES = 16
# Names of the fields of both classes, and their `struct` layouts after the identification.
_HEADER: tuple[str, ...] = ("type", "machine", "version", "entry", "phoff", "shoff", "flags")
_HEADER += ("ehsize", "phentsize", "phnum", "shentsize", "shnum", "shstrndx")
_HEADERS = {32: "HHIIIIIHHHHHH", 64: "HHIQQQIHHHHHH"}
_PROGRAM = {
    32: ("IIIIIIII", ("type", "offset", "vaddr", "paddr", "filesz", "memsz", "flags", "align")),
    64: ("IIQQQQQQ", ("type", "flags", "offset", "vaddr", "paddr", "filesz", "memsz", "align")),
}
# sh_info, whose first section header holds the number of program headers beyond PN_XNUM.
_SECTION_INFO = {32: 28, 64: 44}


@dataclass(frozen=True, slots=True)
class Note:
    """One note: who wrote it, its type, and its text."""

    owner: str
    type: int
    text: bytes


def matches(file: MappedFile) -> bool:
    """Whether the file begins as ELF files do."""
    return file.starts_with(MAGIC)


def read(file: MappedFile) -> Image:
    """Return the memory of the PT_LOAD headers, by physical address, and the CPUs of the notes."""
    headers = Headers(file)
    loads = [header for header in headers.programs if header["type"] == PT_LOAD]
    image = mapped_image(file, headers.extents(loads))
    found = list(headers.notes())
    known = notes.of_elf(headers.header["machine"], headers.bits)
    cpus = cpus_of(found, known, headers.byteorder)
    return image.describe(FORM, file.path, cpus, details_of(found), known)


class Headers:
    """The headers of a core file, checked against the file's size."""

    def __init__(self, file: MappedFile) -> None:
        self.file = file
        kind, order = file.values("BB", 4, "e_ident (class, byte order)")
        if kind not in (1, 2):
            raise file.wrong(4, "e_ident[EI_CLASS]", f"{kind} is neither 1 (32-bit) nor 2 (64-bit)")
        if order not in (1, 2):
            raise file.wrong(5, "e_ident[EI_DATA]", f"{order} is neither 1 (little) nor 2 (big)")
        self.bits = 32 * kind
        self.byteorder: Literal["little", "big"] = "little" if order == 1 else "big"
        self.order = "<" if order == 1 else ">"
        numbers = file.values(self.order + _HEADERS[self.bits], IDENT_BYTES, "ELF header")
        self.header = dict(zip(_HEADER, numbers, strict=True))
        if self.header["type"] != ET_CORE:
            rule = f"{self.header['type']} is not ET_CORE ({ET_CORE}): no core file"
            raise file.wrong(IDENT_BYTES, "e_type", rule)
        self.programs = self._programs()

    def _programs(self) -> list[dict[str, int]]:
        layout, names = _PROGRAM[self.bits]
        size = struct.calcsize(self.order + layout)
        step, count, start = (self.header[name] for name in ("phentsize", "phnum", "phoff"))
        if step < size:
            raise self.file.wrong(0, "e_phentsize", f"{step} is less than the {size} of a header")
        if count == PN_XNUM:
            at = self.header["shoff"] + _SECTION_INFO[self.bits]
            count = self.file.number(self.order + "I", at, "sh_info (number of program headers)")
        table = self.file.part(start, count * step, f"program headers (e_phnum = {count})")
        programs = []
        for n in range(count):
            numbers = struct.unpack_from(self.order + layout, table, n * step)
            programs.append({**dict(zip(names, numbers, strict=True)), "at": start + n * step})
        return programs

    def extents(self, loads: list[dict[str, int]]) -> Iterator[Extent]:
        """Yield the bytes that the file has of each header."""
        # Linux gives no physical address to what has none: vmalloc in /proc/kcore, a process's memory.
        nowhere = (1 << self.bits) - 1
        loads = [load for load in loads if load["paddr"] != nowhere and load["filesz"]]
        if len(loads) > 1 and not any(load["paddr"] for load in loads):
            rule = "0 in every header: the core file of a process, not of a machine"
            raise self.file.wrong(loads[0]["at"], "p_paddr", rule)
        for load in loads:
            if load["filesz"] > load["memsz"]:
                rule = f"{load['filesz']:#x} is more than p_memsz {load['memsz']:#x}"
                raise self.file.wrong(load["at"], "p_filesz", rule)
            self.file.part(
                load["offset"],
                load["filesz"],
                f"bytes of the program header at {load['at']:#x} (p_offset, p_filesz)",
            )
            yield Extent(load["paddr"], load["filesz"], load["offset"])

    def notes(self) -> Iterator[Note]:
        """Yield the notes of all PT_NOTE headers."""
        for header in self.programs:
            if header["type"] == PT_NOTE:
                field = f"notes of the program header at {header['at']:#x} (p_offset, p_filesz)"
                text = self.file.part(header["offset"], header["filesz"], field)
                yield from notes_in(self.file, text, header["offset"], self.order)


def notes_in(file: MappedFile, text: memoryview, start: int, order: str) -> Iterator[Note]:
    """Yield the notes in `text`, which begins at offset `start`. ImageError names one that is cut off."""
    at = 0
    # Linux and QEMU align notes to 4 bytes in files of both classes.
    while at + 12 <= len(text):
        name_bytes, text_bytes, kind = struct.unpack_from(order + "III", text, at)
        if not name_bytes and not text_bytes and not kind:
            return  # the kernel leaves room for CPUs that are not there
        name_at = at + 12
        text_at = name_at + (name_bytes + 3 & ~3)
        end = text_at + text_bytes
        if end > len(text):
            rule = f"n_namesz {name_bytes:#x} and n_descsz {text_bytes:#x} go beyond the notes' end"
            raise file.wrong(start + at, "note", rule)
        owner = bytes(text[name_at : name_at + name_bytes]).split(b"\0")[0]
        yield Note(owner.decode("latin-1"), kind, bytes(text[text_at:end]))
        at = text_at + (text_bytes + 3 & ~3)


def cpus_of(
    found: list[Note], known: notes.Architecture, byteorder: Literal["little", "big"]
) -> list[Cpu]:
    """Return the CPUs that notes describe: the n-th note of each type is of the n-th CPU."""
    threads = [note for note in found if note.owner == "CORE" and note.type == NT_PRSTATUS]
    general: list[dict[str, int]] = [
        known.thread.read(note.text, byteorder) if known.thread else {} for note in threads
    ]
    settled: list[dict[str, int]] = []
    for state in known.states:
        mine = [note for note in found if (note.owner, note.type) == (state.owner, state.type)]
        for n, note in enumerate(mine):
            registers: dict[str, int] = {}
            for block in state.blocks:
                registers |= block.read(note.text, byteorder)
            while len(settled) <= n:
                settled.append({})
            settled[n] |= state.settle(known.name, registers)
            while len(general) <= n:
                general.append({})
            general[n] |= {k: v for k, v in registers.items() if k not in settled[n]}
    settled += [{}] * (len(general) - len(settled))
    return [
        Cpu(known.name, registers, others)
        for registers, others in zip(settled, general, strict=True)
    ]


def details_of(found: list[Note]) -> dict[str, str]:
    """Return the lines NAME=TEXT of VMCOREINFO notes."""
    details = {}
    for note in found:
        if note.owner == "VMCOREINFO":
            for line in note.text.decode("latin-1").strip("\0").splitlines():
                name, equals, text = line.partition("=")
                if equals:
                    details[name] = text
    return details
