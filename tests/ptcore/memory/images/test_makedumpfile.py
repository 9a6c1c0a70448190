"""What makedumpfile makes of a real Linux's memory. `make test-live` fetches the kernel."""

from __future__ import annotations

import mmap
import re
import shutil
import struct
import subprocess
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

import ptcore
from guests.debian import Packages
from guests.emulator import Machine
from guests.frozen import missing
from guests.make import MIB, RECIPES, ROOT, command
from ptcore import AddressSpace

PAGE = 4096
RECIPE = replace(RECIPES["x86_64-4level"], arguments="console=ttyS0 quiet", ram=(0, 384 * MIB))
DIRECT_MAP = (
    0xFFFF_8880_0000_0000  # Documentation/arch/x86/x86_64/mm.rst; only its presence matters
)


@pytest.fixture(scope="module")
def vmcore(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ELF core as the kernel's own /proc/vmcore is laid out: headers, notes with VMCOREINFO, memory."""
    packages = Packages(ROOT / "build/guests")
    why = missing("x86_64")
    if not (packages.folder / "unpacked").exists():
        why = "no kernel is fetched: make test-live does"
    if shutil.which("makedumpfile") is None:
        why = "makedumpfile is not installed"
    if why:
        pytest.skip(why)
    folder = tmp_path_factory.mktemp("vmcore")
    with Machine(command(RECIPE, packages, folder), folder, RECIPE.ram) as machine:
        machine.wait_for("READY")
        machine.execute("stop")
        machine.execute("dump-guest-memory", paging=False, protocol=f"file:{folder / 'qemu'}")
    return laid_out(folder / "qemu", folder / "vmcore")


def laid_out(qemu: Path, path: Path) -> Path:
    with qemu.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as whole:
        at, count = struct.unpack_from("<Q", whole, 32)[0], struct.unpack_from("<H", whole, 56)[0]
        headers = [struct.unpack_from("<IIQQQQQQ", whole, at + 56 * n) for n in range(count)]
        notes = next(whole[h[2] : h[2] + h[5]] for h in headers if h[0] == 4)
        begins = re.search(rb"OSRELEASE=[^\n]+\nBUILD-ID", whole)
        assert begins
        text = whole[begins.start() : whole.find(b"\0", begins.start())]
        notes += struct.pack("<III", 11, len(text), 0) + b"VMCOREINFO\0\0" + text
        notes += bytes(-len(text) % 4)
        pieces = [(4, 0, 0, notes)]
        pieces += [
            (1, DIRECT_MAP + h[4], h[4], whole[h[2] : h[2] + h[5]])
            for h in headers
            if h[0] == 1 and h[4] < 1 << 31
        ]
        head = bytearray(whole[:64])
    struct.pack_into("<QQ", head, 32, 64, 0)
    struct.pack_into("<HHHHHH", head, 52, 64, 56, len(pieces), 0, 0, 0)
    at = PAGE
    for kind, va, pa, part in pieces:
        head += struct.pack("<IIQQQQQQ", kind, 0, at, va, pa, len(part), len(part), 0)
        at += -(-len(part) // PAGE) * PAGE
    with path.open("wb") as out:
        out.write(head.ljust(PAGE, b"\0"))
        for _, _, _, part in pieces:
            out.write(part + bytes(-len(part) % PAGE))
    return path


def made(vmcore: Path, options: str) -> Path:
    path = vmcore.parent / f"dump{options.replace(' ', '')}"
    if "-F" in options:
        with path.open("wb") as stream:
            subprocess.run(
                ["makedumpfile", *options.split(), str(vmcore)],
                check=True,
                stdout=stream,
                stderr=subprocess.DEVNULL,
            )
    else:
        line = ["makedumpfile", *options.split(), str(vmcore), str(path)]
        subprocess.run(line, check=True, stdout=subprocess.DEVNULL)
    return path


@pytest.mark.parametrize(
    ("options", "form"),
    [
        ("-c -d 0", "kdump"),
        ("-c -d 31", "kdump"),
        ("-l -d 31", "kdump"),
        ("-F -c -d 31", "kdump"),
        ("-E -d 31", "elf"),
    ],
)
def test_every_page_is_the_kernels_or_is_left_out(vmcore: Path, options: str, form: str) -> None:
    whole = ptcore.open_image(vmcore)
    image = ptcore.open_image(made(vmcore, options))
    assert image.form == form
    assert image.cpus == whole.cpus
    assert len(image.cpus) >= 1
    assert image.details["OSRELEASE"] == whole.details["OSRELEASE"]
    ends = Counter[str]()
    for pa in range(0, RECIPE.ram[1], 7 * PAGE):
        if pa not in image:
            ends["left out"] += 1
        else:
            assert image.read(pa, PAGE) == whole.read(pa, PAGE)
            ends["here"] += 1
    assert ends["here"] > 1000
    assert (ends["left out"] > 1000) == ("31" in options)
    cpu = whole.cpus[0]
    spaces = [
        AddressSpace.from_registers(cpu.architecture, memory, **cpu.registers)
        for memory in (whole, image)
    ]
    rows = [space.mappings() for space in spaces]
    assert len(rows[0]) > 100
    assert (rows[0] == rows[1]).all()  # no filter leaves page tables out


def test_the_kernels_own_tables_are_found_without_any_cpus_root(vmcore: Path) -> None:
    image = ptcore.open_image(vmcore)
    assert image.kernel is not None
    own = AddressSpace.from_registers(image.kernel.architecture, image, **image.kernel.registers)
    text = int(image.details["SYMBOL(_stext)"], 16)
    cpu = image.cpus[0]
    space = AddressSpace.from_registers(cpu.architecture, image, **cpu.registers)
    assert own.translate(text, "x") == space.translate(text, "x")
    upper = 1 << 63
    assert len(ptcore.diff(own, space, upper, None)) == 0
