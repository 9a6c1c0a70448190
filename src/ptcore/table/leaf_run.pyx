"""Edits of one run of smallest leaves in tables that exist: what most edits of a running machine are.

PageTable's verbs look, reserve and then do; here one look suffices, as nothing is allocated or freed and all items
lie in a few tables. Whatever is not that simple is refused, with nothing changed, and is PageTable's to do or to name.
"""

cimport cython
from libc.stdint cimport uint8_t, uint64_t

from ptcore.memory.physical cimport pt_at, pt_at_any
from ptcore.table.abi cimport PT_LEAF, PT_TABLE, pt_format, pt_item, pt_rules
from ptcore.table.decode cimport (
    pt_breaks_rule,
    pt_entry_bytes,
    pt_has_room_for,
    pt_index,
    pt_item_at,
    pt_item_rights,
    pt_kind,
    pt_leaf_output,
    pt_legal_input,
    pt_load,
    pt_output,
    pt_shape_of,
    pt_table_bytes,
)
from ptcore.table.page_table cimport PageTable

from ptcore.formats import encode


@cython.final
cdef class LeafRuns:
    def __cinit__(self, PageTable table not None):
        self.table = table
        self.attributes = {}
        self.page_mask = (1ULL << table.own_format.level[0].shift) - 1

    cdef uint8_t *find(self, uint64_t first, uint64_t last, unsigned rights, Near *near) noexcept:
        """The items of [first, last] in their one table, or NULL; `rights`: what no item above may withhold.

        `near`: where it was found last, and is looked at first: NULL, or the caller's for as long as no table
        above the smallest leaves changes.
        """
        cdef PageTable t = self.table
        cdef const pt_format *f = &t.own_format
        cdef const pt_rules *rules = &t.space.rules
        cdef uint64_t at, table = t.space.root
        cdef uint8_t *bytes_
        cdef pt_item item
        cdef int level = f.top, lg2 = 12
        if level == 0 or (first ^ last) >> f.level[1].shift:
            return NULL
        if near != NULL and near.items != NULL and near.region == first >> f.level[1].shift and not rights & ~near.rights:
            return near.items + pt_item_at(f, 0, pt_index(f, 0, first))
        while 1ULL << lg2 < pt_table_bytes(f, level):
            lg2 += 1
        if t.destroyed or not t.memory.writable or t.owns_root and not t.memory.frames.owns(table, lg2):
            return NULL
        if f.has_skips or rules.tag_bits or not pt_legal_input(f, rules, first):
            return NULL
        while level > 0:
            at = pt_item_at(f, table, pt_index(f, level, first))
            bytes_ = pt_at(t.space.memory, at, pt_entry_bytes(f))
            if bytes_ == NULL:
                return NULL
            item = pt_load(f, bytes_)
            if pt_kind(f, level, item) != PT_TABLE or pt_breaks_rule(f, rules, level, 0, item):
                return NULL
            if f.parents_limit_rights and rights & ~pt_item_rights(f, level, 0, item):
                return NULL
            table = pt_output(f, rules, level, 0, item)
            level -= 1
        bytes_ = pt_at_any(t.space.memory, table, pt_table_bytes(f, 0))
        if bytes_ == NULL:
            return NULL
        if near != NULL:
            near[0] = Near(first >> f.level[1].shift, bytes_, rights)
        return bytes_ + pt_item_at(f, 0, pt_index(f, 0, first))

    cdef bint is_near(self, uint64_t at, const Near *near) noexcept:
        return near.items != NULL and near.region == at >> self.table.own_format.level[1].shift

    cdef int attributes_of(self, access, memory_type, bint any_size, pt_item *item, unsigned *rights) except -1:
        """What a smallest leaf says besides its address; raises as PageTable.map for what cannot be said."""
        key = (access, memory_type, any_size)
        known = self.attributes.get(key)
        if known is None:
            wanted = encode.Attributes(access, False, False, memory_type, 0, 0)
            fmt, marked = self.table.format, self.table.encryption_bit
            if any_size:
                self.table._leaf_items(wanted, None, marked)
            items = self.table._leaf_items(wanted, 1 << fmt.granule_lg2, marked)
            known = (items[0][2], encode.wanted_rights(fmt, access, False)[1])
            self.attributes[key] = known
        item[0] = known[0]
        rights[0] = known[1]
        return 0

    cdef int pieces(self, uint64_t first, uint64_t last, unsigned rights, Near *near, Piece *out) noexcept:
        """The items of [first, last], a piece for each table; 0 where there is no table, or are too many."""
        cdef const pt_format *f = &self.table.own_format
        cdef uint64_t reach, at = first
        cdef int n = 0
        if f.top == 0:
            return 0
        reach = (1ULL << f.level[1].shift) - 1
        while n < MOST_PIECES:
            out[n].first = at
            out[n].count = (min(last, at | reach) - at) // (self.page_mask + 1) + 1
            out[n].items = self.find(at, min(last, at | reach), rights, near)
            if out[n].items == NULL:
                return 0
            n += 1
            if last <= at | reach:
                return n
            at = (at | reach) + 1
        return 0

    cdef uint64_t map(
        self, uint64_t first, uint64_t size, uint64_t pa, bint any_size, pt_item item, unsigned rights, Near *near
    ) noexcept:
        """Map a run; `any_size`: larger leaves would do, too, where there is no table yet."""
        cdef PageTable t = self.table
        cdef const pt_format *f = &t.own_format
        cdef Piece piece[MOST_PIECES]
        cdef int n, count
        if size == 0 or (first | size | pa) & self.page_mask or first + (size - 1) < first:
            return 0
        # Leaves of several sizes in one table are PageTable's to choose among.
        if f.level[0].shapes != 2 or pa + size < pa or (pa + size - 1) >> t.width:
            return 0
        if t._reaches_encryption(pa, pa + size - 1) or not pt_has_room_for(f, 0, 1, pa + size - 1 & ~self.page_mask):
            return 0
        count = self.pieces(first, first + size - 1, rights, near, piece)
        for n in range(count):
            if t.engine.empty_run(&t.space, piece[n].items, piece[n].count) < piece[n].count:
                return 0
        for n in range(count):
            t.engine.fill(&t.space, piece[n].items, piece[n].count, item, pa + (piece[n].first - first))
        return size // (self.page_mask + 1) if count else 0

    cdef uint64_t unmap(self, uint64_t first, uint64_t size, Near *near, uint64_t *pa) noexcept:
        cdef PageTable t = self.table
        cdef const pt_format *f = &t.own_format
        cdef Piece piece[MOST_PIECES]
        cdef pt_item item
        cdef int n, count = self.leaves(first, size, near, piece)
        if count == 0:
            return 0
        item = pt_load(f, piece[0].items)
        pa[0] = pt_leaf_output(f, &t.space.rules, 0, pt_shape_of(f, 0, PT_LEAF, item), item, first)
        for n in range(count):
            t.engine.clear(&t.space, piece[n].items, piece[n].count)
        return size // (self.page_mask + 1)

    cdef uint64_t unmap_alike(self, uint64_t first, uint64_t count, uint64_t pa, uint64_t step, Near *near) noexcept:
        """Unmap pages from `first` on that are in the table of `near`, as long as they lead to `pa` and `step` on."""
        cdef PageTable t = self.table
        cdef const pt_format *f = &t.own_format
        cdef uint64_t page = self.page_mask + 1, n = 0
        cdef uint8_t *items = self.find(first, first, 0, near)
        cdef pt_item item
        if items == NULL:
            return 0
        count = min(count, ((first | ((1ULL << f.level[1].shift) - 1)) - first) // page + 1)
        count = t.engine.lawful_leaf_run(&t.space, items, count)
        while n < count:
            item = pt_load(f, items + pt_item_at(f, 0, n))
            if pt_leaf_output(f, &t.space.rules, 0, pt_shape_of(f, 0, PT_LEAF, item), item, first) != pa:
                break
            n += 1
            first += page
            pa += step
        t.engine.clear(&t.space, items, n)
        return n

    cdef bint mapped(self, uint64_t first, uint64_t size) noexcept:
        """Whether all of the run is smallest leaves."""
        cdef Piece piece[MOST_PIECES]
        return self.leaves(first, size, NULL, piece) != 0

    cdef int leaves(self, uint64_t first, uint64_t size, Near *near, Piece *piece) noexcept:
        """The pieces of a run that is all smallest leaves; 0 for any other."""
        cdef PageTable t = self.table
        cdef int n, count
        if size == 0 or (first | size) & self.page_mask or first + (size - 1) < first:
            return 0
        count = self.pieces(first, first + size - 1, 0, near, piece)
        for n in range(count):
            if t.engine.lawful_leaf_run(&t.space, piece[n].items, piece[n].count) < piece[n].count:
                return 0
        return count
