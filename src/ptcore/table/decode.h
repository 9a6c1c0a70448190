/* What one item means, and its inverse. The only place that masks an item.
 *
 * Every function is a few lines, always inlined, and takes the format as a constant where the caller
 * has one: then the masks fold into the code. Measured in bench/ against the same code over a struct
 * that is only known at run time. */
#ifndef PT_DECODE_H
#define PT_DECODE_H
#include "abi.h"
#include <string.h>

PT_INLINE uint64_t pt_entry_bytes(const pt_format *f) { return 1ull << f->entry_lg2; }

/* Bytes that a plain leaf, so one item, at `level` maps. */
PT_INLINE uint64_t pt_leaf_bytes(const pt_format *f, int level) { return 1ull << f->level[level].shift; }

PT_INLINE uint64_t pt_offset_mask(const pt_format *f, int level) { return pt_leaf_bytes(f, level) - 1; }

PT_INLINE uint64_t pt_item_count(const pt_format *f, int level) { return 1ull << f->level[level].bits; }

PT_INLINE uint64_t pt_table_bytes(const pt_format *f, int level) {
    return pt_item_count(f, level) << f->entry_lg2;
}

PT_INLINE uint64_t pt_index(const pt_format *f, int level, uint64_t ia) {
    return (ia >> f->level[level].shift) & (pt_item_count(f, level) - 1);
}

PT_INLINE uint64_t pt_item_at(const pt_format *f, uint64_t table, uint64_t index) {
    return table + (index << f->entry_lg2);
}

/* All ones where an input address of the format has bits. */
PT_INLINE uint64_t pt_address_mask(const pt_format *f) { return PT_ALL_ONES >> (64 - f->address_bits); }

/* `ia` without its ignored top bits: they read as the highest bit below them. */
PT_INLINE uint64_t pt_untagged(const pt_rules *r, uint64_t ia) {
    return (uint64_t)((int64_t)(ia << r->tag_bits) >> r->tag_bits);
}

/* The input address that index bits `ia` stand for, with the bits above the top index as the rule has them. */
PT_INLINE uint64_t pt_full_input(const pt_format *f, uint64_t ia) {
    unsigned above = f->input_bits;
    if (above >= 64 || f->address_rule == PT_ZERO_EXTENDED)
        return ia;
    if (f->address_rule == PT_UPPER_ONLY)
        return (ia | (PT_ALL_ONES << above)) & pt_address_mask(f);
    return (uint64_t)((int64_t)(ia << (64 - above)) >> (64 - above));
}

/* Whether the format translates `ia`: the bits above the top index obey its address rule. */
PT_INLINE int pt_legal_input(const pt_format *f, const pt_rules *r, uint64_t ia) {
    unsigned above = f->input_bits;
    ia = pt_untagged(r, ia);
    if (above >= 64)
        return 1;
    if (f->address_rule == PT_ZERO_EXTENDED)
        return ia >> above == 0;
    if (f->address_rule == PT_UPPER_ONLY)
        return ia >> above == pt_address_mask(f) >> above;
    return pt_full_input(f, ia) == ia;
}

PT_INLINE pt_item pt_load(const pt_format *f, const uint8_t *at) {
    if (f->entry_lg2 == 3) {
        uint64_t item;
        memcpy(&item, at, 8);
        return f->swap_bytes ? __builtin_bswap64(item) : item;
    }
    if (f->entry_lg2 == 2) {
        uint32_t item;
        memcpy(&item, at, 4);
        return f->swap_bytes ? __builtin_bswap32(item) : item;
    }
    uint64_t first, second;
    memcpy(&first, at, 8);
    memcpy(&second, at + 8, 8);
    return f->swap_bytes ? PT_WIDE(__builtin_bswap64(first), __builtin_bswap64(second)) : PT_WIDE(second, first);
}

PT_INLINE void pt_store(const pt_format *f, uint8_t *at, pt_item item) {
    if (f->entry_lg2 == 3) {
        uint64_t word = f->swap_bytes ? __builtin_bswap64((uint64_t)item) : (uint64_t)item;
        memcpy(at, &word, 8);
    } else if (f->entry_lg2 == 2) {
        uint32_t word = f->swap_bytes ? __builtin_bswap32((uint32_t)item) : (uint32_t)item;
        memcpy(at, &word, 4);
    } else {
        uint64_t low = (uint64_t)item, high = (uint64_t)(item >> 64);
        uint64_t first = f->swap_bytes ? __builtin_bswap64(high) : low;
        uint64_t second = f->swap_bytes ? __builtin_bswap64(low) : high;
        memcpy(at, &first, 8);
        memcpy(at + 8, &second, 8);
    }
}

PT_INLINE int pt_matches(pt_match match, pt_item item) { return (item & match.mask) == match.value; }

PT_INLINE int pt_is_empty(const pt_format *f, pt_item item) { return pt_matches(f->empty, item); }

/* Which shape of leaf an item has, if any; 0: none. */
PT_INLINE int pt_leaf_shape(const pt_format *f, int level, pt_item item) {
    const pt_level *l = &f->level[level];
    if (!pt_matches(l->leaf_when[0], item) && !pt_matches(l->leaf_when[1], item))
        return 0;
    for (int shape = 1; shape < l->shapes; shape++)
        if (pt_matches(l->shape[shape].match, item))
            return shape;
    return 0;
}

/* The level of the table that a table item at `level` points to; -1 for an item that is none. */
PT_INLINE int pt_next_level(const pt_format *f, int level, pt_item item) {
    if (pt_matches(f->level[level].shape[0].match, item))
        return level - 1;
    if (f->has_skips)
        for (int next = level - 1; next >= 0; next--)
            if (pt_matches(f->level[level].skip[next], item))
                return next;
    return -1;
}

/* EMPTY, TABLE, LEAF or RESERVED, asked in this order: a table of some formats would pass for a leaf. */
PT_INLINE int pt_kind(const pt_format *f, int level, pt_item item) {
    if (pt_is_empty(f, item))
        return PT_EMPTY;
    if (pt_next_level(f, level, item) >= 0)
        return PT_TABLE;
    return pt_leaf_shape(f, level, item) ? PT_LEAF : PT_RESERVED;
}

/* The shape of an item of this kind. */
PT_INLINE int pt_shape_of(const pt_format *f, int level, int kind, pt_item item) {
    return kind == PT_LEAF ? pt_leaf_shape(f, level, item) : 0;
}

/* The index bits that a table reaches when it lies at level `next`, below `level`. */
PT_INLINE uint64_t pt_reach_mask(const pt_format *f, int next) {
    return (pt_leaf_bytes(f, next) << f->level[next].bits) - 1;
}

/* How many bytes an entry of this shape maps, as a power of two. */
PT_INLINE unsigned pt_entry_size_lg2(const pt_format *f, int level, int shape) {
    return f->level[level].shift + (unsigned)f->level[level].shape[shape].items_lg2;
}

PT_INLINE pt_item pt_move(pt_item bits, int shift) { return shift >= 0 ? bits << shift : bits >> -shift; }

/* Gathers a number out of its pieces. */
PT_INLINE uint64_t pt_number(const pt_piece *pieces, pt_item item) {
    return (uint64_t)(pt_move(item & pieces[0].mask, pieces[0].shift) |
                      pt_move(item & pieces[1].mask, pieces[1].shift) |
                      pt_move(item & pieces[2].mask, pieces[2].shift));
}

/* Spreads a number over its pieces: the inverse of pt_number. */
PT_INLINE pt_item pt_pieces_of(const pt_piece *pieces, uint64_t number) {
    return (pt_move(number, -pieces[0].shift) & pieces[0].mask) | (pt_move(number, -pieces[1].shift) & pieces[1].mask) |
           (pt_move(number, -pieces[2].shift) & pieces[2].mask);
}

PT_INLINE const pt_layout *pt_layout_of(const pt_format *f, int level, int shape) {
    return &f->level[level].shape[shape].layout;
}

/* Where a table or leaf item points. */
PT_INLINE uint64_t pt_output(const pt_format *f, const pt_rules *r, int level, int shape, pt_item item) {
    const pt_layout *layout = pt_layout_of(f, level, shape);
    return pt_number(layout->output, item ^ layout->invert) & r->keep;
}

/* The address bits of an item that points to `oa`. */
PT_INLINE pt_item pt_output_bits(const pt_format *f, int level, int shape, uint64_t oa) {
    const pt_layout *layout = pt_layout_of(f, level, shape);
    return pt_pieces_of(layout->output, oa) ^ layout->invert;
}

/* Whether an item of this shape has room for `oa`. */
PT_INLINE int pt_has_room_for(const pt_format *f, int level, int shape, uint64_t oa) {
    const pt_layout *layout = pt_layout_of(f, level, shape);
    return pt_number(layout->output, pt_pieces_of(layout->output, oa)) == oa;
}

/* What a leaf item maps `ia` to: items that are copies hold the address of their entry's first. */
PT_INLINE uint64_t pt_leaf_output(const pt_format *f, const pt_rules *r, int level, int shape, pt_item item,
                                  uint64_t ia) {
    const pt_shape *s = &f->level[level].shape[shape];
    uint64_t mask = pt_offset_mask(f, level);
    if (s->copies)
        mask = (1ull << pt_entry_size_lg2(f, level, shape)) - 1;
    return (pt_output(f, r, level, shape, item) & ~mask) | (ia & mask);
}

/* Whether a table or leaf item breaks the must-be-zero rule or is a refused combination. */
PT_INLINE int pt_breaks_rule(const pt_format *f, const pt_rules *r, int level, int shape, pt_item item) {
    const pt_layout *layout = pt_layout_of(f, level, shape);
    if ((item & r->zero[level][shape]) != 0)
        return 1;
    for (int n = 0; n < PT_MAX_REFUSALS; n++)
        if (pt_matches(layout->refused[n], item))
            return 1;
    return 0;
}

/* The status of an item that breaks a rule. */
PT_INLINE int pt_broken_status(const pt_format *f, const pt_rules *r, int level, int shape, pt_item item) {
    int beyond = (item & r->zero[level][shape] & pt_layout_of(f, level, shape)->output_mask) != 0;
    return beyond ? f->beyond_status : f->reserved_status;
}

/* The kind and the shape that most items of a walk have at `level`. */
PT_INLINE int pt_usual_kind(int level) { return level == 0 ? PT_LEAF : PT_TABLE; }

PT_INLINE int pt_usual_shape(int level) { return level == 0; }

/* Whether an item is of its level's usual kind and obeys every rule: one test instead of many. A no
 * says nothing: ask pt_kind and pt_breaks_rule then. */
PT_INLINE int pt_is_usual(const pt_format *f, const pt_rules *r, int level, pt_item item) {
    (void)f;
    return (item & r->usual[level].mask) == r->usual[level].value;
}

/* Fills in `usual` from the other rules. A test that never holds, where the usual kind's own bits do
 * not rule out an empty item. */
static inline __attribute__((unused)) void pt_find_usual(const pt_format *f, pt_rules *r) {
    for (int level = 0; level <= f->top; level++) {
        int shape = pt_usual_shape(level);
        pt_match match = f->level[level].usual;
        pt_mark accessed = pt_layout_of(f, level, shape)->accessed;
        pt_item zero = r->zero[level][shape];
        int not_empty = (match.mask & f->empty.mask & (match.value ^ f->empty.value)) != 0;
        int ever = (match.value & ~match.mask) == 0 && (zero & match.value) == 0;
        if (level == 0 && f->accessed_required && accessed.mask != 0) {
            match.mask |= accessed.mask;
            match.value |= accessed.value;
        }
        match.mask |= zero;
        r->usual[level] = not_empty && ever ? match : (pt_match){0, 1};
    }
}

PT_INLINE int pt_is_marked(pt_mark mark, pt_item item) { return (item & mark.mask) == mark.value; }

PT_INLINE pt_item pt_unmarked(pt_mark mark, pt_item item) { return pt_is_marked(mark, item) ? item ^ mark.flip : item; }

/* Sets a mark, where it is one flip away. */
PT_INLINE pt_item pt_marked(pt_mark mark, pt_item item) {
    return pt_is_marked(mark, item ^ mark.flip) ? item ^ mark.flip : item;
}

PT_INLINE int pt_has_mark(pt_mark mark) { return mark.flip != 0; }

PT_INLINE int pt_is_global(const pt_format *f, int level, int shape, pt_item item) {
    return pt_matches(pt_layout_of(f, level, shape)->global_, item);
}

/* Whether software must mark this leaf accessed before a walk may use it. */
PT_INLINE int pt_lacks_accessed(const pt_format *f, int level, int shape, pt_item item) {
    pt_mark accessed = pt_layout_of(f, level, shape)->accessed;
    return f->accessed_required && accessed.mask != 0 && !pt_is_marked(accessed, item);
}

/* The rights that one item grants, as bits in the order of schema.RIGHTS. */
PT_INLINE unsigned pt_item_rights(const pt_format *f, int level, int shape, pt_item item) {
    const pt_layout *layout = pt_layout_of(f, level, shape);
    unsigned rights = f->rights;
    if (PT_LIKELY(pt_matches(layout->granting, item)))
        return rights;
#pragma GCC unroll 5
    for (int n = 0; n < PT_MAX_GRANTS; n++) {
        const pt_grant *g = &layout->grant[n];
        if (g->bits[1] == 0)
            break;
        unsigned high = (unsigned)(item >> g->shift[0]) & ((1u << g->bits[0]) - 1);
        unsigned low = (unsigned)(item >> g->shift[1]) & ((1u << g->bits[1]) - 1);
        rights &= g->kept[high << g->bits[1] | low];
    }
    return rights;
}

/* What the rights along a path are after one more item. */
PT_INLINE unsigned pt_rights_with(const pt_format *f, int level, int shape, pt_item item, unsigned rights) {
    unsigned granted = pt_item_rights(f, level, shape, item);
    if (f->parents_limit_rights)
        return rights & granted;
    return shape > 0 ? granted : rights;
}

/* Whether an access may use a page with these rights: PT_OK or why not. */
PT_INLINE int pt_judge(const pt_format *f, const pt_need *need, int level, int shape, pt_item item, unsigned rights) {
    const pt_layout *layout = pt_layout_of(f, level, shape);
    unsigned denied = need->denied_keys[(rights >> 3) & 1];
    if (denied != 0 && (denied >> (pt_number(layout->protection_key, item) & 15) & 1))
        return PT_PROTECTION_KEY;
    if (!(need->allowed >> rights & 1))
        return PT_PERMISSION;
    if (need->dirty && pt_has_mark(layout->dirty) && !pt_is_marked(layout->dirty, item))
        return PT_ACCESS_FLAG;
    return PT_OK;
}

/* The attributes of a leaf, as the next smaller page has them. */
PT_INLINE pt_item pt_carry_down(const pt_format *f, int level, int shape, pt_item item) {
    const pt_shape *s = &f->level[level].shape[shape];
    pt_item below = pt_layout_of(f, s->smaller[0], s->smaller[1])->fixed;
    for (int n = 0; n < PT_MAX_CARRY; n++)
        below |= pt_move(item & s->carry[n].mask, s->carry[n].shift);
    return below;
}

/* The inverse: the attributes of the next smaller page, as a leaf of this shape has them. */
PT_INLINE pt_item pt_carry_up(const pt_format *f, int level, int shape, pt_item item) {
    const pt_shape *s = &f->level[level].shape[shape];
    pt_item above = s->layout.fixed;
    for (int n = 0; n < PT_MAX_CARRY; n++)
        above |= pt_move(item, -s->carry[n].shift) & s->carry[n].mask;
    return above;
}

/* An item without its address bits: its attributes. */
PT_INLINE pt_item pt_without_output(const pt_format *f, int level, int shape, pt_item item) {
    return item & ~pt_layout_of(f, level, shape)->output_mask;
}

PT_INLINE pt_item pt_replaced(pt_item item, pt_item clear, pt_item set) { return (item & ~clear) | set; }

PT_INLINE int pt_any(pt_item bits) { return bits != 0; }

/* The bits in an item's address field that are no part of the address: the encryption bit. */
PT_INLINE pt_item pt_kept_aside(const pt_format *f, const pt_rules *r, int level, int shape, pt_item item) {
    return item & pt_pieces_of(pt_layout_of(f, level, shape)->output, r->encryption);
}

/* The marks that hardware sets by itself. */
PT_INLINE pt_item pt_mark_bits(const pt_format *f, int level, int shape) {
    const pt_layout *layout = pt_layout_of(f, level, shape);
    return layout->accessed.flip | layout->dirty.flip;
}

/* All of a leaf but its address and the marks that hardware sets by itself (accessed, dirty). */
PT_INLINE pt_item pt_lasting(const pt_format *f, const pt_rules *r, int level, int shape, pt_item item) {
    const pt_layout *layout = pt_layout_of(f, level, shape);
    /* Where software must set the accessed mark, it tells pages that can be used from those that cannot. */
    pt_item marks = layout->dirty.flip | (f->accessed_required ? 0 : layout->accessed.flip);
    return (pt_without_output(f, level, shape, item) & ~marks) | pt_kept_aside(f, r, level, shape, item);
}
#endif
