from cpython.ref cimport PyObject
from libc.stdint cimport int64_t, uint32_t, uint64_t

from ptcore.allocators.address_tree cimport AddressTree
from ptcore.caches.mmu cimport mmu
from ptcore.machine.ledger cimport Ledger
from ptcore.machine.stale cimport CpuSet, StaleSpans
from ptcore.memory.physical cimport PhysicalMemory
from ptcore.table.abi cimport pt_item
from ptcore.table.leaf_run cimport LeafRuns, Near
from ptcore.table.page_table cimport PageTable


cdef struct Seen:
    # What touches took: hits below the first level, walks, items read, faults.
    uint64_t lower
    uint64_t walks
    uint64_t references
    uint64_t faults


cdef struct ByPage:
    # One verb that goes page by page: who does it, how, and what was so of the page before. `region`: of the table
    # whose pages all `users` dropped what they knew of; `folded`: its rows were those of the page before it.
    int64_t cpu
    PyObject *users
    bint all_users
    bint replaced
    unsigned need
    unsigned rights
    pt_item item
    Near near
    uint64_t region
    uint64_t begin
    uint64_t pa
    uint64_t moved
    Seen seen
    bint folded


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
    cdef AddressTree frames
    cdef int64_t cpu_count
    cdef PyObject **own_mmus
    cdef list owed
    cdef list timers
    cdef int64_t timers_set
    cdef dict sets
    cdef dict sets_of_bits
    cdef list singles
    cdef CpuSet everyone

    cdef int check(self, int64_t cpu) except -1
    cdef CpuSet set_of(self, cpus)
    cdef mmu *mmu_of(self, uint32_t number) except NULL
    cdef CpuSet set_of_bits(self, const uint64_t *bits, uint32_t words)
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
    cdef int mapped_rows(self, uint64_t va, uint64_t pa, uint64_t pages, int64_t cpu, bint any_size) except -1
    cdef int unmapped_rows(self, uint64_t va, uint64_t pa, uint64_t pages, int64_t cpu, CpuSet named) except -1
    cdef void touch_pages(self, uint64_t start, uint64_t count, int64_t cpu, unsigned need, Seen *seen) noexcept
    cdef int touched_rows(self, uint64_t first, uint64_t last, uint64_t count, int64_t cpu, const Seen *seen) except -1
    cdef int map_pages(
        self, uint64_t va, uint64_t pa, uint64_t size, int64_t cpu, CpuSet users, memory_type, pt_item item,
        unsigned rights
    ) except -1
    cdef int access_run(
        self, uint64_t first, uint64_t last, int64_t cpu, kind, unsigned need, bint replaced
    ) except -1
    cdef int touch_run(self, uint64_t first, uint64_t last, int64_t cpu, unsigned need) except -1
    cdef bint has_own_access(self) except -1
    cdef int begin_by_page(self, ByPage *by, int64_t cpu, cpus, kind, memory_type) except -1
    cdef bint touch_page(self, ByPage *by, uint64_t at, uint64_t frame) except -1
    cdef int touch_any_page(self, ByPage *by, uint64_t at, uint64_t frame, cpus, kind, memory_type) except -1
    cdef int unmap_page(self, ByPage *by, uint64_t at, cpus) except -1
    cdef int unmap_in_turn(self, ByPage *by, uint64_t at, cpus) except -1
    cdef uint64_t unmap_alike(self, ByPage *by, uint64_t at, uint64_t pages) except? 0
