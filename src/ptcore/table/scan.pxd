from libc.stdint cimport uint8_t, uint16_t, uint64_t

from ptcore.memory.physical cimport PhysicalMemory
from ptcore.table.abi cimport pt_format, pt_item, pt_space
from ptcore.table.engine cimport pt_engine


cdef packed struct Row:
    uint64_t first
    uint64_t last
    uint64_t pa
    uint64_t page_size
    uint64_t repeat_of
    uint16_t software
    uint8_t rights
    uint8_t memory_type
    uint8_t pkey
    uint8_t flags
    uint8_t kind
    uint8_t level


cdef class Scan:
    cdef const pt_space *space
    cdef const pt_format *f
    cdef const pt_engine *engine
    cdef bint expand
    cdef Row *rows
    cdef size_t count
    cdef size_t room
    # What the last leaf row was made from, to see at once that the next leaf carries it on.
    cdef pt_item last_attributes
    cdef unsigned last_rights
    # Subtrees listed before: (table, level, rights) -> the address where, or an empty one.
    cdef dict seen

    cdef int list_range(
        self, uint64_t table, int level, unsigned rights, uint64_t first, uint64_t last
    ) except -1
    cdef int list_below(
        self, uint64_t table, int level, unsigned rights, uint64_t first, uint64_t last
    ) except -1
    cdef uint64_t carry_on(self, uint64_t table, uint64_t index, uint64_t last_index) noexcept
    cdef int list_leaf(
        self, pt_item item, int level, int shape, unsigned rights, uint64_t first, uint64_t last
    ) except -1
    cdef int add(self, const Row *row) except -1


cdef object mappings(
    PhysicalMemory memory, const pt_space *space, const pt_engine *engine, list ranges, bint expand
)
cdef object reverse(PhysicalMemory memory, const pt_space *space, uint64_t pa)
cdef object stats(PhysicalMemory memory, const pt_space *space)
cdef object harvest(PhysicalMemory memory, const pt_space *space, bint dirty, bint clear)
