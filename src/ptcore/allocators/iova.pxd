from libc.stdint cimport int32_t, uint8_t, uint64_t


cdef struct IovaRange:
    # Pages low..high that the tree holds, with the ranges below and above; `cached`: in a magazine.
    uint64_t low
    uint64_t high
    int32_t below
    int32_t above
    uint8_t cached


cdef struct Asked:
    # A request: its size in pages, a power of two, and that as one; the last page that it may have.
    int order
    uint64_t size
    uint64_t limit


cdef class Magazine:
    cdef uint64_t *pages
    cdef int32_t room
    cdef int32_t used

    cdef uint64_t pop(self, uint64_t last, bint keep) noexcept


cdef class IovaAllocator:
    cdef readonly int cpus
    cdef readonly uint64_t first_page
    cdef readonly uint64_t last_page
    cdef readonly int magazine_pages
    cdef readonly uint64_t cache_hits
    cdef readonly uint64_t cache_misses
    cdef readonly uint64_t steps
    cdef IovaRange *ranges
    cdef int32_t room
    cdef int32_t used
    cdef int32_t unused
    cdef int32_t recent
    cdef int32_t recent32
    cdef uint64_t failed32
    cdef dict numbers
    cdef list loaded
    cdef list previous
    cdef list depot

    cdef int asked(self, cpu, pages, last, Asked *out) except -1
    cdef int32_t take_number(self) except -1
    cdef uint64_t fit(self, uint64_t pages, uint64_t end, bint keep, int32_t *above) noexcept
    cdef int insert(self, uint64_t low, uint64_t pages, int32_t above) except -1
    cdef int remove(self, int32_t n) except -1
    cdef uint64_t from_cache(self, int cpu, int order, uint64_t last, bint keep)
    cdef int to_cache(self, int cpu, int order, uint64_t page) except -1
