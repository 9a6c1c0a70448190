"""Exposure windows by the words of their definition: every row looks at every window."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptcore.machine.events import Event
from ptcore.machine.exposure import WINDOW_DTYPE
from ptcore.machine.ledger import Ledger


@dataclass(slots=True)
class _Open:
    first: int
    last: int
    pa: int
    pages: int
    cpus: set[int]
    all_cpus: int
    freed_ns: int = -1
    freed_pages: int = 0
    held_on: int = 0
    reused: bool = False

    def overlap(self, row: Any) -> int:
        """How many of the window's pages are among a row's frames."""
        page = (self.last - self.first + 1) // max(self.pages, 1)
        low = max(self.pa, int(row["pa"]))
        end = min(self.pa + self.pages * page, int(row["pa"]) + int(row["count"]) * page)
        return max(end - low, 0) // page

    def close(self, end_ns: int, closed: bool) -> tuple[int, ...]:
        return (
            self.freed_ns,
            end_ns,
            self.first,
            self.pa,
            self.freed_pages,
            self.all_cpus,
            self.held_on,
            self.reused,
            closed,
        )


def windows(ledger: Ledger, cpus: int) -> NDArray[Any]:
    """Return the exposure windows of a ledger of a machine with `cpus` CPUs (WINDOW_DTYPE).

    A window opens when frames are freed whose translations were taken out of the tables but not yet
    invalidated everywhere. Frames that were never unmapped open none: that a strategy leaves them
    reachable is its design, and it says so. O(rows * windows open at a time).
    """
    rows = ledger.rows()
    stale: list[_Open] = []
    out: list[tuple[int, ...]] = []
    end_ns = int(rows["time_ns"][-1]) if len(rows) else 0
    for row in rows[np.isin(rows["event"], _READ)]:
        event = int(row["event"])
        if event == Event.UNMAPPED:
            first, last, pa = int(row["first"]), int(row["last"]), int(row["pa"])
            held = set(ledger.cpu_set(int(row["cpus"]))) or set(range(cpus))
            stale.append(_Open(first, last, pa, int(row["count"]), held, len(held)))
        elif event in (Event.FRAMES_FREED, Event.POOL_RETURNED):
            _free(stale, row)
        elif event in (Event.FRAMES_ALLOCATED, Event.POOL_TAKEN):
            for window in stale:
                window.reused |= window.freed_ns >= 0 and window.overlap(row) > 0
        elif event == Event.STALE_HELD:
            for window in stale:
                if window.first == int(row["first"]):
                    # Noted again when later owners free the frames; by then fewer may hold it.
                    window.held_on = max(window.held_on, int(row["count"]))
        else:
            stale = _invalidate(stale, row, ledger, out)
    out.extend(window.close(end_ns, False) for window in stale if window.freed_ns >= 0)
    return np.array(out, dtype=WINDOW_DTYPE)


_READ = (
    Event.UNMAPPED,
    Event.FRAMES_ALLOCATED,
    Event.FRAMES_FREED,
    Event.STALE_HELD,
    Event.INVALIDATED,
    Event.DEVICE_INVALIDATED,
    Event.POOL_TAKEN,
    Event.POOL_RETURNED,
)


def _free(stale: list[_Open], row: Any) -> None:
    for window in stale:
        # The first free opens the window; later owners of the same frames have windows of their own.
        if window.freed_ns < 0:
            pages = window.overlap(row)
            if pages:
                window.freed_ns = int(row["time_ns"])
                window.freed_pages = pages


def _invalidate(
    stale: list[_Open], row: Any, ledger: Ledger, out: list[tuple[int, ...]]
) -> list[_Open]:
    targets = ledger.cpu_set(int(row["cpus"]))
    first, last = int(row["first"]), int(row["last"])
    left = []
    for window in stale:
        if first <= window.first and window.last <= last:
            window.cpus -= targets
        if window.cpus:
            left.append(window)
        elif window.freed_ns >= 0 and int(row["time_ns"]) >= window.freed_ns:
            out.append(window.close(int(row["time_ns"]), True))
    return left
