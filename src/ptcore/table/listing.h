/* The rows of a listing, and the loop that writes those of a table at level 0. */
#ifndef PT_LISTING_H
#define PT_LISTING_H
#include "walk.h"

/* rows.RowKind and rows.Flag, number for number (tests/ptcore/table/test_listing.py). */
enum { PT_ROW_LEAF = 2, PT_ROW_RESERVED = 3, PT_ROW_REPEAT = 4, PT_ROW_OUTSIDE = 5 };
enum { PT_ROW_GLOBAL = 1, PT_ROW_ENCRYPTED = 2, PT_ROW_UNACCESSED = 4 };

/* rows.ROW_DTYPE, field for field. */
typedef struct {
    uint64_t first, last, pa, page_size, repeat_of;
    uint16_t software;
    uint8_t rights, memory_type, pkey, flags, kind, level;
} pt_row;

typedef struct {
    pt_row *rows;
    size_t count, room;
    /* What the last leaf's row was made from, to see at once that the next leaf says the same: its lasting bits,
     * and the rights along its path with its shape above them. */
    pt_item attributes;
    unsigned shaped;
} pt_listing;

PT_INLINE int pt_is_lawful_leaf(const pt_format *f, const pt_space *s, pt_item item) {
    if (f->level[0].shapes == 2 && !f->accessed_required && PT_LIKELY(pt_is_usual(f, &s->rules, 0, item)))
        return 1;
    return pt_kind(f, 0, item) == PT_LEAF && pt_leaf_shape(f, 0, item) == 1 &&
           !pt_breaks_rule(f, &s->rules, 0, 1, item);
}

/* How many items are plain leaves that a listing would merge: these lasting bits, addresses from `oa` on. */
PT_INLINE size_t pt_leaf_run(const pt_format *f, const pt_space *s, const uint8_t *bytes, size_t count,
                             pt_item lasting, uint64_t oa) {
    size_t n = 0;
    for (; n < count; n++, oa += pt_leaf_bytes(f, 0)) {
        pt_item item = pt_load(f, bytes + (n << f->entry_lg2));
        if (!pt_is_lawful_leaf(f, s, item) || pt_lasting(f, &s->rules, 0, 1, item) != lasting ||
            pt_output(f, &s->rules, 0, 1, item) != oa)
            break;
    }
    return n;
}

/* Whether row `b` only carries row `a` on: the same of their pages, but for where they are. */
PT_INLINE int pt_goes_on(const pt_row *a, const pt_row *b) {
    if (a->kind != b->kind || a->page_size != b->page_size || a->rights != b->rights ||
        a->memory_type != b->memory_type || a->pkey != b->pkey || a->flags != b->flags ||
        a->software != b->software || a->level != b->level)
        return 0;
    if (a->last == PT_ALL_ONES || b->first != a->last + 1)
        return 0;
    if (a->kind == PT_ROW_LEAF)
        return b->pa == a->pa + (b->first - a->first);
    return b->repeat_of == a->repeat_of && b->pa == a->pa;
}

/* Appends a row, or lets the last one take it in. There must be room for one. */
PT_INLINE void pt_add_row(pt_listing *l, const pt_row *row) {
    if (l->count && pt_goes_on(&l->rows[l->count - 1], row))
        l->rows[l->count - 1].last = row->last;
    else
        l->rows[l->count++] = *row;
}

PT_INLINE pt_row pt_row_of_leaf(const pt_format *f, const pt_space *s, int level, int shape, pt_item item,
                                unsigned rights) {
    const pt_layout *layout = pt_layout_of(f, level, shape);
    pt_row row = {.page_size = 1ull << pt_entry_size_lg2(f, level, shape), .repeat_of = PT_ALL_ONES};
    row.kind = PT_ROW_LEAF;
    row.level = (uint8_t)level;
    row.rights = (uint8_t)pt_rights_with(f, level, shape, item, rights);
    row.memory_type = (uint8_t)pt_number(layout->memory_type, item);
    row.pkey = (uint8_t)pt_number(layout->protection_key, item);
    row.software = (uint16_t)pt_number(layout->software, item);
    if (pt_is_global(f, level, shape, item))
        row.flags |= PT_ROW_GLOBAL;
    if (pt_any(pt_kept_aside(f, &s->rules, level, shape, item)))
        row.flags |= PT_ROW_ENCRYPTED;
    if (pt_lacks_accessed(f, level, shape, item))
        row.flags |= PT_ROW_UNACCESSED;
    return row;
}

/* Lists a leaf that maps `first` to `last`; returns whether it is one more page of the last row. There must be
 * room for one row. */
PT_INLINE int pt_list_leaf(const pt_format *f, const pt_space *s, pt_listing *l, int level, int shape, pt_item item,
                           unsigned rights, uint64_t first, uint64_t last) {
    uint64_t pa = pt_leaf_output(f, &s->rules, level, shape, item, first);
    pt_item attributes = pt_lasting(f, &s->rules, level, shape, item);
    unsigned shaped = rights | (unsigned)shape << 8;
    pt_row *before = l->rows + (l->count ? l->count - 1 : 0);
    if (PT_LIKELY(l->count != 0 && shaped == l->shaped && attributes == l->attributes &&
                  before->kind == PT_ROW_LEAF && before->level == level)) {
        if (before->pa + (first - before->first) == pa && before->last + 1 == first && before->last != PT_ALL_ONES) {
            before->last = last;
            return 1;
        }
        if (level == 0 && shape == 1) { /* the same of another page */
            before[1] = *before;
            before[1].first = first;
            before[1].last = last;
            before[1].pa = pa;
            l->count++;
            return 0;
        }
    }
    pt_row row = pt_row_of_leaf(f, s, level, shape, item, rights);
    row.first = first;
    row.last = last;
    row.pa = pa;
    l->attributes = attributes;
    l->shaped = shaped;
    pt_add_row(l, &row);
    return 0;
}

#define PT_LISTED_AT_ONCE 32

/* Which of the next items are not empty, as bits. Where leaves lie at random, a branch per item would be
 * mispredicted every other time. */
PT_INLINE uint32_t pt_not_empty(const pt_format *f, const uint8_t *bytes, size_t count) {
    uint32_t found = 0;
    for (size_t n = 0; n < count; n++)
        found |= (uint32_t)!pt_is_empty(f, pt_load(f, bytes + (n << f->entry_lg2))) << n;
    return found;
}

/* Lists `count` items at level 0, the first of which maps from `first` on (within its page) and the last all of
 * its page; returns how many it got through before something that is neither empty nor a plain lawful leaf.
 * There must be room for as many rows. */
PT_INLINE size_t pt_list_leaves(const pt_format *f, const pt_space *s, const uint8_t *bytes, size_t count,
                                unsigned rights, uint64_t first, pt_listing *l) {
    uint64_t mask = pt_offset_mask(f, 0), start = first & ~mask;
    size_t n = 0;
    while (n < count) {
        size_t some = count - n;
        uint32_t ahead;
        if (PT_LIKELY(some >= PT_LISTED_AT_ONCE)) {
            some = PT_LISTED_AT_ONCE;
            ahead = pt_not_empty(f, bytes + (n << f->entry_lg2), PT_LISTED_AT_ONCE);
        } else {
            ahead = pt_not_empty(f, bytes + (n << f->entry_lg2), some);
        }
        size_t next = n + some;
        for (; ahead != 0; ahead &= ahead - 1) {
            size_t at = n + (size_t)__builtin_ctz(ahead);
            pt_item item = pt_load(f, bytes + (at << f->entry_lg2));
            uint64_t from = at ? start + at * (mask + 1) : first;
            if (PT_UNLIKELY(!pt_is_lawful_leaf(f, s, item)))
                return at;
            if (pt_list_leaf(f, s, l, 0, 1, item, rights, from, from | mask)) {
                /* Two in a row: most often many more. */
                pt_row *row = &l->rows[l->count - 1];
                next = at + 1;
                size_t run = pt_leaf_run(f, s, bytes + (next << f->entry_lg2), count - next, l->attributes,
                                         row->pa + (row->last - row->first + 1));
                row->last += run * (mask + 1);
                next += run;
                break;
            }
        }
        n = next;
    }
    return count;
}
#endif
