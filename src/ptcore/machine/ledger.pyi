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

    Rows that come again, as those of a loop over pages do, are stored once with how often they came.
    """

    def __init__(
        self,
        *,
        limit_rows: int | None = None,
        spill: str | PathLike[str] | None = None,
        form: str | None = None,
    ) -> None:
        """Keep all rows in memory, or at most `limit_rows` stored ones: beyond, they become a part on disk.

        `spill`: an empty folder for the parts (default: a temporary one that goes with the ledger); `form`:
        "parquet" or "npz" (default: Parquet where pyarrow is there). Each part is whole or not there: what a
        full disk or an interrupt leaves behind can be loaded. Raises OutOfRange, FormatError, and TraceError
        for a folder that is not empty.
        """

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
        """Add a row. Raises ValueError when `time_ns` is before the last row's. O(1).

        OSError when a part cannot be written; its rows are in memory still.
        """

    def rows(self, first_row: int = 0, *, events: Iterable[Event] | None = None) -> NDArray[Any]:
        """Return the rows (ROW_DTYPE) from `first_row` on, in order, or those of `events` among them.

        `cpus` is a number for `cpu_set`; `page_lg2` of MAPPED and SPLIT is the size of leaves that was asked
        for, as a power of two, else 0. A ledger may be larger than memory: see `chunks`.
        """

    def chunks(
        self, first_row: int = 0, *, events: Iterable[Event] | None = None, most: int = ...
    ) -> Iterator[NDArray[Any]]:
        """Yield what `rows` returns, at most `most` rows at a time."""

    def weighted(self, first_row: int = 0) -> Iterator[tuple[NDArray[Any], NDArray[np.int64]]]:
        """Yield rows as they are stored, and how often each happened: enough for sums, and short.

        Above the six bits of their `page_lg2` is what moves from one time to the next.
        """

    def parts(self) -> Iterator[Part]:
        """Yield all rows as they are stored."""

    def cpu_set(self, number: int) -> frozenset[int]:
        """Return the set of CPUs that a row's `cpus` stands for."""

    @property
    def last_ns(self) -> int:
        """When the last row happened; 0 of an empty ledger."""

    def totals(self, first_row: int = 0) -> dict[Event, tuple[int, int]]:
        """Return, for every event, how many rows it has from `first_row` on, and their counts' sum.

        O(rows before `first_row`).
        """

    @property
    def streamed(self) -> bool:
        """Whether parts of it are on disk."""

    @property
    def rows_in_memory(self) -> int:
        """How many stored rows are in memory."""

    def close(self) -> None:
        """Write what is still in memory of a streamed ledger as its last part, for `load` of its folder."""

    def save(self, file: str | PathLike[str] | IO[bytes]) -> None:
        """Write all rows as a compressed .npz, or a streamed ledger as a folder of parts.

        The same rows give the same arrays. The file is whole, or not there. Raises TraceError for a folder
        that is not empty, OSError.
        """

    @classmethod
    def load(cls, file: str | PathLike[str] | IO[bytes]) -> Self:
        """Read what `save` wrote, or a folder of parts, which stay there. TraceError for anything else."""

    def __len__(self) -> int:
        """How many rows there are."""
