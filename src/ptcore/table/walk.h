/* The walk: one step, and the two orders in which steps are taken. No masking here: decode.h does that.
 *
 * pt_walk_one goes down depth first. pt_walk_block takes a block of addresses level by level, so that
 * the loads of different walks overlap when tables are not in the cache. Both end because the level
 * falls with every step and level 0 has no tables. */
#ifndef PT_WALK_H
#define PT_WALK_H
#include "decode.h"

#define PT_BLOCK 64

/* Where a walk stands: the table, the level that it is at, the rights along the path. */
typedef struct {
    uint64_t table;
    int level;
    unsigned rights;
} pt_place;

PT_INLINE pt_place pt_start(const pt_space *s, const pt_format *f) {
    return (pt_place){s->root, f->top, f->rights};
}

/* Goes on with a table or leaf item that breaks no rule, of a kind and shape that the caller knows. */
PT_INLINE int pt_follow(const pt_format *f, const pt_space *s, const pt_need *need, int level, uint64_t ia,
                        pt_item item, int kind, int shape, pt_place *here, uint64_t *oa) {
    if (need != NULL)
        here->rights = pt_rights_with(f, level, shape, item, here->rights);
    if (kind == PT_TABLE) {
        here->table = pt_output(f, &s->rules, level, shape, item);
        here->level = level - 1;
        if (f->has_skips) {
            here->level = pt_next_level(f, level, item);
            /* The index bits that are skipped must be 0: nothing is mapped elsewhere. */
            if ((ia & pt_offset_mask(f, level) & ~pt_reach_mask(f, here->level)) != 0)
                return PT_NOT_PRESENT;
        }
        return PT_DOWN;
    }
    /* Rights are judged when the walk is over: a fault further down would have won. */
    if (need != NULL) {
        int judged = pt_judge(f, need, level, shape, item, here->rights);
        if (PT_UNLIKELY(judged != PT_OK))
            return judged;
    }
    *oa = pt_leaf_output(f, &s->rules, level, shape, item, ia);
    return PT_OK;
}

PT_INLINE void pt_note_step(pt_path *path, const pt_place *here, int level, uint64_t at, pt_item item, int kind,
                            int shape) {
    if (path != NULL)
        path->step[path->count++] =
            (pt_step_read){here->table, at, item, (uint8_t)level, (uint8_t)kind, (uint8_t)shape};
}

/* Goes on with an item that was read. Returns PT_DOWN with *here moved to the next table, or the status
 * that the walk ends with; *oa is set only for PT_OK. `need` and `path` may be NULL. The usual item has code of
 * its own, in which its kind and shape are constants. */
PT_INLINE int pt_take(const pt_format *f, const pt_space *s, const pt_need *need, int level, uint64_t ia, uint64_t at,
                      pt_item item, pt_place *here, uint64_t *oa, pt_path *path) {
    int kind = pt_usual_kind(level), shape = pt_usual_shape(level);
    if (PT_LIKELY(pt_is_usual(f, &s->rules, level, item))) {
        if (path != NULL && kind == PT_LEAF && f->level[level].shapes > 2)
            shape = pt_leaf_shape(f, level, item); /* a usual leaf may have another shape of the same bits */
        pt_note_step(path, here, level, at, item, kind, shape);
        return pt_follow(f, s, need, level, ia, item, kind, shape, here, oa);
    }
    kind = pt_kind(f, level, item);
    shape = pt_shape_of(f, level, kind, item);
    pt_note_step(path, here, level, at, item, kind, shape);
    if (kind == PT_EMPTY)
        return PT_NOT_PRESENT;
    if (kind == PT_RESERVED)
        return f->unknown_status;
    if (pt_breaks_rule(f, &s->rules, level, shape, item))
        return pt_broken_status(f, &s->rules, level, shape, item);
    if (kind == PT_LEAF && pt_lacks_accessed(f, level, shape, item))
        return PT_ACCESS_FLAG;
    return pt_follow(f, s, need, level, ia, item, kind, shape, here, oa);
}

/* Reads the item of `ia` at `level`, which is where *here is, and goes on with it. */
PT_INLINE int pt_step(const pt_format *f, const pt_space *s, const pt_need *need, int level, uint64_t ia,
                      pt_place *here, uint64_t *oa, pt_path *path) {
    uint64_t at = pt_item_at(f, here->table, pt_index(f, level, ia));
    uint64_t offset = at - s->memory->flat_start;
    const uint8_t *bytes = s->memory->flat + offset;
    if (PT_UNLIKELY(offset >= s->memory->flat_room)) {
        bytes = pt_at_any(s->memory, at, pt_entry_bytes(f));
        if (bytes == NULL)
            return PT_BUS;
    }
    return pt_take(f, s, need, level, ia, at, pt_load(f, bytes), here, oa, path);
}

/* Where the last walk of a batch stood when it came to PT_HINT_LEVEL: the next one, if it would come
 * the same way, starts there. Neighbours in a batch mostly do. */
#define PT_HINT_LEVEL 1

typedef struct {
    uint64_t ia;
    pt_place here;
    int set;
} pt_hint;

PT_INLINE int pt_comes_the_same_way(const pt_format *f, const pt_hint *hint, uint64_t ia) {
    return hint->set && ((ia ^ hint->ia) >> f->level[PT_HINT_LEVEL + 1].shift) == 0;
}

PT_INLINE int pt_walk_one(const pt_format *f, const pt_space *s, const pt_need *need, uint64_t ia, uint64_t *oa,
                          pt_path *path, pt_hint *hint) {
    pt_place here = pt_start(s, f);
    int status = PT_DOWN, level = f->top;
    *oa = PT_ALL_ONES;
    if (path != NULL)
        path->count = 0;
    if (f->top <= PT_HINT_LEVEL || f->has_skips)
        hint = NULL;
    if (hint != NULL && PT_LIKELY(pt_comes_the_same_way(f, hint, ia))) {
        here = hint->here;
    } else {
        if (PT_UNLIKELY(s->rules.check_input && !pt_legal_input(f, &s->rules, ia)))
            status = PT_NOT_CANONICAL;
#pragma GCC unroll 6
        for (int step = 0; step < PT_MAX_LEVELS; step++) {
            if (f->top - step <= PT_HINT_LEVEL || status != PT_DOWN)
                break;
            if (f->has_skips && here.level != f->top - step)
                continue;
            level = f->top - step;
            status = pt_step(f, s, need, level, ia, &here, oa, path);
        }
        if (hint != NULL && status == PT_DOWN)
            *hint = (pt_hint){ia, here, 1};
    }
#pragma GCC unroll 2
    for (int lower = PT_HINT_LEVEL; lower >= 0; lower--) {
        if (lower <= f->top && PT_LIKELY(status == PT_DOWN) && (!f->has_skips || here.level == lower)) {
            level = lower;
            status = pt_step(f, s, need, lower, ia, &here, oa, path);
        }
    }
    if (path != NULL) {
        path->status = (uint8_t)status;
        path->level = (uint8_t)level;
        path->table = here.table;
    }
    return status;
}

/* Asks for the item of `ia` in `table`. Unchecked: a prefetch of a wild address does nothing. */
PT_INLINE void pt_prefetch(const pt_format *f, const pt_space *s, int level, uint64_t ia, uint64_t table) {
    uint64_t at = pt_item_at(f, table, pt_index(f, level, ia));
    __builtin_prefetch((const void *)((uintptr_t)s->memory->flat + (uintptr_t)(at - s->memory->flat_start)));
}

/* At most PT_BLOCK addresses of a format without skips: all are at one level at a time. */
PT_INLINE void pt_walk_block(const pt_format *f, const pt_space *s, const pt_need *need, const uint64_t *ias,
                             uint64_t *oas, uint8_t *statuses, int n) {
    pt_place here[PT_BLOCK];
    uint8_t live[PT_BLOCK];
    int count = 0;
    for (int i = 0; i < n; i++) {
        oas[i] = PT_ALL_ONES;
        here[i] = pt_start(s, f);
        statuses[i] = PT_NOT_CANONICAL;
        live[count] = (uint8_t)i;
        count += !s->rules.check_input || pt_legal_input(f, &s->rules, ias[i]);
    }
#pragma GCC unroll 6
    for (int step = 0; step < PT_MAX_LEVELS; step++) {
        int level = f->top - step, left = 0;
        if (level < 0 || count == 0)
            break;
        for (int j = 0; j < count; j++) {
            int i = live[j];
            int status = pt_step(f, s, need, level, ias[i], &here[i], &oas[i], NULL);
            statuses[i] = (uint8_t)status;
            if (level > 0 && PT_LIKELY(status == PT_DOWN)) {
                pt_prefetch(f, s, level - 1, ias[i], here[i].table);
                live[left++] = (uint8_t)i;
            }
        }
        count = left;
    }
}
#endif
