"""The rows of a listing (listing.h)."""

from libc.stdint cimport uint8_t, uint16_t, uint64_t

from ptcore.table.abi cimport pt_format, pt_item, pt_space


cdef extern from "listing.h" nogil:
    enum:
        PT_ROW_RESERVED
        PT_ROW_REPEAT
        PT_ROW_OUTSIDE

    ctypedef struct pt_row:
        uint64_t first
        uint64_t last
        uint64_t pa
        uint64_t page_size
        uint64_t repeat_of
        uint16_t software
        uint8_t rights
        uint8_t memory_type
        uint8_t pkey
        uint8_t flags
        uint8_t kind
        uint8_t level

    ctypedef struct pt_listing:
        pt_row *rows
        size_t count
        size_t room

    void pt_add_row(pt_listing *l, const pt_row *row)
    bint pt_list_leaf(
        const pt_format *f, const pt_space *s, pt_listing *l, int level, int shape, pt_item item,
        unsigned rights, uint64_t first, uint64_t last
    )
