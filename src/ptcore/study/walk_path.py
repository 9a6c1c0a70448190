"""What walks go through beside what a preset says: a second stage, caches of lines, few walkers."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from ptcore.caches import Mmu, Tlb, TlbArray, TlbLevel
from ptcore.errors import AddressError, FormatError
from ptcore.table import PageTable
from ptcore.table.nested import Nested
from ptcore.units import parse_size

LINE_BYTES = 64
_LINES = re.compile(r"(\w+)/(\d+):(\d+)")


@dataclass(frozen=True)
class WalkPath:
    """`nested`: the format of a second stage under the tables, which maps all memory with pages of
    `host_pages` (None: the smallest); None for one stage. `lines`: data caches that walks read through,
    (bytes, ways, cycles) each; `memory_cycles`: what a read beyond them takes. `walkers`: how many walks
    run at once, 0 for no bound."""

    nested: str | None = None
    host_pages: str | None = None
    lines: tuple[tuple[int, int, int], ...] = ()
    memory_cycles: int = 0
    walkers: int = 0

    @classmethod
    def parse(cls, nested: str | None, lines: str | None, walkers: int) -> WalkPath:
        """Read FORMAT[:SIZE] (ept_4level:2M), and SIZE/WAYS:CYCLES,...,CYCLES (32K/8:4,1M/16:14,180).

        Raises FormatError for texts that are not those, and for walkers without anything that takes time.
        """
        form, _, size = (nested or "").partition(":")
        caches, memory_cycles = cls._caches(lines) if lines else ((), 0)
        if walkers and not lines:
            raise FormatError("walkers wait for what walks take: --walkers needs --lines")
        if walkers < 0:
            raise FormatError(f"there are no {walkers} walkers")
        return cls(form or None, size or None, caches, memory_cycles, walkers)

    @staticmethod
    def _caches(text: str) -> tuple[tuple[tuple[int, int, int], ...], int]:
        *parts, last = text.split(",")
        found = [_LINES.fullmatch(part) for part in parts]
        if not all(found) or not last.isdecimal():
            raise FormatError(
                f"lines {text!r} are not SIZE/WAYS:CYCLES of each cache and the cycles of memory: "
                "32K/8:4,1M/16:14,180"
            )
        try:
            caches = tuple((parse_size(f[1]), int(f[2]), int(f[3])) for f in found if f)
        except AddressError as error:
            raise FormatError(f"lines {text!r}: {error}") from None
        return caches, int(last)

    def space(self, table: PageTable, end: int) -> PageTable | Nested:
        """Return `table`, or it under a second stage that maps all of memory up to `end` to itself.

        Raises as PageTable and PageTable.map do for the second stage.
        """
        if self.nested is None:
            return table
        second = PageTable(self.nested, table.memory)
        smallest = second.format.page_sizes[0]
        size = smallest if self.host_pages is None else parse_size(self.host_pages)
        length = -(-max(end, table.memory.size) // size) * size
        second.map(0, 0, length, access=second.format.rights, page_size=size)
        return Nested(table, second)

    def options(self) -> dict[str, Any]:
        """Return what Mmu takes: the cache of lines, the cycles of memory, the walkers."""
        if not self.lines and not self.memory_cycles:
            return {}
        levels = tuple(
            TlbLevel(f"D{n}", (TlbArray(size // LINE_BYTES, ways, (LINE_BYTES,)),), cycles=cycles)
            for n, (size, ways, cycles) in enumerate(self.lines, 1)
        )
        cache = {"line_cache": Tlb(levels)} if levels else {}
        return {**cache, "memory_cycles": self.memory_cycles, "walkers": self.walkers}


ONE_STAGE = WalkPath()


@dataclass(frozen=True)
class WalkFigures:
    """What walks read of each stage, which cache of lines served it (memory last; empty without one), the
    cycles of a walk, what it waited for a free walker, and of an access what all that comes to at least
    (None where nothing says how long a read takes)."""

    first_stage: int
    second_stage: int
    served: tuple[int, ...]
    cycles_per_walk: float | None
    waited_per_walk: float | None
    cycles_per_access: float | None

    @classmethod
    def of(cls, mmu: Mmu, path: WalkPath) -> WalkFigures:
        """Read them out of an Mmu's counts."""
        c = mmu.counts
        timed = bool(path.lines or path.memory_cycles)
        walks, accesses = max(c.walks, 1), max(c.accesses, 1)
        return cls(
            c.references - c.second_references,
            c.second_references,
            c.served,
            c.walk_cycles / walks if timed else None,
            c.waited_cycles / walks if path.walkers else None,
            c.cycles / accesses if path.walkers else None,
        )


__all__ = ["ONE_STAGE", "WalkFigures", "WalkPath"]
