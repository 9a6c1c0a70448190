"""An append-only list of what happened."""

from collections.abc import Iterable, Iterator, Set
from os import PathLike
from typing import IO, Any, Self, final

import numpy as np
from numpy.typing import NDArray

from ptcore.machine.events import Event
from ptcore.machine.ledger_files import REPEAT_DTYPE as REPEAT_DTYPE
from ptcore.machine.ledger_files import ROW_DTYPE as ROW_DTYPE
from ptcore.machine.ledger_files import Part

CHUNK_ROWS: int

@final
class Ledger:
    """An append-only list of events; 48 bytes a row. Costs and exposure are read out of it afterwards,
    so that a better constant needs no new run, and a ledger is a golden file. Single writer.

    Rows that come again, as those of a loop over pages do, are stored once with how often they came."""

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

    def rows(self, first_row: int = 0, *, events: Iterable[Event] | None = None) -> NDArray[Any]:
        """Return the rows (ROW_DTYPE) from `first_row` on, in order, or those of `events` among them.

        `cpus` is a number for `cpu_set`. A ledger may be larger than memory: see `chunks`.
        """

    def chunks(
        self, first_row: int = 0, *, events: Iterable[Event] | None = None, most: int = ...
    ) -> Iterator[NDArray[Any]]:
        """Yield what `rows` returns, at most `most` rows at a time."""

    def weighted(self, first_row: int = 0) -> Iterator[tuple[NDArray[Any], NDArray[np.int64]]]:
        """Yield rows as they are stored, and how often each happened: enough for sums, and short.

        `unused` is not 0 in rows whose addresses move from one time to the next.
        """

    def parts(self) -> Iterator[Part]:
        """Yield all rows as they are stored."""

    def cpu_set(self, number: int) -> frozenset[int]:
        """Return the set of CPUs that a row's `cpus` stands for."""

    def totals(self, first_row: int = 0) -> dict[Event, tuple[int, int]]:
        """Return, for every event, how many rows it has from `first_row` on, and their counts' sum.

        O(rows before `first_row`).
        """

    def save(self, file: str | PathLike[str] | IO[bytes]) -> None:
        """Write all rows as a compressed .npz; the same rows give the same arrays."""

    @classmethod
    def load(cls, file: str | PathLike[str] | IO[bytes]) -> Self:
        """Read what `save` wrote. Raises TraceError for anything else."""

    def __len__(self) -> int:
        """How many rows there are."""
