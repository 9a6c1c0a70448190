from libc.stdint cimport uint8_t, uint64_t

from ptcore.table.abi cimport pt_item
from ptcore.table.page_table cimport PageTable


cdef struct Near:
    # The table of smallest leaves that was found last: the number of what it spans, its items, and which rights
    # no item above it withholds.
    uint64_t region
    uint8_t *items
    unsigned rights


cdef enum:
    MOST_PIECES = 8


cdef struct Piece:
    # What of a run lies in one table: its first address, its items, and how many they are.
    uint64_t first
    uint64_t count
    uint8_t *items


cdef class LeafRuns:
    cdef readonly PageTable table
    cdef dict attributes
    cdef uint64_t page_mask

    cdef uint8_t *find(self, uint64_t first, uint64_t last, unsigned rights, Near *near) noexcept
    cdef bint is_near(self, uint64_t at, const Near *near) noexcept
    cdef int attributes_of(self, access, memory_type, bint any_size, pt_item *item, unsigned *rights) except -1
    # Each returns how many items it wrote (or found), and 0 where only PageTable's verb can tell what happens.
    cdef uint64_t map(
        self, uint64_t first, uint64_t size, uint64_t pa, bint any_size, pt_item item, unsigned rights, Near *near
    ) noexcept
    # *pa: where the first of them led to.
    cdef uint64_t unmap(self, uint64_t first, uint64_t size, Near *near, uint64_t *pa) noexcept
    cdef uint64_t unmap_alike(self, uint64_t first, uint64_t count, uint64_t pa, uint64_t step, Near *near) noexcept
    cdef bint mapped(self, uint64_t first, uint64_t size) noexcept
    cdef int leaves(self, uint64_t first, uint64_t size, Near *near, Piece *piece) noexcept
    cdef int pieces(self, uint64_t first, uint64_t last, unsigned rights, Near *near, Piece *out) noexcept
