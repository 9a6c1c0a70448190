"""What debuggers and monitors call the registers of the MMU, one file per architecture.

Each file has `DEBUGGED`. The files are found, not registered. Names are compared in lower case.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache

Registers = dict[str, int]


@dataclass(frozen=True, slots=True)
class Debugged:
    """One architecture as QEMU and gdb show it.

    `name`: one of `ptcore.formats.registers.architectures()`. `targets`: what QEMU's `query-target` says;
    `descriptions`: the architecture in gdb's target description. `printed`: how the monitor's `info
    registers` prints a register, with the groups "name" and "value" (hexadecimal). `settle` takes all
    registers of a CPU under the names that they came with, and returns those that say how addresses
    are translated, as `ptcore.formats.registers.decode` takes them.
    """

    name: str
    targets: frozenset[str]
    descriptions: frozenset[str]
    printed: str
    settle: Callable[[Registers], Registers]

    def read(self, text: str) -> Registers:
        """Return the registers in the text of `info registers`; the first of a name counts."""
        found: Registers = {}
        for match in re.finditer(self.printed, text, re.MULTILINE):
            found.setdefault(match["name"].lower(), int(match["value"], 16))
        return found


def renamed(registers: Registers, names: Mapping[str, str]) -> Registers:
    """Return the registers that `names` has, under the names that it gives them."""
    return {new: registers[old] for old, new in names.items() if old in registers}


@cache
def _rooms() -> tuple[Debugged, ...]:
    modules = pkgutil.iter_modules(__path__)
    return tuple(importlib.import_module(f"{__name__}.{m.name}").DEBUGGED for m in modules)


def of_target(target: str) -> Debugged | None:
    """Return the architecture of QEMU's name for a target, None for one that is not known."""
    return next((room for room in _rooms() if target in room.targets), None)


def of_description(architecture: str) -> Debugged | None:
    """Return the architecture of gdb's name for it, None for one that is not known."""
    return next((room for room in _rooms() if architecture in room.descriptions), None)
