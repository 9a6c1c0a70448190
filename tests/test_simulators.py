"""Every test that docs/simulators.md names is there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_every_cell_of_our_own_names_a_test_that_exists() -> None:
    rows = re.findall(r"^\| ([^|]+) \| ([^|]+) \|", (ROOT / "docs/simulators.md").read_text(), re.M)
    cells = {what: cell for what, cell in rows if what.strip(" -")}
    assert len(cells) > 15
    for what, cell in cells.items():
        named = re.match(r"`([\w/]+\.py)(?:::(\w+))?`", cell)
        assert named, f"{what}: {cell} names no test"
        path = ROOT / "tests" / named[1]
        tree = ast.parse(path.read_text())
        tests = {n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)}
        assert named[2] is None or named[2] in tests, f"{what}: {named[1]} has no {named[2]}"
