"""What a workload is: steps in order of time, and how often pages are touched where it does not say."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptcore.errors import TraceError


class StepKind(IntEnum):
    """What a step of a workload is."""

    ACQUIRE = 1
    """Somebody wants `pages`, aligned to `align` bytes, for `device` too or not, of type `memory`."""
    RELEASE = 2
    """They are given back."""
    ACCESS = 3
    """`pages` of them, from the one numbered `first` on, are read, written or executed (`mode`)."""
    FLUSH = 4
    """The CPU drops `pages` of a process (0: all it has of it), `mode` 1: because another CPU asked."""


STEP_DTYPE = np.dtype(
    [
        ("time_ns", "<i8"),
        ("kind", "u1"),
        ("cpu", "<i2"),
        ("area", "<i8"),
        ("pages", "<i8"),
        ("align", "<i8"),
        ("device", "?"),
        ("memory", "u1"),
        ("first", "<i8"),
        ("mode", "u1"),
    ]
)
"""One step: `area` numbers the allocation that it is about; `pages` without the guard page; `device`: a
device reaches the memory too; `memory` and `mode` are indexes of MEMORY_TYPES and MODES."""

MEMORY_TYPES: tuple[str | None, ...] = (None, "device", None)
SENSITIVE = 2  # what memory of this type holds must not be reachable once it is given back
MODES = "rwx"


@dataclass(frozen=True)
class Workload:
    """Steps in order of time (STEP_DTYPE), the CPUs they run on, and what of the trace is not in them."""

    name: str
    steps: NDArray[Any]
    cpus: int
    unmatched_frees: int = 0
    never_freed: int = 0
    damaged_lines: int = 0

    @property
    def says_accesses(self) -> bool:
        """Whether it has accesses of its own, so that none need to be made up."""
        return bool((self.steps["kind"] == StepKind.ACCESS).any())


@dataclass(frozen=True)
class Touch:
    """How often each page of an allocation is accessed, by the allocating CPU: a model, not a record."""

    times: int

    @classmethod
    def parse(cls, text: str | int) -> Touch:
        """Read 'none', 'once' or a number. Raises TraceError for anything else."""
        named = {"none": 0, "once": 1}
        if isinstance(text, str) and text not in named and not text.isdecimal():
            raise TraceError(f"touch is 'none', 'once' or a number, not {text!r}")
        times = named[text] if text in named else int(text)
        if times < 0:
            raise TraceError(f"pages cannot be touched {times} times")
        return cls(times)

    @classmethod
    def of(cls, asked: Touch | str | int | None, workload: Workload) -> Touch | None:
        """Return the model that was asked for; by default None where the workload has accesses of its
        own, else every page once. Raises as `parse`."""
        if asked is None:
            return None if workload.says_accesses else cls(1)
        return asked if isinstance(asked, Touch) else cls.parse(asked)

    def __str__(self) -> str:
        return {0: "none", 1: "once"}.get(self.times, f"{self.times} times")


def steps_of(rows: list[tuple[int, ...]]) -> NDArray[Any]:
    """Return rows of STEP_DTYPE's columns, in order, as steps from time 0 on that never go back."""
    steps = np.array(rows, dtype=STEP_DTYPE)
    if len(steps):
        steps["time_ns"] = np.maximum.accumulate(steps["time_ns"]) - steps["time_ns"][0]
    return steps


__all__ = [
    "MEMORY_TYPES",
    "MODES",
    "SENSITIVE",
    "STEP_DTYPE",
    "StepKind",
    "Touch",
    "Workload",
    "steps_of",
]
