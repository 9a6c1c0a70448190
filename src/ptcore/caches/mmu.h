/* One access as a CPU makes it: TLB, else a walk from where the paging-structure cache allows, then fill. */
#ifndef PT_MMU_H
#define PT_MMU_H
#include "formats_generated.h"
#include "tlb.h"
#include "walk.h"
#include "walk_cache.h"

enum { MMU_WALK = 254, MMU_FAULT = 255 };
enum { MMU_READ = TLB_LOAD, MMU_WRITE = TLB_STORE, MMU_EXECUTE = TLB_FETCH, MMU_USER = 8 };

typedef struct {
    uint64_t accesses, hits[TLB_MAX_LEVELS], walks, references, faults;
} mmu_counts;

typedef struct mmu {
    const pt_space *space;
    int (*walk)(struct mmu *, uint64_t va, unsigned need, tlb_entry *entry);
    tlb *tlb;
    walk_cache *walk_cache; /* may be NULL */
    const pt_need *need; /* by the kind of access: MMU_READ | ... */
    uint32_t asid;
    uint8_t marks; /* whether accessed and dirty bits are set in the tables */
    mmu_counts counts;
} mmu;

/* Marks an item that a walk went through, before anything caches it. Intel SDM vol. 3A, "Caches for Paging
 * Structures": no entry is made from an item whose accessed flag is clear. */
PT_INLINE void mmu_mark(const mmu *m, const pt_format *f, const pt_step_read *read, int write) {
    const pt_layout *layout = pt_layout_of(f, read->level, read->shape);
    pt_item marked = pt_marked(layout->accessed, read->item);
    if (write)
        marked = pt_marked(layout->dirty, marked);
    if (m->marks && pt_any(marked ^ read->item))
        pt_store(f, pt_at(m->space->memory, read->at, pt_entry_bytes(f)), marked);
}

/* Walks for `va`. Returns the status; on PT_OK *entry is the translation to cache. */
PT_INLINE int mmu_walk(const pt_format *f, mmu *m, uint64_t va, unsigned need, tlb_entry *entry) {
    const pt_space *s = m->space;
    pt_path path;
    pt_place here = pt_start(s, f);
    int status = PT_DOWN;
    uint64_t pa = PT_ALL_ONES;
    path.count = 0;
    m->counts.walks++;
    if (s->rules.check_input && !pt_legal_input(f, &s->rules, va))
        return PT_NOT_CANONICAL;
    if (m->walk_cache != NULL) {
        wc_found start;
        int known = wc_lookup(m->walk_cache, f->top, va, &start);
        if (known)
            here = (pt_place){start.table, start.level, start.rights};
    }
    while (status == PT_DOWN) {
        int level = here.level;
        status = pt_step(f, s, &m->need[need], level, va, &here, &pa, &path);
        if (status != PT_DOWN)
            break;
        mmu_mark(m, f, &path.step[path.count - 1], 0);
        if (m->walk_cache != NULL)
            wc_put(m->walk_cache, level, va, &here);
    }
    m->counts.references += path.count;
    if (status != PT_OK)
        return status;
    int write = (need & MMU_WRITE) != 0;
    const pt_step_read *leaf = &path.step[path.count - 1];
    const pt_layout *layout = pt_layout_of(f, leaf->level, leaf->shape);
    mmu_mark(m, f, leaf, write);
    unsigned page_lg2 = pt_entry_size_lg2(f, leaf->level, leaf->shape);
    uint64_t offset = va & (((uint64_t)1 << page_lg2) - 1);
    *entry = (tlb_entry){
        .page = va >> page_lg2,
        .pa = pa - offset,
        .asid = pt_is_global(f, leaf->level, leaf->shape, leaf->item) ? TLB_GLOBAL : m->asid,
        .page_lg2 = (uint8_t)page_lg2,
        .rights = (uint8_t)here.rights,
        .key = (uint8_t)(pt_number(layout->protection_key, leaf->item) & 15),
        .dirty = (uint8_t)(!m->marks || write || !pt_has_mark(layout->dirty) ||
                           pt_is_marked(layout->dirty, leaf->item)),
    };
    return PT_OK;
}

#define MMU_WALK_OF(NAME, FORMAT)                                                            \
    static int mmu_walk_##NAME(mmu *m, uint64_t va, unsigned need, tlb_entry *entry) {       \
        return mmu_walk(FORMAT, m, va, need, entry);                                         \
    }
#define MMU_WALK_OF_GENERATED(NAME) MMU_WALK_OF(NAME, &PT_FORMAT_##NAME)
#define MMU_USE_IF_GENERATED(NAME)                                                           \
    if (memcmp(m->space->format, &PT_FORMAT_##NAME, sizeof(pt_format)) == 0)                 \
        m->walk = mmu_walk_##NAME;

PT_FORMATS(MMU_WALK_OF_GENERATED)
MMU_WALK_OF(any, m->space->format)

/* Takes the walk that was compiled for the format of the space, or the one for any format. */
static inline void mmu_choose_walk(mmu *m) {
    m->walk = mmu_walk_any;
    PT_FORMATS(MMU_USE_IF_GENERATED)
}

PT_INLINE int mmu_allows(const pt_need *need, const tlb_entry *hit) {
    return (need->allowed >> hit->rights & 1) && !(need->denied_keys[(hit->rights >> 3) & 1] >> hit->key & 1);
}

/* Returns the level of the TLB that served the access, MMU_WALK or MMU_FAULT. */
PT_INLINE unsigned mmu_access(mmu *m, uint64_t va, unsigned need, uint64_t *pa, int *status) {
    unsigned level;
    m->counts.accesses++;
    unsigned side = need & (MMU_READ | MMU_WRITE | MMU_EXECUTE);
    tlb_entry *hit = tlb_lookup(m->tlb, va, m->asid, side, &level);
    *status = PT_OK;
    /* An entry that does not allow the access, or whose page is not marked dirty yet, asks the tables. */
    if (PT_LIKELY(hit != NULL && mmu_allows(&m->need[need], hit) && (hit->dirty || !(need & MMU_WRITE)))) {
        m->counts.hits[level]++;
        *pa = hit->pa | (va & (((uint64_t)1 << hit->page_lg2) - 1));
        return level;
    }
    tlb_entry entry;
    *status = m->walk(m, va, need, &entry);
    if (*status != PT_OK) {
        m->counts.faults++;
        *pa = PT_ALL_ONES;
        return MMU_FAULT;
    }
    if (hit == NULL)
        tlb_refill(m->tlb, &entry, va, side, TLB_MAX_LEVELS);
    else
        tlb_fill(m->tlb, &entry, va, side, TLB_MAX_LEVELS);
    *pa = entry.pa | (va & (((uint64_t)1 << entry.page_lg2) - 1));
    return MMU_WALK;
}
#endif
