"""Mmu: the door to mmu.h."""

cimport cython
from libc.stdint cimport uint8_t, uint64_t

import operator
from dataclasses import dataclass

import numpy as np

from ptcore.caches.tlb import KINDS, addresses_of, sides_of
from ptcore.errors import OutOfRange, Status
from ptcore.units import ALL_ONES

WALK = MMU_WALK
FAULT = MMU_FAULT
cdef unsigned USER = 8


@dataclass(frozen=True, slots=True)
class Outcome:
    code: int
    status: Status
    pa: int | None


@dataclass(frozen=True, slots=True)
class Counts:
    accesses: int
    hits: tuple[int, ...]
    walks: int
    references: int
    faults: int


cdef unsigned need_of(kind, bint user) except? 0xFFFF:
    found = KINDS.get(kind)
    if found is None:
        raise ValueError(f"an access is 'r', 'w' or 'x', not {kind!r}")
    return <unsigned>found | (USER if user else 0)


@cython.final
cdef class Mmu:
    def __cinit__(self, PageTable table not None, Tlb tlb not None, WalkCache walk_cache=None, asid=0, *, marks=True):
        number = operator.index(asid)
        if not 0 <= number < 0xFFFF_FFFF:
            raise OutOfRange(f"asid {number} is not in 0..{2**32 - 2}")
        self.table = table
        self.tlb = tlb
        self.walk_cache = walk_cache
        self.c.space = &table.space
        mmu_choose_walk(&self.c)
        self.c.need = table.needs
        self.c.tlb = &tlb.c
        self.c.asid = number
        self.c.marks = marks and table.memory.writable
        if walk_cache is not None:
            walk_cache.bind(&table.own_format, table.memory, table.space.root)
            self.c.walk_cache = &walk_cache.c

    def access(self, va, kind="r", user=False):
        cdef uint64_t pa
        cdef int status
        number = operator.index(va)
        if not 0 <= number <= ALL_ONES:
            raise OutOfRange(f"{number:#x} is no 64-bit address")
        code = mmu_access(&self.c, number, need_of(kind, user), &pa, &status)
        return Outcome(code, Status(status), int(pa) if status == 0 else None)

    def access_many(self, vas, kinds=None, user=False):
        source = addresses_of(vas)
        needs = sides_of(kinds, source.shape)
        outcomes = np.empty(source.shape, dtype=np.uint8)
        cdef const uint64_t[::1] addresses = source.reshape(-1)
        cdef const uint8_t[::1] wanted = needs.reshape(-1)
        cdef uint8_t[::1] out = outcomes.reshape(-1)
        cdef size_t n
        cdef unsigned extra = USER if user else 0
        cdef uint64_t pa
        cdef int status
        with nogil:
            for n in range(<size_t>addresses.shape[0]):
                out[n] = <uint8_t>mmu_access(&self.c, addresses[n], wanted[n] | extra, &pa, &status)
        return outcomes

    def access_span(self, first, count, stride, kind="r", user=False):
        cdef uint64_t start, step, pa, n, times, faults = self.c.counts.faults
        cdef unsigned need = need_of(kind, user)
        cdef int status
        number, many, distance = (operator.index(x) for x in (first, count, stride))
        if many < 0 or distance < 0 or number < 0 or number + max(many - 1, 0) * distance > ALL_ONES:
            raise OutOfRange(f"{many} accesses from {number:#x}, {distance} apart, leave 64 bits")
        start, times, step = number, many, distance
        with nogil:
            for n in range(times):
                mmu_access(&self.c, start + n * step, need, &pa, &status)
        return self.c.counts.faults - faults

    def invalidate(self, first, last, *, structures=True):
        dropped = self.tlb.invalidate(first, last)
        if structures and self.walk_cache is not None:
            dropped += self.walk_cache.invalidate(first, last)
        return dropped

    def invalidate_all(self, *, keep_global=False):
        dropped = self.tlb.invalidate_all(keep_global=keep_global)
        if self.walk_cache is not None:
            dropped += self.walk_cache.invalidate_all()
        return dropped

    @property
    def asid(self):
        return int(self.c.asid)

    @property
    def marks(self):
        return bool(self.c.marks)

    @property
    def counts(self):
        cdef mmu_counts *c = &self.c.counts
        hits = tuple(c.hits[n] for n in range(self.tlb.c.levels))
        return Counts(c.accesses, hits, c.walks, c.references, c.faults)
