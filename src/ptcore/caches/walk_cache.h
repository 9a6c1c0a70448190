/* Paging-structure caches: for each level, which table the item over an address points to, so that a
 * walk may start below it. An entry also carries what the items above it grant, and a tag: whose it is. */
#ifndef PT_WALK_CACHE_H
#define PT_WALK_CACHE_H
#include "walk.h"
#include "ordered_map.h"

typedef struct {
    uint64_t table;
    uint8_t rights, level;
} wc_found;

typedef struct {
    om_map map[PT_MAX_LEVELS];
    wc_found *found[PT_MAX_LEVELS];
    uint8_t shift[PT_MAX_LEVELS]; /* of the format that fills it; 0 where a level has no cache */
} walk_cache;

/* The lowest level whose item over `va` is known, or 0; *out is where it points. */
PT_INLINE int wc_lookup(walk_cache *w, int top, uint64_t va, uint64_t space, wc_found *out) {
#pragma GCC unroll 6
    for (int level = 1; level < PT_MAX_LEVELS; level++) {
        if (level > top)
            break;
        if (w->map[level].room == 0)
            continue;
        uint32_t n = om_find(&w->map[level], va >> w->shift[level], space);
        if (n != OM_NONE) {
            om_use(&w->map[level], n);
            *out = w->found[level][n];
            return level;
        }
    }
    return 0;
}

PT_INLINE void wc_put(walk_cache *w, int level, uint64_t va, uint64_t space, const pt_place *below) {
    if (w->map[level].room == 0)
        return;
    uint64_t key = va >> w->shift[level];
    uint32_t n = om_find(&w->map[level], key, space);
    if (n == OM_NONE)
        n = om_admit(&w->map[level], key, space);
    else
        om_use(&w->map[level], n);
    w->found[level][n] = (wc_found){below->table, (uint8_t)below->rights, (uint8_t)below->level};
}

/* The same for an item that a lookup just did not find. */
PT_INLINE void wc_add(walk_cache *w, int level, uint64_t va, uint64_t space, const pt_place *below) {
    if (w->map[level].room == 0)
        return;
    uint32_t n = om_admit(&w->map[level], va >> w->shift[level], space);
    w->found[level][n] = (wc_found){below->table, (uint8_t)below->rights, (uint8_t)below->level};
}

PT_INLINE int wc_is_empty(const walk_cache *w) {
    uint32_t held = 0;
    for (int level = 1; level < PT_MAX_LEVELS; level++)
        held |= w->map[level].count;
    return held == 0;
}

/* Drops the items over [first, last] whose tag is `value` as far as `mask` says; with `larger_stay` those
 * that are over no other address. Returns how many. */
static inline __attribute__((unused)) uint64_t wc_invalidate(walk_cache *w, uint64_t first, uint64_t last,
                                                             uint64_t mask, uint64_t value, int larger_stay) {
    uint64_t dropped = 0;
    for (int level = 1; level < PT_MAX_LEVELS; level++) {
        om_map *m = &w->map[level];
        if (m->count == 0)
            continue;
        uint64_t low = first >> w->shift[level], high = last >> w->shift[level];
        if (larger_stay) {
            uint64_t within = (1ULL << w->shift[level]) - 1;
            uint64_t after = high + ((last & within) == within); /* may be 0: no item is whole */
            low += (first & within) != 0;
            if (after <= low)
                continue;
            high = after - 1;
        }
        for (uint32_t n = m->newest; n != OM_NONE;) {
            const om_place *p = &m->places[n];
            uint32_t older = p->older;
            if (p->key >= low && p->key <= high && !((p->tag ^ value) & mask)) {
                om_remove(m, n);
                dropped++;
            }
            n = older;
        }
    }
    return dropped;
}
#endif
