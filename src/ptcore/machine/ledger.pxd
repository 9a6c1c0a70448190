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
    uint8_t page_lg2


cdef packed struct Repeat:
    # `period` stored rows from the stored row `at` on happened `times` times; each time what the bits above a
    # row's page_lg2 say (MOVES_ADDRESS, MOVES_FRAME) went on by `step` bytes.
    uint64_t at
    uint64_t times
    int64_t step
    uint32_t period
    uint32_t unused


cdef enum:
    PAGE_LG2 = 63
    MOVES_ADDRESS = 64
    MOVES_FRAME = 128


cdef class Ledger:
    # Stored rows that are in memory, the first of which is the stored row `before`.
    cdef LedgerRow *data
    cdef size_t used
    cdef size_t room
    cdef uint64_t before
    cdef Repeat *repeats
    cdef size_t repeats_used
    cdef size_t repeats_room
    # All rows that happened, those in memory and those not.
    cdef uint64_t length
    cdef uint64_t length_before
    cdef int64_t numbers[256]
    cdef int64_t sums[256]
    cdef dict set_numbers
    cdef list sets
    cdef int64_t last_time
    # Beyond `limit` stored rows, those in memory become a part on disk; 0 for no limit.
    cdef size_t limit
    cdef object folder
    cdef object temporary
    cdef object form
    cdef list files

    cdef LedgerRow *new_row(self) except NULL
    cdef Repeat *new_repeat(self) except NULL
    cdef int put(
        self, uint8_t event, int64_t time_ns, int16_t cpu, int64_t count, uint64_t first, uint64_t last,
        uint64_t pa, uint32_t cpus
    ) except -1
    cdef void sized(self, unsigned page_lg2) noexcept
    cdef uint32_t number_of(self, frozenset cpus)
    cdef uint64_t mark(self) noexcept
    cdef bint fold(self, uint64_t start, uint64_t mark, int64_t step) except -1
    cdef void again(self, uint64_t times) noexcept
    cdef bint repeats_row(self, const LedgerRow *a, const LedgerRow *b, uint64_t step, uint8_t *moves) noexcept
