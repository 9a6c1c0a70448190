"""What a Device does for every request, compiled."""

cimport cython
from libc.stdint cimport int64_t, uint32_t, uint64_t

from ptcore.caches.mmu cimport Mmu, mmu_counts, need_of
from ptcore.machine.stale cimport CpuSet, StaleSpans
from ptcore.machine.verbs cimport Verbs
from ptcore.table.abi cimport pt_item
from ptcore.table.leaf_run cimport LeafRuns
from ptcore.table.page_table cimport PageTable

from ptcore.errors import InvalidationOwed, OutOfRange
from ptcore.machine.events import Event
from ptcore.units import ALL_ONES, Span

LINE_BYTES = 64
cdef uint64_t LINE = LINE_BYTES
cdef int LINES_FLUSHED = Event.LINES_FLUSHED
cdef int ENTRIES_WRITTEN = Event.ENTRIES_WRITTEN
cdef int MAPPED = Event.MAPPED
cdef int UNMAPPED = Event.UNMAPPED
cdef int FAULTS = Event.FAULTS
cdef int DEVICE_INVALIDATED = Event.DEVICE_INVALIDATED
cdef int DEVICE_ACCESSED = Event.DEVICE_ACCESSED
cdef int DEVICE_WALKS = Event.DEVICE_WALKS
cdef int DEVICE_REFERENCES = Event.DEVICE_REFERENCES
cdef int DEVICE_HITS = Event.DEVICE_HITS
cdef int DEVICE_TLB_INVALIDATED = Event.DEVICE_TLB_INVALIDATED
cdef int CONTEXT_REFERENCES = Event.CONTEXT_REFERENCES


cdef bint is_run(first, size) except -1:
    return type(first) is int and type(size) is int and first >= 0 and 0 < size and first + size <= ALL_ONES


cdef class DeviceVerbs:
    cdef readonly Verbs machine
    cdef readonly uint32_t number
    cdef PageTable own_table
    cdef public Mmu mmu
    cdef public bint coherent
    cdef LeafRuns runs
    cdef StaleSpans spans
    cdef CpuSet itself

    def __init__(self, machine, number, table, mmu):
        self.machine = machine
        self.number = number
        self.table = table
        self.mmu = mmu
        self.coherent = True
        self.spans = StaleSpans()
        self.itself = self.machine.set_of((number,))

    @property
    def table(self):
        return self.own_table

    @table.setter
    def table(self, PageTable table not None):
        self.own_table = table
        self.runs = LeafRuns(table)

    def stale(self):
        return tuple([span for span, _, _ in self.spans.rows()])

    cdef int must_not_be_stale(self, uint64_t first, uint64_t last) except -1:
        cdef uint32_t n = self.spans.meeting(first, last, self.itself) if self.spans.count else 0
        if n:
            stale = Span(self.spans.by_address.nodes[n].start, self.spans.by_address.nodes[n].last)
            raise InvalidationOwed(
                f"{Span(first, last)} is mapped anew while device {self.number} may still hold {stale}"
            )
        return 0

    def map(self, iova, pa, length, cpu, access="rw"):
        cdef pt_item item = 0
        cdef unsigned rights = 0
        cdef uint64_t pages, first, size, frame
        if is_run(iova, length) and is_run(pa, length):
            first, size, frame = iova, length, pa
            self.must_not_be_stale(first, first + size - 1)
            self.runs.attributes_of(access, None, True, &item, &rights)
            pages = self.runs.map(first, size, frame, True, item, rights, NULL)
            if pages:
                self.machine.row(ENTRIES_WRITTEN, cpu, pages, 0, 0, 0, None)
                self.flush_run(first, first + size - 1, cpu)
                pages = size // self.machine.page_bytes
                self.machine.row(MAPPED, cpu, pages, first, first + size - 1, frame, self.itself)
                return
        span = Span.of(iova, length)
        self.must_not_be_stale(span.start, span.last)
        owed = self.own_table.map(iova, pa, length, access=access)
        self.machine.account(owed, cpu)
        if not self.coherent:
            self.flush_lines(span, owed.tables_allocated_bytes, cpu)
        self.machine.row(MAPPED, cpu, span.size // self.machine.page_bytes, iova, span.last, pa, self.itself)
        owed.discharge()

    def unmap(self, iova, length, cpu):
        cdef uint64_t pa = 0, pages, first, size
        if is_run(iova, length):
            first, size = iova, length
            pages = self.runs.unmap(first, size, NULL, &pa)
            if pages:
                self.flush_run(first, first + size - 1, cpu)
                self.machine.row(ENTRIES_WRITTEN, cpu, pages, 0, 0, 0, None)
                self.opened(first, first + size - 1, pa, cpu)
                return
        span = Span.of(iova, length)
        pa = self.own_table.translate(iova)
        if not self.coherent:
            self.flush_lines(span, 0, cpu)
        owed = self.own_table.unmap(iova, length, free_tables=False)
        self.machine.account(owed, cpu)
        self.opened(span.start, span.last, pa, cpu)
        owed.discharge()

    cdef int flush_run(self, uint64_t first, uint64_t last, int64_t cpu) except -1:
        """Note the lines of the items of a run in one table, where walks do not look into the CPUs' caches."""
        cdef uint64_t page = self.runs.page_mask + 1
        cdef unsigned lg2 = self.own_table.own_format.entry_lg2
        if self.coherent:
            return 0
        return self.machine.row(
            LINES_FLUSHED, cpu, (last // page << lg2) // LINE - (first // page << lg2) // LINE + 1, 0, 0, 0, None
        )

    cdef int opened(self, uint64_t first, uint64_t last, uint64_t pa, int64_t cpu) except -1:
        """Note that the tables no longer have the span, and that the device may hold it."""
        cdef int64_t pages = (last - first) // self.machine.page_bytes + 1
        self.machine.row(UNMAPPED, cpu, pages, first, last, pa, self.itself)
        self.spans.open(first, last, pa, self.itself)
        self.machine.spans.open(first, last, pa, self.itself)
        return 0

    def invalidate(self, span, cpu):
        cdef uint64_t first = 0, last = <uint64_t>-1
        cdef int64_t pages = 0
        if span is None:
            self.mmu.invalidate_all()
        else:
            first, last = span.start, span.last
            pages = (last - first) // self.machine.page_bytes + 1
            self.mmu.drop(first, last)
        self.machine.row(DEVICE_INVALIDATED, cpu, pages, first, last, 0, self.itself)
        if self.mmu.device_tlb is not None:
            # After the IOMMU's: what the device asks again then finds nothing old there.
            self.mmu.device_tlb.invalidate(first, last, with_global=True)
            self.machine.row(DEVICE_TLB_INVALIDATED, cpu, pages, first, last, 0, self.itself)
        self.machine.settle_run(first, last, self.itself, cpu)
        self.spans.drop(first, last, self.itself)

    def access(self, span, cpu, kind="r"):
        self.touch_run(span.start, span.last, cpu, kind)

    def access_at(self, start, span, cpu, kind="r"):
        cdef uint64_t at = start, first = span.start, last = span.last
        if at + last < last:
            raise OutOfRange(f"{span} from {start:#x} on goes beyond 2**64")
        self.touch_run(at + first, at + last, cpu, kind)

    cdef int touch_run(self, uint64_t first, uint64_t last, int64_t cpu, kind) except -1:
        cdef uint64_t page = self.machine.page_bytes, start = first & ~(page - 1)
        cdef uint64_t count = (last - start) // page + 1
        cdef mmu_counts before = self.mmu.c.counts
        cdef const mmu_counts *after = &self.mmu.c.counts
        self.mmu.touch(start, count, page, need_of(kind, False))
        self.machine.row(DEVICE_ACCESSED, cpu, count, first, last, 0, None)
        self.counted(DEVICE_WALKS, cpu, after.walks - before.walks)
        self.counted(DEVICE_REFERENCES, cpu, after.references - before.references)
        self.counted(DEVICE_HITS, cpu, after.device_hits - before.device_hits)
        self.counted(CONTEXT_REFERENCES, cpu, after.context_references - before.context_references)
        return self.counted(FAULTS, cpu, after.faults - before.faults)

    cdef int counted(self, int event, int64_t cpu, uint64_t number) except -1:
        if number:
            self.machine.row(event, cpu, number, 0, 0, 0, None)
        return 0
