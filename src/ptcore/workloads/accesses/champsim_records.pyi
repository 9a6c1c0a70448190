"""Unpack and pack the records of ChampSim: one instruction each."""

from typing import final

import numpy as np
from numpy.typing import NDArray

from ptcore.workloads.accesses.chunks import Accesses

def unpack(
    block: NDArray[np.uint8], record_bytes: int, chunk: Accesses, made: int
) -> tuple[int, int]:
    """Unpack the whole records of a block into a chunk, from row `made` on.

    Writes va and kind: per record its fetch, its loads, its stores. Returns the records unpacked,
    which are fewer when the next one's branch flags are neither 0 nor 1, and the rows made. Raises
    ValueError unless record_bytes is 64 or 96 and the chunk has 9 rows for each record.
    """

@final
class Packer:
    """Puts accesses together to records of 64 bytes: a fetch begins one, and whatever has no room."""

    def pack(
        self, va: NDArray[np.uint64], kind: NDArray[np.uint8], records: NDArray[np.uint8]
    ) -> int:
        """Write the records that are complete; return their bytes. The last one is kept for later.

        No address may be 0. Raises ValueError unless `records` has 64 bytes for each access.
        """

    def last(self) -> bytes:
        """Return the record that is not complete, or nothing, and forget it."""
