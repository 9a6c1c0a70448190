"""Unpack the records of one thread of a drmemtrace trace."""

from typing import final

import numpy as np
from numpy.typing import NDArray

from ptcore.workloads.accesses.chunks import Accesses

@final
class ThreadRecords:
    """The records of one thread, in order: remembers the last CPU and the last time."""

    @property
    def time_ns(self) -> int:
        """The last timestamp, in ns since 1970; 0 before the first."""

    @property
    def cpu(self) -> int:
        """The CPU that was named last; 0 before the first, and where the recorder knew none."""

    def unpack(
        self, block: NDArray[np.uint8], address_bytes: int, chunk: Accesses, made: int
    ) -> tuple[int, int]:
        """Unpack the whole records of a block into a chunk with times, from row `made` on.

        Returns the records passed, which are fewer when the next one cannot be read (a type of a
        later version, a bundle, an impossible time or CPU), and the rows made. Raises ValueError
        unless address_bytes is 4 or 8 and the chunk has a row for each record.
        """
