from libc.stdint cimport uint32_t, uint64_t

from ptcore.caches.walk_cache cimport om_map


cdef extern from "table_cache.h" nogil:
    ctypedef struct tc_policy:
        uint32_t (*on_evict)(table_cache *) noexcept nogil

    ctypedef struct table_cache:
        om_map map
        uint32_t *slot
        uint32_t cleans
        uint32_t oweds
        const tc_policy *policy

    bint tc_init(table_cache *c, uint32_t slots, bint clock)
    void tc_release(table_cache *c)
    uint32_t tc_lookup(table_cache *c, uint64_t page)
    uint32_t tc_admit(table_cache *c, uint64_t page)
    uint32_t tc_retire(table_cache *c, uint32_t place)
    void tc_invalidated(table_cache *c)


cdef class PageTableCache:
    cdef table_cache c
    cdef readonly str policy
    cdef readonly uint32_t slots
    cdef readonly uint32_t evict_batch
    cdef uint64_t hits, misses, admissions, evictions, drops, invalidations
