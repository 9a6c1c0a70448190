"""WalkCache: the door to walk_cache.h."""

cimport cython
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free

import operator

import numpy as np

from ptcore.caches.tlb cimport TLB_GLOBAL, TLB_SPACE, chosen, tlb_chosen
from ptcore.errors import FormatError, OutOfRange
from ptcore.units import ALL_ONES

MAX_LEVEL = 5
MAX_ENTRIES = 1 << 20
ENTRY_DTYPE = np.dtype(
    [
        ("level", "u1"),
        ("rights", "u1"),
        ("asid", "<u4"),
        ("vmid", "<u2"),
        ("va", "<u8"),
        ("table", "<u8"),
    ]
)


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
        self.served = {}
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

    cdef int bind(self, const pt_format *f, uint64_t space, tuple whose) except -1:
        """Take the shifts of a format that will fill this cache, and note whose items a tag stands for.

        `whose` is (memory, root, half); a tag may be given to another table once all of it was invalidated.
        """
        cdef int level
        for number in self.sizes:
            level = number
            if level > f.top:
                raise FormatError(f"the format has no level {level} for its paging-structure cache")
            if self.c.shift[level] not in (0, f.level[level].shift):
                raise FormatError(f"this paging-structure cache serves tables of another shape at level {level}")
        known = self.served.get((space, whose[2]))
        if known is not None and (known[0] is not whose[0] or known[1] != whose[1]):
            raise FormatError(
                f"this paging-structure cache may hold items of another table, at {known[1]:#x}, with that tag: "
                "invalidate all of it first"
            )
        for number in self.sizes:
            level = number
            self.c.shift[level] = f.level[level].shift
        self.served[space, whose[2]] = whose
        return 0

    def invalidate(self, first, last, asid=None, *, vmid=None, larger_stay=False):
        low, high = operator.index(first), operator.index(last)
        if not 0 <= low <= high <= ALL_ONES:
            raise OutOfRange(f"no addresses run from {low:#x} to {high:#x}")
        cdef tlb_chosen which = chosen(asid, vmid, True, larger_stay)
        if low == 0 and high == ALL_ONES:
            self.served = {k: v for k, v in self.served.items() if (k[0] ^ which.value) & which.mask}
        return wc_invalidate(&self.c, low, high, which.mask, which.value, which.larger_stay)

    def invalidate_all(self, asid=None, *, vmid=None):
        return self.invalidate(0, ALL_ONES, asid, vmid=vmid)

    def entries(self):
        cdef uint32_t n
        cdef int level
        cdef uint64_t tag
        rows = []
        for number in self.sizes:
            level = number
            n = self.c.map[level].newest
            while n != OM_NONE:
                tag = self.c.map[level].places[n].tag
                rows.append(
                    (
                        level,
                        self.c.found[level][n].rights,
                        tag & TLB_GLOBAL,
                        int((tag & TLB_SPACE) >> 20),
                        self.c.map[level].places[n].key << self.c.shift[level],
                        self.c.found[level][n].table,
                    )
                )
                n = self.c.map[level].places[n].older
        return np.array(rows, dtype=ENTRY_DTYPE)

    def __len__(self):
        return len(self.entries())
