"""A page's life in words, and constants from a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from ptcore import strategies
from ptcore.cli.commands import ptcore
from ptcore.errors import FormatError, OutOfRange, TraceError
from ptcore.machine import Event, Ledger, Machine, Request
from ptcore.machine.cost import DEFAULT_CONSTANTS, read_constants
from ptcore.machine.exposure import EVENTS, windows, windows_by_chunk
from ptcore.study.story import _cpus, _Row, _Steps, _Teller, story
from ptcore.units import Span
from ptcore.workloads.replay import replay
from ptcore.workloads.scenarios import scenario

PAGE = 4096


def lived(name: str) -> tuple[Machine, int]:
    machine = Machine(2, ram="1G")
    strategy = strategies.get(name).make(machine)
    handle = strategy.acquire(Request(0, 2))
    machine.advance(1_000_000)
    strategy.access(handle, Span.of(0, 2 * PAGE), 1, "w")
    machine.advance(2_000_000)
    strategy.release(handle, 1)
    machine.advance(50_000_000)
    return machine, handle.pa + PAGE


def test_a_page_of_eager_vmalloc_from_birth_to_death() -> None:
    machine, pa = lived("vmalloc_eager")
    lines = story(machine.ledger, pa + 123)
    words = ["takes its frame, with 1", "maps it", "CPU 1 touches", "out of the tables",
             "all 2 CPUs drop", "gives its frame back"]  # fmt: skip
    assert lines[0] == f"The page at {pa:#x}:"
    assert len(lines) == 1 + len(words)
    assert all(word in line for word, line in zip(words, lines[1:], strict=True))
    assert "2.000000 ms" in lines[-1]


def test_what_outlives_the_page_is_said() -> None:
    machine, pa = lived("vmalloc_lazy")
    assert "may still be cached" in story(machine.ledger, pa)[-1]
    machine, pa = lived("iommu_deferred")
    lines = story(machine.ledger, pa)
    assert "the device drops" in lines[-2]
    assert "12.000000 ms" in lines[-1]
    assert "exposed for 10 ms" in lines[-1]
    assert any("1 TLB still holds" in line for line in lines)


def test_who_else_had_an_exposed_page_is_said() -> None:
    machine = Machine(1, ram="1G")
    strategy = strategies.get("iommu_deferred").make(machine)
    first = strategy.acquire(Request(0, 1))
    strategy.release(first, 0)
    second = strategy.acquire(Request(0, 1))
    assert second.pa == first.pa
    machine.advance(11_000_000)
    assert story(machine.ledger, first.pa)[-1].endswith("while it served somebody else")


def test_another_cpus_own_invalidation_does_not_end_an_exposure() -> None:
    machine = Machine(2, ram="1G")
    strategy = strategies.get("ephemeral_map").make(machine)
    handle = strategy.acquire(Request(0, 1))
    strategy.access(handle, Span.of(0, PAGE), 1, "w")
    strategy.release(handle, 1)
    machine.invalidate(None, 0, (0,))
    assert "may still be cached" in story(machine.ledger, handle.pa)[-1]
    machine.advance(3_000_000)
    machine.invalidate(None, 1, (1,))
    assert "exposed for 3 ms" in story(machine.ledger, handle.pa)[-1]


@pytest.mark.parametrize("name", strategies.names())
def test_every_strategy_has_a_story_with_a_touch_and_a_sane_order(name: str) -> None:
    machine, pa = lived(name)
    lines = story(machine.ledger, pa)
    assert any("touches it" in line for line in lines), lines
    assert any("gives it" in line for line in lines), lines
    assert not any("1 TLBs" in line or "CPUs 0 drop" in line for line in lines)
    times = [float(line.split()[0]) for line in lines if line.strip()[0].isdigit()]
    assert times == sorted(times)


def test_the_default_page_is_the_one_exposed_longest_or_the_first() -> None:
    for name in ("iommu_deferred", "vmalloc_eager"):
        machine, pa = lived(name)
        assert story(machine.ledger)[0] == f"The page at {pa - PAGE:#x}:"
    with pytest.raises(TraceError, match="no frame"):
        story(Ledger())
    with pytest.raises(TraceError, match="says nothing"):
        story(machine.ledger, 0x3000_0000)
    for pa in (-1, 1 << 64):
        with pytest.raises(OutOfRange, match="64 bits"):
            story(machine.ledger, pa)


class InChunks:
    """A ledger that is read a few rows at a time."""

    def __init__(self, ledger: Ledger, most: int) -> None:
        self.ledger, self.most = ledger, most

    def chunks(self, first_row: int = 0, *, events: Any = None) -> Any:
        return self.ledger.chunks(first_row, events=events, most=self.most)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.ledger, name)

    def __len__(self) -> int:
        return len(self.ledger)


@pytest.mark.parametrize("name", strategies.names())
def test_what_is_read_in_chunks_is_what_every_row_says_one_by_one(name: str) -> None:
    machine = Machine(4, ram="4G")
    workload = scenario("page_cache", 60, 4)
    replay(workload, strategies.get(name).make(machine), machine, None)
    ledger = machine.ledger
    taken = ledger.rows(events=(Event.FRAMES_ALLOCATED, Event.POOL_TAKEN))
    pages = [
        int(taken["pa"][len(taken) // 2]),
        int(taken["pa"][-1]) + PAGE * int(taken["count"][-1] - 1),
    ]
    cpus = _cpus(ledger, _Steps(ledger, False, None))[1]
    for pa in pages:
        teller = _Teller(ledger, pa, ledger.totals()[Event.MAPPED][0] > 0, cpus)
        for row in ledger.rows().tolist():
            teller.tell(_Row(*row))
        expected = teller.lines()
        assert len(expected) > 2
        for most in (7, 1000, 1 << 16):
            assert story(InChunks(ledger, most), pa)[1:] == expected


@pytest.mark.parametrize(
    "name", ["iommu_deferred", "vmalloc_lazy", "page_table_cache+unmapped_pool"]
)
def test_windows_come_a_part_at_a_time_and_the_longest_of_all_names_the_page(name: str) -> None:
    machine = Machine(4, ram="4G")
    replay(scenario("phases", 200, 4), strategies.get(name).make(machine), machine, None)
    ledger = machine.ledger
    whole = windows(ledger, 4)
    lengths = whole["end_ns"] - whole["start_ns"]
    expected = f"The page at {int(whole['pa'][np.argmax(lengths)]) & -PAGE:#x}:"
    for most in (5, 333, 1 << 16):
        few = InChunks(ledger, most)
        counts, parts = zip(*windows_by_chunk(few, 4), strict=True)
        assert np.array_equal(np.concatenate(parts), whole)
        assert sum(counts) == sum(ledger.totals()[event][0] for event in EVENTS)
        assert story(few)[0] == expected
    assert len(whole) > 50
    assert sum(len(part) > 0 for part in parts) <= 2
    assert len(np.unique(lengths)) > 10


def test_progress_goes_up_to_the_end() -> None:
    machine, _ = lived("iommu_deferred")
    told: list[tuple[str, int, int]] = []
    story(machine.ledger, progress=lambda *one: told.append(one))
    assert list(dict.fromkeys(what for what, _, _ in told)) == ["CPUs", "exposed pages", "the page"]
    done = [rows for _, rows, _ in told]
    assert done == sorted(done)
    assert done[-1] == told[-1][2] == told[0][2]


def test_leaves_that_are_split_and_collapsed_are_told_where_the_page_is_in_them() -> None:
    ledger = Ledger()
    ledger.append(Event.FRAMES_ALLOCATED, 0, 0, 1, pa=0x5000)
    ledger.append(Event.MAPPED, 1, 0, 1, first=0x20_0000, last=0x20_0FFF, pa=0x5000)
    for at, event in ((2, Event.COLLAPSED), (3, Event.SPLIT)):
        ledger.append(event, at, 1, first=0x40_0000, last=0x5F_FFFF)
        ledger.append(event, at, 1, first=0x20_0000, last=0x3F_FFFF)
    lines = story(ledger, 0x5000)
    assert [" ".join(line.split()[2:6]) for line in lines[3:]] == [
        "CPU 1 makes one",
        "CPU 1 splits the",
    ]


def test_compare_saves_ledgers_and_explain_tells_them(tmp_path: Path) -> None:
    run = CliRunner()
    arguments = ["compare", "secrets", "--size", "10", "-s", "vmalloc_lazy", "--ledgers"]
    assert run.invoke(ptcore, [*arguments, str(tmp_path / "new")]).exit_code == 0
    told = run.invoke(ptcore, ["explain", str(tmp_path / "new/vmalloc_lazy.npz")])
    assert told.exit_code == 0, told.output
    assert "gives its frame back" in told.output
    page = told.output.split()[3].rstrip(":")
    again = run.invoke(ptcore, ["explain", str(tmp_path / "new/vmalloc_lazy.npz"), "--pa", page])
    assert again.output == told.output
    assert run.invoke(ptcore, ["explain", str(tmp_path / "new"), "--pa", "no"]).exit_code == 2
    (tmp_path / "no.npz").write_text("no ledger")
    assert run.invoke(ptcore, ["explain", str(tmp_path / "no.npz")]).exit_code == 2


TOML = """
[interrupt]
value = 2000
unit = "cycles"
source = "measured here"
uncertainty = "x1.2"
"""


def test_constants_of_a_file_stand_in_the_places_of_the_default_ones(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(TOML)
    found = read_constants(file)
    assert found["interrupt"].value == 2000
    assert found["entry"] == DEFAULT_CONSTANTS["entry"]
    arguments = [
        "compare",
        "secrets",
        "--size",
        "5",
        "-s",
        "vmalloc_eager",
        "--constants",
        str(file),
    ]
    result = CliRunner().invoke(ptcore, arguments)
    assert "measured here" in result.output


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("[interrupt]", "[interupt]", "no constant is called"),
        ("[interrupt]", "[clock]", "GHz"),
        ('"cycles"', '"hours"', "cycles or ns"),
        ("2000", "-1", "at least 0"),
        ("2000", "true", "value cannot be"),
        ("value = 2000", "", "a table of"),
        ("[interrupt]", "[interrupt", "mine.toml"),
    ],
)
def test_what_is_no_constant_is_refused_by_name(
    tmp_path: Path, old: str, new: str, reason: str
) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(TOML.replace(old, new))
    with pytest.raises(FormatError, match=reason):
        read_constants(file)
