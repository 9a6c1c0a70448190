"""Scan the lines of drmemtrace's view tool."""

from typing import final

import numpy as np
from numpy.typing import NDArray

from ptcore.workloads.accesses.chunks import Accesses

@final
class ViewLines:
    """A scanner (lines.Scanner) of the view tool's lines: remembers the last CPU and the last time."""

    @property
    def time_ns(self) -> int:
        """The last timestamp, in ns since 1970; 0 before the first."""

    @property
    def cpu(self) -> int:
        """The CPU that was named last; 0 before the first, and where the recorder knew none."""

    def scan(
        self, text: NDArray[np.uint8], at: int, end: int, chunk: Accesses, made: int
    ) -> tuple[int, int, int, int]:
        """Scan whole lines, as lines.Scanner says, into a chunk with times."""
