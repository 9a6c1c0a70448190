"""A recording of vmalloc areas, joined and put in order: what the kernel did, drain by drain.

Three things stand between the lines of a trace and the kernel's actions. A freed area's line has
no size, so it is joined to its allocation by address. Lines of different CPUs can change places:
the count in each free (`nr_lazy`, an atomic add) tells the true order. And a drain is printed when
it is over; which frees it still took is told by how far the count then falls, because the kernel
subtracts the pages of the drain, and no others (Linux mm/vmalloc.c, purge_vmap_node(), v6.18).
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from ptcore.units import ALL_ONES
from ptcore.workloads.ftrace import EventKind, FtraceLog

PAGE_BYTES = 4096
"""The page size of a trace: the reader's `pages` are bytes >> 12."""

UNKNOWN = -1

RACING_FREES = 32
"""How many frees around the detaching of the lists are tried; the detaching takes microseconds."""

UNSAID_BYTES = 1 << 40
"""Room assumed above the highest area where a trace does not say how far the range goes."""


class Step(NamedTuple):
    """One line of the trace that matters here. Fields that the kind does not have are UNKNOWN."""

    line: int
    time_ns: int
    cpu: int
    kind: EventKind
    area: int
    """Identity of the area: the number of its allocation, or UNKNOWN if that was not recorded."""
    start: int
    pages: int
    align: int
    number: int
    """nr_lazy of a free, num_purged of a drain, the target CPU of an interrupt."""
    limit: int
    whole: bool
    """Whether the area was asked for over the whole vmalloc range (else: a module's, say)."""


@dataclass(frozen=True, slots=True)
class Share:
    """How many of some cases the model had exactly."""

    exact: int
    of: int

    @property
    def share(self) -> float:
        """The fraction; 1 where there were none."""
        return self.exact / self.of if self.of else 1.0


@dataclass(frozen=True, slots=True)
class Joined:
    """The steps in the order of recording, with each free joined to its allocation."""

    cpus: int
    steps: tuple[Step, ...]
    allocations: int
    first: int
    """Lowest address of the whole range."""
    last: int
    unmatched_frees: int
    """Frees of areas whose allocation was not recorded."""
    impossible: int
    """Lines that read well but say what no kernel does; they are left out."""


@dataclass(frozen=True, slots=True)
class Drain:
    """One drain as the kernel ran it. Positions are indices into `Joined.steps`."""

    position: int
    """Of its line, which is printed when all is done."""
    cpu: int
    num_purged: int
    crossing: int | None
    """Position of the free that first exceeded the limit; None if there was none (a reset)."""
    waiting: tuple[int, ...]
    """Positions of the frees not drained before its line was printed, in the kernel's order."""
    taken: tuple[int, ...]
    """Positions of those whose areas it took."""
    pages: int | None
    """By how much it lowered the count; None if that cannot be seen."""
    resolved: bool
    """Whether the frees in `taken` have exactly `pages` pages."""
    interrupts: tuple[int, ...]
    """Positions of the interrupts that its CPU sent for it."""


@dataclass(frozen=True, slots=True)
class Account:
    """The kernel's own account: the frees in its order, and its drains."""

    frees: tuple[int, ...]
    """Positions of the frees, in the order of their counts."""
    pages: dict[int, int]
    """Position of a free -> pages, including those that only the count tells."""
    drops: dict[int, int]
    """Position of a free -> how far the count had fallen since the free before it."""
    explained: frozenset[int]
    """Those positions of `drops` that a drain explains."""
    drains: tuple[Drain, ...]
    moved: int
    """Lines that were recorded out of order."""
    earlier_pages: int
    """Pages that were lazy before the first recorded free."""


def join(log: FtraceLog) -> Joined:
    """Join the frees of a log to its allocations, by address and in order. Linear."""
    rows = _rows(log)
    whole = _whole_range(rows)
    first, last = _bounds(rows, whole)
    live: dict[int, tuple[int, int, bool]] = {}
    steps: list[Step] = []
    allocations = unmatched = impossible = 0
    for row in rows:
        area, pages, is_whole = UNKNOWN, row.pages, True
        if row.kind is EventKind.ALLOC:
            area, is_whole = allocations, (row.range_start, row.range_end) == whole
            if not _is_possible(row, first if is_whole else 0, last if is_whole else ALL_ONES):
                impossible += 1
                continue
            live[row.start] = (area, pages, is_whole)
            allocations += 1
        elif row.kind is EventKind.FREE:
            before = (UNKNOWN, UNKNOWN, first <= row.start <= last)
            area, pages, is_whole = live.pop(row.start, before)
            if row.number < 0 or row.limit < 0:  # cut off: its address may be, too
                impossible += 1
                continue
            unmatched += area == UNKNOWN
        where = (row.line, row.time_ns, row.cpu, row.kind, area, row.start, pages)
        steps.append(Step(*where, row.align, row.number, row.limit, is_whole))
    return Joined(log.cpus, tuple(steps), allocations, first, last, unmatched, impossible)


def account(joined: Joined) -> Account:
    """Put the frees in the kernel's order and find out what each drain took. Near linear."""
    steps = joined.steps
    recorded = [at for at, step in enumerate(steps) if step.kind is EventKind.FREE]
    purges = [at for at, step in enumerate(steps) if step.kind is EventKind.PURGE]
    frees, moved = _in_counted_order(joined, recorded)
    pages, drops, earlier = _chain(steps, frees)
    falls = [drops.get(at, 0) for at in frees]
    totals, owned = _drain_pages(steps, purges, recorded, falls)
    explained = frozenset(frees[number] for number in owned)
    done = Account(tuple(frees), pages, drops, explained, (), moved, earlier)
    drains = _drains(joined, done, [bisect_left(recorded, at) for at in purges], purges, totals)
    return replace(done, drains=tuple(drains))


class _Row(NamedTuple):
    """An event as the reader has it, in the order of the columns named below."""

    line: int
    time_ns: int
    cpu: int
    kind: EventKind
    start: int
    pages: int
    number: int
    limit: int
    align: int
    range_start: int
    range_end: int


_COLUMNS = ("line", "time_ns", "cpu", "kind", "va", "pages", "count", "limit", "align")
_RANGE_COLUMNS = ("range_start", "range_end")
_KEPT = (EventKind.ALLOC, EventKind.FREE, EventKind.PURGE, EventKind.IPI, EventKind.TLB_FLUSH)


def _rows(log: FtraceLog) -> list[_Row]:
    """Return the events that matter; allocations that failed have no address and are left out."""
    events = log.of(*_KEPT)
    kinds = {int(kind): kind for kind in EventKind}
    columns = [events[name].tolist() for name in (*_COLUMNS, *_RANGE_COLUMNS)]
    columns[3] = [kinds[kind] for kind in columns[3]]
    rows = (_Row(*row) for row in zip(*columns, strict=True))
    return [row for row in rows if row.kind is not EventKind.ALLOC or row.start]


def _is_possible(row: _Row, first: int, last: int) -> bool:
    end = row.start + row.pages * PAGE_BYTES
    aligned = row.align > 0 and row.align & (row.align - 1) == 0 and row.start % PAGE_BYTES == 0
    return aligned and row.pages > 0 and first <= row.start and end - 1 <= last


def _whole_range(rows: Iterable[_Row]) -> tuple[int, int]:
    """Return the range that most allocations asked for: VMALLOC_START and VMALLOC_END."""
    asked = Counter((row.range_start, row.range_end) for row in rows if row.kind is EventKind.ALLOC)
    return asked.most_common(1)[0][0] if asked else (0, 0)


def _bounds(rows: Iterable[_Row], whole: tuple[int, int]) -> tuple[int, int]:
    """Return the first and last address of the whole range, in whole pages."""
    start, end = whole
    if start < end:  # the kernel prints the last address, as VMALLOC_END is
        return -(-start // PAGE_BYTES) * PAGE_BYTES, (end + 1) // PAGE_BYTES * PAGE_BYTES - 1
    starts = [row.start for row in rows if row.kind is EventKind.ALLOC] or [PAGE_BYTES]
    end = min(max(starts) + UNSAID_BYTES, ALL_ONES) // PAGE_BYTES * PAGE_BYTES
    return min(starts) // PAGE_BYTES * PAGE_BYTES, end - 1


def _in_counted_order(joined: Joined, recorded: Sequence[int]) -> tuple[list[int], int]:
    """Reorder frees whose lines changed places, within a window of a few lines per CPU.

    A line that does not continue the count is left where it is unless later lines lead from the
    count so far to its own: then they came before it.
    """
    steps, window = joined.steps, 4 * joined.cpus + 4
    waiting = list(reversed(recorded))
    ordered: list[int] = []
    moved = 0
    before: int | None = None
    while waiting:
        base = _count_before(steps[waiting[-1]])
        if before is not None and base is not None and base != before:
            ahead = waiting[-2 : -2 - window : -1]
            for at in _between(steps, before, base, ahead) or _swapped(steps, waiting[-1], ahead):
                del waiting[waiting.index(at, max(0, len(waiting) - 2 - window))]
                ordered.append(at)
                moved += 1
        at = waiting.pop()
        ordered.append(at)
        before = steps[at].number
    return ordered, moved


def _between(steps: Sequence[Step], before: int, after: int, ahead: Sequence[int]) -> list[int]:
    """Return the frees that lead from one count to another, in order; none if they do not."""
    following = {_count_before(steps[at]): at for at in reversed(ahead)}
    path: list[int] = []
    while before != after and before in following:
        at = following.pop(before)
        path.append(at)
        before = steps[at].number
    return path if before == after else []


def _swapped(steps: Sequence[Step], at: int, ahead: Sequence[int]) -> list[int]:
    """Return the next line if it was first: a pair that changed places just after a drain."""
    other = ahead[0] if ahead else at
    if steps[other].cpu == steps[at].cpu or steps[other].number != _count_before(steps[at]):
        return []
    drained = any(step.kind is EventKind.PURGE for step in steps[at:other])
    return [] if drained else [other]


def _count_before(step: Step) -> int | None:
    """Return the count just before a free, if the pages of the free are known."""
    return None if step.pages == UNKNOWN else step.number - step.pages


def _chain(
    steps: Sequence[Step], counted: Sequence[int]
) -> tuple[dict[int, int], dict[int, int], int]:
    """Return each free's pages, how far the count had fallen before it, and the first base."""
    pages: dict[int, int] = {}
    drops: dict[int, int] = {}
    before: int | None = None
    earlier = 0
    for at in counted:
        step = steps[at]
        known = step.pages
        if known == UNKNOWN:  # an area from before the trace: only the count tells its size
            known = step.number - before if before is not None else 0
            known = known if 0 < known <= step.limit else 0
        pages[at] = known
        base = step.number - known
        if before is None:
            earlier = base
        elif base != before:
            drops[at] = before - base
        before = step.number
    return pages, drops, earlier


def _drain_pages(
    steps: Sequence[Step], purges: Sequence[int], recorded: Sequence[int], falls: Sequence[int]
) -> tuple[list[int | None], list[int]]:
    """Add up, for each drain, by how much the count fell: before its line or at the next free.

    Also returns the numbers of the frees that saw those falls.

    The subtraction comes before the line, so the first free after the line shows all of it, while
    a fall later than that belongs to the next drain, already under way. Drains that took areas and
    have no free between their lines share one fall, which then tells nothing of either.
    """
    totals: list[int | None] = [None] * len(purges)
    fallen = [0] * len(purges)
    owned: list[int] = []
    passed: list[int] = []  # drains whose lines have passed, and no free since
    upcoming = 0
    for number, (slot, fall) in enumerate(zip(recorded, falls, strict=True)):
        while upcoming < len(purges) and purges[upcoming] < slot:
            if steps[purges[upcoming]].number:
                passed.append(upcoming)
            else:
                totals[upcoming] = 0
            upcoming += 1
        owner = passed[-1] if passed else upcoming
        if fall > 0 and owner < len(purges):
            fallen[owner] += fall
            owned.append(number)
        if len(passed) == 1:
            totals[passed[0]] = fallen[passed[0]]
        passed.clear()
    return totals, owned


def _drains(
    joined: Joined,
    kernel: Account,
    counts: Sequence[int],
    purges: Sequence[int],
    totals: Sequence[int | None],
) -> list[Drain]:
    """Give each drain the frees that it took, out of those recorded before its line."""
    steps = joined.steps
    nodes = _nodes(joined)
    waiting: list[int] = []
    drains: list[Drain] = []
    given, earlier = 0, kernel.earlier_pages
    for at, count, total in zip(purges, counts, totals, strict=True):
        waiting += kernel.frees[given:count]
        given = max(given, count)
        crossing = next((free for free in waiting if steps[free].number > steps[free].limit), None)
        parts = [(free, kernel.pages[free], nodes.get(steps[free].area, 0)) for free in waiting]
        before = earlier if steps[at].number else 0
        wanted = None if total is None else total - before
        called = _interrupts(steps, at)
        taken = _split(parts, wanted, joined.cpus)
        resolved = taken is not None
        if taken is None:  # it detached the lists before it interrupted anybody
            until = min(called, default=at) if steps[at].number else 0
            taken = [free for free in waiting if free < until]
        drains.append(
            Drain(
                position=at,
                cpu=steps[at].cpu,
                num_purged=steps[at].number,
                crossing=crossing,
                waiting=tuple(waiting),
                taken=tuple(taken),
                pages=total,
                resolved=resolved,
                interrupts=called,
            )
        )
        gone = set(taken)
        waiting = [free for free in waiting if free not in gone]
        earlier -= before
    return drains


def _split(parts: list[tuple[int, int, int]], wanted: int | None, nodes: int) -> list[int] | None:
    """Return the frees that have `wanted` pages in all, as the kernel detaches them; or None.

    It detaches the lists of the nodes one after the other, so the frees that it takes are a prefix
    of all, except that those of higher nodes may still make it a little longer.
    """
    if wanted is None:
        return None
    total = 0
    sums = [0]
    for _, pages, _ in parts:
        total += pages
        sums.append(total)
    length = bisect_left(sums, wanted)
    if length < len(sums) and sums[length] == wanted:
        return [free for free, _, _ in parts[:length]]
    for cut in range(min(length, len(parts)) - 1, max(-1, length - RACING_FREES), -1):
        for node in range(1, nodes):
            total, taken = sums[cut], [free for free, _, _ in parts[:cut]]
            for free, pages, owner in parts[cut : cut + RACING_FREES]:
                if owner >= node:
                    total += pages
                    taken.append(free)
                if total >= wanted:
                    break
            if total == wanted:
                return taken
    return None


def _nodes(joined: Joined) -> dict[int, int]:
    """Return the node of each area: that of the CPU which asked for it."""
    allocated = (step for step in joined.steps if step.kind is EventKind.ALLOC)
    return {step.area: step.cpu % joined.cpus for step in allocated}


def _interrupts(steps: Sequence[Step], position: int) -> tuple[int, ...]:
    """Return the interrupts sent for a drain: the last thing its CPU did before the line."""
    cpu = steps[position].cpu
    found: list[int] = []
    for at in range(position - 1, -1, -1):
        step = steps[at]
        if step.kind is EventKind.PURGE:
            break
        if step.cpu == cpu:
            if step.kind is not EventKind.IPI:
                break
            found.append(at)
    return tuple(reversed(found))
