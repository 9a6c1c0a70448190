/* One access as a CPU makes it: TLB, else a walk from where the paging-structure caches allow, then fill.
 *
 * A context is what the CPU translates by: one first stage or two halves of one, and perhaps a second stage
 * behind it. Two stages have caches of their own: the walk cache of the first stage holds tables at physical
 * addresses (combined), the guest cache at those of the second stage's input, the host cache holds tables of the
 * second stage, and the second-stage TLB its translations. Intel SDM vol. 3C (326019), "Caching Translation
 * Information": linear, guest-physical and combined mappings. */
#ifndef PT_MMU_H
#define PT_MMU_H
#include "formats_generated.h"
#include "tlb.h"
#include "walk.h"
#include "walk_cache.h"

enum { MMU_DEVICE = 253, MMU_WALK = 254, MMU_FAULT = 255 };
enum { MMU_READ = TLB_LOAD, MMU_WRITE = TLB_STORE, MMU_EXECUTE = TLB_FETCH, MMU_USER = 8 };
enum { MMU_RIGHT_EXECUTE = 4, MMU_RIGHTS_USER = 8 | 32, MMU_RIGHT_USER_EXECUTE = 16 };

#define MMU_MAX_WALKERS 16
#define MMU_MAX_ITEMS 8

typedef struct {
    uint64_t accesses, hits[TLB_MAX_LEVELS], walks, references, faults;
    uint64_t second_walks, second_references, second_hits; /* of the second stage; in walks and references too */
    uint64_t served[TLB_MAX_LEVELS + 1];                   /* references by the level of the data cache, then memory */
    uint64_t cycles, waited, end;                          /* of all walks; for a free walker; when the last one ends */
    uint64_t device_hits, context_hits, context_references; /* of a device's own TLB; of what says whose tables */
} mmu_counts;

struct mmu;

typedef struct {
    const pt_space *stage1[2];
    const pt_need *need1[2]; /* by the kind of access: MMU_READ | ... */
    int (*walk[2])(struct mmu *, const pt_space *, const pt_need *, uint64_t va, unsigned kind, tlb_entry *entry);
    void (*look_ahead[2])(const pt_space *, const uint64_t *vas, size_t count, pt_hint *hint); /* or NULL */
    const pt_space *stage2; /* NULL without one; then stage1 is read at physical addresses */
    const pt_need *need2;
    pt_space physical[2]; /* stage1, read through the memory of stage2 */
    uint64_t space, guest;
    uint8_t halves, marks1, marks2, table_kind, user_kind;
    int (*walk2)(struct mmu *, uint64_t ipa, unsigned kind, tlb_entry *entry); /* of the second stage */
} mmu_context;

typedef struct mmu {
    mmu_context now;
    tlb *tlb;
    walk_cache *walk_cache, *guest_cache, *host_cache; /* each may be NULL */
    tlb *second, *lines;                               /* so may these */
    uint64_t cycles[TLB_MAX_LEVELS + 1];               /* of a reference, by the level that served it */
    uint64_t walkers, issue_cycles, free_at[MMU_MAX_WALKERS];
    uint8_t fault_stage;
    mmu_counts counts;
    /* Behind an IOMMU: the device's own TLB, the cache of contexts and this one's key in it, the items that are
     * read to learn the context, of which the last `process_items` lie behind the second stage, and what they say. */
    tlb *device, *contexts;
    uint64_t device_space, context_key, item_at[MMU_MAX_ITEMS];
    uint8_t behind, awaits, device_items, process_items;
    mmu_context next;
} mmu;

/* Whether it has nothing that an invalidation of addresses could drop. */
PT_INLINE int mmu_is_bare(const mmu *m) {
    return tlb_is_empty(m->tlb) && (m->walk_cache == NULL || wc_is_empty(m->walk_cache)) &&
           (m->guest_cache == NULL || wc_is_empty(m->guest_cache));
}

/* Drops what the CPU caches of [first, last], whoever's it is: entries, and the items over them. */
static inline __attribute__((unused)) void mmu_drop(mmu *m, uint64_t first, uint64_t last) {
    const tlb_chosen every = {0, 0, 1, 1, 0};
    tlb_invalidate(m->tlb, first, last, &every);
    if (m->walk_cache != NULL)
        wc_invalidate(m->walk_cache, first, last, 0, 0, 0);
    if (m->guest_cache != NULL)
        wc_invalidate(m->guest_cache, first, last, 0, 0, 0);
}

/* Drops all that the CPU caches, but global entries of its TLB unless `globals`. Returns how many. */
static inline __attribute__((unused)) uint64_t mmu_drop_all(mmu *m, int globals) {
    const tlb_chosen every = {0, 0, 1, 1, 0}, own = {0, 0, (uint8_t)globals, 1, 0};
    walk_cache *const caches[] = {m->walk_cache, m->guest_cache, m->host_cache};
    uint64_t dropped = tlb_invalidate_all(m->tlb, &own, TLB_MAX_LEVELS);
    for (unsigned n = 0; n < sizeof caches / sizeof *caches; n++)
        if (caches[n] != NULL)
            dropped += wc_invalidate(caches[n], 0, UINT64_MAX, 0, 0, 0);
    if (m->second != NULL)
        dropped += tlb_invalidate_all(m->second, &every, TLB_MAX_LEVELS);
    return dropped;
}

/* -- what a walk costs ------------------------------------------------------------------------------------ */

/* A read of an item, through the data cache if there is one. Returns its cycles. */
static inline __attribute__((unused)) uint64_t mmu_reference(mmu *m, uint64_t at) {
    unsigned level = 0;
    if (m->lines != NULL && tlb_lookup(m->lines, at, 0, TLB_LOAD, &level) == NULL) {
        tlb_entry line = {at >> m->lines->smallest_lg2 << m->lines->smallest_lg2,
                          tlb_tag(0, m->lines->smallest_lg2, 0, 0, 0)};
        level = m->lines->levels;
        tlb_refill(m->lines, &line, at, TLB_LOAD, TLB_MAX_LEVELS);
    }
    m->counts.served[level]++;
    return m->cycles[level];
}

/* Notes the items that a walk of one stage read. */
PT_INLINE void mmu_refer(mmu *m, const pt_path *path) {
    m->counts.references += path->count;
    if (m->lines == NULL) {
        m->counts.cycles += path->count * m->cycles[0];
        return;
    }
    for (unsigned n = 0; n < path->count; n++)
        m->counts.cycles += mmu_reference(m, path->step[n].at);
}

/* Puts a walk that took the cycles since `before` on the walker that is free first: accesses come one per
 * issue_cycles and wait for nothing, so this bounds the throughput from above. */
PT_INLINE void mmu_occupy(mmu *m, uint64_t before) {
    if (m->walkers == 0)
        return;
    unsigned first = 0;
    uint64_t now = m->counts.accesses * m->issue_cycles;
    for (unsigned n = 1; n < m->walkers; n++)
        if (m->free_at[n] < m->free_at[first])
            first = n;
    if (m->free_at[first] > now)
        m->counts.waited += m->free_at[first] - now;
    else
        m->free_at[first] = now;
    m->free_at[first] += m->counts.cycles - before;
    if (m->free_at[first] > m->counts.end)
        m->counts.end = m->free_at[first];
}

/* -- one stage -------------------------------------------------------------------------------------------- */

/* Marks an item that a walk went through, before anything caches it. Intel SDM vol. 3A, "Caches for Paging
 * Structures": no entry is made from an item whose accessed flag is clear. */
PT_INLINE void mmu_mark(const pt_space *s, const pt_format *f, const pt_step_read *read, int write) {
    const pt_layout *layout = pt_layout_of(f, read->level, read->shape);
    pt_item marked = pt_marked(layout->accessed, read->item);
    if (write)
        marked = pt_marked(layout->dirty, marked);
    if (pt_any(marked ^ read->item))
        pt_store(f, pt_at(s->memory, read->at, pt_entry_bytes(f)), marked);
}

/* The size as which a leaf may be held together with its neighbours in the table, or its own: theirs must go on
 * where it ends and differ in nothing but the address. AMD Software Optimization Guide for Family 17h (55723),
 * "Memory Address Translation": four consecutive 4K pages, aligned, in one entry. */
static inline __attribute__((unused)) unsigned mmu_coalesced(const pt_format *f, const pt_space *s,
                                                             const pt_step_read *leaf, unsigned lg2, unsigned wanted) {
    if (leaf->level != 0 || lg2 != f->level[0].shift || wanted <= lg2 || wanted >= f->level[1].shift)
        return lg2;
    uint64_t bytes = pt_entry_bytes(f), count = (uint64_t)1 << (wanted - lg2), group = bytes * count;
    uint64_t start = leaf->at - (leaf->at - leaf->table) % group, oa = 0;
    pt_mark dirty = pt_layout_of(f, 0, leaf->shape)->dirty;
    pt_item kept = pt_unmarked(dirty, pt_without_output(f, 0, leaf->shape, leaf->item));
    for (uint64_t n = 0; n < count; n++) {
        const uint8_t *at = pt_at(s->memory, start + n * bytes, bytes);
        if (at == NULL)
            return lg2;
        pt_item item = pt_load(f, at);
        if (pt_any(pt_unmarked(dirty, pt_without_output(f, 0, leaf->shape, item)) ^ kept) ||
            (pt_has_mark(dirty) && pt_is_marked(dirty, item) != pt_is_marked(dirty, leaf->item)))
            return lg2;
        uint64_t out = pt_output(f, &s->rules, 0, leaf->shape, item);
        if (n == 0)
            oa = out;
        if ((n == 0 && oa & (((uint64_t)1 << wanted) - 1)) || out != oa + (n << lg2))
            return lg2;
    }
    return wanted;
}

/* What a leaf makes of an address, as an entry of the size of the page. */
PT_INLINE tlb_entry mmu_entry(const pt_format *f, const pt_space *s, const pt_step_read *leaf, uint64_t space,
                              unsigned rights, unsigned dirty, uint64_t va, uint64_t oa, unsigned coalesced) {
    const pt_layout *layout = pt_layout_of(f, leaf->level, leaf->shape);
    unsigned lg2 = pt_entry_size_lg2(f, leaf->level, leaf->shape);
    if (PT_UNLIKELY(coalesced != 0)) {
        pt_step_read copy = *leaf; /* so that the leaf itself may stay in registers */
        lg2 = mmu_coalesced(f, s, &copy, lg2, coalesced);
    }
    if (pt_is_global(f, leaf->level, leaf->shape, leaf->item))
        space |= TLB_GLOBAL;
    unsigned key = (unsigned)(pt_number(layout->protection_key, leaf->item) & 15);
    return (tlb_entry){oa - (va & (((uint64_t)1 << lg2) - 1)), tlb_tag(space, lg2, rights, dirty, key)};
}

/* Whether a write through this leaf needs no more marking. */
PT_INLINE unsigned mmu_is_dirty(const pt_format *f, const pt_step_read *leaf, int marks, int write) {
    pt_mark dirty = pt_layout_of(f, leaf->level, leaf->shape)->dirty;
    return !marks || write || !pt_has_mark(dirty) || pt_is_marked(dirty, leaf->item);
}

/* Walks one stage. Returns the status; on PT_OK *entry is the translation to cache. The steps are unrolled, so
 * that the level is known to the compiler where the format is. */
PT_INLINE int mmu_descend(const pt_format *f, mmu *m, const pt_space *s, const pt_need *need, walk_cache *cache,
                          uint64_t space, int marks, unsigned coalesced, uint64_t va, unsigned kind,
                          tlb_entry *entry) {
    pt_place here = pt_start(s, f);
    pt_need wanted = need[kind];
    int status = PT_DOWN, write = (kind & MMU_WRITE) != 0;
    uint64_t oa = PT_ALL_ONES, references = 0;
    if (s->rules.check_input && !pt_legal_input(f, &s->rules, va))
        return PT_NOT_CANONICAL;
    if (cache != NULL) {
        wc_found start;
        if (wc_lookup(cache, f->top, va, space, &start))
            here = (pt_place){start.table, start.level, start.rights};
    }
#pragma GCC unroll 6
    for (int step = 0; step < PT_MAX_LEVELS; step++) {
        int level = f->top - step;
        pt_path one;
        if (level < 0 || status != PT_DOWN)
            break;
        if (here.level != level)
            continue;
        one.count = 0;
        status = pt_step(f, s, &wanted, level, va, &here, &oa, &one);
        if (PT_UNLIKELY(one.count == 0))
            break;
        pt_step_read *read = &one.step[0];
        references++;
        if (PT_UNLIKELY(m->lines != NULL))
            m->counts.cycles += mmu_reference(m, read->at);
        read->level = (uint8_t)level; /* the compiler does not see that it is so */
        if (status == PT_DOWN) {
            read->shape = 0; /* nor that only tables lead down */
            if (marks)
                mmu_mark(s, f, read, 0);
            if (cache != NULL)
                wc_add(cache, level, va, space, &here);
        } else if (PT_LIKELY(status == PT_OK)) {
            if (level == 0 && f->level[0].shapes == 2)
                read->shape = 1; /* nor that this is the only leaf that there is */
            if (marks)
                mmu_mark(s, f, read, write);
            *entry = mmu_entry(f, s, read, space, here.rights, mmu_is_dirty(f, read, marks, write), va, oa, coalesced);
        }
    }
    m->counts.references += references;
    if (PT_LIKELY(m->lines == NULL))
        m->counts.cycles += references * m->cycles[0];
    return status;
}

PT_INLINE int mmu_allows(const pt_need *need, uint64_t tag) {
    return (need->allowed >> tlb_rights(tag) & 1) && !(need->denied_keys[tlb_rights(tag) >> 3 & 1] >> tlb_key(tag) & 1);
}

PT_INLINE int mmu_serves(const pt_need *need, const tlb_entry *hit, unsigned kind) {
    return hit != NULL && mmu_allows(need, hit->tag) && (tlb_dirty(hit->tag) || !(kind & MMU_WRITE));
}

/* -- two stages ------------------------------------------------------------------------------------------- */

/* Translates an address that the first stage made. */
static int mmu_second(mmu *m, uint64_t ipa, unsigned kind, tlb_entry *out) {
    const mmu_context *c = &m->now;
    unsigned level;
    tlb_entry *hit = m->second == NULL ? NULL : tlb_lookup(m->second, ipa, c->guest, TLB_LOAD, &level);
    if (mmu_serves(&c->need2[kind], hit, kind)) {
        m->counts.second_hits++;
        *out = *hit;
        return PT_OK;
    }
    uint64_t before = m->counts.references;
    m->counts.second_walks++;
    m->fault_stage = 2;
    int status = c->walk2(m, ipa, kind, out);
    m->counts.second_references += m->counts.references - before;
    if (status == PT_OK && m->second != NULL) {
        if (hit == NULL)
            tlb_refill(m->second, out, ipa, TLB_LOAD, TLB_MAX_LEVELS);
        else
            tlb_fill(m->second, out, ipa, TLB_LOAD, TLB_MAX_LEVELS);
    }
    return status;
}

PT_INLINE uint64_t mmu_at(const tlb_entry *e, uint64_t va) { return e->pa | (va & (tlb_bytes(e->tag) - 1)); }

/* What both stages grant: who may, the first one says; what may be done, both. */
PT_INLINE unsigned mmu_both(const pt_format *second, unsigned rights1, unsigned rights2) {
    if (!(second->rights & MMU_RIGHT_USER_EXECUTE) && (rights2 & MMU_RIGHT_EXECUTE))
        rights2 |= MMU_RIGHT_USER_EXECUTE;
    return rights1 & (rights2 | MMU_RIGHTS_USER);
}

/* Where a nested walk stands. `parent`: the level of the item that points here, 0 for the root; `physical`:
 * whether here.table is a physical address already. */
typedef struct {
    pt_place here;
    int parent, physical;
} mmu_stand;

PT_INLINE mmu_stand mmu_nested_start(mmu *m, const pt_format *f, const pt_space *s, uint64_t va) {
    wc_found start;
    int level = m->walk_cache == NULL ? 0 : wc_lookup(m->walk_cache, f->top, va, m->now.space, &start);
    int physical = level != 0;
    if (level == 0 && m->guest_cache != NULL)
        level = wc_lookup(m->guest_cache, f->top, va, m->now.space, &start);
    if (level == 0)
        return (mmu_stand){pt_start(s, f), 0, 0};
    return (mmu_stand){{start.table, start.level, start.rights}, level, physical};
}

/* Reads one item of the first stage, whose table lies behind the second. */
static int mmu_nested_step(mmu *m, const pt_space *s, const pt_need *need, uint64_t va, mmu_stand *now, uint64_t *ipa,
                           pt_path *path) {
    const pt_format *f = s->format;
    int level = now->here.level;
    uint64_t at = pt_item_at(f, now->here.table, pt_index(f, level, va)), offset = at - now->here.table;
    if (!now->physical) {
        tlb_entry second;
        int status = mmu_second(m, at, m->now.table_kind, &second);
        if (status != PT_OK)
            return status;
        now->here.table = mmu_at(&second, at) - offset;
        /* For walks to come, only where all of the table lies in one page of the second stage. */
        if (m->walk_cache != NULL && now->parent && tlb_bytes(second.tag) >= pt_table_bytes(f, level))
            wc_put(m->walk_cache, now->parent, va, m->now.space, &now->here);
    }
    m->fault_stage = 1;
    now->physical = 0;
    now->parent = level;
    int status = pt_step(f, s, need, level, va, &now->here, ipa, path);
    if (status != PT_DOWN)
        return status;
    if (m->now.marks1)
        mmu_mark(s, f, &path->step[path->count - 1], 0);
    if (m->guest_cache != NULL)
        wc_put(m->guest_cache, level, va, m->now.space, &now->here);
    return status;
}

static int mmu_walk_nested(mmu *m, const pt_space *s, const pt_need *need, uint64_t va, unsigned kind,
                           tlb_entry *entry) {
    const pt_format *f = s->format;
    const mmu_context *c = &m->now;
    pt_path path;
    uint64_t ipa = PT_ALL_ONES;
    int status = PT_DOWN;
    path.count = 0;
    m->fault_stage = 1;
    if (s->rules.check_input && !pt_legal_input(f, &s->rules, va))
        return PT_NOT_CANONICAL;
    mmu_stand now = mmu_nested_start(m, f, s, va);
    while (status == PT_DOWN)
        status = mmu_nested_step(m, s, &need[kind], va, &now, &ipa, &path);
    mmu_refer(m, &path);
    if (status != PT_OK)
        return status;
    int write = (kind & MMU_WRITE) != 0;
    const pt_step_read *leaf = &path.step[path.count - 1];
    if (c->marks1)
        mmu_mark(s, f, leaf, write);
    tlb_entry second;
    unsigned asked = (kind & ~(unsigned)MMU_USER) | ((kind | c->user_kind) & MMU_USER);
    status = mmu_second(m, ipa, asked, &second);
    if (status != PT_OK)
        return status;
    unsigned dirty = mmu_is_dirty(f, leaf, c->marks1, write) & tlb_dirty(second.tag);
    unsigned rights = mmu_both(c->stage2->format, now.here.rights, tlb_rights(second.tag));
    *entry = mmu_entry(f, s, leaf, c->space, rights, dirty, va, ipa, 0);
    /* Splintering: what both stages map in one piece is the smaller page of the two. */
    unsigned lg2 = tlb_lg2(entry->tag) < tlb_lg2(second.tag) ? tlb_lg2(entry->tag) : tlb_lg2(second.tag);
    entry->pa = mmu_at(&second, ipa) >> lg2 << lg2;
    entry->tag = (entry->tag & ~((uint64_t)63 << TLB_LG2_AT)) | (uint64_t)lg2 << TLB_LG2_AT;
    return PT_OK;
}

/* -- contexts --------------------------------------------------------------------------------------------- */

/* Asks for the level-0 items of addresses that will be walked soon: found by the items above, which are few and
 * mostly in a cache. Reads tables alone; moves nothing and counts nothing. */
PT_INLINE void mmu_look_ahead(const pt_format *f, const pt_space *s, const uint64_t *vas, size_t count, pt_hint *hint) {
    for (size_t n = 0; n < count; n++) {
        uint64_t va = vas[n], oa;
        if (PT_UNLIKELY(!pt_comes_the_same_way(f, hint, va))) {
            pt_place here = pt_start(s, f);
            int status = PT_DOWN;
            for (int level = f->top; level > PT_HINT_LEVEL && status == PT_DOWN; level--)
                status = pt_step(f, s, NULL, level, va, &here, &oa, NULL);
            if (status != PT_DOWN)
                continue;
            *hint = (pt_hint){va, here, 1};
        }
        pt_place here = hint->here;
        if (pt_step(f, s, NULL, PT_HINT_LEVEL, va, &here, &oa, NULL) == PT_DOWN)
            pt_prefetch(f, s, 0, va, here.table);
    }
}

#define MMU_WALK_OF(NAME, FORMAT)                                                                                  \
    static int mmu_walk_##NAME(mmu *m, const pt_space *s, const pt_need *need, uint64_t va, unsigned kind,          \
                               tlb_entry *entry) {                                                                 \
        return mmu_descend(FORMAT, m, s, need, m->walk_cache, m->now.space, m->now.marks1, m->tlb->coalesced_lg2, \
                           va, kind, entry);                                                                       \
    }                                                                                                              \
    static void mmu_look_ahead_##NAME(const pt_space *s, const uint64_t *vas, size_t count, pt_hint *hint) {        \
        mmu_look_ahead(FORMAT, s, vas, count, hint);                                                               \
    }
#define MMU_WALK_OF_GENERATED(NAME) MMU_WALK_OF(NAME, &PT_FORMAT_##NAME)
#define MMU_USE(NAME) c->walk[half] = mmu_walk_##NAME, c->look_ahead[half] = mmu_look_ahead_##NAME;
#define MMU_USE_IF_GENERATED(NAME)                                                  \
    if (memcmp(c->stage1[half]->format, &PT_FORMAT_##NAME, sizeof(pt_format)) == 0) \
        MMU_USE(NAME)

PT_FORMATS(MMU_WALK_OF_GENERATED)
MMU_WALK_OF(any, s->format)

#define MMU_SECOND_WALK_OF(NAME, FORMAT)                                                                           \
    static int mmu_second_walk_##NAME(mmu *m, uint64_t ipa, unsigned kind, tlb_entry *entry) {                     \
        const mmu_context *c = &m->now;                                                                            \
        return mmu_descend(FORMAT, m, c->stage2, c->need2, m->host_cache, c->guest, c->marks2, 0, ipa, kind, entry); \
    }
#define MMU_SECOND_WALK_OF_GENERATED(NAME) MMU_SECOND_WALK_OF(NAME, &PT_FORMAT_##NAME)
#define MMU_USE_SECOND_IF_GENERATED(NAME)                                       \
    if (memcmp(c->stage2->format, &PT_FORMAT_##NAME, sizeof(pt_format)) == 0) \
        c->walk2 = mmu_second_walk_##NAME;

PT_FORMATS(MMU_SECOND_WALK_OF_GENERATED)
MMU_SECOND_WALK_OF(any, c->stage2->format)

/* Takes the walks that were compiled for the formats of a context, or those for any format. */
static inline __attribute__((unused)) void mmu_choose_walks(mmu_context *c) {
    c->walk2 = mmu_second_walk_any;
    if (c->stage2 != NULL) {
        PT_FORMATS(MMU_USE_SECOND_IF_GENERATED)
    }
    for (unsigned half = 0; half < c->halves; half++) {
        const pt_format *f = c->stage1[half]->format;
        MMU_USE(any)
        PT_FORMATS(MMU_USE_IF_GENERATED)
        if (f->top <= PT_HINT_LEVEL || f->has_skips)
            c->look_ahead[half] = NULL;
        if (c->stage2 != NULL) {
            c->walk[half] = mmu_walk_nested;
            c->look_ahead[half] = NULL;
            c->physical[half] = *c->stage1[half];
            c->physical[half].memory = c->stage2->memory;
        }
    }
}

/* Which half translates an address; the last one also speaks for those that none does. */
PT_INLINE unsigned mmu_half(const mmu_context *c, uint64_t va) {
    unsigned half = 0;
    while (half + 1u < c->halves && !pt_legal_input(c->stage1[half]->format, &c->stage1[half]->rules, va))
        half++;
    return half;
}

/* Whether an entry answers an access. One that does not allow it, or whose page is not marked dirty yet, asks the
 * tables. So does one of two stages that lacks the very right: the need says what the first stage wants only. */
PT_INLINE int mmu_answers(const mmu_context *c, const pt_need *need, const tlb_entry *hit, unsigned kind) {
    unsigned side = kind & (MMU_READ | MMU_WRITE | MMU_EXECUTE);
    return mmu_serves(need, hit, kind) && (c->stage2 == NULL || (tlb_rights(hit->tag) & side) == side);
}

PT_INLINE unsigned mmu_fails(mmu *m, uint64_t *pa) {
    m->counts.faults++;
    *pa = PT_ALL_ONES;
    return MMU_FAULT;
}

/* Returns the level of the TLB that served the access, MMU_WALK or MMU_FAULT; *entry is what was found. */
PT_INLINE unsigned mmu_resolve(mmu *m, uint64_t va, unsigned kind, tlb_entry *entry, uint64_t *pa, int *status) {
    unsigned level, side = kind & (MMU_READ | MMU_WRITE | MMU_EXECUTE);
    unsigned half = PT_LIKELY(m->now.halves == 1) ? 0 : mmu_half(&m->now, va);
    const pt_need *need = m->now.need1[half];
    m->counts.accesses++;
    tlb_entry *hit = tlb_lookup(m->tlb, va, m->now.space, side, &level);
    *status = PT_OK;
    if (PT_LIKELY(mmu_answers(&m->now, &need[kind], hit, kind))) {
        m->counts.hits[level]++;
        *entry = *hit;
        *pa = mmu_at(hit, va);
        return level;
    }
    uint64_t before = m->counts.cycles;
    const pt_space *s = m->now.stage2 == NULL ? m->now.stage1[half] : &m->now.physical[half];
    m->counts.walks++;
    m->fault_stage = 1;
    *status = m->now.walk[half](m, s, need, va, kind, entry);
    mmu_occupy(m, before);
    if (*status != PT_OK)
        return mmu_fails(m, pa);
    tlb_entry held = tlb_read(entry);
    if (hit == NULL)
        tlb_refill(m->tlb, &held, va, side, TLB_MAX_LEVELS);
    else
        tlb_fill(m->tlb, &held, va, side, TLB_MAX_LEVELS);
    *pa = mmu_at(entry, va);
    return MMU_WALK;
}

PT_INLINE unsigned mmu_access(mmu *m, uint64_t va, unsigned kind, uint64_t *pa, int *status) {
    tlb_entry entry;
    return mmu_resolve(m, va, kind, &entry, pa, status);
}

/* -- devices ---------------------------------------------------------------------------------------------- */

/* Learns by which tables a device, or a process of it, translates: from the cache of contexts, else from the
 * items. What the items say now takes effect only here. */
static int mmu_learn(mmu *m) {
    unsigned level, items = m->device_items + m->process_items;
    if (m->contexts != NULL && tlb_lookup(m->contexts, m->context_key, m->now.guest, TLB_LOAD, &level) != NULL) {
        m->counts.context_hits++;
        return PT_OK;
    }
    m->now = m->next;
    m->awaits = 0;
    for (unsigned n = 0; n < items; n++) {
        uint64_t at = m->item_at[n];
        if (n >= m->device_items && m->now.stage2 != NULL) {
            tlb_entry second;
            int status = mmu_second(m, at, m->now.table_kind, &second);
            if (status != PT_OK)
                return status;
            at = mmu_at(&second, at);
        }
        m->counts.context_references++;
        m->counts.references++;
        m->counts.cycles += mmu_reference(m, at);
    }
    if (m->contexts != NULL) {
        unsigned lg2 = m->contexts->smallest_lg2;
        tlb_entry known = {m->context_key >> lg2 << lg2, tlb_tag(m->now.guest, lg2, 0, 0, 0)};
        tlb_refill(m->contexts, &known, m->context_key, TLB_LOAD, TLB_MAX_LEVELS);
    }
    return PT_OK;
}

/* A request of a device. Returns what mmu_resolve does, or MMU_DEVICE where the device itself knew. */
static unsigned mmu_request(mmu *m, uint64_t va, unsigned kind, uint64_t *pa, int *status) {
    unsigned level, side = kind & (MMU_READ | MMU_WRITE | MMU_EXECUTE);
    tlb_entry *hit = m->device == NULL ? NULL : tlb_lookup(m->device, va, m->device_space, side, &level);
    const pt_need *need = m->now.need1[mmu_half(&m->now, va)];
    *status = PT_OK;
    if (mmu_answers(&m->now, &need[kind], hit, kind)) {
        m->counts.accesses++;
        m->counts.device_hits++;
        *pa = mmu_at(hit, va);
        return MMU_DEVICE;
    }
    uint64_t before = m->counts.cycles;
    *status = mmu_learn(m);
    if (m->counts.cycles != before)
        mmu_occupy(m, before);
    if (*status != PT_OK) {
        m->counts.accesses++;
        return mmu_fails(m, pa);
    }
    tlb_entry entry;
    unsigned code = mmu_resolve(m, va, kind, &entry, pa, status);
    if (m->device != NULL && code != MMU_FAULT) {
        entry.tag = (entry.tag & ~(uint64_t)TLB_SPACE) | m->device_space;
        if (hit == NULL)
            tlb_refill(m->device, &entry, va, side, TLB_MAX_LEVELS);
        else
            tlb_fill(m->device, &entry, va, side, TLB_MAX_LEVELS);
    }
    return code;
}

PT_INLINE unsigned mmu_asks(mmu *m, uint64_t va, unsigned kind, uint64_t *pa, int *status) {
    return PT_UNLIKELY(m->behind) ? mmu_request(m, va, kind, pa, status) : mmu_access(m, va, kind, pa, status);
}

/* -- batches ---------------------------------------------------------------------------------------------- */

/* A batch is served in chunks: when a quarter of one asked the tables, the next one's items are asked for early. */
#define MMU_CHUNK 16

/* Which accesses: at what, of which sides (of one, where it is not 0), and what all of them are besides. */
typedef struct {
    const uint64_t *vas;
    const uint8_t *sides;
    unsigned side, extra;
    size_t count;
    uint8_t *out;
} mmu_batch;

PT_INLINE unsigned mmu_kind(const mmu_batch *b, size_t n) { return (b->side ? b->side : b->sides[n]) | b->extra; }

/* Accesses of a CPU from `first` to `end`, and on while they go on in one page. Asked again within the smallest
 * page of the access before, for the same, which the first level served and may serve, nothing but the counts
 * changes. Returns where it ended. */
PT_INLINE size_t mmu_ask_chunk(mmu *m, const mmu_batch *b, size_t first, size_t end) {
    unsigned lg2 = m->tlb->smallest_lg2;
    uint64_t pa;
    int status;
    size_t n = first;
    while (n < end) {
        unsigned kind = mmu_kind(b, n), code = mmu_access(m, b->vas[n], kind, &pa, &status);
        uint64_t page = b->vas[n] >> lg2;
        b->out[n++] = (uint8_t)code;
        if (code != 0 || m->tlb->recent == NULL || m->tlb->recent_page != page)
            continue;
        size_t again = n;
        for (; n < b->count && b->vas[n] >> lg2 == page && mmu_kind(b, n) == kind; n++)
            b->out[n] = 0;
        m->counts.accesses += n - again;
        m->counts.hits[0] += n - again;
    }
    return n;
}

/* Asks early for the items of a chunk that begins at `first`. `half`: of which the hint is. */
PT_INLINE void mmu_look_at_chunk(const mmu *m, const mmu_batch *b, size_t first, pt_hint *hint, unsigned *half) {
    unsigned now = mmu_half(&m->now, b->vas[first]);
    size_t left = b->count - first;
    hint->set &= now == *half;
    *half = now;
    if (m->now.look_ahead[now] != NULL && m->now.stage1[now]->memory->flat_room != 0) /* else no hint could help */
        m->now.look_ahead[now](m->now.stage1[now], b->vas + first, left < MMU_CHUNK ? left : MMU_CHUNK, hint);
}

PT_INLINE void mmu_ask_chunks(mmu *m, mmu_batch b) {
    pt_hint hint = {0, {0, 0, 0}, 0};
    unsigned half = 0;
    int busy = 0;
    for (size_t n = 0; n < b.count;) {
        size_t end = b.count - n < MMU_CHUNK ? b.count : n + MMU_CHUNK;
        uint64_t walks = m->counts.walks;
        if (busy && end < b.count)
            mmu_look_at_chunk(m, &b, end, &hint, &half);
        n = mmu_ask_chunk(m, &b, n, end);
        busy = (m->counts.walks - walks) * 4 >= MMU_CHUNK;
    }
}

/* A batch of accesses, all of `side` or of `sides`, with what all of them are besides. Reads alone have a loop of
 * their own, in which the kind is known to the compiler. */
static inline __attribute__((unused)) void mmu_ask_many(mmu *m, const uint64_t *vas, const uint8_t *sides,
                                                        unsigned side, unsigned extra, size_t count, uint8_t *out) {
    mmu_batch b = {vas, sides, side, extra, count, out};
    uint64_t pa;
    int status;
    if (m->behind)
        for (size_t n = 0; n < count; n++)
            out[n] = (uint8_t)mmu_request(m, vas[n], mmu_kind(&b, n), &pa, &status);
    else if (side == MMU_READ && extra == 0)
        mmu_ask_chunks(m, (mmu_batch){vas, NULL, MMU_READ, 0, count, out});
    else
        mmu_ask_chunks(m, b);
}
#endif
