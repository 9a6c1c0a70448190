/* Batches of lookups in a TLB alone: what is not there is brought in as one entry says, at its page. */
#ifndef PT_TLB_BATCH_H
#define PT_TLB_BATCH_H
#include "tlb.h"

/* The code of a lookup that no level served. */
#define TLB_MISS 254

PT_INLINE uint8_t tlb_serve(tlb *t, uint64_t va, unsigned side, const tlb_entry *entry) {
    unsigned level;
    if (tlb_lookup(t, va, entry->tag & TLB_SPACE, side, &level) != NULL)
        return (uint8_t)level;
    tlb_entry made = {va & ~(tlb_bytes(entry->tag) - 1), entry->tag};
    tlb_refill(t, &made, va, side, TLB_MAX_LEVELS);
    return TLB_MISS;
}

/* A plan of two arrays that holds pages of one size, as most of it is: in one loop, with the ways of both known to
 * the compiler, or not, and all that it reads of the plan in registers. The upper array takes its entry before the
 * lower one is asked. */
PT_INLINE void tlb_serve_two(const tlb_plan *plan, uint32_t upper_ways, uint32_t lower_ways, int folds,
                             const uint64_t *vas, size_t count, tlb_entry entry, uint8_t *restrict out) {
    tlb_probe upper = plan->probe[0], lower = plan->probe[1];
    unsigned lg2 = plan->lg2;
    upper.fold = folds ? upper.fold : TLB_NO_FOLD;
    lower.fold = folds ? lower.fold : TLB_NO_FOLD;
    uint64_t wanted = entry.tag & TLB_MATCHED;
    for (size_t n = 0; n < count; n++) {
        uint64_t page = vas[n] >> lg2;
        size_t set = tlb_probe_set(&upper, page);
        if (tlb_probe_hit(&upper, upper_ways, set, page, wanted) != NULL) {
            out[n] = upper.level;
            while (n + 1 < count && vas[n + 1] >> lg2 == page)
                out[++n] = upper.level;
            continue;
        }
        tlb_entry made = {page << lg2, entry.tag};
        tlb_entry *above = tlb_probe_place(&upper, upper_ways, set, page, &made);
        set = tlb_probe_set(&lower, page);
        tlb_entry *found = tlb_probe_hit(&lower, lower_ways, set, page, wanted);
        if (found != NULL) {
            out[n] = lower.level;
            *above = *found;
            continue;
        }
        out[n] = TLB_MISS;
        tlb_probe_place(&lower, lower_ways, set, page, &made);
    }
}

static void tlb_serve_plan(const tlb_plan *plan, const uint64_t *vas, size_t count, tlb_entry entry, uint8_t *out) {
    uint32_t upper = plan->probe[0].ways, lower = plan->probe[1].ways;
    int folds = plan->probe[0].fold != TLB_NO_FOLD || plan->probe[1].fold != TLB_NO_FOLD;
    if (!folds && upper == 4 && lower == 12)
        tlb_serve_two(plan, 4, 12, 0, vas, count, entry, out);
    else if (!folds && upper == 4 && lower == 8)
        tlb_serve_two(plan, 4, 8, 0, vas, count, entry, out);
    else
        tlb_serve_two(plan, upper, lower, 1, vas, count, entry, out);
}

/* Serves a batch; `side` is 0 where `sides` says it of each. */
static inline __attribute__((unused)) void tlb_serve_many(tlb *t, const uint64_t *vas, const uint8_t *sides,
                                                          unsigned side, size_t count, tlb_entry entry,
                                                          uint8_t *out) {
    const tlb_plan *plan = &t->plan[side >> 1];
    size_t n = 0;
    for (; side == 0 && n < count; n++)
        out[n] = tlb_serve(t, vas[n], sides[n], &entry);
    for (; n < count; n++) {
        if (t->simple && !t->stale && plan->count == 2 && plan->lg2 == tlb_lg2(entry.tag))
            break;
        out[n] = tlb_serve(t, vas[n], side, &entry);
    }
    if (n < count) {
        t->recent = NULL;
        tlb_serve_plan(plan, vas + n, count - n, entry, out + n);
    }
}
#endif
