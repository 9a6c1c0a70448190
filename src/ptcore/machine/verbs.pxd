from libc.stdint cimport int64_t, uint32_t, uint64_t

from ptcore.caches.mmu cimport Mmu
from ptcore.machine.ledger cimport Ledger
from ptcore.machine.stale cimport CpuSet, StaleSpans
from ptcore.memory.physical cimport PhysicalMemory
from ptcore.table.abi cimport pt_item
from ptcore.table.leaf_run cimport LeafRuns
from ptcore.table.page_table cimport PageTable


cdef class Verbs:
    cdef readonly Ledger ledger
    cdef readonly PageTable table
    cdef readonly PhysicalMemory memory
    cdef readonly tuple mmus
    cdef readonly list devices
    cdef readonly list processes
    cdef readonly object shootdown
    cdef bint interrupts
    cdef readonly uint64_t page_bytes
    cdef readonly uint64_t data_bytes
    cdef public int64_t now_ns
    cdef LeafRuns runs
    cdef StaleSpans spans
    cdef object frames
    cdef list owed
    cdef list timers
    cdef int64_t timers_set
    cdef dict sets
    cdef list singles
    cdef CpuSet everyone

    cdef int check(self, int64_t cpu) except -1
    cdef CpuSet set_of(self, cpus)
    cdef CpuSet others(self, CpuSet cpus, int64_t cpu)
    cdef int row(
        self, int event, int64_t cpu, int64_t count, uint64_t first, uint64_t last, uint64_t pa, CpuSet cpus
    ) except -1
    cdef int note_held(self, uint64_t pa, uint64_t size, int64_t cpu) except -1
    cdef int must_not_be_stale(self, uint64_t first, uint64_t last, CpuSet users) except -1
    cdef object type_of(self, memory_type)
    cdef bint map_run(
        self, uint64_t va, uint64_t pa, uint64_t size, int64_t cpu, CpuSet users, bint any_size, pt_item item,
        unsigned rights
    ) except -1
    cdef bint unmap_run(self, uint64_t va, uint64_t size, int64_t cpu, CpuSet holders, CpuSet named) except -1
    cdef int invalidate_run(self, uint64_t first, uint64_t last, int64_t pages, int64_t cpu, CpuSet targets) except -1
    cdef int tell_others(self, CpuSet others, int64_t cpu, int64_t pages) except -1
    cdef int settle_run(self, uint64_t first, uint64_t last, CpuSet targets, int64_t cpu) except -1
    cdef int unmap_page(self, uint64_t at, int64_t cpu, CpuSet holders, CpuSet named, cpus) except -1
    cdef int touch_run(
        self, uint64_t first, uint64_t last, int64_t cpu, unsigned need
    ) except -1
