from libc.stdint cimport uint8_t, uint64_t

from ptcore.memory.lazy cimport LazyPages, pt_lazy


cdef extern from "memory.h" nogil:
    ctypedef struct pt_segment:
        uint64_t start
        uint64_t size
        uint8_t *bytes
        pt_lazy *lazy

    ctypedef struct pt_memory:
        uint64_t flat_start
        uint64_t flat_room
        uint8_t *flat
        const pt_segment *segments
        size_t count

    int pt_holds(const pt_memory *memory, uint64_t pa, uint64_t n)
    uint8_t *pt_at_any(const pt_memory *memory, uint64_t pa, uint64_t n)
    uint8_t *pt_at(const pt_memory *memory, uint64_t pa, uint64_t n)
    enum: PT_LONGEST_ITEM


cdef class FrameAllocator:
    cdef readonly uint64_t start
    cdef readonly uint64_t end
    cdef readonly uint64_t frame_bytes
    cdef readonly uint64_t allocated_bytes
    cdef readonly uint64_t peak_bytes
    cdef uint8_t *bytes
    cdef object owner
    cdef uint64_t next
    cdef uint8_t *states
    cdef uint64_t states_bytes
    cdef list stacks
    cdef list gaps
    cdef uint64_t take(self, int size_lg2, bint zero)
    cdef bint give(self, uint64_t pa, int size_lg2) noexcept
    cdef bint owns(self, uint64_t pa, int size_lg2) noexcept
    cdef uint64_t room(self, int size_lg2) noexcept
    cdef dict take_all(self, dict wanted, uint64_t limit)


cdef class PhysicalMemory:
    cdef pt_memory c
    cdef pt_segment *owned_segments
    cdef list buffers
    cdef list mapped
    cdef readonly bint writable
    cdef readonly FrameAllocator frames
    cdef LazyPages lazy  # None: all bytes are here
    cdef uint8_t *_find(self, uint64_t pa, uint64_t size) except? NULL
    cdef uint8_t *_bytes_at(self, pa, size) except NULL
    # The doors of memory that is read piece by piece: look at `misses`, do the work, and do it again for as long as
    # `fetch_missing` says that pages were missing and are here now.
    cdef uint64_t misses(self) noexcept nogil
    cdef bint fetch_missing(self, uint64_t *seen) except -1
