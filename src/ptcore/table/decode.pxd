"""What one item means, and its inverse (decode.h): inline C for every traversal."""

from libc.stdint cimport uint8_t, uint64_t

from ptcore.table.abi cimport pt_format, pt_item, pt_layout, pt_mark, pt_piece, pt_rules


cdef extern from "decode.h" nogil:
    uint64_t pt_entry_bytes(const pt_format *f)
    uint64_t pt_leaf_bytes(const pt_format *f, int level)
    uint64_t pt_offset_mask(const pt_format *f, int level)
    uint64_t pt_item_count(const pt_format *f, int level)
    uint64_t pt_table_bytes(const pt_format *f, int level)
    uint64_t pt_index(const pt_format *f, int level, uint64_t ia)
    uint64_t pt_item_at(const pt_format *f, uint64_t table, uint64_t index)
    bint pt_legal_input(const pt_format *f, const pt_rules *r, uint64_t ia)
    uint64_t pt_full_input(const pt_format *f, uint64_t ia)
    uint64_t pt_untagged(const pt_rules *r, uint64_t ia)
    pt_item pt_load(const pt_format *f, const uint8_t *at)
    void pt_store(const pt_format *f, uint8_t *at, pt_item item)
    bint pt_is_usual(const pt_format *f, const pt_rules *r, int level, pt_item item)
    bint pt_is_empty(const pt_format *f, pt_item item)
    int pt_kind(const pt_format *f, int level, pt_item item)
    int pt_leaf_shape(const pt_format *f, int level, pt_item item)
    int pt_shape_of(const pt_format *f, int level, int kind, pt_item item)
    int pt_next_level(const pt_format *f, int level, pt_item item)
    uint64_t pt_reach_mask(const pt_format *f, int next_level)
    unsigned pt_entry_size_lg2(const pt_format *f, int level, int shape)
    uint64_t pt_number(const pt_piece *pieces, pt_item item)
    const pt_layout *pt_layout_of(const pt_format *f, int level, int shape)
    uint64_t pt_output(const pt_format *f, const pt_rules *r, int level, int shape, pt_item item)
    uint64_t pt_leaf_output(
        const pt_format *f, const pt_rules *r, int level, int shape, pt_item item, uint64_t ia
    )
    pt_item pt_output_bits(const pt_format *f, int level, int shape, uint64_t oa)
    bint pt_has_room_for(const pt_format *f, int level, int shape, uint64_t oa)
    pt_item pt_without_output(const pt_format *f, int level, int shape, pt_item item)
    bint pt_breaks_rule(const pt_format *f, const pt_rules *r, int level, int shape, pt_item item)
    bint pt_is_marked(pt_mark mark, pt_item item)
    pt_item pt_unmarked(pt_mark mark, pt_item item)
    pt_item pt_marked(pt_mark mark, pt_item item)
    bint pt_has_mark(pt_mark mark)
    bint pt_lacks_accessed(const pt_format *f, int level, int shape, pt_item item)
    bint pt_is_global(const pt_format *f, int level, int shape, pt_item item)
    unsigned pt_item_rights(const pt_format *f, int level, int shape, pt_item item)
    unsigned pt_rights_with(
        const pt_format *f, int level, int shape, pt_item item, unsigned rights
    )
    pt_item pt_carry_down(const pt_format *f, int level, int shape, pt_item item)
    pt_item pt_carry_up(const pt_format *f, int level, int shape, pt_item item)
    pt_item pt_replaced(pt_item item, pt_item clear, pt_item set_)
    bint pt_any(pt_item bits)
    pt_item pt_kept_aside(const pt_format *f, const pt_rules *r, int level, int shape, pt_item item)
    pt_item pt_mark_bits(const pt_format *f, int level, int shape)
    void pt_find_usual(const pt_format *f, pt_rules *r)
    pt_item pt_lasting(const pt_format *f, const pt_rules *r, int level, int shape, pt_item item)
