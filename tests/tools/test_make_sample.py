"""make_sample takes the names of processes out of a trace, and nothing else."""

from __future__ import annotations

import importlib.util
import lzma
from pathlib import Path

import numpy as np
import pytest

from ptcore.workloads import read_ftrace, sample_path

TOOL = Path(__file__).parents[2] / "tools/make_sample.py"
FIELDS = "d..1.   1.000001: free_vmap_area_noflush: va_start=0xffffc90000004000 nr_lazy=5"


@pytest.fixture(scope="module")
def anonymise():
    spec = importlib.util.spec_from_file_location("make_sample", TOOL)
    assert spec is not None
    assert spec.loader is not None
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    return tool.anonymise


@pytest.mark.parametrize(
    "name", ["secret", "my secret", "secret-1", "a-1 [0] secret", "<secret>", "secret:0/u8"]
)
def test_no_part_of_a_name_is_left(anonymise, name: str) -> None:
    assert anonymise(f"{name:>16}-21 [000] {FIELDS}\n") == f"{'task':>16}-21 [000] {FIELDS}\n"
    assert "secret" not in anonymise(f"{name:>16}-21    (   20) [000] {FIELDS}\n")
    assert "secret" not in anonymise(f"{name:>16}-21 [000] d..")


def test_headers_blank_lines_and_lost_events_stay(anonymise) -> None:
    text = (
        f"# tracer: nop\n#  TASK-PID     CPU#\n\n  task-1 [000] {FIELDS}\nCPU:1 [LOST 2 EVENTS]\n"
    )
    assert anonymise(text) == text


def test_the_bundled_trace_has_no_names_and_reads_alike_after_another_pass(anonymise) -> None:
    with sample_path() as path:
        text = lzma.decompress(path.read_bytes()).decode()
        events = read_ftrace(path).events
    assert anonymise(text) == text
    assert np.array_equal(read_ftrace(anonymise(text).splitlines()).events, events)
