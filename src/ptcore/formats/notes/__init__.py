"""What the notes of a core file say of a CPU: where its registers lie, one file per architecture.

Each file has `MACHINES`, its architectures by the machine number of ELF and the bits of the file's class;
`UNAMES`, those numbers by what `uname -m` prints; `THREAD`, the layout of NT_PRSTATUS; and optionally
`STATE`, notes with the registers of the MMU, `KERNEL`, what VMCOREINFO comes to, `WINDOWS`, how a crash dump
of Windows speaks of it, and `CONTROLS`, what control registers alone come to. The files are found, not
registered.
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
    """One architecture's notes. `name` is one of `ptcore.formats.registers.architectures()`, or "".

    `kernel` takes the numbers of VMCOREINFO and returns the registers with which Linux reaches its own
    tables, none if the numbers do not say.
    """

    name: str = ""
    thread: Block | None = None
    states: tuple[State, ...] = field(default=())
    kernel: Callable[[Mapping[str, int]], Registers] | None = None


@dataclass(frozen=True, slots=True)
class Windows:
    """What a crash dump of Windows says: the architecture of its machine number, where the registers lie in
    its CONTEXT, and what its DirectoryTableBase comes to."""

    name: str
    context: Block | None = None
    settle: Callable[[int], Registers] | None = None


@dataclass(frozen=True, slots=True)
class _Rooms:
    elf: Mapping[tuple[int, int], Architecture]
    windows: Mapping[int, Windows]
    unames: Mapping[str, int]
    controls: tuple[Callable[[Registers], tuple[str, Registers]], ...]


UNKNOWN = Architecture()


@cache
def _rooms() -> _Rooms:
    elf: dict[tuple[int, int], Architecture] = {}
    windows: dict[int, Windows] = {}
    unames: dict[str, int] = {}
    controls: list[Callable[[Registers], tuple[str, Registers]]] = []
    for module in pkgutil.iter_modules(__path__):
        room = importlib.import_module(f"{__name__}.{module.name}")
        for key, name in room.MACHINES.items():
            thread, kernel = room.THREAD.get(name), getattr(room, "KERNEL", {}).get(name)
            elf[key] = Architecture(name, thread, getattr(room, "STATE", ()), kernel)
        windows |= getattr(room, "WINDOWS", {})
        unames |= room.UNAMES
        controls += getattr(room, "CONTROLS", ())
    return _Rooms(elf, windows, unames, tuple(controls))


def of_elf(machine: int, bits: int) -> Architecture:
    """Return what is known of e_machine in a file of class `bits` (32 or 64); UNKNOWN if nothing is."""
    return _rooms().elf.get((machine, bits), UNKNOWN)


def of_uname(machine: str, bits: int) -> Architecture:
    """Return what is known of `uname -m` on a system whose long has `bits` bits; UNKNOWN if nothing is."""
    return of_elf(_rooms().unames.get(machine, 0), bits)


def of_windows(machine: int) -> Windows:
    """Return what is known of the MachineImageType of a crash dump; one without a name if nothing is."""
    return _rooms().windows.get(machine, Windows(""))


def of_controls(registers: Registers) -> tuple[str, Registers, Registers]:
    """Return (architecture, registers that say how addresses are translated, the others) of control registers
    whose architecture is known by their names alone; ("", {}, all) if none knows them."""
    for settle in _rooms().controls:
        name, settled = settle(registers)
        if name:
            return name, settled, {k: v for k, v in registers.items() if k not in settled}
    return "", {}, registers


def kernel_registers(known: Architecture, details: Mapping[str, str]) -> Registers:
    """Return the registers with which Linux reaches its own tables, as far as VMCOREINFO says."""
    numbers = {}
    for name, text in details.items():
        # SYMBOL and KERNELOFFSET are hexadecimal without a prefix, NUMBER is decimal or has one.
        text = f"0x{text}" if name.startswith(("SYMBOL(", "KERNELOFFSET")) else text
        try:
            numbers[name] = int(text, 0)
        except ValueError:
            continue  # a text: OSRELEASE, BUILD-ID
    return known.kernel(numbers) if known.kernel else {}
