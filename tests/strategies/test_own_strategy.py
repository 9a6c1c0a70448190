"""The example of docs/strategies.md, as a user would run it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs/strategies.md"


def test_the_documents_example_runs_and_shows_its_exposure(tmp_path: Path) -> None:
    found = re.search(r"<!-- example -->\n```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert found is not None
    code = found[1]
    assert len(code.splitlines()) < 55
    (tmp_path / "mine.py").write_text(code)
    main = "from ptcore.cli import main; main()"
    command = [sys.executable, "-c", main, "compare", "secrets", "--size", "30"]
    source = str(Path(__file__).parents[2] / "src")
    ran = subprocess.run(
        [*command, "--strategies", "direct_map,mine:Fresh"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": source},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert "fresh" in ran.stdout
    windows = next(line for line in ran.stdout.splitlines() if line.startswith("exposure windows"))
    assert windows.split()[-1] == "30"
