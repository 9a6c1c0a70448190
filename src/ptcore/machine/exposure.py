"""How long, and over how many pages, a stale translation could still have reached freed memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptcore.machine.ledger import Ledger
from ptcore.machine.window_scan import EVENTS, WINDOW_DTYPE, WindowScan


@dataclass(frozen=True, slots=True)
class Exposure:
    """All windows of a ledger in a few figures. `page_ns` is pages times time, summed; `peak_pages`
    the most pages that were exposed at one time; `held_windows` those that a modelled TLB held;
    `reused_windows` those whose frames served somebody else meanwhile; of `median_ns` half of the windows
    are no longer, of `percentile_99_ns` 99 in 100 (the least length of which that is so)."""

    windows: int
    pages: int
    page_ns: int
    longest_ns: int
    peak_pages: int
    held_windows: int
    reused_windows: int
    still_open: int
    median_ns: int = 0
    percentile_99_ns: int = 0


def windows(ledger: Ledger, cpus: int) -> NDArray[Any]:
    """Return the exposure windows of a ledger of a machine with `cpus` CPUs (WINDOW_DTYPE).

    A window opens when frames are freed whose translations were taken out of the tables but not yet
    invalidated everywhere. Frames that were never unmapped open none: that a strategy leaves them
    reachable is its design, and it says so. Pure; O(rows * log stale spans + spans that rows are about).
    """
    scan = WindowScan(ledger, cpus)
    for rows in ledger.chunks(events=EVENTS):
        scan.feed(rows)
    return scan.finish(ledger.last_ns)


def windows_by_chunk(ledger: Ledger, cpus: int) -> Iterator[tuple[int, NDArray[Any]]]:
    """Yield what `windows` returns a part at a time, each with how many rows of EVENTS were read for it.

    There may be as many windows as rows: this holds only those of a chunk, and those that are open.
    """
    scan = WindowScan(ledger, cpus)
    for rows in ledger.chunks(events=EVENTS):
        scan.feed(rows)
        yield len(rows), scan.take()
    yield 0, scan.finish(ledger.last_ns)


def summary(found: NDArray[Any]) -> Exposure:
    """Return the figures of `windows`' result."""
    if not len(found):
        return Exposure(0, 0, 0, 0, 0, 0, 0, 0)
    lengths = found["end_ns"] - found["start_ns"]
    times = np.concatenate([found["start_ns"], found["end_ns"]])
    changes = np.concatenate([found["pages"], -found["pages"]])
    median, most = np.percentile(lengths, (50, 99), method="inverted_cdf")
    # At one time, what opens is counted before what closes: a window of no length was open.
    order = np.lexsort((-changes, times))
    return Exposure(
        windows=len(found),
        pages=int(found["pages"].sum()),
        page_ns=int((found["pages"] * lengths).sum()),
        longest_ns=int(lengths.max()),
        peak_pages=int(changes[order].cumsum().max()),
        held_windows=int((found["held_on"] > 0).sum()),
        reused_windows=int(found["reused"].sum()),
        still_open=int((~found["closed"]).sum()),
        median_ns=int(median),
        percentile_99_ns=int(most),
    )


__all__ = ["EVENTS", "WINDOW_DTYPE", "Exposure", "summary", "windows", "windows_by_chunk"]
