"""The model of I/O address allocation, held against a recording of a kernel's IOMMU mappings.

From which CPU maps and unmaps how many pages, and when, the model says the address of every allocation before
it looks at it. Two readings: *one step ahead* is told the address after each prediction; *open loop* is told
the first address of the trace and no other, and frees whatever it handed out itself.

The mode is found, not given: strict (a range may be handed out again at once) or deferred (a freed
range waits in a ring of 256 for the timer of 10 ms). The timer needs the tick, which a trace does
not have: its rate and its phase are those that predict the first half best, of the rates that Linux
can be built with; the second half is the judge. Clocks drift: while it is read, phases a little
earlier and later are followed along, and the one that was right most often of late speaks. The
timer runs on the CPU that started it, and what it frees goes to that CPU's magazines.

Mechanism: Linux drivers/iommu/iova.c and dma-iommu.c (v6.12), kernel/time/timer.c, calc_index(): a timer
fires at the tick after the one that it is due at, so that it is never early.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ptcore.allocators import FlushQueues, IovaAllocator
from ptcore.allocators.flush_queue import TIMEOUT_MS
from ptcore.allocators.iova import END_32_BITS, MAGAZINE_PAGES, size_class
from ptcore.errors import AlreadyMapped, NoAddressSpace, TraceError
from ptcore.study.vmalloc_steps import Share
from ptcore.workloads.ftrace import EventKind, FtraceLog
from ptcore.workloads.iova_steps import UNKNOWN, IovaStep, IovaSteps, join_iova

# Linux kernel/Kconfig.hz: the rates that can be chosen.
TICK_RATES = (100, 250, 300, 1000)
PHASES = 40
"""Phases of the tick that are tried first, and again around the best one."""
CALIBRATION_STEPS = 4000
"""The most steps of the first half that a rate and a phase are judged by."""
WATCHED = 64
"""Predictions by which neighbouring phases of the tick are compared as the recording goes on."""
TRIM_NS = 100_000_000  # Linux drivers/iommu/iova.c: IOVA_DEPOT_DELAY, 100 ms
LARGEST_PAGE = (1 << 52) - 1
MEETS = "meets a range that is live in the model"

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Ticks:
    """The tick: so many a second, one of them at `phase_ns`."""

    rate: int
    phase_ns: int

    @property
    def period_ns(self) -> int:
        """Time between ticks."""
        return 1_000_000_000 // self.rate

    def due(self, now_ns: int) -> int:
        """Return when a timer of TIMEOUT_MS that is started now runs."""
        waited = -(-TIMEOUT_MS * self.rate // 1000) + 1
        return (
            (now_ns - self.phase_ns) // self.period_ns + waited
        ) * self.period_ns + self.phase_ns


@dataclass(frozen=True, slots=True)
class IovaReading:
    """How many addresses were predicted exactly. `later`: of the second half, which nothing was fitted to;
    `warm`: after a warm-up of one magazine's worth of allocations."""

    all: Share
    warm: Share
    later: Share
    misses: dict[str, int]


@dataclass(frozen=True, slots=True)
class IommuValidation:
    """The outcome. `as_dict` gives plain numbers and names, for JSON."""

    cpus: int
    allocations: int
    mapped_lines: int
    never_freed: int
    unmatched_frees: int
    overlapping: int
    damaged_lines: int
    lost_events: int
    mode: str
    ticks: Ticks | None
    one_step_ahead: IovaReading
    open_loop: IovaReading
    magazines: Share
    """Allocations that a magazine served, in the model."""

    def as_dict(self) -> dict[str, Any]:
        """Return nested dictionaries of numbers and names; a Share also carries its fraction."""
        plain = asdict(self)
        for reading in ("one_step_ahead", "open_loop"):
            for part in ("all", "warm", "later"):
                plain[reading][part]["share"] = getattr(getattr(self, reading), part).share
        plain["magazines"]["share"] = self.magazines.share
        return plain


class _Follower:
    """The allocator and its queues, driven by the steps of a recording.

    `ticks`: None in strict mode. `corrected`: whether it is told each address after it said its own.
    """

    def __init__(self, joined: IovaSteps, ticks: Ticks | None, *, corrected: bool) -> None:
        high = max(step.page for step in joined.steps) >= END_32_BITS
        self.space = IovaAllocator(joined.cpus, last_page=LARGEST_PAGE if high else END_32_BITS - 1)
        self.queues = FlushQueues(joined.cpus)
        self.ticks = ticks
        self.corrected = corrected
        self.outcomes: list[str] = []
        self._pages: dict[int, int] = {}  # the model's page of each live range
        self._seen: set[int] = set()
        self._sizes: set[int] = set()
        self._timer: tuple[int, int] | None = None  # when it runs, and where
        self._trimmed = joined.steps[0].time_ns

    def step(self, step: IovaStep) -> None:
        """Predict, or free. The outcome of a prediction is '' where it was exact, else why it was not."""
        if self._timer is not None and step.time_ns >= self._timer[0]:
            self._run_timer()
        if step.time_ns - self._trimmed >= TRIM_NS:
            self._trimmed = step.time_ns
            self.space.trim()
        if step.freed:
            self._free(step)
        elif self.corrected or not self.outcomes:
            self.outcomes.append(self._predict(step))
        else:
            self.outcomes.append(self._run_free(step))

    def _run_timer(self) -> None:
        if self._timer is not None:
            cpu, self._timer = self._timer[1], None
            self._release(cpu, self.queues.expire())

    def _release(self, cpu: int, pages: Sequence[int]) -> None:
        for page in pages:
            self.space.free(cpu, page)

    def _run_free(self, step: IovaStep) -> str:
        try:
            page = self.space.allocate(step.cpu, step.pages)
        except NoAddressSpace:
            return "no address left in the model"
        self._pages[step.number] = page
        return "" if page == step.page else "other than the kernel's"

    def _predict(self, step: IovaStep) -> str:
        expected = self.space.expected(step.cpu, step.pages)
        if expected == step.page:
            self.space.allocate(step.cpu, step.pages)
            reason = ""
        else:
            reason = self._learn(step)
        self._seen.add(step.page)
        self._sizes.add(size_class(step.pages))
        if reason != MEETS:
            self._pages[step.number] = step.page
        return reason

    def _learn(self, step: IovaStep) -> str:
        """Take the kernel's address, and say why the model had another."""
        if any(page == step.page for ring in self.queues.rings for _, page in ring):
            # What the kernel hands out, its timer has released: the model's is late.
            self._run_timer()
            if self.space.expected(step.cpu, step.pages) == step.page:
                self.space.allocate(step.cpu, step.pages)
                return "the timer ran before the model's"
        known = step.page in self._seen
        try:
            self.space.claim(step.page, step.pages)
        except AlreadyMapped:
            return MEETS
        if not known and size_class(step.pages) not in self._sizes:
            return "the first of its size"
        return "in another order" if known else "free before the trace began"

    def _free(self, step: IovaStep) -> None:
        page = self._pages.pop(step.number, None)
        if step.number == UNKNOWN and self.corrected:
            page = self._free_unknown(step)
        if page is None:
            return
        if self.ticks is None:
            self.space.free(step.cpu, page)
            return
        _, released = self.queues.add(step.cpu, page)
        self._release(step.cpu, released)
        if self._timer is None:
            self._timer = self.ticks.due(step.time_ns), step.cpu

    def _free_unknown(self, step: IovaStep) -> int | None:
        try:
            self.space.claim(step.page, step.pages)
        except AlreadyMapped:
            return None
        self._seen.add(step.page)
        return step.page


def _follow(
    joined: IovaSteps, ticks: Ticks | None, *, corrected: bool = True, steps: int | None = None
) -> _Follower:
    follower = _Follower(joined, ticks, corrected=corrected)
    for step in joined.steps[:steps]:
        follower.step(step)
    return follower


def _middle_of_best(hits: Sequence[int]) -> int:
    """Return the middle of the longest run of the highest figures; the last is a neighbour of the first."""
    most, count = max(hits), len(hits)
    begin = next((n for n in range(count) if hits[n] != most), 0)
    best, length = begin, 0
    run = 0
    for n in range(begin, begin + count):
        run = run + 1 if hits[n % count] == most else 0
        if run > length:
            best, length = n - run // 2, run
    return best % count


def find_mode(joined: IovaSteps, progress: Progress | None = None) -> Ticks | None:
    """Return the tick that predicts the first half best, or None where strict mode does as well.

    Every rate at PHASES phases, then PHASES more around the middle of the best ones: a tick at the edge of
    what the first half allows would fail in the second.
    """
    steps = min(len(joined.steps) // 2, CALIBRATION_STEPS)
    done, total = 0, PHASES * (len(TICK_RATES) + 1)

    def exact(ticks: Ticks | None) -> int:
        nonlocal done
        done += 1
        if progress:
            progress("finding the tick", min(done, total), total)
        return _follow(joined, ticks, steps=steps).outcomes.count("")

    strict = exact(None)
    hits = {
        rate: [exact(Ticks(rate, Ticks(rate, 0).period_ns * n // PHASES)) for n in range(PHASES)]
        for rate in TICK_RATES
    }
    rate = max(TICK_RATES, key=lambda rate: max(hits[rate]))
    if max(hits[rate]) <= strict:
        return None
    step = Ticks(rate, 0).period_ns // PHASES
    middle = step * _middle_of_best(hits[rate])
    finer = [Ticks(rate, middle + step * (2 * n - PHASES) // PHASES) for n in range(PHASES)]
    return finer[_middle_of_best([exact(ticks) for ticks in finer])]


def _followed(joined: IovaSteps, ticks: Ticks | None) -> tuple[_Follower, list[str]]:
    """Follow the recording with the tick a little earlier and later too; return the first and the outcomes.

    Each address is said by the one that was right most often in the WATCHED predictions before.
    """
    first = _follow(joined, ticks)
    if ticks is None:
        return first, first.outcomes
    step = ticks.period_ns // PHASES // 4
    phases = [ticks.phase_ns + step * n for n in (-4, -3, -2, -1, 1, 2, 3, 4)]
    said = [first.outcomes]
    said += [_follow(joined, Ticks(ticks.rate, phase)).outcomes for phase in phases]
    right = [0] * len(said)
    chosen: list[str] = []
    for n in range(len(first.outcomes)):
        best = max(range(len(said)), key=lambda i: right[i])
        chosen.append(said[best][n])
        for i, outcomes in enumerate(said):
            right[i] += (not outcomes[n]) - (n >= WATCHED and not outcomes[n - WATCHED])
    return first, chosen


def validate_iommu(log: FtraceLog, progress: Progress | None = None) -> IommuValidation:
    """Hold the model against a recording of the iommu group's `map` and `unmap`.

    Raises TraceError when the trace holds none of them. Cost: about 4 us a step for each of 200 rates and
    phases, over at most CALIBRATION_STEPS steps, and two passes over all.
    """
    joined = join_iova(log)
    if not joined.allocations:
        raise TraceError(f"{log.name or 'the trace'} holds no mapping of an IOMMU")
    ticks = find_mode(joined, progress)
    told, outcomes = _followed(joined, ticks)
    alone = _follow(joined, ticks, corrected=False)
    return IommuValidation(
        cpus=joined.cpus,
        allocations=joined.allocations,
        mapped_lines=log.count(EventKind.MAP),
        never_freed=joined.never_freed,
        unmatched_frees=joined.unmatched_frees,
        overlapping=joined.overlapping,
        damaged_lines=len(log.damaged),
        lost_events=int(log.events["count"][log.events["kind"] == EventKind.LOST].sum()),
        mode="strict" if ticks is None else "deferred",
        ticks=ticks,
        one_step_ahead=_reading(outcomes),
        open_loop=_reading(alone.outcomes),
        magazines=Share(told.space.cache_hits, len(told.outcomes)),
    )


def _reading(outcomes: list[str]) -> IovaReading:
    def share(part: list[str]) -> Share:
        return Share(part.count(""), len(part))

    misses = Counter(outcome for outcome in outcomes if outcome)
    return IovaReading(
        share(outcomes),
        share(outcomes[MAGAZINE_PAGES:]),
        share(outcomes[len(outcomes) // 2 :]),
        dict(misses.most_common()),
    )


__all__ = ["IommuValidation", "IovaReading", "Ticks", "find_mode", "validate_iommu"]
