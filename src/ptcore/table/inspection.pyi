"""What is wrong with the tables themselves: items and pointers, each table and level looked at once."""

from typing import Any, final

import numpy as np
import numpy.typing as npt

from ptcore.table.page_table import PageTable

@final
class Inspection:
    """One look at the tables under a root; made by `check`."""

    def __init__(self, table: PageTable) -> None: ...
    def run(self) -> tuple[npt.NDArray[Any], npt.NDArray[np.uint64]]:
        """Return rows of FINDING_DTYPE, and (address, level) of every table: uint64[n, 2]."""
