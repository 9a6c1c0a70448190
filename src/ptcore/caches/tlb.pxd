from libc.stdint cimport uint8_t, uint32_t, uint64_t


cdef extern from "tlb.h" nogil:
    enum:
        TLB_MAX_LEVELS
        TLB_GLOBAL
        TLB_NO_PAGE

    ctypedef struct tlb_entry:
        uint64_t page
        uint64_t pa
        uint32_t asid
        uint8_t page_lg2
        uint8_t rights
        uint8_t dirty

    ctypedef struct tlb_array:
        tlb_entry *entries
        uint32_t sets
        uint32_t ways
        uint32_t set_mask
        uint8_t level
        uint8_t sizes
        uint8_t page_lg2[4]

    ctypedef struct tlb:
        tlb_array array[12]
        uint32_t arrays
        uint32_t levels
        uint8_t smallest_lg2

    tlb_entry *tlb_lookup(tlb *t, uint64_t va, uint32_t asid, unsigned *level)
    void tlb_fill(tlb *t, const tlb_entry *entry, unsigned level)
    uint64_t tlb_invalidate(tlb *t, uint64_t first, uint64_t last, bint any_asid, uint32_t asid)
    uint64_t tlb_invalidate_all(tlb *t, bint any_asid, uint32_t asid, bint keep_global)
    bint tlb_meets(const tlb_entry *e, uint64_t first, uint64_t last)


cdef class Tlb:
    cdef tlb c
    cdef readonly tuple levels
