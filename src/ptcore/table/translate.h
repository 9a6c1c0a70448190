/* Batches of translations, compiled once for every format of src/ptcore/formats and once for any other.
 *
 * PT_FORMATS comes from the header that setup.py generates: with the format as a constant the compiler
 * folds every mask and shift. A table whose format equals a generated one uses that one's engine. */
#ifndef PT_TRANSLATE_H
#define PT_TRANSLATE_H
#include "engine.h"
#include "formats_generated.h"
#include <time.h>

/* How a batch is cut: chunks are walked depth first or level by level, whichever took less time when
 * both were last tried. Depth first wins while tables are in the first-level cache, level by level
 * when their loads miss (bench/). The order never changes a result. */
#define PT_CHUNK 512
#define PT_CHUNKS_PER_TRIAL 64

PT_INLINE uint64_t pt_clock_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

PT_INLINE void pt_chunk(const pt_format *f, const pt_space *s, const pt_need *need, const uint64_t *ias,
                        uint64_t *restrict oas, uint8_t *restrict statuses, int n, int by_level) {
    if (by_level && !f->has_skips) {
        for (int i = 0; i < n; i += PT_BLOCK)
            pt_walk_block(f, s, need, ias + i, oas + i, statuses + i, n - i < PT_BLOCK ? n - i : PT_BLOCK);
    } else {
        pt_hint hint = {0, {0, 0, 0}, 0};
        for (int i = 0; i < n; i++) {
            uint64_t oa;
            statuses[i] = (uint8_t)pt_walk_one(f, s, need, ias[i], &oa, NULL, &hint);
            oas[i] = oa;
        }
    }
}

PT_INLINE void pt_many(const pt_format *f, const pt_space *s, const pt_need *need, const uint64_t *ias,
                       uint64_t *restrict oas, uint8_t *restrict statuses, size_t n) {
    uint64_t took[2] = {0, 0};
    int by_level = 0;
    for (size_t chunk = 0, first = 0; first < n; chunk++, first += PT_CHUNK) {
        size_t phase = chunk % PT_CHUNKS_PER_TRIAL;
        int size = n - first < PT_CHUNK ? (int)(n - first) : PT_CHUNK;
        if (phase < 2 && n - first >= 2 * PT_CHUNK) {
            uint64_t start = pt_clock_ns();
            pt_chunk(f, s, need, ias + first, oas + first, statuses + first, size, phase == 1);
            took[phase] = pt_clock_ns() - start;
            by_level = phase == 1 && took[1] < took[0];
        } else {
            pt_chunk(f, s, need, ias + first, oas + first, statuses + first, size, by_level);
        }
    }
}

#define PT_ENGINE_FUNCTIONS(NAME, FORMAT)                                                                      \
    static int pt_one_##NAME(const pt_space *s, const pt_need *need, uint64_t ia, uint64_t *oa) {              \
        return need ? pt_walk_one(FORMAT, s, need, ia, oa, NULL, NULL) \
                    : pt_walk_one(FORMAT, s, NULL, ia, oa, NULL, NULL); \
    }                                                                                                          \
    static void pt_many_##NAME(const pt_space *s, const pt_need *need, const uint64_t *ias, uint64_t *oas,     \
                               uint8_t *statuses, size_t n) {                                                  \
        if (need)                                                                                              \
            pt_many(FORMAT, s, need, ias, oas, statuses, n);                                                   \
        else                                                                                                   \
            pt_many(FORMAT, s, NULL, ias, oas, statuses, n); \
    } \
    static size_t pt_empty_run_##NAME(const pt_space *s, const uint8_t *bytes, size_t count) { \
        (void)s; \
        return pt_empty_run(FORMAT, bytes, count); \
    } \
    static size_t pt_list_leaves_##NAME(const pt_space *s, const uint8_t *bytes, size_t count, unsigned rights, \
                                        uint64_t first, pt_listing *listing) { \
        return pt_list_leaves(FORMAT, s, bytes, count, rights, first, listing); \
    } \
    static size_t pt_lawful_leaf_run_##NAME(const pt_space *s, const uint8_t *bytes, size_t count) { \
        return pt_lawful_leaf_run(FORMAT, s, bytes, count); \
    } \
    static void pt_fill_##NAME(const pt_space *s, uint8_t *bytes, size_t count, pt_item attributes, uint64_t oa) { \
        (void)s; \
        pt_fill(FORMAT, bytes, count, attributes, oa); \
    } \
    static void pt_clear_##NAME(const pt_space *s, uint8_t *bytes, size_t count) { \
        (void)s; \
        pt_clear(FORMAT, bytes, count); \
    }
#define PT_FORMAT_FUNCTIONS(NAME) PT_ENGINE_FUNCTIONS(NAME, &PT_FORMAT_##NAME)
PT_FORMATS(PT_FORMAT_FUNCTIONS)
PT_ENGINE_FUNCTIONS(any, s->format)

#define PT_ENGINE(NAME, KEY) \
    { \
        KEY, pt_one_##NAME, pt_many_##NAME, pt_empty_run_##NAME, pt_list_leaves_##NAME, pt_lawful_leaf_run_##NAME, \
            pt_fill_##NAME, pt_clear_##NAME \
    }
#define PT_FORMAT_ENGINE(NAME) PT_ENGINE(NAME, &PT_FORMAT_##NAME),
static const pt_engine PT_ENGINES[] = {PT_FORMATS(PT_FORMAT_ENGINE) PT_ENGINE(any, NULL)};

/* The engine whose constants equal `format`, which must have been cleared before it was filled. */
static const pt_engine *pt_engine_for(const pt_format *format) {
    const pt_engine *engine = PT_ENGINES;
    while (engine->format != NULL && memcmp(engine->format, format, sizeof *format) != 0)
        engine++;
    return engine;
}

/* The path of one walk; not hot, so one instance serves every format. */
static int pt_trace(const pt_space *s, uint64_t ia, uint64_t *oa, pt_path *path) {
    return pt_walk_one(s->format, s, NULL, ia, oa, path, NULL);
}
#endif
