from libc.stdint cimport uint8_t, uint64_t


cdef extern from "memory.h" nogil:
    ctypedef struct pt_lazy:
        uint8_t *bytes
        uint8_t *states
        uint64_t *wanted
        size_t wanted_count
        size_t wanted_room
        uint64_t misses
        unsigned page_lg2
        uint8_t frozen
        uint8_t starved
        uint8_t lock

    uint8_t *pt_when_read(pt_lazy *lazy, uint8_t *at, uint64_t n)
    enum: PT_PAGE_UNREAD
    enum: PT_PAGE_READ
    enum: PT_PAGE_ABSENT
    enum: PT_PAGE_WANTED


cdef class LazyPages:
    cdef pt_lazy c
    cdef readonly object reader
    cdef readonly uint64_t page_bytes
    cdef readonly uint64_t fetched_bytes
    cdef uint64_t reserved_bytes
    cdef uint64_t pages
    cdef tuple spans
    cdef object first_pas  # of each span's first page, and that page's number
    cdef object first_pages
    cdef object lock
    cdef list known  # page numbers that were fetched, whether they exist or not
    cdef uint64_t misses(self) noexcept nogil
    cdef object take(self)
    cdef int fetch(self) except -1
    cdef int store(self, object pages, object texts) except -1
    cdef int give_back(self, object pages) except -1
    cdef list parts(self)
