"""A translation lookaside buffer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self, final

import numpy as np
from numpy.typing import NDArray

from ptcore.caches.geometry import TlbLevel

ALL_RIGHTS: int
ENTRY_DTYPE: np.dtype[Any]
MAX_ASID: int

@dataclass(frozen=True, slots=True)
class Hit:
    """What a lookup found: `pa` of the byte asked for, `page_size` in bytes, the `level` (0 first) that
    had it, and the rights as bits (1 read, 2 write, 4 execute, 8 user, 16 user execute, 32 user write)."""

    pa: int
    page_size: int
    level: int
    rights: int

@final
class Tlb:
    """A translation lookaside buffer of one or more levels, exact LRU, tagged by ASID.

    A hit below the first level refills the levels above and touches nothing else; a fill goes to every
    level that holds the page's size (non-inclusive levels, as measured on Intel parts: vusec/tlbdr,
    TLB/README.md). It is a table with losses: it may forget, it never answers wrongly. Single writer.
    """

    def __init__(self, levels: Sequence[TlbLevel] | str) -> None:
        """Make an empty TLB of `levels`, or of the preset of that name. FormatError: impossible geometry."""

    @classmethod
    def preset(cls, name: str) -> Self:
        """Make the TLB of a CPU; FormatError lists the nearest names."""

    @property
    def levels(self) -> tuple[TlbLevel, ...]:
        """What it is made of."""

    def lookup(self, va: int, asid: int = 0) -> Hit | None:
        """Return the cached translation of `va`, or None. Counts as a use of the entry."""

    def insert(
        self,
        va: int,
        pa: int,
        page_size: int | str,
        asid: int = 0,
        global_: bool = False,
        rights: int = 15,
    ) -> None:
        """Cache a translation in every level that holds its page size.

        Raises Misaligned unless va and pa are multiples of page_size; AddressError when no array holds
        pages of that size; OutOfRange for an asid, address or rights that are none.
        """

    def invalidate(self, first: int, last: int, asid: int | None = None) -> int:
        """Drop what meets [first, last], larger pages included; return how many entries went.

        `asid`: only that one's entries, global ones not among them; None: whatever the tag.
        """

    def invalidate_all(self, asid: int | None = None, keep_global: bool = False) -> int:
        """Drop everything, or one asid's entries; global entries stay if keep_global. Returns how many."""

    def holds(self, first: int, last: int) -> bool:
        """Whether any entry meets [first, last]. O(entries). OutOfRange if last comes before first."""

    def entries(self) -> NDArray[Any]:
        """Return all entries (ENTRY_DTYPE), array by array, a set's most recently used first."""

    def __len__(self) -> int:
        """How many entries are in use, each level counted."""
