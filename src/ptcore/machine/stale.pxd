from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t


cdef extern from "intervals.h" nogil:
    ctypedef struct iv_node:
        uint64_t start
        uint64_t last

    ctypedef struct iv_tree:
        iv_node *nodes
        uint32_t root
        uint32_t room

    ctypedef struct iv_hits:
        uint32_t *ids
        size_t count
        size_t room
        int short_

    void iv_push(iv_hits *h, uint32_t id)
    int iv_reserve(iv_tree *t, uint32_t room)
    void iv_insert(iv_tree *t, uint32_t id, uint64_t start, uint64_t last)
    void iv_remove(iv_tree *t, uint32_t id)
    void iv_meeting(const iv_tree *t, uint32_t n, uint64_t first, uint64_t last, iv_hits *h)
    void iv_inside(const iv_tree *t, uint32_t n, uint64_t first, uint64_t last, iv_hits *h)


cdef class CpuSet:
    # Numbers of CPUs (and, after them, of devices): made once for each set that is named.
    cdef readonly frozenset members
    cdef uint32_t count
    cdef uint32_t *numbers
    cdef uint32_t words
    cdef uint64_t *bits
    cdef int64_t ledger_number
    cdef dict without_one

    cdef bint has(self, int64_t number) noexcept


cdef class StaleSpans:
    # By number, from 1 on: an address tree, a frame tree, the order of their opening, the CPUs that may hold it.
    cdef iv_tree by_address
    cdef iv_tree by_frame
    cdef uint64_t *order
    cdef uint64_t *bits
    # Of those, the ones whose TLBs may: a stale translation that a TLB gave up never comes back.
    cdef uint64_t *maybe
    # Whether it is in the frame tree: a span that no TLB has any more is not looked at when its frames go.
    cdef uint8_t *framed
    cdef uint32_t words
    cdef uint32_t used
    cdef uint32_t unused
    cdef uint32_t count
    cdef uint64_t opened
    cdef iv_hits found
    # What the last drop took away; their numbers are free from the next open or drop on.
    cdef iv_hits gone

    cdef int make_room(self, uint32_t words) except -1
    cdef uint32_t open(self, uint64_t first, uint64_t last, uint64_t pa, CpuSet holders) except? 0xFFFF_FFFF
    cdef void free_gone(self) noexcept
    cdef int drop(self, uint64_t first, uint64_t last, CpuSet targets) except -1
    cdef size_t at_frames(self, uint64_t pa, uint64_t last) except? 0xFFFF_FFFF
    cdef uint32_t meeting(self, uint64_t first, uint64_t last, CpuSet asked) except? 0xFFFF_FFFF
    cdef frozenset holders_of(self, uint32_t n)
    cdef void ask_again(self) noexcept
    cdef void given_up(self, uint32_t n) noexcept
    cdef int sort(self, iv_hits *hits) except -1
