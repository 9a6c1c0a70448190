"""What a trace of accesses costs a CPU's translation hardware: TLBs, paging-structure caches, walks.

A trace has addresses but no page tables, so they are made from its footprint, by a policy that is named in
the result: the hit rates are those of a program whose pages were mapped so. The trace is read twice, for the
footprint and for the accesses; memory grows with the pages touched, not with the trace.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ptcore import formats
from ptcore.caches import Mmu, Preset, Tlb, TlbArray, TlbLevel, WalkCache, preset
from ptcore.errors import AddressError, FormatError, OutOfRange
from ptcore.formats import Format
from ptcore.memory import PhysicalMemory
from ptcore.study import page_sources
from ptcore.study.page_sources import Image
from ptcore.study.walk_path import ONE_STAGE, WalkFigures, WalkPath
from ptcore.table import PageTable
from ptcore.table.address_space import AddressSpace
from ptcore.table.nested import Nested
from ptcore.units import format_size, parse_size
from ptcore.workloads.accesses import Accesses, AccessKind, open_accesses

Progress = Callable[[str, int, int], None]
Numbers = npt.NDArray[np.uint64]
DEFAULT_FORMAT = "x86_64_4level"
THP_LEAST = 64
"""Of a region's small pages, how many must be touched before `thp` maps it as one: a model, no kernel's rule
(Linux Documentation/admin-guide/mm/transhuge.rst: a fault may map a huge page at the first touch)."""
TABLES_AT_MOST = "4G"
WALK = 254


@dataclass(frozen=True)
class Source:
    """A trace: its path, its form (None: told by content), whether damaged records are skipped, whether
    instruction fetches are left out."""

    path: str | PathLike[str]
    form: str | None = None
    skip_bad: bool = False
    data_only: bool = False

    def chunks(self) -> Iterator[Accesses]:
        """Yield the accesses, in order. Raises TraceError."""
        with open_accesses(self.path, self.form, self.skip_bad) as reader:
            for chunk in reader:
                yield chunk.of(AccessKind.LOAD, AccessKind.STORE) if self.data_only else chunk


@dataclass(frozen=True)
class Footprint:
    """The smallest pages that a trace touches, by number, ascending; and how many accesses it has."""

    pages: Numbers
    accesses: int


def footprint(source: Source, granule_lg2: int) -> Footprint:
    """Read a trace for its pages of 2**granule_lg2 bytes. An access counts for its first byte."""
    pages = np.empty(0, dtype=np.uint64)
    accesses = 0
    for chunk in source.chunks():
        accesses += len(chunk)
        new = np.unique(chunk.va >> np.uint64(granule_lg2))
        pages = np.union1d(pages, new)
    return Footprint(pages, accesses)


@dataclass(frozen=True)
class Mapping:
    """Tables, made from a footprint or a guest's own. `regions`: the numbers of the pages of each size in
    bytes. `of_a_program`: accesses are in user mode, as to pages made for it."""

    space: PageTable | Nested | AddressSpace
    policy: str
    format: Format
    regions: dict[int, Numbers]
    of_a_program: bool = False

    def sizes_of(self, vas: Numbers) -> npt.NDArray[np.uint8]:
        """Return for each address the index of its page size in `regions`."""
        found = np.zeros(vas.shape, dtype=np.uint8)
        for n, (size, numbers) in enumerate(self.regions.items()):
            shift = np.uint64(size.bit_length() - 1)
            at = np.searchsorted(numbers, vas >> shift)
            inside = at < len(numbers)
            inside[inside] = numbers[at[inside]] == (vas[inside] >> shift)
            found[inside] = n
        return found


def map_footprint(
    touched: Footprint, policy: str, fmt: Format, path: WalkPath = ONE_STAGE
) -> Mapping:
    """Map what a trace touches with pages of one size ("4k", "2m", "1g"), or mixed ("thp", "thp:N").

    `thp:N` maps a region with one page of the second size where at least N of its small pages are
    touched, else with small ones; `thp` is thp:64. Any other policy is the path of a file that says
    what is mapped (page_sources.read_regions): what it does not map will fault. `path` may put a second
    stage under the tables. Raises FormatError
    for a size that the format lacks, NotCanonical for addresses that it does not translate, NoFrame
    for tables of more than 4G.
    """
    sizes = fmt.page_sizes
    least = re.fullmatch(r"thp(?::(\d+))?", policy.lower())
    regions: dict[int, Numbers] = {}
    if least:
        small, large = sizes[0], _next_level_size(fmt)
        ratio = np.uint64((large // small).bit_length() - 1)
        numbers, counts = np.unique(touched.pages >> ratio, return_counts=True)
        huge = numbers[counts >= int(least[1] or THP_LEAST)]
        if large == small:  # a format of one page size has nothing to mix
            huge = huge[:0]
        regions[small] = touched.pages[~np.isin(touched.pages >> ratio, huge)]
        if large > small:
            regions[large] = huge
    elif Path(policy).is_file():
        regions = page_sources.pages_in(page_sources.read_regions(policy, fmt), touched.pages, fmt)
    else:
        size = _page_size(policy)
        fmt.shape_of(size)
        shift = np.uint64((size // sizes[0]).bit_length() - 1)
        regions[size] = np.unique(touched.pages >> shift)
    table = PageTable(fmt, PhysicalMemory(TABLES_AT_MOST))
    pa = 0
    for size, numbers in regions.items():
        pa = -(-pa // size) * size
        for first, count in _runs(numbers):
            table.map(first * size, pa, count * size, fmt.rights, None, page_size=size)
            pa += count * size
    return Mapping(path.space(table, pa), policy, fmt, regions, of_a_program=True)


def _page_size(policy: str) -> int:
    try:
        return parse_size(policy.upper())
    except AddressError:
        raise FormatError(
            f"pages {policy!r} is no size (4k, 2m, 1g), not thp or thp:N, and no file of that name is there"
        ) from None


def map_image(image: Image, fmt: Format) -> Mapping:
    """Take the tables of a guest's image as they are. Raises as Image.open."""
    space = image.open(fmt)
    regions = page_sources.pages_of(space) or {fmt.page_sizes[0]: np.empty(0, dtype=np.uint64)}
    first = space.tables[0] if isinstance(space, AddressSpace) else space
    table = first.stage1 if isinstance(first, Nested) else first
    return Mapping(space, str(image.path), table.format, regions)


def _next_level_size(fmt: Format) -> int:
    """Return the size of a plain page one level up: 2M where small pages have 4K."""
    level = fmt.leaf_levels[1] if len(fmt.leaf_levels) > 1 else 0
    return 1 << fmt.levels[level].shift


def _runs(numbers: Numbers) -> Iterator[tuple[int, int]]:
    """Yield (first, how many) of each run of consecutive numbers."""
    breaks = np.flatnonzero(np.diff(numbers) != 1) + 1
    for part in np.split(numbers, breaks):
        if len(part):
            yield int(part[0]), len(part)


@dataclass(frozen=True)
class Phase:
    """Consecutive accesses: hits per level, walks, the items that walks read, faults."""

    accesses: int
    hits: tuple[int, ...]
    walks: int
    references: int
    faults: int


@dataclass(frozen=True)
class Translation:
    """What one CPU's hardware did with a trace.

    `by_size`: (page size in bytes, hits per level, walks). `cycles`: per access, beyond a hit in the first
    level; None where the preset has no source for a part of it. `reach_bytes`: what each level holds of the
    smallest pages when it is full of them. `walks`: what walks read, and how long that takes.
    """

    cpu: str
    title: str
    levels: tuple[str, ...]
    pages: str
    whole: Phase
    phases: tuple[Phase, ...]
    by_size: tuple[tuple[int, tuple[int, ...], int], ...]
    cycles: float | None
    reach_bytes: tuple[int, ...]
    walks: WalkFigures

    def to_dict(self) -> dict[str, object]:
        """Return it as plain values, for JSON."""
        return asdict(self)


class _Run:
    """One CPU under the trace."""

    def __init__(self, cpu: Preset, mapping: Mapping, path: WalkPath = ONE_STAGE) -> None:
        self.cpu = cpu
        self.path = path
        self.mapping = mapping
        top = mapping.format.top_level
        caches = {n: room for n, room in cpu.walk_cache.items() if n <= top}
        # Marks stay unset: the tables are shared by all CPUs of the study.
        self.mmu = Mmu(
            mapping.space,
            Tlb(cpu.levels),
            WalkCache(caches) if caches else None,
            marks=False,
            **path.options(),
        )
        self.sizes = np.zeros((len(mapping.regions), 256), dtype=np.int64)
        self.phases: list[Phase] = []
        self.before = self.total()

    def total(self) -> Phase:
        c = self.mmu.counts
        return Phase(c.accesses, c.hits, c.walks, c.references, c.faults)

    def take(self, chunk: Accesses, sizes: npt.NDArray[np.uint8]) -> None:
        outcomes = self.mmu.access_many(chunk.va, chunk.kind, user=self.mapping.of_a_program)
        both = sizes.astype(np.int64) * 256 + outcomes
        self.sizes += np.bincount(both, minlength=self.sizes.size).reshape(self.sizes.shape)

    def end_phase(self) -> None:
        now, before = self.total(), self.before
        hits = tuple(b - a for a, b in zip(before.hits, now.hits, strict=True))
        self.phases.append(
            Phase(
                now.accesses - before.accesses,
                hits,
                now.walks - before.walks,
                now.references - before.references,
                now.faults - before.faults,
            )
        )
        self.before = now

    def result(self) -> Translation:
        whole = self.total()
        depth = len(self.cpu.levels)
        smallest = self.mapping.format.page_sizes[0]
        return Translation(
            cpu=self.cpu.name,
            title=self.cpu.title,
            levels=tuple(level.name for level in self.cpu.levels),
            pages=self.mapping.policy,
            whole=whole,
            phases=tuple(self.phases),
            by_size=tuple(
                (size, tuple(int(n) for n in row[:depth]), int(row[WALK]))
                for size, row in zip(self.mapping.regions, self.sizes, strict=True)
            ),
            cycles=self._cycles(whole),
            reach_bytes=tuple(_reach(level, smallest) for level in self.cpu.levels),
            walks=WalkFigures.of(self.mmu, self.path),
        )

    def _cycles(self, whole: Phase) -> float | None:
        """Return the cycles per access: of walks as modelled, else as the preset says."""
        if not self.path.options():
            return cycles_per_access(self.cpu, whole)
        free = replace(self.cpu, walk={**self.cpu.walk, "cycles": 0})
        lower = cycles_per_access(free, whole)
        return None if lower is None else lower + self.mmu.counts.walk_cycles / whole.accesses


def _reach(level: TlbLevel, page_size: int) -> int:
    """Return how many bytes of such pages a level holds for loads."""
    lg2 = page_size.bit_length() - 1
    arrays = [a for a in level.arrays if "load" in a.sides and lg2 in a.page_lg2s()]
    return sum(a.entries for a in arrays) * page_size


def cycles_per_access(cpu: Preset, seen: Phase) -> float | None:
    """Return the cycles that translation adds to an access; None where the preset does not know."""
    lower = [level.cycles for level in cpu.levels[1:]]
    walk = cpu.walk.get("cycles")
    if not seen.accesses or walk is None or any(cycles is None for cycles in lower):
        return None
    spent = sum(n * (cycles or 0) for n, cycles in zip(seen.hits[1:], lower, strict=True))
    return float(spent + seen.walks * walk) / seen.accesses


def simulate(
    source: Source,
    cpus: Sequence[Preset],
    *,
    pages: str = "thp",
    phases: int = 4,
    form: str = DEFAULT_FORMAT,
    image: Image | None = None,
    path: WalkPath = ONE_STAGE,
    progress: Progress | None = None,
) -> tuple[Translation, ...]:
    """Run a trace through each of `cpus` over the same tables; return one Translation each.

    `pages`: see map_footprint; `image`: whose tables are used instead; `phases`: into how many
    parts of equal length the trace is cut; `form`: the format of the tables; `path`: what walks go
    through. `progress` is told (what, accesses done, all). Raises TraceError, FormatError.
    """
    if phases < 1:
        raise OutOfRange(f"a trace has at least one phase, not {phases}")
    if image is not None and path.nested is not None:
        raise FormatError("an image brings its own stages: a second one is for made tables")
    fmt = formats.get(form)
    touched = footprint(source, fmt.granule_lg2)
    mapping = map_footprint(touched, pages, fmt, path) if image is None else map_image(image, fmt)
    runs = [_Run(cpu, mapping, path) for cpu in cpus]
    ends = [touched.accesses * (n + 1) // phases for n in range(phases)]
    done = 0
    for chunk in source.chunks():
        cuts = [end - done for end in ends if done < end < done + len(chunk)]
        for start, end in itertools.pairwise([0, *cuts, len(chunk)]):
            part = chunk[start:end]
            sizes = mapping.sizes_of(part.va)
            for run in runs:
                run.take(part, sizes)
            done += len(part)
            if len(runs[0].phases if runs else ()) < phases and done == ends[len(runs[0].phases)]:
                for run in runs:
                    run.end_phase()
        if progress:
            progress("translating", done, touched.accesses)
    return tuple(run.result() for run in runs)


@dataclass(frozen=True)
class Sweep:
    """One number of a geometry that takes several values: 'l2.entries=512..4096' doubles it.

    Entries that double make whole sets: of 12 ways, 512..4096 holds 768, 1536 and 3072. With a step, the
    values are those that are asked for.
    """

    level: str
    field: str
    values: tuple[int, ...]
    doubles_to: int = 0

    @classmethod
    def parse(cls, text: str) -> Sweep:
        """Read LEVEL.FIELD=FIRST..LAST (doubling) or FIRST..LAST:STEP. Raises FormatError."""
        found = re.fullmatch(r"(\w+)\.(entries|ways)=(\d+)\.\.(\d+)(?::(\d+))?", text)
        if not found:
            raise FormatError(
                f"{text!r} is not LEVEL.entries=FIRST..LAST[:STEP], or LEVEL.ways=..."
            )
        first, last, step = int(found[3]), int(found[4]), int(found[5] or 0)
        if not 0 < first <= last:
            raise FormatError(f"{text!r}: {first}..{last} is no ascending range from 1 upwards")
        if step:
            values = tuple(range(first, last + 1, step))
        else:
            values = tuple(first << n for n in range((last // first).bit_length()))
        return cls(found[1].upper(), found[2], values, 0 if step else last)

    def points(self, cpu: Preset) -> tuple[Preset, ...]:
        """Return the CPU with each value in turn; raises as `apply`."""
        return tuple(self.apply(cpu, value) for value in self.values_of(cpu))

    def values_of(self, cpu: Preset) -> tuple[int, ...]:
        """Return the values that the CPU is given: those asked for, or the whole sets among them."""
        _, _, array = self._array_of(cpu)
        first = self.values[0]
        if self.field != "entries" or not self.doubles_to or first % array.ways == 0:
            return self.values
        sizes = (array.ways << n for n in range(self.doubles_to.bit_length()))
        whole = tuple(size for size in sizes if first <= size <= self.doubles_to)
        return whole or self.values  # none: apply says why

    def apply(self, cpu: Preset, value: int) -> Preset:
        """Return the CPU with that value in the level's array for loads of small pages.

        Raises FormatError for a level that the CPU lacks and for a geometry that cannot be.
        """
        at, chosen, array = self._array_of(cpu)
        level = cpu.levels[at]
        change: dict[str, Any] = {self.field: value}
        array = replace(array, **change)
        if array.entries % array.ways:
            first = array.ways << max((self.values[0] // array.ways).bit_length() - 1, 0)
            raise FormatError(
                f"{cpu.name} {self.level}: {array.entries} entries do not make whole sets of "
                f"{array.ways} ways; {first}..{first << 3} would, doubled"
            )
        arrays = (*level.arrays[:chosen], array, *level.arrays[chosen + 1 :])
        levels = (*cpu.levels[:at], replace(level, arrays=arrays), *cpu.levels[at + 1 :])
        for made in levels:
            made.validate()
        return replace(cpu, name=f"{cpu.name} {self.level}.{self.field}={value}", levels=levels)

    def _array_of(self, cpu: Preset) -> tuple[int, int, TlbArray]:
        """Return the numbers of the level and of its array for loads of small pages, and the array."""
        names = [level.name for level in cpu.levels]
        if self.level not in names:
            raise FormatError(f"{cpu.name} has no level {self.level}; it has {', '.join(names)}")
        at = names.index(self.level)
        level = cpu.levels[at]
        small = min(lg2 for array in level.arrays for lg2 in array.page_lg2s())
        chosen = next(
            n
            for n, array in enumerate(level.arrays)
            if "load" in array.sides and small in array.page_lg2s()
        )
        return at, chosen, level.arrays[chosen]


def _point(source: Source, cpu: Preset, options: dict[str, Any]) -> Translation:
    return simulate(source, [cpu], phases=1, **options)[0]


def sweep(
    source: Source,
    cpus: Sequence[Preset],
    wanted: Sweep,
    *,
    pages: str = "thp",
    form: str = DEFAULT_FORMAT,
    image: Image | None = None,
    path: WalkPath = ONE_STAGE,
    workers: int | None = None,
    progress: Progress | None = None,
) -> tuple[Translation, ...]:
    """Run a trace through each CPU with each value of a sweep, on all cores (or `workers`).

    Returns the Translations CPU by CPU, values ascending. Raises as simulate and Sweep.apply do, before
    anything runs where the geometry is at fault.
    """
    options = {"pages": pages, "form": form, "image": image, "path": path}
    points = [point for cpu in cpus for point in wanted.points(cpu)]
    found: dict[int, Translation] = {}
    with ProcessPoolExecutor(workers) as pool:
        jobs = {pool.submit(_point, source, cpu, options): n for n, cpu in enumerate(points)}
        try:
            for job in as_completed(jobs):
                found[jobs[job]] = job.result()
                if progress:
                    progress("sweeping", len(found), len(points))
        finally:  # an error, or Ctrl-C: what has not begun does not begin
            pool.shutdown(cancel_futures=True)
    return tuple(found[n] for n in range(len(points)))


def cpus_named(names: Sequence[str]) -> tuple[Preset, ...]:
    """Return the presets of these names or paths of TOML files. FormatError lists the nearest names."""
    return tuple(preset(name) for name in names)


__all__ = [
    "Footprint",
    "Image",
    "Mapping",
    "Phase",
    "Source",
    "Sweep",
    "Translation",
    "WalkPath",
    "cpus_named",
    "footprint",
    "format_size",
    "map_footprint",
    "map_image",
    "simulate",
    "sweep",
]
