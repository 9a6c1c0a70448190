from libc.stdint cimport uint64_t

from ptcore.memory.physical cimport PhysicalMemory
from ptcore.table.abi cimport pt_format, pt_space
from ptcore.table.engine cimport pt_engine
from ptcore.table.listed_rows cimport pt_listing, pt_row


cdef class Scan:
    cdef const pt_space *space
    cdef const pt_format *f
    cdef const pt_engine *engine
    cdef bint expand
    cdef pt_listing listing
    cdef size_t mapped_bytes  # of address space that the rows lie in; 0: they are on the heap
    # Subtrees listed before: (table, level, rights) -> the address where, or an empty one.
    cdef dict seen

    cdef int list_range(
        self, uint64_t table, int level, unsigned rights, uint64_t first, uint64_t last
    ) except -1
    cdef int list_below(
        self, uint64_t table, int level, unsigned rights, uint64_t first, uint64_t last
    ) except -1
    cdef void end_at(self, uint64_t last) noexcept
    cdef int reserve(self, size_t rows) except -1
    cdef bint move(self, size_t size, size_t least) noexcept
    cdef void let_go(self) noexcept
    cdef int add(self, const pt_row *row) except -1


cdef object mappings(
    PhysicalMemory memory, const pt_space *space, const pt_engine *engine, list ranges, bint expand
)
cdef object reverse(PhysicalMemory memory, const pt_space *space, uint64_t pa)
cdef list loops(const pt_space *space, list places)
cdef object stats(PhysicalMemory memory, const pt_space *space)
cdef object harvest(PhysicalMemory memory, const pt_space *space, bint dirty, bint clear)
