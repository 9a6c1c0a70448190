"""One page's life in words, out of a ledger."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptcore.errors import OutOfRange, TraceError
from ptcore.machine.events import Event
from ptcore.machine.exposure import EVENTS as OF_WINDOWS
from ptcore.machine.exposure import windows_by_chunk
from ptcore.machine.ledger import Ledger

Progress = Callable[[str, int, int], None]
PAGE_BYTES = 4096
NAMED_CPUS = 8  # more than so many are counted, not named

_TAKEN = {
    Event.FRAMES_ALLOCATED: "CPU {cpu} takes its frame{others}",
    Event.POOL_TAKEN: "CPU {cpu} takes it out of the pool{others}",
}
_GIVEN = {
    Event.FRAMES_FREED: "CPU {cpu} gives its frame back: it may serve somebody else",
    Event.POOL_RETURNED: "CPU {cpu} gives it back to the pool: it may serve somebody else",
}
_LEAVES = {
    Event.SPLIT: "CPU {cpu} splits the leaf that maps it at {va:#x}",
    Event.COLLAPSED: "CPU {cpu} makes one leaf of those around {va:#x}",
}

# By which of its columns a row is about the page: its frames, where its window begins, or what it spans.
_BY_FRAME = (*_TAKEN, *_GIVEN, Event.MAPPED, Event.UNMAPPED)
_BY_FIRST = (Event.UNMAPPED, Event.STALE_HELD)
_BY_SPAN = (
    *(Event.ACCESSED, Event.DEVICE_ACCESSED, Event.INVALIDATED, Event.DEVICE_INVALIDATED),
    *_LEAVES,
)
_EVENTS = tuple({*_BY_FRAME, *_BY_FIRST, *_BY_SPAN})


def story(ledger: Ledger, pa: int | None = None, *, progress: Progress | None = None) -> list[str]:
    """Return what happened to the page at `pa`, a sentence each, in order of time.

    `pa`: any byte of it (default: a page of the longest exposure window, else the first one that was
    allocated). Pages are taken to have 4 KiB. Windows that were only built beforehand, page after page, are
    left out. `progress` is told (what is looked for, rows done, rows to do). Raises TraceError when the
    ledger says nothing of it, OutOfRange for an address of more than 64 bits. O(rows * log windows of the
    page); memory for a part of the ledger and for what is said.
    """
    if pa is not None and not 0 <= pa < 1 << 64:
        raise OutOfRange(f"a physical address has at most 64 bits, not {pa:#x}")
    steps = _Steps(ledger, pa is None, progress)
    cpus, everyone = _cpus(ledger, steps)
    chosen = _choose(ledger, 1 + cpus, steps) if pa is None else pa & -PAGE_BYTES
    translated = ledger.totals()[Event.MAPPED][0] > 0
    teller = _Teller(ledger, chosen, translated, everyone)
    for rows in ledger.chunks(events=_EVENTS):
        for row in rows[_about(rows, teller)].tolist():
            teller.tell(_Row(*row))
        steps.done("the page", len(rows))
    said = teller.lines()
    if not said:
        raise TraceError(f"the ledger says nothing of a page at {chosen:#x}")
    return [f"The page at {chosen:#x}:", *said]


class _Steps:
    """Tells how far a story has come: who takes part, which page was exposed, and what happened to it."""

    def __init__(self, ledger: Ledger, choosing: bool, progress: Progress | None) -> None:
        numbers = ledger.totals()
        passes = (_EVENTS, OF_WINDOWS) if choosing else (_EVENTS,)
        self.total = len(ledger) + sum(numbers[event][0] for events in passes for event in events)
        self.progress = progress
        self.rows = 0

    def done(self, what: str, rows: int) -> None:
        self.rows += rows
        if self.progress is not None:
            self.progress(what, self.rows, self.total)


def _cpus(ledger: Ledger, steps: _Steps) -> tuple[int, frozenset[int]]:
    """Return the highest CPU that did something, and all CPUs that the ledger speaks of."""
    acting: set[int] = set()
    asked: set[int] = set()
    for rows, weights in ledger.weighted():
        acting.update(_values(rows["cpu"]))
        asked.update(_values(rows["cpus"][rows["event"] == Event.INVALIDATED]))
        steps.done("CPUs", int(weights.sum()))
    named = (ledger.cpu_set(number) for number in asked)
    return max(acting, default=0), frozenset(acting).union(*named)


def _values(column: NDArray[Any]) -> list[int]:
    """Return the different values of a column of small numbers; faster than to sort it."""
    lowest = int(column.min(initial=0))
    return [lowest + int(n) for n in np.flatnonzero(np.bincount(column.astype(np.int64) - lowest))]


def _choose(ledger: Ledger, cpus: int, steps: _Steps) -> int:
    longest, pa = -1, 0
    for rows, found in windows_by_chunk(ledger, cpus):
        lengths = found["end_ns"] - found["start_ns"]
        if lengths.max(initial=-1) > longest:
            longest, pa = int(lengths.max()), int(found["pa"][np.argmax(lengths)])
        steps.done("exposed pages", rows)
    if longest >= 0:
        return pa
    for taken in ledger.chunks(events=(Event.FRAMES_ALLOCATED,)):
        return int(taken["pa"][0])
    raise TraceError("the ledger has no page: no frame was allocated")


@dataclass(slots=True)
class _Row:
    """A row of a ledger as Python's numbers: the columns of ROW_DTYPE."""

    time_ns: int
    first: int
    last: int
    pa: int
    count: int
    cpus: int
    cpu: int
    event: int
    unused: int


@dataclass(slots=True)
class _Stale:
    """A translation of the page that is in no table: its address, who may hold it, when the page was freed
    under it, and whether the page served somebody else since."""

    va: int
    holders: set[int]
    freed_ns: int | None = None
    reused: bool = False


@dataclass
class _Teller:
    """Where the page is mapped, where it may still be cached, and what was said of it: (ns, what, text)."""

    ledger: Ledger
    pa: int
    translated: bool
    everyone: frozenset[int]
    places: dict[int, int] = field(default_factory=dict)  # first address of a mapping: the page's
    stale: dict[int, _Stale] = field(default_factory=dict)  # by the same
    said: list[tuple[int, tuple[str, int], str]] = field(default_factory=list)

    def tell(self, row: _Row) -> None:
        """Say what a row means for the page, if anything."""
        event, cpu = Event(row.event), row.cpu
        inside = row.pa <= self.pa < row.pa + row.count * PAGE_BYTES
        if event in _TAKEN and inside:
            others = f", with {row.count - 1:,} others" if row.count > 1 else ""
            self._taken()
            self._say(row, "take", 0, _TAKEN[event].format(cpu=cpu, others=others))
        elif event in _GIVEN and inside:
            self._freed(row.time_ns)
            self._say(row, "give", 0, _GIVEN[event].format(cpu=cpu))
        elif event is Event.STALE_HELD and row.first in self.stale:
            held, va = row.count, self.stale[row.first].va
            who = "1 TLB still holds" if held == 1 else f"{held} TLBs still hold"
            self._say(row, "held", va, f"{who} its translation at {va:#x}")
        elif event is Event.MAPPED and inside:
            va = self.places[row.first] = row.first + self.pa - row.pa
            self._say(row, "map", va, f"CPU {cpu} maps it at {va:#x}")
        elif event is Event.UNMAPPED:
            self._unmapped(row, inside)
        elif event in (Event.ACCESSED, Event.DEVICE_ACCESSED):
            self._touched(row, event)
        elif event in (Event.INVALIDATED, Event.DEVICE_INVALIDATED):
            self._invalidated(row, event)
        elif event in _LEAVES:
            for va in self._within(row, list(self.places.values())):
                self._say(row, "leaf", va, _LEAVES[event].format(cpu=cpu, va=va))

    def known(self) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
        """Return where mappings begin that the page is in, or is cached by, and where they reach it."""
        vas = {*self.places.values(), *(stale.va for stale in self.stale.values())}
        if not self.translated:
            vas.add(self.pa)
        firsts = {*self.places, *self.stale}
        return _array(firsts), _array(vas)

    def _say(self, row: _Row, what: str, va: int, text: str) -> None:
        self.said.append((row.time_ns, (what, va), text))

    def _within(self, row: _Row, vas: list[int]) -> list[int]:
        return [va for va in vas if row.first <= va <= row.last]

    def _taken(self) -> None:
        for stale in self.stale.values():
            stale.reused |= stale.freed_ns is not None

    def _freed(self, time_ns: int) -> None:
        for stale in self.stale.values():
            stale.freed_ns = time_ns if stale.freed_ns is None else stale.freed_ns

    def _unmapped(self, row: _Row, inside: bool) -> None:
        first = row.first
        if first not in self.places and not inside:
            return
        va = self.places.pop(first, first + self.pa - row.pa)
        holders = self.ledger.cpu_set(row.cpus) or self.everyone
        self.stale[first] = _Stale(va, set(holders))
        text = f"CPU {row.cpu} takes {va:#x} out of the tables; it may be cached still"
        self._say(row, "unmap", va, text)

    def _touched(self, row: _Row, event: Event) -> None:
        device = event is Event.DEVICE_ACCESSED
        who = "the device" if device else f"CPU {row.cpu}"
        for va in self._within(row, list(self.places.values()))[:1]:
            where = f"I/O address {va:#x}" if device else f"{va:#x}"
            self._say(row, "touch", va, f"{who} touches it at {where}")
        if device and not self.translated and self._within(row, [self.pa]):
            self._say(row, "touch", self.pa, f"{who} touches it at its physical address")

    def _invalidated(self, row: _Row, event: Event) -> None:
        low, high = row.first, row.last
        targets = self.ledger.cpu_set(row.cpus)
        met = [
            key
            for key, stale in self.stale.items()
            if low <= stale.va <= high and stale.holders & targets
        ]
        for key in met:
            stale = self.stale[key]
            stale.holders -= targets
            device = event is Event.DEVICE_INVALIDATED
            who = "the device drops" if device else self._who(row)
            how = "page by page" if row.count else "everything"
            text = f"{who} what is cached of {stale.va:#x} ({how}); CPU {row.cpu} asked"
            self._say(row, "drop", stale.va, text)
            if stale.holders:
                continue
            del self.stale[key]
            if stale.freed_ns is not None and row.time_ns > stale.freed_ns:
                exposed = (row.time_ns - stale.freed_ns) / 1e6
                text = f"until now it could be reached there: exposed for {exposed:,.6g} ms"
                text += ", while it served somebody else" * stale.reused
                self._say(row, "exposed", stale.va, text)

    def _who(self, row: _Row) -> str:
        cpus = sorted(self.ledger.cpu_set(row.cpus))
        if len(cpus) == 1:
            return f"CPU {cpus[0]} drops"
        if len(cpus) == len(self.everyone):
            return f"all {len(cpus)} CPUs drop"
        named = f"CPUs {', '.join(map(str, cpus))}"
        return f"{named if len(cpus) <= NAMED_CPUS else f'{len(cpus)} CPUs'} drop"

    def lines(self) -> list[str]:
        """Return what was said, but for windows that were built and never used, and what is left open."""
        kept: list[tuple[int, tuple[str, int], str]] = []
        for line in self.said:
            kept.append(line)
            last = [what for _, what, _ in kept[-3:]]
            if last == [(what, line[1][1]) for what in ("map", "unmap", "drop")]:
                del kept[-3:]
        said = [f"  {time_ns / 1e6:12.6f} ms  {text}" for time_ns, _, text in kept]
        if said and self.stale:
            where = ", ".join(f"{stale.va:#x}" for stale in self.stale.values())
            said.append(f"  at the end, translations of {where} may still be cached")
        return said


def _array(numbers: set[int]) -> NDArray[np.uint64]:
    return np.fromiter(numbers, np.uint64, len(numbers))


def _about(rows: NDArray[Any], teller: _Teller) -> NDArray[np.intp]:
    """Return the places of the rows that may say something of the page: all that do, and few more."""
    event = rows["event"]
    by_frame = _those(event, _BY_FRAME)
    first, pa, pages = (rows[name][by_frame] for name in ("first", "pa", "count"))
    page = np.uint64(teller.pa)
    inside = (pa <= page) & (((page - pa) // PAGE_BYTES).astype(np.int64) < pages)
    by_frame, first, pa = by_frame[inside], first[inside], pa[inside]
    # What begins in this chunk counts from its first row on.
    firsts, vas = teller.known()
    firsts = np.concatenate([firsts, first])
    vas = np.concatenate([vas, first + (page - pa)])
    by_first = _those(event, _BY_FIRST)
    by_first = by_first[np.isin(rows["first"][by_first], firsts)]
    by_span = _those(event, _BY_SPAN)
    by_span = by_span[_holds_any(rows["first"][by_span], rows["last"][by_span], vas)]
    return np.unique(np.concatenate([by_frame, by_first, by_span]))


def _those(event: NDArray[np.uint8], wanted: Iterable[Event]) -> NDArray[np.intp]:
    among = np.zeros(256, dtype=bool)
    among[list(wanted)] = True
    return np.flatnonzero(among[event])


def _holds_any(
    first: NDArray[np.uint64], last: NDArray[np.uint64], points: NDArray[np.uint64]
) -> NDArray[np.bool_]:
    """Return for each of first..last whether one of the points is in it."""
    ordered = np.sort(points)
    at = np.searchsorted(ordered, first)
    return np.searchsorted(ordered, last, side="right") > at


__all__ = ["story"]
