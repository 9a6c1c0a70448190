"""What a TLB is made of: arrays, levels, and presets with a source per field."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from ptcore.errors import FormatError
from ptcore.units import parse_size

MAX_LEVELS = 4
MAX_ARRAYS = 16
MAX_LIVE_ASIDS = 16
MAX_SIZES = 4
SMALLEST_PAGE_LG2 = 4
LARGEST_PAGE_LG2 = 63
MAX_ENTRIES = 1 << 24
MAX_WAYS = 1 << 15


SIDES = ("load", "store", "fetch")
POLICIES = ("lru", "fifo", "random", "plru", "srrip", "mru_plru4")
INCLUSIONS = ("non_inclusive", "inclusive", "victim", "exclusive")


@dataclass(frozen=True, slots=True)
class TlbArray:
    """A set-associative array: `entries` in sets of `ways`, for pages of `page_sizes` (bytes or texts).

    `sides`: which accesses use it, of load, store and fetch. `index_xor`: n for a set index of
    (page ^ page >> n) modulo the sets, 0 for the page alone. `policy`: one of POLICIES; plru is a tree,
    mru_plru4 what Skylake's second level does, "(MRU+1)%3PLRU4" (vusec/tlbdr). `coalesces`: its largest size
    is one that tables have no page of; a walk fills it where adjacent smaller pages go on in one piece (AMD's
    16K out of four 4K). Sizes below pages make a data
    cache, of lines.
    """

    entries: int
    ways: int
    page_sizes: tuple[int | str, ...] = ("4K",)
    sides: tuple[str, ...] = SIDES
    index_xor: int = 0
    policy: str = "lru"
    coalesces: bool = False

    def page_lg2s(self) -> tuple[int, ...]:
        """Return the page sizes as powers of two."""
        return _lg2s(tuple(self.page_sizes))

    def shares(self, other: TlbArray, page_lg2: int) -> bool:
        """Whether both arrays hold pages of that size for the same sides: each then takes its part."""
        sizes = page_lg2 in self.page_lg2s() and page_lg2 in other.page_lg2s()
        return sizes and set(self.sides) == set(other.sides)

    def validate(self, where: str) -> None:
        """Raise FormatError, naming the field, for a geometry that cannot be."""
        for what, number in (("entries", self.entries), ("ways", self.ways)):
            whole = isinstance(number, int) and not isinstance(number, bool)
            if not whole or not 1 <= number <= MAX_ENTRIES:
                raise FormatError(f"{where}: {what} {number!r} is no number in 1..{MAX_ENTRIES}")
        if self.ways > MAX_WAYS:
            raise FormatError(f"{where}: ways {self.ways} are more than {MAX_WAYS}")
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
        if len(set(self.page_lg2s())) < len(self.page_sizes):
            raise FormatError(f"{where}: page_sizes {self.page_sizes!r} names a size twice")
        self._validate_choices(where)

    def _validate_choices(self, where: str) -> None:
        sets = self.entries // self.ways
        if not self.sides or set(self.sides) - set(SIDES):
            raise FormatError(f"{where}: sides {self.sides!r} are not some of {', '.join(SIDES)}")
        if not 0 <= self.index_xor < 64 or (self.index_xor and sets & (sets - 1)):
            raise FormatError(
                f"{where}: index_xor {self.index_xor} needs 0..63, and a number of sets that is a power "
                f"of two, not {sets}"
            )
        if self.policy not in POLICIES:
            near = get_close_matches(self.policy, POLICIES, n=3, cutoff=0.3) or POLICIES
            raise FormatError(
                f"{where}: no policy is called {self.policy!r}; {', '.join(near)} are"
            )
        wrong = {
            "plru": self.ways & (self.ways - 1) or self.ways > 32,
            "srrip": self.ways > 32,
            "mru_plru4": self.ways % 4 or self.ways > 56,
        }
        if wrong.get(self.policy):
            rule = {
                "plru": "a power of two up to 32",
                "srrip": "32 at most",
                "mru_plru4": "a multiple of 4 up to 56",
            }
            raise FormatError(
                f"{where}: {self.policy} has ways of {rule[self.policy]}, not {self.ways}"
            )


@dataclass(frozen=True, slots=True)
class TlbLevel:
    """One level: arrays that are looked up one after the other, each for its own page sizes and sides.

    A page of a size that no array of the level has is held in parts, of the largest smaller size that
    there is (Zen 2 holds 1G pages as 2M). `inclusion`: non_inclusive (filled by walks), inclusive (what it
    drops is dropped above), victim (filled by what the level above drops), exclusive (so, and a hit moves the
    entry up). `live_asids`: how many address spaces it keeps entries of, 0 for any number. `cycles`: what
    a hit here costs more than one in the first level, None where no source says.
    """

    name: str
    arrays: tuple[TlbArray, ...]
    inclusion: str = "non_inclusive"
    live_asids: int = 0
    cycles: float | None = None

    def held_as(self, array: TlbArray, page_lg2: int) -> int:
        """Return as which size (a power of two) one of the arrays holds such pages; 0 if it does not."""
        return self.held_as_each(array)[min(page_lg2, LARGEST_PAGE_LG2)]

    def held_as_each(self, array: TlbArray) -> tuple[int, ...]:
        """Return `held_as` of pages of 1 byte, 2, 4 and so on, up to 2**63."""
        rivals = [other for other in self.arrays if set(other.sides) & set(array.sides)]
        sizes = {lg2 for other in rivals for lg2 in other.page_lg2s()}
        own = array.page_lg2s()
        found, best = [], 0
        for page_lg2 in range(1 + LARGEST_PAGE_LG2):
            best = page_lg2 if page_lg2 in sizes else best
            found.append(best if best in own else 0)
        return tuple(found)

    def validate(self) -> None:
        """Raise FormatError when an array or a rule of the level cannot be."""
        if not self.arrays:
            raise FormatError(f"{self.name}: arrays: a level has at least one")
        if self.inclusion not in INCLUSIONS:
            raise FormatError(
                f"{self.name}: inclusion {self.inclusion!r} is none of {', '.join(INCLUSIONS)}"
            )
        if not 0 <= self.live_asids <= MAX_LIVE_ASIDS:
            raise FormatError(
                f"{self.name}: live_asids {self.live_asids} is not 0..{MAX_LIVE_ASIDS}"
            )
        for n, array in enumerate(self.arrays):
            array.validate(f"{self.name}, array {n}")


@lru_cache(maxsize=256)
def _lg2s(page_sizes: tuple[int | str, ...]) -> tuple[int, ...]:
    return tuple(parse_size(size).bit_length() - 1 for size in page_sizes)


def validate_levels(levels: Sequence[TlbLevel]) -> None:
    """Raise FormatError unless `levels` make a TLB."""
    if not 1 <= len(levels) <= MAX_LEVELS:
        raise FormatError(f"a TLB has 1 to {MAX_LEVELS} levels, not {len(levels)}")
    if sum(len(level.arrays) for level in levels) > MAX_ARRAYS:
        raise FormatError(f"a TLB has at most {MAX_ARRAYS} arrays")
    for level in levels:
        level.validate()
    if levels[0].inclusion != INCLUSIONS[0]:
        raise FormatError(
            f"{levels[0].name}: nothing is above the first level to be {levels[0].inclusion}"
        )


@dataclass(frozen=True, slots=True)
class Preset:
    """A CPU's data TLB and paging-structure caches, as far as the model has them.

    `walk_cache`: entries by level (1 = the item over a smallest-leaf table). `sources`: where each
    field comes from and how sure it is (measured, manual, cpuid, source, recalled, modelled). `notes`:
    where sources conflict, and what the CPU does that the model does not. `walk`: what is known of walks:
    `walkers`, and `cycles` of one beyond a hit in the first level.
    """

    name: str
    title: str
    levels: tuple[TlbLevel, ...]
    walk_cache: dict[int, int]
    sources: dict[str, str]
    notes: tuple[str, ...]
    walk: dict[str, float] = field(default_factory=dict)


def preset_names() -> tuple[str, ...]:
    """Return the names of all presets."""
    folder = files("ptcore.caches.presets")
    return tuple(
        sorted(e.name.removesuffix(".toml") for e in folder.iterdir() if e.name.endswith(".toml"))
    )


def preset(name: str) -> Preset:
    """Return the preset `name`, or that of a file whose path ends in .toml.

    Raises FormatError with the nearest names for an unknown one, and for a file that is no preset.
    """
    if name.endswith(".toml"):
        return _declared(Path(name).stem, Path(name).read_text(encoding="utf-8"))
    known = preset_names()
    if name not in known:
        near = get_close_matches(name, known, n=3, cutoff=0.3) or known
        raise FormatError(f"no preset is called {name!r}; nearest: {', '.join(near)}")
    text = (files("ptcore.caches.presets") / f"{name}.toml").read_text(encoding="utf-8")
    return _declared(name, text)


def _declared(name: str, text: str) -> Preset:
    try:
        return _preset(name, tomllib.loads(text))
    except (tomllib.TOMLDecodeError, KeyError, TypeError, ValueError) as error:
        raise FormatError(f"preset {name}: {error}") from None


def _preset(name: str, declared: dict[str, Any]) -> Preset:
    levels = tuple(_level(level) for level in declared["levels"])
    validate_levels(levels)
    return Preset(
        name,
        declared["title"],
        levels,
        {int(level): entries for level, entries in declared.get("walk_cache", {}).items()},
        declared["sources"],
        tuple(declared["notes"]),
        dict(declared.get("walk", {})),
    )


def _level(declared: dict[str, Any]) -> TlbLevel:
    return TlbLevel(**{**declared, "arrays": tuple(map(_array, declared["arrays"]))})


def _array(declared: dict[str, Any]) -> TlbArray:
    fields: dict[str, Any] = {
        k: tuple(v) if isinstance(v, list) else v for k, v in declared.items()
    }
    return TlbArray(**fields)
