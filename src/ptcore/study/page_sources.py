"""Where the page tables of a study come from besides a policy: a listing of mappings, or a guest's image."""

from __future__ import annotations

import csv
import itertools
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ptcore.errors import AddressError, FormatError, TraceError
from ptcore.formats import Format
from ptcore.memory import open_image
from ptcore.study.outputs import need
from ptcore.table import PageTable, RowKind
from ptcore.table.address_space import AddressSpace
from ptcore.table.nested import Nested
from ptcore.units import parse_size
from ptcore.workloads.accesses.columnar import PARQUET_MAGIC

Numbers = npt.NDArray[np.uint64]
# Linux Documentation/filesystems/proc.rst, /proc/PID/maps and smaps: a line per region, fields below it.
_REGION = re.compile(r"([0-9a-f]+)-([0-9a-f]+) [-r][-w][-x][ps] ")
_FIELD = re.compile(r"(\w+):\s+(\d+) kB")
_TEXT = re.compile(r"\w+:\s")


@dataclass(frozen=True)
class Region:
    """Addresses from `start` to `end` (exclusive) in pages of `size` bytes; `line`: where it stands.

    `huge`: how many of its bytes are in pages of the next size.
    """

    start: int
    end: int
    size: int
    line: int
    huge: int = 0


def read_regions(path: str | PathLike[str], fmt: Format) -> list[Region]:
    """Read /proc/PID/maps, /proc/PID/smaps, or a table with the columns va and size (and count).

    A table is comma- or tab-separated, or Parquet; va is a number in Python's notation, size one of the
    format's (4K, 2M), count how many such pages follow each other. Raises TraceError with the line
    of what is damaged, FormatError for a size that the format lacks, an address that is not aligned
    to it, and regions that overlap.
    """
    found = _regions_in(path, fmt)
    ordered = sorted(found, key=lambda region: region.start)
    for region in ordered:
        fmt.shape_of(region.size)
        if region.start % region.size or region.end % region.size:
            raise FormatError(
                f"{path}, line {region.line}: {region.start:#x}..{region.end:#x} is not aligned to its pages "
                f"of {region.size} bytes"
            )
    for before, after in itertools.pairwise(ordered):
        if after.start < before.end:
            raise FormatError(
                f"{path}: line {after.line} ({after.start:#x}) overlaps line {before.line}"
            )
    return ordered


def _regions_in(path: str | PathLike[str], fmt: Format) -> list[Region]:
    with open(path, "rb") as file:
        if file.read(len(PARQUET_MAGIC)) == PARQUET_MAGIC:
            return list(_regions_of_parquet(path))
    lines = Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    if not lines:
        raise TraceError(f"{path} is empty")
    if _REGION.match(lines[0]):
        return list(_regions_of_maps(lines, str(path), fmt))
    return list(_regions_of_table(lines, str(path)))


def _regions_of_parquet(path: str | PathLike[str]) -> Iterator[Region]:
    """Yield a region per row; va and count are integers, size an integer or a text."""
    arrow = need("pyarrow", "a table in Parquet", "parquet")
    parquet = need("pyarrow.parquet", "a table in Parquet", "parquet")
    try:
        table = parquet.read_table(path)
    except (arrow.ArrowException, OSError) as error:
        raise TraceError(f"{path}: {error}") from None
    if not {"va", "size"} <= set(table.column_names):
        raise TraceError(f"{path}: no table with the columns va and size")
    for number, row in enumerate(table.to_pylist(), 1):
        start, size, count = row["va"], row["size"], row.get("count", 1)
        whole = isinstance(start, int) and isinstance(count, int) and isinstance(size, int | str)
        if not whole or start < 0 or count < 1:
            raise TraceError(f"{path}, row {number}: va {start!r}, size {size!r}, count {count!r}")
        try:
            bytes_ = parse_size(size)
        except AddressError as error:
            raise TraceError(f"{path}, row {number}: {error}") from None
        yield Region(start, start + count * bytes_, bytes_, number)


def _regions_of_maps(lines: list[str], path: str, fmt: Format) -> Iterator[Region]:
    """Yield a region per line of addresses; the lines below it, if any, say its page sizes."""
    found: Region | None = None
    for number, line in enumerate(lines, 1):
        begun = _REGION.match(line)
        field = _FIELD.match(line)
        if begun:
            if found is not None:
                yield found
            found = Region(int(begun[1], 16), int(begun[2], 16), fmt.page_sizes[0], number)
        elif field and found is not None:
            found = _with_field(found, field[1], int(field[2]) << 10)
        elif line.strip() and not _TEXT.match(line):
            raise TraceError(f"{path}, line {number}: neither a region nor a field: {line[:60]!r}")
    if found is not None:
        yield found


def _with_field(region: Region, name: str, size: int) -> Region:
    if name == "MMUPageSize" and size:
        return Region(region.start, region.end, size, region.line, region.huge)
    if name in ("AnonHugePages", "ShmemPmdMapped", "FilePmdMapped"):
        return Region(region.start, region.end, region.size, region.line, region.huge + size)
    return region


def _regions_of_table(lines: list[str], path: str) -> Iterator[Region]:
    rows = csv.DictReader(lines, delimiter="\t" if "\t" in lines[0] else ",")
    if not {"va", "size"} <= set(rows.fieldnames or ()):
        raise TraceError(f"{path}: neither /proc/PID/maps nor a table with the columns va and size")
    for number, row in enumerate(rows, 2):
        try:
            start, size = int(row["va"], 0), parse_size(row["size"])
            count = int(row.get("count") or "1", 0)
        except (ValueError, TypeError) as error:
            raise TraceError(f"{path}, line {number}: {error}") from None
        yield Region(start, start + count * size, size, number)


def pages_in(regions: list[Region], touched: Numbers, fmt: Format) -> dict[int, Numbers]:
    """Return, per page size, the numbers of the pages that hold what is touched (small-page numbers).

    Of a region with huge pages its first ones are taken for them: smaps does not say which. What no
    region holds is in none.
    """
    small = fmt.page_sizes[0]
    large = 1 << fmt.levels[fmt.leaf_levels[1]].shift if len(fmt.leaf_levels) > 1 else small
    found: dict[int, list[Numbers]] = {small: []}
    for region in regions:
        inside = touched[
            np.searchsorted(touched, region.start // small) : np.searchsorted(
                touched, -(-region.end // small)
            )
        ]
        first = -(-region.start // large) * large
        last = min(first + region.huge // large * large, region.end // large * large)
        huge = (inside >= first // small) & (inside < last // small)
        for size, pages in ((large, inside[huge]), (region.size, inside[~huge])):
            if len(pages):
                shift = np.uint64((size // small).bit_length() - 1)
                found.setdefault(size, []).append(np.unique(pages >> shift))
    return {
        size: np.unique(np.concatenate(parts)) if parts else np.empty(0, dtype=np.uint64)
        for size, parts in sorted(found.items())
    }


@dataclass(frozen=True)
class Image:
    """A guest's physical memory in a file that `ptcore.open_image` reads, and where its tables begin.

    Either `root`, of tables of the study's format, or `registers`: a JSON file with `architecture` and the
    registers' values (numbers, or texts in Python's notation).
    """

    path: str | PathLike[str]
    root: int | None = None
    registers: str | PathLike[str] | None = None

    def open(self, fmt: Format) -> PageTable | Nested | AddressSpace:
        """Return the tables; nothing is read yet, and nothing will be written.

        Raises FormatError where both or neither say where tables begin, and for registers that are none; what
        PageTable raises for a root; what `open_image` raises for the file.
        """
        if (self.root is None) == (self.registers is None):
            raise FormatError("an image takes either a root or registers")
        memory = open_image(self.path)
        if self.registers is None:
            return PageTable(fmt, memory, self.root)
        try:
            said: dict[str, Any] = json.loads(Path(self.registers).read_text(encoding="utf-8"))
            architecture = str(said.pop("architecture"))
            values = {k: int(v, 0) if isinstance(v, str) else int(v) for k, v in said.items()}
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise FormatError(
                f"{self.registers}: no registers with an architecture: {error}"
            ) from None
        return AddressSpace.from_registers(architecture, memory, **values)


def pages_of(space: PageTable | Nested | AddressSpace) -> dict[int, Numbers]:
    """Return, per page size, the numbers of the pages that tables map, ascending."""
    found: dict[int, list[Numbers]] = {}
    for row in space.mappings():
        if row["kind"] == RowKind.LEAF:
            size = int(row["page_size"])
            pages = np.arange(
                int(row["first"]) // size, int(row["last"]) // size + 1, dtype=np.uint64
            )
            found.setdefault(size, []).append(pages)
    return {size: np.concatenate(parts) for size, parts in sorted(found.items())}


__all__ = ["Image", "Region", "pages_in", "pages_of", "read_regions"]
