/* Replacement: what a policy keeps of a set, and its hooks: touch (a hit), place (an entry arrived), victim (the
 * slot to give up) and drop (an entry was taken out). */
#ifndef PT_TLB_POLICIES_H
#define PT_TLB_POLICIES_H
#include "memory.h"
#include <string.h>

enum { TLB_LRU, TLB_FIFO, TLB_RANDOM, TLB_PLRU, TLB_SRRIP, TLB_MRU_PLRU4 };

/* -- orders: the slots of a set from the newest to the oldest, unused ones last (LRU and FIFO) ------------- */

/* Up to 16 slots stand in one word, four bits each, the newest lowest. Measured: that beats moving the set's
 * entries, and time stamps (bench/). */
#define TLB_WORD_SLOTS 16
#define TLB_IN_ORDER 0xFEDCBA9876543210ull
#define TLB_EACH_SLOT 0x1111111111111111ull

/* Where a slot stands in the word: the lowest bit set is the highest of its place. */
PT_INLINE uint64_t tlb_mark_of(uint64_t order, uint64_t slot) {
    uint64_t others = order ^ slot * TLB_EACH_SLOT;
    return (others - TLB_EACH_SLOT) & ~others & 8 * TLB_EACH_SLOT;
}

/* The slot becomes the newest: all up to its place move by one. */
PT_INLINE uint64_t tlb_newest(uint64_t order, uint64_t slot) {
    uint64_t mark = tlb_mark_of(order, slot), moving = mark ^ (mark - 1);
    return order ^ ((order ^ (order << 4 | slot)) & moving);
}

/* The slot becomes the oldest of `ways`. */
PT_INLINE uint64_t tlb_oldest(uint64_t order, uint32_t ways, uint64_t slot) {
    unsigned place = (unsigned)__builtin_ctzll(tlb_mark_of(order, slot)) - 3, end = 4 * (ways - 1);
    uint64_t newer = order & (((uint64_t)1 << place) - 1), beyond = order & ~(((uint64_t)16 << end) - 1);
    uint64_t older = (order & ~beyond) >> 4 & ~(((uint64_t)1 << place) - 1) & (((uint64_t)1 << end) - 1);
    return beyond | slot << end | older | newer;
}

/* More slots stand in a row of numbers, the newest first. */
PT_INLINE void tlb_row_newest(uint16_t *row, uint32_t slot) {
    uint32_t at = 0;
    while (row[at] != slot)
        at++;
    memmove(row + 1, row, at * sizeof *row);
    row[0] = (uint16_t)slot;
}

/* The oldest slot becomes the newest. Returns it. */
PT_INLINE uint32_t tlb_row_turned(uint16_t *row, uint32_t ways) {
    uint16_t slot = row[ways - 1];
    memmove(row + 1, row, (ways - 1) * sizeof *row);
    return row[0] = slot;
}

PT_INLINE void tlb_row_oldest(uint16_t *row, uint32_t ways, uint32_t slot) {
    uint32_t at = 0;
    while (row[at] != slot)
        at++;
    memmove(row + at, row + at + 1, (ways - 1 - at) * sizeof *row);
    row[ways - 1] = (uint16_t)slot;
}

/* -- one word of state ------------------------------------------------------------------------------------ */

/* Tree-PLRU: node n has the children 2n and 2n + 1; its bit says which half was not used last. */
PT_INLINE uint64_t tlb_plru_touch(uint64_t tree, uint32_t ways, uint32_t way) {
    uint32_t node = 1;
    for (uint32_t half = ways >> 1; half; half >>= 1) {
        uint64_t right = (way & half) != 0;
        tree = (tree & ~((uint64_t)1 << node)) | (!right ? (uint64_t)1 << node : 0);
        node = 2 * node + (uint32_t)right;
    }
    return tree;
}

PT_INLINE uint32_t tlb_plru_victim(uint64_t tree, uint32_t ways) {
    uint32_t node = 1;
    while (node < ways)
        node = 2 * node + (uint32_t)(tree >> node & 1);
    return node - ways;
}

/* Bits 7:0: the group used last; then 4 bits for the tree of each group of four ways (bits 3:1 of it). */
PT_INLINE void tlb_groups_touch(uint64_t *state, uint32_t way) {
    uint32_t group = way >> 2, at = 8 + 4 * group;
    uint64_t tree = tlb_plru_touch(*state >> at & 15, 4, way & 3);
    *state = (*state & ~((uint64_t)15 << at) & ~(uint64_t)255) | tree << at | group;
}

/* Published for Skylake as "(MRU+1)%3PLRU4": vusec/tlbdr, TLB/README.md. */
PT_INLINE uint32_t tlb_groups_victim(uint64_t state, uint32_t ways) {
    uint32_t group = (uint32_t)((state & 255) + 1) % (ways >> 2);
    return 4 * group + tlb_plru_victim(state >> (8 + 4 * group) & 15, 4);
}

/* Two bits per way: how far off its next use is thought to be. Jaleel et al., "High Performance Cache
 * Replacement Using Re-Reference Interval Prediction (RRIP)", ISCA 2010: hit priority, SRRIP with M = 2. */
PT_INLINE uint32_t tlb_srrip_victim(uint64_t *state, uint32_t ways) {
    for (;;) {
        for (uint32_t way = 0; way < ways; way++)
            if ((*state >> 2 * way & 3) == 3)
                return way;
        for (uint32_t way = 0; way < ways; way++)
            *state += (uint64_t)1 << 2 * way;
    }
}

PT_INLINE void tlb_note(unsigned policy, uint32_t ways, uint64_t *state, uint32_t way, int arrived) {
    switch (policy) {
    case TLB_PLRU:
        *state = tlb_plru_touch(*state, ways, way);
        break;
    case TLB_MRU_PLRU4:
        tlb_groups_touch(state, way);
        break;
    case TLB_SRRIP:
        *state = (*state & ~((uint64_t)3 << 2 * way)) | (arrived ? (uint64_t)2 << 2 * way : 0);
        break;
    default:
        break;
    }
}

PT_INLINE uint32_t tlb_victim(unsigned policy, uint32_t ways, uint64_t *state, uint64_t *random) {
    switch (policy) {
    case TLB_PLRU:
        return tlb_plru_victim(*state, ways);
    case TLB_MRU_PLRU4:
        return tlb_groups_victim(*state, ways);
    case TLB_SRRIP:
        return tlb_srrip_victim(state, ways);
    default: /* Marsaglia, "Xorshift RNGs", Journal of Statistical Software 8 (2003) */
        *random ^= *random << 13;
        *random ^= *random >> 7;
        *random ^= *random << 17;
        return (uint32_t)(*random % ways);
    }
}
#endif
