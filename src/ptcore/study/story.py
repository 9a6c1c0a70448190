"""One page's life in words, out of a ledger."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptcore.errors import TraceError
from ptcore.machine.events import Event
from ptcore.machine.exposure import windows
from ptcore.machine.ledger import Ledger

PAGE_BYTES = 4096

_BY_FRAME = {
    Event.FRAMES_ALLOCATED: "CPU {cpu} takes its frame, with {others} others",
    Event.FRAMES_FREED: "CPU {cpu} gives its frame back: it may serve somebody else",
    Event.POOL_TAKEN: "CPU {cpu} takes it out of the pool",
    Event.POOL_RETURNED: "CPU {cpu} gives it back to the pool: it may serve somebody else",
    Event.STALE_HELD: "{count} TLBs still hold a translation to it",
}
_BY_ADDRESS = {
    Event.ACCESSED: "CPU {cpu} touches it at {va:#x}",
    Event.DEVICE_ACCESSED: "the device touches it at I/O address {va:#x}",
    Event.INVALIDATED: "{who} drop what they cache of {va:#x} ({how}); CPU {cpu} asked",
    Event.DEVICE_INVALIDATED: "the device drops what it cached of {va:#x}; CPU {cpu} asked",
}


def story(ledger: Ledger, pa: int | None = None) -> list[str]:
    """Return what happened to the page at `pa`, a sentence each, in order of time.

    `pa`: any byte of it (default: a page of the longest exposure window, else the first one that was
    allocated). Pages are taken to have 4 KiB. Raises TraceError when the ledger says nothing of it. O(rows).
    """
    rows = ledger.rows()
    chosen = _choose(ledger, rows) if pa is None else pa & -PAGE_BYTES
    lines = [f"The page at {chosen:#x}:"]
    places: dict[int, int] = {}  # first address of a mapping: where the page is in it
    stale: dict[int, int] = {}
    for row in rows:
        said = _sentence(ledger, row, chosen, places, stale)
        if said:
            lines.append(f"  {int(row['time_ns']) / 1e6:12.6f} ms  {said}")
    if len(lines) == 1:
        raise TraceError(f"the ledger says nothing of a page at {chosen:#x}")
    if stale:
        where = ", ".join(f"{va:#x}" for va in stale.values())
        lines.append(f"  at the end, translations of {where} may still be cached")
    return lines


def _choose(ledger: Ledger, rows: NDArray[Any]) -> int:
    found = windows(ledger, 1 + int(rows["cpu"].max(initial=0)))
    if len(found):
        return int(found["pa"][np.argmax(found["end_ns"] - found["start_ns"])])
    taken = rows[rows["event"] == Event.FRAMES_ALLOCATED]
    if not len(taken):
        raise TraceError("the ledger has no page: no frame was allocated")
    return int(taken["pa"][0])


def _sentence(
    ledger: Ledger, row: Any, pa: int, places: dict[int, int], stale: dict[int, int]
) -> str:
    event, first, cpu = Event(int(row["event"])), int(row["first"]), int(row["cpu"])
    inside = int(row["pa"]) <= pa < int(row["pa"]) + int(row["count"]) * PAGE_BYTES
    if event in _BY_FRAME and (inside or (event is Event.STALE_HELD and first in stale)):
        count = int(row["count"])
        return _BY_FRAME[event].format(cpu=cpu, count=count, others=count - 1)
    if event is Event.MAPPED and inside:
        places[first] = first + pa - int(row["pa"])
        return f"CPU {cpu} maps it at {places[first]:#x}"
    if event is Event.UNMAPPED and (first in places or inside):
        stale[first] = places.pop(first, first + pa - int(row["pa"]))
        return f"CPU {cpu} takes {stale[first]:#x} out of the tables; it may be cached still"
    if event in (Event.ACCESSED, Event.DEVICE_ACCESSED):
        touched = [va for va in places.values() if first <= va <= int(row["last"])]
        return _BY_ADDRESS[event].format(cpu=cpu, va=touched[0]) if touched else ""
    if event in (Event.INVALIDATED, Event.DEVICE_INVALIDATED):
        return _invalidated(ledger, row, event, stale)
    return ""


def _invalidated(ledger: Ledger, row: Any, event: Event, stale: dict[int, int]) -> str:
    gone = [key for key, va in stale.items() if int(row["first"]) <= va <= int(row["last"])]
    if not gone:
        return ""
    cpus = ledger.cpu_set(int(row["cpus"]))
    who = f"CPUs {', '.join(map(str, sorted(cpus)))}" if len(cpus) < 9 else f"{len(cpus)} CPUs"
    how = "page by page" if int(row["count"]) else "everything"
    va = stale[gone[0]]
    for key in gone:
        del stale[key]
    return _BY_ADDRESS[event].format(cpu=int(row["cpu"]), va=va, who=who, how=how)


__all__ = ["story"]
