"""Where strategies put their maps: a kernel's own layout for the machine's format, else shares of its half.

The layouts are data, with their sources: `layouts.toml`. Where no kernel's is known, ours: of the upper half
of the addresses (of all of them, where there is one span) the first half is the direct map, the last
eighth has the windows, and what lies between is for areas.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from ptcore.errors import OutOfRange
from ptcore.machine import Machine
from ptcore.units import Span, format_size

WINDOWS = 4
OWN = "ours: shares of the upper half"


@dataclass(frozen=True, slots=True)
class Layout:
    """Ranges of virtual addresses: all memory in a row, areas, and windows. `source`: whose layout it is."""

    direct_map: Span
    vmalloc: Span
    windows: Span
    source: str

    @property
    def second_map(self) -> Span:
        """The upper half of the direct map's range: for a second one, of device memory."""
        size = self.direct_map.size // 2
        return Span.of(self.direct_map.start + size, size)

    def window(self, number: int) -> Span:
        """Return one of WINDOWS equal parts of the windows' range."""
        size = self.windows.size // WINDOWS
        return Span.of(self.windows.start + number * size, size)


CACHE_WINDOW, EPHEMERAL_WINDOW, SLOTS_WINDOW = range(3)


@cache
def _declared() -> Mapping[str, Mapping[str, Any]]:
    return tomllib.loads((files(__package__) / "layouts.toml").read_text(encoding="utf-8"))


def block_bytes(machine: Machine) -> int:
    """Return what one table of the lowest level maps, in bytes: Linux calls it PMD_SIZE."""
    return 1 << machine.table.format.levels[1].shift


def layout_of(machine: Machine) -> Layout:
    """Return the layout for the machine's format.

    Raises OutOfRange where the direct map has no room for the machine's memory.
    """
    half = machine.table.legal_spans()[-1]
    known = _declared().get(machine.table.format.name)
    if known is None or known["half"] + half.size - 1 < known["windows"][-1]:
        found = _shares(half, block_bytes(machine))
    else:
        by = half.start - known["half"]
        maps, areas, holes = (
            Span(known[part][0] + by, known[part][1] + by)
            for part in ("direct_map", "vmalloc", "windows")
        )
        found = Layout(maps, areas, holes, known["source"])
    if found.direct_map.size < machine.data_bytes:
        raise OutOfRange(
            f"the direct map of {machine.table.format.name} has room for "
            f"{format_size(found.direct_map.size)}, the machine has {format_size(machine.data_bytes)}"
        )
    return found


def _shares(half: Span, unit: int) -> Layout:
    def span(first: int, last: int) -> Span:
        start, end = (half.size * eighths // 8 // unit * unit for eighths in (first, last))
        return Span.of(half.start + start, end - start)

    return Layout(span(0, 4), span(4, 7), span(7, 8), OWN)
