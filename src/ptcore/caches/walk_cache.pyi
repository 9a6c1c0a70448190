"""Paging-structure caches."""

from collections.abc import Mapping
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

ENTRY_DTYPE: np.dtype[Any]
MAX_ENTRIES: int
MAX_LEVEL: int

@final
class WalkCache:
    """Paging-structure caches: which table an item points to, so that a walk may start below it.

    One fully associative LRU cache per level: level 1 holds the items over the smallest leaves' tables.
    Intel SDM vol. 3A (253668), "Paging-Structure Caches": PDE, PDPTE and PML4 caches. An entry also
    carries the rights that the items above it grant, and the tag (asid, vmid) of its table. Single writer.
    """

    def __init__(self, entries: Mapping[int, int]) -> None:
        """Make empty caches: `entries` by level, e.g. {3: 2, 2: 4, 1: 32}. FormatError if impossible."""

    @property
    def sizes(self) -> dict[int, int]:
        """Entries by level."""

    def invalidate(
        self,
        first: int,
        last: int,
        asid: int | None = None,
        *,
        vmid: int | None = None,
        larger_stay: bool = False,
    ) -> int:
        """Drop every item over an address in [first, last], of one asid and vmid or of any; return
        how many.

        `larger_stay`: an item that is over any other address stays.
        """

    def invalidate_all(self, asid: int | None = None, *, vmid: int | None = None) -> int:
        """Drop everything, or all of one asid and vmid; return how many."""

    def entries(self) -> NDArray[Any]:
        """Return what is cached (ENTRY_DTYPE: level, rights, asid, vmid, va, table), most recent
        first per level.
        """

    def __len__(self) -> int:
        """How many items are cached."""
