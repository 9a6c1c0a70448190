"""An append-only list of what happened."""

from collections.abc import Set
from os import PathLike
from typing import IO, Any, Self, final

import numpy as np
from numpy.typing import NDArray

from ptcore.machine.events import Event

ROW_DTYPE: np.dtype[Any]

@final
class Ledger:
    """An append-only list of events; 48 bytes a row. Costs and exposure are read out of it afterwards,
    so that a better constant needs no new run, and a ledger is a golden file. Single writer."""

    def __init__(self) -> None: ...
    def append(
        self,
        event: Event | int,
        time_ns: int,
        cpu: int,
        count: int = 0,
        *,
        first: int = 0,
        last: int = 0,
        pa: int = 0,
        cpus: Set[int] = ...,
    ) -> None:
        """Add a row. Raises ValueError when `time_ns` is before the last row's. O(1)."""

    def rows(self) -> NDArray[Any]:
        """Return all rows (ROW_DTYPE), in order; `cpus` is a number for `cpu_set`."""

    def cpu_set(self, number: int) -> frozenset[int]:
        """Return the set of CPUs that a row's `cpus` stands for."""

    def totals(self, first_row: int = 0) -> dict[Event, tuple[int, int]]:
        """Return, for every event, how many rows it has from `first_row` on, and their counts' sum."""

    def save(self, file: str | PathLike[str] | IO[bytes]) -> None:
        """Write all rows as a compressed .npz; the same rows give the same arrays."""

    @classmethod
    def load(cls, file: str | PathLike[str] | IO[bytes]) -> Self:
        """Read what `save` wrote. Raises TraceError for anything else."""

    def __len__(self) -> int:
        """How many rows there are."""
