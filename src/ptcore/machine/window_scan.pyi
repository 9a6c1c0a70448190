"""One pass over a ledger that finds its exposure windows: a row looks only at the spans that it is about."""

from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from ptcore.machine.events import Event
from ptcore.machine.ledger import Ledger

WINDOW_DTYPE: np.dtype[Any]
"""One window: from the free of the frames to the invalidation on the last CPU (or the ledger's end, when
`closed` is False); `first` the stale address, `pages` of the smallest size, `cpus` that may have held it,
`held_on` how many TLBs of the model did hold some of it when the frames were freed, `reused` whether
some of the frames were handed out again before the window closed."""

EVENTS: tuple[Event, ...]

@final
class WindowScan:
    """What `exposure.windows` does, rows of `EVENTS` at a time; O(log spans + those it is about) each."""

    def __init__(self, ledger: Ledger, cpus: int) -> None: ...
    def feed(self, rows: NDArray[Any]) -> None:
        """Go on with these rows (ROW_DTYPE), which come after those before."""

    def take(self) -> NDArray[Any]:
        """Return the windows (WINDOW_DTYPE) that closed since the last time, in the order of their ends."""

    def finish(self, end_ns: int) -> NDArray[Any]:
        """Return those not yet taken; those still open come last and end at `end_ns`."""
