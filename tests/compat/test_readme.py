"""README keeps its word: the example runs, the two commands stand first, figures have an id."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from ptcore.errors import PermissionDenied

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def between(mark: str) -> str:
    found = re.search(rf"<!-- {mark}:.*?-->\n(.*?)<!-- /{mark} -->", README, re.DOTALL)
    assert found, f"README has no {mark} between its marks"
    return found[1]


def test_readme_opens_with_the_two_commands() -> None:
    first, second = README.splitlines()[:2]
    assert first.strip().startswith("make run")
    assert second.strip().startswith("make test")


def test_the_example_runs_as_it_stands(capsys) -> None:
    code = re.search(r"<!-- example -->\n```python\n(.*?)```", README, re.DOTALL)
    assert code
    lines = code[1].splitlines()
    assert len([line for line in lines if line.strip()]) == 10
    with pytest.raises(PermissionDenied, match=r"write is withheld by bit 1 \(R/W\) at PT"):
        exec(compile(code[1], "README.md", "exec"), {})
    printed = capsys.readouterr().out
    assert "pa=0x40000123, size=4K" in printed
    assert printed.count("\n") >= 3


def test_every_figure_has_a_bench_and_a_bound_and_the_other_way_round() -> None:
    claims = tomllib.loads((ROOT / "bench/claims.toml").read_text())
    rows = re.findall(r"^\| `(\w+)` \|", between("figures"), re.MULTILINE)
    assert rows == list(claims)
    for claim in claims.values():
        assert (ROOT / "bench" / claim["bench"]).is_file()
        assert claim["sentence"]
        assert "bound" in claim or claim["unit"]


def test_the_folder_map_names_what_exists() -> None:
    house = README[README.index("## The house") : README.index("## Figures")]
    named = re.findall(r"`((?:src|tests|bench|docs|tools)/[\w/.]*)`", house)
    assert len(named) > 12
    for path in named:
        assert (ROOT / path).exists(), path
    rooms = {
        p.name for p in (ROOT / "src/ptcore").iterdir() if p.is_dir() and p.name != "__pycache__"
    }
    assert rooms <= {Path(path).name for path in named}
