/* A TLB: levels of set-associative arrays, each with its page sizes, sides, index and replacement policy.
 *
 * A lookup probes level after level; a hit below the first level refills the levels above it. What an array
 * holds in a set is ordered by use (LRU) or by arrival (FIFO); the other policies keep a state beside the set
 * and entries stay where they are. Measured: exact LRU by move-to-front beats time stamps where sets miss
 * (bench/). */
#ifndef PT_TLB_H
#define PT_TLB_H
#include "memory.h"
#include <string.h>

#define TLB_MAX_SIZES 4
#define TLB_MAX_ARRAYS 16
#define TLB_MAX_LEVELS 4
#define TLB_MAX_LIVE 16
#define TLB_GLOBAL UINT32_MAX /* the asid of an entry that serves every address space */
#define TLB_NO_PAGE 0         /* page_lg2 of an unused entry */

enum { TLB_LOAD = 1, TLB_STORE = 2, TLB_FETCH = 4 };
enum { TLB_LRU, TLB_FIFO, TLB_RANDOM, TLB_PLRU, TLB_SRRIP, TLB_MRU_PLRU4 };
enum { TLB_NON_INCLUSIVE, TLB_INCLUSIVE, TLB_VICTIM, TLB_EXCLUSIVE };

typedef struct {
    uint64_t page; /* va >> page_lg2 */
    uint64_t pa;   /* of the page's first byte */
    uint32_t asid;
    uint8_t page_lg2, rights, dirty, key;
} tlb_entry;

typedef struct {
    tlb_entry *entries; /* sets * ways */
    uint64_t *state;    /* one word per set, for policies that keep one; else NULL */
    uint32_t sets, ways;
    uint32_t set_mask; /* sets - 1 where sets is a power of two, else 0 */
    uint8_t level, sizes, sides, policy, index_xor;
    uint8_t page_lg2[TLB_MAX_SIZES];
    uint8_t held_as[64]; /* by page_lg2: the size as which such a page is held here, or 0 */
    uint8_t turns[64], turn[64]; /* by page_lg2: how many arrays share the pages of that size, and which this is */
} tlb_array;

typedef struct {
    uint8_t inclusion, live; /* live: how many asids a level keeps, 0 for any number */
    uint32_t known;
    uint32_t asid[TLB_MAX_LIVE]; /* the most recent first */
} tlb_level;

typedef struct {
    tlb_array array[TLB_MAX_ARRAYS];
    tlb_level level[TLB_MAX_LEVELS];
    uint32_t arrays, levels;
    uint8_t plain; /* no level has an inclusion rule of its own, or a limit of asids */
    /* The last lookup, when the first level had it: asked again within the same smallest page, the answer
     * is the same and moves nothing. NULL as soon as any entry moves. */
    tlb_entry *recent;
    uint64_t recent_page;
    uint32_t recent_asid, asid;
    uint8_t recent_side, smallest_lg2;
    uint64_t random;
    tlb_entry leaving;
} tlb;

/* -- replacement: touch (a hit), victim (the way to give up) and place (an entry arrived) ---------------- */

PT_INLINE int tlb_ordered(const tlb_array *a) { return a->policy <= TLB_FIFO; }

PT_INLINE uint32_t tlb_set_number(const tlb_array *a, uint64_t page) {
    uint64_t index = a->index_xor ? page ^ page >> a->index_xor : page;
    return (uint32_t)(a->set_mask || a->sets == 1 ? index & a->set_mask : index % a->sets);
}

PT_INLINE tlb_entry *tlb_set(const tlb_array *a, uint64_t page) {
    return a->entries + (size_t)tlb_set_number(a, page) * a->ways;
}

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

PT_INLINE void tlb_note(tlb_array *a, uint64_t *state, uint32_t way, int arrived) {
    switch (a->policy) {
    case TLB_PLRU:
        *state = tlb_plru_touch(*state, a->ways, way);
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

PT_INLINE uint32_t tlb_victim(tlb *t, tlb_array *a, uint64_t *state) {
    switch (a->policy) {
    case TLB_PLRU:
        return tlb_plru_victim(*state, a->ways);
    case TLB_MRU_PLRU4:
        return tlb_groups_victim(*state, a->ways);
    case TLB_SRRIP:
        return tlb_srrip_victim(state, a->ways);
    default: /* Marsaglia, "Xorshift RNGs", Journal of Statistical Software 8 (2003) */
        t->random ^= t->random << 13;
        t->random ^= t->random >> 7;
        t->random ^= t->random << 17;
        return (uint32_t)(t->random % a->ways);
    }
}

/* -- lookup ------------------------------------------------------------------------------------------------ */

PT_INLINE int tlb_serves(const tlb_entry *e, uint64_t page, unsigned page_lg2, uint32_t asid) {
    return e->page == page && e->page_lg2 == page_lg2 && (e->asid == asid || e->asid == TLB_GLOBAL);
}

PT_INLINE void tlb_to_front(tlb_entry *set, uint32_t way) {
    tlb_entry moved = set[way];
    for (; way > 0; way--)
        set[way] = set[way - 1];
    set[0] = moved;
}

PT_INLINE tlb_entry *tlb_used(tlb_array *a, tlb_entry *set, uint32_t number, uint32_t way) {
    if (PT_LIKELY(a->policy == TLB_LRU)) {
        if (way)
            tlb_to_front(set, way);
        return &set[0];
    }
    if (a->state != NULL)
        tlb_note(a, &a->state[number], way, 0);
    return &set[way];
}

PT_INLINE tlb_entry *tlb_find(tlb_array *a, uint64_t va, uint32_t asid) {
    for (unsigned n = 0; n < a->sizes; n++) {
        unsigned page_lg2 = a->page_lg2[n];
        uint64_t page = va >> page_lg2;
        uint32_t number = tlb_set_number(a, page);
        tlb_entry *set = a->entries + (size_t)number * a->ways;
        for (uint32_t way = 0; way < a->ways; way++)
            if (tlb_serves(&set[way], page, page_lg2, asid))
                return tlb_used(a, set, number, way);
    }
    return NULL;
}

/* -- filling ----------------------------------------------------------------------------------------------- */

static void tlb_evicted(tlb *t, unsigned level, const tlb_entry *gone);

/* Puts an entry into its set, in the place of an older copy, of nothing, or of what the policy gives up. */
PT_INLINE void tlb_put(tlb *t, tlb_array *a, const tlb_entry *entry) {
    uint32_t number = tlb_set_number(a, entry->page), way;
    tlb_entry *set = a->entries + (size_t)number * a->ways, gone;
    for (way = 0; way < a->ways; way++)
        if (set[way].page == entry->page && set[way].page_lg2 == entry->page_lg2 && set[way].asid == entry->asid)
            break;
    int copy = way < a->ways;
    for (uint32_t n = 0; !copy && n < a->ways; n++)
        if (set[n].page_lg2 == TLB_NO_PAGE) {
            way = n;
            break;
        }
    if (way == a->ways)
        way = tlb_ordered(a) ? a->ways - 1 : tlb_victim(t, a, a->state == NULL ? NULL : &a->state[number]);
    gone = set[way];
    if (tlb_ordered(a)) {
        if (!(copy && a->policy == TLB_FIFO))
            for (; way > 0; way--)
                set[way] = set[way - 1];
        set[way] = *entry;
    } else {
        set[way] = *entry;
        if (a->state != NULL)
            tlb_note(a, &a->state[number], way, !copy);
    }
    if (!copy && gone.page_lg2 != TLB_NO_PAGE && !t->plain)
        tlb_evicted(t, a->level, &gone);
}

/* The same for an entry that the array does not hold. */
PT_INLINE void tlb_push(tlb *t, tlb_array *a, const tlb_entry *entry) {
    if (PT_LIKELY(t->plain && tlb_ordered(a))) {
        tlb_entry *set = tlb_set(a, entry->page);
        for (uint32_t way = a->ways - 1; way > 0; way--)
            set[way] = set[way - 1];
        set[0] = *entry;
    } else {
        tlb_put(t, a, entry);
    }
}

/* Of arrays that share a page size, one takes a page: that of the address bits above those of its set. */
PT_INLINE int tlb_is_turn(const tlb_array *a, unsigned lg2, uint64_t page) {
    return a->turns[lg2] <= 1 || page / a->sets % a->turns[lg2] == a->turn[lg2];
}

/* The part of a page around `va` as which an array holds it; 0 if it holds none. */
PT_INLINE int tlb_piece(const tlb_array *a, const tlb_entry *entry, uint64_t va, tlb_entry *piece) {
    unsigned lg2 = a->held_as[entry->page_lg2];
    *piece = *entry;
    if (lg2 == entry->page_lg2)
        return tlb_is_turn(a, lg2, entry->page);
    piece->page = va >> lg2;
    piece->page_lg2 = (uint8_t)lg2;
    uint64_t inside = va & (((uint64_t)1 << entry->page_lg2) - 1);
    piece->pa = entry->pa + (inside >> lg2 << lg2);
    return lg2 != 0 && tlb_is_turn(a, lg2, piece->page);
}

/* Whether a level takes what a walk or a lower level brings; a victim or exclusive one takes evictions only. */
PT_INLINE int tlb_takes(const tlb *t, unsigned level) {
    return t->plain || t->level[level].inclusion <= TLB_INCLUSIVE;
}

/* Fills every level above `level` that serves this side of the CPU, none of which holds the entry. */
PT_INLINE void tlb_refill(tlb *t, const tlb_entry *entry, uint64_t va, unsigned side, unsigned level) {
    tlb_entry piece;
    t->recent = NULL;
    for (uint32_t n = 0; n < t->arrays && t->array[n].level < level; n++) {
        tlb_array *a = &t->array[n];
        if ((a->sides & side) && tlb_takes(t, a->level) && tlb_piece(a, entry, va, &piece))
            tlb_push(t, a, &piece);
    }
}

/* The same where some level may hold it already. */
static inline __attribute__((unused)) void tlb_fill(tlb *t, const tlb_entry *entry, uint64_t va, unsigned side,
                                                    unsigned level) {
    tlb_entry piece;
    t->recent = NULL;
    for (uint32_t n = 0; n < t->arrays; n++) {
        tlb_array *a = &t->array[n];
        if (a->level < level && (a->sides & side) && tlb_takes(t, a->level) && tlb_piece(a, entry, va, &piece))
            tlb_put(t, a, &piece);
    }
}

/* -- dropping ---------------------------------------------------------------------------------------------- */

/* In an ordered set the gap is closed, so that unused entries stand last. */
PT_INLINE void tlb_drop(const tlb_array *a, tlb_entry *set, uint32_t way) {
    if (tlb_ordered(a))
        for (; way + 1 < a->ways; way++)
            set[way] = set[way + 1];
    memset(&set[way], 0, sizeof *set);
}

PT_INLINE int tlb_meets(const tlb_entry *e, uint64_t first, uint64_t last) {
    uint64_t start = e->page << e->page_lg2, end = start + (((uint64_t)1 << e->page_lg2) - 1);
    return e->page_lg2 != TLB_NO_PAGE && start <= last && end >= first;
}

/* Drops from one set what meets [first, last] and has the asid (any_asid: whatever it has). */
/* any_asid: 1 for whatever tag, 2 for global entries besides those of the asid. */
PT_INLINE uint64_t tlb_sweep_set(const tlb_array *a, tlb_entry *set, uint64_t first, uint64_t last, int any_asid,
                                 uint32_t asid) {
    uint64_t dropped = 0;
    for (uint32_t way = a->ways; way-- > 0;)
        if ((any_asid == 1 || set[way].asid == asid || (any_asid == 2 && set[way].asid == TLB_GLOBAL)) &&
            tlb_meets(&set[way], first, last)) {
            tlb_drop(a, set, way);
            dropped++;
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
                    dropped += tlb_sweep_set(a, a->entries + (size_t)set * a->ways, first, last, any_asid, asid);
                break;
            }
            for (;; page++) {
                dropped += tlb_sweep_set(a, tlb_set(a, page), first, last, any_asid, asid);
                if (page == end)
                    break;
            }
        }
    }
    return dropped;
}

/* Drops all entries of an asid, or of every one; global entries stay if `keep_global`. `level`: of that one
 * only, TLB_MAX_LEVELS for all. */
static inline __attribute__((unused)) uint64_t tlb_invalidate_all(tlb *t, int any_asid, uint32_t asid,
                                                                  int keep_global, unsigned level) {
    uint64_t dropped = 0;
    t->recent = NULL;
    for (uint32_t n = 0; n < t->arrays; n++) {
        tlb_array *a = &t->array[n];
        if (level != TLB_MAX_LEVELS && a->level != level)
            continue;
        for (uint32_t s = 0; s < a->sets; s++) {
            tlb_entry *set = a->entries + (size_t)s * a->ways;
            for (uint32_t way = a->ways; way-- > 0;) {
                int global = set[way].asid == TLB_GLOBAL;
                if (set[way].page_lg2 != TLB_NO_PAGE && (global ? !keep_global : any_asid || set[way].asid == asid)) {
                    tlb_drop(a, set, way);
                    dropped++;
                }
            }
        }
    }
    return dropped;
}
/* What a level gives up: an exclusive or victim level below takes it; an inclusive one loses it above too. */
static void tlb_evicted(tlb *t, unsigned level, const tlb_entry *gone) {
    unsigned below = level + 1;
    tlb_entry piece;
    if (t->level[level].inclusion == TLB_INCLUSIVE) {
        uint64_t first = gone->page << gone->page_lg2, last = first + (((uint64_t)1 << gone->page_lg2) - 1);
        for (uint32_t n = 0; n < t->arrays && t->array[n].level < level; n++)
            for (uint32_t set = 0; set < t->array[n].sets; set++)
                tlb_sweep_set(&t->array[n], t->array[n].entries + (size_t)set * t->array[n].ways, first, last, 0,
                              gone->asid);
    }
    if (below >= t->levels || t->level[below].inclusion <= TLB_INCLUSIVE)
        return;
    for (uint32_t n = 0; n < t->arrays; n++)
        if (t->array[n].level == below && tlb_piece(&t->array[n], gone, gone->page << gone->page_lg2, &piece))
            tlb_put(t, &t->array[n], &piece);
}

/* Makes room for an asid in the levels that keep only a few: the one unused for longest loses its entries. */
static inline __attribute__((unused)) void tlb_switch(tlb *t, uint32_t asid) {
    t->asid = asid;
    t->recent = NULL;
    for (uint32_t n = 0; n < t->levels; n++) {
        tlb_level *l = &t->level[n];
        uint32_t at = 0;
        if (!l->live)
            continue;
        while (at < l->known && l->asid[at] != asid)
            at++;
        if (at == l->known && l->known == l->live)
            tlb_invalidate_all(t, 0, l->asid[--at], 1, n);
        else if (at == l->known)
            l->known++;
        for (; at > 0; at--)
            l->asid[at] = l->asid[at - 1];
        l->asid[0] = asid;
    }
}

/* The entry that serves `va` on a side of the CPU, or NULL; *level is the level that had it. */
PT_INLINE tlb_entry *tlb_lookup(tlb *t, uint64_t va, uint32_t asid, unsigned side, unsigned *level) {
    *level = 0;
    if (t->recent != NULL && va >> t->smallest_lg2 == t->recent_page && asid == t->recent_asid &&
        side == t->recent_side)
        return t->recent;
    if (!t->plain && asid != t->asid)
        tlb_switch(t, asid);
    for (uint32_t n = 0; n < t->arrays; n++) {
        if (!(t->array[n].sides & side))
            continue;
        tlb_entry *found = tlb_find(&t->array[n], va, asid);
        if (found != NULL) {
            *level = t->array[n].level;
            if (*level == 0) {
                t->recent = found;
                t->recent_page = va >> t->smallest_lg2;
                t->recent_asid = asid;
                t->recent_side = (uint8_t)side;
                return found;
            }
            if (t->plain || t->level[*level].inclusion != TLB_EXCLUSIVE) {
                tlb_refill(t, found, va, side, *level);
                return found;
            }
            t->leaving = *found; /* an exclusive level hands its entry over */
            tlb_drop(&t->array[n], found - (found - t->array[n].entries) % t->array[n].ways,
                     (uint32_t)((found - t->array[n].entries) % t->array[n].ways));
            tlb_refill(t, &t->leaving, va, side, *level);
            return &t->leaving;
        }
    }
    return NULL;
}
#endif
