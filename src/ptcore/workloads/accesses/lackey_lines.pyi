"""Scan and write the lines of valgrind's lackey."""

from typing import final

import numpy as np
from numpy.typing import NDArray

from ptcore.workloads.accesses.chunks import Accesses

@final
class LackeyLines:
    """A scanner (lines.Scanner) of `I  ADDRESS,SIZE` and ` L`, ` S`, ` M` lines; M is two accesses.

    Addresses have 8 to 16 hexadecimal digits, as lackey pads them: with fewer, the line is bad.
    """

    def scan(
        self, text: NDArray[np.uint8], at: int, end: int, chunk: Accesses, made: int
    ) -> tuple[int, int, int, int]:
        """Scan whole lines, as lines.Scanner says. Raises ValueError without 32 bytes after `end`."""

def format_lines(
    va: NDArray[np.uint64],
    kind: NDArray[np.uint8],
    size: NDArray[np.uint32],
    text: NDArray[np.uint8],
) -> int:
    """Write one line per access to `text`; return its bytes. ValueError unless it has 32 per line."""
