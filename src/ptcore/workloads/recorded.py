"""Recorded traces as workloads: vmalloc areas, mappings of an IOMMU, DMA mappings, flushes, accesses.

ftrace says when memory was mapped and unmapped, not how it was used; a trace of accesses says how it
was used and nothing of when it was mapped: there a page is acquired when it is first touched, and
all are given back at the end.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptcore.errors import OutOfRange, TraceError
from ptcore.workloads.accesses import Accesses, AccessKind, guess_form, open_accesses
from ptcore.workloads.accesses.source import head_of
from ptcore.workloads.ftrace import ALL_PAGES, EVENTS, EventKind, FtraceLog, join_areas
from ptcore.workloads.iova_steps import UNKNOWN, join_iova
from ptcore.workloads.steps import MODES, STEP_DTYPE, StepKind, Workload, steps_of

GUARD_PAGES = 1  # an area's size in the trace has the guard page; the request had not
PAGE_LG2 = 12
MOST_USES = 200_000  # of a trace of accesses: more take minutes for every strategy
NS_PER_ACCESS = 1  # where a form has no times: a model
# Linux include/linux/mm_types.h, enum tlb_flush_reason: what a CPU did because another asked, and the
# line of the one that asked, which is no flush of its own.
REMOTE_SHOOTDOWN = 1
REMOTE_SEND = 4
_MODE_OF = {AccessKind.LOAD: "r", AccessKind.STORE: "w", AccessKind.FETCH: "r"}


def workload_of(log: FtraceLog) -> Workload:
    """Return the requests of a trace: its allocations and the frees that belong to them.

    Times start at 0 and never go back: a step that stands out of order takes the time of the step
    before it. Of vmalloc areas, mappings of an IOMMU and DMA mappings those count of which there are
    most; a trace with none of them but with flushes of processes gives those. Raises TraceError when
    the trace holds nothing of that.
    """
    joined = join_areas(log)
    counts = (len(joined.areas), log.count(EventKind.MAP), log.count(EventKind.DMA_MAP))
    most = max(counts)
    if most == 0 and log.count(EventKind.TLB_FLUSH):
        return _flush_workload(log)
    if most == 0:
        raise TraceError(
            f"{log.name or 'the trace'} holds no vmalloc allocation, no IOMMU or DMA mapping, and no "
            "flush of a process"
        )
    kinds = (_area_workload, _iommu_workload, _dma_workload)
    return kinds[counts.index(most)](log)


def _area_workload(log: FtraceLog) -> Workload:
    joined = join_areas(log)
    events = log.events
    rows = []
    for number, area in enumerate(joined.areas):
        alloc, free = int(area["alloc"]), int(area["free"])
        pages = int(area["pages"]) - GUARD_PAGES
        if pages < 1:
            raise TraceError("an area has no page but its guard", line=int(events["line"][alloc]))
        align = int(events["align"][alloc])
        rows.append((alloc, _row(events, alloc, StepKind.ACQUIRE, number, pages, align)))
        if free >= 0:
            rows.append((free, _row(events, free, StepKind.RELEASE, number, pages, align)))
    rows.sort(key=lambda row: row[0])
    never = int((joined.areas["free"] < 0).sum())
    return _workload(log, [row for _, row in rows], len(joined.unmatched_frees), never)


def _row(
    events: NDArray[Any], at: int, kind: StepKind, number: int, pages: int, align: int
) -> tuple[int, ...]:
    time_ns, cpu = int(events["time_ns"][at]), int(events["cpu"][at])
    return (time_ns, kind, cpu, number, pages, align, False, 0, 0, 0)


def _workload(log: FtraceLog, rows: list[tuple[int, ...]], unmatched: int, never: int) -> Workload:
    return Workload(log.name, steps_of(rows), log.cpus, unmatched, never, len(log.damaged))


def _iommu_workload(log: FtraceLog) -> Workload:
    joined = join_iova(log)
    rows: list[tuple[int, ...]] = []
    for step in joined.steps:
        if step.number != UNKNOWN:
            kind = StepKind.RELEASE if step.freed else StepKind.ACQUIRE
            row = (step.time_ns, kind, step.cpu, step.number, step.pages, 1, True, 0, 0, 0)
            rows.append(row)
    return _workload(log, rows, joined.unmatched_frees, joined.never_freed)


def _dma_workload(log: FtraceLog) -> Workload:
    """Join DMA mappings with their ends by address; two at one address end in the order they began."""
    live: dict[int, list[tuple[int, int]]] = {}
    rows: list[tuple[int, ...]] = []
    unmatched = number = 0
    events = log.of(EventKind.DMA_MAP, EventKind.DMA_UNMAP)
    columns = (events[name].tolist() for name in ("time_ns", "cpu", "kind", "va", "end"))
    for time_ns, cpu, kind, va, end in zip(*columns, strict=True):
        if kind == EventKind.DMA_MAP:
            pages = (-(-end >> PAGE_LG2)) - (va >> PAGE_LG2)
            rows.append((time_ns, StepKind.ACQUIRE, cpu, number, pages, 1, True, 0, 0, 0))
            live.setdefault(va, []).append((number, pages))
            number += 1
        elif live.get(va):
            begun, pages = live[va].pop(0)
            rows.append((time_ns, StepKind.RELEASE, cpu, begun, pages, 1, True, 0, 0, 0))
        else:
            unmatched += 1
    return _workload(log, rows, unmatched, sum(map(len, live.values())))


def _flush_workload(log: FtraceLog) -> Workload:
    rows: list[tuple[int, ...]] = []
    events = log.of(EventKind.TLB_FLUSH)
    columns = (events[name].tolist() for name in ("time_ns", "cpu", "pages", "count"))
    for time_ns, cpu, pages, reason in zip(*columns, strict=True):
        if reason != REMOTE_SEND:
            dropped = 0 if pages == ALL_PAGES else pages
            remote = int(reason == REMOTE_SHOOTDOWN)
            rows.append((time_ns, StepKind.FLUSH, cpu, 0, dropped, 1, False, 0, 0, remote))
    return _workload(log, rows, 0, 0)


def access_workload(
    path: str | os.PathLike[str],
    form: str | None = None,
    *,
    skip_bad: bool = False,
    most: int = MOST_USES,
) -> Workload:
    """Return a trace of accesses as a workload: a page is acquired when it is first touched, each use of
    it is an access, and all pages are given back at the end, in the order in which they came.

    Accesses of one CPU in a row to one page and of one kind are one use: after the first, the page's
    translation is at hand. A fetch reads. The first `most` uses are taken. A form without times runs at
    NS_PER_ACCESS, a model. Raises as `open_accesses`, and OutOfRange for a `most` below 1.
    """
    if most < 1:
        raise OutOfRange(f"a workload has at least one use, not {most}")
    parts: list[NDArray[Any]] = []
    left, seen, cpus = most, 0, 1
    with open_accesses(path, form, skip_bad) as reader:
        for chunk in reader:
            uses = _uses(chunk, seen)[:left]
            seen += len(chunk)
            left -= len(uses)
            cpus = max(cpus, int(chunk.cpu.max(initial=0)) + 1)
            parts.append(uses)
            if left <= 0:
                break
        skipped = reader.skipped
    steps = _with_lives(np.concatenate(parts))
    cut = f", first {most:,} uses" * (left <= 0)
    return Workload(f"{Path(path).name}{cut}", steps, cpus, 0, 0, skipped)


def _uses(chunk: Accesses, seen: int) -> NDArray[Any]:
    """Return ACCESS steps, one for each run of accesses; `area` is the number of the page."""
    page = chunk.va >> np.uint64(PAGE_LG2)
    new = np.ones(len(page), dtype=bool)
    new[1:] = (
        (page[1:] != page[:-1])
        | (chunk.cpu[1:] != chunk.cpu[:-1])
        | (chunk.kind[1:] != chunk.kind[:-1])
    )
    uses = np.zeros(int(new.sum()), dtype=STEP_DTYPE)
    times = chunk.time_ns
    if times is None:
        times = (seen + np.arange(len(page), dtype=np.int64)) * NS_PER_ACCESS
    uses["time_ns"] = times[new]
    uses["kind"] = StepKind.ACCESS
    uses["cpu"] = chunk.cpu[new]
    uses["area"] = page[new].astype(np.int64)
    uses["pages"] = uses["align"] = 1
    modes = np.array([MODES.index(_MODE_OF[kind]) for kind in AccessKind], dtype=np.uint8)
    uses["mode"] = modes[chunk.kind[new]]
    return uses


def _with_lives(uses: NDArray[Any]) -> NDArray[Any]:
    """Number the pages in the order of their first use, and put their acquisitions and ends around it."""
    _, at, pages = np.unique(uses["area"], return_index=True, return_inverse=True)
    order = np.argsort(at)
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    uses["area"] = rank[pages.reshape(-1)]
    uses["time_ns"] = np.maximum.accumulate(uses["time_ns"]) - uses["time_ns"][0]
    firsts = np.sort(at)
    begun = uses[firsts].copy()
    begun["kind"], begun["mode"] = StepKind.ACQUIRE, 0
    ended = begun.copy()
    ended["kind"], ended["time_ns"] = StepKind.RELEASE, uses["time_ns"][-1]
    return np.concatenate([np.insert(uses, firsts, begun), ended])


def form_of_accesses(path: str | os.PathLike[str]) -> str | None:
    """Return the form of a trace of accesses; None for anything else, ftrace of mappings among it.

    Raises OSError for a file that cannot be read.
    """
    try:
        form = guess_form(path)
    except TraceError:
        return None
    if form != "ftrace":
        return form
    head = head_of(Path(path)).decode(errors="replace")
    return None if any(f": {event}: " in head for event in EVENTS) else form


__all__ = ["MOST_USES", "access_workload", "form_of_accesses", "workload_of"]
