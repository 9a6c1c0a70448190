"""Live machines: a real QEMU whose memory is a real guest's, through QMP, its gdbstub, and both."""

from __future__ import annotations

import re
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ptcore
from guests import snapshots
from guests.frozen import Frozen, frozen, missing
from guests.snapshots import Guest
from ptcore import Status
from ptcore.errors import FormatError, ImageError, OutOfRange
from ptcore.live import GdbStub, LiveMachine, is_named, named, qemu
from ptcore.live.links import GdbLink

RFLAGS_AC = 1 << 18
UPPER = 1 << 63
WAYS = ("qmp", "gdb", "both")
GUESTS = ("x86_64-4level", "x86_64-5level-pti", "riscv64-sv57")


@pytest.fixture(scope="module", params=GUESTS)
def machine(request: pytest.FixtureRequest) -> Iterator[tuple[Guest, Frozen]]:
    guest = snapshots.load(request.param)
    why = missing(guest.architecture)
    if why:
        pytest.skip(why)
    with (
        tempfile.TemporaryDirectory() as folder,
        frozen(guest, Path(folder)) as started,
    ):
        yield guest, started


def opened(started: Frozen, way: str) -> LiveMachine:
    qmp = None if way == "gdb" else started.qmp
    return qemu(qmp, gdb=None if way == "qmp" else started.gdb)


def calls_of(live: LiveMachine) -> list[int]:
    """Record the length of each list of pages that is asked for."""
    reader = live.pages
    lists: list[int] = []
    inner = reader.read_pages

    def counted(pas: Any) -> Any:
        lists.append(len(pas))
        return inner(pas)

    reader.read_pages = counted  # type: ignore[method-assign]
    return lists


@pytest.mark.parametrize("way", WAYS)
def test_a_listing_asks_for_one_list_of_pages_per_level(
    machine: tuple[Guest, Frozen], way: str
) -> None:
    guest, started = machine
    with opened(started, way) as live:
        assert len(live.cpus) == 3
        lists = calls_of(live)
        for cpu in range(3):
            live.refresh()
            lists.clear()
            space = live.space(cpu)
            kernel = space.mappings(UPPER)
            levels = len(space.tables[0].format.levels)  # type: ignore[union-attr]
            assert len(lists) <= levels, lists
            same = guest.space(cpu).mappings(UPPER)
            assert len(kernel) > 5
            assert (kernel == same).all()
            lower = space.mappings(0, UPPER - 1)
            assert (lower == guest.space(cpu).mappings(0, UPPER - 1)).all()
            assert len(lists) <= 2 * levels
            tables = sum(sum(table.stats().tables) for table in guest.space(cpu))  # type: ignore[union-attr]
            assert sum(lists) == tables, "each table is read once"


@pytest.mark.parametrize("way", WAYS)
def test_a_batch_of_addresses_asks_for_one_list_of_pages_per_level(
    machine: tuple[Guest, Frozen], way: str
) -> None:
    guest, started = machine
    with opened(started, way) as live:
        lists = calls_of(live)
        space = live.space(0)
        vas = guest.arrays["gva_0"]
        pas, statuses = space.translate_many(vas, "r", guest.user[0])
        known, same = guest.space(0).translate_many(vas, "r", guest.user[0])
        assert len(lists) <= len(space.tables[0].format.levels)  # type: ignore[union-attr]
        assert (pas == known).all()
        assert (statuses == same).all()
        assert (statuses == Status.OK).sum() > 500
        before = len(lists)
        space.translate_many(vas, "r", guest.user[0])
        assert len(lists) == before, "what is here is not asked for again"


def test_qemu_answers_now_what_it_answered_of_the_guest(machine: tuple[Guest, Frozen]) -> None:
    guest, started = machine
    with opened(started, "qmp") as live:
        link = live._asked()
        if guest.architecture == "x86_64":
            text = link.ask_monitor("info tlb")
            assert text.splitlines() == guest.said("info tlb", 0).splitlines()
        for name, value in guest.registers[0].items():
            if name not in ("rflags", "sstatus"):
                assert live.cpus[0].registers[name] == value
        assert live.cpus[0].architecture == guest.architecture
        listed = sum(span.size for span in live.segments)
        assert listed >= guest.about["ram"][1]


def test_system_registers_of_aarch64_come_through_the_gdbstub_alone(tmp_path: Path) -> None:
    guest = snapshots.load("aarch64-4k-lpa2")
    why = missing(guest.architecture)
    if why:
        pytest.skip(why)
    with frozen(guest, tmp_path) as started:
        with opened(started, "qmp") as live, pytest.raises(ImageError, match="give gdb="):
            live.space(0)
        with opened(started, "both") as live:
            cpu = live.cpus[0]
            assert cpu.architecture == "aarch64"
            assert set(guest.registers[0]) <= {*cpu.registers, "pan"}
            with pytest.raises(FormatError, match=r"SCTLR_EL1\.M"):
                live.space(0)
            lists = calls_of(live)
            registers = guest.registers[0]
            space = ptcore.AddressSpace.from_registers("aarch64", live, **registers)
            assert (space.mappings() == guest.space(0).mappings()).all()
            assert len(lists) <= 2 * 5, "five levels in each half"


def test_memory_that_is_not_there_does_not_exist(machine: tuple[Guest, Frozen]) -> None:
    _, started = machine
    with opened(started, "gdb") as live:
        with pytest.raises(OutOfRange):
            live.read(1 << 45, 8)
        assert started.memory_end not in live
        assert started.memory_end - 1 in live
        # The gdbstub itself answers with zeros there: the machine's map of memory is asked instead.
        assert isinstance(live._link, GdbLink)
        assert live._link._stub.read_physical([(1 << 45, 8)]) == [bytes(8)]


def write_physical(stub: GdbStub, pa: int, text: bytes) -> None:
    stub._see_physical()
    assert stub.ask(b"M%x,%x:%s" % (pa, len(text), text.hex().encode())) == b"OK"


def test_pages_stay_as_they_were_until_refresh_and_a_snapshot_after_it(tmp_path: Path) -> None:
    guest = snapshots.load(GUESTS[0])
    why = missing(guest.architecture)
    if why:
        pytest.skip(why)
    with frozen(guest, tmp_path) as started, opened(started, "both") as live:
        space = live.space(0)
        area = next(area for area in guest.areas() if area.kind == "small")
        walk = space.walk(area.first)
        assert isinstance(walk, ptcore.Walk)
        assert walk.status == Status.OK
        link = live._asked()
        stub = link._gdb._stub  # type: ignore[attr-defined]
        kept = live.snapshot()
        write_physical(stub, walk.path[-1].entry_address, bytes(8))
        assert space.walk(area.first).status == Status.OK
        live.refresh()
        assert space.walk(area.first).status == Status.NOT_PRESENT
        assert kept.space(0).walk(area.first) == walk
        assert kept.fetched_bytes == 4 * 4096
        assert (
            kept.space(0).walk(int(guest.space(0).mappings(UPPER)["first"][0])).status == Status.BUS
        )
        with pytest.raises(ImageError, match="snapshot"):
            kept.refresh()
        assert len(kept.cpus) == 3


def test_a_cpu_without_paging_is_refused_by_name(tmp_path: Path) -> None:
    guest = snapshots.load(GUESTS[0])
    why = missing(guest.architecture)
    if why:
        pytest.skip(why)
    with frozen(guest, tmp_path) as started:
        with GdbStub(started.gdb) as stub:
            stub.registers(stub.threads()[1])
            numbers = {name: number for number, name in stub._described}
            assert (
                stub.ask(b"P%x=%s" % (numbers["cr0"], (0x10).to_bytes(8, "little").hex().encode()))
                == b"OK"
            )
        with opened(started, "qmp") as live:
            with pytest.raises(FormatError, match=r"CR0\.PG"):
                live.space(1)
            with pytest.raises(ImageError, match="no CPU 3"):
                live.space(3)
            assert live.running is False
            with live.paused() as same:
                assert same is live
            assert live.running is False


def test_a_machine_that_runs_goes_on_running(tmp_path: Path) -> None:
    guest = snapshots.load(GUESTS[0])
    why = missing(guest.architecture)
    if why:
        pytest.skip(why)
    with frozen(guest, tmp_path) as started:
        with opened(started, "qmp") as live:
            live.resume()
            assert live.running
        with opened(started, "both") as live:
            assert live.running, "a gdbstub stops the machine: QMP lets it go on"
            with live.paused():
                assert not live.running
            assert live.running
        with opened(started, "gdb") as live:
            assert not live.running
            live.resume()
            assert live.running
            live.stop()
            assert not live.running


@pytest.mark.parametrize("way", WAYS)
def test_a_machine_that_ends_is_one_clear_error(tmp_path: Path, way: str) -> None:
    guest = snapshots.load(GUESTS[0])
    why = missing(guest.architecture)
    if why:
        pytest.skip(why)
    with frozen(guest, tmp_path) as started, opened(started, way) as live:
        before = live.space(0).mappings(UPPER)
        started.process.kill()
        started.process.wait()
        assert (live.space(0).mappings(UPPER) == before).all(), "what is here stays readable"
        with pytest.raises(ImageError):
            live.space(0).mappings()
        with pytest.raises(ImageError):
            live.refresh()
        assert (live.space(0).mappings(UPPER) == before).all(), (
            "a refresh that fails forgets nothing"
        )


def test_without_shared_files_pages_come_through_the_gdbstub(
    machine: tuple[Guest, Frozen], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    guest, started = machine
    # QEMU looks for a folder that only we think is there.
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    inner = tempfile.TemporaryDirectory

    def hidden(prefix: str) -> Any:
        made = inner(prefix=prefix)
        made.name, made.kept = f"{made.name}/not/there", made.name  # type: ignore[attr-defined]
        return made

    monkeypatch.setattr(tempfile, "TemporaryDirectory", hidden)
    with opened(started, "both") as live:
        assert isinstance(live._link, GdbLink)
        assert (live.space(0).mappings(UPPER) == guest.space(0).mappings(UPPER)).all()
        assert not live.running
    with opened(started, "qmp") as live, pytest.raises(ImageError, match="give gdb="):
        live.space(0).mappings(UPPER)


def test_a_gdbstub_on_a_port_is_as_good(tmp_path: Path) -> None:
    guest = snapshots.load(GUESTS[0])
    why = missing(guest.architecture)
    if why:
        pytest.skip(why)
    with frozen(guest, tmp_path) as started, opened(started, "qmp") as live:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        live._asked().ask_monitor("gdbserver none")
        live._asked().ask_monitor(f"gdbserver tcp:127.0.0.1:{port}")
        with qemu(gdb=f"127.0.0.1:{port}") as other:
            assert (other.space(0).mappings(UPPER) == guest.space(0).mappings(UPPER)).all()


def test_a_machine_is_named_by_a_text(machine: tuple[Guest, Frozen]) -> None:
    guest, started = machine
    for text in (
        f"qmp={started.qmp}",
        f"gdb={started.gdb}",
        f"qmp={started.qmp},gdb={started.gdb}",
    ):
        assert is_named(f"qemu:{text}")
        with named(f"qemu:{text}") as live:
            assert live.cpus[1].registers["satp" if guest.architecture == "riscv64" else "cr3"]


@pytest.mark.parametrize(
    "text", ["guest.elf", "qemu:", "qemu:/run/vm", "qemu:qmp=", "qemu:qmp=a,qmp=b"]
)
def test_a_text_that_names_no_machine_is_refused(text: str) -> None:
    with pytest.raises(ImageError, match="names no machine"):
        named(text)


@pytest.mark.parametrize("page", ["docs/live.md", "README.md"])
def test_the_example_runs(page: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    guest = snapshots.load(GUESTS[0])
    why = missing(guest.architecture)
    if why:
        pytest.skip(why)
    text = (Path(__file__).parents[3] / page).read_text()
    (code,) = [
        block
        for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL)
        if "live.qemu" in block
    ]
    with frozen(guest, tmp_path) as started:
        code = code.replace("unix:/run/vm.qmp", started.qmp).replace(
            "unix:/run/vm.gdb", started.gdb
        )
        exec(compile(code, page, "exec"), {"ptcore": ptcore})
    out = capsys.readouterr().out
    assert "Walk(va=0xffff888000000000" in out
    if page == "docs/live.md":
        assert out.count("'cr3'") == 3
        assert len(out.splitlines()) > 20


def test_places_where_nothing_answers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        qemu()
    with pytest.raises((OSError, ImageError)):
        qemu(tmp_path / "none")
    with pytest.raises(OSError, match="none"):
        qemu(gdb=tmp_path / "none")


def test_the_fastest_way_is_measured(machine: tuple[Guest, Frozen]) -> None:
    """Both ways give the same pages, whatever the list looks like."""
    guest, started = machine
    start, _ = guest.about["ram"]
    dice = np.random.default_rng(1)
    with opened(started, "qmp") as one, opened(started, "gdb") as other:
        for density in (1, 3, 100):
            numbers = np.unique(dice.integers(0, 200 * density, 200)).astype(np.uint64)
            pas = numbers * np.uint64(4096) + np.uint64(start + (1 << 24))
            first = one.pages.read_pages(pas)
            second = other.pages.read_pages(pas)
            assert [bytes(a or b"") for a in first] == [bytes(b or b"") for b in second]
            assert all(a is not None and len(a) == 4096 for a in first)
