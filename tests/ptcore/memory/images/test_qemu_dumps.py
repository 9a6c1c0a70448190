"""Dumps that QEMU writes of a machine that turns paging on, against what QEMU itself says of its memory."""

from __future__ import annotations

import json
import re
import shutil
import socket
import struct
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from elftools.elf.elffile import ELFFile

import ptcore
from oracles import volatility_files
from ptcore import AddressSpace, Status
from ptcore.errors import FormatError

QEMU = shutil.which("qemu-system-x86_64")
PAGE = 4096
MEMORY = 32 << 20
LOADED = 0x100000
ROOT, MIDDLE, LOWER, LAST = (LOADED + 0x1000 * n for n in (1, 2, 3, 4))
HIGH = 0xFFFF_8000_0000_0000


def kernel() -> bytes:
    """A multiboot image (Multiboot 0.6.96, "OS image format", address fields): code, then page tables.

    The code sets CR4.PAE, CR3, EFER.LME and NXE, CR0.PG and WP, and halts.
    """
    header = struct.pack(
        "<5I", 0x1BADB002, 0x10000, -(0x1BADB002 + 0x10000) % (1 << 32), LOADED, LOADED
    )
    header += struct.pack("<3I", LOADED + 0x5000, LOADED + 0x5000, LOADED + 0x20)
    code = b"\x0f\x20\xe0\x83\xc8\x20\x0f\x22\xe0"  # mov eax, cr4; or eax, 0x20; mov cr4, eax
    code += b"\xb8" + struct.pack("<I", ROOT) + b"\x0f\x22\xd8"  # mov eax, ROOT; mov cr3, eax
    code += b"\xb9\x80\x00\x00\xc0\x0f\x32\x0d\x00\x09\x00\x00\x0f\x30"  # EFER |= 0x900
    code += b"\x0f\x20\xc0\x0d\x00\x00\x01\x80\x0f\x22\xc0"  # CR0 |= PG, WP
    code += b"\xfa\xf4\xeb\xfd"  # cli; hlt; jmp to the hlt
    tables = {
        ROOT: {0: MIDDLE | 3, 256: MIDDLE | 3},
        MIDDLE: {0: LOWER | 3, 3: 0x83},  # 1G at entry 3
        LOWER: {n: n << 21 | 0x83 for n in range(10)} | {20: LAST | 3, 21: 0x83},
        LAST: {n: (0x200 + 3 * n) << 12 | 1 for n in range(512)} | {7: 0, 9: 0x9003 | 1 << 63},
    }
    text = (header + code).ljust(0x1000, b"\0")
    for items in tables.values():
        text += b"".join(struct.pack("<Q", items.get(n, 0)) for n in range(512))
    return text


class Machine:
    """A QEMU process behind its QMP socket."""

    def __init__(self, folder: Path, program: str, *options: str) -> None:
        self.folder = folder
        path = folder / "qmp"
        rest = ("-nodefaults", "-display", "none", "-qmp", f"unix:{path},server=on,wait=off")
        self.process = subprocess.Popen([program, "-accel", "tcg", *options, *rest])
        self.socket = socket.socket(socket.AF_UNIX)
        for _ in range(200):
            if path.exists():
                break
            time.sleep(0.05)
        self.socket.connect(str(path))
        self.stream = self.socket.makefile("rw")
        self.stream.readline()
        self.ask("qmp_capabilities")

    def ask(self, command: str, **arguments: Any) -> Any:
        self.stream.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
        self.stream.flush()
        while True:
            answer = json.loads(self.stream.readline())
            if "error" in answer:
                raise AssertionError(answer["error"])
            if "return" in answer:
                return answer["return"]

    def monitor(self, line: str, cpu: int = 0) -> str:
        return str(self.ask("human-monitor-command", **{"command-line": line, "cpu-index": cpu}))

    def dump(self, name: str, **arguments: Any) -> Path:
        path = self.folder / name
        self.ask("dump-guest-memory", protocol=f"file:{path}", **arguments)
        return path

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self.stream.close()
        self.socket.close()


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    if QEMU is None:
        pytest.skip("qemu-system-x86_64 is not installed")
    folder = tmp_path_factory.mktemp("qemu")
    image = folder / "kernel.bin"
    image.write_bytes(kernel())
    options = ("-kernel", str(image), "-m", "32", "-smp", "2", "-cpu", "max")
    started = Machine(folder, QEMU, *options)
    try:
        for _ in range(400):
            if f"CR3={ROOT:016x}" in started.monitor("info registers"):
                break
            time.sleep(0.05)
        started.ask("stop")
        assert "CR0=80010011" in started.monitor("info registers")
        yield started
    finally:
        started.close()


@pytest.fixture(scope="module")
def raw(machine: Machine) -> Path:
    path = machine.folder / "raw"
    machine.ask("pmemsave", val=0, size=MEMORY, filename=str(path))
    return path


FORMS = ["elf", "elf, paging", "kdump-zlib"]


@pytest.fixture(scope="module", params=FORMS)
def dump(request: pytest.FixtureRequest, machine: Machine) -> Path:
    if request.param == "kdump-zlib":
        return machine.dump("kdump", paging=False, format="kdump-zlib")
    return machine.dump(request.param.replace(", ", "-"), paging="paging" in request.param)


def space_of(image: ptcore.Image, n: int = 0) -> AddressSpace:
    cpu = image.cpus[n]
    return AddressSpace.from_registers(cpu.architecture, image, **cpu.registers)


def test_the_cpus_are_those_that_qemu_shows(machine: Machine, dump: Path) -> None:
    image = ptcore.open_image(dump)
    assert image.form == ("kdump" if "kdump" in dump.name else "elf")
    assert [cpu.architecture for cpu in image.cpus] == ["x86_64", "x86_64"]
    looked = 0
    for n, cpu in enumerate(image.cpus):
        shown = machine.monitor("info registers", n)
        for name in ("CR0", "CR2", "CR3", "CR4", "RIP", "RSP", "RAX", "RDX"):
            letters = (
                name.replace("R", "[RE]", 1) if name[0] == "R" else name
            )  # EAX out of 64-bit mode
            found = re.search(rf"\b{letters}\s*=([0-9a-f]+)", shown)
            assert found, name
            assert (cpu.registers | cpu.general)[name.lower()] == int(found[1], 16)
            looked += 1
        efer = re.search(r"EFER=([0-9a-f]+)", shown)
        assert efer
        assert cpu.registers["efer"] == int(efer[1], 16)
    assert looked == 16
    assert image.cpus[0].registers["efer"] == 0xD00
    with pytest.raises(FormatError, match="paging is off"):
        space_of(image, 1)


def test_every_byte_is_that_of_the_machine(dump: Path, raw: Path) -> None:
    image = ptcore.open_image(dump)
    expected = ptcore.open_image(raw)
    assert expected.form == "raw"
    compared = 0
    for span in image.segments:
        last = min(span.last, MEMORY - 1)
        for pa in range(span.start, last + 1, 1 << 20):
            size = min(1 << 20, last - pa + 1)
            if 0xA0000 <= pa < 0x100000 or pa < 0xA0000 < pa + size:
                continue  # devices' memory changes
            assert image.read(pa, size) == expected.read(pa, size)
            compared += size
    assert compared > (1 << 20 if "paging" in dump.name else MEMORY * 3 // 4)


def test_addresses_translate_as_in_qemu(machine: Machine, dump: Path) -> None:
    space = space_of(ptcore.open_image(dump))
    vas = [n << 12 | 0x123 for n in range(0, 24 << 9, 41)]
    vas += [HIGH | va for va in vas[::7]] + [(3 << 30) + 5, (4 << 30) + 5, 1 << 46]
    ends = Counter[str]()
    for va in vas:
        shown = machine.monitor(f"gva2gpa {va:#x}")
        found = re.search(r"gpa: (?:0x)?([0-9a-f]+)", shown)
        if found:
            assert space.translate(va) == int(found[1], 16), hex(va)
            ends["mapped"] += 1
        else:
            assert space.walk(va).status is Status.NOT_PRESENT, (hex(va), shown)
            ends["not"] += 1
    assert ends["mapped"] > 150
    assert ends["not"] > 10


def test_the_listing_is_that_of_info_tlb(machine: Machine, dump: Path) -> None:
    shown = {
        int(va, 16): int(pa, 16)
        for va, pa in re.findall(
            r"^([0-9a-f]{16}): ([0-9a-f]{16})", machine.monitor("info tlb"), re.M
        )
    }
    listed: dict[int, int] = {}
    rows = space_of(ptcore.open_image(dump)).mappings()
    first = {int(row["first"]): row for row in rows}
    for row in rows:
        if row["kind"] == ptcore.table.RowKind.REPEAT:
            start = int(row["first"])
            base = int(row["repeat_of"])
            again = [
                r for r in first.values() if base <= int(r["first"]) < base + int(row["page_size"])
            ]
            listed |= _pages(again, start - base)
        else:
            listed |= _pages([row], 0)
    assert {va & (1 << 48) - 1: pa for va, pa in listed.items()} == {
        va & (1 << 48) - 1: pa for va, pa in shown.items()
    }
    assert len(listed) > 1000


def _pages(rows: list[Any], away: int) -> dict[int, int]:
    found = {}
    for row in rows:
        size = int(row["page_size"])
        for n in range((int(row["last"]) - int(row["first"]) + 1) // size):
            found[int(row["first"]) + n * size + away & (1 << 64) - 1] = int(row["pa"]) + n * size
    return found


def test_pyelftools_and_volatility3_see_the_same_segments(machine: Machine) -> None:
    path = machine.dump("judged", paging=False)
    image = ptcore.open_image(path)
    with path.open("rb") as stream:
        core = ELFFile(stream)
        loads = [s for s in core.iter_segments() if s["p_type"] == "PT_LOAD" and s["p_filesz"]]
        for load in loads:
            pa, size = load["p_paddr"], load["p_filesz"]
            stream.seek(load["p_offset"])
            assert image.read(pa, min(size, PAGE)) == stream.read(min(size, PAGE))
            assert image.read(pa + size - 16, 16) == load.data()[-16:]
        notes = [
            n for s in core.iter_segments() if s["p_type"] == "PT_NOTE" for n in s.iter_notes()
        ]
        assert [n["n_name"] for n in notes] == ["CORE", "CORE", "QEMU", "QEMU"]
    spans = sorted((load["p_paddr"], load["p_paddr"] + load["p_filesz"] - 1) for load in loads)
    assert [(s.start, s.last) for s in image.segments] == spans
    layer = volatility_files.layer_of("elf", path)
    assert volatility_files.spans(layer) == spans
    for pa in (0, ROOT, LAST + 8, MEMORY - 64):
        assert volatility_files.read(layer, pa, 64) == image.read(pa, 64)
    volatility_files.close(layer)


@pytest.mark.parametrize(
    ("system", "options", "pc", "start"),
    [
        ("aarch64", ("-machine", "virt", "-cpu", "cortex-a57"), "PC", 1 << 30),
        ("riscv64", ("-machine", "virt", "-bios", "none"), "pc", 1 << 31),
        ("riscv32", ("-machine", "virt", "-bios", "none"), "pc", 1 << 31),
    ],
)
def test_dumps_of_other_machines(
    tmp_path: Path, system: str, options: tuple[str, ...], pc: str, start: int
) -> None:
    program = shutil.which(f"qemu-system-{system}")
    if program is None:
        pytest.skip(f"qemu-system-{system} is not installed")
    here = Machine(tmp_path, program, "-S", "-m", "8", "-smp", "2", *options)
    try:
        image = ptcore.open_image(here.dump("dump", paging=False))
        assert (image.form, [cpu.architecture for cpu in image.cpus]) == ("elf", [system] * 2)
        assert any(span.start == start and span.size == 8 << 20 for span in image.segments)
        shown = re.search(rf"{pc}\s*=?\s*([0-9a-f]+)", here.monitor("info registers"))
        assert shown
        assert image.cpus[0].general["pc"] == int(shown[1], 16)
        assert image.cpus[0].registers == {}
    finally:
        here.close()


def test_a_big_endian_dump(tmp_path: Path) -> None:
    program = shutil.which("qemu-system-s390x")
    if program is None:
        pytest.skip("qemu-system-s390x is not installed")
    here = Machine(tmp_path, program, "-S", "-m", "128")
    try:
        here.ask("pmemsave", val=0, size=1 << 20, filename=str(tmp_path / "raw"))
        image = ptcore.open_image(here.dump("dump", paging=False))
        assert image.path.endswith("dump")
        assert (tmp_path / "dump").read_bytes()[5] == 2  # EI_DATA: big-endian
        assert [cpu.architecture for cpu in image.cpus] == [""]
        assert image.read(0, 1 << 20) == (tmp_path / "raw").read_bytes()
    finally:
        here.close()
