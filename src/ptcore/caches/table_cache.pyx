"""PageTableCache: the door to table_cache.h."""

cimport cython
from libc.stdint cimport uint32_t, uint64_t

import operator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ptcore.caches.walk_cache cimport OM_NONE, om_find
from ptcore.errors import AlreadyMapped, FormatError, InvalidationOwed, NotMapped, OutOfRange
from ptcore.units import ALL_ONES

POLICIES = ("lru", "clock")
MAX_SLOTS = 1 << 24
RETIRED_DTYPE = np.dtype([("page", "<u8"), ("slot", "<u4")])


@dataclass(frozen=True, slots=True)
class CacheCounts:
    hits: int
    misses: int
    admissions: int
    evictions: int
    drops: int
    invalidations: int


cdef uint64_t as_page(page) except? 0xFFFF_FFFF_FFFF_FFFF:
    number = operator.index(page)
    if not 0 <= number <= ALL_ONES:
        raise OutOfRange(f"page {number} is not in 0..2**64 - 1")
    return number


class Served(NamedTuple):
    pages: int
    touched: list[tuple[int, int, int]]
    new: list[tuple[int, int, int]]
    hits: int
    misses: int


cdef int add_to(list rows, uint64_t page, uint32_t slot) except -1:
    """Add a page and its slot, to the last row if they follow it."""
    if rows:
        first, at, count = rows[len(rows) - 1]
        if page == <uint64_t>first + <uint64_t>count and slot == <uint64_t>at + <uint64_t>count:
            rows[len(rows) - 1] = (first, at, count + 1)
            return 0
    rows.append((page, slot, 1))
    return 0


@cython.final
cdef class PageTableCache:
    def __cinit__(self, slots, policy="lru", *, evict_batch=None):
        number = operator.index(slots)
        if not 1 <= number <= MAX_SLOTS:
            raise FormatError(f"slots are 1 to {MAX_SLOTS}, not {number}")
        if policy not in POLICIES:
            raise FormatError(f"no policy is called {policy!r}; there are {', '.join(POLICIES)}")
        batch = max(1, number // 4) if evict_batch is None else operator.index(evict_batch)
        if not 1 <= batch <= number:
            raise FormatError(f"evict_batch is 1 to {number}, not {batch}")
        self.slots = number
        self.policy = policy
        self.evict_batch = batch
        if not tc_init(&self.c, self.slots, policy == "clock"):
            raise MemoryError()

    def __dealloc__(self):
        tc_release(&self.c)

    def lookup(self, page):
        cdef uint32_t place = tc_lookup(&self.c, as_page(page))
        if place == OM_NONE:
            self.misses += 1
            return -1
        self.hits += 1
        return self.c.slot[place]

    def admit(self, page):
        cdef uint64_t number = as_page(page)
        if om_find(&self.c.map, number, 0) != OM_NONE:
            raise AlreadyMapped(f"page {number:#x} has a slot already")
        if not self.c.cleans:
            raise InvalidationOwed(
                f"no slot is clean: {self.c.map.count} are live, {self.c.oweds} are owed an invalidation"
            )
        self.admissions += 1
        return tc_admit(&self.c, number)

    def evict(self, count=None):
        cdef uint32_t place
        wanted = self.evict_batch if count is None else operator.index(count)
        if wanted < 0:
            raise OutOfRange(f"{wanted} pages cannot be evicted")
        rows = []
        while len(rows) < wanted and self.c.map.count:
            place = self.c.policy.on_evict(&self.c)
            rows.append((self.c.map.places[place].key, self.c.slot[place]))
            tc_retire(&self.c, place)
        self.evictions += len(rows)
        return np.array(rows, dtype=RETIRED_DTYPE)

    def drop(self, page):
        cdef uint64_t number = as_page(page)
        cdef uint32_t place = om_find(&self.c.map, number, 0)
        if place == OM_NONE:
            raise NotMapped(f"page {number:#x} has no slot")
        self.drops += 1
        return tc_retire(&self.c, place)

    def serve(self, first, end):
        cdef uint64_t page = as_page(first), stop = as_page(end), start = page
        cdef uint64_t hits = self.hits, misses = self.misses
        cdef uint32_t place, slot
        cdef list touched = [], new = []
        while page < stop:
            place = tc_lookup(&self.c, page)
            if place != OM_NONE:
                self.hits += 1
                slot = self.c.slot[place]
            elif self.c.cleans:
                self.misses += 1
                self.admissions += 1
                slot = tc_admit(&self.c, page)
                add_to(new, page, slot)
            else:
                break
            add_to(touched, page, slot)
            page += 1
        return Served(page - start, touched, new, self.hits - hits, self.misses - misses)

    def drop_all(self, first, end):
        cdef uint64_t page = as_page(first), stop = as_page(end)
        cdef uint32_t place
        cdef list gone = []
        while page < stop:
            place = om_find(&self.c.map, page, 0)
            if place != OM_NONE:
                self.drops += 1
                add_to(gone, page, tc_retire(&self.c, place))
            page += 1
        return gone

    def invalidated(self):
        if self.c.oweds:
            self.invalidations += 1
        tc_invalidated(&self.c)

    @property
    def clean(self):
        return self.c.cleans

    @property
    def owed(self):
        return self.c.oweds

    @property
    def counts(self):
        return CacheCounts(
            self.hits, self.misses, self.admissions, self.evictions, self.drops, self.invalidations
        )

    def __contains__(self, page):
        return om_find(&self.c.map, as_page(page), 0) != OM_NONE

    def __len__(self):
        return self.c.map.count
