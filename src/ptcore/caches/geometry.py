"""What a TLB is made of: arrays, levels, and presets with a source per field."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.resources import files
from typing import Any

from ptcore.errors import FormatError
from ptcore.units import format_size, parse_size

MAX_LEVELS = 4
MAX_ARRAYS = 12
MAX_SIZES = 4
SMALLEST_PAGE_LG2 = 10
LARGEST_PAGE_LG2 = 63
MAX_ENTRIES = 1 << 24


@dataclass(frozen=True, slots=True)
class TlbArray:
    """A set-associative array: `entries` in sets of `ways`, for pages of `page_sizes` (bytes or texts)."""

    entries: int
    ways: int
    page_sizes: tuple[int | str, ...] = ("4K",)

    def page_lg2s(self) -> tuple[int, ...]:
        """Return the page sizes as powers of two."""
        return tuple(parse_size(size).bit_length() - 1 for size in self.page_sizes)

    def validate(self, where: str) -> None:
        """Raise FormatError, naming the field, for a geometry that cannot be."""
        for field, number in (("entries", self.entries), ("ways", self.ways)):
            whole = isinstance(number, int) and not isinstance(number, bool)
            if not whole or not 1 <= number <= MAX_ENTRIES:
                raise FormatError(f"{where}: {field} {number!r} is no number in 1..{MAX_ENTRIES}")
        if self.entries % self.ways:
            raise FormatError(
                f"{where}: {self.entries} entries do not make whole sets of {self.ways} ways"
            )
        if not 1 <= len(self.page_sizes) <= MAX_SIZES:
            raise FormatError(f"{where}: page_sizes holds 1 to {MAX_SIZES} sizes")
        for size in self.page_sizes:
            number = parse_size(size)
            lg2 = number.bit_length() - 1
            if not SMALLEST_PAGE_LG2 <= lg2 <= LARGEST_PAGE_LG2 or number & (number - 1):
                raise FormatError(f"{where}: page_sizes: {size!r} is no page size")


@dataclass(frozen=True, slots=True)
class TlbLevel:
    """One level: arrays that are looked up side by side, each for its own page sizes."""

    name: str
    arrays: tuple[TlbArray, ...]

    def validate(self) -> None:
        """Raise FormatError when an array cannot be, or two arrays of the level hold one page size."""
        if not self.arrays:
            raise FormatError(f"{self.name}: arrays: a level has at least one")
        seen: set[int] = set()
        for n, array in enumerate(self.arrays):
            array.validate(f"{self.name}, array {n}")
            for lg2 in array.page_lg2s():
                if lg2 in seen:
                    raise FormatError(f"{self.name}: two arrays hold {format_size(1 << lg2)} pages")
                seen.add(lg2)


def validate_levels(levels: Sequence[TlbLevel]) -> None:
    """Raise FormatError unless `levels` make a TLB."""
    if not 1 <= len(levels) <= MAX_LEVELS:
        raise FormatError(f"a TLB has 1 to {MAX_LEVELS} levels, not {len(levels)}")
    if sum(len(level.arrays) for level in levels) > MAX_ARRAYS:
        raise FormatError(f"a TLB has at most {MAX_ARRAYS} arrays")
    for level in levels:
        level.validate()


@dataclass(frozen=True, slots=True)
class Preset:
    """A CPU's data TLB and paging-structure caches, as far as the model has them.

    `walk_cache`: entries by level (1 = the item over a smallest-leaf table). `sources`: where each
    field comes from and how sure it is (measured, manual, cpuid, recalled, modelled). `notes`: what
    the CPU does that the model does not.
    """

    name: str
    title: str
    levels: tuple[TlbLevel, ...]
    walk_cache: dict[int, int]
    sources: dict[str, str]
    notes: tuple[str, ...]


def preset_names() -> tuple[str, ...]:
    """Return the names of all presets."""
    folder = files("ptcore.caches.presets")
    return tuple(
        sorted(e.name.removesuffix(".toml") for e in folder.iterdir() if e.name.endswith(".toml"))
    )


def preset(name: str) -> Preset:
    """Return the preset `name`; FormatError lists the nearest names."""
    known = preset_names()
    if name not in known:
        near = get_close_matches(name, known, n=3, cutoff=0.3) or known
        raise FormatError(f"no preset is called {name!r}; nearest: {', '.join(near)}")
    text = (files("ptcore.caches.presets") / f"{name}.toml").read_text(encoding="utf-8")
    declared: dict[str, Any] = tomllib.loads(text)
    levels = tuple(
        TlbLevel(
            level["name"],
            tuple(
                TlbArray(array["entries"], array["ways"], tuple(array["page_sizes"]))
                for array in level["arrays"]
            ),
        )
        for level in declared["levels"]
    )
    validate_levels(levels)
    return Preset(
        name,
        declared["title"],
        levels,
        {int(level): entries for level, entries in declared["walk_cache"].items()},
        declared["sources"],
        tuple(declared["notes"]),
    )
