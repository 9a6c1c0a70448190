"""A bounded cache of ready mappings for hot pages."""

from dataclasses import dataclass
from typing import Any, NamedTuple, final

import numpy as np
from numpy.typing import NDArray

MAX_SLOTS: int
POLICIES: tuple[str, ...]
RETIRED_DTYPE: np.dtype[Any]

@dataclass(frozen=True, slots=True)
class CacheCounts:
    """Totals: lookups that hit and missed, pages admitted, evicted and dropped, invalidations said."""

    hits: int
    misses: int
    admissions: int
    evictions: int
    drops: int
    invalidations: int

class Served(NamedTuple):
    """What a touch of pages in a row found. Rows are (first page, first slot, how many), in a row in both.

    `pages`: how many were served, fewer than asked where no slot was clean. `touched`: all of these;
    `new`: those of them that were admitted, whose entries are yet to be written.
    """

    pages: int
    touched: list[tuple[int, int, int]]
    new: list[tuple[int, int, int]]
    hits: int
    misses: int

@final
class PageTableCache:
    """Ready mappings for hot pages that are not in the direct map: page -> slot of a window.

    The window's tables are built beforehand by the owner, who writes one entry per admission. A slot
    that was taken from its page is *owed* an invalidation, since a CPU may still hold its translation;
    owed slots are handed out again only after `invalidated`, which pays for all of them at once. The
    policy ('lru' or 'clock') is three hooks over one mechanism. Touches no table. Single writer; every
    operation O(1), but CLOCK's eviction, O(slots).
    """

    def __init__(self, slots: int, policy: str = "lru", *, evict_batch: int | None = None) -> None:
        """Make an empty cache. `evict_batch`: how many pages `evict` gives up by default (a quarter).

        Raises FormatError for an impossible size or an unknown policy.
        """

    @property
    def slots(self) -> int:
        """How many slots the window has."""
    @property
    def policy(self) -> str:
        """'lru' or 'clock'."""
    @property
    def evict_batch(self) -> int:
        """How many pages `evict` gives up by default."""
    @property
    def clean(self) -> int:
        """How many slots can be handed out at once."""

    @property
    def owed(self) -> int:
        """How many slots wait for an invalidation."""

    @property
    def counts(self) -> CacheCounts:
        """The totals so far."""

    def lookup(self, page: int) -> int:
        """Return the page's slot, which counts as a use, or -1."""

    def admit(self, page: int) -> int:
        """Give an absent page a clean slot and return it.

        Raises InvalidationOwed when no slot is clean (evict, clear the entries, invalidate the window,
        say `invalidated`); AlreadyMapped when the page has a slot.
        """

    def evict(self, count: int | None = None) -> NDArray[Any]:
        """Give up `count` pages as the policy chooses; return their (page, slot), which are owed now.

        Fewer when fewer are live. The owner clears the entries of these slots.
        """

    def drop(self, page: int) -> int:
        """Take the slot of a page that goes away; it is owed now. Returns it. NotMapped if it has none."""

    def serve(self, first: int, end: int) -> Served:
        """Look up the pages from `first` to before `end`; admit those without a slot, while one is clean.

        As `lookup` and `admit` page by page; it stops before the first page that would need a clean slot.
        """

    def drop_all(self, first: int, end: int) -> list[tuple[int, int, int]]:
        """Drop those of the pages from `first` to before `end` that have a slot; return them in rows.

        A row is (first page, first slot, how many), in a row in both.
        """

    def invalidated(self) -> None:
        """Say that no CPU holds a translation of an owed slot any more: they are clean now."""

    def __contains__(self, page: int, /) -> bool: ...
    def __len__(self) -> int:
        """How many pages have a slot."""
