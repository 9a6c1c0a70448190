"""What a Machine does for every request, compiled."""

cimport cython
from cpython.ref cimport PyObject
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc

from heapq import heappop, heappush

from ptcore.allocators.address_tree cimport AddressTree
from ptcore.caches.mmu cimport Mmu, mmu, mmu_counts, mmu_drop, mmu_drop_all, mmu_is_bare, need_of
from ptcore.caches.tlb cimport tlb_chosen, tlb_holds, tlb_invalidate
from ptcore.machine.ledger cimport Ledger
from ptcore.machine.stale cimport CpuSet, StaleSpans, iv_node
from ptcore.table.abi cimport pt_item
from ptcore.table.leaf_run cimport LeafRuns, Near
from ptcore.table.page_table cimport PageTable

from ptcore.errors import AddressError, InvalidationOwed, NoAddressSpace, NoFrame, OutOfRange
from ptcore.machine import processes
from ptcore.machine.events import Event
from ptcore.machine.shootdown import SINGLE_PAGE_CEILING
from ptcore.units import ALL_ONES, Span, parse_size

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


cdef extern from *:
    int lowest_bit "__builtin_ctzll"(unsigned long long) nogil


cdef unsigned need_of_kind(kind) except? 0xFFFF:
    if kind not in KINDS:
        raise AddressError(f"an access is 'r', 'w' or 'x', not {kind!r}")
    return need_of(kind, False)


cdef bint is_alike(const Seen *a, const Seen *b) noexcept:
    return a.lower == b.lower and a.walks == b.walks and a.references == b.references and a.faults == b.faults


cdef bint is_address(value) except -1:
    return type(value) is int and 0 <= value <= ALL_ONES


cdef class Verbs:
    def __init__(self, table, mmus, ledger, data_bytes, shootdown):
        self.table = table
        self.memory = self.table.memory
        self.mmus = tuple(mmus)
        self.cpu_count = len(self.mmus)
        self.own_mmus = <PyObject **>malloc(self.cpu_count * sizeof(PyObject *))
        if self.own_mmus == NULL:
            raise MemoryError()
        for number in range(self.cpu_count):
            self.own_mmus[<uint32_t>number] = <PyObject *><Mmu?>self.mmus[number]  # the tuple holds them
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
        self.sets_of_bits = {}
        self.everyone = self.set_of(range(len(self.mmus)))
        self.singles = [self.set_of((cpu,)) for cpu in range(len(self.mmus))]

    def __dealloc__(self):
        free(self.own_mmus)

    # -- facts -------------------------------------------------------------------------------

    @property
    def cpus(self):
        return self.cpu_count

    cdef int check(self, int64_t cpu) except -1:
        if not 0 <= cpu < self.cpu_count:
            raise OutOfRange(f"cpu {cpu} is not in 0..{self.cpu_count - 1}")
        return 0

    cdef mmu *mmu_of(self, uint32_t number) except NULL:
        """That of a CPU, or of a device, which are numbered after them."""
        cdef Mmu of_device
        if number < self.cpu_count:
            return &(<Mmu>self.own_mmus[number]).c
        of_device = self.devices[number - self.cpu_count].mmu
        return &of_device.c

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

    cdef CpuSet set_of_bits(self, const uint64_t *bits, uint32_t words):
        """The set of the numbers of these bits."""
        key = bits[0] if words == 1 else (<const char *>bits)[:words * sizeof(uint64_t)]
        found = self.sets_of_bits.get(key)
        if found is None:
            found = self.set_of([64 * w + bit for w in range(words) for bit in range(64) if bits[w] >> bit & 1])
            self.sets_of_bits[key] = found
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
        cdef uint64_t pa = 0, step = self.page_bytes
        cdef bint taken = False
        self.check(cpu)
        if align is not None and type(align) is int and 0 < align <= <int64_t>self.data_bytes and not align & (align - 1):
            step = align
            align = None
        if align is None and type(pages) is int and 0 < pages <= <int64_t>(self.data_bytes // self.page_bytes):
            taken = self.frames.take_lowest(<uint64_t>pages * self.page_bytes, step, &pa)
        if not taken:
            try:
                pa = self.frames.allocate(pages * self.page_bytes, align or step)
            except NoAddressSpace as error:
                raise NoFrame(f"no {pages} frames in a row are left: {error}") from None
        self.row(FRAMES_ALLOCATED, cpu, pages, 0, 0, pa, None)
        return pa

    def free_frames(self, pa, pages, cpu):
        cdef uint64_t at, size
        self.check(cpu)
        if not (is_address(pa) and type(pages) is int and 0 < pages <= <int64_t>(self.data_bytes // self.page_bytes)):
            self.frames.free(pa, pages * self.page_bytes)
            at, size = pa, pages * self.page_bytes
        else:
            at, size = pa, <uint64_t>pages * self.page_bytes
            if at < self.page_bytes or at > self.data_bytes - size or not self.frames.give_back(at, at + size - 1):
                self.frames.free(pa, size)  # says what is wrong
        self.row(FRAMES_FREED, cpu, pages, 0, 0, at, None)
        self.note_held(at, size, cpu)

    def take_from_pool(self, pa, pages, cpu):
        self.row(POOL_TAKEN, cpu, pages, 0, 0, pa, None)

    def return_to_pool(self, pa, pages, cpu):
        self.row(POOL_RETURNED, cpu, pages, 0, 0, pa, None)
        self.note_held(pa, pages * self.page_bytes, cpu)

    cdef int note_held(self, uint64_t pa, uint64_t size, int64_t cpu) except -1:
        cdef size_t k
        cdef uint32_t n, w, held, words = self.spans.words
        cdef uint64_t left
        cdef uint64_t *maybe
        cdef iv_node *at
        for k in range(self.spans.at_frames(pa, pa + size - 1) if size else 0):
            n = self.spans.found.ids[k]
            at = &self.spans.by_address.nodes[n]
            maybe = &self.spans.maybe[<size_t>n * words]
            held = 0
            for w in range(words):
                left = maybe[w]
                while left:
                    if tlb_holds(self.mmu_of(64 * w + lowest_bit(left)).tlb, at.start, at.last):
                        held += 1
                    else:
                        maybe[w] ^= left & -left
                    left &= left - 1
            if held:
                users = self.set_of_bits(maybe, words)
                self.row(STALE_HELD, cpu, held, at.start, at.last, self.spans.by_frame.nodes[n].start, users)
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
        pages = self.runs.map(va, size, pa, any_size, item, rights, NULL)
        if pages:
            self.mapped_rows(va, pa, pages, cpu, any_size)
        return pages != 0

    cdef int mapped_rows(self, uint64_t va, uint64_t pa, uint64_t pages, int64_t cpu, bint any_size) except -1:
        self.row(ENTRIES_WRITTEN, cpu, pages, 0, 0, 0, None)
        self.row(MAPPED, cpu, pages, va, va + pages * self.page_bytes - 1, pa, None)
        self.ledger.sized(0 if any_size else lowest_bit(self.page_bytes))
        return 0

    cdef int map_pages(
        self, uint64_t va, uint64_t pa, uint64_t size, int64_t cpu, CpuSet users, memory_type, pt_item item,
        unsigned rights
    ) except -1:
        """Map by the smallest leaves, which `item` and `rights` say, whether there are tables or not."""
        if not self.map_run(va, pa, size, cpu, users, False, item, rights):
            self._map_any(va, pa, size, cpu, "rw", self.page_bytes, memory_type, users)
        return 0

    cdef object type_of(self, memory_type):
        return self.table.format.device_memory or None if memory_type == DEVICE_MEMORY else memory_type

    def map(self, va, pa, length, cpu, access="rw", *, page_size=None, memory_type=None, cpus=None):
        cdef CpuSet users
        cdef pt_item item = 0
        cdef unsigned rights = 0
        self.check(cpu)
        users = self.set_of(cpus)
        if memory_type is not None:
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
        self.ledger.sized(0 if page_size is None else parse_size(page_size).bit_length() - 1)
        if owed:
            self.owe(owed)

    def owe(self, owed):
        self.owed.append((owed, set(range(len(self.mmus)))))

    def open_stale(self, span, pa, holders):
        self.spans.open(span.start, span.last, pa, self.set_of(holders))

    cdef bint unmap_run(self, uint64_t va, uint64_t size, int64_t cpu, CpuSet holders, CpuSet named) except -1:
        """Unmap a run of smallest leaves; False, and nothing done, where it is not that."""
        cdef uint64_t pa = 0, pages = self.runs.unmap(va, size, NULL, &pa)
        if pages:
            self.unmapped_rows(va, pa, pages, cpu, named)
            self.spans.open(va, va + size - 1, pa, holders)
        return pages != 0

    cdef int unmapped_rows(self, uint64_t va, uint64_t pa, uint64_t pages, int64_t cpu, CpuSet named) except -1:
        self.row(ENTRIES_WRITTEN, cpu, pages, 0, 0, 0, None)
        return self.row(UNMAPPED, cpu, pages, va, va + pages * self.page_bytes - 1, pa, named)

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
        self.ledger.sized(parse_size(page_size).bit_length() - 1)
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
        cdef mmu *m
        for n in range(targets.count):
            m = self.mmu_of(targets.numbers[n])
            if not pages:
                mmu_drop_all(m, True)
            elif not mmu_is_bare(m):
                mmu_drop(m, first, last)
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
        self.touch_run(span.start, span.last, cpu, need_of_kind(kind))

    def access_at(self, start, span, cpu, kind="r"):
        cdef uint64_t at = start, first = span.start, last = span.last
        self.check(cpu)
        if at + last < last or self.has_own_access():
            self.access(Span(start + first, start + last), cpu, kind)
        else:
            self.touch_run(at + first, at + last, cpu, need_of_kind(kind))

    cdef bint has_own_access(self) except -1:
        """Whether a machine of another class accesses in its own way: it is then asked through that."""
        return getattr(self.access, "__func__", None) is not OWN_ACCESS

    cdef void touch_pages(self, uint64_t start, uint64_t count, int64_t cpu, unsigned need, Seen *seen) noexcept:
        """Let a CPU touch so many pages once; *seen is what that took."""
        cdef Mmu own = <Mmu>self.own_mmus[cpu]
        cdef const mmu_counts *counts = &own.c.counts
        cdef uint32_t level
        seen[0] = Seen(0, counts.walks, counts.references, counts.faults)
        for level in range(1, own.tlb.c.levels):
            seen.lower -= counts.hits[level]
        own.touch(start, count, self.page_bytes, need)
        for level in range(1, own.tlb.c.levels):
            seen.lower += counts.hits[level]
        seen.walks = counts.walks - seen.walks
        seen.references = counts.references - seen.references
        seen.faults = counts.faults - seen.faults

    cdef int touched_rows(
        self, uint64_t first, uint64_t last, uint64_t count, int64_t cpu, const Seen *seen
    ) except -1:
        self.row(ACCESSED, cpu, count, first, last, 0, None)
        if seen.lower:
            self.row(TLB_HITS, cpu, seen.lower, 0, 0, 0, None)
        if seen.walks:
            self.row(WALKS, cpu, seen.walks, 0, 0, 0, None)
        if seen.references:
            self.row(WALK_REFERENCES, cpu, seen.references, 0, 0, 0, None)
        if seen.faults:
            self.row(FAULTS, cpu, seen.faults, 0, 0, 0, None)
        return 0

    cdef int access_run(
        self, uint64_t first, uint64_t last, int64_t cpu, kind, unsigned need, bint replaced
    ) except -1:
        """`access` of a CPU and a kind that were looked at; `replaced`: by the machine's own."""
        if replaced:
            self.access(Span(first, last), cpu, kind)
            return 0
        return self.touch_run(first, last, cpu, need)

    cdef int touch_run(self, uint64_t first, uint64_t last, int64_t cpu, unsigned need) except -1:
        """Let a CPU touch every page of [first, last] once."""
        cdef uint64_t start = first & ~(self.page_bytes - 1), count = (last - start) // self.page_bytes + 1
        cdef Seen seen
        self.touch_pages(start, count, cpu, need, &seen)
        return self.touched_rows(first, last, count, cpu, &seen)

    # -- page by page ------------------------------------------------------------------------

    def touch_by_page(self, va, pa, pages, cpu, kind="r", *, step=0, memory_type=None, cpus=None):
        cdef ByPage by
        cdef uint64_t at = va, frame = pa, n
        self.begin_by_page(&by, cpu, cpus, kind, memory_type)
        for n in range(<uint64_t>pages):
            if not self.touch_page(&by, at, frame):
                self.touch_any_page(&by, at, frame, cpus, kind, memory_type)
            at += <uint64_t>step
            frame += self.page_bytes

    def unmap_by_page(self, va, pages, cpu, *, cpus=None):
        cdef ByPage by
        cdef uint64_t at = va, left = pages, done
        self.begin_by_page(&by, cpu, cpus, "r", None)
        while left:
            done = self.unmap_alike(&by, at, left)
            if done == 0:
                self.unmap_in_turn(&by, at, cpus)
                done = 1
            at += done * self.page_bytes
            left -= done

    cdef int begin_by_page(self, ByPage *by, int64_t cpu, cpus, kind, memory_type) except -1:
        self.check(cpu)
        users = self.set_of(cpus)
        by.cpu = cpu
        by.users = <PyObject *>users  # the machine holds every set that it made
        by.all_users = cpus is None
        by.need = need_of_kind(kind)
        by.replaced = self.has_own_access()
        self.runs.attributes_of("rw", self.type_of(memory_type), False, &by.item, &by.rights)
        by.near = Near(0, NULL, 0)
        by.region = LAST
        by.begin = self.ledger.mark()
        by.pa = by.moved = 0
        by.folded = False
        return 0

    cdef bint touch_page(self, ByPage *by, uint64_t at, uint64_t frame) except -1:
        """Map, touch, unmap and invalidate a page in a table that exists; False, and nothing done, without one."""
        cdef uint64_t page = self.page_bytes, pa = 0, mark = self.ledger.mark()
        cdef CpuSet users = <CpuSet>by.users
        cdef Seen seen
        cdef bint settled
        self.must_not_be_stale(at, at + page - 1, users)
        if by.replaced or not self.runs.map(at, page, frame, False, by.item, by.rights, &by.near):
            return False
        self.touch_pages(at, 1, by.cpu, by.need, &seen)
        self.runs.unmap(at, page, &by.near, &pa)
        # Nobody had a translation of a page that was not mapped, nor was owed an invalidation; and what others
        # know of the way there went with the page before, of the same table. That leaves this CPU.
        settled = by.region == by.near.region and not self.owed
        if settled and by.folded and is_alike(&seen, &by.seen):
            if users.has(by.cpu):
                mmu_drop(self.mmu_of(<uint32_t>by.cpu), at, at + page - 1)
            self.spans.drop(at, at + page - 1, users)
            self.ledger.again(1)
            return True
        self.mapped_rows(at, frame, 1, by.cpu, False)
        self.touched_rows(at, at + page - 1, 1, by.cpu, &seen)
        self.unmapped_rows(at, frame, 1, by.cpu, None if by.all_users else users)
        self.invalidate_run(at, at + page - 1, 1, by.cpu, users)
        by.folded = self.ledger.fold(by.begin, mark, page)
        by.region = by.near.region
        by.seen = seen
        return True

    cdef int touch_any_page(self, ByPage *by, uint64_t at, uint64_t frame, cpus, kind, memory_type) except -1:
        cdef uint64_t page = self.page_bytes, mark = self.ledger.mark()
        memory_type = self.type_of(memory_type)
        self.map_pages(at, frame, page, by.cpu, <CpuSet>by.users, memory_type, by.item, by.rights)
        self.access_run(at, at + page - 1, by.cpu, kind, by.need, by.replaced)
        self.unmap_page(by, at, cpus)
        self.ledger.fold(by.begin, mark, page)
        # Tables may have been made: what was found before is looked for again.
        by.near.items = NULL
        by.folded = False
        return 0

    cdef int unmap_page(self, ByPage *by, uint64_t at, cpus) except -1:
        """Unmap a page and invalidate it where it may be held: it is stale for no longer than this takes."""
        cdef uint64_t pa = 0, page = self.page_bytes
        if self.runs.unmap(at, page, &by.near, &pa):
            self.unmapped_rows(at, pa, 1, by.cpu, None if by.all_users else <CpuSet>by.users)
        else:
            self.unmap(at, page, by.cpu, cpus=cpus)
            by.near.items = NULL
        return self.invalidate_run(at, at + page - 1, 1, by.cpu, <CpuSet>by.users)

    cdef int unmap_in_turn(self, ByPage *by, uint64_t at, cpus) except -1:
        """The same for one page of several: where the ledger says what it said of the page before, it says so once."""
        cdef uint64_t pa = 0, mark = self.ledger.mark()
        if self.runs.unmap(at, self.page_bytes, &by.near, &pa):
            self.unmapped_rows(at, pa, 1, by.cpu, None if by.all_users else <CpuSet>by.users)
            self.invalidate_run(at, at + self.page_bytes - 1, 1, by.cpu, <CpuSet>by.users)
            by.folded = self.ledger.fold(by.begin, mark, self.page_bytes)
            by.moved, by.pa, by.region = pa - by.pa, pa, by.near.region
        else:
            self.unmap_page(by, at, cpus)
            self.ledger.fold(by.begin, mark, self.page_bytes)
            by.folded = False
        return 0

    cdef uint64_t unmap_alike(self, ByPage *by, uint64_t at, uint64_t pages) except? 0:
        """Unmap what follows a page and goes like it, one by one; return how many pages that were."""
        cdef CpuSet users = <CpuSet>by.users
        cdef tlb_chosen every = tlb_chosen(0, 0, True, True, False)
        cdef uint64_t done, last
        cdef uint32_t n
        # What anybody knows of the way there went with the page before, if that was of the same table.
        if not by.folded or self.owed or by.region != by.near.region or not self.runs.is_near(at, &by.near):
            return 0
        done = self.runs.unmap_alike(at, pages, by.pa + by.moved, by.moved, &by.near)
        if done:
            last = at + done * self.page_bytes - 1
            for n in range(users.count):
                tlb_invalidate(self.mmu_of(users.numbers[n]).tlb, at, last, &every)
            self.spans.drop(at, last, users)
            self.ledger.again(done)
            by.pa += done * by.moved
        return done

    # -- rows of a window --------------------------------------------------------------------

    def map_rows(self, start, rows, cpu, *, memory_type=None):
        cdef uint64_t page = self.page_bytes, base = start, va, pa, size
        cdef pt_item item = 0
        cdef unsigned rights = 0
        self.check(cpu)
        memory_type = self.type_of(memory_type)
        self.runs.attributes_of("rw", memory_type, False, &item, &rights)
        for frame, slot, count in rows:
            va, pa, size = base + <uint64_t>slot * page, <uint64_t>frame * page, <uint64_t>count * page
            self.map_pages(va, pa, size, cpu, self.everyone, memory_type, item, rights)

    def access_rows(self, start, rows, cpu, kind="r"):
        cdef uint64_t page = self.page_bytes, base = start, va
        cdef unsigned need = need_of_kind(kind)
        cdef bint replaced = self.has_own_access()
        self.check(cpu)
        for _, slot, count in rows:
            va = base + <uint64_t>slot * page
            self.access_run(va, va + <uint64_t>count * page - 1, cpu, kind, need, replaced)

    def unmap_rows(self, start, rows, cpu):
        cdef uint64_t page = self.page_bytes, base = start, va, size
        self.check(cpu)
        for _, slot, count in rows:
            va, size = base + <uint64_t>slot * page, <uint64_t>count * page
            if not self.unmap_run(va, size, cpu, self.everyone, None):
                self.unmap(va, size, cpu)

    def reach(self, va, pa, pages, cpu, kind="r", *, at_once=None, memory_type=None, cpus=None):
        cdef uint64_t at = va, frame = pa, left = pages, most = pages if at_once is None else at_once
        cdef uint64_t size, begin = self.ledger.mark(), mark
        cdef unsigned need = need_of_kind(kind), rights = 0
        cdef pt_item item = 0
        cdef CpuSet users, named = None
        cdef bint replaced = self.has_own_access()
        self.check(cpu)
        users = self.set_of(cpus)
        if cpus is not None:
            named = users
        memory_type = self.type_of(memory_type)
        self.runs.attributes_of("rw", memory_type, False, &item, &rights)
        while left and most:
            mark = self.ledger.mark()
            size = min(left, most) * self.page_bytes
            self.map_pages(at, frame, size, cpu, users, memory_type, item, rights)
            self.access_run(at, at + size - 1, cpu, kind, need, replaced)
            if not self.unmap_run(at, size, cpu, users, named):
                self.unmap(at, size, cpu, cpus=cpus)
            self.ledger.fold(begin, mark, size)
            at += size
            frame += size
            left -= min(left, most)


cdef object OWN_ACCESS = Verbs.access
