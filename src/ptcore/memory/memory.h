/* Bytes that hold tables, as compiled code sees them: sorted, disjoint segments of physical addresses.
 *
 * The first segment is repeated in `flat` so that a memory of one segment costs a subtraction and a
 * comparison per access. Every access goes through pt_at, so nothing outside a segment is ever read. */
#ifndef PT_MEMORY_H
#define PT_MEMORY_H
#include <stddef.h>
#include <stdint.h>

#define PT_LIKELY(x) __builtin_expect(!!(x), 1)
#define PT_UNLIKELY(x) __builtin_expect(!!(x), 0)
#define PT_INLINE static inline __attribute__((always_inline, unused))
#define PT_LONGEST_ITEM 16

typedef struct {
    uint64_t start; /* physical address of the first byte */
    uint64_t size;  /* bytes; start + size - 1 does not wrap */
    uint8_t *bytes;
} pt_segment;

typedef struct {
    uint64_t flat_start;
    uint64_t flat_room; /* offsets below this have PT_LONGEST_ITEM bytes behind them */
    uint8_t *flat;
    const pt_segment *segments;
    size_t count;
} pt_memory;

/* Returns the host address of `bytes` bytes at `pa` when one segment holds them all, else NULL. */
static __attribute__((noinline, unused)) uint8_t *pt_at_any(const pt_memory *m, uint64_t pa, uint64_t bytes) {
    size_t low = 0, end = m->count;
    while (low < end) {
        size_t middle = low + (end - low) / 2;
        if (m->segments[middle].start <= pa)
            low = middle + 1;
        else
            end = middle;
    }
    if (low == 0)
        return NULL;
    const pt_segment *s = &m->segments[low - 1];
    uint64_t offset = pa - s->start;
    return offset < s->size && bytes <= s->size - offset ? s->bytes + offset : NULL;
}

/* The same for an item: at most PT_LONGEST_ITEM bytes. */
PT_INLINE uint8_t *pt_at(const pt_memory *m, uint64_t pa, uint64_t bytes) {
    uint64_t offset = pa - m->flat_start;
    if (PT_LIKELY(offset < m->flat_room))
        return m->flat + offset;
    return pt_at_any(m, pa, bytes);
}
#endif
