from libc.stdint cimport uint8_t, uint32_t, uint64_t

from ptcore.caches.tlb cimport Tlb, tlb
from ptcore.caches.walk_cache cimport WalkCache, walk_cache
from ptcore.table.abi cimport pt_need, pt_space
from ptcore.table.page_table cimport PageTable


cdef extern from "mmu.h" nogil:
    enum:
        MMU_DEVICE
        MMU_WALK
        MMU_FAULT
        MMU_MAX_WALKERS
        MMU_MAX_ITEMS

    ctypedef struct mmu_counts:
        uint64_t accesses
        uint64_t hits[4]
        uint64_t walks
        uint64_t references
        uint64_t faults
        uint64_t second_walks
        uint64_t second_references
        uint64_t second_hits
        uint64_t served[5]
        uint64_t cycles
        uint64_t waited
        uint64_t end
        uint64_t device_hits
        uint64_t context_hits
        uint64_t context_references

    ctypedef struct mmu_context:
        const pt_space *stage1[2]
        const pt_need *need1[2]
        const pt_space *stage2
        const pt_need *need2
        uint64_t space
        uint64_t guest
        uint8_t halves
        uint8_t marks1
        uint8_t marks2
        uint8_t table_kind
        uint8_t user_kind

    ctypedef struct mmu:
        mmu_context now
        tlb *tlb
        walk_cache *walk_cache
        walk_cache *guest_cache
        walk_cache *host_cache
        tlb *second
        tlb *lines
        uint64_t cycles[5]
        uint64_t walkers
        uint64_t issue_cycles
        uint8_t fault_stage
        mmu_counts counts
        tlb *device
        tlb *contexts
        uint64_t device_space
        uint64_t context_key
        uint64_t item_at[8]
        uint8_t behind
        uint8_t awaits
        uint8_t device_items
        uint8_t process_items
        mmu_context next

    bint mmu_is_bare(const mmu *m)
    void mmu_drop(mmu *m, uint64_t first, uint64_t last)
    uint64_t mmu_drop_all(mmu *m, bint globals_)
    void mmu_choose_walks(mmu_context *c)
    uint64_t mmu_reference(mmu *m, uint64_t at)
    void mmu_ask_many(
        mmu *m, const uint64_t *vas, const uint8_t *sides, unsigned side, unsigned extra, size_t count,
        uint8_t *out,
    )
    unsigned mmu_asks(mmu *m, uint64_t va, unsigned kind, uint64_t *pa, int *status)


cdef class Mmu:
    cdef mmu c
    cdef object translates_by
    cdef readonly Tlb tlb
    cdef readonly WalkCache walk_cache
    cdef readonly WalkCache guest_cache
    cdef readonly WalkCache host_cache
    cdef readonly Tlb ipa_tlb
    cdef readonly Tlb line_cache
    cdef readonly Tlb device_tlb
    cdef readonly Tlb context_cache
    cdef bint wants_marks
    cdef dict seen
    cdef object to_come

    cdef mmu_context context(self, space, asid, vmid) except *
    cdef int arrive(self) except -1
    cdef int prepare(self, space, asid, vmid, mmu_context *made) except -1
    cdef int bind(self, tuple parts, const mmu_context *made) except -1

    # For other compiled rooms: accesses of a CPU (`need` of need_of()), `stride` apart, and what `invalidate` does.
    cdef void touch(self, uint64_t first, uint64_t count, uint64_t stride, unsigned need) noexcept nogil
    cdef void drop(self, uint64_t first, uint64_t last) noexcept nogil


cdef unsigned need_of(kind, bint user) except? 0xFFFF
