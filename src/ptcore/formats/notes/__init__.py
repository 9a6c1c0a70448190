"""What the notes of a core file say of a CPU: where its registers lie, one file per architecture.

Each file has `MACHINES`, the machine numbers of its architectures (of ELF, with the bits of the file's
class, and of Windows), `THREAD`, the layout of NT_PRSTATUS, and optionally `STATE`, notes with the registers
of the MMU. The files are found, not registered.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Literal

Registers = dict[str, int]


@dataclass(frozen=True, slots=True)
class Block:
    """Registers that lie one after the other: from `offset` on, `size` bytes each, with these names."""

    offset: int
    size: int
    names: tuple[str, ...]

    @property
    def end(self) -> int:
        """The offset after the last register."""
        return self.offset + self.size * len(self.names)

    def read(self, text: bytes, byteorder: Literal["little", "big"]) -> Registers:
        """Return the registers; those that `text` is too short for are left out."""
        return {
            name: int.from_bytes(text[at : at + self.size], byteorder)
            for name, at in zip(self.names, range(self.offset, self.end, self.size), strict=True)
            if at + self.size <= len(text)
        }


@dataclass(frozen=True, slots=True)
class State:
    """A note with the registers of the MMU: its owner and type, its blocks, and what they come to.

    `settle` takes the architecture and all registers of the note, and returns those that say how
    addresses are translated (what `ptcore.formats.registers.decode` takes).
    """

    owner: str
    type: int
    blocks: tuple[Block, ...]
    settle: Callable[[str, Registers], Registers]


@dataclass(frozen=True, slots=True)
class Architecture:
    """One architecture's notes. `name` is one of `ptcore.formats.registers.architectures()`, or ""."""

    name: str = ""
    thread: Block | None = None
    states: tuple[State, ...] = field(default=())


UNKNOWN = Architecture()


@cache
def _rooms() -> tuple[
    Mapping[tuple[int, int], Architecture],
    Mapping[int, str],
    Mapping[str, Callable[[int], Registers]],
]:
    elf: dict[tuple[int, int], Architecture] = {}
    windows: dict[int, str] = {}
    roots: dict[str, Callable[[int], Registers]] = {}
    for module in pkgutil.iter_modules(__path__):
        room = importlib.import_module(f"{__name__}.{module.name}")
        for key, name in room.MACHINES.items():
            elf[key] = Architecture(name, room.THREAD.get(name), getattr(room, "STATE", ()))
        windows |= getattr(room, "WINDOWS_MACHINES", {})
        roots |= getattr(room, "WINDOWS_ROOTS", {})
    return elf, windows, roots


def of_elf(machine: int, bits: int) -> Architecture:
    """Return what is known of e_machine in a file of class `bits` (32 or 64); UNKNOWN if nothing is."""
    return _rooms()[0].get((machine, bits), UNKNOWN)


def of_windows(machine: int, root: int) -> tuple[str, Registers]:
    """Return (architecture, registers) of a crash dump: its MachineImageType and DirectoryTableBase.

    ("", {}) for a machine that is not known.
    """
    _, names, roots = _rooms()
    name = names.get(machine, "")
    return name, roots[name](root) if name in roots else {}
