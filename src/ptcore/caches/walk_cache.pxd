from libc.stdint cimport uint8_t, uint32_t, uint64_t

from ptcore.table.abi cimport pt_format


cdef extern from "ordered_map.h" nogil:
    const uint32_t OM_NONE

    ctypedef struct om_place:
        uint64_t key
        uint64_t tag
        uint32_t newer
        uint32_t older

    ctypedef struct om_map:
        om_place *places
        uint32_t room
        uint32_t count
        uint32_t newest
        uint32_t oldest

    bint om_init(om_map *m, uint32_t room)
    void om_release(om_map *m)
    uint32_t om_find(const om_map *m, uint64_t key, uint64_t tag)
    void om_use(om_map *m, uint32_t n)
    void om_remove(om_map *m, uint32_t n)
    uint32_t om_add(om_map *m, uint64_t key, uint64_t tag)


cdef extern from "walk_cache.h" nogil:
    ctypedef struct wc_found:
        uint64_t table
        uint8_t rights

    ctypedef struct walk_cache:
        om_map map[6]
        wc_found *found[6]
        uint8_t shift[6]

    uint64_t wc_invalidate(
        walk_cache *w, uint64_t first, uint64_t last, uint64_t mask, uint64_t value, int larger_stay
    )


cdef class WalkCache:
    cdef walk_cache c
    cdef readonly dict sizes
    cdef dict served

    cdef int bind(self, const pt_format *f, uint64_t space, tuple whose) except -1
