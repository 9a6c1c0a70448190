"""The main job: every strategy over the bundled trace."""

from __future__ import annotations

from collections.abc import Iterator

from side_by_side import Result, measure

from ptcore.study import compare
from ptcore.workloads import read_sample
from ptcore.workloads.recorded import workload_of


def results() -> Iterator[Result]:
    workload = workload_of(read_sample())
    yield measure(
        "read_trace", read_sample, None, 1, rounds=5, note="10,471 lines, unpacked and read"
    )
    yield measure(
        "compare",
        lambda: compare(workload),
        None,
        1,
        rounds=3,
        note=f"{len(workload.steps):,} steps, every strategy, pages touched once",
    )
