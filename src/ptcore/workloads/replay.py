"""Drive a strategy with the steps of a workload.

A trace of mappings holds no memory accesses, so accesses come from a declared model (`Touch`) and
whatever follows from them is *modelled*: every page of an allocation is touched so many times by the
CPU that allocated it, right after the allocation, or not at all. Workloads that have accesses of
their own need no model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from ptcore.machine import Event, Handle, Machine, Request, Strategy
from ptcore.units import Span
from ptcore.workloads.steps import (
    MEMORY_TYPES,
    MODES,
    SENSITIVE,
    STEP_DTYPE,
    StepKind,
    Touch,
    Workload,
)

Progress = Callable[[int, int], None]
TOLD_EVERY = 64  # steps between two reports of progress
STEPS_AT_ONCE = 1 << 14  # of a workload that become Python's numbers, which take more memory
ACQUIRE, RELEASE, FLUSH = int(StepKind.ACQUIRE), int(StepKind.RELEASE), int(StepKind.FLUSH)


def replay(
    workload: Workload,
    strategy: Strategy,
    machine: Machine,
    touch: Touch | None,
    progress: Progress | None = None,
) -> None:
    """Drive `strategy` with the steps of `workload`; what happens lands in the machine's ledger.

    `touch`: the model of accesses, in place of those that the workload has; None: only those.
    """
    handles: dict[int, Handle] = {}
    whole: dict[int, Span] = {}  # by pages: most allocations are of few sizes
    begin = machine.now_ns
    total = len(workload.steps)
    page = machine.page_bytes
    advance, name = machine.advance, workload.name
    acquire, access, release = strategy.acquire, strategy.access, strategy.release
    touches = range(0 if touch is None else touch.times)
    for done, step in enumerate(_steps_of(workload)):
        time_ns, kind, cpu, area, pages, align, device, memory, first, mode = step
        advance(begin + time_ns)
        if kind == ACQUIRE:
            named = "device" if device else None
            secret = memory == SENSITIVE
            request = Request(cpu, pages, align, name, named, MEMORY_TYPES[memory], secret)
            handles[area] = handle = acquire(request)
            for _ in touches:
                span = whole.get(pages)
                if span is None:
                    span = whole[pages] = Span(0, pages * page - 1)
                access(handle, span, cpu, "w")
        elif kind == RELEASE:
            release(handles.pop(area), cpu)
        elif kind == FLUSH:
            _flush_process(machine, cpu, pages, asked=bool(mode))
        elif touch is None:
            access(handles[area], Span.of(first * page, pages * page), cpu, MODES[mode])
        if progress is not None and done % TOLD_EVERY == 0:
            progress(done, total)
    strategy.idle()
    if progress is not None:
        progress(total, total)


def _steps_of(workload: Workload) -> Iterator[Any]:
    for start in range(0, len(workload.steps), STEPS_AT_ONCE):
        yield from workload.steps[start : start + STEPS_AT_ONCE].tolist()


def _flush_process(machine: Machine, cpu: int, pages: int, *, asked: bool) -> None:
    """Note what a CPU did for a process: the trace does not say at which addresses, only how many pages."""
    mine = frozenset({cpu})
    last = pages * machine.page_bytes - 1 if pages else 0
    machine.note(Event.INVALIDATED, cpu, pages, last=last, cpus=mine)
    if asked:
        machine.note(Event.INTERRUPTED, cpu, 1, cpus=mine)


__all__ = ["STEP_DTYPE", "Progress", "StepKind", "Touch", "Workload", "replay"]
