"""A real Linux that runs: its tables are read while it does. `make test-live` fetches its kernel."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from guests.debian import Packages
from guests.emulator import Machine
from guests.frozen import missing
from guests.make import MIB, RECIPES, ROOT, command
from guests.snapshots import Area, areas_in
from ptcore import Status
from ptcore.live import LiveMachine, qemu

RECIPE = replace(RECIPES["x86_64-4level"], arguments="console=ttyS0 quiet", ram=(0, 384 * MIB))


@pytest.fixture(scope="module")
def booted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Machine, list[Area]]]:
    packages = Packages(ROOT / "build/guests")
    why = missing("x86_64")
    if not (packages.folder / "unpacked").exists():
        why = "no kernel is fetched: make test-live does"
    if why:
        pytest.skip(why)
    folder = tmp_path_factory.mktemp("guest")
    with Machine(command(RECIPE, packages, folder), folder, RECIPE.ram) as machine:
        yield machine, areas_in(machine.wait_for("READY").splitlines())


def opened(machine: Machine) -> LiveMachine:
    return qemu(machine.live, gdb=machine.gdb)


def test_memory_that_a_running_process_wrote_is_read_through_its_tables(
    booted: tuple[Machine, list[Area]],
) -> None:
    machine, areas = booted
    found = 0
    with opened(machine) as live:
        assert live.running
        for _ in range(50):
            with live.paused():
                users = [cpu for cpu in range(3) if live.cpus[cpu].general["cs"] & 3]
                for cpu in users:
                    found += marks(live, cpu, areas)
            if found >= 8:
                break
        assert live.running
    assert found >= 8


def marks(live: LiveMachine, cpu: int, areas: list[Area]) -> int:
    """How many areas of a process hold what it wrote. Process n runs on CPU n."""
    first = min(area.process for area in areas)
    space = live.space(cpu)
    mine = [area for area in areas if area.process == first + cpu]
    vas = [area.first for area in mine if area.kind.startswith(("small", "thp", "hugetlb", "high"))]
    pas, statuses = space.translate_many(vas, "r", True)
    assert (statuses == Status.OK).all()
    for va, pa in zip(vas, pas.tolist(), strict=True):
        assert live.read(pa, 16) == b"ptcore  " + va.to_bytes(8, "little")
    return len(vas)


def test_what_a_stopped_kernel_has_mapped_is_what_qemu_says(
    booted: tuple[Machine, list[Area]], tmp_path: Path
) -> None:
    machine, _ = booted
    with opened(machine) as live, live.paused():
        rows = live.space(2).mappings()
        pages = sum(
            (int(row["last"]) - int(row["first"]) + 1) // int(row["page_size"]) for row in rows
        )
        assert machine.ask("info tlb", 2).count("\n") == pages
        assert pages > 5000
        assert live.pages.calls <= 4
