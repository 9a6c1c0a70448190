"""Listings of whole tables. Nothing for Python: see PageTable."""

from typing import final

import numpy as np
import numpy.typing as npt

@final
class Scan:
    """One listing under way; made by PageTable.mappings."""

    def array(self) -> npt.NDArray[np.void]:
        """Return the rows listed so far as an array of their own."""

@final
class Tally:
    """One count under way; made by PageTable.stats, without a method for Python."""

@final
class Harvester:
    """One harvest under way; made by PageTable.harvest, without a method for Python."""
