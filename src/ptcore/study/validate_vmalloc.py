"""The model of lazily freed vmalloc areas, held against a recording of a kernel.

Three parts, by how much of the recording the model is told:

- *anchored*: its count of lazy pages is set to the kernel's at each of the kernel's own drains, and
  everything in between must come out exactly;
- *free-running*: it sees which areas were freed, in order, and the first count; nothing else. How
  many drains does it run? Once with drains at once, once with the delays that the first half of the
  recording shows, judged on the second half;
- *addresses*: see `ptcore.study.vmalloc_addresses`.

Mechanism: Linux mm/vmalloc.c (v6.18), free_vmap_area_noflush(), lazy_max_pages(),
drain_vmap_area_work() and __purge_vmap_area_lazy(); the one invalidation of a drain interrupts
every other CPU that is online (arch/x86/mm/tlb.c, flush_tlb_kernel_range()).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from ptcore.errors import TraceError
from ptcore.strategies.vmap_areas import LazyLists, VmapOptions, lazy_max_pages
from ptcore.study.vmalloc_addresses import Addresses, predict_addresses
from ptcore.study.vmalloc_steps import (
    PAGE_BYTES,
    Account,
    Drain,
    Joined,
    Share,
    account,
    join,
)
from ptcore.workloads.ftrace import EventKind, FtraceLog

DRAWS = 200
"""How often the delays are drawn, at most."""

DRAWN_FREES = 2_000_000
"""The frees simulated in all draws together, about; more frees need fewer draws."""


@dataclass(frozen=True, slots=True)
class Anchored:
    """What comes out exactly between the kernel's own drains."""

    expected_limit_pages: int
    limit: Share
    """Frees whose `nr_lazy_max` is fls(CPUs) * 32 MiB in pages."""
    counts: Share
    """Frees whose `nr_lazy` is the model's count."""
    crossings: Share
    """Drains that were due: the model names the same free as the one that crossed the limit."""
    purged: Share
    """Drains whose `num_purged` is the number of areas that the model has waiting for them."""
    drained_pages: Share
    """Drains by which the count fell by just the pages of those areas. Of those whose fall shows:
    two drains with no free between their lines share one."""
    areas_before: int
    """Areas of the first drain that were freed before the recording."""
    pages_before: int
    """Their pages, as the first free's `nr_lazy` tells."""
    resets: int
    """Drains that no crossing caused: the kernel drains for other reasons too."""
    recounts: int
    """Frees whose count no drain explains; the model then takes the kernel's."""
    out_of_order: int
    """Lines that were recorded out of order; the counts tell the order that is used."""
    unsized: int
    """Frees whose allocation was not recorded; the count tells their size."""


@dataclass(frozen=True, slots=True)
class FreeRunningInput:
    """All that a free-running model may see: freed areas in order, and the first count."""

    cpus: int
    first_count: int
    """`nr_lazy` of the first free."""
    pages: tuple[int, ...]
    """Of each freed area; the mean of the others where an allocation was not recorded."""


@dataclass(frozen=True, slots=True)
class DrainDelay:
    """How late one drain was, in frees.

    `before` is how many areas were freed after the crossing one until the lists were detached,
    `during` how many from then until the count came down. Frees are the unit because a drain waits
    for a CPU that is busy with them: in time, the same delay means more when more is freed.
    `again` says that the crossing came while the drain before still ran: then its work is queued
    already and starts as soon as that one is over.
    """

    before: int
    during: int
    again: bool = False


@dataclass(frozen=True, slots=True)
class FreeRunning:
    """How many drains the model runs on its own."""

    recorded: int
    """Drains in the recording that a crossing caused."""
    immediate: int
    """Drains of the model when each runs at once."""
    immediate_error: float
    """|immediate - recorded| / recorded."""
    second_half_recorded: int
    second_half: float
    """Drains of the model in the second half, with delays from the first: the mean of all draws."""
    second_half_low: int
    """The 5th percentile of the draws."""
    second_half_high: int
    """The 95th percentile of the draws."""
    second_half_error: float
    calibrated_on: int
    """Drains that the delays were taken from."""
    draws: int
    interrupts_per_drain: int
    """CPUs that the one invalidation of a drain interrupts: every other one that is online."""
    interrupts: Share
    """Recorded drains that interrupted just those."""


@dataclass(frozen=True, slots=True)
class VmallocValidation:
    """The outcome. `as_dict` gives plain numbers and names, for JSON."""

    cpus: int
    allocations: int
    frees: int
    drains: int
    damaged_lines: int
    """Lines that could not be read, or that say what no kernel does."""
    lost_events: int
    anchored: Anchored
    free_running: FreeRunning
    addresses: Addresses

    def as_dict(self) -> dict[str, Any]:
        """Return nested dictionaries of numbers and names; a Share also carries its fraction."""
        plain: dict[str, Any] = _plain(self)
        return plain


def validate_vmalloc(log: FtraceLog, seed: int = 0) -> VmallocValidation:
    """Hold the model against a recording of vmalloc events.

    Needs `alloc_vmap_area` and `free_vmap_area_noflush`; without `purge_vmap_area_lazy` or
    `ipi_send_cpu` lines the parts that compare with them have no cases. `seed` is for the draws of
    delays. Raises TraceError if there is nothing to validate, or frees without their counts.
    """
    joined = join(log)
    frees = sum(1 for step in joined.steps if step.kind is EventKind.FREE)
    if not joined.allocations or not frees:
        raise TraceError("the trace has no vmalloc allocations, or no frees with their nr_lazy")
    kernel = account(joined)
    return VmallocValidation(
        cpus=joined.cpus,
        allocations=joined.allocations,
        frees=frees,
        drains=len(kernel.drains),
        damaged_lines=len(log.damaged) + joined.impossible,
        lost_events=int(log.events["count"][log.events["kind"] == EventKind.LOST].sum()),
        anchored=validate_anchored(joined, kernel),
        free_running=validate_free_running(log, joined, kernel, seed),
        addresses=predict_addresses(joined, kernel),
    )


def validate_anchored(joined: Joined, kernel: Account) -> Anchored:
    """Count lazy pages from drain to drain and compare each number that the kernel printed."""
    steps, frees, drains = joined.steps, kernel.frees, kernel.drains
    expected = lazy_max_pages(joined.cpus, PAGE_BYTES)
    lists = LazyLists(_options(joined.cpus), kernel.earlier_pages)
    due: set[int] = set()
    exact = 0
    for at in frees:
        if at in kernel.explained:
            lists.pages -= kernel.drops[at]
        if lists.add(at, kernel.pages[at], 0):
            due.add(at)
        exact += lists.pages == steps[at].number
        lists.pages = steps[at].number
    crossed = [drain for drain in drains if drain.crossing is not None]
    named = [next((at for at in drain.waiting if at in due), None) for drain in crossed]
    agreed = sum(at == drain.crossing for at, drain in zip(named, crossed, strict=True))
    told = [drain for drain in drains if drain.pages is not None]
    return Anchored(
        expected_limit_pages=expected,
        limit=Share(sum(steps[at].limit == expected for at in frees), len(frees)),
        counts=Share(exact, len(frees)),
        crossings=Share(agreed, len(crossed)),
        purged=Share(sum(_took_all(kernel, drain) for drain in drains), len(drains)),
        drained_pages=Share(sum(drain.resolved for drain in told), len(told)),
        areas_before=drains[0].num_purged - len(drains[0].taken) if drains else 0,
        pages_before=kernel.earlier_pages,
        resets=len(drains) - len(crossed),
        recounts=len(frees) - exact,
        out_of_order=kernel.moved,
        unsized=joined.unmatched_frees,
    )


def _took_all(kernel: Account, drain: Drain) -> bool:
    """Say if a drain took the areas that the model has for it, the first also the earlier ones."""
    more = drain.num_purged - len(drain.taken)
    if drain is not kernel.drains[0]:
        return more == 0
    return bool(kernel.earlier_pages) <= more <= kernel.earlier_pages


def free_running_input(log: FtraceLog) -> FreeRunningInput:
    """Take from a recording what a free-running model may see. Reads no drain, count or interrupt.

    Of the counts only the first is read; the frees are in the order of their lines.
    """
    events = log.events
    seen = events[(events["kind"] == EventKind.ALLOC) | (events["kind"] == EventKind.FREE)]
    rows = zip(
        seen["kind"].tolist(),
        seen["va"].tolist(),
        seen["pages"].tolist(),
        seen["count"].tolist(),
        strict=True,
    )
    live: dict[int, int] = {}
    freed: list[int | None] = []
    first_count: int | None = None
    for kind, start, pages, count in rows:
        if kind == EventKind.ALLOC:
            live[start] = pages
            continue
        if first_count is None:
            first_count = count
        freed.append(live.pop(start, None))
    known = [pages for pages in freed if pages is not None]
    mean = round(sum(known) / len(known)) if known else 1
    filled = tuple(mean if pages is None else pages for pages in freed)
    return FreeRunningInput(log.cpus, first_count or 0, filled)


def calibrate(kernel: Account, frees: int) -> tuple[DrainDelay, ...]:
    """Take the delays of the drains that lie within the first `frees` frees."""
    order = {at: number for number, at in enumerate(kernel.frees[:frees])}
    delays: list[DrainDelay] = []
    left: set[int] = set()  # freed while the drain before was running
    for drain in kernel.drains:
        if drain.crossing is not None and all(at in order for at in drain.waiting):
            before = sum(1 for at in drain.taken if order[at] > order[drain.crossing])
            during = len(drain.waiting) - len(drain.taken)
            delays.append(DrainDelay(before, during, drain.crossing in left))
        left = set(drain.waiting).difference(drain.taken)
    return tuple(delays)


def free_run(
    seen: FreeRunningInput, delays: Sequence[DrainDelay] = (), seed: int = 0
) -> tuple[int, ...]:
    """Return, for each drain of the model, the number of the free before which it detaches.

    Without delays a drain runs as soon as it is due: right after the free that crossed the limit.
    With them, each is drawn from those given. Whoever frees while a drain runs still sees its
    pages, and may cause the next one.
    """
    choice = random.Random(seed).choice
    fresh = [delay for delay in delays if not delay.again] or [DrainDelay(0, 0)]
    again = [delay for delay in delays if delay.again] or fresh
    lists = LazyLists(_options(seen.cpus), seen.first_count)
    drains: list[int] = []
    detached = seen.first_count  # what the first drain takes besides the areas it sees freed
    waiting: int | None = None  # frees until the drain that is due begins
    running = during = 0  # frees until the one that has begun is over
    for number, pages in enumerate(seen.pages[1:], 1):
        if drains and not running:
            lists.pages, detached = lists.pages - detached, 0
        if waiting == 0 and not running:
            drains.append(number)
            detached += sum(taken for _, taken, _ in lists.detach(0))
            waiting, running = None, during
            if not running:
                lists.pages, detached = lists.pages - detached, 0
        due = lists.add(number, pages, 0)
        if waiting:
            waiting -= 1
        elif waiting is None and due:
            drawn = choice(again if running else fresh)
            waiting, during = drawn.before, drawn.during
        running = max(0, running - 1)
    if waiting == 0:
        drains.append(len(seen.pages))
    return tuple(drains)


def validate_free_running(
    log: FtraceLog, joined: Joined, kernel: Account, seed: int = 0
) -> FreeRunning:
    """Compare the drains of the free-running model with those that were recorded."""
    seen = free_running_input(log)
    order = {at: number for number, at in enumerate(kernel.frees)}
    crossed = [drain for drain in kernel.drains if drain.crossing is not None]
    half = len(kernel.frees) // 2
    later = sum(1 for drain in crossed if _is_late(drain, order, half))
    delays = calibrate(kernel, half)
    immediate = len(free_run(seen))
    draws = max(1, min(DRAWS, DRAWN_FREES // len(seen.pages))) if delays else 1
    counted = sorted(
        sum(1 for number in free_run(seen, delays, seed + draw) if number > half)
        for draw in range(draws)
    )
    mean = sum(counted) / draws
    others = joined.cpus - 1
    called = [drain for drain in kernel.drains if drain.num_purged]
    matched = sum(_interrupted(joined, drain) for drain in called)
    return FreeRunning(
        recorded=len(crossed),
        immediate=immediate,
        immediate_error=_error(immediate, len(crossed)),
        second_half_recorded=later,
        second_half=mean,
        second_half_low=counted[draws // 20],
        second_half_high=counted[draws - 1 - draws // 20],
        second_half_error=_error(mean, later),
        calibrated_on=len(delays),
        draws=draws,
        interrupts_per_drain=others,
        interrupts=Share(matched, len(called)),
    )


def _is_late(drain: Drain, order: dict[int, int], half: int) -> bool:
    """Say if a drain took, or with nothing to take was caused by, a free of the second half."""
    return any(order[at] >= half for at in (*drain.taken, *drain.waiting[:1]))


def _interrupted(joined: Joined, drain: Drain) -> bool:
    """Say if a drain interrupted every other CPU and nobody else."""
    targets = {joined.steps[at].number for at in drain.interrupts}
    return targets == set(range(joined.cpus)) - {drain.cpu}


def _error(model: float, recorded: int) -> float:
    return abs(model - recorded) / recorded if recorded else float(model != 0)


def _options(cpus: int) -> VmapOptions:
    """One list for all: which node an area waits on makes no difference to the count."""
    return VmapOptions(cpus=cpus, page_bytes=PAGE_BYTES, nodes=1)


def _plain(value: Any) -> Any:
    if isinstance(value, Share):
        return {"exact": value.exact, "of": value.of, "share": value.share}
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    return value
