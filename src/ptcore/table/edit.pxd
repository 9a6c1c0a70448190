from libc.stdint cimport uint8_t, uint64_t

from ptcore.memory.physical cimport FrameAllocator
from ptcore.table.abi cimport pt_format, pt_item, pt_space
from ptcore.table.engine cimport pt_engine


cdef enum EditEnd:
    EDIT_DONE
    EDIT_ALREADY_MAPPED
    EDIT_HOLE
    EDIT_INSIDE_LARGER_LEAF
    EDIT_MALFORMED
    EDIT_OUTSIDE_MEMORY
    EDIT_WITHHELD
    EDIT_NOT_UNIFORM
    EDIT_NO_SMALLER_LEAF
    EDIT_SKIPPED
    EDIT_READ_ONLY_SHAPE
    EDIT_TOO_HIGH


cdef enum Operation:
    MAP
    UNMAP
    PROTECT
    SPLIT
    COLLAPSE


cdef struct Item:
    # One item that a range touches: the part of the range in it, and what the table holds there.
    # `next_level` is that of the table that it points to, or would.
    uint64_t index
    uint64_t first
    uint64_t last
    bint whole
    int shape
    int next_level
    uint8_t *bytes
    uint64_t at
    pt_item item
    int kind


cdef class Edit:
    # What the edit works on.
    cdef const pt_space *space
    cdef const pt_format *f
    cdef const pt_engine *engine
    cdef FrameAllocator frames
    cdef unsigned rights
    cdef uint64_t first
    cdef uint64_t last
    # What is asked.
    cdef int operation
    # The page size asked for: 0 is any (then its level is -1).
    cdef unsigned page_lg2
    cdef int page_level
    cdef int page_shape
    cdef bint missing_ok
    cdef bint free_tables
    cdef pt_item clear[6][11]
    cdef pt_item set_[6][11]
    cdef pt_item table_item[6]
    # The first pass only looks; the second cannot fail.
    cdef bint dry
    # What came of it.
    cdef uint64_t tables_wanted[6]
    cdef uint64_t entries_written
    cdef uint64_t tables_allocated_bytes
    cdef list freed
    cdef set noted
    # Frames taken beforehand, {size_lg2: [address]}, where their sizes differ.
    cdef dict ready
    # From where to where leaves were split or items over tables emptied: beyond the range, too.
    cdef uint64_t stale_first
    cdef uint64_t stale_last
    # Where a failing pass stopped.
    cdef uint64_t at_va
    cdef uint64_t at_item
    cdef int at_level
    cdef pt_item item

    cdef int run(self, uint64_t first, uint64_t last, uint64_t pa)
    cdef int stop(self, int end, int level, const Item *it)
    cdef bint read(self, uint64_t table, int level, uint64_t last, Item *it) noexcept
    cdef void write(self, Item *it, pt_item item) noexcept
    cdef uint64_t below(self, int level, const Item *it) noexcept
    cdef uint64_t new_table(self, int level)
    cdef void link(self, Item *it, int level, uint64_t table)
    cdef int free_table(self, uint64_t table, int level)
    cdef int free_subtree(self, uint64_t table, int level)

    cdef int map_range(self, uint64_t table, int level, uint64_t first, uint64_t last, uint64_t pa)
    cdef int map_smallest(self, uint64_t table, uint64_t first, uint64_t last, uint64_t pa)
    cdef int map_below(self, int level, Item *it, uint64_t pa)
    cdef int map_leaf(self, uint64_t table, int level, int shape, Item *it, uint64_t pa)
    cdef int map_new_table(self, int level, Item *it, uint64_t pa)
    cdef int must_be_empty(self, uint64_t table, int level, uint64_t va)
    cdef int fitting_shape(self, uint64_t table, int level, const Item *it, uint64_t last, uint64_t pa)
    cdef bint all_empty(self, uint64_t table, int level, uint64_t index, uint64_t count) noexcept

    cdef int edit_range(self, uint64_t table, int level, uint64_t first, uint64_t last)
    cdef int edit_leaf(self, uint64_t table, int level, Item *it)
    cdef int edit_table(self, uint64_t table, int level, Item *it)
    cdef bint covers_entry(self, int level, const Item *it) noexcept

    cdef bint is_empty_table(self, uint64_t table, int level) noexcept
    cdef int unmap_smallest(self, uint64_t table, uint64_t first, uint64_t last)

    cdef int split_leaf(self, uint64_t table, int level, Item *it)
    cdef int look_at_split(self, int level, Item *it)
    cdef int cut_entry(self, uint64_t table, int level, Item *it)
    cdef void fill_leaves(
        self, uint64_t table, uint64_t index, uint64_t count, int level, int shape, pt_item attributes,
        uint64_t pa
    ) noexcept

    cdef int collapse_table(self, int level, Item *it)
    cdef int collapse_items(self, uint64_t table, int level, Item *it)
    cdef int one_leaf(
        self, uint64_t table, int level, uint64_t va, uint64_t index, uint64_t count,
        pt_item *attributes, uint64_t *pa
    )
    cdef int one_item(self, int level, Item *it, pt_item *attributes, uint64_t *pa)
    cdef pt_item as_plain(self, int level, int shape, pt_item attributes) noexcept
    cdef pt_item as_large(self, int level, int to_level, int to_shape, pt_item attributes) noexcept
