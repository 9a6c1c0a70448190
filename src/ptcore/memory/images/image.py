"""What an image of a machine's memory is: read-only memory, and what its file says of the machine."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Self

from ptcore.errors import ImageError, OutOfRange
from ptcore.formats import notes
from ptcore.memory.images.mapped_file import MappedFile
from ptcore.memory.physical import PhysicalMemory
from ptcore.memory.reader import PageReader
from ptcore.units import Span


@dataclass(frozen=True, slots=True)
class Cpu:
    """One CPU as an image's file describes it.

    `architecture` is one of `ptcore.formats.registers.architectures()`, or "" if the file does not say.
    `registers` are those that say how addresses are translated, as AddressSpace.from_registers takes
    them (empty where the file holds none of them); `general` all others. Values are register contents.
    """

    architecture: str
    registers: dict[str, int] = field(default_factory=dict)
    general: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Extent:
    """A run of physical addresses and the offset in the file where its bytes lie."""

    start: int
    size: int
    offset: int


class Image(PhysicalMemory):
    """Read-only physical memory out of a file; see `ptcore.open_image`."""

    _form: str = ""
    _path: str = ""
    _cpus: tuple[Cpu, ...] = ()
    _details: Mapping[str, str] = {}
    _kernel: Cpu | None = None
    _file: MappedFile | None = None
    _extents: tuple[Extent, ...] = ()

    @property
    def form(self) -> str:
        """How the file is laid out: "raw", "elf", "lime" ... (`ptcore.memory.images.forms()`)."""
        return self._form

    @property
    def path(self) -> str:
        """The file's name, as it was given."""
        return self._path

    @property
    def cpus(self) -> tuple[Cpu, ...]:
        """The CPUs that the file describes, in its order."""
        return self._cpus

    @property
    def kernel(self) -> Cpu | None:
        """What reaches Linux's own tables, by its VMCOREINFO, or None if the file has none that says.

        For files that know no CPU's root. What is not said is taken to be as Linux has it.
        """
        return self._kernel

    @property
    def details(self) -> Mapping[str, str]:
        """What else the file says of the machine (the lines of a VMCOREINFO note, a header's fields)."""
        return self._details

    def lies_in(self, file: MappedFile, extents: Iterable[Extent]) -> Self:
        """Set where the bytes lie in the file, and return the image. For `mapped_image`."""
        self._file = file
        self._extents = tuple(extents)
        return self

    def stored_spans(self) -> tuple[Span, ...]:
        """Return spans of the segments, in order: what lies in none of them is a hole of the file, zeros.

        Cost: two system calls per span; the file system may know of no holes.
        """
        if self._file is None:
            return super().stored_spans()
        return tuple(
            Span(
                part.start + (offset - part.offset), part.start + (offset - part.offset) + size - 1
            )
            for part in self._extents
            for offset, size in self._file.stored(part.offset, part.size)
        )

    def describe(
        self,
        form: str,
        path: str,
        cpus: Iterable[Cpu] = (),
        details: Mapping[str, str] | None = None,
        known: notes.Architecture = notes.UNKNOWN,
    ) -> Self:
        """Set what the file says, and return the image. For readers of files."""
        self._form = form
        self._path = path
        self._cpus = tuple(cpus)
        self._details = dict(details or {})
        registers = notes.kernel_registers(known, self._details)
        self._kernel = Cpu(known.name, registers) if registers else None
        return self

    def __repr__(self) -> str:
        parts = ", ".join(f"{span.start:#x}..{span.last:#x}" for span in self.segments[:4])
        more = len(self.segments) - 4
        return (
            f"Image({self.path!r}, {self.form}, {parts}{f' and {more} more' if more > 0 else ''})"
        )


def mapped_image(file: MappedFile, extents: Iterable[Extent]) -> Image:
    """Return the image whose bytes are those of the file, in place.

    Extents may overlap: the first given has the bytes. Raises ImageError, naming an extent's
    offset, if the file ends before it does, if it goes beyond 56 address bits, or if there is none.
    """
    parts = joined(disjoint(extents))
    if not parts:
        raise ImageError(f"{file.path}: the file holds no memory")
    try:
        return Image.from_buffers(
            [
                (part.start, file.part(part.offset, part.size, f"memory from {part.start:#x} on"))
                for part in parts
            ],
            writable=False,
        ).lies_in(file, parts)
    except OutOfRange as error:
        raise ImageError(f"{file.path}: {error}") from None


def lazy_image(file: MappedFile, reader: PageReader) -> Image:
    """Return the image whose pages `reader` gets out of the file when they are wanted.

    Raises ImageError if its spans overlap, go beyond 56 address bits, or if there is none.
    """
    try:
        return Image.from_reader(reader)
    except OutOfRange as error:
        raise ImageError(f"{file.path}: {error}") from None


def disjoint(extents: Iterable[Extent]) -> list[Extent]:
    """Return the extents in order of address, cut so that none overlaps one that was given before it."""
    given = [extent for extent in extents if extent.size > 0]
    ordered = sorted(given, key=lambda extent: extent.start)
    if all(a.start + a.size <= b.start for a, b in itertools.pairwise(ordered)):
        return ordered  # as most are
    order = sorted(range(len(given)), key=lambda n: given[n].start)
    edges = sorted({edge for e in given for edge in (e.start, e.start + e.size)})
    kept: list[Extent] = []
    open_: list[int] = []  # a heap of those that have begun; the first given is on top
    ahead = 0
    for edge, next_edge in itertools.pairwise(edges):
        while ahead < len(order) and given[order[ahead]].start == edge:
            heapq.heappush(open_, order[ahead])
            ahead += 1
        while open_ and given[open_[0]].start + given[open_[0]].size <= edge:
            heapq.heappop(open_)
        if open_:
            top = given[open_[0]]
            kept.append(Extent(edge, next_edge - edge, top.offset + (edge - top.start)))
    return kept


def joined(parts: Iterable[Extent]) -> list[Extent]:
    """Return sorted extents, those joined that go on both in memory and in the file."""
    found: list[Extent] = []
    for part in parts:
        before = found[-1] if found else None
        if (
            before is not None
            and before.start + before.size == part.start
            and before.offset + before.size == part.offset
        ):
            found[-1] = Extent(before.start, before.size + part.size, before.offset)
        else:
            found.append(part)
    return found
