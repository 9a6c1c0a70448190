/* The page-table cache: which page is mapped in which slot of a window whose tables are built beforehand.
 *
 * A slot is clean (no CPU can hold a translation of it), live (maps a page) or owed (was taken from its
 * page, and a CPU may still hold that translation). Owed slots become clean together, when the caller
 * says that the window was invalidated; only clean slots are handed out. */
#ifndef PT_TABLE_CACHE_H
#define PT_TABLE_CACHE_H
#include "ordered_map.h"

struct table_cache;

/* A policy is three hooks over the mechanism; place numbers are those of the ordered map. */
typedef struct {
    void (*new_entry)(struct table_cache *, uint32_t place);
    void (*on_access)(struct table_cache *, uint32_t place);
    uint32_t (*on_evict)(struct table_cache *); /* the place to give up; the cache is not empty */
} tc_policy;

typedef struct table_cache {
    om_map map;                /* page -> place */
    uint32_t *slot;            /* of each place */
    uint32_t *clean, *owed;    /* stacks of slots */
    uint32_t cleans, oweds;
    uint8_t *seen;             /* CLOCK: used since the hand came by */
    uint8_t *taken;            /* CLOCK: the place is in use */
    uint32_t hand;
    const tc_policy *policy;
} table_cache;

static void tc_lru_new(table_cache *c, uint32_t place) {
    (void)c, (void)place; /* a new place is the newest already */
}
static void tc_lru_access(table_cache *c, uint32_t place) { om_use(&c->map, place); }
static uint32_t tc_lru_evict(table_cache *c) { return c->map.oldest; }

static void tc_clock_new(table_cache *c, uint32_t place) { c->seen[place] = 0; }
static void tc_clock_access(table_cache *c, uint32_t place) { c->seen[place] = 1; }
/* The hand passes places that were used since it last came by, and forgets that they were. */
static uint32_t tc_clock_evict(table_cache *c) {
    for (;; c->hand = (c->hand + 1) % c->map.room) {
        if (!c->taken[c->hand])
            continue;
        if (!c->seen[c->hand]) {
            uint32_t place = c->hand;
            c->hand = (c->hand + 1) % c->map.room;
            return place;
        }
        c->seen[c->hand] = 0;
    }
}

static const tc_policy TC_LRU = {tc_lru_new, tc_lru_access, tc_lru_evict};
static const tc_policy TC_CLOCK = {tc_clock_new, tc_clock_access, tc_clock_evict};

static inline int tc_init(table_cache *c, uint32_t slots, int clock) {
    memset(c, 0, sizeof *c);
    c->slot = calloc(slots, sizeof *c->slot);
    c->clean = calloc(slots, sizeof *c->clean);
    c->owed = calloc(slots, sizeof *c->owed);
    c->seen = calloc(slots, 1);
    c->taken = calloc(slots, 1);
    c->policy = clock ? &TC_CLOCK : &TC_LRU;
    if (!om_init(&c->map, slots) || !c->slot || !c->clean || !c->owed || !c->seen || !c->taken)
        return 0;
    for (uint32_t n = 0; n < slots; n++) /* the lowest slot is on top */
        c->clean[n] = slots - 1 - n;
    c->cleans = slots;
    return 1;
}

static inline void tc_release(table_cache *c) {
    om_release(&c->map);
    free(c->slot);
    free(c->clean);
    free(c->owed);
    free(c->seen);
    free(c->taken);
}

/* The place of a page, now used; OM_NONE when it has none. */
PT_INLINE uint32_t tc_lookup(table_cache *c, uint64_t page) {
    uint32_t place = om_find(&c->map, page, 0);
    if (place != OM_NONE)
        c->policy->on_access(c, place);
    return place;
}

/* Gives an absent page a clean slot; there must be one. */
static inline uint32_t tc_admit(table_cache *c, uint64_t page) {
    uint32_t place = om_add(&c->map, page, 0);
    c->slot[place] = c->clean[--c->cleans];
    c->taken[place] = 1;
    c->policy->new_entry(c, place);
    return c->slot[place];
}

/* Takes a slot from its page; it is owed an invalidation from now on. */
static inline uint32_t tc_retire(table_cache *c, uint32_t place) {
    c->owed[c->oweds++] = c->slot[place];
    c->taken[place] = 0;
    om_remove(&c->map, place);
    return c->slot[place];
}

static int tc_higher_first(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return x < y ? 1 : x > y ? -1 : 0;
}

/* All clean slots are then handed out in their order: pages in a row get slots in a row, and one run of items. */
static inline void tc_invalidated(table_cache *c) {
    while (c->oweds)
        c->clean[c->cleans++] = c->owed[--c->oweds];
    qsort(c->clean, c->cleans, sizeof *c->clean, tc_higher_first);
}
#endif
