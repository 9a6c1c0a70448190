"""Snapshots of real guests: the frames that hold their page tables, and what QEMU and Linux said of them.

    from guests import snapshots
    guest = snapshots.load("x86_64-4level")
    space = guest.space(0)                     # ptcore.AddressSpace of CPU 0
    snapshots.write_elf(guest, "guest.elf")    # for ptcore.open_image; also write_raw

or `python tests/guests/snapshots.py NAME FILE.elf|FILE.raw`. See tests/golden/guests/README.md.
"""

from __future__ import annotations

import io
import itertools
import json
import lzma
import os
import re
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import ptcore

FOLDER = Path(__file__).parents[1] / "golden/guests"
PAGE = 4096
# ELF, EM_*: System V ABI.
MACHINES = {"x86_64": 62, "aarch64": 183, "riscv64": 243}

Array = npt.NDArray[Any]


def names() -> list[str]:
    """Return the names of the snapshots."""
    return sorted(path.name.removesuffix(".npz.xz") for path in FOLDER.glob("*.npz.xz"))


@dataclass(frozen=True)
class Area:
    """Memory that a process of the guest mapped in a known way."""

    process: int
    kind: str
    first: int
    size: int


def areas_in(lines: list[str]) -> list[Area]:
    """Return the areas of memory that a guest printed."""
    found = [re.fullmatch(r"AREA (\d+) (\S+) (\w+) (\w+)\s*", line) for line in lines]
    return [Area(int(a[1]), a[2], int(a[3], 16), int(a[4], 16)) for a in found if a]


@dataclass(frozen=True, repr=False)
class Guest:
    """One snapshot. `about` says what made it; `arrays` holds what was read and what was answered."""

    name: str
    about: dict[str, Any]
    arrays: dict[str, Array]

    def __repr__(self) -> str:
        return f"Guest({self.name})"

    @property
    def architecture(self) -> str:
        """As AddressSpace.from_registers takes it."""
        return str(self.about["architecture"])

    @property
    def page_bytes(self) -> int:
        """The guest's page."""
        return int(self.about["page_bytes"])

    @property
    def registers(self) -> list[dict[str, int]]:
        """Of each CPU, as AddressSpace.from_registers takes them."""
        return [dict(cpu) for cpu in self.about["registers"]]

    @property
    def user(self) -> list[bool]:
        """Whether each CPU was in user mode."""
        return [bool(cpu) for cpu in self.about["user"]]

    @property
    def processes(self) -> list[int]:
        """The processes of the guest; process n ran on CPU n."""
        return [int(process) for process in self.about["processes"]]

    def parts(self) -> Iterator[tuple[int, bytearray]]:
        """Yield the kept frames as runs: (physical address, bytes)."""
        frames, starts = self.arrays["frames"], self.arrays["frame_addresses"]
        for _, run in itertools.groupby(enumerate(starts.tolist()), lambda x: x[1] - x[0] * PAGE):
            rows = list(run)
            yield rows[0][1], bytearray(frames[rows[0][0] : rows[-1][0] + 1].tobytes())

    @cached_property
    def memory(self) -> ptcore.PhysicalMemory:
        """The kept frames; nothing else exists, a walk that gets there ends with BUS."""
        return ptcore.PhysicalMemory.from_buffers(self.parts())

    def space(self, cpu: int) -> ptcore.AddressSpace:
        """Return the address space of a CPU."""
        registers = self.registers[cpu]
        return ptcore.AddressSpace.from_registers(self.architecture, self.memory, **registers)

    def said(self, command: str, cpu: int) -> str:
        """Return what QEMU's monitor answered to "info tlb", "info mem" on a CPU."""
        return self.arrays[f"{command.replace(' ', '_')}_{cpu}"].tobytes().decode()

    def console(self) -> list[str]:
        """Return the lines that the guest printed."""
        return self.arrays["console"].tobytes().decode().splitlines()

    def areas(self) -> list[Area]:
        """Return the memory that was mapped in known ways."""
        return areas_in(self.console())

    def pagemap(self, process: int) -> Array:
        """Return what the kernel said of a process's pages: rows of (va, entry), holes left out."""
        rows = []
        for line in self.console():
            word, *fields = line.split()
            if word == "PAGES" and int(fields[0]) == process:
                first, count, entry, step = (int(f, 16) for f in (fields[1], "0", *fields[3:]))
                number = np.arange(int(fields[2]), dtype=np.uint64)
                assert count == 0
                vas = np.uint64(first) + number * np.uint64(self.page_bytes)
                rows.append(np.stack([vas, np.uint64(entry) + number * np.uint64(step)], axis=1))
        return np.concatenate(rows)


def load(name: str) -> Guest:
    """Return a snapshot by name."""
    packed = lzma.decompress((FOLDER / f"{name}.npz.xz").read_bytes())
    with np.load(io.BytesIO(packed)) as arrays:
        found = dict(arrays)
    about = json.loads(found.pop("about").tobytes())
    return Guest(name, about, found)


def save(guest: Guest) -> Path:
    """Write a snapshot, compressed; return its file."""
    about = np.frombuffer(json.dumps(guest.about, indent=1).encode(), dtype=np.uint8)
    stream = io.BytesIO()
    np.savez(stream, about=about, **guest.arrays)
    FOLDER.mkdir(parents=True, exist_ok=True)
    path = FOLDER / f"{guest.name}.npz.xz"
    path.write_bytes(lzma.compress(stream.getvalue(), preset=9 | lzma.PRESET_EXTREME))
    return path


def write_raw(guest: Guest, path: str | os.PathLike[str]) -> None:
    """Write a raw image: byte n is physical address n; what was not kept is a hole of the file."""
    with open(path, "wb") as stream:
        for start, part in guest.parts():
            stream.seek(start)
            stream.write(part)


def write_elf(guest: Guest, path: str | os.PathLike[str]) -> None:
    """Write an ELF core of the kept frames, with the notes that QEMU's dump-guest-memory wrote."""
    parts = list(guest.parts())
    notes = guest.arrays["notes"].tobytes()
    head, size = 64, 56
    offset = head + size * (len(parts) + 1)
    identification = b"\x7fELF" + bytes([2, 1, 1]) + bytes(9)
    machine = MACHINES[guest.architecture]
    count = len(parts) + 1
    fields = (4, machine, 1, 0, head, 0, 0, head, size, count, 0, 0, 0)
    programs = [struct.pack("<IIQQQQQQ", 4, 0, offset, 0, 0, len(notes), len(notes), 0)]
    at = -(-(offset + len(notes)) // PAGE) * PAGE
    where = []
    for start, part in parts:
        programs.append(struct.pack("<IIQQQQQQ", 1, 6, at, 0, start, len(part), len(part), PAGE))
        where.append(at)
        at += len(part)
    with open(path, "wb") as stream:
        stream.write(identification + struct.pack("<HHIQQQIHHHHHH", *fields))
        stream.write(b"".join(programs) + notes)
        for at, (_, part) in zip(where, parts, strict=True):
            stream.seek(at)
            stream.write(part)


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in names():
        sys.exit(f"usage: {sys.argv[0]} NAME FILE.elf|FILE.raw, NAME of {', '.join(names())}")
    (write_raw if sys.argv[2].endswith(".raw") else write_elf)(load(sys.argv[1]), sys.argv[2])
