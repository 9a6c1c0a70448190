"""A real gdb attached to a real QEMU whose memory is a real guest's: what its `ptcore` commands show."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from guests import snapshots
from guests.frozen import Frozen, frozen, missing
from guests.snapshots import Guest
from ptcore.errors import Status
from ptcore.interop import gdb
from ptcore.interop.gdb.process import serve
from ptcore.units import format_size

UPPER = 1 << 63


@pytest.fixture(params=["x86_64-4level", "x86_64-5level-pti"])
def attached(
    request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[tuple[Guest, Frozen, Path]]:
    guest = snapshots.load(request.param)
    why = missing(guest.architecture) or (None if shutil.which("gdb") else "gdb is not installed")
    if why:
        pytest.skip(why)
    # A gdb that ends lets the machine run: each test has its own.
    with frozen(guest, tmp_path) as started:
        yield guest, started, gdb.install(tmp_path / "made" / "here")


def ran(attached: tuple[Guest, Frozen, Path], *lines: str) -> tuple[str, str]:
    """What gdb prints and says of errors, once it is attached and has our commands."""
    _, started, commands = attached
    arguments = ["gdb", "-q", "-nx", "-batch", "-ex", "set confirm off"]
    for line in (
        f"target remote {started.gdb.removeprefix('unix:')}",
        f"source {commands}",
        *lines,
    ):
        arguments += ["-ex", line]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=120, check=False)
    return done.stdout, done.stderr


def test_a_walk_shows_each_entry_and_the_page(attached: tuple[Guest, Frozen, Path]) -> None:
    guest, _, _ = attached
    va = guest.areas()[0].first
    out, _ = ran(attached, f"ptcore walk {va:#x}", f"ptcore walk '{va:#x} + 5 * 4096'")
    walk = guest.space(0).walk(va)
    for step in walk.path:
        assert re.search(rf"^{step.name} .*{step.entry:#018x}  {step.kind}$", out, re.MULTILINE)
    assert f"{va:#x} -> {walk.pa:#x}, a page of 4K, {walk.rights}" in out
    assert f"{va + 5 * 4096:#x}: not present at PT (level 0)" in out, "an expression of gdb"


def test_the_listing_is_that_of_the_guest_on_the_cpu_that_is_selected(
    attached: tuple[Guest, Frozen, Path],
) -> None:
    guest, _, _ = attached
    out, _ = ran(attached, "thread 3", f"ptcore maps {UPPER}")
    found = re.findall(r"^(\w{16})-(\w{16}) (0x\w+) +(\w+) (\S+)$", out, re.MULTILINE)
    rows = guest.space(2).mappings(UPPER)
    assert [(int(a, 16), int(b, 16), int(c, 16), d) for a, b, c, d, _ in found] == [
        (*(int(row[name]) for name in ("first", "last", "pa")), format_size(int(row["page_size"])))
        for row in rows
    ]
    assert len(found) > 50
    assert {rights[:4] for *_, rights in found} >= {"rw--", "r---", "r-x-"}


def test_addresses_are_translated_and_faults_are_named(
    attached: tuple[Guest, Frozen, Path],
) -> None:
    guest, _, _ = attached
    areas = [area.first for area in guest.areas() if area.kind in ("small", "guard", "thp")][:3]
    line = " ".join(f"{va:#x}" for va in areas)
    out, _ = ran(attached, f"ptcore translate {line} 0x0123456789abcdef")
    answers = dict(
        line.split() for line in out.splitlines() if line.startswith("0x") and "?" not in line
    )
    for va in areas:
        walk = guest.space(0).walk(va)
        assert answers[f"{va:#x}"] == (
            f"{walk.pa:#x}" if walk.status == Status.OK else "NotPresent"
        )
    assert len(set(answers.values())) == 4
    assert answers["0x123456789abcdef"] == "NotCanonical"


def test_gdb_is_left_as_it_was(attached: tuple[Guest, Frozen, Path]) -> None:
    guest, _, _ = attached
    rows = guest.space(0).mappings(0, UPPER - 1)
    # What the processes wrote is kept, and gdb reads it by virtual addresses, as before.
    va = guest.areas()[0].first
    assert len(rows) > 10
    out, said = ran(attached, "ptcore walk 0", f"x/s {va:#x}", "maint packet qqemu.PhyMemMode")
    assert '"ptcore  ' in out
    assert 'received: "0"' in out
    assert "Error" not in said


def test_what_cannot_be_done_is_one_line(
    attached: tuple[Guest, Frozen, Path], tmp_path: Path
) -> None:
    _, said = ran(attached, "ptcore walk", "ptcore maps 1 2 3", "ptcore walk nosuchsymbol")
    assert "ptcore walk: too few addresses" in said
    assert "ptcore maps: too many addresses" in said
    assert "no address: No symbol" in said
    assert "Traceback" not in said
    assert "Python" not in said


def test_without_a_machine_or_a_python_that_works_it_says_so(
    attached: tuple[Guest, Frozen, Path], tmp_path: Path
) -> None:
    guest, started, _ = attached
    python = tmp_path / "ended"
    python.write_text("#!/bin/sh\nexit 0\n")
    python.chmod(0o755)
    alone = gdb.install(tmp_path / "alone", python=str(python))
    arguments = ["gdb", "-q", "-nx", "-batch", "-ex", f"source {alone}", "-ex", "ptcore walk 0"]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=60, check=False)
    assert "no machine" in done.stderr
    _, said = ran((guest, started, alone), "ptcore walk 0", "ptcore walk 0")
    assert said.count("the process with ptcore ended") == 2
    nowhere = gdb.install(tmp_path / "alone", python=str(tmp_path / "none"))
    _, said = ran((guest, started, nowhere), "ptcore walk 0")
    assert "no process with ptcore" in said


# -- without gdb ------------------------------------------------------------------------------


def conversation(guest: Guest, request: dict[str, object]) -> tuple[list[int], dict[str, str]]:
    """Answer a request as gdb would out of a snapshot: the lengths of the lists, and the end."""
    lists: list[int] = []

    class Gdb(io.StringIO):
        """Answers what is asked for when it is read."""

        def readline(self, size: int = -1, /) -> str:
            asked = [json.loads(line) for line in answers.getvalue().splitlines()]
            if not asked:
                return json.dumps(request) + "\n" if not lists else ""
            if "read" not in asked[-1]:
                return ""
            lists.append(len(asked[-1]["read"]))
            parts = [bytes(guest.memory.read(pa, size)).hex() for pa, size in asked[-1]["read"]]
            return json.dumps({"bytes": parts}) + "\n"

    answers = io.StringIO()
    serve(Gdb(), answers)
    return lists, json.loads(answers.getvalue().splitlines()[-1])


@pytest.mark.parametrize("name", ["x86_64-4level", "aarch64-4k-lpa2", "riscv64-sv57"])
def test_a_listing_asks_gdb_for_one_list_per_level(name: str) -> None:
    guest = snapshots.load(name)
    start, size = guest.about["ram"]
    architecture = {"x86_64": "i386:x86-64", "aarch64": "aarch64", "riscv64": "riscv:rv64"}
    registers = {key.upper(): value for key, value in guest.registers[0].items()}
    registers["EFLAGS"] = registers.pop("RFLAGS", 0)
    request = {
        "verb": "maps",
        "arguments": [],
        "architecture": architecture[guest.architecture],
        "registers": registers,
        "memory_map": 'FlatView #1\r\n AS "cpu-memory-0"\r\n'
        f"  {start:016x}-{start + size - 1:016x} (prio 0, ram): ram\r\n",
    }
    lists, answer = conversation(guest, request)
    assert len(lists) <= 2 * 5
    assert answer["text"].count("\n") == len(guest.space(0).mappings())
    _, answer = conversation(guest, {**request, "architecture": "vax"})
    assert "vax" in answer["error"]
    _, answer = conversation(guest, {**request, "registers": {}})
    assert "no registers" in answer["error"]


def test_the_command_file_names_the_python_that_has_ptcore(tmp_path: Path) -> None:
    text = gdb.install(tmp_path / "a").read_text()
    assert repr(sys.executable) in text
    assert gdb.COMMANDS.exists()
    compile(text, "ptcore-gdb.py", "exec")
