"""Mmu: the door to mmu.h."""

cimport cython
from libc.stdint cimport uint8_t, uint16_t, uint64_t
from libc.stdlib cimport free, malloc

import operator
from dataclasses import dataclass

import numpy as np

from ptcore.caches.tlb cimport TLB_GLOBAL, side_alone, space_of
from ptcore.caches.tlb import KINDS, addresses_of, sides_of, sides_of_each
from ptcore.errors import FormatError, OutOfRange, Status
from ptcore.table.address_space import AddressSpace
from ptcore.table.nested import Nested
from ptcore.units import ALL_ONES

DEVICE = MMU_DEVICE
WALK = MMU_WALK
FAULT = MMU_FAULT
MAX_WALKERS = MMU_MAX_WALKERS
MAX_ITEMS = MMU_MAX_ITEMS
cdef unsigned USER = 8


@dataclass(frozen=True, slots=True)
class Outcome:
    code: int
    status: Status
    pa: int | None
    stage: int | None = None


@dataclass(frozen=True, slots=True)
class Counts:
    accesses: int
    hits: tuple[int, ...]
    walks: int
    references: int
    faults: int
    second_walks: int = 0
    second_references: int = 0
    second_hits: int = 0
    served: tuple[int, ...] = ()
    walk_cycles: int = 0
    waited_cycles: int = 0
    cycles: int = 0
    device_hits: int = 0
    context_hits: int = 0
    context_references: int = 0


cdef unsigned need_of(kind, bint user) except? 0xFFFF:
    found = KINDS.get(kind)
    if found is None:
        raise ValueError(f"an access is 'r', 'w' or 'x', not {kind!r}")
    return <unsigned>found | (USER if user else 0)


def _stages(space):
    """Return the (first stage, second stage or None) of each half of what a CPU translates by."""
    if isinstance(space, PageTable):
        parts = [(space, None)]
    elif isinstance(space, Nested):
        parts = [(space.stage1, space.stage2)]
    elif isinstance(space, AddressSpace):
        parts = [(t.stage1, t.stage2) if isinstance(t, Nested) else (t, None) for t in space.tables]
    else:
        raise TypeError(f"a CPU translates by a PageTable, Nested or AddressSpace, not {type(space).__name__}")
    if len(parts) > 2 or any(second is not parts[0][1] for _, second in parts):
        raise FormatError("a CPU translates by one table or two halves, all behind the same second stage")
    return tuple(parts)


@cython.final
cdef class Mmu:
    def __cinit__(
        self,
        space,
        Tlb tlb not None,
        WalkCache walk_cache=None,
        asid=None,
        *,
        vmid=None,
        marks=True,
        WalkCache guest_cache=None,
        WalkCache host_cache=None,
        Tlb ipa_tlb=None,
        Tlb line_cache=None,
        memory_cycles=0,
        walkers=0,
        issue_cycles=1,
    ):
        cdef int n = 0
        self.tlb = tlb
        self.walk_cache = walk_cache
        self.guest_cache = guest_cache
        self.host_cache = host_cache
        self.ipa_tlb = ipa_tlb
        self.line_cache = line_cache
        self.wants_marks = marks
        self.c.tlb = &tlb.c
        self.c.walk_cache = NULL if walk_cache is None else &walk_cache.c
        self.c.guest_cache = NULL if guest_cache is None else &guest_cache.c
        self.c.host_cache = NULL if host_cache is None else &host_cache.c
        self.c.second = NULL if ipa_tlb is None else &ipa_tlb.c
        self.c.lines = NULL if line_cache is None else &line_cache.c
        for what, number, least, most in (
            ("memory_cycles", memory_cycles, 0, 2**32),
            ("walkers", walkers, 0, MMU_MAX_WALKERS),
            ("issue_cycles", issue_cycles, 0, 2**32),
        ):
            if not least <= operator.index(number) <= most:
                raise OutOfRange(f"{what} {number} is not in {least}..{most}")
        for level in () if line_cache is None else line_cache.levels:
            if level.cycles is None:
                raise FormatError(f"line_cache: level {level.name} says no cycles")
            self.c.cycles[n] = round(level.cycles)
            n += 1
        self.c.cycles[n] = memory_cycles
        self.c.walkers = walkers
        self.c.issue_cycles = issue_cycles
        self.seen = {}
        self.switch(space, asid, vmid=vmid)

    cdef mmu_context context(self, space, asid, vmid) except *:
        cdef mmu_context made
        cdef PageTable table
        parts = _stages(space)
        own = space if isinstance(space, AddressSpace) else None
        asid = asid if asid is not None else (own.asid or 0) if own is not None else 0
        vmid = vmid if vmid is not None else (own.vmid or 0) if own is not None else 0
        made.space = space_of(asid, vmid)
        made.guest = space_of(0, vmid)
        made.halves = len(parts)
        made.stage2 = NULL
        made.marks2 = False
        table = parts[0][0]
        made.marks1 = self.wants_marks and table.memory.writable
        second = parts[0][1]
        for n in range(len(parts)):
            table = parts[n][0]
            made.stage1[n] = &table.space
            made.need1[n] = table.needs
        if second is not None:
            table = second
            made.stage2 = &table.space
            made.need2 = table.needs
            made.marks1 = made.marks2 = self.wants_marks and table.memory.writable
            letters = table.format.table_access
            made.table_kind = sum(KINDS[letter] for letter in KINDS if letter in letters)
            made.user_kind = USER if "u" in letters else 0
            made.table_kind |= made.user_kind
        mmu_choose_walks(&made)
        return made

    cdef int bind(self, tuple parts, const mmu_context *made) except -1:
        cdef PageTable table
        cdef WalkCache cache
        for half, (first, second) in enumerate(parts):
            table = first
            for cache in (self.walk_cache, self.guest_cache):
                if cache is not None:
                    cache.bind(&table.own_format, made.space, (table.memory, int(table.space.root), half))
        if parts[0][1] is not None and self.host_cache is not None:
            table = parts[0][1]
            self.host_cache.bind(&table.own_format, made.guest, (table.memory, int(table.space.root), 0))
        return 0

    cdef int prepare(self, space, asid, vmid, mmu_context *made) except -1:
        cdef PageTable table
        parts = _stages(space)
        for both in parts:
            for part in both:
                table = part
                if table is not None and table.memory.lazy is not None:
                    table.stats()  # fetches all tables: an access cannot wait for a page
        made[0] = self.context(space, asid, vmid)
        return self.bind(parts, made)

    def switch(self, space, asid=None, *, vmid=None):
        cdef mmu_context made
        self.prepare(space, asid, vmid, &made)
        self.c.now = self.c.next = made
        self.to_come = space
        self.c.awaits = False
        self.arrive()

    def put_behind(self, contexts, key, device_items, process_items=(), *, device_tlb=None, device_asid=0):
        cdef Tlb cache = contexts, own = device_tlb
        items = (*device_items, *process_items)
        if len(items) > MMU_MAX_ITEMS:
            raise FormatError(f"a context is learnt from at most {MMU_MAX_ITEMS} items, not {len(items)}")
        for n, at in enumerate(items):
            self.c.item_at[n] = operator.index(at)
        self.context_cache = cache
        self.device_tlb = own
        self.c.contexts = NULL if cache is None else &cache.c
        self.c.device = NULL if own is None else &own.c
        self.c.device_space = space_of(device_asid, 0)
        self.c.context_key = operator.index(key)
        self.c.device_items = len(device_items)
        self.c.process_items = len(process_items)
        self.c.behind = True

    def replace(self, space, asid=None, *, vmid=None):
        cdef mmu_context made
        self.prepare(space, asid, vmid, &made)
        self.arrive()
        self.c.next = made
        self.to_come = space
        self.c.awaits = True

    cdef int arrive(self) except -1:
        """Take note of a replacement that accesses have put into effect."""
        if self.to_come is not None and not self.c.awaits:
            self.translates_by, self.to_come = self.to_come, None
            self.seen[int(self.c.now.space & TLB_GLOBAL), int(self.c.now.guest >> 20)] = self.translates_by
        return 0

    @property
    def space(self):
        self.arrive()
        return self.translates_by

    @property
    def awaited(self):
        self.arrive()
        return self.to_come

    @property
    def spaces(self):
        self.arrive()
        return dict(self.seen)

    @property
    def table(self):
        return _stages(self.space)[0][0]

    def access(self, va, kind="r", user=False):
        cdef uint64_t pa
        cdef int status
        number = operator.index(va)
        if not 0 <= number <= ALL_ONES:
            raise OutOfRange(f"{number:#x} is no 64-bit address")
        code = mmu_asks(&self.c, number, need_of(kind, user), &pa, &status)
        if status == 0:
            return Outcome(code, Status.OK, int(pa))
        return Outcome(code, Status(status), None, self.c.fault_stage if self.c.now.stage2 != NULL else None)

    def access_many(self, vas, kinds=None, user=False):
        cdef const uint8_t[::1] wanted
        cdef const uint8_t *each = NULL
        source = addresses_of(vas)
        needs = sides_of_each(kinds, source.shape)
        cdef unsigned alone = side_alone(kinds, needs), extra = USER if user else 0
        outcomes = np.empty(source.shape, dtype=np.uint8)
        cdef const uint64_t[::1] addresses = source.reshape(-1)
        cdef uint8_t[::1] out = outcomes.reshape(-1)
        if not addresses.shape[0]:
            return outcomes
        if needs is not None:
            wanted = needs
            each = &wanted[0]
        with nogil:
            mmu_ask_many(&self.c, &addresses[0], each, alone, extra, addresses.shape[0], &out[0])
        return outcomes

    def access_span(self, first, count, stride, kind="r", user=False):
        cdef uint64_t start, step, times, faults = self.c.counts.faults
        cdef unsigned need = need_of(kind, user)
        number, many, distance = (operator.index(x) for x in (first, count, stride))
        if many < 0 or distance < 0 or number < 0 or number + max(many - 1, 0) * distance > ALL_ONES:
            raise OutOfRange(f"{many} accesses from {number:#x}, {distance} apart, leave 64 bits")
        start, times, step = number, many, distance
        with nogil:
            self.touch(start, times, step, need)
        return self.c.counts.faults - faults

    cdef void touch(self, uint64_t first, uint64_t count, uint64_t stride, unsigned need) noexcept nogil:
        cdef uint64_t n, pa
        cdef int status
        for n in range(count):
            mmu_asks(&self.c, first + n * stride, need, &pa, &status)

    cdef void drop(self, uint64_t first, uint64_t last) noexcept nogil:
        mmu_drop(&self.c, first, last)

    def invalidate(self, first, last, *, structures=True):
        dropped = self.tlb.invalidate(first, last)
        if structures and self.walk_cache is not None:
            dropped += self.walk_cache.invalidate(first, last)
        if structures and self.guest_cache is not None:
            dropped += self.guest_cache.invalidate(first, last)
        return dropped

    def invalidate_all(self, *, keep_global=False):
        return mmu_drop_all(&self.c, not keep_global)

    @property
    def device_asid(self):
        return int(self.c.device_space)

    @property
    def context_key(self):
        return int(self.c.context_key)

    @property
    def asid(self):
        return int(self.c.now.space & TLB_GLOBAL)

    @property
    def vmid(self):
        return int(self.c.now.guest >> 20)

    @property
    def second_stage(self):
        return _stages(self.space)[0][1]

    @property
    def marks(self):
        return bool(self.c.now.marks1)

    @property
    def counts(self):
        cdef mmu_counts *c = &self.c.counts
        hits = tuple(c.hits[n] for n in range(self.tlb.c.levels))
        levels = 0 if self.line_cache is None else self.line_cache.c.levels + 1
        return Counts(
            c.accesses,
            hits,
            c.walks,
            c.references,
            c.faults,
            c.second_walks,
            c.second_references,
            c.second_hits,
            tuple(c.served[n] for n in range(levels)),
            c.cycles,
            c.waited,
            max(c.accesses * self.c.issue_cycles, c.end),
            c.device_hits,
            c.context_hits,
            c.context_references,
        )


def access_on(mmus, vas, kinds=None, cpus=None, user=False):
    source = addresses_of(vas)
    needs = sides_of(kinds, source.shape)
    if not mmus:
        raise OutOfRange("there is no CPU to make an access")
    which = np.zeros(source.shape, dtype=np.int64) if cpus is None else np.asarray(cpus)
    if which.shape != source.shape or (which.size and which.dtype.kind not in "iu"):
        raise ValueError(f"cpus are integers of the shape {source.shape}, not {which.dtype} of {which.shape}")
    if which.size and not 0 <= int(which.min()) <= int(which.max()) < len(mmus):
        bad = int(which.max()) if int(which.max()) >= len(mmus) else int(which.min())
        raise OutOfRange(f"cpu {bad} is not in 0..{len(mmus) - 1}")
    outcomes = np.empty(source.shape, dtype=np.uint8)
    cdef const uint64_t[::1] addresses = source.reshape(-1)
    cdef const uint8_t[::1] wanted = needs.reshape(-1)
    cdef const uint16_t[::1] whose = np.ascontiguousarray(which, dtype=np.uint16).reshape(-1)
    cdef uint8_t[::1] out = outcomes.reshape(-1)
    cdef size_t n
    cdef unsigned extra = USER if user else 0
    cdef uint64_t pa
    cdef int status
    cdef Mmu one
    cdef mmu **of = <mmu **>malloc(len(mmus) * sizeof(mmu *))
    if of == NULL:
        raise MemoryError()
    try:
        for n in range(<size_t>len(mmus)):
            one = mmus[n]
            of[n] = &one.c
        with nogil:
            for n in range(<size_t>addresses.shape[0]):
                out[n] = <uint8_t>mmu_asks(of[whose[n]], addresses[n], wanted[n] | extra, &pa, &status)
    finally:
        free(of)
    return outcomes
