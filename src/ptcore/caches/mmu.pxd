from libc.stdint cimport uint8_t, uint32_t, uint64_t

from ptcore.caches.tlb cimport Tlb, tlb
from ptcore.caches.walk_cache cimport WalkCache, walk_cache
from ptcore.table.abi cimport pt_need, pt_space
from ptcore.table.page_table cimport PageTable


cdef extern from "mmu.h" nogil:
    enum:
        MMU_WALK
        MMU_FAULT

    ctypedef struct mmu_counts:
        uint64_t accesses
        uint64_t hits[4]
        uint64_t walks
        uint64_t references
        uint64_t faults

    ctypedef struct mmu:
        const pt_space *space
        tlb *tlb
        walk_cache *walk_cache
        const pt_need *need
        uint32_t asid
        uint8_t marks
        mmu_counts counts

    void mmu_choose_walk(mmu *m)
    unsigned mmu_access(mmu *m, uint64_t va, unsigned need, uint64_t *pa, int *status)


cdef class Mmu:
    cdef mmu c
    cdef readonly PageTable table
    cdef readonly Tlb tlb
    cdef readonly WalkCache walk_cache
