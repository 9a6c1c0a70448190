"""ptcore tlb, presets and convert, as a user types them: on a trace that valgrind records here and now."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from ptcore.caches import preset_names
from ptcore.cli.commands import ptcore
from ptcore.workloads.accesses import open_accesses


def run(*arguments: str, code: int = 0) -> str:
    done = CliRunner().invoke(ptcore, arguments)
    assert done.exit_code == code, done.output
    return done.output


@pytest.fixture(scope="module")
def lackey(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("valgrind") is None:
        pytest.skip("valgrind is not installed")
    path = tmp_path_factory.mktemp("trace") / "lackey.log"
    command = ["valgrind", "--tool=lackey", "--trace-mem=yes", "--basic-counts=no"]
    done = subprocess.run([*command, f"--log-file={path}", "true"], check=False)
    if done.returncode != 0:
        pytest.skip(f"valgrind ended with {done.returncode}")
    return path


def test_a_trace_recorded_by_lackey_becomes_hit_rates(lackey: Path) -> None:
    text = run("tlb", str(lackey), "--cpu", "skylake_sp", "--cpu", "zen4", "--pages", "4k")
    assert "skylake_sp" in text
    assert "By page size" in text
    assert "By phase" in text
    found = json.loads(run("tlb", str(lackey), "--json", "--pages", "thp:8"))["results"]
    with open_accesses(lackey) as trace:
        accesses = sum(len(chunk) for chunk in trace)
    whole = found[0]["whole"]
    assert whole["accesses"] == accesses == sum(whole["hits"]) + whole["walks"]
    assert whole["hits"][0] > 0.9 * accesses
    assert whole["faults"] == 0
    data = json.loads(run("tlb", str(lackey), "--json", "--data-only"))["results"]
    assert 0 < data[0]["whole"]["accesses"] < accesses


def test_a_sweep_prints_a_curve(lackey: Path) -> None:
    text = run("tlb", str(lackey), "--pages", "4k", "--sweep", "l1.entries=16..64")
    assert [f"L1.entries={n}" in text for n in (16, 32, 64)] == [True] * 3
    text = run("tlb", str(lackey), "--sweep", "l2.entries=512..4096")
    assert [f"L2.entries={n}" in text for n in (768, 1536, 3072)] == [True] * 3


def test_traces_are_converted(lackey: Path, tmp_path: Path) -> None:
    target = tmp_path / "trace.npz"
    assert "accesses" in run("convert", str(lackey), str(target))
    one, other = (run("tlb", str(path), "--json") for path in (lackey, target))
    assert json.loads(one)["results"] == json.loads(other)["results"]


def test_damage_names_its_line_or_is_skipped(tmp_path: Path) -> None:
    path = tmp_path / "lackey.log"
    path.write_text("I  04000000,3\n L 1ffeffe7e8,8\n L nonsense,8\n S 1ffeffe7e0,8\n")
    assert "line 3" in run("tlb", str(path), code=2)
    found = json.loads(run("tlb", str(path), "--skip-bad", "--json"))
    assert found["results"][0]["whole"]["accesses"] == 3


def test_every_preset_shows_a_source_and_a_confidence_per_field() -> None:
    text = run("presets")
    assert all(name in text for name in preset_names())
    for name in preset_names():
        shown = run("presets", name)
        assert "Sources" in shown
        found = json.loads(run("presets", name, "--json"))
        assert found["sources"], name
        for field, source in found["sources"].items():
            confidence, colon, where = source.partition(": ")
            known = ("measured", "manual", "cpuid", "source", "recalled", "modelled")
            assert confidence in known, (name, field, source)
            assert colon, (name, field)
            assert where, (name, field)


def test_what_is_wrong_is_one_line(tmp_path: Path) -> None:
    assert "nearest: skylake_sp" in run("presets", "skylake", code=2)
    assert "No such file" in run("tlb", str(tmp_path / "none"), code=2)
    path = tmp_path / "t.npz"
    np.savez(path, va=np.zeros(1, np.uint64))
    assert "no 3K page" in run("tlb", str(path), "--pages", "3k", code=2)
    assert "is not LEVEL.entries" in run("tlb", str(path), "--sweep", "l2", code=2)
