"""I/O virtual addresses: ranges handed out from the top, behind per-CPU magazines."""

cimport cython
from libc.stdint cimport int32_t, uint64_t
from libc.stdlib cimport free, malloc, realloc

import operator

import numpy as np

from ptcore.errors import AlreadyMapped, NoAddressSpace, NotAllocated, OutOfRange

cdef int32_t NIL = -1
cdef int32_t ANCHOR = 0
cdef uint64_t NONE = ~<uint64_t>0
cdef int32_t FIRST_ROOM = 64
# Linux drivers/iommu/iova.c: IOVA_RANGE_CACHE_MAX_SIZE, and IOVA_MAG_SIZE ("maximum of 127 entries, 1024 bytes").
SIZE_CLASSES = 6
MAGAZINE_PAGES = 127
cdef int CLASSES = SIZE_CLASSES
# The page behind the last one below 4 GiB: iovad->dma_32bit_pfn with pages of 4 KiB.
END_32_BITS = 1 << 20


def size_class(pages):
    return (operator.index(pages) - 1).bit_length()


@cython.final
cdef class Magazine:
    def __cinit__(self, int room):
        self.pages = <uint64_t *>malloc(room * sizeof(uint64_t))
        if self.pages == NULL:
            raise MemoryError()
        self.room = room

    def __dealloc__(self):
        free(self.pages)

    cdef uint64_t pop(self, uint64_t last, bint keep) noexcept:
        """The topmost page that is not above `last`; the one on top takes its place."""
        cdef int32_t n = self.used - 1
        cdef uint64_t found
        while n >= 0 and self.pages[n] > last:
            n -= 1
        if n < 0:
            return NONE
        found = self.pages[n]
        if not keep:
            self.used -= 1
            self.pages[n] = self.pages[self.used]
        return found


@cython.final
cdef class IovaAllocator:
    def __cinit__(self):
        self.unused = NIL

    def __init__(self, cpus, first_page=1, last_page=END_32_BITS - 1, *, magazine_pages=MAGAZINE_PAGES):
        count, low, high = operator.index(cpus), operator.index(first_page), operator.index(last_page)
        if count < 1 or magazine_pages < 1:
            raise OutOfRange(f"{count} CPUs with magazines of {magazine_pages} pages hand out nothing")
        if not 0 <= low <= high < 1 << 52:
            raise OutOfRange(f"no pages run from {low:#x} to {high:#x}")
        if self.ranges != NULL:
            raise TypeError("an IovaAllocator is made once")
        self.cpus, self.first_page, self.last_page = count, low, high
        self.magazine_pages = magazine_pages
        self.numbers = {}
        self.loaded = [[Magazine(magazine_pages) for _ in range(SIZE_CLASSES)] for _ in range(count)]
        self.previous = [[Magazine(magazine_pages) for _ in range(SIZE_CLASSES)] for _ in range(count)]
        self.depot = [[] for _ in range(SIZE_CLASSES)]
        # The anchor lies above all ranges and is never handed out.
        self.take_number()
        self.ranges[ANCHOR] = IovaRange(NONE, NONE, NIL, NIL, 0)
        self.recent = self.recent32 = ANCHOR
        self.failed32 = END_32_BITS

    def __dealloc__(self):
        free(self.ranges)

    # -- the tree: ranges in order, each found from its neighbour ----------------------------

    cdef int32_t take_number(self) except -1:
        cdef int32_t n = self.unused
        cdef IovaRange *grown
        if n != NIL:
            self.unused = self.ranges[n].above
            return n
        if self.used == self.room:
            room = 2 * self.room if self.room else FIRST_ROOM
            grown = <IovaRange *>realloc(self.ranges, room * sizeof(IovaRange))
            if grown == NULL:
                raise MemoryError()
            self.ranges = grown
            self.room = room
        self.used += 1
        return self.used - 1

    cdef uint64_t fit(self, uint64_t pages, uint64_t end, bint keep, int32_t *above) noexcept:
        """The first page for a new range that ends before `end`; NONE where there is no room.

        The search goes down from the range that was made last, or above which one was removed, and once
        more from the top.
        """
        cdef bint short_ = end <= END_32_BITS
        cdef uint64_t high = end, low = self.first_page, start, retry
        cdef uint64_t align = pages - 1
        cdef int32_t at = self.recent32 if short_ else self.recent, over
        cdef bint again = False
        if short_ and pages >= self.failed32:
            return NONE
        retry = self.ranges[at].high
        while True:
            while True:
                if self.ranges[at].low < high:
                    high = self.ranges[at].low
                start = (high - pages) & ~align if high >= pages else NONE
                over = at
                at = self.ranges[at].below
                self.steps += 1
                if at == NIL or start == NONE or start < low or start > self.ranges[at].high:
                    break
            if start != NONE and start >= low:
                above[0] = over
                return start
            if again or retry >= end:
                break
            again = True
            high, low = end, retry + 1
            at = ANCHOR
            while self.ranges[at].below != NIL and self.ranges[self.ranges[at].below].low >= end:
                at = self.ranges[at].below
        if short_ and not keep:
            self.failed32 = pages
        return NONE

    cdef int insert(self, uint64_t low, uint64_t pages, int32_t above) except -1:
        cdef int32_t n = self.take_number(), below = self.ranges[above].below
        self.ranges[n] = IovaRange(low, low + pages - 1, below, above, 0)
        self.ranges[above].below = n
        if below != NIL:
            self.ranges[below].above = n
        self.numbers[low] = n
        if low + pages - 1 < END_32_BITS:
            self.recent32 = n
        else:
            self.recent = n
        return 0

    cdef int remove(self, int32_t n) except -1:
        cdef IovaRange gone = self.ranges[n]
        if n == self.recent32 or (
            gone.high < END_32_BITS and gone.low >= self.ranges[self.recent32].low
        ):
            self.recent32 = gone.above
        if gone.low < END_32_BITS:
            self.failed32 = END_32_BITS
        if gone.low >= self.ranges[self.recent].low:
            self.recent = gone.above
        self.ranges[gone.above].below = gone.below
        if gone.below != NIL:
            self.ranges[gone.below].above = gone.above
        del self.numbers[gone.low]
        self.ranges[n].above = self.unused
        self.unused = n
        return 0

    # -- magazines ---------------------------------------------------------------------------

    cdef uint64_t from_cache(self, int cpu, int order, uint64_t last, bint keep):
        cdef Magazine loaded = self.loaded[cpu][order], previous = self.previous[cpu][order]
        cdef Magazine taken
        if loaded.used:
            return loaded.pop(last, keep)
        if previous.used:
            if not keep:
                self.loaded[cpu][order], self.previous[cpu][order] = previous, loaded
            return previous.pop(last, keep)
        stacked = self.depot[order]
        if not stacked:
            return NONE
        taken = stacked[len(stacked) - 1]
        if not keep:
            self.loaded[cpu][order] = stacked.pop()
        return taken.pop(last, keep)

    cdef int to_cache(self, int cpu, int order, uint64_t page) except -1:
        cdef Magazine loaded = self.loaded[cpu][order], previous = self.previous[cpu][order]
        if loaded.used == loaded.room:
            if previous.used < previous.room:
                self.loaded[cpu][order], self.previous[cpu][order] = previous, loaded
                loaded = previous
            else:
                self.depot[order].append(loaded)
                loaded = self.loaded[cpu][order] = Magazine(self.magazine_pages)
        loaded.pages[loaded.used] = page
        loaded.used += 1
        return 0

    def _all_magazines(self):
        for order in range(SIZE_CLASSES):
            for cpu in range(self.cpus):
                yield self.loaded[cpu][order]
                yield self.previous[cpu][order]
            yield from self.depot[order]

    def _give_up(self, Magazine magazine):
        cdef int32_t n
        for n in range(magazine.used):
            self.remove(self.numbers[magazine.pages[n]])
        magazine.used = 0

    # -- verbs -------------------------------------------------------------------------------

    cdef int asked(self, cpu, pages, last, Asked *out) except -1:
        """Look at what is asked for; raises OutOfRange for what cannot be had."""
        cdef uint64_t count
        if type(pages) is not int:
            pages = operator.index(pages)
        if not 0 <= cpu < self.cpus:
            raise OutOfRange(f"cpu {cpu} is not in 0..{self.cpus - 1}")
        if not 1 <= pages <= self.last_page - self.first_page + 1:
            raise OutOfRange(f"{pages} pages are not 1 to {self.last_page - self.first_page + 1}")
        out.limit = self.last_page if last is None else operator.index(last)
        if not self.first_page <= out.limit <= self.last_page:
            raise OutOfRange(f"page {out.limit:#x} is not in {self.first_page:#x}..{self.last_page:#x}")
        count = pages
        out.order = 0
        while 1ULL << out.order < count:
            out.order += 1
        out.size = 1ULL << out.order
        return 0

    def allocate(self, cpu, pages, last=None, *, flush=True):
        cdef int32_t above = NIL
        cdef uint64_t found = NONE
        cdef Asked a
        self.asked(cpu, pages, last, &a)
        if a.order < CLASSES and a.limit >= a.size:
            found = self.from_cache(cpu, a.order, a.limit + 1 - a.size, False)
            if found != NONE:
                self.cache_hits += 1
                self.ranges[<int32_t>self.numbers[found]].cached = 0
                return found
        self.cache_misses += 1
        found = self.fit(a.size, a.limit + 1, False, &above)
        if found == NONE and flush:
            self.flush()
            found = self.fit(a.size, a.limit + 1, False, &above)
        if found == NONE:
            raise NoAddressSpace(f"no {a.size} pages, aligned to as many, are free up to page {a.limit:#x}")
        self.insert(found, a.size, above)
        return found

    def expected(self, cpu, pages, last=None):
        cdef int32_t above = NIL
        cdef uint64_t found = NONE
        cdef Asked a
        self.asked(cpu, pages, last, &a)
        if a.order < CLASSES and a.limit >= a.size:
            found = self.from_cache(cpu, a.order, a.limit + 1 - a.size, True)
        if found == NONE:
            found = self.fit(a.size, a.limit + 1, True, &above)
        return None if found == NONE else found

    def free(self, cpu, page):
        cdef int32_t n = NIL
        cdef int order = 0
        if not 0 <= cpu < self.cpus:
            raise OutOfRange(f"cpu {cpu} is not in 0..{self.cpus - 1}")
        found = self.numbers.get(page)
        if found is not None:
            n = found
        if n == NIL or self.ranges[n].cached:
            raise NotAllocated(f"no range of I/O addresses begins at page {page:#x}")
        while (self.ranges[n].high - self.ranges[n].low) >> order:
            order += 1
        if order < CLASSES:
            self.to_cache(cpu, order, page)
            self.ranges[n].cached = 1
        else:
            self.remove(n)

    def claim(self, page, pages):
        cdef Magazine magazine
        cdef int32_t n, above = ANCHOR
        cdef uint64_t low = operator.index(page), size
        cdef Asked a
        self.asked(0, pages, None, &a)
        size = a.size
        if not self.first_page <= low or low + size - 1 > self.last_page:
            raise OutOfRange(f"{size} pages from {low:#x} are not in {self.first_page:#x}..{self.last_page:#x}")
        n = self.numbers.get(low, NIL)
        if n != NIL and self.ranges[n].cached and self.ranges[n].high == low + size - 1:
            for magazine in self._all_magazines():
                for n in range(magazine.used):
                    if magazine.pages[n] == low:
                        kept = [magazine.pages[i] for i in range(magazine.used)]
                        for i, other in enumerate(kept[n + 1 :] + kept[:n]):
                            magazine.pages[i] = other
                        magazine.used -= 1
                        self.ranges[<int32_t>self.numbers[low]].cached = 0
                        return True
        while self.ranges[above].below != NIL and self.ranges[self.ranges[above].below].low >= low + size:
            above = self.ranges[above].below
        n = self.ranges[above].below
        if n != NIL and self.ranges[n].high >= low:
            raise AlreadyMapped(
                f"pages {low:#x}..{low + size - 1:#x} meet {self.ranges[n].low:#x}..{self.ranges[n].high:#x}"
            )
        self.insert(low, size, above)
        return False

    def flush(self):
        """Give all that the magazines hold back to the tree."""
        for magazine in self._all_magazines():
            self._give_up(magazine)
        for order in range(SIZE_CLASSES):
            self.depot[order].clear()

    def trim(self):
        for magazines in self.depot:
            if len(magazines) > self.cpus:
                self._give_up(magazines.pop())
        return any(len(magazines) > self.cpus for magazines in self.depot)

    @property
    def cached(self):
        cdef Magazine magazine
        total = 0
        for magazine in self._all_magazines():
            total += magazine.used
        return total

    @property
    def depot_magazines(self):
        return max(len(magazines) for magazines in self.depot)

    @property
    def magazines(self):
        return 2 * self.cpus * SIZE_CLASSES + sum(len(magazines) for magazines in self.depot)

    def __len__(self):
        return len(self.numbers) - self.cached

    def spans(self):
        cdef uint64_t[:, ::1] out
        cdef int32_t n = self.ranges[ANCHOR].below
        cdef Py_ssize_t row = len(self.numbers)
        array = np.empty((row, 3), dtype=np.uint64)
        out = array
        while n != NIL:
            row -= 1
            out[row, 0], out[row, 1] = self.ranges[n].low, self.ranges[n].high
            out[row, 2] = self.ranges[n].cached
            n = self.ranges[n].below
        return array
