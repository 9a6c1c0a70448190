/* What plain C does with the same tables: the practical limit that bench/ measures against.
 * Built and loaded by bench/limit.py with -O3; every function takes the memory as a host pointer. */
#include <stdint.h>
#include <string.h>
typedef uint64_t u64;
#define ADDR 0x000ffffffffff000ull

static inline u64 load(const uint8_t *mem, u64 pa) { return *(const u64 *)(mem + pa); }

/* One dependent load per level, nothing checked but P and PS. */
static inline u64 walk(const uint8_t *mem, u64 root, u64 va) {
    u64 t = root;
    for (int s = 39;; s -= 9) {
        u64 e = load(mem, t + ((va >> s) & 511) * 8);
        if (!(e & 1))
            return ~0ull;
        if (s == 12 || ((e & 0x80) && s <= 30)) {
            u64 m = (1ull << s) - 1;
            return (e & ADDR & ~m) | (va & m);
        }
        t = e & ADDR;
    }
}

void walk_many(const uint8_t *mem, u64 root, const u64 *vas, u64 *pas, u64 n) {
    for (u64 i = 0; i < n; i++)
        pas[i] = walk(mem, root, vas[i]);
}

/* One page at a time from the root, tables taken from `top` up; returns the new top. */
static u64 map1(uint8_t *mem, u64 root, u64 va, u64 pa, u64 top) {
    u64 t = root;
    for (int s = 39; s > 12; s -= 9) {
        u64 *e = (u64 *)(mem + t + ((va >> s) & 511) * 8);
        if (!(*e & 1)) {
            *e = top | 7;
            memset(mem + top, 0, 4096);
            top += 4096;
        }
        t = *e & ADDR;
    }
    *(u64 *)(mem + t + ((va >> 12) & 511) * 8) = pa | 7;
    return top;
}

u64 map_run(uint8_t *mem, u64 root, u64 va, u64 pa, u64 pages, u64 top) {
    for (u64 i = 0; i < pages; i++)
        top = map1(mem, root, va + i * 4096, pa + i * 4096, top);
    return top;
}

/* Every leaf in order, merged while addresses go on; writes rows of (va, pa, bytes); returns their count. */
u64 scan(const uint8_t *mem, u64 table, int shift, u64 va, u64 *rows, u64 count) {
    for (u64 i = 0; i < 512; i++) {
        u64 e = load(mem, table + i * 8), v = va | i << shift, size = 1ull << shift;
        if (!(e & 1))
            continue;
        if (shift == 12 || ((e & 0x80) && shift <= 30)) {
            u64 pa = e & ADDR & ~(size - 1), *r = rows + 3 * count - 3;
            if (count && r[0] + r[2] == v && r[1] + r[2] == pa)
                r[2] += size;
            else {
                r[3] = v, r[4] = pa, r[5] = size;
                count++;
            }
        } else
            count = scan(mem, e & ADDR, shift - 9, v, rows, count);
    }
    return count;
}

/* A two-level LRU TLB of 4 KiB pages, exact LRU by move-to-front; L1 64 entries of 4 ways, L2 1536 of
 * 12 ways; L2 is asked on an L1 miss and both are filled. `l1` and `l2` hold 16 * 4 and 128 * 12 page
 * numbers, most recent first, ~0 where empty. counts: L1 hits, L2 hits, walks. */
static inline int front(u64 *set, int ways, u64 vpn) {
    for (int w = 0; w < ways; w++)
        if (set[w] == vpn) {
            for (; w; w--)
                set[w] = set[w - 1];
            set[0] = vpn;
            return 1;
        }
    for (int w = ways - 1; w; w--)
        set[w] = set[w - 1];
    set[0] = vpn;
    return 0;
}

void tlb_lru(u64 *l1, u64 *l2, const u64 *vas, u64 n, u64 *counts) {
    for (u64 i = 0; i < n; i++) {
        u64 vpn = vas[i] >> 12;
        if (front(l1 + (vpn & 15) * 4, 4, vpn))
            counts[0]++;
        else if (front(l2 + (vpn & 127) * 12, 12, vpn))
            counts[1]++;
        else
            counts[2]++;
    }
}

/* The full model: entries with an address-space number, of 4K, 2M and 1G, in two levels; paging-structure
 * caches of 32, 4 and 2 items; a walk of real tables on a miss that checks P, W, U and XD and sets the
 * accessed bit. Exact LRU by move-to-front. */
typedef struct {
    u64 key, at;
} entry;
typedef struct {
    entry l1_4k[16][4], l1_2m[8][4], l1_1g[4], l2[128][12], l2_1g[4][4], pde[32], pdpte[4], pml4e[2];
    u64 seen, hits1, hits2, walks, items;
} model;

u64 model_bytes(void) { return sizeof(model); }

static inline entry *found(entry *set, int ways, u64 key) {
    for (int w = 0; w < ways; w++)
        if (set[w].key == key) {
            entry e = set[w];
            for (; w; w--)
                set[w] = set[w - 1];
            set[0] = e;
            return set;
        }
    return 0;
}

static inline void put(entry *set, int ways, u64 key, u64 at) {
    for (int w = ways - 1; w; w--)
        set[w] = set[w - 1];
    set[0] = (entry){key, at};
}

static inline u64 key_of(u64 va, int shift, u64 asid) { return (va >> shift) << 20 | asid << 8 | (u64)shift; }

static inline void fill_l1(model *m, u64 va, int shift, u64 key, u64 at) {
    if (shift == 12)
        put(m->l1_4k[va >> 12 & 15], 4, key, at);
    else if (shift == 21)
        put(m->l1_2m[va >> 21 & 7], 4, key, at);
    else
        put(m->l1_1g, 4, key, at);
}

static inline int granted(u64 item, u64 wanted) { return (item & wanted) == wanted; }

static int model_walk(model *m, uint8_t *mem, u64 root, u64 va, u64 asid, u64 wanted) {
    u64 table = root, rights = 6;
    int s = 39;
    entry *known;
    if ((known = found(m->pde, 32, key_of(va, 21, asid))))
        s = 12;
    else if ((known = found(m->pdpte, 4, key_of(va, 30, asid))))
        s = 21;
    else if ((known = found(m->pml4e, 2, key_of(va, 39, asid))))
        s = 30;
    if (known)
        table = known->at & ADDR, rights = known->at & 6;
    for (;; s -= 9) {
        u64 *at = (u64 *)(mem + table + ((va >> s) & 511) * 8), e = *at;
        m->items++;
        if (!(e & 1))
            return 0;
        rights &= e & 6;
        if (!(e & 0x20))
            *at = e | 0x20;
        if (s == 12 || ((e & 0x80) && s <= 30)) {
            u64 key = key_of(va, s, asid), pa = (e & ADDR & ~((1ull << s) - 1)) | rights | (e & 0x40);
            if (!granted(rights, wanted))
                return 0;
            m->seen |= 1ull << s;
            if (s == 30)
                put(m->l2_1g[va >> 30 & 3], 4, key, pa);
            else
                put(m->l2[va >> s & 127], 12, key, pa);
            fill_l1(m, va, s, key, pa);
            return 1;
        }
        table = e & ADDR;
        if (s == 39)
            put(m->pml4e, 2, key_of(va, 39, asid), table | rights);
        else if (s == 30)
            put(m->pdpte, 4, key_of(va, 30, asid), table | rights);
        else
            put(m->pde, 32, key_of(va, 21, asid), table | rights);
    }
}

void model_access(model *m, uint8_t *mem, u64 root, u64 asid, const u64 *vas, uint8_t *out, u64 n) {
    for (u64 i = 0; i < n; i++) {
        u64 va = vas[i];
        entry *e = 0;
        if (m->seen & 1ull << 12)
            e = found(m->l1_4k[va >> 12 & 15], 4, key_of(va, 12, asid));
        if (!e && m->seen & 1ull << 21)
            e = found(m->l1_2m[va >> 21 & 7], 4, key_of(va, 21, asid));
        if (!e && m->seen & 1ull << 30)
            e = found(m->l1_1g, 4, key_of(va, 30, asid));
        if (e && granted(e->at, 0)) {
            m->hits1++, out[i] = 0;
            continue;
        }
        int s = 12;
        if (m->seen & 1ull << 12)
            e = found(m->l2[va >> 12 & 127], 12, key_of(va, s = 12, asid));
        if (!e && m->seen & 1ull << 21)
            e = found(m->l2[va >> 21 & 127], 12, key_of(va, s = 21, asid));
        if (!e && m->seen & 1ull << 30)
            e = found(m->l2_1g[va >> 30 & 3], 4, key_of(va, s = 30, asid));
        if (e && granted(e->at, 0)) {
            m->hits2++, out[i] = 1;
            fill_l1(m, va, s, e->key, e->at);
            continue;
        }
        m->walks++;
        out[i] = model_walk(m, mem, root, va, asid, 0) ? 254 : 255;
    }
}
