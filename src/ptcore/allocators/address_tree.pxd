from libc.stdint cimport int32_t, uint64_t


cdef struct Node:
    # A free span, and the largest (last - start) in the subtree below it, itself included.
    uint64_t start
    uint64_t last
    uint64_t best
    int32_t left
    int32_t right
    int32_t height


cdef struct Fit:
    # What is looked for (sizes less one, so that 2**64 bytes fit), and the address found.
    uint64_t size
    uint64_t search
    uint64_t align
    uint64_t first
    uint64_t last
    uint64_t found


cdef class AddressTree:
    cdef readonly uint64_t first
    cdef readonly uint64_t last
    cdef Node *nodes
    cdef int32_t root
    cdef int32_t room
    cdef int32_t used
    cdef int32_t unused
    cdef int32_t count

    cdef int32_t take_node(self, uint64_t start, uint64_t last) except -1
    cdef void drop_node(self, int32_t n) noexcept
    cdef void refresh(self, int32_t n) noexcept
    cdef int32_t height(self, int32_t n) noexcept
    cdef int32_t balanced(self, int32_t n) noexcept
    cdef int32_t rotated_left(self, int32_t n) noexcept
    cdef int32_t rotated_right(self, int32_t n) noexcept
    cdef int32_t inserted(self, int32_t tree, int32_t n) noexcept
    cdef int32_t without(self, int32_t tree, uint64_t start) noexcept
    cdef int32_t without_first(self, int32_t tree, int32_t *first) noexcept
    cdef void reshape(self, int32_t tree, uint64_t start, uint64_t new_start, uint64_t new_last) noexcept
    cdef int32_t at_or_before(self, uint64_t address) noexcept
    cdef int32_t after(self, uint64_t address) noexcept
    cdef bint find(self, int32_t n, Fit *fit) noexcept
    cdef int take(self, int32_t n, uint64_t start, uint64_t last) except -1
    # For other compiled rooms: `allocate` and `free` for numbers that were looked at.
    cdef bint take_lowest(self, uint64_t size, uint64_t align, uint64_t *start) except -1
    cdef bint give_back(self, uint64_t at, uint64_t last) except -1
