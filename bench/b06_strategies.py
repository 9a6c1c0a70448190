"""A million requests of the Zipf scenario on 8 CPUs, through every strategy: one process each.

A request is an allocation with one access to each of its pages and its release: three calls of the strategy.
The steps are made beforehand. Time is the process's own, all threads, from the first step to the last, with
the ledger going to disk beyond its limit; what is read out of the ledger afterwards is not in it.
usage: python bench/b06_strategies.py [STRATEGY ...]     prints a line for each
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from side_by_side import Result

from ptcore import strategies
from ptcore.machine import Ledger, Machine
from ptcore.study.compare import DEFAULT_RAM, ROWS_IN_MEMORY
from ptcore.workloads.replay import replay
from ptcore.workloads.scenarios import scenario
from ptcore.workloads.steps import Touch, Workload

REQUESTS = 1_000_000
CPUS = 8


def peak_bytes() -> int:
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def run(name: str, steps: str) -> dict[str, object]:
    """Replay the steps through a strategy; seconds, growth of this process, and rows of the ledger."""
    # Mapped, not read: pages of the file are no growth that a strategy causes.
    workload = Workload("zipf", np.load(steps, mmap_mode="r"), CPUS)
    machine = Machine(CPUS, ram=DEFAULT_RAM, ledger=Ledger(limit_rows=ROWS_IN_MEMORY))
    strategy = strategies.get(name).make(machine)
    mapped = int(np.asarray(workload.steps["kind"]).sum())  # every page of the file is here now
    before, start = peak_bytes(), time.process_time()
    replay(workload, strategy, machine, Touch(1))
    seconds = time.process_time() - start
    return {
        "strategy": name,
        "seconds": round(seconds, 2),
        "growth_mib": round((peak_bytes() - before) / 2**20),
        "rows": len(machine.ledger),
        "checked": mapped > 0,
    }


def measured(names: list[str]) -> Iterator[dict[str, object]]:
    with tempfile.TemporaryDirectory() as folder:
        steps = Path(folder) / "steps.npy"
        np.save(steps, scenario("zipf", REQUESTS, CPUS).steps)
        for name in names:
            command = [sys.executable, __file__, "--one", name, str(steps)]
            ended = subprocess.run(command, capture_output=True, text=True, check=True)
            yield json.loads(ended.stdout)


def results() -> Iterator[Result]:
    found = list(measured(list(strategies.names())))
    slowest = max(found, key=lambda row: float(str(row["seconds"])))
    note = "; ".join(
        f"{row['strategy']} {row['seconds']} s, +{row['growth_mib']} MiB, {row['rows']:,} rows"
        for row in found
    )
    seconds = float(str(slowest["seconds"]))
    yield Result(
        "zipf_million", seconds, None, None, 0.0, 1, f"slowest: {slowest['strategy']}; {note}"
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        sys.stdout.write(json.dumps(run(*sys.argv[2:])) + "\n")
    else:
        for row in measured(sys.argv[1:] or list(strategies.names())):
            sys.stdout.write(json.dumps(row) + "\n")
            sys.stdout.flush()
