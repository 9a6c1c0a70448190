"""Turn a recorded trace into requests, and drive a strategy with them.

A mapping trace holds no memory accesses, so accesses come from a declared model (`Touch`) and whatever
follows from them is *modelled*: every page of an allocation is touched so many times by the CPU that
allocated it, right after the allocation, or not at all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptcore.errors import TraceError
from ptcore.machine import Handle, Machine, Request, Strategy
from ptcore.units import Span
from ptcore.workloads.ftrace import EventKind, FtraceLog, join_areas
from ptcore.workloads.iova_steps import UNKNOWN, join_iova

GUARD_PAGES = 1  # an area's size in the trace has the guard page; the request had not
Progress = Callable[[int, int], None]


class StepKind(IntEnum):
    """What a step of a workload is."""

    ACQUIRE = 1
    RELEASE = 2


STEP_DTYPE = np.dtype(
    [
        ("time_ns", "<i8"),
        ("kind", "u1"),
        ("cpu", "<i2"),
        ("area", "<i8"),
        ("pages", "<i8"),
        ("align", "<i8"),
        ("device", "?"),
    ]
)
"""One step: `area` numbers the allocation that it begins or ends; `pages` without the guard page; `device`:
the memory is a device's."""


@dataclass(frozen=True)
class Workload:
    """Steps in order of time (STEP_DTYPE), the CPUs they run on, and what of the trace is not in them."""

    name: str
    steps: NDArray[Any]
    cpus: int
    unmatched_frees: int
    never_freed: int
    damaged_lines: int


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

    def __str__(self) -> str:
        return {0: "none", 1: "once"}.get(self.times, f"{self.times} times")


def workload_of(log: FtraceLog) -> Workload:
    """Return the requests of a trace: its allocations and the frees that belong to them.

    Times start at 0 and never go back: a step that stands out of order takes the time of the step
    before it. A trace with more maps of an IOMMU than vmalloc areas gives a device's requests.
    Raises TraceError when the trace holds neither.
    """
    joined = join_areas(log)
    if log.count(EventKind.MAP) > len(joined.areas):
        return _device_workload(log)
    if not len(joined.areas):
        raise TraceError(
            f"{log.name or 'the trace'} holds no vmalloc allocation and no IOMMU mapping"
        )
    events = log.events
    rows = []
    for number, area in enumerate(joined.areas):
        alloc, free = int(area["alloc"]), int(area["free"])
        pages = int(area["pages"]) - GUARD_PAGES
        if pages < 1:
            raise TraceError("an area has no page but its guard", line=int(events["line"][alloc]))
        cpu = int(area["cpu"])
        align = int(events["align"][alloc])
        rows.append((alloc, (0, StepKind.ACQUIRE, cpu, number, pages, align, False)))
        if free >= 0:
            rows.append(
                (
                    free,
                    (0, StepKind.RELEASE, int(events["cpu"][free]), number, pages, align, False),
                )
            )
    rows.sort(key=lambda row: row[0])
    steps = np.array([row for _, row in rows], dtype=STEP_DTYPE)
    times = events["time_ns"][[index for index, _ in rows]]
    steps["time_ns"] = np.maximum.accumulate(times) - times[0]
    return Workload(
        log.name,
        steps,
        log.cpus,
        len(joined.unmatched_frees),
        int((joined.areas["free"] < 0).sum()),
        len(log.damaged),
    )


def _device_workload(log: FtraceLog) -> Workload:
    joined = join_iova(log)
    known = [step for step in joined.steps if step.number != UNKNOWN]
    rows = [
        (
            step.time_ns,
            StepKind.RELEASE if step.freed else StepKind.ACQUIRE,
            step.cpu,
            step.number,
            step.pages,
            1,
            True,
        )
        for step in known
    ]
    steps = np.array(rows, dtype=STEP_DTYPE)
    steps["time_ns"] = np.maximum.accumulate(steps["time_ns"]) - steps["time_ns"][0]
    return Workload(
        log.name,
        steps,
        log.cpus,
        joined.unmatched_frees,
        joined.never_freed,
        len(log.damaged),
    )


def replay(
    workload: Workload,
    strategy: Strategy,
    machine: Machine,
    touch: Touch,
    progress: Progress | None = None,
) -> None:
    """Drive `strategy` with the steps of `workload`; what happens lands in the machine's ledger."""
    handles: dict[int, Handle] = {}
    begin = machine.now_ns
    total = len(workload.steps)
    for done, step in enumerate(workload.steps.tolist()):
        time_ns, kind, cpu, area, pages, align, device = step
        machine.advance(begin + time_ns)
        if kind == StepKind.ACQUIRE:
            named = "device" if device else None
            handle = strategy.acquire(Request(cpu, pages, align, workload.name, named))
            handles[area] = handle
            for _ in range(touch.times):
                strategy.access(handle, Span.of(0, pages * machine.page_bytes), cpu, "w")
        else:
            strategy.release(handles.pop(area), cpu)
        if progress is not None and done % 64 == 0:
            progress(done, total)
    strategy.idle()
    if progress is not None:
        progress(total, total)
