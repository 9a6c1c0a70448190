"""An IMAGE that is a running machine: every verb reads it as it reads the same machine's file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from guests import snapshots
from guests.frozen import Frozen, frozen, missing
from ptcore.cli.group import ptcore
from ptcore.live import qemu

GUEST = "x86_64-4level"


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Frozen, str]]:
    guest = snapshots.load(GUEST)
    why = missing(guest.architecture)
    if why:
        pytest.skip(why)
    folder = tmp_path_factory.mktemp("machine")
    snapshots.write_elf(guest, folder / "guest.elf")
    with frozen(guest, folder) as started:
        yield started, str(folder / "guest.elf")


def said(*words: str) -> str:
    done = CliRunner().invoke(ptcore, list(words))
    assert done.exit_code in (0, 1), done.output
    return done.stdout


@pytest.mark.parametrize(
    "words",
    [
        ("walk", "0xfffffe0000000000"),
        ("maps", "--cpu-number", "2"),
        ("stat",),
        ("check",),
        ("find", "0x1000"),
    ],
    ids=lambda words: words[0],
)
@pytest.mark.parametrize("way", ["qmp", "gdb"])
def test_a_verb_shows_of_a_machine_what_it_shows_of_its_file(
    machine: tuple[Frozen, str], way: str, words: tuple[str, ...]
) -> None:
    started, path = machine
    verb, *rest = words
    live = said(verb, f"qemu:{way}={getattr(started, way)}", *rest)
    assert live.splitlines() == said(verb, path, *rest).splitlines()
    assert len(live.splitlines()) >= 1


def test_a_machine_and_an_earlier_file_of_it_do_not_differ(machine: tuple[Frozen, str]) -> None:
    started, path = machine
    done = CliRunner().invoke(ptcore, ["diff", path, f"qemu:qmp={started.qmp}"])
    assert done.exit_code == 0, done.output


def test_registers_of_a_machine_are_shown(machine: tuple[Frozen, str]) -> None:
    started, _ = machine
    out = said("registers", f"qemu:qmp={started.qmp}")
    assert out.count("CPU ") == 3
    for registers in snapshots.load(GUEST).registers:
        assert f"{registers['cr3']:#x}" in out


def test_a_machine_that_ran_runs_on(machine: tuple[Frozen, str]) -> None:
    started, _ = machine
    place = f"qemu:qmp={started.qmp}"
    with qemu(started.qmp) as live:
        live.resume()
    said(
        "stat", place, "--cr3", "0x1000", "--cr0", "0x80000001", "--cr4", "0x20", "--efer", "0x100"
    )
    with qemu(started.qmp) as live:
        assert live.running


def test_what_is_no_machine_is_one_line(machine: tuple[Frozen, str], tmp_path: Path) -> None:
    for place in ("qemu:", f"qemu:qmp={tmp_path}/none", f"qemu:gdb={tmp_path}/none"):
        done = CliRunner().invoke(ptcore, ["maps", place])
        assert done.exit_code == 2
        assert done.stderr.startswith("ptcore: ")
        assert done.stderr.count("\n") == 1
    started, _ = machine
    done = CliRunner().invoke(ptcore, ["maps", f"qemu:qmp={started.qmp}", "--form", "raw"])
    assert done.exit_code == 2
    assert "--form is of files" in done.stderr
