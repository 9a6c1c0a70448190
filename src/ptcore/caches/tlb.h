/* A TLB: levels of set-associative arrays with exact LRU by move-to-front within a set.
 *
 * Every array holds pages of one or more sizes. A lookup probes level after level; a hit below the first
 * level refills the levels above it, and touches nothing else (non-inclusive: what one level drops,
 * another may keep). Measured: exact LRU by move-to-front beats time stamps where sets miss (bench/). */
#ifndef PT_TLB_H
#define PT_TLB_H
#include "memory.h"
#include <string.h>

#define TLB_MAX_SIZES 4
#define TLB_MAX_ARRAYS 12
#define TLB_MAX_LEVELS 4
#define TLB_GLOBAL UINT32_MAX /* the asid of an entry that serves every address space */
#define TLB_NO_PAGE 0         /* page_lg2 of an unused entry */

typedef struct {
    uint64_t page; /* va >> page_lg2 */
    uint64_t pa;   /* of the page's first byte */
    uint32_t asid;
    uint8_t page_lg2, rights, dirty, key;
} tlb_entry;

typedef struct {
    tlb_entry *entries; /* sets * ways, a set's most recently used first */
    uint32_t sets, ways;
    uint32_t set_mask; /* sets - 1 where sets is a power of two, else 0 */
    uint8_t level, sizes;
    uint8_t page_lg2[TLB_MAX_SIZES];
} tlb_array;

typedef struct {
    tlb_array array[TLB_MAX_ARRAYS];
    uint32_t arrays, levels;
    /* The last lookup, when the first level had it: asked again within the same smallest page, the answer
     * is the same and moves nothing. NULL as soon as any entry moves. */
    tlb_entry *recent;
    uint64_t recent_page;
    uint32_t recent_asid;
    uint8_t smallest_lg2;
} tlb;

PT_INLINE tlb_entry *tlb_set(const tlb_array *a, uint64_t page) {
    uint64_t set = a->set_mask || a->sets == 1 ? page & a->set_mask : page % a->sets;
    return a->entries + set * a->ways;
}

PT_INLINE int tlb_serves(const tlb_entry *e, uint64_t page, unsigned page_lg2, uint32_t asid) {
    return e->page == page && e->page_lg2 == page_lg2 && (e->asid == asid || e->asid == TLB_GLOBAL);
}

PT_INLINE void tlb_to_front(tlb_entry *set, uint32_t way) {
    tlb_entry moved = set[way];
    for (; way > 0; way--)
        set[way] = set[way - 1];
    set[0] = moved;
}

PT_INLINE tlb_entry *tlb_find(const tlb_array *a, uint64_t va, uint32_t asid) {
    for (unsigned n = 0; n < a->sizes; n++) {
        unsigned page_lg2 = a->page_lg2[n];
        uint64_t page = va >> page_lg2;
        tlb_entry *set = tlb_set(a, page);
        for (uint32_t way = 0; way < a->ways; way++) {
            if (tlb_serves(&set[way], page, page_lg2, asid)) {
                if (way)
                    tlb_to_front(set, way);
                return &set[0];
            }
        }
    }
    return NULL;
}

PT_INLINE int tlb_holds_size(const tlb_array *a, unsigned page_lg2) {
    for (unsigned n = 0; n < a->sizes; n++)
        if (a->page_lg2[n] == page_lg2)
            return 1;
    return 0;
}

/* Puts an entry first in its set, in the place of an older copy or of the least recently used one. */
PT_INLINE void tlb_put(tlb_array *a, const tlb_entry *entry) {
    tlb_entry *set = tlb_set(a, entry->page);
    uint32_t way = 0;
    while (way + 1 < a->ways && !(set[way].page == entry->page && set[way].page_lg2 == entry->page_lg2 &&
                                  set[way].asid == entry->asid))
        way++;
    for (; way > 0; way--)
        set[way] = set[way - 1];
    set[0] = *entry;
}

/* The same for an entry that the array does not hold. */
PT_INLINE void tlb_push(tlb_array *a, const tlb_entry *entry) {
    tlb_entry *set = tlb_set(a, entry->page);
    for (uint32_t way = a->ways - 1; way > 0; way--)
        set[way] = set[way - 1];
    set[0] = *entry;
}

/* Fills every level above `level`, none of which holds the entry. */
PT_INLINE void tlb_refill(tlb *t, const tlb_entry *entry, unsigned level) {
    t->recent = NULL;
    for (uint32_t n = 0; n < t->arrays && t->array[n].level < level; n++)
        if (tlb_holds_size(&t->array[n], entry->page_lg2))
            tlb_push(&t->array[n], entry);
}

/* Fills every level above `level` with an entry, where an array takes its page size. */
static inline __attribute__((unused)) void tlb_fill(tlb *t, const tlb_entry *entry, unsigned level) {
    t->recent = NULL;
    for (uint32_t n = 0; n < t->arrays; n++)
        if (t->array[n].level < level && tlb_holds_size(&t->array[n], entry->page_lg2))
            tlb_put(&t->array[n], entry);
}

/* The entry that serves `va`, or NULL; *level is the level that had it. */
PT_INLINE tlb_entry *tlb_lookup(tlb *t, uint64_t va, uint32_t asid, unsigned *level) {
    *level = 0;
    if (t->recent != NULL && va >> t->smallest_lg2 == t->recent_page && asid == t->recent_asid)
        return t->recent;
    for (uint32_t n = 0; n < t->arrays; n++) {
        tlb_entry *found = tlb_find(&t->array[n], va, asid);
        if (found != NULL) {
            *level = t->array[n].level;
            if (*level > 0) {
                tlb_refill(t, found, *level);
            } else {
                t->recent = found;
                t->recent_page = va >> t->smallest_lg2;
                t->recent_asid = asid;
            }
            return found;
        }
    }
    return NULL;
}

/* Closes the gap that an entry leaves, so that unused entries stand last. */
PT_INLINE void tlb_drop(tlb_entry *set, uint32_t ways, uint32_t way) {
    for (; way + 1 < ways; way++)
        set[way] = set[way + 1];
    memset(&set[ways - 1], 0, sizeof *set);
}

PT_INLINE int tlb_meets(const tlb_entry *e, uint64_t first, uint64_t last) {
    uint64_t start = e->page << e->page_lg2, end = start + (((uint64_t)1 << e->page_lg2) - 1);
    return e->page_lg2 != TLB_NO_PAGE && start <= last && end >= first;
}

/* Drops from one set what meets [first, last] and has the asid (any_asid: whatever it has). */
PT_INLINE uint64_t tlb_sweep_set(tlb_entry *set, uint32_t ways, uint64_t first, uint64_t last, int any_asid,
                                 uint32_t asid) {
    uint64_t dropped = 0;
    for (uint32_t way = 0; way < ways && set[way].page_lg2 != TLB_NO_PAGE;) {
        if ((any_asid || set[way].asid == asid) && tlb_meets(&set[way], first, last)) {
            tlb_drop(set, ways, way);
            dropped++;
        } else {
            way++;
        }
    }
    return dropped;
}

/* Drops whatever meets [first, last]; a larger page that only touches it goes too. Returns how many. */
static inline __attribute__((unused)) uint64_t tlb_invalidate(tlb *t, uint64_t first, uint64_t last, int any_asid,
                                                              uint32_t asid) {
    uint64_t dropped = 0;
    t->recent = NULL;
    for (uint32_t n = 0; n < t->arrays; n++) {
        tlb_array *a = &t->array[n];
        for (unsigned s = 0; s < a->sizes; s++) {
            uint64_t page = first >> a->page_lg2[s], end = last >> a->page_lg2[s];
            if (end - page >= a->sets) { /* every set may hold some of it: sweep all, once */
                for (uint32_t set = 0; set < a->sets; set++)
                    dropped += tlb_sweep_set(a->entries + (size_t)set * a->ways, a->ways, first, last, any_asid, asid);
                break;
            }
            for (;; page++) {
                dropped += tlb_sweep_set(tlb_set(a, page), a->ways, first, last, any_asid, asid);
                if (page == end)
                    break;
            }
        }
    }
    return dropped;
}

/* Drops all entries of an asid, or of every one; global entries stay if `keep_global`. */
static inline __attribute__((unused)) uint64_t tlb_invalidate_all(tlb *t, int any_asid, uint32_t asid,
                                                                  int keep_global) {
    uint64_t dropped = 0;
    t->recent = NULL;
    for (uint32_t n = 0; n < t->arrays; n++) {
        tlb_array *a = &t->array[n];
        for (uint32_t s = 0; s < a->sets; s++) {
            tlb_entry *set = a->entries + (size_t)s * a->ways;
            for (uint32_t way = 0; way < a->ways && set[way].page_lg2 != TLB_NO_PAGE;) {
                int global = set[way].asid == TLB_GLOBAL;
                if (global ? !keep_global : any_asid || set[way].asid == asid) {
                    tlb_drop(set, a->ways, way);
                    dropped++;
                } else {
                    way++;
                }
            }
        }
    }
    return dropped;
}
#endif
