"""Which pages of a memory could hold tables: the compiled half of `find_roots`."""

from typing import final

import numpy as np
import numpy.typing as npt

from ptcore.memory.physical import PhysicalMemory
from ptcore.table.page_table import PageTable

def candidates(carrier: PageTable, start: int, last: int, step: int) -> npt.NDArray[np.uint64]:
    """Return the addresses from `start` to `last`, `step` bytes apart, whose bytes could be a root."""

def places_of(memory: PhysicalMemory, text: bytes, start: int, last: int) -> list[int]:
    """Return where `text` lies from `start` to `last` (its end, too), both in one segment."""

@final
class Judge:
    """What pages look like as tables of each level, and all that lies below them; made by `find_roots`."""

    def __init__(self, carrier: PageTable) -> None: ...
    def verdict(self, root: int) -> tuple[list[float], list[float], list[float], bool]:
        """Return (good items, bad items, tables) per level, from level 0 upwards, counted by every way.

        And whether anything may be mapped: False says that certainly nothing is.
        """

    def parent(self, table: int) -> tuple[int, int] | None:
        """Return (a page that points to this one, the level this one would then have), if one was met."""

    def self_map(self, root: int) -> int | None:
        """Return the first item of a judged root that points back to it, if there is one."""
