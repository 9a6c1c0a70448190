"""The command line: what it prints for people and for programs, and how it refuses."""

from __future__ import annotations

import json
import lzma

import pytest
from click.testing import CliRunner

from ptcore.cli.commands import ptcore
from ptcore.workloads import sample_path


def run(*arguments: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(ptcore, list(arguments), catch_exceptions=False)
    return done.exit_code, done.stdout, done.stderr


def test_compare_prints_a_plain_table_in_a_pipe_and_json_for_programs() -> None:
    code, out, _ = run("compare", "--touch", "none", "-s", "direct_map,vmalloc_lazy")
    assert code == 0
    assert "reachable by design" in out
    assert "TLB misses (modelled)" in out
    assert "USENIX ATC 2017" in out
    assert not set("│┃─━") & set(out)
    code, out, _ = run("compare", "--touch", "none", "-s", "vmalloc_lazy", "--json")
    assert json.loads(out)["rows"][0]["mappings_made"] == 3257


def test_validate_vmalloc_holds_the_model_against_the_bundled_kernel() -> None:
    code, out, _ = run("validate", "vmalloc", "--json")
    found = json.loads(out)
    assert code == 0
    assert found["anchored"]["purged"]["exact"] == found["anchored"]["purged"]["of"] == 57
    assert "57 of 57 (100.0%)" in run("validate", "vmalloc")[1]


def test_strategies_are_listed_with_whose_they_are() -> None:
    assert "the kernel's" in run("strategies")[1]
    assert "vmalloc_lazy" in json.loads(run("strategies", "--json")[1])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("compare", "/no/such/trace"), "/no/such/trace: No such file"),
        (("compare", "-s", "vmaloc_lazy"), "nearest: vmalloc_lazy"),
        (("compare", "--touch", "often"), "'none', 'once' or a number"),
        (("compare", "--cpus", "1"), "runs on CPU 1"),
    ],
)
def test_bad_input_is_one_line_on_standard_error_and_exit_2(
    arguments: tuple[str, ...], said: str
) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert said in err
    assert err.count("\n") == 1


def test_lines_that_cannot_be_read_are_named_on_standard_error(tmp_path) -> None:
    with sample_path() as path:
        text = lzma.decompress(path.read_bytes()).decode()
    lines = text.splitlines(keepends=True)
    lines[20] = "torn\n"
    trace = tmp_path / "torn.txt"
    trace.write_text("".join(lines))
    code, out, err = run("compare", str(trace), "--touch", "none", "-s", "direct_map")
    assert code == 0
    assert "line 21: this is no line of ftrace" in err
    assert "1 lines that could not be read" in out


def test_validate_alone_holds_everything_and_counts_the_misses() -> None:
    code, out, _ = run("validate", "--json")
    assert code == 0
    found = json.loads(out)
    assert list(found) == ["vmalloc", "iommu", "published"]
    assert len(found["iommu"]) == 2
    names = [target["name"] for target in found["published"]]
    assert list(dict.fromkeys(names)) == [f"T{n}" for n in range(1, 16)]
    assert found["vmalloc"]["anchored"]["purged"]["of"] == 57
