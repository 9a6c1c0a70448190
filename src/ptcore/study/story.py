"""One page's life in words, out of a ledger."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ptcore.errors import TraceError
from ptcore.machine.events import Event
from ptcore.machine.exposure import windows
from ptcore.machine.ledger import Ledger

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


def story(ledger: Ledger, pa: int | None = None) -> list[str]:
    """Return what happened to the page at `pa`, a sentence each, in order of time.

    `pa`: any byte of it (default: a page of the longest exposure window, else the first one that was
    allocated). Pages are taken to have 4 KiB. Windows that were only built beforehand, page after page, are
    left out. Raises TraceError when the ledger says nothing of it. O(rows).
    """
    chosen = _choose(ledger) if pa is None else pa & -PAGE_BYTES
    translated = ledger.totals()[Event.MAPPED][0] > 0
    teller = _Teller(ledger, chosen, translated, _everyone(ledger))
    for rows in ledger.chunks():
        for row in rows:
            teller.tell(row)
    said = teller.lines()
    if not said:
        raise TraceError(f"the ledger says nothing of a page at {chosen:#x}")
    return [f"The page at {chosen:#x}:", *said]


def _everyone(ledger: Ledger) -> frozenset[int]:
    """Return the CPUs that the ledger speaks of."""
    found: set[int] = set()
    for rows, _ in ledger.weighted():
        found.update(np.unique(rows["cpu"]).tolist())
        for number in np.unique(rows["cpus"][rows["event"] == Event.INVALIDATED]):
            found |= ledger.cpu_set(int(number))
    return frozenset(found)


def _choose(ledger: Ledger) -> int:
    highest = max((int(rows["cpu"].max()) for rows, _ in ledger.weighted()), default=0)
    found = windows(ledger, 1 + highest)
    if len(found):
        return int(found["pa"][np.argmax(found["end_ns"] - found["start_ns"])])
    for taken in ledger.chunks(events=(Event.FRAMES_ALLOCATED,)):
        return int(taken["pa"][0])
    raise TraceError("the ledger has no page: no frame was allocated")


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
    stale: dict[int, _Stale] = field(default_factory=dict)
    said: list[tuple[int, tuple[str, int], str]] = field(default_factory=list)

    def tell(self, row: Any) -> None:
        """Say what a row means for the page, if anything."""
        event, cpu = Event(int(row["event"])), int(row["cpu"])
        inside = int(row["pa"]) <= self.pa < int(row["pa"]) + int(row["count"]) * PAGE_BYTES
        if event in _TAKEN and inside:
            others = f", with {int(row['count']) - 1:,} others" if row["count"] > 1 else ""
            self._taken()
            self._say(row, "take", 0, _TAKEN[event].format(cpu=cpu, others=others))
        elif event in _GIVEN and inside:
            self._freed(int(row["time_ns"]))
            self._say(row, "give", 0, _GIVEN[event].format(cpu=cpu))
        elif event is Event.STALE_HELD and int(row["first"]) in self.stale:
            held, va = int(row["count"]), self.stale[int(row["first"])].va
            who = "1 TLB still holds" if held == 1 else f"{held} TLBs still hold"
            self._say(row, "held", va, f"{who} its translation at {va:#x}")
        elif event is Event.MAPPED and inside:
            va = self.places[int(row["first"])] = int(row["first"]) + self.pa - int(row["pa"])
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

    def _say(self, row: Any, what: str, va: int, text: str) -> None:
        self.said.append((int(row["time_ns"]), (what, va), text))

    def _within(self, row: Any, vas: list[int]) -> list[int]:
        return [va for va in vas if int(row["first"]) <= va <= int(row["last"])]

    def _taken(self) -> None:
        for stale in self.stale.values():
            stale.reused |= stale.freed_ns is not None

    def _freed(self, time_ns: int) -> None:
        for stale in self.stale.values():
            stale.freed_ns = time_ns if stale.freed_ns is None else stale.freed_ns

    def _unmapped(self, row: Any, inside: bool) -> None:
        first = int(row["first"])
        if first not in self.places and not inside:
            return
        va = self.places.pop(first, first + self.pa - int(row["pa"]))
        holders = self.ledger.cpu_set(int(row["cpus"])) or self.everyone
        self.stale[first] = _Stale(va, set(holders))
        text = f"CPU {int(row['cpu'])} takes {va:#x} out of the tables; it may be cached still"
        self._say(row, "unmap", va, text)

    def _touched(self, row: Any, event: Event) -> None:
        device = event is Event.DEVICE_ACCESSED
        who = "the device" if device else f"CPU {int(row['cpu'])}"
        for va in self._within(row, list(self.places.values()))[:1]:
            where = f"I/O address {va:#x}" if device else f"{va:#x}"
            self._say(row, "touch", va, f"{who} touches it at {where}")
        if device and not self.translated and self._within(row, [self.pa]):
            self._say(row, "touch", self.pa, f"{who} touches it at its physical address")

    def _invalidated(self, row: Any, event: Event) -> None:
        low, high = int(row["first"]), int(row["last"])
        targets = self.ledger.cpu_set(int(row["cpus"]))
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
            how = "page by page" if int(row["count"]) else "everything"
            text = f"{who} what is cached of {stale.va:#x} ({how}); CPU {int(row['cpu'])} asked"
            self._say(row, "drop", stale.va, text)
            if stale.holders:
                continue
            del self.stale[key]
            if stale.freed_ns is not None and int(row["time_ns"]) > stale.freed_ns:
                exposed = (int(row["time_ns"]) - stale.freed_ns) / 1e6
                text = f"until now it could be reached there: exposed for {exposed:,.6g} ms"
                text += ", while it served somebody else" * stale.reused
                self._say(row, "exposed", stale.va, text)

    def _who(self, row: Any) -> str:
        cpus = sorted(self.ledger.cpu_set(int(row["cpus"])))
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


__all__ = ["story"]
