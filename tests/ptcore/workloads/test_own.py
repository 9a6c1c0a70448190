"""A workload of one's own, as docs/strategies.md shows it, and what is none."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from ptcore.cli.commands import ptcore
from ptcore.errors import TraceError
from ptcore.workloads.own import own_workload

PAGE = Path(__file__).parents[3] / "docs/strategies.md"


def test_the_documents_workload_runs(tmp_path: Path, monkeypatch) -> None:
    found = re.search(r"<!-- workload -->\n```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert found is not None
    (tmp_path / "mine_documented.py").write_text(found[1])
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(
        ptcore, ["compare", "mine_documented:twice", "-s", "direct_map,vmalloc_eager", "--json"]
    )
    assert done.exit_code == 0, done.output
    assert '"workload": "twice"' in done.output
    assert '"accesses": 2' in done.output


BODY = """
from ptcore.workloads.steps import StepKind, Workload, steps_of
ABOUT = (0, 1, 1, False, 0)
def row(time, kind):
    return (time, kind, 0, *ABOUT, 0, 0)
def twice_begun():
    return Workload("w", steps_of([row(0, StepKind.ACQUIRE), row(1, StepKind.ACQUIRE)]), 1)
def never_begun():
    return Workload("w", steps_of([row(0, StepKind.RELEASE)]), 1)
def backwards():
    made = Workload("w", steps_of([row(0, StepKind.ACQUIRE), row(9, StepKind.RELEASE)]), 1)
    made.steps["time_ns"] = [9, 0]
    return made
def nothing():
    return 7
def asks(more):
    return None
"""


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("twice_begun", "step 1: allocation 0 is live already"),
        ("never_begun", "step 0: allocation 0 is not live"),
        ("backwards", "step 1 goes back in time"),
        ("nothing", "no Workload"),
        ("asks", "no function of nothing"),
        ("absent", "absent"),
    ],
)
def test_what_is_no_workload_is_refused_by_name(
    tmp_path: Path, monkeypatch, name: str, said: str
) -> None:
    (tmp_path / "mine_broken.py").write_text(BODY)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(TraceError, match=said):
        own_workload(f"mine_broken:{name}")
    with pytest.raises(TraceError, match="cannot be imported"):
        own_workload("no_such_module_here:f")
