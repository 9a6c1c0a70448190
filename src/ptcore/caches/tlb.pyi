"""A translation lookaside buffer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self, final

import numpy as np
import numpy.typing as npt
from numpy.typing import NDArray

from ptcore.caches.geometry import TlbLevel

ALL_RIGHTS: int
ENTRY_DTYPE: np.dtype[Any]
KINDS: dict[str, int]
MAX_ASID: int
MAX_VMID: int
MISS: int

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
    """A translation lookaside buffer of one or more levels, tagged by ASID and VMID.

    A hit below the first level refills the levels above and touches nothing else (as measured on Intel
    parts: vusec/tlbdr, TLB/README.md); a fill goes to every level, as its inclusion rule has it. It is a
    table with losses: it may forget, it never answers wrongly. Single writer.
    """

    def __init__(self, levels: Sequence[TlbLevel] | str, *, seed: int = 1) -> None:
        """Make an empty TLB of `levels`, or of the preset of that name. FormatError: impossible geometry.

        `seed` is that of the arrays that replace at random.
        """

    @classmethod
    def preset(cls, name: str) -> Self:
        """Make the TLB of a CPU; FormatError lists the nearest names."""

    @property
    def levels(self) -> tuple[TlbLevel, ...]:
        """What it is made of."""

    def lookup(self, va: int, asid: int = 0, kind: str = "r", vmid: int = 0) -> Hit | None:
        """Return the cached translation of `va`, or None. Counts as a use of the entry.

        `kind`: r, w or x: which side of the CPU asks, load, store or fetch.
        """

    def access_many(
        self,
        vas: npt.ArrayLike,
        kinds: npt.ArrayLike | str | None = None,
        asid: int = 0,
        *,
        page_size: int | str = "4K",
        vmid: int = 0,
    ) -> NDArray[np.uint8]:
        """Look up n addresses; what is not there is brought in as a page of `page_size`. No tables are read.

        `kinds`: 'r', 'w' or 'x' for all or each, or uint8[n] of 0 load, 1 store, 2 fetch. Returns
        uint8[n], shaped as `vas`: the level that had the page, or MISS. Raises AddressError for a
        page size that is no power of two or that no array holds, OutOfRange, TypeError or
        ValueError for addresses and kinds that are none. Releases the GIL.
        """

    def insert(
        self,
        va: int,
        pa: int,
        page_size: int | str,
        asid: int = 0,
        global_: bool = False,
        rights: int = 15,
        kind: str = "r",
        vmid: int = 0,
    ) -> None:
        """Cache a translation in every level on that side, whole or, where it is too large, around `va`.

        Raises Misaligned unless va and pa are multiples of page_size; AddressError when no array holds
        pages of that size; OutOfRange for an asid, address or rights that are none.
        """

    def invalidate(
        self,
        first: int,
        last: int,
        asid: int | None = None,
        *,
        with_global: bool | None = None,
        vmid: int | None = None,
        tagged: bool = True,
        larger_stay: bool = False,
    ) -> int:
        """Drop what meets [first, last]; return how many entries went.

        `asid`: only that one's entries; None: whatever the asid. `with_global`: global ones too, by
        default where no asid is given. `tagged`: entries that are not global. `vmid`: only that one's,
        global ones too; None: every one's. `larger_stay`: an entry that is not wholly within the
        addresses stays (as AMD's IOMMU has it); else it goes (as VT-d and CPUs have it).
        """

    def invalidate_all(
        self, asid: int | None = None, keep_global: bool = False, *, vmid: int | None = None
    ) -> int:
        """Drop everything, or one asid's or vmid's entries; global entries stay if keep_global. Returns how
        many."""

    def holds(self, first: int, last: int) -> bool:
        """Whether any entry meets [first, last]. O(pages asked for, at most entries). OutOfRange if
        last comes before first.
        """

    def entries(self) -> NDArray[Any]:
        """Return all entries (ENTRY_DTYPE), array by array, set by set, where the policy is LRU or
        FIFO the newest first.
        """

    def __len__(self) -> int:
        """How many entries are in use, each level counted."""

def addresses_of(vas: npt.ArrayLike) -> NDArray[np.uint64]:
    """Return addresses as uint64, of the same shape."""

def sides_of(kinds: npt.ArrayLike | str | None, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Return the side of each access as a bit: 1 load, 2 store, 4 fetch."""

def sides_of_each(
    kinds: npt.ArrayLike | str | None, shape: tuple[int, ...]
) -> NDArray[np.uint8] | None:
    """Return what sides_of does, flat; None where `kinds` is one text, or left out, that speaks for all."""
