/* Intervals [start, last] that are found by what they meet: a search tree by start, each node with the highest
 * `last` below it. The tree is a treap (R. Seidel, C. R. Aragon, "Randomized Search Trees", Algorithmica 16, 1996):
 * priorities come from a generator with a fixed seed, so that runs repeat. Numbers are the owner's; 0 is none. */
#ifndef PT_INTERVALS_H
#define PT_INTERVALS_H
#include "memory.h"
#include <stdlib.h>

typedef struct {
    uint64_t start, last, most; /* most: the highest last of the subtree */
    uint32_t left, right, priority;
} iv_node;

typedef struct {
    iv_node *nodes; /* by number */
    uint32_t root, room;
    uint32_t random;
} iv_tree;

/* Numbers that a search found. `short_` is set where memory ran out, and the rest is missing. */
typedef struct {
    uint32_t *ids;
    size_t count, room;
    int short_;
} iv_hits;

static inline __attribute__((unused)) void iv_push(iv_hits *h, uint32_t id) {
    if (h->count == h->room) {
        size_t room = h->room ? 2 * h->room : 64;
        uint32_t *grown = realloc(h->ids, room * sizeof *grown);
        if (grown == NULL) {
            h->short_ = 1;
            return;
        }
        h->ids = grown;
        h->room = room;
    }
    h->ids[h->count++] = id;
}

/* Room for numbers below `room`; 0 when memory is short. */
static inline __attribute__((unused)) int iv_reserve(iv_tree *t, uint32_t room) {
    if (room <= t->room)
        return 1;
    iv_node *grown = realloc(t->nodes, room * sizeof *grown);
    if (grown == NULL)
        return 0;
    t->nodes = grown;
    t->room = room;
    return 1;
}

/* Marsaglia, "Xorshift RNGs", Journal of Statistical Software 8 (14), 2003: 13, 17, 5. */
PT_INLINE uint32_t iv_random(iv_tree *t) {
    uint32_t x = t->random ? t->random : 1;
    x ^= x << 13;
    x ^= x >> 17;
    x ^= x << 5;
    return t->random = x;
}

PT_INLINE int iv_before(const iv_tree *t, uint32_t n, uint64_t start, uint32_t id) {
    return t->nodes[n].start < start || (t->nodes[n].start == start && n < id);
}

PT_INLINE void iv_refresh(iv_tree *t, uint32_t n) {
    iv_node *node = &t->nodes[n];
    node->most = node->last;
    if (node->left && t->nodes[node->left].most > node->most)
        node->most = t->nodes[node->left].most;
    if (node->right && t->nodes[node->right].most > node->most)
        node->most = t->nodes[node->right].most;
}

/* Recursions are as deep as the tree is high: a small multiple of log2(intervals). */

static __attribute__((unused)) void iv_split(iv_tree *t, uint32_t n, uint64_t start, uint32_t id, uint32_t *left,
                                             uint32_t *right) {
    if (n == 0) {
        *left = *right = 0;
    } else if (iv_before(t, n, start, id)) {
        uint32_t rest;
        iv_split(t, t->nodes[n].right, start, id, &rest, right);
        t->nodes[n].right = rest;
        iv_refresh(t, n);
        *left = n;
    } else {
        uint32_t rest;
        iv_split(t, t->nodes[n].left, start, id, left, &rest);
        t->nodes[n].left = rest;
        iv_refresh(t, n);
        *right = n;
    }
}

static __attribute__((unused)) uint32_t iv_merge(iv_tree *t, uint32_t left, uint32_t right) {
    if (left == 0 || right == 0)
        return left ? left : right;
    if (t->nodes[left].priority > t->nodes[right].priority) {
        t->nodes[left].right = iv_merge(t, t->nodes[left].right, right);
        iv_refresh(t, left);
        return left;
    }
    t->nodes[right].left = iv_merge(t, left, t->nodes[right].left);
    iv_refresh(t, right);
    return right;
}

static __attribute__((unused)) uint32_t iv_with(iv_tree *t, uint32_t n, uint32_t id) {
    iv_node *made = &t->nodes[id];
    if (n == 0 || made->priority > t->nodes[n].priority) {
        iv_split(t, n, made->start, id, &made->left, &made->right);
        iv_refresh(t, id);
        return id;
    }
    if (iv_before(t, n, made->start, id))
        t->nodes[n].right = iv_with(t, t->nodes[n].right, id);
    else
        t->nodes[n].left = iv_with(t, t->nodes[n].left, id);
    iv_refresh(t, n);
    return n;
}

static __attribute__((unused)) uint32_t iv_without(iv_tree *t, uint32_t n, uint32_t id) {
    if (n == id)
        return iv_merge(t, t->nodes[n].left, t->nodes[n].right);
    if (iv_before(t, n, t->nodes[id].start, id))
        t->nodes[n].right = iv_without(t, t->nodes[n].right, id);
    else
        t->nodes[n].left = iv_without(t, t->nodes[n].left, id);
    iv_refresh(t, n);
    return n;
}

/* Adds [start, last] under a number that is not in use, for which there is room. O(log n). */
static inline __attribute__((unused)) void iv_insert(iv_tree *t, uint32_t id, uint64_t start, uint64_t last) {
    t->nodes[id] = (iv_node){start, last, last, 0, 0, iv_random(t)};
    t->root = iv_with(t, t->root, id);
}

/* Takes a number out that is in the tree. O(log n). */
static inline __attribute__((unused)) void iv_remove(iv_tree *t, uint32_t id) {
    t->root = iv_without(t, t->root, id);
}

/* Finds all that meet [first, last]: O(log n + hits), in order of their starts. */
static __attribute__((unused)) void iv_meeting(const iv_tree *t, uint32_t n, uint64_t first, uint64_t last,
                                               iv_hits *h) {
    const iv_node *node = &t->nodes[n];
    if (n == 0 || node->most < first)
        return;
    iv_meeting(t, node->left, first, last, h);
    if (node->start <= last) {
        if (node->last >= first)
            iv_push(h, n);
        iv_meeting(t, node->right, first, last, h);
    }
}

/* Finds all that lie inside [first, last], among those that begin in it. */
static __attribute__((unused)) void iv_inside(const iv_tree *t, uint32_t n, uint64_t first, uint64_t last,
                                              iv_hits *h) {
    const iv_node *node = &t->nodes[n];
    if (n == 0)
        return;
    if (node->start >= first)
        iv_inside(t, node->left, first, last, h);
    if (node->start >= first && node->last <= last)
        iv_push(h, n);
    if (node->start <= last)
        iv_inside(t, node->right, first, last, h);
}
#endif
