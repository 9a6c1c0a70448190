"""`ptcore compare`: several workloads, a CPU, files that are whole, access traces, and Ctrl-C."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from rich.console import Console

from ptcore import strategies
from ptcore.cli import show
from ptcore.cli.commands import ptcore
from ptcore.cli.progress_columns import bar
from ptcore.machine import Ledger
from ptcore.study.questions import QUESTIONS
from ptcore.workloads.scenarios import SCENARIOS

FEW = ("-s", "direct_map,vmalloc_lazy,iommu_strict", "--size", "20")


def run(*arguments: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(ptcore, ["compare", *arguments], catch_exceptions=False)
    return done.exit_code, done.stdout, done.stderr


def test_several_workloads_have_a_winner_each_and_per_question() -> None:
    code, out, _ = run("secrets", "nic_10g", *FEW)
    assert code == 0
    for question in QUESTIONS:
        assert f"{question.name}: {question.text}" in out
    lines = [line for line in out.splitlines() if line.startswith(("secrets", "nic_10g"))]
    assert len(lines) == 2 * (1 + len(QUESTIONS))
    _, out, _ = run("secrets", "nic_10g", *FEW, "--json")
    found = json.loads(out)["comparisons"]
    assert [one["workload"].split(",")[0] for one in found] == ["secrets", "nic_10g"]
    for one in found:
        assert [a["name"] for a in one["answers"]] == [q.name for q in QUESTIONS]
        assert [a["name"] for a in one["winners"]] == [
            "cheapest",
            "cheapest, off the direct map",
            "cheapest, nothing exposed",
        ]
        cheapest = one["winners"][0]
        assert cheapest["margin_least"] <= cheapest["margin"] <= cheapest["margin_most"]


def test_all_scenarios_are_those_that_are_listed() -> None:
    code, out, _ = run(
        "--all-scenarios", "-s", "direct_map", "--size", "4", "--touch", "none", "--json"
    )
    assert code == 0
    names = [one["workload"].split(",")[0] for one in json.loads(out)["comparisons"]]
    assert names == list(SCENARIOS)
    assert run("secrets", "--all-scenarios")[0] == 2


def test_all_strategies_are_those_that_are_listed() -> None:
    code, out, _ = run("guest_memfd", "--size", "5", "-s", "all", "--json")
    assert code == 0
    assert [row["strategy"] for row in json.loads(out)["rows"]] == list(strategies.names())


def test_the_hybrids_regret_is_shown_phase_by_phase() -> None:
    arguments = ("phases", "--size", "40", "-s", "hybrid", "--regret")
    code, out, _ = run(*arguments, "--json")
    assert code == 0
    phases = json.loads(out)["regret"]
    assert len(phases) == 4
    for phase in phases:
        least = min(phase["alone"].values())
        assert phase["alone"][phase["best"]] == least
        assert phase["regret"] == pytest.approx(phase["cycles"] / least - 1)
    assert "beside the best of its parts alone" in run(*arguments)[1]


def test_another_cpus_hardware_misses_otherwise(tmp_path: Path) -> None:
    """One page in turn with 100 others: Zen 4 holds them in its first level, Cortex-A55 does not."""
    vas = np.array([0x1000 * n for n in range(40)] * 30, dtype=np.uint64)
    np.save(tmp_path / "t.npy", vas)
    hits = {}
    for cpu in ("zen4", "cortex_a55"):
        code, out, _ = run(str(tmp_path / "t.npy"), "-s", "vmalloc_eager", "--cpu", cpu, "--json")
        assert code == 0
        found = json.loads(out)
        assert found["cpu"] == cpu
        hits[cpu] = found["rows"][0]["tlb_hits"]
    assert hits["zen4"] == 0
    assert hits["cortex_a55"] > 100, "served by a lower level"
    code, _, err = run("secrets", *FEW, "--cpu", "zen44")
    assert (code, err.count("\n")) == (2, 1)
    assert "zen4" in err


def test_a_trace_of_accesses_is_a_workload_and_may_be_cut(tmp_path: Path) -> None:
    np.save(tmp_path / "t.npy", np.array([0x1000, 0x2000, 0x1000, 0x3000], dtype=np.uint64))
    _, out, _ = run(str(tmp_path / "t.npy"), "-s", "ephemeral_map", "--json")
    assert json.loads(out)["rows"][0]["mappings_made"] == 4
    _, out, _ = run(str(tmp_path / "t.npy"), "-s", "ephemeral_map", "--uses", "2", "--json")
    assert json.loads(out)["rows"][0]["mappings_made"] == 2


def test_reports_are_written_beside_what_is_printed(tmp_path: Path) -> None:
    html, table = tmp_path / "r.html", tmp_path / "r.parquet"
    code, out, _ = run("secrets", *FEW, "--html", str(html), "--parquet", str(table))
    assert code == 0
    assert "Who answers" in out
    assert html.read_text().startswith("<!doctype html>")
    assert table.read_bytes().startswith(b"PAR1")
    assert {path.name for path in tmp_path.iterdir()} == {"r.html", "r.parquet"}
    code, _, err = run("secrets", *FEW, "--html", str(tmp_path / "no" / "r.html"))
    assert code == 2
    assert "No such file" in err


@pytest.mark.parametrize("width", [80, 120])
def test_no_table_of_figures_is_wider_than_the_window_or_cut(
    width: int, monkeypatch, capsys
) -> None:
    monkeypatch.setattr(
        show, "console", lambda: Console(force_terminal=True, width=width, color_system=None)
    )
    rows = [[f"a_strategy_of_many+page_table_cache_{n}", *([1_234_567] * 9)] for n in range(14)]
    show.split_table("Figures", ["strategy", *(f"column {n}" for n in range(9))], rows)
    lines = capsys.readouterr().out.splitlines()
    assert all(len(line) <= width for line in lines)
    assert "…" not in "".join(lines)
    assert sum(line.count("1,234,567") for line in lines) == 14 * 9
    assert sum("page_table_cache_3 " in line for line in lines) >= 2


SLOW = """
import time
from pathlib import Path
from ptcore.strategies.direct_map import DirectMap

class Slow(DirectMap):
    def acquire(self, request):
        Path("started").touch()
        time.sleep(0.01)
        return super().acquire(request)
"""


def stopped(tmp_path: Path, sign: signal.Signals, *more: str) -> tuple[int, str, str]:
    """Run a slow strategy into `tmp_path`/out, stop it by a signal, and return how it ended."""
    (tmp_path / "slow_one.py").write_text(SLOW)
    (tmp_path / "out").mkdir()
    main = "from ptcore.cli import main; main()"
    arguments = ["compare", "secrets", "--size", "20000", "-s", "slow_one:Slow", *more]
    source = str(Path(__file__).parents[3] / "src")
    started = subprocess.Popen(
        [sys.executable, "-c", main, *arguments],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": source, "TMPDIR": str(tmp_path / "out")},
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    patience = time.monotonic() + 90
    while not (tmp_path / "started").exists() and time.monotonic() < patience:
        time.sleep(0.1)
    started.send_signal(sign)
    out, err = started.communicate(timeout=90)
    return started.returncode, out, err


def test_ctrl_c_leaves_no_half_file_and_says_so(tmp_path: Path) -> None:
    kept = tmp_path / "out"
    more = ("--html", str(kept / "r.html"), "--ledgers", str(kept))
    code, out, err = stopped(tmp_path, signal.SIGINT, *more)
    assert code == 130, err
    assert out == ""
    assert err == "ptcore: interrupted; no file was written half\n"
    # What there is of the ledger is whole as far as it goes.
    (place,) = kept.iterdir()
    assert place.name == "direct_map.unfinished.npz"
    assert len(Ledger.load(place)) > 0


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGHUP])
def test_a_command_that_is_told_to_end_takes_its_temporary_ledger_away(
    sign: signal.Signals, tmp_path: Path
) -> None:
    code, out, err = stopped(tmp_path, sign, "--ledger-rows", "1")
    assert (code, out, err) == (128 + sign, "", "")
    assert not list((tmp_path / "out").iterdir())


def test_a_ledger_beyond_the_limit_is_a_folder_that_explain_reads(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    few = ["-s", "iommu_deferred", "--size", "40", "--ledgers", str(kept)]
    for _ in range(2):  # a second run takes the place of the first
        code, _, _ = run("secrets", *few, "--ledger-rows", "100")
        assert code == 0
        (folder,) = kept.iterdir()
        assert folder.name == "iommu_deferred"
        assert len(list(folder.iterdir())) > 3
    result = CliRunner().invoke(ptcore, ["explain", str(folder)])
    assert result.exit_code == 0
    code, _, _ = run("secrets", *few)
    assert code == 0
    told = CliRunner().invoke(ptcore, ["explain", str(kept / "iommu_deferred.npz")])
    assert told.output == result.output != ""


@pytest.mark.skipif(sys.platform == "win32", reason="limits of file sizes are POSIX's")
def test_a_ledger_that_finds_no_room_is_named_and_called_unfinished(tmp_path: Path) -> None:
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000)); "
    main = limit + "from ptcore.cli import main; main()"
    arguments = ["compare", "secrets", "--size", "300", "-s", "iommu_deferred"]
    arguments += ["--ledgers", "kept", "--ledger-rows", "100"]
    source = str(Path(__file__).parents[3] / "src")
    environment = {**os.environ, "PYTHONPATH": source, "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", main, *arguments],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    part = Path("kept/iommu_deferred/part-000000.parquet")
    assert done.stderr == f"ptcore: {part}: File too large\n"
    (kept,) = (tmp_path / "kept").iterdir()
    assert kept.name.startswith("iommu_deferred.unfinished")
    assert len(Ledger.load(kept)) > 0
    assert not list(tmp_path.rglob("part-*.unfinished"))


def test_what_an_output_lacks_is_said_before_the_work(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(
        "ptcore.cli.compare_commands.compare_all", lambda *_, **__: pytest.fail("it was run")
    )
    for option in ("--html", "--parquet"):
        code, _, err = run("secrets", *FEW, option, str(tmp_path / "no" / "file"))
        assert (code, err) == (2, f"ptcore: {tmp_path / 'no'}: No such file or directory\n")


@pytest.mark.parametrize("width", [80, 100, 160])
def test_a_bar_shows_its_total_and_its_time_in_any_window(width: int, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    shown = bar()
    shown.add_task("comparing: a-trace-of-a-kernel.ftrace.txt.xz, kmap_local", total=1_143_242)
    shown.update(shown.task_ids[0], completed=76_741)
    screen = Console(width=width, color_system=None)
    with screen.capture() as told:
        screen.print(shown.get_renderable())
    (line,) = told.get().splitlines()
    assert "kmap_local ━" in line
    assert "76,741/1,143,242" in line
    assert line.rstrip().endswith("-:--:--")


def test_tables_and_shootdowns_are_those_that_were_asked_for() -> None:
    asked = ("secrets", "--size", "40", "-s", "naive_unmap,unmapped_pool", "--json")
    found = {}
    for name, options in {
        "interrupts": (),
        "counts": ("--shootdown", "counts"),
        "ranges": ("--shootdown", "ranges", "--format", "aarch64_4k_48", "--cpu", "neoverse_n1"),
    }.items():
        code, out, err = run(*asked, *options)
        assert code == 0, err
        found[name] = json.loads(out)
        assert found[name]["shootdown"] == name
    formats = [found[name]["format"] for name in ("interrupts", "counts", "ranges")]
    assert formats == ["x86_64_4level", "x86_64_4level", "aarch64_4k_48"]
    naive, pool = ([found[name]["rows"][n] for name in found] for n in (0, 1))
    assert [row["cpus_interrupted"] > 0 for row in naive] == [True, False, False]
    # The others invalidate all the same, and what is broadcast is priced.
    assert naive[0]["remote_invalidations"] == naive[1]["remote_invalidations"] > 0
    assert naive[0]["cycles_per_operation"] > naive[1]["cycles_per_operation"] > 0
    # Without BBML2 the pool's direct map is of pages from the start, and nothing is split.
    assert pool[2]["boot_table_bytes"] > 100 * pool[0]["boot_table_bytes"]
    assert pool[0]["split_table_bytes"] > pool[2]["split_table_bytes"] == 0


def test_regret_is_that_of_the_machine_that_was_asked_for() -> None:
    asked = ("phases", "--size", "80", "-s", "direct_map", "--regret", "--json")
    regrets = []
    for options in ((), ("--cpus", "16"), ("--shootdown", "counts"), ("--cpu", "zen4")):
        code, out, err = run(*asked, *options)
        assert code == 0, err
        regrets.append(json.dumps(json.loads(out)["regret"]))
    assert len(set(regrets)) == len(regrets)
