"""What the registers of a CPU say of its tables: which format, which roots, which rights.

One file per architecture; each has `ARCHITECTURES`, the names it answers to, and `decode`. The files are
found, not registered. Combinations that no CPU accepts are refused by name.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from types import ModuleType

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


@dataclass(frozen=True, slots=True)
class Register:
    """What `decode` can be told: the name, what it says, another name for it, whether few people need it.

    `root`: whether it says where tables begin; `second`: those of a second stage; `instead`: the register
    that is not in force where this one is.
    """

    name: str
    meaning: str
    also: str = ""
    rare: bool = False
    root: bool = False
    second: bool = False
    instead: str = ""


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


def _room(architecture: str) -> ModuleType:
    rooms = _rooms()
    if architecture not in rooms:
        near = get_close_matches(architecture, rooms, n=3, cutoff=0.3) or sorted(rooms)
        raise FormatError(f"no registers of {architecture!r} are known; nearest: {', '.join(near)}")
    return importlib.import_module(f"{__name__}.{rooms[architecture]}")


def architectures() -> tuple[str, ...]:
    """Return the names that `decode` knows."""
    return tuple(sorted(_rooms()))


def known(architecture: str) -> tuple[Register, ...]:
    """Return what `decode` can be told of an architecture. FormatError for an unknown one."""
    registers: tuple[Register, ...] = _room(architecture).REGISTERS
    return registers


def having(names: Iterable[str]) -> tuple[str, ...]:
    """Return the architectures that have all these registers; of those decoded alike, the first."""
    wanted = set(names)
    found = []
    for module in dict.fromkeys(_rooms().values()):
        room = importlib.import_module(f"{__name__}.{module}")
        if wanted <= {register.name for register in room.REGISTERS}:
            found.append(room.ARCHITECTURES[0])
    return tuple(found)


def usual(architecture: str) -> dict[str, int]:
    """Return contents with which most kernels run, of registers that say how and not where.

    For what someone reading an image did not say; empty where there is no such thing.
    """
    found: dict[str, int] = _room(architecture).USUAL.get(architecture, {})
    return dict(found)


def decode(architecture: str, registers: Mapping[str, int | str]) -> Plan:
    """Return what the registers say. Values are register contents; names are the vendor's, lower case.

    A key `presence` says whose idea of a mapped page is meant (see the formats that have it).

    Raises FormatError for an unknown architecture (with the nearest ones), an unknown or missing
    register, and a combination that no CPU accepts.
    """
    room = _room(architecture)
    try:
        plan: Plan = room.decode(architecture, **registers)
    except TypeError as error:
        raise FormatError(f"{architecture}: {error}") from None
    return plan
