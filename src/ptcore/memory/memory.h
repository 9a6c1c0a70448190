/* Bytes that hold tables, as compiled code sees them: sorted, disjoint segments of physical addresses.
 *
 * The first segment is repeated in `flat` so that a memory of one segment costs a subtraction and a
 * comparison per access. Every access goes through pt_at, so nothing outside a segment is ever read. */
#ifndef PT_MEMORY_H
#define PT_MEMORY_H
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#define PT_LIKELY(x) __builtin_expect(!!(x), 1)
#define PT_UNLIKELY(x) __builtin_expect(!!(x), 0)
#define PT_INLINE static inline __attribute__((always_inline, unused))
#define PT_LONGEST_ITEM 16

/* A page of a memory that is read piece by piece: not asked for yet, here, not there at all, on the list. */
enum { PT_PAGE_UNREAD = 0, PT_PAGE_READ = 1, PT_PAGE_ABSENT = 2, PT_PAGE_WANTED = 3 };

/* Pages that are fetched, many at once, after something met them missing. `bytes` is address space for all of
 * them; whoever meets a page that is not there yet puts it on the list, counts a miss, and goes on as if it did
 * not exist. The door sees from the count that it has to fetch the list and do the work again. */
typedef struct {
    uint8_t *bytes, *states; /* one state per page */
    uint64_t *wanted;        /* page numbers, none twice */
    size_t wanted_count, wanted_room;
    uint64_t misses; /* only ever grows */
    unsigned page_lg2;
    uint8_t frozen;  /* nothing is fetched any more: what is not here is absent */
    uint8_t starved; /* a page was met for which the list had no room */
    uint8_t lock;    /* of the list */
} pt_lazy;

typedef struct {
    uint64_t start; /* physical address of the first byte */
    uint64_t size;  /* bytes; start + size - 1 does not wrap */
    uint8_t *bytes;
    pt_lazy *lazy; /* NULL: all bytes are here */
} pt_segment;

typedef struct {
    uint64_t flat_start;
    uint64_t flat_room; /* offsets below this have PT_LONGEST_ITEM bytes behind them */
    uint8_t *flat;
    const pt_segment *segments;
    size_t count;
} pt_memory;

static __attribute__((noinline, unused)) void pt_want(pt_lazy *lazy, uint64_t page) {
    __atomic_fetch_add(&lazy->misses, 1, __ATOMIC_SEQ_CST);
    while (__atomic_test_and_set(&lazy->lock, __ATOMIC_ACQUIRE))
        ;
    if (lazy->states[page] == PT_PAGE_UNREAD) {
        if (lazy->wanted_count == lazy->wanted_room) {
            size_t room = lazy->wanted_room ? 2 * lazy->wanted_room : 256;
            uint64_t *grown = realloc(lazy->wanted, room * sizeof *grown);
            if (grown != NULL) {
                lazy->wanted = grown;
                lazy->wanted_room = room;
            }
        }
        if (lazy->wanted_count < lazy->wanted_room) {
            lazy->wanted[lazy->wanted_count++] = page;
            lazy->states[page] = PT_PAGE_WANTED;
        } else {
            lazy->starved = 1;
        }
    }
    __atomic_clear(&lazy->lock, __ATOMIC_RELEASE);
}

/* Returns `at` if all pages of the `bytes` bytes there are here; else NULL, with the missing ones on the list. */
static __attribute__((noinline, unused)) uint8_t *pt_when_read(pt_lazy *lazy, uint8_t *at, uint64_t bytes) {
    uint64_t offset = (uint64_t)(at - lazy->bytes);
    uint64_t last = (offset + (bytes ? bytes - 1 : 0)) >> lazy->page_lg2;
    uint8_t *found = at;
    for (uint64_t page = offset >> lazy->page_lg2; page <= last; page++) {
        uint8_t state = __atomic_load_n(&lazy->states[page], __ATOMIC_ACQUIRE);
        if (state == PT_PAGE_READ)
            continue;
        found = NULL;
        if (state != PT_PAGE_ABSENT && !lazy->frozen)
            pt_want(lazy, page);
    }
    return found;
}

/* Returns the segment that holds all `bytes` bytes at `pa`, else NULL. */
PT_INLINE const pt_segment *pt_segment_at(const pt_memory *m, uint64_t pa, uint64_t bytes) {
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
    return offset < s->size && bytes <= s->size - offset ? s : NULL;
}

/* Whether one segment holds them all, here already or not. */
static __attribute__((noinline, unused)) int pt_holds(const pt_memory *m, uint64_t pa, uint64_t bytes) {
    return pt_segment_at(m, pa, bytes) != NULL;
}

/* Returns the host address of `bytes` bytes at `pa` when one segment holds them all and they are here, else
 * NULL. */
static __attribute__((noinline, unused)) uint8_t *pt_at_any(const pt_memory *m, uint64_t pa, uint64_t bytes) {
    const pt_segment *s = pt_segment_at(m, pa, bytes);
    if (s == NULL)
        return NULL;
    uint8_t *at = s->bytes + (pa - s->start);
    return PT_LIKELY(s->lazy == NULL) ? at : pt_when_read(s->lazy, at, bytes);
}

/* The same for an item: at most PT_LONGEST_ITEM bytes. A memory with lazy segments has no flat one. */
PT_INLINE uint8_t *pt_at(const pt_memory *m, uint64_t pa, uint64_t bytes) {
    uint64_t offset = pa - m->flat_start;
    if (PT_LIKELY(offset < m->flat_room))
        return m->flat + offset;
    return pt_at_any(m, pa, bytes);
}
#endif
