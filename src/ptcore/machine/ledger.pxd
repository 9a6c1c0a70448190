from libc.stdint cimport int16_t, int64_t, uint8_t, uint32_t, uint64_t


cdef packed struct LedgerRow:
    int64_t time_ns
    uint64_t first
    uint64_t last
    uint64_t pa
    int64_t count
    uint32_t cpus
    int16_t cpu
    uint8_t event
    uint8_t unused


cdef class Ledger:
    cdef LedgerRow *data
    cdef size_t used
    cdef size_t room
    cdef dict set_numbers
    cdef list sets
    cdef int64_t last_time
