/* The walk: one step, and the two orders in which steps are taken. No masking here: decode.h does that.
 *
 * pt_walk_one goes down depth first. pt_walk_block takes a block of addresses level by level, so that
 * the loads of different walks overlap when tables are not in the cache. Both end because the level
 * falls with every step and level 0 has no tables. */
#ifndef PT_WALK_H
#define PT_WALK_H
#include "decode.h"

#define PT_BLOCK 64

/* Reads the item of `ia` at `level`. Returns PT_DOWN with *table moved to the next table, or the status
 * the walk ends with; *oa is set only for PT_OK. `need` and `path` may be NULL. */
PT_INLINE int pt_step(const pt_format *f, const pt_space *s, const pt_need *need, int level, uint64_t ia,
                      uint64_t *table, pt_item *withheld, uint64_t *oa, pt_path *path) {
    uint64_t at = pt_item_at(f, *table, pt_index(f, level, ia));
    const uint8_t *bytes = pt_at(s->memory, at, pt_entry_bytes(f));
    if (PT_UNLIKELY(bytes == NULL))
        return PT_BUS;
    pt_item item = pt_load(f, bytes);
    int kind = pt_kind(f, level, item);
    if (path != NULL)
        path->step[path->count++] = (pt_step_read){*table, at, item, (uint8_t)level, (uint8_t)kind};
    if (kind == PT_EMPTY)
        return PT_NOT_PRESENT;
    if (PT_UNLIKELY(kind == PT_RESERVED || pt_breaks_zero(&s->rules, level, kind, item)))
        return PT_RESERVED_BITS;
    if (need != NULL)
        *withheld |= pt_withheld(f, need, level, kind, item);
    if (kind == PT_TABLE) {
        *table = pt_output(f, &s->rules, level, kind, item);
        return PT_DOWN;
    }
    /* Rights are judged when the walk is over: a fault further down would have won. */
    if (need != NULL && PT_UNLIKELY(*withheld != 0))
        return PT_PERMISSION;
    *oa = pt_output(f, &s->rules, level, kind, item) | (ia & pt_offset_mask(f, level));
    return PT_OK;
}

PT_INLINE int pt_walk_one(const pt_format *f, const pt_space *s, const pt_need *need, uint64_t ia, uint64_t *oa,
                          pt_path *path) {
    uint64_t table = s->root;
    pt_item withheld = 0;
    int status = PT_NOT_CANONICAL, level = f->top;
    *oa = PT_ALL_ONES;
    if (path != NULL)
        path->count = 0;
    if (PT_LIKELY(!s->rules.check_input || pt_legal_input(f, ia))) {
        status = PT_DOWN;
#pragma GCC unroll 6
        for (int step = 0; step < PT_MAX_LEVELS; step++) {
            level = f->top - step;
            status = pt_step(f, s, need, level, ia, &table, &withheld, oa, path);
            if (status != PT_DOWN)
                break;
        }
    }
    if (path != NULL) {
        path->status = (uint8_t)status;
        path->level = (uint8_t)level;
        path->table = table;
    }
    return status;
}

/* At most PT_BLOCK addresses. */
PT_INLINE void pt_walk_block(const pt_format *f, const pt_space *s, const pt_need *need, const uint64_t *ias,
                             uint64_t *oas, uint8_t *statuses, int n) {
    uint64_t table[PT_BLOCK];
    pt_item withheld[PT_BLOCK];
    uint8_t live[PT_BLOCK];
    int count = 0;
    for (int i = 0; i < n; i++) {
        oas[i] = PT_ALL_ONES;
        table[i] = s->root;
        withheld[i] = 0;
        statuses[i] = PT_NOT_CANONICAL;
        live[count] = (uint8_t)i;
        count += !s->rules.check_input || pt_legal_input(f, ias[i]);
    }
#pragma GCC unroll 6
    for (int step = 0; step < PT_MAX_LEVELS; step++) {
        int level = f->top - step, left = 0;
        if (level < 0 || count == 0)
            break;
        for (int j = 0; j < count; j++)
            __builtin_prefetch(pt_at(s->memory, pt_item_at(f, table[live[j]], pt_index(f, level, ias[live[j]])),
                                     pt_entry_bytes(f)));
        for (int j = 0; j < count; j++) {
            int i = live[j];
            int status = pt_step(f, s, need, level, ias[i], &table[i], &withheld[i], &oas[i], NULL);
            statuses[i] = (uint8_t)status;
            live[left] = (uint8_t)i;
            left += status == PT_DOWN;
        }
        count = left;
    }
}
#endif
