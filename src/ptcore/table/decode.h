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

/* Bytes that a leaf at `level` maps. */
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

/* Whether the format translates `ia`: the bits above the top index obey its address rule. */
PT_INLINE int pt_legal_input(const pt_format *f, uint64_t ia) {
    unsigned above = f->input_bits;
    if (above >= 64)
        return 1;
    uint64_t rest = ia >> above, ones = PT_ALL_ONES >> above;
    if (f->address_rule == PT_ZERO_EXTENDED)
        return rest == 0;
    if (f->address_rule == PT_UPPER_ONLY)
        return rest == ones;
    return (uint64_t)((int64_t)(ia << (64 - above)) >> (64 - above)) == ia;
}

/* The input address that index bits `ia` stand for, with the bits above the top index as the rule has them. */
PT_INLINE uint64_t pt_full_input(const pt_format *f, uint64_t ia) {
    unsigned above = f->input_bits;
    if (above >= 64 || f->address_rule == PT_ZERO_EXTENDED)
        return ia;
    if (f->address_rule == PT_UPPER_ONLY)
        return ia | (PT_ALL_ONES << above);
    return (uint64_t)((int64_t)(ia << (64 - above)) >> (64 - above));
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

/* EMPTY, TABLE, LEAF or RESERVED, asked in this order: a table of some formats would pass for a leaf. */
PT_INLINE int pt_kind(const pt_format *f, int level, pt_item item) {
    const pt_level *l = &f->level[level];
    if (pt_is_empty(f, item))
        return PT_EMPTY;
    if (pt_matches(l->table, item))
        return PT_TABLE;
    if (pt_matches(l->leaf[0], item) || pt_matches(l->leaf[1], item))
        return PT_LEAF;
    return PT_RESERVED;
}

PT_INLINE pt_item pt_move(pt_item bits, int shift) { return shift >= 0 ? bits << shift : bits >> -shift; }

/* Gathers a number out of the pieces that `keep` lets through. */
PT_INLINE uint64_t pt_kept_number(const pt_piece *pieces, pt_item item, pt_item keep) {
    return (uint64_t)(pt_move(item & (pieces[0].mask & keep), pieces[0].shift) |
                      pt_move(item & (pieces[1].mask & keep), pieces[1].shift) |
                      pt_move(item & (pieces[2].mask & keep), pieces[2].shift));
}

/* Gathers a number out of its pieces. */
PT_INLINE uint64_t pt_number(const pt_piece *pieces, pt_item item) {
    return pt_kept_number(pieces, item, ~(pt_item)0);
}

/* Spreads a number over its pieces: the inverse of pt_number. */
PT_INLINE pt_item pt_pieces_of(const pt_piece *pieces, uint64_t number) {
    return (pt_move(number, -pieces[0].shift) & pieces[0].mask) | (pt_move(number, -pieces[1].shift) & pieces[1].mask) |
           (pt_move(number, -pieces[2].shift) & pieces[2].mask);
}

/* Where a table or leaf item points. */
PT_INLINE uint64_t pt_output(const pt_format *f, const pt_rules *r, int level, int kind, pt_item item) {
    return pt_kept_number(f->level[level].layout[PT_IS_LEAF(kind)].output, item, r->keep);
}

/* The address bits of an item that points to `oa`. */
PT_INLINE pt_item pt_output_bits(const pt_format *f, int level, int kind, uint64_t oa) {
    return pt_pieces_of(f->level[level].layout[PT_IS_LEAF(kind)].output, oa);
}

/* Whether a table or leaf item breaks the must-be-zero rule. */
PT_INLINE int pt_breaks_zero(const pt_rules *r, int level, int kind, pt_item item) {
    return (item & r->zero[level][PT_IS_LEAF(kind)]) != 0;
}

/* The kind that most items of a walk have at `level`. */
PT_INLINE int pt_usual_kind(int level) { return level == 0 ? PT_LEAF : PT_TABLE; }

PT_INLINE pt_match pt_usual_match(const pt_format *f, int level) {
    return level == 0 ? f->level[0].leaf[0] : f->level[level].table;
}

/* Whether an item is of its level's usual kind and obeys the must-be-zero rule: one test instead of
 * four. A no says nothing: ask pt_kind and pt_breaks_zero then. */
PT_INLINE int pt_is_usual(const pt_format *f, const pt_rules *r, int level, pt_item item) {
    return (item & r->usual[level]) == pt_usual_match(f, level).value;
}

/* Fills in `usual` from the other rules. 0, which never matches, where the usual kind's own bits do
 * not rule out an empty item (or are all 0). */
static inline __attribute__((unused)) void pt_find_usual(const pt_format *f, pt_rules *r) {
    for (int level = 0; level <= f->top; level++) {
        pt_match match = pt_usual_match(f, level);
        pt_item zero = r->zero[level][level == 0];
        int not_empty = (match.mask & f->empty.mask & (match.value ^ f->empty.value)) != 0;
        int sure = not_empty && match.value != 0 && (zero & match.value) == 0;
        r->usual[level] = sure ? match.mask | zero : 0;
        /* A match that never holds has a value outside its mask, and still never holds. */
    }
}

/* The bits of `need` that this item does not grant; 0 when the access may go on. */
PT_INLINE pt_item pt_withheld(const pt_format *f, const pt_need *need, int level, int kind, pt_item item) {
    int leaf = PT_IS_LEAF(kind);
    return (item ^ f->level[level].layout[leaf].granted) & need->bits[level][leaf];
}

/* The rights that one item grants, as bits 0 read, 1 write, 2 execute, 3 user. */
PT_INLINE unsigned pt_item_rights(const pt_format *f, int level, int kind, pt_item item) {
    const pt_layout *layout = &f->level[level].layout[PT_IS_LEAF(kind)];
    unsigned rights = 0;
    for (int n = 0; n < PT_RIGHTS; n++)
        rights |= (unsigned)(((item ^ layout->granted) & layout->right[n]) == 0) << n;
    return rights;
}

/* The attributes of a leaf at `level`, as a leaf one level down has them. */
PT_INLINE pt_item pt_carry_down(const pt_format *f, int level, pt_item item) {
    pt_item below = f->level[level - 1].layout[1].fixed;
    for (int n = 0; n < PT_MAX_CARRY; n++)
        below |= pt_move(item & f->level[level].carry[n].mask, f->level[level].carry[n].shift);
    return below;
}

/* The inverse: the attributes of a leaf at `level - 1`, as a leaf at `level` has them. */
PT_INLINE pt_item pt_carry_up(const pt_format *f, int level, pt_item item) {
    pt_item above = f->level[level].layout[1].fixed;
    for (int n = 0; n < PT_MAX_CARRY; n++) {
        const pt_piece *piece = &f->level[level].carry[n];
        above |= pt_move(item, -piece->shift) & piece->mask;
    }
    return above;
}

/* An item without its address bits: its attributes. */
PT_INLINE pt_item pt_without_output(const pt_format *f, int level, int kind, pt_item item) {
    const pt_piece *pieces = f->level[level].layout[PT_IS_LEAF(kind)].output;
    return item & ~(pieces[0].mask | pieces[1].mask | pieces[2].mask);
}

PT_INLINE pt_item pt_replaced(pt_item item, pt_item clear, pt_item set) { return (item & ~clear) | set; }

PT_INLINE int pt_has(pt_item item, pt_item bits) { return (item & bits) != 0; }

PT_INLINE int pt_any(pt_item bits) { return bits != 0; }

/* The bits in an item's address field that are no part of the address: the encryption bit. */
PT_INLINE pt_item pt_kept_aside(const pt_format *f, const pt_rules *r, pt_item item) {
    return item & ~r->keep & pt_output_bits(f, 0, PT_LEAF, PT_ALL_ONES);
}

/* All of a leaf but its address and the marks that hardware sets by itself (accessed, dirty). */
PT_INLINE pt_item pt_lasting(const pt_format *f, const pt_rules *r, int level, pt_item item) {
    const pt_layout *layout = &f->level[level].layout[1];
    return (pt_without_output(f, level, PT_LEAF, item) & ~(layout->accessed | layout->dirty)) |
           pt_kept_aside(f, r, item);
}
#endif
