"""Listings of whole tables.

Every listing is memoised by (table, level): a subtree that hangs in several places is read once, so
the cost is O(tables), not O(leaves), and self-maps end. Nothing is dropped: a subtree listed before
becomes a REPEAT row, a reserved item a RESERVED row, and a table outside memory an OUTSIDE row.
"""

cimport cython
from cpython.buffer cimport PyBuffer_FillInfo
from libc.stdint cimport uint8_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy, memset
from posix.mman cimport (
    MADV_HUGEPAGE,
    MAP_ANONYMOUS,
    MAP_FAILED,
    MAP_NORESERVE,
    MAP_PRIVATE,
    PROT_READ,
    PROT_WRITE,
    madvise,
    mmap,
    munmap,
)

import numpy as np

from ptcore.memory.physical cimport PhysicalMemory, pt_at, pt_at_any
from ptcore.table.abi cimport (
    PT_ALL_ONES,
    PT_EMPTY,
    PT_LEAF,
    PT_RESERVED,
    PT_TABLE,
    pt_format,
    pt_item,
    pt_layout,
    pt_mark,
    pt_space,
)
from ptcore.table.engine cimport pt_engine
from ptcore.table.listed_rows cimport (
    PT_ROW_OUTSIDE,
    PT_ROW_REPEAT,
    PT_ROW_RESERVED,
    pt_add_row,
    pt_list_leaf,
    pt_row,
)
from ptcore.table.decode cimport (
    pt_breaks_rule,
    pt_entry_bytes,
    pt_entry_size_lg2,
    pt_full_input,
    pt_index,
    pt_is_marked,
    pt_item_at,
    pt_item_count,
    pt_kind,
    pt_layout_of,
    pt_leaf_bytes,
    pt_leaf_output,
    pt_load,
    pt_next_level,
    pt_offset_mask,
    pt_output,
    pt_reach_mask,
    pt_rights_with,
    pt_shape_of,
    pt_store,
    pt_unmarked,
)
from ptcore.errors import PtcoreError

from ptcore.table.rows import HARVEST_DTYPE, ROW_DTYPE

# Early kernels map whole shadow regions to one page (KASAN): no list of such a page is of use.
cdef Py_ssize_t MOST_RESULTS = 1_000_000
# Rows beyond this many bytes lie in address space that has room for many more, asked for in pages of this size
# where the system has them: nothing is copied as they grow, and faults of small pages cost more than the rows.
cdef size_t HUGE_PAGE = 1 << 21
cdef size_t ADDRESS_SPACE = 1 << 36


cdef void clear_row(pt_row *row, int level, uint64_t first, uint64_t last, uint64_t page_size) noexcept:
    memset(row, 0, sizeof(pt_row))
    row.first = first
    row.last = last
    row.pa = PT_ALL_ONES
    row.page_size = page_size
    row.repeat_of = PT_ALL_ONES
    row.level = <uint8_t>level


@cython.final
cdef class Scan:
    def __cinit__(self):
        self.seen = {}

    def __dealloc__(self):
        self.let_go()

    cdef void let_go(self) noexcept:
        if self.mapped_bytes:
            munmap(self.listing.rows, self.mapped_bytes)
        else:
            free(self.listing.rows)

    cdef int reserve(self, size_t rows) except -1:
        """Make room for so many rows more."""
        if self.listing.room - self.listing.count >= rows:
            return 0
        cdef size_t room = max(2 * self.listing.room, self.listing.count + rows)
        cdef size_t size = room * sizeof(pt_row)
        cdef void *grown
        if size >= HUGE_PAGE and self.move(max(size, ADDRESS_SPACE), size):
            return 0
        grown = NULL if self.mapped_bytes else realloc(self.listing.rows, size)
        if grown == NULL:
            raise MemoryError()
        self.listing.rows = <pt_row *>grown
        self.listing.room = room
        return 0

    cdef bint move(self, size_t size, size_t least) noexcept:
        """Move the rows to address space of their own; no where there is none to be had."""
        cdef void *found = MAP_FAILED
        cdef int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE
        while size >= least:
            found = mmap(NULL, size, PROT_READ | PROT_WRITE, flags, -1, 0)
            if found != MAP_FAILED:
                break
            size //= 2
        if found == MAP_FAILED:
            return False
        madvise(found, size, MADV_HUGEPAGE)  # advice: nothing depends on it
        memcpy(found, self.listing.rows, self.listing.count * sizeof(pt_row))
        self.let_go()
        self.listing.rows = <pt_row *>found
        self.listing.room = size // sizeof(pt_row)
        self.mapped_bytes = size
        return True

    cdef int add(self, const pt_row *row) except -1:
        self.reserve(1)
        pt_add_row(&self.listing, row)
        return 0

    cdef int list_range(
        self, uint64_t table, int level, unsigned rights, uint64_t first, uint64_t last
    ) except -1:
        cdef uint64_t index = pt_index(self.f, level, first)
        cdef uint64_t last_index = pt_index(self.f, level, last)
        cdef uint64_t mask = pt_offset_mask(self.f, level)
        cdef uint64_t item_first = first, item_last, size = pt_entry_bytes(self.f)
        cdef const uint8_t *bytes
        cdef pt_item item
        cdef int kind, shape = 0, below
        cdef uint64_t run
        cdef pt_row row
        cdef const uint8_t *row_of_items = NULL
        item = 0
        if level == 0:  # most items are here, and most tables lie in one piece
            row_of_items = pt_at_any(
                self.space.memory, pt_item_at(self.f, table, index), (last_index - index + 1) * size
            )
        while True:
            if row_of_items != NULL:
                bytes = row_of_items + (index - pt_index(self.f, level, first)) * size
                run = last_index - index + 1
                self.reserve(run)
                run = self.engine.list_leaves(
                    self.space, bytes, run, rights, item_first, &self.listing
                )
                if index + run > last_index:
                    self.end_at(last)
                    return 0
                if run:
                    index += run
                    item_first = (item_first & ~mask) + run * (mask + 1)
            item_last = item_first | mask
            if item_last > last:
                item_last = last
            bytes = pt_at(self.space.memory, pt_item_at(self.f, table, index), size)
            kind = PT_RESERVED
            if bytes != NULL:
                item = pt_load(self.f, bytes)
                kind = pt_kind(self.f, level, item)
                shape = pt_shape_of(self.f, level, kind, item)
                if kind != PT_EMPTY and kind != PT_RESERVED:
                    if pt_breaks_rule(self.f, &self.space.rules, level, shape, item):
                        kind = PT_RESERVED
            if kind == PT_LEAF:
                self.reserve(1)
                pt_list_leaf(
                    self.f, self.space, &self.listing, level, shape, item, rights, item_first, item_last
                )
            elif kind == PT_TABLE:
                below = pt_next_level(self.f, level, item)
                # A table that skips levels reaches only the start of what its item stands for.
                if not item_first & mask & ~pt_reach_mask(self.f, below):
                    self.list_below(
                        pt_output(self.f, &self.space.rules, level, 0, item),
                        below,
                        pt_rights_with(self.f, level, 0, item, rights),
                        item_first,
                        min(item_last, item_first | pt_reach_mask(self.f, below)),
                    )
            elif kind != PT_EMPTY:
                clear_row(&row, level, item_first, item_last, mask + 1)
                row.kind = PT_ROW_RESERVED if bytes != NULL else PT_ROW_OUTSIDE
                if bytes == NULL:
                    row.pa = table
                self.add(&row)
            if index == last_index:
                return 0
            index += 1
            item_first = item_last + 1

    cdef void end_at(self, uint64_t last) noexcept:
        """Cut the last row where the range asked for ends, within its last page."""
        cdef pt_row *row = &self.listing.rows[self.listing.count - 1]
        if self.listing.count and row.first <= last < row.last:
            row.last = last

    cdef int list_below(
        self, uint64_t table, int level, unsigned rights, uint64_t first, uint64_t last
    ) except -1:
        cdef uint64_t mask = pt_reach_mask(self.f, level)
        cdef bint whole = (first & mask) == 0 and (last & mask) == mask
        cdef size_t before = self.listing.count
        cdef uint64_t last_before = self.listing.rows[before - 1].last if before else 0
        cdef pt_row row
        if self.expand or not whole:
            return self.list_range(table, level, rights, first, last)
        key = (table, level, rights)
        earlier = self.seen.get(key)
        if earlier is None:
            self.list_range(table, level, rights, first, last)
            grew = self.listing.count > before or (
                before and self.listing.rows[before - 1].last != last_before
            )
            self.seen[key] = first if grew else PT_ALL_ONES
        elif earlier != PT_ALL_ONES:
            clear_row(&row, level, first, last, mask + 1)
            row.pa = table
            row.repeat_of = earlier
            row.rights = <uint8_t>rights
            row.kind = PT_ROW_REPEAT
            self.add(&row)
        return 0

    def array(self):
        """The rows as an array; the listing is over, and its memory is the array's."""
        cdef pt_row *kept
        cdef size_t size
        self.seen = None
        if not self.listing.count:
            return np.empty(0, dtype=ROW_DTYPE)
        size = self.listing.count * sizeof(pt_row)
        if self.mapped_bytes:
            size = (size + HUGE_PAGE - 1) & ~(HUGE_PAGE - 1)
            if size < self.mapped_bytes:
                munmap(<uint8_t *>self.listing.rows + size, self.mapped_bytes - size)
                self.mapped_bytes = size
        else:
            kept = <pt_row *>realloc(self.listing.rows, size)
            if kept != NULL:
                self.listing.rows = kept
        self.listing.room = self.listing.count
        return np.frombuffer(self, dtype=ROW_DTYPE)

    def __getbuffer__(self, Py_buffer *view, int flags):
        cdef size_t size = self.listing.count * sizeof(pt_row)
        PyBuffer_FillInfo(view, self, self.listing.rows, size, False, flags)


cdef object mappings(
    PhysicalMemory memory, const pt_space *space, const pt_engine *engine, list ranges, bint expand
):
    cdef uint64_t seen = memory.misses()
    cdef Scan scan
    while True:
        scan = Scan.__new__(Scan)
        scan.space = space
        scan.f = space.format
        scan.engine = engine
        scan.expand = expand
        for first, last in ranges:
            scan.list_range(space.root, space.format.top, space.format.rights, first, last)
        if not memory.fetch_missing(&seen):
            return scan.array()


# -- reverse -------------------------------------------------------------------------------------


cdef bint _holds(const pt_space *space, uint64_t table, int level, uint64_t pa, dict known) except -1:
    """Whether any leaf under `table` maps `pa`."""
    cdef uint64_t index, size = pt_entry_bytes(space.format), leaf
    cdef const uint8_t *bytes
    cdef pt_item item
    cdef int kind, shape
    # Copies of a leaf differ only in where they are: any address of the item will do.
    cdef uint64_t item_va, va = 0
    key = (table, level)
    found = known.get(key)
    if found is not None:
        return found
    found = False
    for index in range(pt_item_count(space.format, level)):
        bytes = pt_at(space.memory, pt_item_at(space.format, table, index), size)
        if bytes == NULL:
            break
        item = pt_load(space.format, bytes)
        kind = pt_kind(space.format, level, item)
        if kind == PT_EMPTY or kind == PT_RESERVED:
            continue
        shape = pt_shape_of(space.format, level, kind, item)
        if pt_breaks_rule(space.format, &space.rules, level, shape, item):
            continue
        item_va = va | (index << space.format.level[level].shift)
        leaf = pt_output(space.format, &space.rules, level, shape, item)
        if kind == PT_LEAF:
            leaf = pt_leaf_output(space.format, &space.rules, level, shape, item, item_va)
        if kind == PT_LEAF:
            found = found or pa - leaf < pt_leaf_bytes(space.format, level)
        elif _holds(space, leaf, pt_next_level(space.format, level, item), pa, known):
            found = True
    known[key] = found
    return found


cdef int _collect(
    const pt_space *space, uint64_t table, int level, uint64_t va, uint64_t pa, dict known, list out
) except -1:
    """Append the addresses under `table` that lead to `pa`, until there are too many."""
    cdef uint64_t index, size = pt_entry_bytes(space.format), leaf, item_va
    cdef const uint8_t *bytes
    cdef pt_item item
    cdef int kind, shape
    if not _holds(space, table, level, pa, known):
        return 0
    for index in range(pt_item_count(space.format, level)):
        bytes = pt_at(space.memory, pt_item_at(space.format, table, index), size)
        if bytes == NULL:
            break
        item = pt_load(space.format, bytes)
        kind = pt_kind(space.format, level, item)
        if kind == PT_EMPTY or kind == PT_RESERVED:
            continue
        shape = pt_shape_of(space.format, level, kind, item)
        if pt_breaks_rule(space.format, &space.rules, level, shape, item):
            continue
        item_va = va | (index << space.format.level[level].shift)
        leaf = pt_output(space.format, &space.rules, level, shape, item)
        if kind == PT_LEAF:
            leaf = pt_leaf_output(space.format, &space.rules, level, shape, item, item_va)
        if kind == PT_TABLE:
            _collect(space, leaf, pt_next_level(space.format, level, item), item_va, pa, known, out)
        elif pa - leaf < pt_leaf_bytes(space.format, level):
            if len(out) == MOST_RESULTS:
                raise PtcoreError(
                    f"more than {MOST_RESULTS} addresses translate to {int(pa):#x}: tables repeat; "
                    "mappings() lists the repeats"
                )
            out.append(pt_full_input(space.format, item_va + (pa - leaf)))
    return 0


cdef object reverse(PhysicalMemory memory, const pt_space *space, uint64_t pa):
    cdef uint64_t seen = memory.misses()
    while True:
        out = []
        _collect(space, space.root, space.format.top, 0, pa, {}, out)
        if not memory.fetch_missing(&seen):
            return np.array(sorted(out), dtype=np.uint64)


# -- loops ---------------------------------------------------------------------------------------


cdef list loops(const pt_space *space, list places):
    """The items that point to a table above them, on whichever of the ways that lead to them.

    `places`: every (table, level) that the root reaches. Rows of (number of the place, index, address of
    the item, table that it points to). O(tables) where none is met at two levels, as all in a loop are.
    """
    met = set()
    several = set()
    for table, _ in places:
        (several if table in met else met).add(table)
    if not several:
        return []
    parents = {}
    found = []
    for number, place in enumerate(places):
        follow(space, number, place, several, parents, found)
    return [row for row in found if is_above(row[3], places[row[0]], parents)]


cdef int follow(
    const pt_space *space, number, tuple place, set several, dict parents, list found
) except -1:
    """Note the parent of each table below a place, and the items that point to one of `several`."""
    cdef uint64_t table = place[0], index, at, target
    cdef int level = place[1]
    cdef const pt_format *f = space.format
    cdef const uint8_t *bytes
    cdef pt_item item
    for index in range(pt_item_count(f, level)):
        at = pt_item_at(f, table, index)
        bytes = pt_at(space.memory, at, pt_entry_bytes(f))
        if bytes == NULL:
            continue
        item = pt_load(f, bytes)
        if pt_kind(f, level, item) != PT_TABLE or pt_breaks_rule(f, &space.rules, level, 0, item):
            continue
        target = pt_output(f, &space.rules, level, 0, item)
        parents.setdefault((target, pt_next_level(f, level, item)), []).append(place)
        if target in several:
            found.append((number, index, at, target))
    return 0


cdef bint is_above(object table, tuple place, dict parents) except -1:
    """Whether any way from the root to a place has `table` on it."""
    ahead = [place]
    met = {place}
    while ahead:
        here = ahead.pop()
        if here[0] == table:
            return True
        new = [up for up in parents.get(here, ()) if up not in met]
        met.update(new)
        ahead += new
    return False


# -- stats ---------------------------------------------------------------------------------------


@cython.final
cdef class Tally:
    cdef const pt_space *space
    cdef dict mapped  # (table, level) -> bytes mapped under it
    cdef list tables, leaves, empty, reserved, outside
    cdef object references

    cdef object count(self, uint64_t table, int level):
        cdef uint64_t index, at, below, size = pt_entry_bytes(self.space.format)
        cdef const uint8_t *bytes
        cdef pt_item item
        cdef int kind
        key = (table, level)
        known = self.mapped.get(key)
        if known is not None:
            return known
        mapped = 0
        self.mapped[key] = 0  # a table that reaches itself at its own level cannot be: levels fall
        self.tables[level] += 1
        for index in range(pt_item_count(self.space.format, level)):
            at = pt_item_at(self.space.format, table, index)
            bytes = pt_at(self.space.memory, at, size)
            if bytes == NULL:
                self.outside[level] += 1
                continue
            item = pt_load(self.space.format, bytes)
            kind = pt_kind(self.space.format, level, item)
            if kind == PT_EMPTY:
                self.empty[level] += 1
            elif kind == PT_RESERVED or pt_breaks_rule(
                self.space.format,
                &self.space.rules,
                level,
                pt_shape_of(self.space.format, level, kind, item),
                item,
            ):
                self.reserved[level] += 1
            elif kind == PT_LEAF:
                self.leaves[level] += 1
                mapped += int(pt_leaf_bytes(self.space.format, level))
            else:
                below = pt_output(self.space.format, &self.space.rules, level, 0, item)
                self.references += 1
                mapped += self.count(below, pt_next_level(self.space.format, level, item))
        self.mapped[key] = mapped
        return mapped


cdef object stats(PhysicalMemory memory, const pt_space *space):
    cdef Tally tally
    cdef int levels = space.format.top + 1
    cdef uint64_t seen = memory.misses()
    while True:
        tally = Tally.__new__(Tally)
        tally.space = space
        tally.mapped = {}
        tally.references = 0
        tally.tables = [0] * levels
        tally.leaves = [0] * levels
        tally.empty = [0] * levels
        tally.reserved = [0] * levels
        tally.outside = [0] * levels
        mapped = tally.count(space.root, space.format.top)
        if not memory.fetch_missing(&seen):
            break
    return {
        "tables": tuple(tally.tables),
        "leaves": tuple(tally.leaves),
        "empty": tuple(tally.empty),
        "reserved": tuple(tally.reserved),
        "outside": tuple(tally.outside),
        "mapped_bytes": mapped,
        "shared_tables": tally.references + 1 - sum(tally.tables),
        "self_maps": tuple(dict.fromkeys(at for _, _, at, _ in loops(space, list(tally.mapped)))),
    }


# -- harvest -------------------------------------------------------------------------------------


@cython.final
cdef class Harvester:
    cdef const pt_space *space
    cdef bint dirty
    cdef bint clear
    cdef list rows
    # Subtrees seen before, and whether they held a mark; where the marked ones hang once more.
    cdef dict seen
    cdef list repeats

    cdef bint gather(self, uint64_t table, int level, uint64_t va) except -1:
        """List the marked leaves under `table`, each once; return whether there are any."""
        cdef uint64_t index, below, item_va, size = pt_entry_bytes(self.space.format)
        cdef uint8_t *bytes
        cdef pt_item item
        cdef pt_mark mark
        cdef const pt_layout *layout
        cdef int kind, shape
        cdef bint found = False
        for index in range(pt_item_count(self.space.format, level)):
            bytes = pt_at(
                self.space.memory, pt_item_at(self.space.format, table, index), size
            )
            if bytes == NULL:
                break
            item = pt_load(self.space.format, bytes)
            kind = pt_kind(self.space.format, level, item)
            if kind == PT_EMPTY or kind == PT_RESERVED:
                continue
            shape = pt_shape_of(self.space.format, level, kind, item)
            if pt_breaks_rule(self.space.format, &self.space.rules, level, shape, item):
                continue
            item_va = va | (index << self.space.format.level[level].shift)
            layout = pt_layout_of(self.space.format, level, shape)
            mark = layout.dirty if self.dirty else layout.accessed
            if kind == PT_TABLE:
                below = pt_output(self.space.format, &self.space.rules, level, shape, item)
                found = self.gather_below(
                    below, pt_next_level(self.space.format, level, item), item_va
                ) or found
            elif pt_is_marked(mark, item):
                found = True
                if self.clear:
                    pt_store(self.space.format, bytes, pt_unmarked(mark, item))
                else:
                    self.note(item, level, shape, item_va)
        return found

    cdef int note(self, pt_item item, int level, int shape, uint64_t va) except -1:
        """List the entry that a marked item is a part of, once."""
        cdef const pt_format *f = self.space.format
        cdef uint64_t size = 1ULL << pt_entry_size_lg2(f, level, shape)
        cdef uint64_t pa = pt_leaf_output(f, &self.space.rules, level, shape, item, va)
        row = (pt_full_input(f, va & ~(size - 1)), pa & ~(size - 1), size)
        if not self.rows or self.rows[len(self.rows) - 1] != row:
            self.rows.append(row)
        return 0

    cdef bint gather_below(self, uint64_t table, int level, uint64_t va) except -1:
        cdef uint64_t first
        key = (table, level)
        known = self.seen.get(key)
        if known is None:
            known = self.seen[key] = self.gather(table, level, va)
        elif known and not self.clear:
            first = pt_full_input(self.space.format, va)
            self.repeats.append((first, first | pt_reach_mask(self.space.format, level)))
        return known


cdef object harvest(PhysicalMemory memory, const pt_space *space, bint dirty, bint clear):
    """The marked leaves, each once, and the spans where they hang once more.

    All are listed before the first is cleared: a table that maps itself is read at several levels.
    """
    cdef Harvester harvester
    cdef uint64_t seen = memory.misses()
    while True:
        harvester = Harvester.__new__(Harvester)
        harvester.space = space
        harvester.dirty = dirty
        harvester.rows = []
        harvester.repeats = []
        harvester.seen = {}
        harvester.gather(space.root, space.format.top, 0)
        if not memory.fetch_missing(&seen):
            break
    if clear:
        harvester.clear = True
        harvester.seen = {}
        harvester.gather(space.root, space.format.top, 0)
    rows = np.array(harvester.rows, dtype=HARVEST_DTYPE)
    rows.sort(order="va")
    return rows, harvester.repeats
