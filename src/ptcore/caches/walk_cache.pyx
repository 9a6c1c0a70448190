"""WalkCache: the door to walk_cache.h."""

cimport cython
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free

import operator

import numpy as np

from ptcore.errors import FormatError, OutOfRange
from ptcore.units import ALL_ONES

MAX_LEVEL = 5
MAX_ENTRIES = 1 << 20
ENTRY_DTYPE = np.dtype([("level", "u1"), ("rights", "u1"), ("va", "<u8"), ("table", "<u8")])


@cython.final
cdef class WalkCache:
    def __cinit__(self, entries):
        cdef uint32_t room
        cdef int level
        sizes = {}
        for number, size in dict(entries).items():
            number, size = operator.index(number), operator.index(size)
            if not 1 <= number <= MAX_LEVEL:
                raise FormatError(f"a paging-structure cache is of level 1 to {MAX_LEVEL}, not {number}")
            if not 1 <= size <= MAX_ENTRIES:
                raise FormatError(f"level {number}: entries are 1 to {MAX_ENTRIES}, not {size}")
            sizes[number] = size
        self.sizes = dict(sorted(sizes.items()))
        for number, size in self.sizes.items():
            level = number
            room = size
            self.c.found[level] = <wc_found *>calloc(room, sizeof(wc_found))
            if not om_init(&self.c.map[level], room) or self.c.found[level] == NULL:
                raise MemoryError()

    def __dealloc__(self):
        cdef int level
        for level in range(6):
            om_release(&self.c.map[level])
            free(self.c.found[level])

    cdef int bind(self, const pt_format *f, object memory, uint64_t root) except -1:
        """Take the shifts of the format of the one table that this cache will know (it has no tags)."""
        cdef int level
        if self.served is not None and (self.served[0] is not memory or self.served[1] != root):
            raise FormatError(f"this paging-structure cache serves another table, at {self.served[1]:#x}")
        for number in self.sizes:
            level = number
            if level > f.top:
                raise FormatError(f"the format has no level {level} for its paging-structure cache")
        for number in self.sizes:
            level = number
            self.c.shift[level] = f.level[level].shift
        self.served = (memory, root)
        return 0

    def invalidate(self, first, last):
        low, high = operator.index(first), operator.index(last)
        if not 0 <= low <= high <= ALL_ONES:
            raise OutOfRange(f"no addresses run from {low:#x} to {high:#x}")
        return wc_invalidate(&self.c, low, high)

    def invalidate_all(self):
        return wc_invalidate_all(&self.c)

    def entries(self):
        cdef uint32_t n
        cdef int level
        rows = []
        for number in self.sizes:
            level = number
            n = self.c.map[level].newest
            while n != OM_NONE:
                rows.append(
                    (
                        level,
                        self.c.found[level][n].rights,
                        self.c.map[level].places[n].key << self.c.shift[level],
                        self.c.found[level][n].table,
                    )
                )
                n = self.c.map[level].places[n].older
        return np.array(rows, dtype=ENTRY_DTYPE)

    def __len__(self):
        return len(self.entries())
