"""I/O virtual addresses: ranges handed out from the top, behind per-CPU magazines. Pages have 4 KiB."""

from typing import final

import numpy as np
from numpy.typing import NDArray

SIZE_CLASSES: int
MAGAZINE_PAGES: int
END_32_BITS: int

def size_class(pages: int) -> int:
    """Return which size class, counted from 0, serves so many pages: the power of two that holds them."""

@final
class Magazine:
    """A stack of free ranges of one size. Only an IovaAllocator fills and empties it."""

    def __init__(self, room: int) -> None:
        """Make an empty one with room for so many."""

@final
class IovaAllocator:
    """The I/O addresses of one domain, as Linux hands them out.

    Ranges of a power of two of pages, aligned to their size, come from the top of the space, below the
    range that was made last (drivers/iommu/iova.c, __alloc_and_insert_iova_range()). Ranges of up to 32
    pages are not given back to the tree but kept on stacks: two of 127 per CPU and size, full ones in a
    depot that all CPUs share (__iova_rcache_get(), __iova_rcache_insert()). Below and above 4 GiB the search
    begins at places of their own. Single writer. Errors leave the state as it was.
    """

    def __init__(
        self,
        cpus: int,
        first_page: int = 1,
        last_page: int = ...,
        *,
        magazine_pages: int = 127,
    ) -> None:
        """Make a domain without ranges, over pages `first_page` to `last_page` (by default below 4 GiB).

        Raises OutOfRange unless 0 <= first_page <= last_page < 2**52, with a CPU and a page in a magazine.
        """

    @property
    def cpus(self) -> int:
        """How many CPUs have magazines."""

    @property
    def first_page(self) -> int:
        """The lowest page that can be handed out."""

    @property
    def last_page(self) -> int:
        """The highest page that can be handed out, inclusive."""

    @property
    def magazine_pages(self) -> int:
        """How many ranges a magazine holds."""

    @property
    def cache_hits(self) -> int:
        """Allocations that a magazine served."""

    @property
    def cache_misses(self) -> int:
        """Allocations that the tree served, or nothing."""

    @property
    def steps(self) -> int:
        """Ranges that searches of the tree went past."""

    @property
    def cached(self) -> int:
        """Free ranges in magazines. O(magazines)."""

    @property
    def depot_magazines(self) -> int:
        """How many full magazines of one size, that of which there are most, all CPUs share. O(1)."""

    @property
    def magazines(self) -> int:
        """How many magazines there are, the depot's among them."""

    def allocate(self, cpu: int, pages: int, last: int | None = None, *, flush: bool = True) -> int:
        """Hand out `pages` (rounded up to a power of two) on `cpu`; return the first page.

        `last`: the highest page that the device reaches. Raises NoAddressSpace when nothing fits, even
        after all magazines were emptied (`flush` False: they are left alone); OutOfRange for a CPU, a size
        or a limit that cannot be. O(1) from a magazine, else O(ranges gone past).
        """

    def expected(self, cpu: int, pages: int, last: int | None = None) -> int | None:
        """Return the page that `allocate` would, changing nothing; None where it would empty the
        magazines.
        """

    def free(self, cpu: int, page: int) -> None:
        """Give back the range that begins at `page`: to the magazine of `cpu`, or to the tree
        beyond 32 pages.

        Raises NotAllocated when no live range begins there; OutOfRange for a CPU that there is not.
        """

    def claim(self, page: int, pages: int) -> bool:
        """Make the range at `page` live, wherever it is; return whether a magazine held it.

        For models that follow a recorded kernel: what lay above it in the magazine was evidently not there,
        and goes to the bottom. Raises AlreadyMapped where it meets another range, OutOfRange
        where it is outside. O(ranges).
        """

    def flush(self) -> None:
        """Give all that the magazines hold back to the tree."""

    def trim(self) -> bool:
        """Give one magazine of each depot that has more than there are CPUs back; return whether
        more are left.

        Linux does this every 100 ms (drivers/iommu/iova.c, iova_depot_work_func()).
        """

    def spans(self) -> NDArray[np.uint64]:
        """Return the ranges as uint64[n, 3], ascending: first page, last page, 1 if free in a magazine."""

    def __len__(self) -> int:
        """How many ranges are live."""
