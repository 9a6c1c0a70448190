"""What a Machine does for every request, compiled."""

cimport cython
from libc.stdint cimport int64_t, uint32_t, uint64_t

from heapq import heappop, heappush

from ptcore.caches.mmu cimport Mmu, mmu_is_bare, need_of
from ptcore.caches.tlb cimport Tlb, tlb_holds
from ptcore.machine.ledger cimport Ledger
from ptcore.machine.stale cimport CpuSet, StaleSpans
from ptcore.table.abi cimport PT_OK, pt_item
from ptcore.table.leaf_run cimport LeafRuns
from ptcore.table.page_table cimport PageTable

from ptcore.allocators import AddressTree
from ptcore.errors import AddressError, InvalidationOwed, NoAddressSpace, NoFrame, OutOfRange
from ptcore.machine import processes
from ptcore.machine.events import Event
from ptcore.machine.shootdown import SINGLE_PAGE_CEILING
from ptcore.units import ALL_ONES, Span

cdef uint64_t LAST = <uint64_t>-1
cdef int64_t MOST_SINGLE = SINGLE_PAGE_CEILING
cdef object KINDS = ("r", "w", "x")
DEVICE_MEMORY = "device"  # a memory type that every format can be asked for

cdef int FRAMES_ALLOCATED = Event.FRAMES_ALLOCATED
cdef int FRAMES_FREED = Event.FRAMES_FREED
cdef int TABLES_ALLOCATED = Event.TABLES_ALLOCATED
cdef int TABLES_FREED = Event.TABLES_FREED
cdef int ENTRIES_WRITTEN = Event.ENTRIES_WRITTEN
cdef int MAPPED = Event.MAPPED
cdef int UNMAPPED = Event.UNMAPPED
cdef int INVALIDATED = Event.INVALIDATED
cdef int INTERRUPTED = Event.INTERRUPTED
cdef int ACKNOWLEDGED = Event.ACKNOWLEDGED
cdef int BROADCAST = Event.BROADCAST
cdef int ACCESSED = Event.ACCESSED
cdef int TLB_HITS = Event.TLB_HITS
cdef int WALKS = Event.WALKS
cdef int WALK_REFERENCES = Event.WALK_REFERENCES
cdef int FAULTS = Event.FAULTS
cdef int STALE_HELD = Event.STALE_HELD
cdef int SPLIT = Event.SPLIT
cdef int POOL_TAKEN = Event.POOL_TAKEN
cdef int POOL_RETURNED = Event.POOL_RETURNED


cdef bint is_address(value) except -1:
    return type(value) is int and 0 <= value <= ALL_ONES


cdef class Verbs:
    def __init__(self, table, mmus, ledger, data_bytes, shootdown):
        self.table = table
        self.memory = self.table.memory
        self.mmus = tuple(mmus)
        self.ledger = ledger
        self.shootdown = shootdown
        self.interrupts = shootdown.interrupts
        self.page_bytes = 1 << table.format.granule_lg2
        self.data_bytes = data_bytes
        # Page 0 stays free, as kernels keep it: a physical address of 0 reads as "none".
        self.frames = AddressTree(self.page_bytes, data_bytes - 1)
        self.runs = LeafRuns(table)
        self.spans = StaleSpans()
        self.devices = []
        self.processes = []
        self.owed = []
        self.timers = []
        self.sets = {}
        self.everyone = self.set_of(range(len(self.mmus)))
        self.singles = [self.set_of((cpu,)) for cpu in range(len(self.mmus))]

    # -- facts -------------------------------------------------------------------------------

    @property
    def cpus(self):
        return len(self.mmus)

    cdef int check(self, int64_t cpu) except -1:
        if not 0 <= cpu < len(self.mmus):
            raise OutOfRange(f"cpu {cpu} is not in 0..{len(self.mmus) - 1}")
        return 0

    def mmu(self, cpu):
        self.check(cpu)
        return self.mmus[cpu]

    cdef CpuSet set_of(self, cpus):
        """The set, made once; `cpus` None is every CPU."""
        cdef CpuSet made
        if cpus is None:
            return self.everyone
        if type(cpus) is tuple and len(<tuple>cpus) == 1 and self.singles is not None:
            number = (<tuple>cpus)[0]
            if type(number) is int and 0 <= number < len(self.singles):
                return self.singles[number]
        named = frozenset(cpus)
        found = self.sets.get(named)
        if found is None:
            found = self.sets[named] = CpuSet(named)
        return found

    cdef CpuSet others(self, CpuSet cpus, int64_t cpu):
        if not cpus.has(cpu):
            return cpus
        found = cpus.without_one.get(cpu)
        if found is None:
            found = cpus.without_one[cpu] = self.set_of(cpus.members - {cpu})
        return found

    def stale(self):
        return tuple([span for span, _, _ in self.spans.rows()])

    @property
    def stale_count(self):
        return self.spans.count

    # -- time and notes ----------------------------------------------------------------------

    def advance(self, to_ns):
        cdef int64_t until = to_ns
        if until < self.now_ns:
            raise OutOfRange(f"time {to_ns} ns is before now, {self.now_ns} ns")
        while self.timers and self.timers[0][0] <= until:
            self.now_ns, _, run = heappop(self.timers)
            run()
        self.now_ns = until

    def call_at(self, when_ns, run):
        if when_ns < self.now_ns:
            raise OutOfRange(f"time {when_ns} ns is before now, {self.now_ns} ns")
        self.timers_set += 1  # of two at one time the first one set runs first
        heappush(self.timers, (when_ns, self.timers_set, run))

    def note(self, event, cpu, count=1, *, first=0, last=0, pa=0, cpus=None):
        if cpus:
            self.ledger.append(event, self.now_ns, cpu, count, first=first, last=last, pa=pa, cpus=cpus)
        else:
            self.ledger.put(<int>event, self.now_ns, cpu, count, first, last, pa, 0)

    cdef int row(
        self, int event, int64_t cpu, int64_t count, uint64_t first, uint64_t last, uint64_t pa, CpuSet cpus
    ) except -1:
        cdef uint32_t number = 0
        if cpus is not None:
            if cpus.ledger_number < 0:
                cpus.ledger_number = self.ledger.number_of(cpus.members)
            number = <uint32_t>cpus.ledger_number
        return self.ledger.put(event, self.now_ns, cpu, count, first, last, pa, number)

    # -- frames ------------------------------------------------------------------------------

    def allocate_frames(self, pages, cpu, *, align=None):
        self.check(cpu)
        try:
            pa = self.frames.allocate(pages * self.page_bytes, align or self.page_bytes)
        except NoAddressSpace as error:
            raise NoFrame(f"no {pages} frames in a row are left: {error}") from None
        self.row(FRAMES_ALLOCATED, cpu, pages, 0, 0, pa, None)
        return pa

    def free_frames(self, pa, pages, cpu):
        self.check(cpu)
        size = pages * self.page_bytes
        self.frames.free(pa, size)
        self.row(FRAMES_FREED, cpu, pages, 0, 0, pa, None)
        self.note_held(pa, size, cpu)

    def take_from_pool(self, pa, pages, cpu):
        self.row(POOL_TAKEN, cpu, pages, 0, 0, pa, None)

    def return_to_pool(self, pa, pages, cpu):
        self.row(POOL_RETURNED, cpu, pages, 0, 0, pa, None)
        self.note_held(pa, pages * self.page_bytes, cpu)

    cdef int note_held(self, uint64_t pa, uint64_t size, int64_t cpu) except -1:
        cdef size_t k
        cdef uint32_t n, w, bit, number
        cdef uint64_t first, last
        cdef uint64_t *maybe
        cdef Tlb tlb
        for k in range(self.spans.at_frames(pa, pa + size - 1) if size else 0):
            n = self.spans.found.ids[k]
            first, last = self.spans.by_address.nodes[n].start, self.spans.by_address.nodes[n].last
            held = []
            for w in range(self.spans.words):
                bit = 0
                maybe = &self.spans.maybe[n * self.spans.words + w]
                while bit < 64 and maybe[0] >> bit:
                    if maybe[0] >> bit & 1:
                        number = 64 * w + bit
                        if number < <uint32_t>len(self.mmus):
                            tlb = (<Mmu>self.mmus[number]).tlb
                        else:
                            tlb = self.devices[number - len(self.mmus)].mmu.tlb
                        if tlb_holds(&tlb.c, first, last):
                            held.append(number)
                        else:
                            maybe[0] &= ~(1ULL << bit)
                    bit += 1
            if held:
                self.row(
                    STALE_HELD, cpu, len(held), first, last, self.spans.by_frame.nodes[n].start, self.set_of(held)
                )
            else:
                self.spans.given_up(n)
        return 0

    @property
    def free_frame_bytes(self):
        return self.frames.free_bytes

    # -- tables ------------------------------------------------------------------------------

    def account(self, owed, cpu):
        if owed.tables_allocated_bytes:
            self.row(TABLES_ALLOCATED, cpu, owed.tables_allocated_bytes, 0, 0, 0, None)
        if owed.entries_written:
            self.row(ENTRIES_WRITTEN, cpu, owed.entries_written, 0, 0, 0, None)

    def share_kernel_half(self, owed):
        if owed.entries_written:
            for process in self.processes:
                if process.space is process.table:
                    processes.share_upper_half(self.table, process.table)

    cdef int must_not_be_stale(self, uint64_t first, uint64_t last, CpuSet users) except -1:
        cdef uint32_t n
        if not self.spans.count:
            return 0
        n = self.spans.meeting(first, last, users)
        if n:
            raise InvalidationOwed(
                f"{Span(first, last)} is mapped anew while CPUs {sorted(self.spans.holders_of(n))} may still hold "
                f"{int(self.spans.by_address.nodes[n].start):#x}..{int(self.spans.by_address.nodes[n].last):#x}"
            )
        if self.spans.found.count:
            self.spans.ask_again()
        return 0

    cdef bint map_run(
        self, uint64_t va, uint64_t pa, uint64_t size, int64_t cpu, CpuSet users, bint any_size, pt_item item,
        unsigned rights
    ) except -1:
        """Map a run of pages in a table that exists; False, and nothing done, where it is not that."""
        cdef uint64_t pages
        self.must_not_be_stale(va, va + size - 1, users)
        pages = self.runs.map(va, size, pa, any_size, item, rights)
        if pages:
            self.row(ENTRIES_WRITTEN, cpu, pages, 0, 0, 0, None)
            self.row(MAPPED, cpu, pages, va, va + size - 1, pa, None)
        return pages != 0

    cdef object type_of(self, memory_type):
        return self.table.format.device_memory or None if memory_type == DEVICE_MEMORY else memory_type

    def map(self, va, pa, length, cpu, access="rw", *, page_size=None, memory_type=None, cpus=None):
        cdef CpuSet users
        cdef pt_item item = 0
        cdef unsigned rights = 0
        self.check(cpu)
        users = self.set_of(cpus)
        memory_type = self.type_of(memory_type)
        if (
            is_address(va) and is_address(pa) and is_address(length) and 0 < length <= LAST - <uint64_t>va
            and (page_size is None or page_size == self.page_bytes)
        ):
            self.runs.attributes_of(access, memory_type, page_size is None, &item, &rights)
            if self.map_run(va, pa, length, cpu, users, page_size is None, item, rights):
                return
        self._map_any(va, pa, length, cpu, access, page_size, memory_type, users)

    def _map_any(self, va, pa, length, cpu, access, page_size, memory_type, CpuSet users):
        span = Span.of(va, length)
        self.must_not_be_stale(span.start, span.last, users)
        owed = self.table.map(va, pa, length, access=access, memory_type=memory_type, page_size=page_size)
        self.share_kernel_half(owed)
        self.account(owed, cpu)
        self.row(MAPPED, cpu, span.size // self.page_bytes, va, span.last, pa, None)
        if owed:
            self.owe(owed)

    def owe(self, owed):
        self.owed.append((owed, set(range(len(self.mmus)))))

    def open_stale(self, span, pa, holders):
        self.spans.open(span.start, span.last, pa, self.set_of(holders))

    cdef bint unmap_run(self, uint64_t va, uint64_t size, int64_t cpu, CpuSet holders, CpuSet named) except -1:
        """Unmap a run of smallest leaves; False, and nothing done, where it is not that."""
        cdef uint64_t pa, pages
        if self.table.translate_one(va, 1, &pa) != PT_OK:
            return False
        pages = self.runs.unmap(va, size)
        if pages:
            self.row(ENTRIES_WRITTEN, cpu, pages, 0, 0, 0, None)
            self.row(UNMAPPED, cpu, pages, va, va + size - 1, pa, named)
            self.spans.open(va, va + size - 1, pa, holders)
        return pages != 0

    def unmap(self, va, length, cpu, *, free_tables=False, cpus=None):
        cdef CpuSet holders
        self.check(cpu)
        holders = self.set_of(cpus)
        if not free_tables and is_address(va) and is_address(length) and 0 < length <= LAST - <uint64_t>va:
            if self.unmap_run(va, length, cpu, holders, None if cpus is None else holders):
                return
        span = Span.of(va, length)
        pa = self.table.translate(va)
        owed = self.table.unmap(va, length, free_tables=free_tables)
        self.share_kernel_half(owed)
        self.account(owed, cpu)
        pages = span.size // self.page_bytes
        self.row(UNMAPPED, cpu, pages, va, span.last, pa, None if cpus is None else holders)
        self.spans.open(span.start, span.last, pa, holders)
        if owed.tables:
            self.owe(owed)

    def split(self, va, length, page_size, cpu):
        self.check(cpu)
        if is_address(va) and is_address(length) and length and page_size == self.page_bytes:
            if self.runs.mapped(va, length):
                return
        span = Span.of(va, length)
        owed = self.table.split(va, length, page_size)
        if not owed:
            return
        self.account(owed, cpu)
        self.row(SPLIT, cpu, owed.tables_allocated_bytes, span.start, span.last, 0, None)
        self.owe(owed)
        self.invalidate(None, cpu)

    # -- invalidation ------------------------------------------------------------------------

    def invalidate(self, span, cpu, cpus=None):
        cdef CpuSet targets
        cdef uint64_t first = 0, last = LAST
        cdef int64_t pages = 0
        self.check(cpu)
        targets = self.set_of(cpus)
        if targets is not self.everyone and not targets.members <= self.everyone.members:
            raise OutOfRange(f"CPUs {sorted(targets.members)} are not all in 0..{len(self.mmus) - 1}")
        if span is not None:
            first, last = span.start, span.last
            if (last - first) // self.page_bytes < <uint64_t>MOST_SINGLE:
                pages = (last - first) // self.page_bytes + 1
            else:
                first, last = 0, LAST
        self.invalidate_run(first, last, pages, cpu, targets)

    cdef int invalidate_run(self, uint64_t first, uint64_t last, int64_t pages, int64_t cpu, CpuSet targets) except -1:
        cdef uint32_t n
        cdef Mmu mmu
        for n in range(targets.count):
            if pages:
                mmu = self.mmus[targets.numbers[n]]
                if not mmu_is_bare(&mmu.c):
                    mmu.drop(first, last)
            else:
                self.mmus[targets.numbers[n]].invalidate_all()
        self.row(INVALIDATED, cpu, pages, first, last, 0, targets)
        self.tell_others(self.others(targets, cpu), cpu, pages)
        return self.settle_run(first, last, targets, cpu)

    cdef int tell_others(self, CpuSet others, int64_t cpu, int64_t pages) except -1:
        if others.count == 0:
            return 0
        if self.interrupts:
            self.row(INTERRUPTED, cpu, others.count, 0, 0, 0, others)
            self.row(ACKNOWLEDGED, cpu, others.count, 0, 0, 0, others)
        else:
            self.row(BROADCAST, cpu, self.shootdown.commands(pages), 0, 0, 0, others)
        return 0

    def tell(self, others, cpu, pages):
        self.tell_others(self.set_of(others), cpu, pages)

    def settle(self, span, targets, cpu):
        self.settle_run(span.start, span.last, self.set_of(targets), cpu)

    cdef int settle_run(self, uint64_t first, uint64_t last, CpuSet targets, int64_t cpu) except -1:
        self.spans.drop(first, last, targets)
        if self.owed:
            self._discharge(first, last, targets.members, cpu)
        return 0

    def _discharge(self, first, last, targets, cpu):
        left = []
        for owed, waiting in self.owed:
            if all([first <= span.start and span.last <= last for span in owed.spans]):
                waiting -= targets
            if waiting:
                left.append((owed, waiting))
            else:
                owed.discharge()
                self.row(TABLES_FREED, cpu, sum([size for _, size in owed.tables]), 0, 0, 0, None)
        self.owed = left

    # -- access ------------------------------------------------------------------------------

    def access(self, span, cpu, kind="r"):
        self.check(cpu)
        if kind not in KINDS:
            raise AddressError(f"an access is 'r', 'w' or 'x', not {kind!r}")
        self.touch_run(span.start, span.last, cpu, need_of(kind, False))

    cdef int touch_run(self, uint64_t first, uint64_t last, int64_t cpu, unsigned need) except -1:
        """Let a CPU touch every page of [first, last] once."""
        cdef Mmu mmu = self.mmus[cpu]
        cdef uint64_t start = first & ~(self.page_bytes - 1), count = (last - start) // self.page_bytes + 1
        cdef uint64_t walks = mmu.c.counts.walks, references = mmu.c.counts.references
        cdef uint64_t faults = mmu.c.counts.faults, lower = 0
        cdef uint32_t level
        for level in range(1, mmu.tlb.c.levels):
            lower -= mmu.c.counts.hits[level]
        mmu.touch(start, count, self.page_bytes, need)
        for level in range(1, mmu.tlb.c.levels):
            lower += mmu.c.counts.hits[level]
        self.row(ACCESSED, cpu, count, first, last, 0, None)
        if lower:
            self.row(TLB_HITS, cpu, lower, 0, 0, 0, None)
        if mmu.c.counts.walks != walks:
            self.row(WALKS, cpu, mmu.c.counts.walks - walks, 0, 0, 0, None)
        if mmu.c.counts.references != references:
            self.row(WALK_REFERENCES, cpu, mmu.c.counts.references - references, 0, 0, 0, None)
        if mmu.c.counts.faults != faults:
            self.row(FAULTS, cpu, mmu.c.counts.faults - faults, 0, 0, 0, None)
        return 0

    # -- page by page ------------------------------------------------------------------------

    def touch_by_page(self, va, pa, pages, cpu, kind="r", *, step=0, memory_type=None, cpus=None):
        cdef CpuSet users
        cdef uint64_t at = va, frame = pa, page = self.page_bytes, n, begin = self.ledger.mark(), mark
        cdef unsigned need, rights = 0
        cdef pt_item item = 0
        self.check(cpu)
        if kind not in KINDS:
            raise AddressError(f"an access is 'r', 'w' or 'x', not {kind!r}")
        need = need_of(kind, False)
        users = self.set_of(cpus)
        named = None if cpus is None else users
        # A machine that has an `access` of its own is asked through that.
        replaced = getattr(self.access, "__func__", None) is not OWN_ACCESS
        memory_type = self.type_of(memory_type)
        self.runs.attributes_of("rw", memory_type, False, &item, &rights)
        for n in range(<uint64_t>pages):
            mark = self.ledger.mark()
            if not self.map_run(at, frame, page, cpu, users, False, item, rights):
                self._map_any(at, frame, page, cpu, "rw", page, memory_type, users)
            if replaced:
                self.access(Span(at, at + page - 1), cpu, kind)
            else:
                self.touch_run(at, at + page - 1, cpu, need)
            self.unmap_page(at, cpu, users, named, cpus)
            self.ledger.fold(begin, mark, page)
            at += <uint64_t>step
            frame += page

    # -- rows of a window --------------------------------------------------------------------

    def map_rows(self, start, rows, cpu, *, memory_type=None):
        cdef uint64_t page = self.page_bytes, base = start
        cdef object mapping = self.map
        for frame, slot, count in rows:
            va, pa, size = base + <uint64_t>slot * page, <uint64_t>frame * page, <uint64_t>count * page
            mapping(va, pa, size, cpu, page_size=page, memory_type=memory_type)

    def access_rows(self, start, rows, cpu, kind="r"):
        cdef uint64_t page = self.page_bytes, base = start, va
        cdef unsigned need
        cdef bint replaced = getattr(self.access, "__func__", None) is not OWN_ACCESS
        self.check(cpu)
        if kind not in KINDS:
            raise AddressError(f"an access is 'r', 'w' or 'x', not {kind!r}")
        need = need_of(kind, False)
        for _, slot, count in rows:
            va = base + <uint64_t>slot * page
            if replaced:
                self.access(Span.of(va, count * page), cpu, kind)
            else:
                self.touch_run(va, va + <uint64_t>count * page - 1, cpu, need)

    def unmap_rows(self, start, rows, cpu):
        cdef uint64_t page = self.page_bytes, base = start
        cdef object unmapping = self.unmap
        for _, slot, count in rows:
            unmapping(base + <uint64_t>slot * page, <uint64_t>count * page, cpu)

    cdef int unmap_page(self, uint64_t at, int64_t cpu, CpuSet holders, CpuSet named, cpus) except -1:
        """Unmap a page and invalidate it where it may be held: it is stale for no longer than this takes."""
        cdef uint64_t pa, page = self.page_bytes
        if self.table.translate_one(at, 1, &pa) == PT_OK and self.runs.unmap(at, page):
            self.row(ENTRIES_WRITTEN, cpu, 1, 0, 0, 0, None)
            self.row(UNMAPPED, cpu, 1, at, at + page - 1, pa, named)
        else:
            self.unmap(at, page, cpu, cpus=cpus)
        return self.invalidate_run(at, at + page - 1, 1, cpu, holders)

    def unmap_by_page(self, va, pages, cpu, *, cpus=None):
        cdef CpuSet holders
        cdef uint64_t at = va, page = self.page_bytes, n, begin = self.ledger.mark(), mark
        self.check(cpu)
        holders = self.set_of(cpus)
        for n in range(<uint64_t>pages):
            mark = self.ledger.mark()
            self.unmap_page(at, cpu, holders, None if cpus is None else holders, cpus)
            self.ledger.fold(begin, mark, page)
            at += page


cdef object OWN_ACCESS = Verbs.access
