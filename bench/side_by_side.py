"""Measure two things in one run, turn by turn, and say how they compare.

Machines are noisy and drift; a ratio of neighbours does not. Each round times the subject and the
baseline back to back, and the ratio is the median over rounds. Memory is touched before the clock
starts. Times are kept as pyperf benchmarks, with the machine's metadata.
"""

from __future__ import annotations

import platform
import statistics
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field

import pyperf

Work = Callable[[], object]


@dataclass(frozen=True)
class Result:
    """One claim measured. Times in nanoseconds per item, or in the claim's unit where that says another;
    `ratio` is subject over baseline."""

    claim: str
    subject_ns: float
    baseline_ns: float | None
    ratio: float | None
    spread: float
    rounds: int
    note: str = ""
    samples: list[float] = field(default_factory=list, repr=False)

    def to_dict(self) -> dict[str, object]:
        row = {k: v for k, v in self.__dict__.items() if k != "samples"}
        return {k: round(v, 3) if isinstance(v, float) else v for k, v in row.items()}


def timed(work: Work) -> float:
    start = pyperf.perf_counter()
    work()
    return pyperf.perf_counter() - start


def measure(
    claim: str,
    subject: Work,
    baseline: Work | None,
    items: int,
    *,
    rounds: int = 15,
    before: Work | None = None,
    note: str = "",
) -> Result:
    """Time `subject` and `baseline` in turn; both handle `items` items. `before` runs untimed."""
    subject_times, baseline_times = [], []
    for number in range(rounds + 1):
        for times, work in ((subject_times, subject), (baseline_times, baseline)):
            if work is None:
                continue
            if before is not None:
                before()
            took = timed(work) / items * 1e9
            if number:  # the first round warms caches and pages up
                times.append(took)
    ratios = [a / b for a, b in zip(subject_times, baseline_times, strict=False)]
    ratio = statistics.median(ratios) if ratios else None
    spread = statistics.quantiles(ratios or subject_times, n=4)
    return Result(
        claim,
        statistics.median(subject_times),
        statistics.median(baseline_times) if baseline_times else None,
        ratio,
        spread[2] - spread[0],
        rounds,
        note,
        subject_times,
    )


def machine() -> dict[str, str]:
    """Return what the figures depend on."""
    found = pyperf.Run([1.0], collect_metadata=True).get_metadata()
    cpu = found.get("cpu_model_name", platform.processor())
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    return {
        "cpu": str(cpu),
        "python": platform.python_version(),
        "commit": commit,
    }
