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
