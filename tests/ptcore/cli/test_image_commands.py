"""The verbs of images, as a user runs them; what they say is judged by naive readings of the same bytes."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
from click.testing import CliRunner

from oracles.x86_64_tables import Leaf, everything
from ptcore import PageTable, PhysicalMemory, formats
from ptcore.cli.group import ptcore
from ptcore.cli.image_options import _registers, architecture_of
from ptcore.formats import registers

M = 1 << 20
PAGE = 4096
KERNEL = 0xFFFF_8880_0000_0000
TEXT = 0xFFFF_FFFF_8100_0000
USER = 0x55_5555_0000


class Guest:
    """A raw image with one kernel root and one process root."""

    def __init__(self, folder: Path) -> None:
        self.content = np.zeros(8 * M, dtype=np.uint8)
        self.memory = PhysicalMemory.from_buffer(self.content, frames=(M, M))
        kernel = PageTable("x86_64_4level", self.memory)
        kernel.map(KERNEL, 0, 8 * M, "rw")
        kernel.map(TEXT, 4 * M, 2 * M, "rx", page_size="4K")
        kernel.map(0xFFFF_C900_0000_0000, 6 * M, 3 * PAGE, "rwx")
        self.kernel = kernel.root
        process = PageTable("x86_64_4level", self.memory)
        self.memory.write(process.root + 2048, self.memory.read(kernel.root + 2048, 2048))
        process.map(USER, 7 * M, 5 * PAGE, "rw", user=True)
        self.process = process.root
        self.path = folder / "guest.raw"
        self.save(self.path)

    def save(self, path: Path) -> Path:
        self.content.tofile(path)
        return path

    def leaves(self, root: int) -> list[Leaf]:
        found = everything(self.read8, root)
        return [leaf for leaf in found if isinstance(leaf, Leaf)]

    def read8(self, pa: int) -> int | None:
        return (
            int(self.content[pa : pa + 8].view("<u8")[0]) if pa + 8 <= len(self.content) else None
        )


@pytest.fixture
def guest(tmp_path: Path) -> Guest:
    return Guest(tmp_path)


def run(*arguments: object, stdin: bytes | None = None) -> tuple[int, str, str]:
    done = CliRunner().invoke(
        ptcore, [str(a) for a in arguments], input=stdin, catch_exceptions=False
    )
    return done.exit_code, done.stdout, done.stderr


def cr3(root: int) -> tuple[str, str]:
    return "--cr3", hex(root)


# -- maps ----------------------------------------------------------------------------------------


def test_maps_lists_exactly_what_a_naive_reading_lists(guest: Guest) -> None:
    code, out, err = run("maps", guest.path, *cr3(guest.process), "--json")
    assert (code, err) == (0, "")
    ranges = json.loads(out)["ranges"]
    leaves = guest.leaves(guest.process)
    assert len(leaves) > 500
    covered = 0
    for row in ranges:
        first, last = int(row["first"], 16), int(row["last"], 16)
        inside = [leaf for leaf in leaves if first <= leaf.va <= last]
        assert sum(leaf.size for leaf in inside) == last - first + 1
        for leaf in inside:
            assert leaf.pa - int(row["pa"], 16) == leaf.va - first
            rights = f"r{'-w'[leaf.write]}{'-x'[leaf.execute]}{'-u'[leaf.user]}"
            assert rights == row["rights"]
            assert leaf.size & row["page_sizes"]
        covered += len(inside)
    assert covered == len(leaves)


def test_maps_prints_lines_that_say_the_same_and_marks_writable_and_executable(
    guest: Guest,
) -> None:
    code, out, err = run("maps", guest.path, *cr3(guest.kernel))
    assert code == 0
    assert f"given: cr3={guest.kernel:#x}; assumed: cr0=0x80010001 cr4=0x20 efer=0xd00" in err
    lines = out.splitlines()
    assert lines[0].split() == ["addresses", "size", "rights", "pages", "physical"]
    assert lines[1].split() == ["0xffff888000000000-0xffff8880007fffff", "8M", "rw--", "2M", "0x0"]
    assert "rwx-    4K     0x600000  W+X" in out
    assert out.count("W+X") == 1
    assert all(len(line) < 80 for line in lines)


def test_maps_merges_as_asked(guest: Guest) -> None:
    table = PageTable("x86_64_4level", guest.memory, guest.process)
    table.map(USER + 5 * PAGE, 7 * M + 64 * PAGE, PAGE, "rw", user=True)
    guest.save(guest.path)
    shown = {
        merge: json.loads(
            run(
                "maps",
                guest.path,
                *cr3(guest.process),
                "--merge",
                merge,
                "--json",
                "--last",
                hex(1 << 40),
            )[1]
        )["ranges"]
        for merge in ("none", "sizes", "addresses")
    }
    assert [len(shown[m]) for m in ("none", "sizes", "addresses")] == [2, 2, 1]
    assert shown["addresses"][0]["pa"] is None
    indented = run("maps", guest.path, *cr3(guest.process), "--indent", "--merge", "addresses")[1]
    assert "      0x5555550000-0x5555555fff" in indented


# -- walk ----------------------------------------------------------------------------------------


def test_walk_shows_every_item_and_the_fault(guest: Guest) -> None:
    code, out, _ = run("walk", guest.path, *cr3(guest.process), hex(TEXT + 0x5123))
    assert code == 0
    leaf = next(item for item in guest.leaves(guest.process) if item.va == TEXT + 0x5000)
    assert f"{leaf.at:#x}" in out
    assert f"physical address {leaf.pa + 0x123:#x}, 4K page, rights r-x-, WB" in out
    assert [line.split()[0] for line in out.splitlines()[2:6]] == ["PML4", "PDPT", "PD", "PT"]
    code, out, _ = run(
        "walk", guest.path, *cr3(guest.process), hex(TEXT), "0x1000", "--access", "w"
    )
    assert code == 1
    assert "FAULT permission at PT (level 0)" in out
    assert "write is withheld by bit 1 (R/W)" in out
    assert "FAULT not present" in out


def test_walk_as_json(guest: Guest) -> None:
    code, out, _ = run(
        "walk", guest.path, *cr3(guest.process), hex(USER), "0x800000000000", "--json"
    )
    found = json.loads(out)["walks"]
    assert code == 1
    assert [walk["status"] for walk in found] == ["OK", "NOT_CANONICAL"]
    assert found[0]["pa"] == hex(7 * M)
    assert [step["name"] for step in found[0]["path"]] == ["PML4", "PDPT", "PD", "PT"]
    for step in found[0]["path"]:
        assert guest.read8(int(step["entry_address"], 16)) == int(step["entry"], 16)


# -- translate -----------------------------------------------------------------------------------


def addresses(guest: Guest, count: int = 3000) -> list[int]:
    rng = np.random.default_rng(5)
    starts = rng.choice([KERNEL, TEXT, USER, 1 << 40], count)
    return [
        int(s) + int(o) for s, o in zip(starts.tolist(), rng.integers(0, 9 * M, count), strict=True)
    ]


def expected(guest: Guest, vas: list[int]) -> list[int | None]:
    leaves = sorted(guest.leaves(guest.process), key=lambda leaf: leaf.va)
    starts = np.array([leaf.va for leaf in leaves], dtype=np.uint64)
    found: list[int | None] = []
    for va in vas:
        leaf = leaves[max(int(np.searchsorted(starts, np.uint64(va), side="right")) - 1, 0)]
        found.append(leaf.pa + va - leaf.va if leaf.va <= va <= leaf.last else None)
    return found


def test_translate_streams_text_json_lines_and_binary(guest: Guest) -> None:
    vas = addresses(guest)
    wanted = expected(guest, vas)
    assert 500 < sum(pa is None for pa in wanted) < 2500
    text = b"# some addresses\n\n" + b"".join(
        (b"%d,more\n" if n % 2 else b"  0x%X ignored\r\n") % va for n, va in enumerate(vas)
    )
    code, out, err = run("translate", guest.path, *cr3(guest.process), stdin=text)
    assert code == 1
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [int(row["va"], 16) for row in rows] == vas
    assert [int(row["pa"], 16) if row["pa"] else None for row in rows] == wanted
    assert {row["status"] for row in rows} == {"OK", "NOT_PRESENT"}
    assert f"{len(vas):,} addresses, {sum(pa is None for pa in wanted):,} faults" in err
    code, out, _ = run(
        "translate", guest.path, *cr3(guest.process), "--to", "jsonl", stdin=text[:-2]
    )
    entries = [json.loads(line) for line in out.splitlines()]
    assert [entry["pa"] and int(entry["pa"], 16) for entry in entries] == wanted
    raw = struct.pack(f"<{len(vas)}Q", *vas)
    done = CliRunner().invoke(
        ptcore,
        ["translate", str(guest.path), *cr3(guest.process), "--from", "binary", "--to", "binary"],
        input=raw,
    )
    records = np.frombuffer(
        done.stdout_bytes, dtype=[("va", "<u8"), ("pa", "<u8"), ("status", "u1")]
    )
    assert records["va"].tolist() == vas
    assert [
        pa if s == 0 else None
        for pa, s in zip(records["pa"].tolist(), records["status"], strict=True)
    ] == wanted


def test_translate_writes_files_and_refuses_bad_lines(guest: Guest, tmp_path: Path) -> None:
    vas = [
        va for va, pa in zip(addresses(guest), expected(guest, addresses(guest)), strict=True) if pa
    ]
    source = tmp_path / "addresses.txt"
    source.write_text("".join(f"{va:#x}\n" for va in vas))
    target = tmp_path / "out.parquet"
    code, out, _ = run(
        "translate", guest.path, *cr3(guest.process), "--input", source, "--output", target
    )
    assert (code, out) == (0, "")
    assert pyarrow.parquet.read_table(target)["pa"].to_pylist() == expected(guest, vas)
    target = tmp_path / "out.jsonl"
    run("translate", guest.path, *cr3(guest.process), "--input", source, "--output", target)
    assert len(target.read_text().splitlines()) == len(vas)
    for line, said in (
        (b"0x1\nfrog\n", "line 2: 'frog' does not begin with a 64-bit address"),
        (b"0x10000000000000000\n", "line 1"),
        (b"0x\n", "line 1"),
        (b"-1\n", "line 1"),
        (b"0x1g\n", "line 1"),
    ):
        code, _, err = run(
            "translate",
            guest.path,
            *cr3(guest.process),
            "--output",
            tmp_path / "bad.csv",
            stdin=line,
        )
        assert code == 2
        assert said in err
    code, _, err = run(
        "translate", guest.path, *cr3(guest.process), "--from", "binary", stdin=b"1234567"
    )
    assert (code, "ends with 7 bytes" in err) == (2, True)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"guest.raw", "addresses.txt", "out.parquet", "out.jsonl"}


def test_an_interrupt_leaves_no_half_file(guest: Guest, tmp_path: Path) -> None:
    target = tmp_path / "out.csv"
    target.write_text("as it was")
    command = [sys.executable, "-c", "from ptcore.cli import main; main()"]
    command += ["translate", str(guest.path), *cr3(guest.process), "--output", str(target)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.write(b"0x5555550000\n" * 100)
    process.stdin.flush()
    for _ in range(600):
        others = [path for path in tmp_path.iterdir() if path not in (guest.path, target)]
        if any(path.stat().st_size > 1000 for path in others):
            break
        time.sleep(0.1)
    else:
        pytest.fail("nothing was written")
    os.kill(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert b"interrupted" in err
    assert target.read_text() == "as it was"
    assert {path.name for path in tmp_path.iterdir()} == {"guest.raw", "out.csv"}


# -- find, diff, stat ----------------------------------------------------------------------------


def test_find_shows_every_address_in_every_root(guest: Guest) -> None:
    pa = 4 * M + 0x5010
    code, out, _ = run("find", guest.path, hex(pa), *cr3(guest.kernel), *cr3(guest.process))
    assert code == 0
    for root in (guest.kernel, guest.process):
        for leaf in guest.leaves(root):
            if leaf.pa <= pa < leaf.pa + leaf.size:
                assert f"{leaf.va + pa - leaf.pa:#x}" in out
    assert out.count(f"{TEXT + 0x5010:#x}") == 2
    code, out, _ = run(
        "find", guest.path, "-", *cr3(guest.kernel), "--json", stdin=b"0x600000 0xfff0000000"
    )
    found = json.loads(out)["found"]
    assert code == 1  # the second is mapped nowhere
    assert [(row["pa"], row["first"]) for row in found] == [
        ("0x600000", "0xffff888000600000"),
        ("0x600000", "0xffffc90000000000"),
    ]
    assert (
        "mapped nowhere: 0xfff0000000"
        in run("find", guest.path, "0xfff0000000", *cr3(guest.kernel))[1]
    )


def test_find_says_repeats_as_ranges(tmp_path: Path) -> None:
    content = np.zeros(64 * 1024, dtype=np.uint8)
    ram = PhysicalMemory.from_buffer(content, frames=(PAGE, 60 * 1024))
    root, pdpt, pd, pt = (ram.frames.allocate() for _ in range(4))
    ram.write(pt, np.full(512, 0x8001, dtype=np.uint64))
    ram.write(pd, np.full(512, pt | 7, dtype=np.uint64))
    ram.write(pdpt, np.full(512, pd | 7, dtype=np.uint64))
    ram.write(root + 8 * 256, np.full(32, pdpt | 7, dtype=np.uint64))
    path = tmp_path / "shadow.raw"
    content.tofile(path)
    code, out, _ = run("find", path, "0x8000", *cr3(root))
    assert code == 0
    assert "as 0xffff800000000000 has it, every 2M" in out
    assert len(out.splitlines()) < 520
    assert "repeats 0xffff800000000000 every 2M" in run("maps", path, *cr3(root))[1]


def test_diff_shows_what_changed(guest: Guest, tmp_path: Path) -> None:
    table = PageTable("x86_64_4level", guest.memory, guest.process)
    table.unmap(USER, PAGE)
    table.protect(USER + PAGE, PAGE, "r")
    table.map(USER + 16 * PAGE, 7 * M, PAGE, "r", user=True)
    other = guest.save(tmp_path / "other.raw")
    code, out, _ = run("diff", guest.path, other, *cr3(guest.process))
    assert code == 1
    lines = [line.split() for line in out.splitlines()[1:]]
    assert [(line[0], line[2]) for line in lines[:3]] == [
        ("0x5555550000-0x5555550fff", "removed"),
        ("0x5555551000-0x5555551fff", "changed"),
        ("0x5555560000-0x5555560fff", "added"),
    ]
    assert "rw-u -> r--u" in out
    assert out.splitlines()[-1] == "1 added, 1 removed, 1 changed"
    assert run("diff", guest.path, guest.path, *cr3(guest.process))[:2][0] == 0
    code, out, _ = run("diff", guest.path, other, *cr3(guest.kernel), *cr3(guest.process), "--json")
    changes = json.loads(out)["changes"]
    assert {change["change"] for change in changes} == {"ADDED"}


def test_stat_counts_tables_leaves_and_bytes(guest: Guest) -> None:
    code, out, _ = run("stat", guest.path, *cr3(guest.process), "--json")
    found = json.loads(out)
    leaves = guest.leaves(guest.process)
    assert code == 0
    assert found["tables"][0]["leaves"][0] == sum(leaf.size == PAGE for leaf in leaves)
    assert found["tables"][0]["leaves"][1] == sum(leaf.size == 2 * M for leaf in leaves)
    assert found["tables"][0]["mapped_bytes"] == sum(leaf.size for leaf in leaves)
    assert found["spaces"][0]["by_page_size"] == {
        "4K": sum(leaf.size for leaf in leaves if leaf.size == PAGE),
        "2M": 8 * M,
    }
    frames = [pa for leaf in leaves for pa in range(leaf.pa, leaf.pa + leaf.size, PAGE)]
    assert found["spaces"][0]["physical_bytes"] == len(set(frames)) * PAGE
    twice = len({pa for pa in frames if frames.count(pa) > 1}) * PAGE
    assert found["spaces"][0]["aliased_bytes"] == twice
    out = run("stat", guest.path, *cr3(guest.process))[1]
    assert "PML4 (3)       1" in out
    assert "holes between mapped addresses: 2" in out


# -- check, roots --------------------------------------------------------------------------------


def test_check_ends_with_1_when_something_is_found(guest: Guest, tmp_path: Path) -> None:
    code, out, _ = run("check", guest.path, *cr3(guest.kernel))
    assert code == 1
    assert "writable_executable  0xffffc90000000000..0xffffc90000002fff" in out
    assert "writable_alias  0xffffffff81000000..0xffffffff811fffff" in out
    assert out.splitlines()[-1] == "2 findings: 1 writable_executable, 1 writable_alias"
    ignored = ("--ignore", "writable_executable", "--ignore", "writable_alias")
    assert run("check", guest.path, *cr3(guest.kernel), *ignored)[:2] == (0, "nothing found\n")
    found = json.loads(run("check", guest.path, *cr3(guest.kernel), "--json")[1])["findings"]
    assert [f["rule"] for f in found] == ["writable_executable", "writable_alias"]
    assert guest.read8(int(found[0]["entry_address"], 16)) == int(found[0]["entry"], 16)
    target = tmp_path / "findings.csv"
    assert run("check", guest.path, *cr3(guest.kernel), "--output", target)[0] == 1
    assert [row["rule"] for row in csv.DictReader(io.StringIO(target.read_text()))] == [
        "WRITABLE_EXECUTABLE",
        "WRITABLE_ALIAS",
    ]


def test_roots_finds_the_roots_without_being_told(guest: Guest) -> None:
    code, out, _ = run("roots", guest.path, "--format", "x86_64_4level")
    assert code == 0
    assert f"root {guest.kernel:#x}, score 1.000" in out
    assert f"root {guest.process:#x}, score 1.000" in out
    assert "2 candidates of 2,048 places" in out
    found = json.loads(run("roots", guest.path, "--format", "x86_64_4level", "--json")[1])["roots"]
    assert {entry["root"] for entry in found[:2]} == {hex(guest.kernel), hex(guest.process)}
    assert run("roots", guest.path, "--format", "sv39")[0] == 1


# -- which tables --------------------------------------------------------------------------------


def test_tables_by_format_and_root_are_those_by_registers(guest: Guest, tmp_path: Path) -> None:
    by_registers = run("maps", guest.path, *cr3(guest.process))[1]
    root = ("--root", hex(guest.process))
    assert run("maps", guest.path, "--format", "x86_64_4level", *root)[1] == by_registers
    assert run("maps", guest.path, "--format", "x86_64_4level", "-p", "nx=False", *root)[0] == 0
    linux = run("maps", guest.path, *cr3(guest.process), "--presence", "linux")
    assert linux[0] == 0
    table = PageTable("x86_64_4level", guest.memory, guest.process)
    at = table.walk(USER).path[-1].entry_address
    # PROT_NONE as Linux has it: P clear, G set, the address inverted from bit 12 on.
    flags = guest.memory.read_word(at) & ~1 | 1 << 8
    guest.memory.write_word(at, flags ^ ((1 << 52) - 1 & ~0xFFF))
    path = guest.save(tmp_path / "prot_none.raw")
    hardware = run("maps", path, *cr3(guest.process))[1]
    linux = run("maps", path, *cr3(guest.process), "--presence", "linux")
    assert f"{USER:#x}" not in hardware
    assert f"{USER:#x}" in linux[1]


def core_with(registers_: bytes, content: bytes) -> bytes:
    """An ELF core as QEMU writes it: a QEMU note with the CPU's state, one segment."""
    name = b"QEMU\0\0\0\0"
    note = (
        struct.pack("<III", 5, len(registers_), 0) + name + registers_ + bytes(-len(registers_) % 4)
    )
    head = b"\x7fELF\x02\x01\x01" + bytes(9)
    head += struct.pack("<HHIQQQIHHHHHH", 4, 62, 1, 0, 64, 0, 0, 64, 56, 2, 0, 0, 0)
    start = 64 + 2 * 56
    programs = struct.pack("<IIQQQQQQ", 4, 4, start, 0, 0, len(note), len(note), 0)
    programs += struct.pack(
        "<IIQQQQQQ", 1, 4, start + len(note), 0, 0, len(content), len(content), 0
    )
    return head + programs + note + content


def qemu_state(root: int) -> bytes:
    """QEMUCPUState of target/i386/arch_dump.c, version 1: 18 general registers, 10 segments, cr0..cr4."""
    segment = struct.pack("<IIIIQ", 0, 0, 0, 0, 0)
    state = struct.pack("<II", 1, 440) + bytes(8 * 18) + segment * 10
    state += struct.pack("<5Q", 0x8005_0033, 0, 0, root, 0x20)
    return state + bytes(8)


def test_registers_that_the_image_holds_are_used_and_named(guest: Guest, tmp_path: Path) -> None:
    path = tmp_path / "guest.elf"
    path.write_bytes(core_with(qemu_state(guest.process), guest.content.tobytes()))
    code, out, err = run("registers", path)
    assert code == 0, err
    assert "elf, 8M of memory" in out
    assert f"cr3       {guest.process:#x}" in out
    assert f"x86_64_4level, root {guest.process:#x}" in out
    code, out, err = run("maps", path)
    assert code == 0, err
    assert f"CPU 0 of the image: cr0=0x80050033 cr3={guest.process:#x} cr4=0x20" in err
    assert out == run("maps", guest.path, *cr3(guest.process))[1]
    code, out, err = run("maps", path, *cr3(guest.kernel))
    assert f"given: cr3={guest.kernel:#x}; CPU 0 of the image: cr0=0x80050033 cr4=0x20" in err
    assert out == run("maps", guest.path, *cr3(guest.kernel))[1]
    code, _, err = run("maps", path, "--cpu-number", "1")
    assert (code, "CPUs 0 to 0, not 1" in err) == (2, True)
    found = json.loads(run("registers", path, "--json")[1])
    assert found["cpus"][0]["registers"]["cr3"] == hex(guest.process)


def test_an_image_without_registers_says_what_to_pass(guest: Guest) -> None:
    code, out, err = run("maps", guest.path)
    assert (code, out) == (2, "")
    for said in ("--cr3 (x86_64)", "--ttbr0 or --ttbr1 (aarch64)", "--satp", "--format NAME"):
        assert said in err
    out = run("registers", guest.path)[1]
    for register in _registers().values():
        assert f"--{register.name.replace('_', '-')}" in out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--cr3", "frog"), "is no number"),
        (("--cr3", "-1"), "does not fit 64 bits"),
        (("--cr3", "0x100000", "--satp", "0x1"), "no architecture has all of"),
        (("--root", "0x100000"), "--root goes with --format"),
        (("--format", "x86_64_4level"), "--format needs --root"),
        (("--format", "x86_64_4leve", "--root", "0x1000"), "nearest: x86_64_4level"),
        (("--format", "sv39", "--root", "0x100000", "--cr3", "0x1000"), "not both"),
        (("--cr3", "0x100000", "-p", "nx=False"), "-p goes with --format"),
        (("--cr3", "0x100000", "--output", "x.xlsx"), "ends in none of .parquet, .csv"),
        (("--cr3", "0x100000", "--cr3", "0", "--cr3", "0", "--cr0", "1", "--cr0", "1"), "as often as"),
        (("--satp", "0x8000000000000100", "--presence", "linux"), "presence"),
        (("--cr3", "0x900000000"), "outside the memory"),
    ],
)  # fmt: skip
def test_usage_errors_are_one_sentence_and_exit_2(
    guest: Guest, arguments: tuple[str, ...], said: str
) -> None:
    code, out, err = run("maps", guest.path, *arguments)
    assert (code, out) == (2, "")
    assert said in err


def test_the_options_are_the_registers_that_decoding_knows() -> None:
    for architecture in registers.having(()):
        names = {register.name for register in registers.known(architecture)}
        assert architecture_of(names - {"physical_bits"}) == architecture
        assert set(registers.usual(architecture)) <= names
        assert {r.instead for r in registers.known(architecture)} - {""} <= names
    # Those named one by one in the code that decodes them: none is missing, none is made up.
    for architecture in ("x86_64", "riscv64"):
        import inspect

        from ptcore.formats.registers import riscv, x86

        room: Any = x86 if architecture == "x86_64" else riscv
        parameters = set(inspect.signature(room.decode).parameters) - {"architecture", "presence"}
        assert parameters == {register.name for register in registers.known(architecture)}


def test_second_stages_alone_and_both_stages(tmp_path: Path) -> None:
    content = np.zeros(16 * M, dtype=np.uint8)
    host = PhysicalMemory.from_buffer(content, frames=(M, M))
    stage2 = PageTable(formats.get("ept_4level"), host)
    stage2.map(0, 8 * M, 4 * M, "rwx", page_size="4K")
    guest_ram = PhysicalMemory.from_buffer(content[8 * M : 12 * M], frames=(M, M))
    stage1 = PageTable("x86_64_4level", guest_ram)
    stage1.map(0x40_0000, 0x5000, PAGE, "rw")
    path = tmp_path / "host.raw"
    content.tofile(path)
    eptp = hex(stage2.root | 0x1E)
    code, out, err = run("walk", path, "--eptp", eptp, "0x5010")
    assert (code, "physical address 0x805010, 4K page" in out) == (0, True), err
    code, out, err = run("walk", path, "--eptp", eptp, *cr3(stage1.root), "0x400010")
    assert code == 0, err
    assert "physical address 0x805010, 4K page" in out
    assert out.count("stage 1 ") == 4
    assert out.count("stage 2 ") == 20
    code, out, _ = run("maps", path, "--eptp", eptp, *cr3(stage1.root))
    assert "0x400000-0x400fff" in out
    assert "0x805000" in out
