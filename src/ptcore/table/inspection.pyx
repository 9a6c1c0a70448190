"""What is wrong with the tables themselves: items and pointers, each table and level looked at once."""

cimport cython
from libc.stdint cimport uint8_t, uint64_t
from libc.stdlib cimport free, realloc

import numpy as np

from ptcore.memory.physical cimport PhysicalMemory, pt_at, pt_at_any, pt_holds
from ptcore.table.abi cimport PT_EMPTY, PT_LEAF, PT_RESERVED, pt_format, pt_item, pt_space
from ptcore.table.decode cimport (
    pt_breaks_rule,
    pt_entry_bytes,
    pt_full_input,
    pt_item_at,
    pt_item_count,
    pt_kind,
    pt_load,
    pt_next_level,
    pt_offset_mask,
    pt_output,
    pt_shape_of,
    pt_table_bytes,
)
from ptcore.table.engine cimport pt_engine
from ptcore.table.page_table cimport PageTable
from ptcore.table.scan cimport loops

from ptcore.table.rows import FINDING_DTYPE, Rule

cdef uint8_t RESERVED_ITEM = Rule.RESERVED_ITEM
cdef uint8_t OUTSIDE_MEMORY = Rule.OUTSIDE_MEMORY
cdef uint8_t LOOP = Rule.LOOP


cdef packed struct Finding:
    uint64_t first
    uint64_t last
    uint64_t entry_address
    uint64_t items
    uint64_t other
    uint8_t rule
    uint8_t level


@cython.final
cdef class Inspection:
    cdef const pt_space *space
    cdef const pt_engine *engine
    cdef const pt_format *f
    cdef PageTable table
    cdef Finding *rows
    cdef size_t count
    cdef size_t room
    cdef set seen
    cdef list tables
    cdef list vas  # where each of the tables was met first

    def __init__(self, PageTable table not None):
        self.table = table
        self.space = &table.space
        self.engine = table.engine
        self.f = table.space.format
        self.seen = set()
        self.tables = []
        self.vas = []

    def __dealloc__(self):
        free(self.rows)

    cdef int add(self, uint8_t rule, int level, uint64_t va, uint64_t at, uint64_t other) except -1:
        """Note a finding at one item; the next item of a table carries the last finding on if it is alike."""
        cdef Finding *row
        cdef Finding *grown
        cdef uint64_t first = pt_full_input(self.f, va)
        cdef uint64_t last = first | pt_offset_mask(self.f, level)
        if self.count:
            row = &self.rows[self.count - 1]
            if (
                row.rule == rule
                and row.level == level
                and row.last + 1 == first
                and row.entry_address + row.items * pt_entry_bytes(self.f) == at
                and rule == RESERVED_ITEM
            ):
                row.last = last
                row.items += 1
                return 0
        if self.count == self.room:
            self.room = 2 * self.room if self.room else 64
            grown = <Finding *>realloc(self.rows, self.room * sizeof(Finding))
            if grown == NULL:
                self.room = self.count
                raise MemoryError()
            self.rows = grown
        row = &self.rows[self.count]
        self.count += 1
        row.rule, row.level = rule, <uint8_t>level
        row.first, row.last, row.entry_address, row.items, row.other = first, last, at, 1, other
        return 0

    cdef int look(self, uint64_t table, int level, uint64_t va) except -1:
        """Look at every item of a table, and at the tables below, unless they were seen at this level."""
        cdef uint64_t count = pt_item_count(self.f, level), index = 0, at
        cdef const uint8_t *whole = pt_at_any(self.space.memory, table, pt_table_bytes(self.f, level))
        cdef const uint8_t *bytes
        if (table, level) in self.seen:
            return 0
        self.seen.add((table, level))
        self.tables.append((table, level))
        self.vas.append(va)
        while index < count:
            if whole != NULL:
                index += self.engine.empty_run(
                    self.space, whole + index * pt_entry_bytes(self.f), count - index
                )
                if index == count:
                    break
            at = pt_item_at(self.f, table, index)
            bytes = pt_at(self.space.memory, at, pt_entry_bytes(self.f))
            if bytes != NULL:
                self.look_at(pt_load(self.f, bytes), at, level, va | index << self.f.level[level].shift)
            index += 1
        return 0

    cdef int look_at(self, pt_item item, uint64_t at, int level, uint64_t va) except -1:
        cdef int kind = pt_kind(self.f, level, item), below
        cdef int shape = pt_shape_of(self.f, level, kind, item)
        cdef uint64_t table
        if kind == PT_EMPTY:
            return 0
        if kind == PT_RESERVED or pt_breaks_rule(self.f, &self.space.rules, level, shape, item):
            return self.add(RESERVED_ITEM, level, va, at, 0)
        if kind == PT_LEAF:
            return 0
        table = pt_output(self.f, &self.space.rules, level, 0, item)
        below = pt_next_level(self.f, level, item)
        if not pt_holds(self.space.memory, table, pt_table_bytes(self.f, below)):
            self.add(OUTSIDE_MEMORY, level, va, at, table)
        return self.look(table, below, va)

    # -- loops -------------------------------------------------------------------------------

    cdef int find_loops(self) except -1:
        """Note the items that point to a table above them, in order of address."""
        cdef uint64_t first, va, index
        cdef int level
        found = []
        for place, index, at, target in loops(self.space, self.tables):
            va = self.vas[place]
            level = self.tables[place][1]
            first = pt_full_input(self.f, va | index << self.f.level[level].shift)
            found.append((first, at, level, target))
        for first, at, level, target in sorted(found):
            self.add(LOOP, level, first, at, target)
        return 0

    def run(self):
        cdef PhysicalMemory memory = self.table.memory
        cdef uint64_t missed = memory.misses()
        while True:
            self.look(self.space.root, self.f.top, 0)
            if not memory.fetch_missing(&missed):
                break
            self.seen.clear()
            self.tables.clear()
            self.vas.clear()
            self.count = 0
        self.find_loops()
        cdef size_t size = self.count * sizeof(Finding)
        found = np.empty(0, dtype=FINDING_DTYPE)
        if size:
            found = np.frombuffer((<char *>self.rows)[:size], dtype=FINDING_DTYPE).copy()
        return found, np.array(self.tables, dtype=np.uint64)
