from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t


cdef extern from "tlb.h" nogil:
    enum:
        TLB_MAX_LEVELS
    const uint64_t TLB_GLOBAL
    const uint64_t TLB_SPACE
    enum:
        TLB_WORD_SLOTS
        TLB_MAX_PROBES

    ctypedef struct tlb_entry:
        uint64_t pa
        uint64_t tag

    ctypedef struct tlb_array:
        uint64_t *pages
        tlb_entry *entries
        uint64_t *state
        uint16_t *rows
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
        uint8_t *stale
        uint32_t *used
        uint64_t seen

    ctypedef struct tlb_level:
        uint8_t inclusion
        uint8_t live

    ctypedef struct tlb:
        uint32_t used[16]
        tlb_array array[16]
        tlb_level level[4]
        uint32_t arrays
        uint32_t levels
        uint8_t simple
        uint8_t stale
        uint8_t plain
        uint8_t coalesced_lg2
        uint8_t smallest_lg2
        uint64_t space
        uint64_t random

    ctypedef struct tlb_chosen:
        uint64_t mask
        uint64_t value
        uint8_t globals
        uint8_t tagged
        uint8_t larger_stay

    uint64_t tlb_space(uint32_t asid, uint32_t vmid)
    uint64_t tlb_tag(uint64_t space, unsigned lg2, unsigned rights, unsigned dirty, unsigned key)
    unsigned tlb_lg2(uint64_t tag)
    unsigned tlb_rights(uint64_t tag)
    bint tlb_is_global(uint64_t tag)
    uint64_t tlb_bytes(uint64_t tag)
    void tlb_clear(tlb_array *a)
    uint32_t tlb_nth(const tlb_array *a, uint32_t set, uint32_t n)
    tlb_entry *tlb_lookup(tlb *t, uint64_t va, uint64_t space, unsigned side, unsigned *level)
    void tlb_fill(tlb *t, const tlb_entry *entry, uint64_t va, unsigned side, unsigned level)
    void tlb_refill(tlb *t, const tlb_entry *entry, uint64_t va, unsigned side, unsigned level)
    uint64_t tlb_invalidate(tlb *t, uint64_t first, uint64_t last, const tlb_chosen *c)
    uint64_t tlb_invalidate_all(tlb *t, const tlb_chosen *c, unsigned level)
    bint tlb_holds(const tlb *t, uint64_t first, uint64_t last)


cdef extern from "tlb_batch.h" nogil:
    enum:
        TLB_MISS

    void tlb_serve_many(
        tlb *t, const uint64_t *vas, const uint8_t *sides, unsigned side, size_t count, tlb_entry entry,
        uint8_t *out,
    )


cdef class Tlb:
    cdef tlb c
    cdef readonly tuple levels

    cdef bint is_simple(self)


cdef uint64_t space_of(asid, vmid) except? 0xFFFF_FFFF_FFFF_FFFF
cdef tlb_chosen chosen(asid, vmid, bint with_global, bint larger_stay, bint tagged=*) except *
cdef unsigned side_alone(kinds, sides) except? 0xFFFF
