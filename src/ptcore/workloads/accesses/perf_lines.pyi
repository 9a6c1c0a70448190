"""Scan the lines of perf script."""

from typing import final

import numpy as np
from numpy.typing import NDArray

from ptcore.workloads.accesses.chunks import Accesses

@final
class PerfLines:
    """A scanner (lines.Scanner) of perf script's lines of page faults and memory samples."""

    def scan(
        self, text: NDArray[np.uint8], at: int, end: int, chunk: Accesses, made: int
    ) -> tuple[int, int, int, int]:
        """Scan whole lines, as lines.Scanner says, into a chunk with times."""
