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
        uint8_t key

    ctypedef struct tlb_array:
        tlb_entry *entries
        uint64_t *state
        uint32_t sets
        uint32_t ways
        uint32_t set_mask
        uint8_t level
        uint8_t sizes
        uint8_t sides
        uint8_t policy
        uint8_t index_xor
        uint8_t page_lg2[4]
        uint8_t held_as[64]
        uint8_t turns[64]
        uint8_t turn[64]

    ctypedef struct tlb_level:
        uint8_t inclusion
        uint8_t live

    ctypedef struct tlb:
        tlb_array array[16]
        tlb_level level[4]
        uint32_t arrays
        uint32_t levels
        uint8_t plain
        uint8_t smallest_lg2
        uint32_t asid
        uint64_t random

    tlb_entry *tlb_lookup(tlb *t, uint64_t va, uint32_t asid, unsigned side, unsigned *level)
    void tlb_fill(tlb *t, const tlb_entry *entry, uint64_t va, unsigned side, unsigned level)
    void tlb_refill(tlb *t, const tlb_entry *entry, uint64_t va, unsigned side, unsigned level)
    uint64_t tlb_invalidate(tlb *t, uint64_t first, uint64_t last, int any_asid, uint32_t asid)
    uint64_t tlb_invalidate_all(
        tlb *t, bint any_asid, uint32_t asid, bint keep_global, unsigned level
    )
    bint tlb_meets(const tlb_entry *e, uint64_t first, uint64_t last)


cdef class Tlb:
    cdef tlb c
    cdef readonly tuple levels
