"""One CPU's way to memory: TLB, paging-structure cache, walk."""

from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ptcore.caches.tlb import Tlb
from ptcore.caches.walk_cache import WalkCache
from ptcore.errors import Status
from ptcore.table.page_table import PageTable

FAULT: int
KINDS: dict[str, int]
WALK: int

@dataclass(frozen=True, slots=True)
class Outcome:
    """One access: `code` is the TLB level that served it, WALK or FAULT; `pa` is None after a fault."""

    code: int
    status: Status
    pa: int | None

@dataclass(frozen=True, slots=True)
class Counts:
    """Totals since the Mmu was made: accesses, TLB hits per level, walks begun, items read, faults."""

    accesses: int
    hits: tuple[int, ...]
    walks: int
    references: int
    faults: int

@final
class Mmu:
    """One CPU's way to memory: a Tlb and, optionally, paging-structure caches over real tables.

    An access asks the TLB; what it cannot answer is walked, from below the lowest item that the
    paging-structure cache knows, and cached. Faults are never cached. An entry that does not allow the
    access, or a write to a page not marked dirty yet, asks the tables again. Single writer.
    """

    def __init__(
        self,
        table: PageTable,
        tlb: Tlb,
        walk_cache: WalkCache | None = None,
        asid: int = 0,
        *,
        marks: bool = True,
    ) -> None:
        """Put caches over `table`. `marks`: set accessed and dirty bits as hardware does (Intel SDM
        vol. 3A, "Accessed and Dirty Flags"), where the memory is writable."""

    @property
    def asid(self) -> int:
        """The tag of this CPU's translations."""
    @property
    def table(self) -> PageTable:
        """The tables."""
    @property
    def tlb(self) -> Tlb:
        """The TLB."""
    @property
    def walk_cache(self) -> WalkCache | None:
        """The paging-structure caches, if there are any."""
    @property
    def marks(self) -> bool:
        """Whether accessed and dirty bits are set in the tables."""

    @property
    def counts(self) -> Counts:
        """The totals so far."""

    def access(self, va: int, kind: str = "r", user: bool = False) -> Outcome:
        """Make one access of `kind` 'r', 'w' or 'x'; an outcome, never a Fault."""

    def access_many(
        self, vas: ArrayLike, kinds: ArrayLike | str | None = None, user: bool = False
    ) -> NDArray[np.uint8]:
        """Make an access per address, in order; return the outcome codes, uint8 of the same shape.

        `kinds`: one letter for all, or an array of letters; default reads. The GIL is released.
        Raises TypeError for what are no integers, OutOfRange for numbers that have no 64 bits,
        ValueError for other kinds; then no access was made.
        """

    def access_span(
        self, first: int, count: int, stride: int, kind: str = "r", user: bool = False
    ) -> int:
        """Make `count` accesses, `stride` bytes apart, from `first` on; return how many faulted."""

    def invalidate(self, first: int, last: int, *, structures: bool = True) -> int:
        """Drop cached translations (and items, unless structures is False) that meet [first, last]."""

    def invalidate_all(self, *, keep_global: bool = False) -> int:
        """Drop all translations and items; global translations stay if keep_global."""
