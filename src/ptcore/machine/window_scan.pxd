from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t, uint8_t

from ptcore.machine.ledger cimport LedgerRow
from ptcore.machine.stale cimport CpuSet, StaleSpans


cdef struct Opened:
    # Of a span that is stale: as the ledger said it, and what happened to its frames since (freed_ns: -1 not yet).
    uint64_t first
    uint64_t pa
    uint64_t page
    int64_t pages
    int64_t freed_ns
    int64_t freed_pages
    int32_t cpus
    int32_t held_on
    uint8_t reused


cdef packed struct Window:
    int64_t start_ns
    int64_t end_ns
    uint64_t first
    uint64_t pa
    int64_t pages
    int32_t cpus
    int32_t held_on
    uint8_t reused
    uint8_t closed


cdef class WindowScan:
    cdef object ledger
    cdef CpuSet everyone
    cdef StaleSpans spans
    cdef Opened *opened
    cdef uint32_t room
    cdef Window *out
    cdef size_t used
    cdef size_t out_room
    cdef list sets
    cdef uint64_t largest_page
    cdef int64_t last_ns

    cdef CpuSet named(self, uint32_t number)
    cdef int open(self, const LedgerRow *row, CpuSet held) except -1
    cdef int64_t overlap(self, const Opened *o, const LedgerRow *row) noexcept
    cdef int frames(self, const LedgerRow *row, bint freed) except -1
    cdef int held(self, const LedgerRow *row) except -1
    cdef int close(self, const LedgerRow *row) except -1
    cdef int put(self, const Opened *o, int64_t end_ns, bint closed) except -1
