"""What every reader yields: chunks of accesses in the order of the trace; and what is damaged."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptcore.errors import TraceError

CHUNK = 1 << 16  # accesses; their columns stay in a second-level cache


class AccessKind(IntEnum):
    """What an access does with its address."""

    LOAD = 0
    STORE = 1
    FETCH = 2


@dataclass(frozen=True)
class Accesses:
    """A chunk of n accesses, in the order of the trace.

    `va`: uint64[n], the first byte of each. `kind`: uint8[n], an `AccessKind`. `size`: uint32[n],
    bytes; 0 where the format does not say. `cpu`: uint16[n]; 0 where the format does not say.
    `time_ns`: int64[n] in ns on the recorder's clock, or None where the format has no time: all
    chunks of a trace have it or none has. The arrays belong to the chunk; no reader reuses them.
    """

    va: NDArray[np.uint64]
    kind: NDArray[np.uint8]
    size: NDArray[np.uint32]
    cpu: NDArray[np.uint16]
    time_ns: NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        for name, dtype in COLUMNS.items():
            column = getattr(self, name)
            if column is None and name == "time_ns":
                continue
            if column.dtype != dtype or column.shape != (len(self.va),):
                raise ValueError(
                    f"{name} is {column.dtype}{list(column.shape)}, not {dtype}[{len(self.va)}]"
                )

    def __len__(self) -> int:
        return len(self.va)

    def __getitem__(self, rows: slice | NDArray[Any]) -> Accesses:
        """Return the accesses that a slice, a mask or an array of indexes picks."""
        return Accesses(**{name: column[rows] for name, column in self.columns().items()})

    def of(self, *kinds: AccessKind) -> Accesses:
        """Return the accesses of `kinds`, in order."""
        return self[np.isin(self.kind, [int(kind) for kind in kinds])]

    def columns(self) -> dict[str, NDArray[Any]]:
        """Return the columns by name; time_ns only where there is one."""
        every = {name: getattr(self, name) for name in COLUMNS}
        return {name: column for name, column in every.items() if column is not None}


COLUMNS: dict[str, np.dtype[Any]] = {
    "va": np.dtype(np.uint64),
    "kind": np.dtype(np.uint8),
    "size": np.dtype(np.uint32),
    "cpu": np.dtype(np.uint16),
    "time_ns": np.dtype(np.int64),
}


def join(chunks: list[Accesses]) -> Accesses:
    """Return one chunk of all of them. Raises TraceError when only some of them have a time."""
    if not chunks:
        return empty_chunk(0, timed=False)
    if len({chunk.time_ns is None for chunk in chunks}) > 1:
        raise TraceError("only a part of the trace has times")
    if len(chunks) == 1:
        return chunks[0]
    columns = [chunk.columns() for chunk in chunks]
    return Accesses(**{name: np.concatenate([c[name] for c in columns]) for name in columns[0]})


def empty_chunk(count: int, timed: bool) -> Accesses:
    """Return `count` accesses for a reader to fill: cpu is 0, the rest is not initialised."""
    return Accesses(
        np.empty(count, np.uint64),
        np.empty(count, np.uint8),
        np.empty(count, np.uint32),
        np.zeros(count, np.uint16),
        np.empty(count, np.int64) if timed else None,
    )


def gather(chunks: Iterator[Accesses], count: int = CHUNK) -> Iterator[Accesses]:
    """Yield the same accesses in chunks of at least `count`, but for the last."""
    held: list[Accesses] = []
    rows = 0
    for chunk in chunks:
        held.append(chunk)
        rows += len(chunk)
        if rows >= count:
            yield join(held)
            held, rows = [], 0
    if held:
        yield join(held)


@dataclass
class Damage:
    """The damaged records of one reading: the first one raises, or all are counted.

    `where` is the name of the file, for messages. `whole` is the damage of the trace that this file
    is a part of; what is counted here is counted there as well.
    """

    where: str
    skip: bool = False
    count: int = 0
    whole: Damage | None = None

    def part(self, where: str) -> Damage:
        """Return the damage of a part of the trace."""
        return Damage(where, self.skip, whole=self)

    def found(
        self, reason: str, line: int | None = None, offset: int | None = None, records: int = 1
    ) -> None:
        """Count damaged records when they are skipped, else raise TraceError.

        `line` is 1-based; `offset` is that of the record's first byte, after decompression.
        """
        if not self.skip:
            raise TraceError(f"{self.where}: {reason}", line=line, offset=offset)
        self.count += records
        if self.whole is not None:
            self.whole.found(reason, line, offset, records)
