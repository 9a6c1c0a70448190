"""Exposure over time: how many freed pages could still be reached, bin by bin."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

BINS = 160


def exposed_over_time(
    found: NDArray[Any], begin_ns: int, end_ns: int, bins: int = BINS
) -> tuple[int, ...]:
    """Return the most pages exposed at one time within each of `bins` equal parts of begin_ns..end_ns.

    `found` is what machine.exposure.windows returns. Pure; O(n log n) of n windows.
    """
    if not len(found) or end_ns <= begin_ns:
        return (0,) * bins
    times = np.concatenate([found["start_ns"], found["end_ns"]])
    changes = np.concatenate([found["pages"], -found["pages"]])
    order = np.lexsort((-changes, times))  # what opens counts before what closes at one time
    exposed = changes[order].cumsum()
    width = (end_ns - begin_ns) / bins
    place = np.clip(((times[order] - begin_ns) / width).astype(np.int64), 0, bins - 1)
    most = np.zeros(bins, dtype=np.int64)
    np.maximum.at(most, place, exposed)
    # A bin begins with what the one before it ended with.
    last = np.full(bins, -1, dtype=np.int64)
    last[place] = exposed
    carried = 0
    for n in range(bins):
        most[n] = max(int(most[n]), carried)
        carried = int(last[n]) if last[n] >= 0 else carried
    return tuple(int(pages) for pages in most)


__all__ = ["BINS", "exposed_over_time"]
