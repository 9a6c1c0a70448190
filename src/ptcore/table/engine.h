/* The loops that are compiled once per format (translate.h makes them), behind one struct of pointers. */
#ifndef PT_ENGINE_H
#define PT_ENGINE_H
#include "listing.h"

typedef struct {
    const pt_format *format; /* NULL: any format, read from the space */
    int (*one)(const pt_space *, const pt_need *, uint64_t, uint64_t *);
    void (*many)(const pt_space *, const pt_need *, const uint64_t *, uint64_t *, uint8_t *, size_t);
    /* Runs of `count` items at level 0 that lie one after the other from `bytes` on. */
    size_t (*empty_run)(const pt_space *, const uint8_t *bytes, size_t count);
    size_t (*list_leaves)(const pt_space *, const uint8_t *bytes, size_t count, unsigned rights, uint64_t first,
                          pt_listing *);
    size_t (*lawful_leaf_run)(const pt_space *, const uint8_t *bytes, size_t count);
    void (*fill)(const pt_space *, uint8_t *bytes, size_t count, pt_item attributes, uint64_t oa);
    void (*clear)(const pt_space *, uint8_t *bytes, size_t count);
} pt_engine;

/* How many items from `bytes` on are empty. */
PT_INLINE size_t pt_empty_run(const pt_format *f, const uint8_t *bytes, size_t count) {
    size_t n = 0;
    while (n < count && pt_is_empty(f, pt_load(f, bytes + (n << f->entry_lg2))))
        n++;
    return n;
}

PT_INLINE size_t pt_lawful_leaf_run(const pt_format *f, const pt_space *s, const uint8_t *bytes, size_t count) {
    size_t n = 0;
    while (n < count && pt_is_lawful_leaf(f, s, pt_load(f, bytes + (n << f->entry_lg2))))
        n++;
    return n;
}

PT_INLINE void pt_fill(const pt_format *f, uint8_t *bytes, size_t count, pt_item attributes, uint64_t oa) {
    for (size_t n = 0; n < count; n++, oa += pt_leaf_bytes(f, 0))
        pt_store(f, bytes + (n << f->entry_lg2), attributes | pt_output_bits(f, 0, 1, oa));
}

PT_INLINE void pt_clear(const pt_format *f, uint8_t *bytes, size_t count) {
    for (size_t n = 0; n < count; n++)
        pt_store(f, bytes + (n << f->entry_lg2), f->empty.value);
}
#endif
