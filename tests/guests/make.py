"""Boot real Linux kernels under QEMU's emulation and keep their page tables: `make guests`.

    python tests/guests/make.py [--fetch] [NAME ...]

Downloads Debian's kernels and a few programs (some 300 MB, into build/guests), boots each guest, stops
it when two processes have mapped memory in known ways, asks QEMU and keeps what it says together with
the frames of the tables: tests/golden/guests/NAME.npz.xz. `--fetch` downloads, and no more.
"""

from __future__ import annotations

import random
import re
import struct
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests")]

import numpy as np  # noqa: E402

from guests import initramfs, naive, snapshots  # noqa: E402
from guests.debian import Packages  # noqa: E402
from guests.emulator import Machine  # noqa: E402
from ptcore.live.gdbstub import GdbStub  # noqa: E402

MIB = 1 << 20
CPUS = 3
NONE = (1 << 64) - 1


@dataclass(frozen=True)
class Recipe:
    """How a guest is made."""

    system: str
    cpu: str
    kernel: str  # Debian's metapackage
    debian: str  # Debian's name of the architecture
    arguments: str  # the kernel's
    ram: tuple[int, int]  # its address and size

    @property
    def machine(self) -> list[str]:
        return [] if self.system == "x86_64" else ["-M", "virt"]


X86 = "console=ttyS0 quiet"
ARM = "console=ttyAMA0 quiet"
RISCV_CPU = "rv64,svnapot=on,svinval=on,svpbmt=on"
RECIPES = {
    # 1 GiB pages need room for one.
    "x86_64-4level": Recipe(
        "x86_64",
        "max,la57=off",
        "linux-image-cloud-amd64",
        "amd64",
        f"{X86} hugepagesz=1G hugepages=1",
        (0, 2560 * MIB),
    ),
    "x86_64-5level-pti": Recipe(
        "x86_64", "max", "linux-image-cloud-amd64", "amd64", f"{X86} pti=on", (0, 512 * MIB)
    ),
    "aarch64-4k-lpa2": Recipe(
        "aarch64",
        "max,pauth-impdef=on",
        "linux-image-cloud-arm64",
        "arm64",
        ARM,
        (1 << 30, 512 * MIB),
    ),
    "aarch64-4k-48bit": Recipe(
        "aarch64",
        "max,pauth-impdef=on,lpa2=off",
        "linux-image-cloud-arm64",
        "arm64",
        ARM,
        (1 << 30, 512 * MIB),
    ),
    "aarch64-16k-lpa2": Recipe(
        "aarch64",
        "max,pauth-impdef=on",
        "linux-image-arm64-16k",
        "arm64",
        ARM,
        (1 << 30, 768 * MIB),
    ),
    "riscv64-sv57": Recipe(
        "riscv64", RISCV_CPU, "linux-image-riscv64", "riscv64", X86, (1 << 31, 512 * MIB)
    ),
    "riscv64-sv48": Recipe(
        "riscv64",
        RISCV_CPU,
        "linux-image-riscv64",
        "riscv64",
        f"{X86} no5lvl",
        (1 << 31, 512 * MIB),
    ),
    "riscv64-sv39": Recipe(
        "riscv64",
        RISCV_CPU,
        "linux-image-riscv64",
        "riscv64",
        f"{X86} no4lvl",
        (1 << 31, 512 * MIB),
    ),
}


def command(recipe: Recipe, packages: Packages, folder: Path) -> list[str]:
    """Return QEMU's command line, its kernel and initramfs unpacked."""
    kernel = packages.kernel(recipe.kernel, recipe.debian)
    (image,) = packages.unpack(kernel, recipe.debian).glob("boot/vmlinu[xz]-*")
    first = folder / "initramfs"
    first.write_bytes(initramfs.make(packages, recipe.debian))
    return [
        *(f"qemu-system-{recipe.system}", *recipe.machine, "-cpu", recipe.cpu, "-smp", str(CPUS)),
        *("-kernel", str(image), "-initrd", str(first), "-append", recipe.arguments),
    ]


def fetch(name: str, packages: Packages) -> None:
    """Download what a guest is booted from."""
    with tempfile.TemporaryDirectory() as folder:
        command(RECIPES[name], packages, Path(folder))
    print(f"{name}: {', '.join(f'{n} {v}' for n, v in packages.versions.items())}")


def registers_of(system: str, found: dict[str, int]) -> tuple[dict[str, int], bool]:
    """Return what AddressSpace.from_registers takes, and whether the CPU was in user mode."""
    if system == "x86_64":
        chosen = {name: found[name] for name in ("cr0", "cr3", "cr4", "efer")}
        return {**chosen, "rflags": found["eflags"]}, found["cs"] & 3 == 3
    if system == "riscv64":
        return {name: found[name] for name in ("satp", "sstatus")}, found["priv"] == 0
    wanted = ("ttbr0_el1", "ttbr1_el1", "tcr_el1", "mair_el1")
    chosen = {n: found[n] for n in (*wanted, "id_aa64mmfr0_el1", "id_aa64mmfr1_el1")}
    # QEMU names what both execution states have as the 32-bit one does.
    chosen["sctlr_el1"] = found.get("sctlr_el1", found.get("sctlr", 0))
    chosen["pan"] = found["cpsr"] >> 22 & 1
    return chosen, found["cpsr"] >> 2 & 3 == 0


def explore(system: str, registers: dict[str, int], read: naive.Read, arguments: str) -> naive.Tree:
    """Return all tables of a CPU; with page-table isolation, also those of the other half of the pair."""
    tree = naive.Tree()
    if system == "x86_64":
        shape = naive.x86(5 if registers["cr4"] >> 12 & 1 else 4)
        root = registers["cr3"] & 0x000F_FFFF_FFFF_F000
        shape.explore(read, root, tree)
        if "pti=on" in arguments:  # Linux arch/x86/include/asm/pgtable.h, PTI_PGTABLE_SWITCH_BIT
            other = naive.Tree()
            shape.explore(read, root ^ 0x1000, other)
            tree.tables |= other.tables
    elif system == "riscv64":
        satp = registers["satp"]
        levels = {8: 3, 9: 4, 10: 5}[satp >> 60]
        naive.riscv(levels).explore(read, (satp & (1 << 44) - 1) << 12, tree)
    else:
        for upper in (False, True):
            ttbr = registers[f"ttbr{int(upper)}_el1"]
            root = ttbr & 0x0000_FFFF_FFFF_FFC0
            if registers["tcr_el1"] >> 59 & 1:
                root |= (ttbr >> 2 & 15) << 48
            naive.arm(registers["tcr_el1"], upper).explore(read, root & ~63, tree)
    return tree


def questions(tree: naive.Tree, seed: str) -> list[int]:
    """Choose addresses: the edges of what is mapped, bytes inside, holes, and what no table translates."""
    dice = random.Random(seed)
    edges = [
        (at + step) & NONE
        for run in naive.runs(tree.leaves)
        for at, step in ((run[0], -1), (run[0], 0), (run[1], -1), (run[1], 0))
    ]
    low, high = (
        [va + dice.randrange(size) for va, size, _, _ in tree.leaves if va >> 63 == half]
        for half in (0, 1)
    )
    near = [
        (at + dice.choice((-1, 1)) * dice.randrange(1 << dice.randrange(12, 48))) & NONE
        for at in edges
    ]
    wild = [dice.getrandbits(64) for _ in range(200)]
    wild += [dice.getrandbits(56) | dice.choice((0, 0xFF << 56)) for _ in range(200)]
    chosen = tree.repeats[:200] + wild
    for some, most in ((edges, 800), (low, 900), (high, 900), (near, 800)):
        chosen += dice.sample(some, min(len(some), most))
    return sorted(set(chosen))


def translated(machine: Machine, vas: list[int], cpu: int) -> list[int]:
    """Return QEMU's answers, all-ones where it says that an address is unmapped."""
    answers = []
    for va in vas:
        text = machine.ask(f"gva2gpa {va:#x}", cpu).strip()
        assert text == "Unmapped" or text.startswith("gpa: "), text
        answers.append(NONE if text == "Unmapped" else int(text[5:], 16))
    return answers


def notes_of(machine: Machine, folder: Path) -> bytes:
    """Return the notes of the ELF core that QEMU writes of the machine."""
    path = folder / "dump"
    machine.execute(
        "dump-guest-memory",
        paging=False,
        protocol=f"file:{path}",
        begin=machine.start,
        length=snapshots.PAGE,
    )
    text = path.read_bytes()
    path.unlink()
    table, step, count = (*struct.unpack_from("<Q", text, 32), *struct.unpack_from("<HH", text, 54))
    programs = [struct.unpack_from("<IIQQQQ", text, table + n * step) for n in range(count)]
    ((_, _, offset, _, _, size),) = (program for program in programs if program[0] == 4)
    return text[offset : offset + size]


def marked_frames(console: str, page: int) -> list[int]:
    """Return frames of some pages that the processes wrote to, the first page of each area."""

    firsts = {
        (process, int(first, 16))
        for process, first in (
            (a[1], a[3])
            for a in re.finditer(
                r"^AREA (\d+) (small|shared|thp|hugetlb\S*|high) (\w+)", console, re.M
            )
        )
    }
    frames = []
    for row in re.finditer(r"^PAGES (\d+) (\w+) (\d+) (\w+) (\d)", console, re.M):
        first, count, entry = int(row[2], 16), int(row[3]), int(row[4], 16)
        for process, va in firsts:
            if process == row[1] and first <= va < first + count * page and entry >> 63:
                number = (entry & (1 << 55) - 1) + (va - first) // page * int(row[5])
                frames.append(number * page)
    return frames


def stop(recipe: Recipe, machine: Machine) -> list[tuple[dict[str, int], bool]]:
    """Stop the machine while both processes run in user mode, not in an interrupt; return the CPUs."""
    for _ in range(100):
        machine.execute("stop")
        with GdbStub(machine.gdb) as stub:
            threads = stub.threads()
            cpus = [registers_of(recipe.system, stub.registers(name)) for name in threads]
        if all(user for _, user in cpus[:2]):
            return cpus
        machine.execute("cont")
        time.sleep(0.1)
    raise TimeoutError("the processes never run in user mode")


def take(
    name: str, recipe: Recipe, machine: Machine, say: Callable[[str], None]
) -> snapshots.Guest:
    """Stop a booted guest and return its snapshot."""
    console = machine.wait_for("READY")
    cpus = stop(recipe, machine)
    say(f"stopped, in user mode: {[user for _, user in cpus]}")
    memory = machine.bytes()

    def read(pa: int, size: int) -> bytes:
        assert machine.start <= pa <= machine.start + machine.size - size, hex(pa)
        return memory[pa - machine.start : pa - machine.start + size]

    arrays: dict[str, Any] = {}
    kept: set[int] = set()
    for cpu, (registers, _) in enumerate(cpus):
        tree = explore(recipe.system, registers, read, recipe.arguments)
        for table, size in tree.tables.items():
            kept |= set(range(table & ~4095, table + size, 4096))
        vas = questions(tree, f"{name} {cpu}")
        arrays[f"gva_{cpu}"] = np.array(vas, dtype=np.uint64)
        arrays[f"gpa_{cpu}"] = np.array(translated(machine, vas, cpu), dtype=np.uint64)
        # QEMU 7.2 takes minutes to answer nothing to "info mem" on x86 with five levels.
        five = recipe.system == "x86_64" and registers["cr4"] >> 12 & 1
        for line in ("info tlb",) if five else ("info tlb", "info mem"):
            text = machine.ask(line, cpu).replace("\r", "")
            if not text.startswith("unknown command"):
                arrays[f"{line.replace(' ', '_')}_{cpu}"] = np.frombuffer(
                    text.encode(), dtype=np.uint8
                )
        say(
            f"CPU {cpu}: {len(tree.tables)} tables, {len(tree.leaves)} leaves, {len(vas)} addresses"
        )
    ready = re.search(r"^READY (.*) page (\d+)", console, re.M)
    assert ready
    page = int(ready[2])
    kept |= set(marked_frames(console, page))
    frames = sorted(kept)
    arrays["frame_addresses"] = np.array(frames, dtype=np.uint64)
    arrays["frames"] = np.frombuffer(
        b"".join(read(pa, 4096) for pa in frames), dtype=np.uint8
    ).reshape(-1, 4096)
    lines = [
        line
        for line in console.replace("\r", "").splitlines()
        if re.match(r"(AREA|HUGE|MAPS|PAGES|READY|REFUSED) ", line)
    ]
    arrays["console"] = np.frombuffer("\n".join(lines).encode(), dtype=np.uint8)
    arrays["notes"] = np.frombuffer(notes_of(machine, machine.folder), dtype=np.uint8)
    about = {
        "architecture": recipe.system,
        "qemu": machine.version,
        "machine": recipe.machine,
        "cpu": recipe.cpu,
        "arguments": recipe.arguments,
        "ram": [machine.start, machine.size],
        "page_bytes": page,
        "processes": [int(word) for word in ready[1].split()],
        "registers": [registers for registers, _ in cpus],
        "user": [user for _, user in cpus],
    }
    return snapshots.Guest(name, about, arrays)


def make(name: str, packages: Packages) -> None:
    """Make one snapshot."""
    recipe = RECIPES[name]
    began = time.monotonic()

    def say(text: str) -> None:
        print(f"{name}: {time.monotonic() - began:5.1f} s: {text}", flush=True)

    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        packages.versions.clear()
        line = command(recipe, packages, folder)
        with Machine(line, folder, recipe.ram) as machine:
            guest = take(name, recipe, machine, say)
    guest.about["packages"] = dict(packages.versions)
    path = snapshots.save(guest)
    say(f"{path.name}: {path.stat().st_size / 1024:.0f} KiB, {len(guest.arrays['frames'])} frames")


if __name__ == "__main__":
    packages = Packages(ROOT / "build/guests")
    names = [word for word in sys.argv[1:] if word != "--fetch"] or list(RECIPES)
    for name in names:
        if "--fetch" in sys.argv:
            fetch(name, packages)
        else:
            make(name, packages)
