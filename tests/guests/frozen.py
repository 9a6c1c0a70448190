"""A QEMU that never runs: its memory is that of a snapshot, its CPUs have the guest's registers."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from guests.snapshots import Guest
from ptcore.live.gdbstub import GdbStub

# In this order no write is refused: long mode before paging.
# QEMU lets no debugger write system registers of Arm.
WRITTEN = {"x86_64": ("efer", "cr4", "cr3", "cr0"), "riscv64": ("satp",), "aarch64": ()}


ROOM = 64 << 20


def missing(architecture: str) -> str | None:
    """Return why there can be no such machine here, None if there can."""
    name = f"qemu-system-{architecture}"
    return None if shutil.which(name) else f"{name} is not installed"


@dataclass(frozen=True)
class Frozen:
    """Where it listens, and its process."""

    qmp: str
    gdb: str
    memory_end: int
    process: subprocess.Popen[bytes]


@contextmanager
def frozen(guest: Guest, folder: Path) -> Iterator[Frozen]:
    """Start one. Its memory is a sparse file, mapped privately: nothing is copied."""
    start, size = guest.about["ram"]
    # A board puts its device tree at the end of memory when it is reset: not over the guest's.
    size += ROOM
    image = folder / "memory"
    with image.open("wb") as stream:
        for pa, part in guest.parts():
            stream.seek(pa - start)
            stream.write(part)
        stream.truncate(size)
    backend = f"memory-backend-file,id=ram,size={size},mem-path={image},share=off"
    # Firmware would be loaded over the tables as well; a PC's lies elsewhere.
    firmware = ["-bios", "none"] if guest.architecture == "riscv64" else []
    command = [
        *(f"qemu-system-{guest.architecture}", *guest.about["machine"]),
        *("-cpu", guest.about["cpu"], "-smp", str(len(guest.registers)), "-accel", "tcg", "-S"),
        *("-object", backend, "-machine", "memory-backend=ram", "-m", f"{size}B"),
        *("-display", "none", "-nodefaults", *firmware),
        *("-qmp", f"unix:{folder / 'qmp'},server=on,wait=off"),
        *("-gdb", f"unix:{folder / 'gdb'},server=on,wait=off"),
    ]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    try:
        wait_for(folder / "gdb", process)
        write_registers(guest, folder / "gdb")
        end = start + size
        yield Frozen(f"unix:{folder / 'qmp'}", f"unix:{folder / 'gdb'}", end, process)
    finally:
        process.kill()
        process.wait()


def wait_for(path: Path, process: subprocess.Popen[bytes]) -> None:
    """Wait until QEMU listens at `path`."""
    for _ in range(300):
        if path.exists() or process.poll() is not None:
            break
        time.sleep(0.05)
    assert process.poll() is None, "QEMU ended"
    assert path.exists(), "QEMU does not listen"


def write_registers(guest: Guest, place: os.PathLike[str]) -> None:
    """Give each CPU the registers that its MMU had."""
    with GdbStub(place) as stub:
        for thread, registers in zip(stub.threads(), guest.registers, strict=True):
            stub.registers(thread)
            numbers = {name: number for number, name in stub._described}
            for name in WRITTEN[guest.architecture]:
                text = registers[name].to_bytes(8, "little").hex()
                answer = stub.ask(b"P%x=%s" % (numbers[name], text.encode()))
                assert answer == b"OK", (name, answer)
