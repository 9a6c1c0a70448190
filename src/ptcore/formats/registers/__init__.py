"""What the registers of a CPU say of its tables: which format, which roots, which rights.

One file per architecture; each has `ARCHITECTURES`, the names it answers to, and `decode`. The files are
found, not registered. Combinations that no CPU accepts are refused by name.
"""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import dataclass
from difflib import get_close_matches

from ptcore.errors import FormatError
from ptcore.formats.schema import Format


@dataclass(frozen=True, slots=True)
class Part:
    """One table of an address space: what `PageTable` is made with."""

    format: Format
    root: int
    physical_bits: int | None = None
    encryption_mask: int = 0
    tag_bits: int = 0


@dataclass(frozen=True, slots=True)
class Plan:
    """An address space: its tables, none of whose addresses overlap, and a second stage if there is one.

    `asid` is the number that tags its translations (PCID, ASID), None where there is none; `vmid` that
    of the second stage. Without `parts` the first stage is off.
    """

    parts: tuple[Part, ...]
    stage2: Part | None = None
    asid: int | None = None
    vmid: int | None = None


def field(value: int, high: int, low: int) -> int:
    """Return bits high:low of a register."""
    return value >> low & ((1 << (high - low + 1)) - 1)


def refuse_if(condition: bool, rule: str) -> None:
    """Raise FormatError: no CPU accepts that."""
    if condition:
        raise FormatError(rule)


def _rooms() -> dict[str, str]:
    return {
        name: module.name
        for module in pkgutil.iter_modules(__path__)
        for name in importlib.import_module(f"{__name__}.{module.name}").ARCHITECTURES
    }


def architectures() -> tuple[str, ...]:
    """Return the names that `decode` knows."""
    return tuple(sorted(_rooms()))


def decode(architecture: str, registers: dict[str, int]) -> Plan:
    """Return what the registers say. Values are register contents; names are the vendor's, lower case.

    Raises FormatError for an unknown architecture (with the nearest ones), an unknown or missing
    register, and a combination that no CPU accepts.
    """
    rooms = _rooms()
    if architecture not in rooms:
        near = get_close_matches(architecture, rooms, n=3, cutoff=0.3) or sorted(rooms)
        raise FormatError(f"no registers of {architecture!r} are known; nearest: {', '.join(near)}")
    room = importlib.import_module(f"{__name__}.{rooms[architecture]}")
    try:
        plan: Plan = room.decode(architecture, **registers)
    except TypeError as error:
        raise FormatError(f"{architecture}: {error}") from None
    return plan
