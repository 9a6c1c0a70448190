"""What a strategy made of strategies costs beside the best of its parts alone, phase by phase."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ptcore import strategies as known_strategies
from ptcore.errors import OutOfRange
from ptcore.machine import Ledger, Machine
from ptcore.machine.cost import DEFAULT_CONSTANTS, Constant, price
from ptcore.strategies import Maker
from ptcore.study.compare import DEFAULT_RAM, ROWS_IN_MEMORY, MakeMachine, Progress, part_of
from ptcore.workloads.replay import replay
from ptcore.workloads.steps import StepKind, Touch, Workload

ALONE = ("unmapped_pool", "vmalloc_lazy", "ephemeral_map_eager")
"""The parts of `hybrid` that can serve every request alone: an IOMMU serves devices."""
PHASES = 4


@dataclass(frozen=True, slots=True)
class Phase:
    """From `start_ns` on: cycles of the whole, and of each part alone on the same steps."""

    start_ns: int
    cycles: float
    alone: Mapping[str, float]

    @property
    def best(self) -> str:
        """The part that alone costs least."""
        return min(self.alone, key=lambda name: self.alone[name])

    @property
    def regret(self) -> float:
        """(cycles - the best part's) / the best part's: below 0 where the mix beats all its parts.

        0 where neither costs anything, infinite where only the mix does.
        """
        best = self.alone[self.best]
        if best:
            return self.cycles / best - 1
        return float("inf") if self.cycles else 0.0

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return {**asdict(self), "best": self.best, "regret": self.regret}


def phases_of(workload: Workload, count: int = PHASES) -> tuple[int, ...]:
    """Return the times (ns) at which `count` phases of as many allocations begin. OutOfRange below 1."""
    if count < 1:
        raise OutOfRange(f"there is at least one phase, not {count}")
    times = workload.steps["time_ns"][workload.steps["kind"] == StepKind.ACQUIRE]
    firsts = [int(part[0]) for part in np.array_split(times, count) if len(part)]
    return (0, *firsts[1:])


def regret(
    workload: Workload,
    whole: str | Maker = "hybrid",
    parts: Sequence[str | Maker] = ALONE,
    *,
    starts: Sequence[int] | None = None,
    touch: Touch | str | int | None = None,
    cpus: int | None = None,
    machine: MakeMachine | None = None,
    constants: Mapping[str, Constant] = DEFAULT_CONSTANTS,
    progress: Progress | None = None,
) -> tuple[Phase, ...]:
    """Run `whole`, and each of `parts` alone, over the workload, each on a machine of its own.

    `starts`: when phases begin, in ns (default: `phases_of`); `touch`, `cpus`, `constants`, `machine`,
    `progress` as for compare. What was built at boot is in no phase. Raises UnknownStrategy,
    and what the strategies raise.
    """
    begins = phases_of(workload) if starts is None else tuple(starts)
    make = _machine if machine is None else machine
    model = Touch.of(touch, workload)
    found: dict[str, list[float]] = {}
    for number, known in enumerate(map(known_strategies.find, (whole, *parts))):
        platform = make(workload.cpus if cpus is None else cpus)
        strategy = known.make(platform)
        boot = len(platform.ledger)
        told = None if progress is None else part_of(progress, known.name, number, 1 + len(parts))
        replay(workload, strategy, platform, model, told)
        rows = [boot, *(max(boot, row) for row in _rows_before(platform.ledger, begins[1:]))]
        after = [price(platform.ledger, constants, first_row=row).cycles for row in rows]
        found[known.name] = [a - b for a, b in zip(after, [*after[1:], 0.0], strict=True)]
    first = known_strategies.find(whole).name
    return tuple(
        Phase(at, found[first][n], {name: found[name][n] for name in found if name != first})
        for n, at in enumerate(begins)
    )


def _machine(cpus: int) -> Machine:
    return Machine(cpus, ram=DEFAULT_RAM, ledger=Ledger(limit_rows=ROWS_IN_MEMORY))


def _rows_before(ledger: Ledger, times_ns: Sequence[int]) -> list[int]:
    """Return how many rows there are before each time."""
    found = np.zeros(len(times_ns), dtype=np.int64)
    for rows, weights in ledger.weighted():
        # Rows that are stored once and happened several times happened at one time.
        ends = np.concatenate([[0], np.cumsum(weights)])
        found += ends[np.searchsorted(rows["time_ns"], times_ns)]
    return found.tolist()


__all__ = ["PHASES", "Phase", "phases_of", "regret"]
