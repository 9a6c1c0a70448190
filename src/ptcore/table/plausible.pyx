"""Which pages of a memory could hold tables: the compiled half of `find_roots`.

A page is read as a table of a level, item by item. *Good* items are lawful and point to a table in the
memory, or to a page between its two ends; *bad* ones break a rule, point elsewhere, or are empty by the rules
but not zero, which tables never are above level 0. What lies below is judged in the same way, each page once per level.
"""

cimport cython
from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memset

import numpy as np

from ptcore.memory.physical cimport PhysicalMemory, pt_at_any, pt_holds, pt_segment
from ptcore.table.abi cimport PT_EMPTY, PT_LEAF, PT_RESERVED, PT_TABLE, pt_format, pt_item, pt_space
from ptcore.table.decode cimport (
    pt_any,
    pt_breaks_rule,
    pt_entry_bytes,
    pt_item_count,
    pt_kind,
    pt_load,
    pt_next_level,
    pt_output,
    pt_shape_of,
    pt_table_bytes,
)
from ptcore.table.engine cimport pt_engine
from ptcore.table.page_table cimport PageTable


cdef extern from *:
    """
    /* As glibc, musl, the BSDs and macOS have it; <string.h> shows it to GNU sources only. */
    void *memmem(const void *bytes, size_t size, const void *wanted, size_t length);
    """
    void *memmem(const void *bytes, size_t size, const void *wanted, size_t length) noexcept nogil


cdef uint64_t PAGE_BYTES = 1 << 12

# A page with more bad items than this for each good one is no table: its items are not followed.
cdef uint64_t MOST_BAD = 1


cdef struct Count:
    uint64_t good
    uint64_t bad
    uint64_t tables
    uint64_t leaves  # lawful ones, wherever they point
    uint64_t cut  # lawful tables that are not wholly in the memory, but parts of them may be


cdef struct Below:
    double good[6]
    double bad[6]
    double tables[6]
    bint maps  # False: no leaf is reached


cdef uint64_t low_end(const pt_space *space) noexcept nogil:
    return space.memory.segments[0].start


cdef uint64_t high_end(const pt_space *space) noexcept nogil:
    """Where the memory ends, holes or not."""
    cdef const pt_segment *last = &space.memory.segments[space.memory.count - 1]
    return last.start + last.size


cdef int count_item(
    const pt_space *space, int level, pt_item item, Count *count, uint64_t *target, int *below
) noexcept nogil:
    """Count one item; return 1 and where it points if it is a table to follow."""
    cdef const pt_format *f = space.format
    cdef int kind = pt_kind(f, level, item), shape
    cdef uint64_t size
    cdef bint inside
    if kind == PT_EMPTY:
        count.bad += level > 0 and pt_any(item)
        return 0
    shape = pt_shape_of(f, level, kind, item)
    if kind == PT_RESERVED or pt_breaks_rule(f, &space.rules, level, shape, item):
        count.bad += 1
        return 0
    count.leaves += kind == PT_LEAF
    target[0] = pt_output(f, &space.rules, level, shape, item)
    below[0] = pt_next_level(f, level, item) if kind == PT_TABLE else level
    if kind == PT_TABLE:
        size = pt_table_bytes(f, below[0])
        inside = pt_holds(space.memory, target[0], size)
        count.cut += not inside and target[0] < high_end(space) and target[0] + size > low_end(space)
    else:  # images leave pages out: those between the ones that they hold may well have been there
        inside = target[0] - low_end(space) < high_end(space) - low_end(space)
    if not inside:
        count.bad += 1
        return 0
    count.good += 1
    count.tables += kind == PT_TABLE
    return kind == PT_TABLE


cdef bint count_page(
    const pt_space *space, const pt_engine *engine, const uint8_t *bytes, int level, Count *count
) noexcept nogil:
    """Count the items of a page; False as soon as it is clear that it holds no table."""
    cdef uint64_t items = pt_item_count(space.format, level), index = 0, target = 0
    cdef uint64_t size = pt_entry_bytes(space.format)
    cdef int below = 0
    memset(count, 0, sizeof(Count))
    while index < items:
        count_item(
            space, level, pt_load(space.format, bytes + index * size), count, &target, &below
        )
        if count.bad > 8 + MOST_BAD * count.good:
            return False
        index += 1
    return count.bad <= MOST_BAD * count.good


def candidates(PageTable carrier not None, uint64_t start, uint64_t last, uint64_t step):
    cdef PhysicalMemory memory = carrier.memory
    cdef uint64_t missed = memory.misses()
    while True:
        found = candidates_here(carrier, start, last, step)
        if not memory.fetch_missing(&missed):
            return found


cdef object candidates_here(PageTable carrier, uint64_t start, uint64_t last, uint64_t step):
    cdef const pt_space *space = &carrier.space
    cdef const pt_engine *engine = carrier.engine
    cdef int top = space.format.top
    cdef uint64_t at, size = pt_table_bytes(space.format, top), items = pt_item_count(space.format, top)
    cdef const uint8_t *bytes
    cdef Count count
    cdef uint64_t *found = NULL
    cdef uint64_t *grown
    cdef size_t n = 0, room = 0
    cdef bint failed = False
    at = start
    with nogil:
        while at <= last and last - at >= size - 1:
            bytes = pt_at_any(space.memory, at, size)
            if bytes != NULL and engine.empty_run(space, bytes, items) < items:
                if count_page(space, engine, bytes, top, &count) and count.tables:
                    if n == room:
                        room = 2 * room if room else 1024
                        grown = <uint64_t *>realloc(found, room * sizeof(uint64_t))
                        if grown == NULL:
                            failed = True
                            break
                        found = grown
                    found[n] = at
                    n += 1
            at += step
    if failed:
        free(found)
        raise MemoryError()
    result = np.empty(n, dtype=np.uint64)
    cdef uint64_t[::1] out = result
    for room in range(n):
        out[room] = found[room]
    free(found)
    return result


def places_of(PhysicalMemory memory not None, bytes text not None, uint64_t start, uint64_t last):
    cdef uint64_t missed = memory.misses()
    while True:
        found = places_here(memory, text, start, last)
        if not memory.fetch_missing(&missed):
            return found


cdef list places_here(PhysicalMemory memory, bytes text, uint64_t start, uint64_t last):
    """Search each run of pages that are here: single ones of a segment may not exist."""
    cdef uint64_t run = start, at = start, size
    cdef list found = []
    while True:
        size = min(PAGE_BYTES - at % PAGE_BYTES, last - at + 1)
        if at <= last and pt_at_any(&memory.c, at, size) != NULL:
            at += size
            continue
        if at > run:
            search_run(pt_at_any(&memory.c, run, at - run), run, at - run, text, found)
        if at > last:
            return found
        at += size
        run = at


cdef int search_run(
    const uint8_t *bytes, uint64_t start, uint64_t size, bytes text, list found
) except -1:
    cdef const char *wanted = text
    cdef size_t length = len(text)
    cdef const uint8_t *at = bytes
    while True:
        with nogil:
            at = <const uint8_t *>memmem(at, size - (at - bytes), wanted, length)
        if at == NULL:
            return 0
        found.append(start + <uint64_t>(at - bytes))
        at += 1


@cython.final
cdef class Judge:
    cdef PageTable carrier
    cdef const pt_space *space
    cdef const pt_engine *engine
    cdef Below *judged
    cdef size_t count
    cdef size_t room
    cdef dict places  # (page, level) -> number of its Below
    cdef dict loops  # root -> the first of its items that points back to it
    cdef dict above  # page -> the first page and level that points to it

    def __init__(self, PageTable carrier not None):
        self.carrier = carrier
        self.space = &carrier.space
        self.engine = carrier.engine
        self.places = {}
        self.above = {}
        self.loops = {}

    def __dealloc__(self):
        free(self.judged)

    cdef int64_t number_of(self, uint64_t table, int level) except -1:
        """The number of the judgement on a page at a level, made now if need be."""
        cdef Below *grown
        known = self.places.get((table, level))
        if known is not None:
            return known
        if self.count == self.room:
            self.room = 2 * self.room if self.room else 1024
            grown = <Below *>realloc(self.judged, self.room * sizeof(Below))
            if grown == NULL:
                self.room = self.count
                raise MemoryError()
            self.judged = grown
        cdef int64_t number = self.count
        self.count += 1
        self.places[table, level] = number
        cdef Below sums
        memset(&sums, 0, sizeof(Below))
        self.judged[number] = sums
        self.judge(table, level, &sums)
        self.judged[number] = sums
        return number

    cdef int judge(self, uint64_t table, int level, Below *sums) except -1:
        cdef uint64_t index, items = pt_item_count(self.space.format, level), target = 0
        cdef uint64_t size = pt_entry_bytes(self.space.format)
        cdef const uint8_t *bytes = pt_at_any(
            self.space.memory, table, pt_table_bytes(self.space.format, level)
        )
        cdef Count count
        cdef Below *under
        cdef int64_t number
        cdef int below = 0, n
        cdef bint plausible
        if bytes == NULL:
            return 0  # not read yet: the door does it again
        plausible = count_page(self.space, self.engine, bytes, level, &count)
        sums.good[level] = count.good
        sums.bad[level] = count.bad
        sums.tables[level] = 1
        # Nobody looks at what is below implausible tables, and those that lie in the memory in part.
        sums.maps = count.leaves > 0 or count.cut > 0 or not plausible
        if not plausible or not count.tables:
            return 0
        for index in range(items):
            if count_item(
                self.space, level, pt_load(self.space.format, bytes + index * size), &count, &target, &below
            ):
                if target != table:
                    self.above.setdefault(target, (table, below))
                elif level == self.space.format.top:
                    self.loops.setdefault(table, index)
                number = self.number_of(target, below)  # may move the judgements
                under = &self.judged[number]
                sums.maps |= under.maps
                for n in range(level):
                    sums.good[n] += under.good[n]
                    sums.bad[n] += under.bad[n]
                    sums.tables[n] += under.tables[n]
        return 0

    def verdict(self, uint64_t root):
        cdef int level, top = self.space.format.top
        cdef PhysicalMemory memory = self.carrier.memory
        cdef uint64_t missed = memory.misses()
        cdef int64_t number
        cdef Below *sums
        while True:
            number = self.number_of(root, top)
            if not memory.fetch_missing(&missed):
                break
            self.places.clear()
            self.above.clear()
            self.count = 0
        sums = &self.judged[number]
        levels = range(top + 1)
        return (
            [sums.good[level] for level in levels],
            [sums.bad[level] for level in levels],
            [sums.tables[level] for level in levels],
            bool(sums.maps),
        )

    def parent(self, uint64_t table):
        return self.above.get(table)

    def self_map(self, uint64_t root):
        return self.loops.get(root)
