/* A TLB: levels of set-associative arrays, each with its page sizes, sides, index and replacement policy.
 *
 * A lookup probes level after level; a hit below the first level refills the levels above it. An entry stays in
 * its slot; what a set holds is found by page number, and its policy keeps the order of use beside it. */
#ifndef PT_TLB_H
#define PT_TLB_H
#include "memory.h"
#include "tlb_policies.h"
#include <string.h>
#ifdef __SSE2__
#include <emmintrin.h>
#endif

#define TLB_MAX_SIZES 4
#define TLB_MAX_ARRAYS 16
#define TLB_MAX_LEVELS 4
#define TLB_MAX_LIVE 16
#define TLB_NO_PAGE UINT64_MAX

/* A tag says whose translation it is and what of it is cached: asid, vmid, page size; then rights, dirty, key.
 * The asid of all ones is that of a global entry, which serves every asid of its vmid. */
#define TLB_ASID_BITS 20
#define TLB_VMID_BITS 16
#define TLB_LG2_AT (TLB_ASID_BITS + TLB_VMID_BITS)
#define TLB_RIGHTS_AT (TLB_LG2_AT + 6)
#define TLB_DIRTY_AT (TLB_RIGHTS_AT + 6)
#define TLB_KEY_AT (TLB_DIRTY_AT + 1)
#define TLB_GLOBAL (((uint64_t)1 << TLB_ASID_BITS) - 1)
#define TLB_SPACE (((uint64_t)1 << TLB_LG2_AT) - 1)      /* asid and vmid */
#define TLB_MATCHED (((uint64_t)1 << TLB_RIGHTS_AT) - 1) /* asid, vmid and page size */

enum { TLB_LOAD = 1, TLB_STORE = 2, TLB_FETCH = 4 };
enum { TLB_NON_INCLUSIVE, TLB_INCLUSIVE, TLB_VICTIM, TLB_EXCLUSIVE };

typedef struct {
    uint64_t pa;  /* of the page's first byte */
    uint64_t tag; /* 0 where the slot is unused */
} tlb_entry;

PT_INLINE uint64_t tlb_space(uint32_t asid, uint32_t vmid) { return asid | (uint64_t)vmid << TLB_ASID_BITS; }
PT_INLINE unsigned tlb_lg2(uint64_t tag) { return (unsigned)(tag >> TLB_LG2_AT & 63); }
PT_INLINE unsigned tlb_rights(uint64_t tag) { return (unsigned)(tag >> TLB_RIGHTS_AT & 63); }
PT_INLINE unsigned tlb_dirty(uint64_t tag) { return (unsigned)(tag >> TLB_DIRTY_AT & 1); }
PT_INLINE unsigned tlb_key(uint64_t tag) { return (unsigned)(tag >> TLB_KEY_AT & 15); }
PT_INLINE int tlb_is_global(uint64_t tag) { return (tag & TLB_GLOBAL) == TLB_GLOBAL; }
PT_INLINE uint64_t tlb_bytes(uint64_t tag) { return (uint64_t)1 << tlb_lg2(tag); }
PT_INLINE uint64_t tlb_tag(uint64_t space, unsigned lg2, unsigned rights, unsigned dirty, unsigned key) {
    return space | (uint64_t)lg2 << TLB_LG2_AT | (uint64_t)rights << TLB_RIGHTS_AT |
           (uint64_t)dirty << TLB_DIRTY_AT | (uint64_t)key << TLB_KEY_AT;
}

typedef struct {
    uint64_t *pages;    /* sets * ways page numbers, TLB_NO_PAGE in unused slots */
    tlb_entry *entries; /* sets * ways */
    uint64_t *state;    /* one word per set: the order, or what the policy keeps */
    uint16_t *rows;     /* the order where it does not fit a word: sets * ways; else NULL */
    uint32_t sets, ways;
    uint32_t set_mask; /* sets - 1 where sets is a power of two, else 0 */
    uint8_t level, sizes, sides, policy, index_xor;
    uint8_t page_lg2[TLB_MAX_SIZES];
    uint8_t held_as[64]; /* by page_lg2: the size as which such a page is held here, or 0 */
    uint8_t turns[64], turn[64]; /* by page_lg2: how many arrays share the pages of that size, and which this is */
    uint8_t *stale; /* of the TLB: set when `seen` changes */
    uint64_t seen; /* bit n: since it was empty, the array took a page of the size n (as page_lg2) */
    uint32_t *used; /* of the TLB: how many slots hold an entry */
} tlb_array;

typedef struct {
    uint8_t inclusion, live; /* live: how many spaces a level keeps, 0 for any number */
    uint32_t known;
    uint64_t space[TLB_MAX_LIVE]; /* the most recent first */
} tlb_level;

/* What lookups of one side ask, in order: an array and a size of page that it took since it was empty. Taken from
 * the arrays so that a lookup reads nothing else; kept only where all arrays are LRU, of sets that a mask
 * numbers, and fill each other plainly. Measured: 18 against 9 ns per missing access (bench/). */
#define TLB_MAX_PROBES 16
#define TLB_NO_FOLD 63 /* a page has no bit there: it is no byte's number */

typedef struct {
    tlb_array *array;
    uint64_t *pages, *state;
    tlb_entry *entries;
    uint32_t *used;
    uint64_t mask, ordered; /* of the sets; of the bits of an order */
    uint32_t ways;
    uint8_t lg2, fold, level; /* fold: the set is of page ^ page >> fold, or of the page alone */
    uint32_t set;             /* that was asked last */
} tlb_probe;

typedef struct {
    tlb_probe probe[TLB_MAX_PROBES];
    uint8_t count, lg2; /* lg2: the size of page that fills just these arrays, 0 if there is none */
} tlb_plan;

typedef struct {
    uint32_t used[TLB_MAX_ARRAYS]; /* by array, side by side: an invalidation looks into none that is empty */
    tlb_array array[TLB_MAX_ARRAYS];
    tlb_level level[TLB_MAX_LEVELS];
    tlb_plan plan[3];      /* by side: load, store, fetch */
    uint8_t simple, stale; /* whether plans are kept; whether they must be made anew */
    uint32_t arrays, levels;
    uint8_t plain; /* no level has an inclusion rule of its own, or a limit of spaces */
    uint8_t coalesced_lg2; /* the size as which adjacent smaller pages are tried to be held, 0 for none */
    /* The last lookup, when the first level had it: asked again within the same smallest page, the answer
     * is the same and moves nothing. NULL as soon as any entry moves. */
    tlb_entry *recent;
    uint64_t recent_page, recent_space, space;
    uint8_t recent_side, smallest_lg2;
    uint64_t random;
    tlb_entry leaving;
} tlb;

/* Which entries a command is about. */
typedef struct {
    uint64_t mask, value; /* of asid and vmid, for entries that are not global */
    uint8_t globals;      /* whether global entries of the vmid go too */
    uint8_t tagged;       /* whether entries that are not global go */
    uint8_t larger_stay;  /* whether an entry that is not all within the addresses stays */
} tlb_chosen;

/* -- sets ------------------------------------------------------------------------------------------------- */

PT_INLINE int tlb_ordered(const tlb_array *a) { return a->policy <= TLB_FIFO; }

PT_INLINE uint32_t tlb_set_number(const tlb_array *a, uint64_t page) {
    uint64_t index = a->index_xor ? page ^ page >> a->index_xor : page;
    return (uint32_t)(a->set_mask || a->sets == 1 ? index & a->set_mask : index % a->sets);
}

/* Which of four slots hold a page of the same lower half, one bit each. Nearly always that says it all. */
PT_INLINE uint32_t tlb_four_alike(const uint64_t *pages, uint64_t page) {
#ifdef __SSE2__
    __m128 low = _mm_loadu_ps((const float *)pages), high = _mm_loadu_ps((const float *)(pages + 2));
    __m128i halves = _mm_castps_si128(_mm_shuffle_ps(low, high, _MM_SHUFFLE(2, 0, 2, 0)));
    return (uint32_t)_mm_movemask_ps(_mm_castsi128_ps(_mm_cmpeq_epi32(halves, _mm_set1_epi32((int)page))));
#else
    uint32_t alike = 0;
    for (uint32_t n = 0; n < 4; n++)
        alike |= (uint32_t)((uint32_t)pages[n] == (uint32_t)page) << n;
    return alike;
#endif
}

PT_INLINE int tlb_is_slot(const uint64_t *pages, const tlb_entry *entries, uint32_t slot, uint64_t page,
                          uint64_t wanted) {
    uint64_t match = entries[slot].tag & TLB_MATCHED;
    return pages[slot] == page && (match == wanted || match == (wanted | TLB_GLOBAL));
}

/* The same of up to sixteen slots. */
PT_INLINE uint32_t tlb_alike(const uint64_t *pages, uint32_t count, uint64_t page) {
    uint32_t alike = 0, n = 0;
#pragma GCC unroll 4
    for (; n + 4 <= count; n += 4)
        alike |= tlb_four_alike(pages + n, page) << n;
    for (; n < count; n++)
        alike |= (uint32_t)(pages[n] == page) << n;
    return alike;
}

/* The slot whose entry serves the page, or `ways`. Sixteen slots are compared without a branch. */
PT_INLINE uint32_t tlb_slot(const uint64_t *pages, const tlb_entry *entries, uint32_t ways, uint64_t page,
                            uint64_t wanted) {
    for (uint32_t first = 0; first < ways; first += 16) {
        uint32_t left = ways - first;
        uint32_t alike = left >= 16 ? tlb_alike(pages + first, 16, page) : tlb_alike(pages + first, left, page);
        for (; alike != 0; alike &= alike - 1) {
            uint32_t slot = first + (uint32_t)__builtin_ctz(alike);
            if (PT_LIKELY(tlb_is_slot(pages, entries, slot, page, wanted)))
                return slot;
        }
    }
    return ways;
}

/* The hooks of an array's policy, for the slot of a set. */
PT_INLINE void tlb_touch(tlb_array *a, uint32_t set, uint32_t ways, uint32_t slot) {
    uint64_t *state = &a->state[set];
    if (PT_LIKELY(a->policy == TLB_LRU)) {
        if (PT_LIKELY(ways <= TLB_WORD_SLOTS))
            *state = tlb_newest(*state, slot);
        else
            tlb_row_newest(a->rows + (size_t)set * ways, slot);
    } else if (a->policy != TLB_FIFO) {
        tlb_note(a->policy, ways, state, slot, 0);
    }
}

PT_INLINE void tlb_place(tlb_array *a, uint32_t set, uint32_t ways, uint32_t slot) {
    uint64_t *state = &a->state[set];
    if (!tlb_ordered(a))
        tlb_note(a->policy, ways, state, slot, 1);
    else if (ways <= TLB_WORD_SLOTS)
        *state = tlb_newest(*state, slot);
    else
        tlb_row_newest(a->rows + (size_t)set * ways, slot);
}

PT_INLINE uint32_t tlb_given_up(tlb *t, tlb_array *a, uint32_t set, uint32_t ways) {
    if (PT_UNLIKELY(!tlb_ordered(a)))
        return tlb_victim(a->policy, ways, &a->state[set], &t->random);
    if (ways <= TLB_WORD_SLOTS)
        return (uint32_t)(a->state[set] >> 4 * (ways - 1) & 15);
    return a->rows[(size_t)set * ways + ways - 1];
}

PT_INLINE void tlb_removed(tlb_array *a, uint32_t set, uint32_t slot) {
    if (!tlb_ordered(a))
        return;
    if (a->ways <= TLB_WORD_SLOTS)
        a->state[set] = tlb_oldest(a->state[set], a->ways, slot);
    else
        tlb_row_oldest(a->rows + (size_t)set * a->ways, a->ways, slot);
}

/* Slots in the order of use, where the policy has one. */
static inline __attribute__((unused)) uint32_t tlb_nth(const tlb_array *a, uint32_t set, uint32_t n) {
    if (!tlb_ordered(a))
        return n;
    return a->ways <= TLB_WORD_SLOTS ? (uint32_t)(a->state[set] >> 4 * n & 15) : a->rows[(size_t)set * a->ways + n];
}

static inline __attribute__((unused)) void tlb_clear(tlb_array *a) {
    for (size_t n = 0; n < (size_t)a->sets * a->ways; n++)
        a->pages[n] = TLB_NO_PAGE;
    for (size_t n = 0; a->rows != NULL && n < (size_t)a->sets * a->ways; n++)
        a->rows[n] = (uint16_t)(n % a->ways);
    for (uint32_t n = 0; tlb_ordered(a) && n < a->sets; n++)
        a->state[n] = TLB_IN_ORDER;
    a->seen = 0;
    *a->used = 0;
}

/* -- lookup ----------------------------------------------------------------------------------------------- */

/* A hit in a set of a number of ways that the compiler knows, or not. */
PT_INLINE tlb_entry *tlb_hit(tlb_array *a, uint32_t set, uint32_t ways, uint64_t page, uint64_t wanted) {
    tlb_entry *entries = a->entries + (size_t)set * ways;
    uint32_t slot = tlb_slot(a->pages + (size_t)set * ways, entries, ways, page, wanted);
    if (slot == ways)
        return NULL;
    tlb_touch(a, set, ways, slot);
    return entries + slot;
}

PT_INLINE tlb_entry *tlb_find(tlb_array *a, uint64_t va, uint64_t space) {
    for (unsigned n = 0; n < a->sizes; n++) {
        unsigned lg2 = a->page_lg2[n];
        if (!(a->seen >> lg2 & 1))
            continue;
        uint64_t page = va >> lg2, wanted = space | (uint64_t)lg2 << TLB_LG2_AT;
        uint32_t set = tlb_set_number(a, page);
        tlb_entry *found = a->ways == 4    ? tlb_hit(a, set, 4, page, wanted)
                           : a->ways == 8  ? tlb_hit(a, set, 8, page, wanted)
                           : a->ways == 12 ? tlb_hit(a, set, 12, page, wanted)
                                           : tlb_hit(a, set, a->ways, page, wanted);
        if (found != NULL)
            return found;
    }
    return NULL;
}

/* -- plans ------------------------------------------------------------------------------------------------ */

static void tlb_plan_side(tlb *t, tlb_plan *plan, unsigned side) {
    plan->count = 0;
    plan->lg2 = 0;
    for (uint32_t n = 0; n < t->arrays; n++) {
        tlb_array *a = &t->array[n];
        for (unsigned s = 0; (a->sides & side) && s < a->sizes; s++)
            if (a->seen >> a->page_lg2[s] & 1)
                plan->probe[plan->count++] =
                    (tlb_probe){a, a->pages, a->state, a->entries, a->used, a->sets - 1,
                                a->ways < TLB_WORD_SLOTS ? ((uint64_t)1 << 4 * a->ways) - 1 : UINT64_MAX, a->ways,
                                a->page_lg2[s], a->index_xor ? a->index_xor : TLB_NO_FOLD, a->level, 0};
    }
    uint32_t takers = 0, same = 0;
    for (uint32_t n = 0; plan->count != 0 && n < t->arrays; n++)
        takers += (t->array[n].sides & side) && t->array[n].held_as[plan->probe[0].lg2] != 0;
    for (uint32_t n = 0; n < plan->count; n++)
        same += plan->probe[n].lg2 == plan->probe[0].lg2;
    if (plan->count != 0 && takers == plan->count && same == plan->count)
        plan->lg2 = plan->probe[0].lg2;
}

static inline __attribute__((unused)) void tlb_make_plans(tlb *t) {
    t->stale = 0;
    for (unsigned n = 0; t->simple && n < 3; n++)
        tlb_plan_side(t, &t->plan[n], 1u << n);
}

PT_INLINE uint32_t tlb_probe_set(const tlb_probe *p, uint64_t page) {
    return (uint32_t)((p->fold == TLB_NO_FOLD ? page : page ^ page >> p->fold) & p->mask);
}

/* A hit in a set of a number of ways that the compiler knows, or not. */
PT_INLINE tlb_entry *tlb_probe_hit(const tlb_probe *p, uint32_t ways, size_t set, uint64_t page, uint64_t wanted) {
    size_t row = set * ways;
    uint32_t slot = tlb_slot(p->pages + row, p->entries + row, ways, page, wanted);
    if (slot == ways)
        return NULL;
    if (PT_LIKELY(ways <= TLB_WORD_SLOTS))
        p->state[set] = tlb_newest(p->state[set], slot);
    else
        tlb_row_newest(p->array->rows + row, slot);
    return p->entries + row + slot;
}

/* Puts an entry into a set that was just asked and has it not, in the place of the oldest. Returns where it is. */
PT_INLINE tlb_entry *tlb_probe_place(const tlb_probe *p, uint32_t ways, size_t set, uint64_t page,
                                     const tlb_entry *entry) {
    size_t row = set * ways;
    if (PT_LIKELY(ways <= TLB_WORD_SLOTS)) {
        uint64_t order = p->state[set], slot = order >> 4 * (ways - 1) & 15;
        p->state[set] = (order << 4 | slot) & p->ordered;
        row += slot;
    } else {
        row += tlb_row_turned(p->array->rows + row, ways);
    }
    *p->used += p->pages[row] == TLB_NO_PAGE;
    p->pages[row] = page;
    p->entries[row] = *entry;
    return p->entries + row;
}

PT_INLINE tlb_entry *tlb_ask(tlb_probe *p, uint64_t va, uint64_t space) {
    uint64_t page = va >> p->lg2, wanted = space | (uint64_t)p->lg2 << TLB_LG2_AT;
    uint32_t set = p->set = tlb_probe_set(p, page);
    switch (p->ways) {
    case 4:
        return tlb_probe_hit(p, 4, set, page, wanted);
    case 8:
        return tlb_probe_hit(p, 8, set, page, wanted);
    case 12:
        return tlb_probe_hit(p, 12, set, page, wanted);
    default:
        return tlb_probe_hit(p, p->ways, set, page, wanted);
    }
}

/* An entry read word by word. Who has just written it so must not wait for both words, as one wide load would:
 * measured, 4 of 44 ns per walk (bench/). */
PT_INLINE tlb_entry tlb_read(const tlb_entry *entry) {
    const volatile tlb_entry *words = entry;
    return (tlb_entry){words->pa, words->tag};
}

/* Puts an entry of the plan's size into the arrays above `level`, all of which were just asked and hold none. */
PT_INLINE void tlb_fill_plan(const tlb_plan *plan, const tlb_entry *entry, uint64_t va, unsigned level) {
    uint64_t page = va >> plan->lg2;
    tlb_entry held = tlb_read(entry);
    for (unsigned n = 0; n < plan->count && plan->probe[n].level < level; n++)
        tlb_probe_place(&plan->probe[n], plan->probe[n].ways, plan->probe[n].set, page, &held);
}

/* -- filling ---------------------------------------------------------------------------------------------- */

static void tlb_evicted(tlb *t, unsigned level, uint64_t page, const tlb_entry *gone);

PT_INLINE void tlb_store(tlb_array *a, size_t at, uint64_t page, const tlb_entry *entry) {
    unsigned lg2 = tlb_lg2(entry->tag);
    if (PT_UNLIKELY(!(a->seen >> lg2 & 1))) {
        a->seen |= (uint64_t)1 << lg2;
        *a->stale = 1;
    }
    *a->used += a->pages[at] == TLB_NO_PAGE;
    a->pages[at] = page;
    a->entries[at] = *entry;
}

/* Puts an entry into its set, in the place of an older copy, of nothing, or of what the policy gives up. */
static inline __attribute__((unused)) void tlb_put(tlb *t, tlb_array *a, uint64_t page, const tlb_entry *entry) {
    uint32_t set = tlb_set_number(a, page), slot;
    size_t row = (size_t)set * a->ways;
    for (slot = 0; slot < a->ways; slot++)
        if (a->pages[row + slot] == page && !((a->entries[row + slot].tag ^ entry->tag) & TLB_MATCHED))
            break;
    int copy = slot < a->ways;
    for (uint32_t n = 0; !copy && !tlb_ordered(a) && n < a->ways; n++)
        if (a->entries[row + n].tag == 0) {
            slot = n;
            break;
        }
    if (slot == a->ways)
        slot = tlb_given_up(t, a, set, a->ways);
    uint64_t page_gone = a->pages[row + slot];
    tlb_entry gone = a->entries[row + slot];
    tlb_store(a, row + slot, page, entry);
    if (copy)
        tlb_touch(a, set, a->ways, slot);
    else
        tlb_place(a, set, a->ways, slot);
    if (!copy && gone.tag != 0 && !t->plain)
        tlb_evicted(t, a->level, page_gone, &gone);
}

/* The same where the policy keeps an order, without an older copy: in the place of the oldest. */
PT_INLINE void tlb_replace(tlb_array *a, uint32_t ways, uint64_t page, const tlb_entry *entry) {
    uint32_t set = tlb_set_number(a, page), slot;
    size_t row = (size_t)set * ways;
    if (PT_LIKELY(ways <= TLB_WORD_SLOTS)) {
        slot = (uint32_t)(a->state[set] >> 4 * (ways - 1) & 15);
        a->state[set] = tlb_newest(a->state[set], slot);
    } else {
        slot = tlb_row_turned(a->rows + row, ways);
    }
    tlb_store(a, row + slot, page, entry);
}

/* Puts an entry that the array does not hold. */
PT_INLINE void tlb_push(tlb *t, tlb_array *a, uint64_t page, const tlb_entry *entry) {
    if (PT_UNLIKELY(!t->plain || !tlb_ordered(a)))
        tlb_put(t, a, page, entry);
    else if (a->ways == 4)
        tlb_replace(a, 4, page, entry);
    else if (a->ways == 12)
        tlb_replace(a, 12, page, entry);
    else
        tlb_replace(a, a->ways, page, entry);
}

/* Of arrays that share a page size, one takes a page: that of the address bits above those of its set. */
PT_INLINE int tlb_is_turn(const tlb_array *a, unsigned lg2, uint64_t page) {
    return a->turns[lg2] <= 1 || page / a->sets % a->turns[lg2] == a->turn[lg2];
}

/* The part of a page around `va` as which an array holds it; 0 if it holds none. */
PT_INLINE int tlb_piece(const tlb_array *a, const tlb_entry *entry, uint64_t va, tlb_entry *piece) {
    unsigned whole = tlb_lg2(entry->tag), lg2 = a->held_as[whole];
    *piece = *entry;
    if (PT_UNLIKELY(lg2 != whole)) {
        uint64_t inside = va & (((uint64_t)1 << whole) - 1);
        piece->pa = entry->pa + (inside >> lg2 << lg2);
        piece->tag = (entry->tag & ~((uint64_t)63 << TLB_LG2_AT)) | (uint64_t)lg2 << TLB_LG2_AT;
    }
    return lg2 != 0 && tlb_is_turn(a, lg2, va >> lg2);
}

/* Whether a level takes what a walk or a lower level brings; a victim or exclusive one takes evictions only. */
PT_INLINE int tlb_takes(const tlb *t, unsigned level) {
    return t->plain || t->level[level].inclusion <= TLB_INCLUSIVE;
}

/* Fills every level above `level` that serves this side of the CPU; a lookup of `va` just found that none of
 * them holds the entry. */
PT_INLINE void tlb_refill(tlb *t, const tlb_entry *entry, uint64_t va, unsigned side, unsigned level) {
    tlb_entry piece;
    t->recent = NULL;
    if (PT_LIKELY(t->simple && t->plan[side >> 1].lg2 == tlb_lg2(entry->tag))) {
        tlb_fill_plan(&t->plan[side >> 1], entry, va, level);
        return;
    }
    for (uint32_t n = 0; n < t->arrays && t->array[n].level < level; n++) {
        tlb_array *a = &t->array[n];
        if ((a->sides & side) && tlb_takes(t, a->level) && tlb_piece(a, entry, va, &piece))
            tlb_push(t, a, va >> tlb_lg2(piece.tag), &piece);
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
            tlb_put(t, a, va >> tlb_lg2(piece.tag), &piece);
    }
}

/* -- dropping --------------------------------------------------------------------------------------------- */

PT_INLINE void tlb_drop(tlb_array *a, uint32_t set, uint32_t slot) {
    size_t at = (size_t)set * a->ways + slot;
    --*a->used;
    a->pages[at] = TLB_NO_PAGE;
    a->entries[at] = (tlb_entry){0, 0};
    tlb_removed(a, set, slot);
}

PT_INLINE int tlb_meets(uint64_t page, uint64_t tag, uint64_t first, uint64_t last) {
    uint64_t start = page << tlb_lg2(tag), end = start + (tlb_bytes(tag) - 1);
    return tag != 0 && start <= last && end >= first;
}

PT_INLINE int tlb_is_chosen(const tlb_chosen *c, uint64_t page, uint64_t tag, uint64_t first, uint64_t last) {
    int whose = tlb_is_global(tag) ? c->globals && !((tag ^ c->value) & c->mask & TLB_SPACE & ~TLB_GLOBAL)
                                   : c->tagged && !((tag ^ c->value) & c->mask);
    uint64_t start = page << tlb_lg2(tag);
    return whose && tlb_meets(page, tag, first, last) &&
           !(c->larger_stay && (start < first || start + (tlb_bytes(tag) - 1) > last));
}

PT_INLINE uint64_t tlb_sweep_set(tlb_array *a, uint32_t set, uint64_t first, uint64_t last, const tlb_chosen *c) {
    uint64_t dropped = 0;
    for (uint32_t slot = 0; slot < a->ways; slot++) {
        size_t at = (size_t)set * a->ways + slot;
        if (tlb_is_chosen(c, a->pages[at], a->entries[at].tag, first, last)) {
            tlb_drop(a, set, slot);
            dropped++;
        }
    }
    return dropped;
}

/* The same for one page: entries of other sizes that meet it are found as pages of theirs. */
PT_INLINE uint64_t tlb_sweep_page(tlb_array *a, uint64_t page, uint64_t first, uint64_t last, const tlb_chosen *c) {
    uint64_t dropped = 0;
    uint32_t set = tlb_set_number(a, page);
    for (uint32_t slot = 0; slot < a->ways; slot++) {
        size_t at = (size_t)set * a->ways + slot;
        if (PT_UNLIKELY(a->pages[at] == page) && tlb_is_chosen(c, page, a->entries[at].tag, first, last)) {
            tlb_drop(a, set, slot);
            dropped++;
        }
    }
    return dropped;
}

/* Whether it holds nothing at all: there is then nothing recent, either. */
PT_INLINE int tlb_is_empty(const tlb *t) {
    uint32_t held = 0;
    for (uint32_t n = 0; n < TLB_MAX_ARRAYS; n++)
        held |= t->used[n];
    return held == 0;
}

/* Drops the chosen entries that meet [first, last]. Returns how many. */
static inline __attribute__((unused)) uint64_t tlb_invalidate(tlb *t, uint64_t first, uint64_t last,
                                                              const tlb_chosen *c) {
    uint64_t dropped = 0;
    t->recent = NULL;
    for (uint32_t n = 0; n < t->arrays; n++) {
        tlb_array *a = &t->array[n];
        for (unsigned s = 0; t->used[n] != 0 && s < a->sizes; s++) {
            uint64_t page = first >> a->page_lg2[s], end = last >> a->page_lg2[s];
            if (!(a->seen >> a->page_lg2[s] & 1))
                continue;
            if (end - page >= a->sets) { /* every set may hold some of it: sweep all, once */
                for (uint32_t set = 0; t->used[n] != 0 && set < a->sets; set++)
                    dropped += tlb_sweep_set(a, set, first, last, c);
                break;
            }
            for (;; page++) {
                dropped += tlb_sweep_page(a, page, first, last, c);
                if (page == end || t->used[n] == 0)
                    break;
            }
        }
    }
    return dropped;
}

/* Drops the chosen entries wherever they are. `level`: of that one only, TLB_MAX_LEVELS for all. */
static inline __attribute__((unused)) uint64_t tlb_invalidate_all(tlb *t, const tlb_chosen *c, unsigned level) {
    uint64_t dropped = 0;
    t->recent = NULL;
    for (uint32_t n = 0; n < t->arrays; n++) {
        tlb_array *a = &t->array[n];
        if ((level != TLB_MAX_LEVELS && a->level != level) || a->seen == 0)
            continue;
        for (uint32_t set = 0; t->used[n] != 0 && set < a->sets; set++)
            dropped += tlb_sweep_set(a, set, 0, UINT64_MAX, c);
        if (c->mask == 0 && c->globals && c->tagged) {
            a->seen = 0;
            t->stale = 1;
        }
    }
    return dropped;
}

/* Whether an entry of the page meets [first, last]. */
PT_INLINE int tlb_has_page(const tlb_array *a, uint64_t page, uint64_t first, uint64_t last) {
    size_t row = (size_t)tlb_set_number(a, page) * a->ways;
    for (uint32_t start = 0; start < a->ways; start += 16) {
        uint32_t left = a->ways - start < 16 ? a->ways - start : 16;
        uint32_t alike = tlb_alike(a->pages + row + start, left, page);
        for (; PT_UNLIKELY(alike != 0); alike &= alike - 1) {
            size_t at = row + start + (uint32_t)__builtin_ctz(alike);
            if (a->pages[at] == page && tlb_meets(page, a->entries[at].tag, first, last))
                return 1;
        }
    }
    return 0;
}

/* Whether an entry of so many pages from `page` on, one more than `others`, meets [first, last]: all slots are asked. */
PT_INLINE int tlb_has_any(const tlb_array *a, uint64_t page, uint64_t others, uint64_t first, uint64_t last) {
    size_t slots = (size_t)a->sets * a->ways;
    for (size_t start = 0; start < slots; start += 32) {
        size_t end = slots - start < 32 ? slots : start + 32;
        unsigned alike = 0; /* mostly none of a few dozen is, which takes no branch each to see */
        for (size_t slot = start; slot < end; slot++)
            alike |= a->pages[slot] - page <= others;
        for (size_t slot = start; PT_UNLIKELY(alike) && slot < end; slot++)
            if (a->pages[slot] - page <= others && tlb_meets(a->pages[slot], a->entries[slot].tag, first, last))
                return 1;
    }
    return 0;
}

/* Whether any entry meets [first, last]. */
static inline __attribute__((unused)) int tlb_holds(const tlb *t, uint64_t first, uint64_t last) {
    for (uint32_t n = 0; n < t->arrays; n++) {
        const tlb_array *a = &t->array[n];
        for (unsigned s = 0; t->used[n] != 0 && s < a->sizes; s++) {
            uint64_t page = first >> a->page_lg2[s], end = last >> a->page_lg2[s];
            if (!(a->seen >> a->page_lg2[s] & 1))
                continue;
            if (end - page >= a->sets) { /* every set may hold some of it */
                if (tlb_has_any(a, page, end - page, first, last))
                    return 1;
                continue;
            }
            for (;; page++) {
                if (tlb_has_page(a, page, first, last))
                    return 1;
                if (page == end)
                    break;
            }
        }
    }
    return 0;
}

/* What a level gives up: an exclusive or victim level below takes it; an inclusive one loses it above too. */
static void tlb_evicted(tlb *t, unsigned level, uint64_t page, const tlb_entry *gone) {
    unsigned below = level + 1;
    uint64_t va = page << tlb_lg2(gone->tag);
    tlb_entry piece;
    if (t->level[level].inclusion == TLB_INCLUSIVE) {
        tlb_chosen same = {TLB_SPACE, gone->tag & TLB_SPACE, tlb_is_global(gone->tag), 1, 0};
        for (uint32_t n = 0; n < t->arrays && t->array[n].level < level; n++)
            for (uint32_t set = 0; set < t->array[n].sets; set++)
                tlb_sweep_set(&t->array[n], set, va, va + (tlb_bytes(gone->tag) - 1), &same);
    }
    if (below >= t->levels || t->level[below].inclusion <= TLB_INCLUSIVE)
        return;
    for (uint32_t n = 0; n < t->arrays; n++)
        if (t->array[n].level == below && tlb_piece(&t->array[n], gone, va, &piece))
            tlb_put(t, &t->array[n], va >> tlb_lg2(piece.tag), &piece);
}

/* Makes room for a space in the levels that keep only a few: the one unused for longest loses its entries. */
static inline __attribute__((unused)) void tlb_switch(tlb *t, uint64_t space) {
    t->space = space;
    t->recent = NULL;
    for (uint32_t n = 0; n < t->levels; n++) {
        tlb_level *l = &t->level[n];
        uint32_t at = 0;
        if (!l->live)
            continue;
        while (at < l->known && l->space[at] != space)
            at++;
        if (at == l->known && l->known == l->live) {
            tlb_chosen oldest = {TLB_SPACE, l->space[--at], 0, 1, 0};
            tlb_invalidate_all(t, &oldest, n);
        } else if (at == l->known) {
            l->known++;
        }
        for (; at > 0; at--)
            l->space[at] = l->space[at - 1];
        l->space[0] = space;
    }
}

/* An exclusive level hands the entry that served `va` over to those above it. */
static inline __attribute__((unused)) tlb_entry *tlb_hand_over(tlb *t, tlb_array *a, tlb_entry *found, uint64_t va,
                                                               unsigned side) {
    uint32_t at = (uint32_t)(found - a->entries);
    t->leaving = *found;
    tlb_drop(a, at / a->ways, at % a->ways);
    tlb_refill(t, &t->leaving, va, side, a->level);
    return &t->leaving;
}

/* What a hit leaves behind: the levels above have it too, and the first remembers it. */
PT_INLINE tlb_entry *tlb_found(tlb *t, tlb_entry *found, uint64_t va, uint64_t space, unsigned side, unsigned level) {
    if (level != 0) {
        t->leaving = *found; /* a refill may give the very slot to another */
        tlb_refill(t, &t->leaving, va, side, level);
        return &t->leaving;
    }
    t->recent = found;
    t->recent_page = va >> t->smallest_lg2;
    t->recent_space = space;
    t->recent_side = (uint8_t)side;
    return found;
}

/* The entry that serves `va` on a side of the CPU, or NULL; *level is the level that had it. */
PT_INLINE tlb_entry *tlb_lookup(tlb *t, uint64_t va, uint64_t space, unsigned side, unsigned *level) {
    *level = 0;
    if (t->recent != NULL && va >> t->smallest_lg2 == t->recent_page && space == t->recent_space &&
        side == t->recent_side)
        return t->recent;
    if (PT_LIKELY(t->simple)) {
        if (PT_UNLIKELY(t->stale))
            tlb_make_plans(t);
        tlb_plan *plan = &t->plan[side >> 1];
        for (unsigned n = 0; n < plan->count; n++) {
            tlb_entry *found = tlb_ask(&plan->probe[n], va, space);
            if (found != NULL) {
                *level = plan->probe[n].level;
                return tlb_found(t, found, va, space, side, *level);
            }
        }
        return NULL;
    }
    if (!t->plain && space != t->space)
        tlb_switch(t, space);
    for (uint32_t n = 0; n < t->arrays; n++) {
        tlb_array *a = &t->array[n];
        tlb_entry *found = a->sides & side ? tlb_find(a, va, space) : NULL;
        if (found == NULL)
            continue;
        *level = a->level;
        if (*level && !t->plain && t->level[*level].inclusion == TLB_EXCLUSIVE)
            return tlb_hand_over(t, a, found, va, side);
        return tlb_found(t, found, va, space, side, *level);
    }
    return NULL;
}
#endif
