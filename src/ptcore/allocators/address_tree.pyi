"""Free addresses in a tree that finds the lowest span which fits. Addresses and sizes are bytes."""

from typing import final

import numpy as np
from numpy.typing import NDArray

@final
class AddressTree:
    """The free addresses between `first` and `last` (both inclusive), handed out lowest first.

    A height-balanced tree keyed by address; every node knows the largest free span below it, as in
    Linux mm/vmalloc.c, find_vmap_lowest_match(). Addresses and sizes in bytes; sizes may be texts such
    as '2M'. Single writer. Errors leave the state as it was.
    """

    def __init__(self, first: int, last: int) -> None:
        """Make a tree whose addresses are all free. Raises OutOfRange unless 0 <= first <= last < 2**64."""

    @property
    def first(self) -> int:
        """The lowest address of the tree."""

    @property
    def last(self) -> int:
        """The highest address of the tree, inclusive."""

    @property
    def largest(self) -> int:
        """The largest free span in bytes; 0 when nothing is free. O(1)."""

    @property
    def free_bytes(self) -> int:
        """All free bytes. O(spans)."""

    def allocate(
        self,
        size: int | str,
        align: int | str = 1,
        first: int | None = None,
        last: int | None = None,
        *,
        search_size: int | str | None = None,
    ) -> int:
        """Take the lowest free address where `size` bytes, aligned to `align`, fit in [first, last].

        `search_size`: subtrees whose largest span is smaller are not entered (default: `size`, which
        finds every fit). Linux looks for size + align - 1 when align is above a page, and so may pass
        over a span that happens to be aligned.

        Raises NoAddressSpace when nothing fits; AddressError when align is no power of two.
        Cost: O(log spans), more where alignment or `first` make spans unfit that are large enough.
        """

    def reserve(self, start: int, size: int | str) -> None:
        """Take exactly these addresses. O(log spans).

        Raises AlreadyMapped unless all of them are free; OutOfRange when they are not in the tree.
        """

    def free(self, start: int, size: int | str) -> None:
        """Give addresses back; they merge with free neighbours. Any part of what was taken may be given.

        Raises NotAllocated when a part of them is free already, or lies outside the tree. O(log spans).
        """

    def spans(self) -> NDArray[np.uint64]:
        """Return the free spans as uint64[n, 2]: first and last address, ascending. O(n log n)."""

    def check(self) -> None:
        """Raise AssertionError unless order, balance and augmentation hold. For tests. O(spans)."""

    def __len__(self) -> int:
        """How many free spans there are."""
