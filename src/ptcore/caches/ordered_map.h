/* A bounded map from keys of two words, of which the second is a tag, to places 0..room-1, with
 * the places in order of use.
 *
 * Hash chains and a doubly linked list over arrays of 32-bit places; every operation is O(1). Used for
 * fully associative caches, where a scan over all entries would cost more than the cache saves. */
#ifndef PT_ORDERED_MAP_H
#define PT_ORDERED_MAP_H
#include "memory.h"
#include <stdlib.h>
#include <string.h>

#define OM_NONE UINT32_MAX
#define OM_SMALL 64

typedef struct {
    uint64_t key, tag;
    uint32_t newer, older; /* neighbours in order of use; a free place's `older` is the next free one */
    uint32_t chain;        /* the next place of the same bucket */
} om_place;

typedef struct {
    om_place *places;
    uint32_t *buckets;
    uint32_t room, mask, newest, oldest, free, count;
} om_map;

PT_INLINE uint32_t om_bucket(const om_map *m, uint64_t key, uint64_t tag) {
    /* Fibonacci hashing: Knuth, The Art of Computer Programming vol. 3, "Hashing". */
    return (uint32_t)(((key ^ tag << 40) * 0x9E3779B97F4A7C15ull) >> 32) & m->mask;
}

static inline __attribute__((unused)) void om_clear(om_map *m) {
    memset(m->buckets, 0xff, ((size_t)m->mask + 1) * sizeof *m->buckets);
    for (uint32_t n = 0; n < m->room; n++)
        m->places[n].older = n + 1 < m->room ? n + 1 : OM_NONE;
    m->free = m->room ? 0 : OM_NONE;
    m->newest = m->oldest = OM_NONE;
    m->count = 0;
}

/* Returns 0 when memory is short. Small maps get buckets that are mostly empty: most lookups of an absent key then
 * end at the bucket, as the branch predictor expects. */
static inline __attribute__((unused)) int om_init(om_map *m, uint32_t room) {
    uint32_t buckets = 4;
    while (buckets < (room <= OM_SMALL ? 16 : 2) * (uint64_t)room)
        buckets *= 2;
    m->room = room;
    m->mask = buckets - 1;
    m->places = calloc(room ? room : 1, sizeof *m->places);
    m->buckets = malloc((size_t)buckets * sizeof *m->buckets);
    if (m->places == NULL || m->buckets == NULL)
        return 0;
    om_clear(m);
    return 1;
}

static inline __attribute__((unused)) void om_release(om_map *m) {
    free(m->places);
    free(m->buckets);
    m->places = NULL;
    m->buckets = NULL;
}

PT_INLINE uint32_t om_find(const om_map *m, uint64_t key, uint64_t tag) {
    uint32_t n = m->buckets[om_bucket(m, key, tag)];
    while (n != OM_NONE && (m->places[n].key != key || m->places[n].tag != tag))
        n = m->places[n].chain;
    return n;
}

PT_INLINE void om_unlink(om_map *m, uint32_t n) {
    om_place *p = &m->places[n];
    *(p->newer != OM_NONE ? &m->places[p->newer].older : &m->newest) = p->older;
    *(p->older != OM_NONE ? &m->places[p->older].newer : &m->oldest) = p->newer;
}

PT_INLINE void om_link_newest(om_map *m, uint32_t n) {
    m->places[n].newer = OM_NONE;
    m->places[n].older = m->newest;
    *(m->newest != OM_NONE ? &m->places[m->newest].newer : &m->oldest) = n;
    m->newest = n;
}

/* Makes a present place the newest. */
PT_INLINE void om_use(om_map *m, uint32_t n) {
    if (m->newest != n) {
        om_unlink(m, n);
        om_link_newest(m, n);
    }
}

/* Takes a place out of its bucket. */
PT_INLINE void om_unchain(om_map *m, uint32_t n) {
    uint32_t *link = &m->buckets[om_bucket(m, m->places[n].key, m->places[n].tag)];
    while (PT_UNLIKELY(*link != n))
        link = &m->places[*link].chain;
    *link = m->places[n].chain;
}

/* Gives a place a key, in its bucket and as the newest. */
PT_INLINE void om_enter(om_map *m, uint32_t n, uint64_t key, uint64_t tag) {
    uint32_t *bucket = &m->buckets[om_bucket(m, key, tag)];
    m->places[n].key = key;
    m->places[n].tag = tag;
    m->places[n].chain = *bucket;
    *bucket = n;
    om_link_newest(m, n);
}

static inline __attribute__((unused)) void om_remove(om_map *m, uint32_t n) {
    om_unchain(m, n);
    om_unlink(m, n);
    m->places[n].older = m->free;
    m->free = n;
    m->count--;
}

/* Adds an absent key as the newest; there must be a free place. */
static inline __attribute__((unused)) uint32_t om_add(om_map *m, uint64_t key, uint64_t tag) {
    uint32_t n = m->free;
    m->free = m->places[n].older;
    om_enter(m, n, key, tag);
    m->count++;
    return n;
}

/* Adds an absent key, in the place of the oldest one if all are taken. */
static inline __attribute__((unused)) uint32_t om_admit(om_map *m, uint64_t key, uint64_t tag) {
    uint32_t n = m->oldest;
    if (PT_UNLIKELY(m->free != OM_NONE))
        return om_add(m, key, tag);
    om_unchain(m, n);
    om_unlink(m, n);
    om_enter(m, n, key, tag);
    return n;
}
#endif
