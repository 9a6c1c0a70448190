"""Edits of tables: map, unmap, protect, split, collapse.

Each edit is one recursion that is run twice. The dry pass only looks: it finds everything that can be
wrong and counts the tables that will be wanted. The second pass cannot fail, so an edit happens
wholly or not at all. Recursions end because the level falls with every call.

Ranges are [first, last], both inclusive, inside the table at hand. `table` is PT_ALL_ONES for a table
that does not exist yet, in a dry pass.
"""

cimport cython
from libc.stdint cimport uint8_t, uint64_t

from ptcore.memory.physical cimport FrameAllocator, pt_at, pt_at_any
from ptcore.table.abi cimport PT_ALL_ONES, PT_EMPTY, PT_LEAF, PT_RESERVED, PT_TABLE, pt_format, pt_item
from ptcore.table.decode cimport (
    pt_any,
    pt_breaks_rule,
    pt_carry_down,
    pt_carry_up,
    pt_entry_bytes,
    pt_entry_size_lg2,
    pt_index,
    pt_is_empty,
    pt_item_at,
    pt_item_count,
    pt_has_room_for,
    pt_item_rights,
    pt_kept_aside,
    pt_kind,
    pt_leaf_bytes,
    pt_leaf_output,
    pt_load,
    pt_mark_bits,
    pt_next_level,
    pt_offset_mask,
    pt_output,
    pt_output_bits,
    pt_reach_mask,
    pt_replaced,
    pt_shape_of,
    pt_store,
    pt_table_bytes,
    pt_without_output,
)


@cython.final
cdef class Edit:
    def __cinit__(self):
        self.freed = []
        self.noted = set()
        self.page_level = -1
        self.page_shape = 0
        self.page_lg2 = 0
        self.stale_first = PT_ALL_ONES
        self.stale_last = 0

    cdef int run(self, uint64_t first, uint64_t last, uint64_t pa):
        """One pass of the operation from the root; `pa` is for a map."""
        self.first = first
        self.last = last
        if self.operation == MAP:
            return self.map_range(self.space.root, self.f.top, first, last, pa)
        return self.edit_range(self.space.root, self.f.top, first, last)

    cdef int stop(self, int end, int level, const Item *it):
        self.at_va = it.first
        self.at_item = it.at
        self.at_level = level
        self.item = it.item
        return end

    cdef bint read(self, uint64_t table, int level, uint64_t last, Item *it) noexcept:
        """Fill `it` for index it.index from it.first on; False when the table is outside memory."""
        cdef uint64_t mask = pt_offset_mask(self.f, level)
        it.last = it.first | mask
        if it.last > last:
            it.last = last
        it.whole = (it.first & mask) == 0 and (it.last & mask) == mask
        it.at = pt_item_at(self.f, table, it.index)
        it.item = 0
        it.kind = PT_EMPTY
        it.shape = 0
        it.next_level = level - 1
        it.bytes = NULL
        if table == PT_ALL_ONES:
            return True
        it.bytes = pt_at(self.space.memory, it.at, pt_entry_bytes(self.f))
        if it.bytes == NULL:
            return False
        it.item = pt_load(self.f, it.bytes)
        it.kind = pt_kind(self.f, level, it.item)
        it.shape = pt_shape_of(self.f, level, it.kind, it.item)
        if it.kind == PT_TABLE or it.kind == PT_LEAF:
            if pt_breaks_rule(self.f, &self.space.rules, level, it.shape, it.item):
                it.kind = PT_RESERVED
        if it.kind == PT_TABLE:
            it.next_level = pt_next_level(self.f, level, it.item)
        return True

    cdef void write(self, Item *it, pt_item item) noexcept:
        pt_store(self.f, it.bytes, item)
        self.entries_written += 1

    cdef uint64_t below(self, int level, const Item *it) noexcept:
        return pt_output(self.f, &self.space.rules, level, 0, it.item)

    cdef uint64_t new_table(self, int level):
        cdef uint64_t size = pt_table_bytes(self.f, level)
        cdef int lg2 = 12
        while (1ULL << lg2) < size:
            lg2 += 1
        self.tables_allocated_bytes += 1ULL << lg2
        if self.ready is not None:
            return self.ready[lg2].pop()
        return self.frames.take(lg2, True)

    cdef void link(self, Item *it, int level, uint64_t table):
        self.write(it, self.table_item[level] | pt_output_bits(self.f, level, 0, table))

    cdef int free_table(self, uint64_t table, int level):
        self.freed.append((table, pt_table_bytes(self.f, level)))
        return EDIT_DONE

    cdef int free_subtree(self, uint64_t table, int level):
        """Note `table` and all tables under it as freed; one that hangs in two places, once."""
        cdef Item it
        key = (table, level)
        if key in self.noted:
            return EDIT_DONE
        self.noted.add(key)
        self.free_table(table, level)
        if level == 0:
            return EDIT_DONE
        for it.index in range(pt_item_count(self.f, level)):
            it.first = it.index << self.f.level[level].shift
            if not self.read(table, level, PT_ALL_ONES, &it):
                return EDIT_DONE
            if it.kind == PT_TABLE:
                self.free_subtree(self.below(level, &it), it.next_level)
        return EDIT_DONE

    # -- map ---------------------------------------------------------------------------------

    cdef int map_range(self, uint64_t table, int level, uint64_t first, uint64_t last, uint64_t pa):
        cdef Item it
        cdef int end, shape
        cdef uint64_t item_pa, count
        cdef uint64_t last_index = pt_index(self.f, level, last)
        if level == 0 and (self.f.level[0].shapes == 2 or self.page_level == 0 and self.page_shape == 1):
            return self.map_smallest(table, first, last, pa)
        it.index = pt_index(self.f, level, first)
        it.first = first
        while True:
            if not self.read(table, level, last, &it):
                return self.stop(EDIT_OUTSIDE_MEMORY, level, &it)
            item_pa = pa + (it.first - first)
            count = 1
            if it.kind == PT_LEAF:
                return self.stop(EDIT_ALREADY_MAPPED, level, &it)
            if it.kind == PT_RESERVED:
                return self.stop(EDIT_MALFORMED, level, &it)
            shape = self.fitting_shape(table, level, &it, last, item_pa)
            if it.kind == PT_TABLE and not (shape and self.page_lg2):
                end = self.map_below(level, &it, item_pa)
            elif not shape and level == 0:
                return self.stop(EDIT_TOO_HIGH, level, &it)
            elif shape:
                count = 1ULL << self.f.level[level].shape[shape].items_lg2
                end = self.map_leaf(table, level, shape, &it, item_pa)
            else:
                end = self.map_new_table(level, &it, item_pa)
            if end != EDIT_DONE:
                return end
            if it.index + count > last_index:
                return EDIT_DONE
            it.index += count
            it.first += count << self.f.level[level].shift
            if count == 1:
                it.first = it.last + 1

    cdef int fitting_shape(self, uint64_t table, int level, const Item *it, uint64_t last, uint64_t pa):
        """The largest page at this level for what is left of the range; 0 where none fits."""
        cdef int shape, found = 0
        cdef unsigned size_lg2, largest = 0
        cdef uint64_t mask
        if not it.whole:
            return 0
        for shape in range(1, self.f.level[level].shapes):
            if not self.f.level[level].shape[shape].mappable:
                continue
            size_lg2 = pt_entry_size_lg2(self.f, level, shape)
            mask = (1ULL << size_lg2) - 1
            if self.page_lg2 and self.page_lg2 != size_lg2:
                continue
            if size_lg2 < largest or (it.first | pa) & mask or last - it.first < mask:
                continue
            if not pt_has_room_for(self.f, level, shape, pa):
                continue
            if not self.page_lg2 and not self.all_empty(
                table, level, it.index, 1ULL << self.f.level[level].shape[shape].items_lg2
            ):
                continue
            largest = size_lg2
            found = shape
        return found

    cdef bint all_empty(self, uint64_t table, int level, uint64_t index, uint64_t count) noexcept:
        """Whether `count` items from `index` on are empty."""
        cdef uint64_t n
        cdef uint8_t *bytes
        if table == PT_ALL_ONES or not self.dry and count == 1:
            return True
        for n in range(count):
            bytes = pt_at(self.space.memory, pt_item_at(self.f, table, index + n), pt_entry_bytes(self.f))
            if bytes == NULL or not pt_is_empty(self.f, pt_load(self.f, bytes)):
                return False
        return True

    cdef int map_smallest(self, uint64_t table, uint64_t first, uint64_t last, uint64_t pa):
        """The run of items at level 0: most of the work of most maps, so looked up once, not per item."""
        cdef Item it
        cdef uint64_t size = pt_entry_bytes(self.f)
        cdef uint64_t n, count, fit = PT_ALL_ONES
        cdef uint8_t *bytes
        it.index = pt_index(self.f, 0, first)
        it.first = first
        it.at = pt_item_at(self.f, table, it.index)
        it.item = 0
        count = pt_index(self.f, 0, last) - it.index + 1
        if self.dry and not pt_has_room_for(self.f, 0, 1, pa + ((count - 1) << self.f.level[0].shift)):
            # Only the first few have an address that an item can hold; the next one stops the map.
            fit = 0
            while pt_has_room_for(self.f, 0, 1, pa + (fit << self.f.level[0].shift)):
                fit += 1
        if table == PT_ALL_ONES:
            # A table that is still to come has room for every leaf.
            return EDIT_DONE if fit == PT_ALL_ONES else self.stop(EDIT_TOO_HIGH, 0, &it)
        bytes = pt_at_any(self.space.memory, it.at, count * size)
        if bytes == NULL:
            return self.stop(EDIT_OUTSIDE_MEMORY, 0, &it)
        if self.dry:
            count = min(count, fit + 1 if fit != PT_ALL_ONES else count)
            n = self.engine.empty_run(self.space, bytes, count)
            if n < count:
                it.first = first + (n << self.f.level[0].shift)
                it.index += n
                self.read(table, 0, last, &it)
                if it.kind == PT_LEAF:
                    return self.stop(EDIT_ALREADY_MAPPED, 0, &it)
                return self.stop(EDIT_MALFORMED, 0, &it)
            if fit != PT_ALL_ONES:
                it.first = first + (fit << self.f.level[0].shift)
                return self.stop(EDIT_TOO_HIGH, 0, &it)
        else:
            self.engine.fill(self.space, bytes, count, self.set_[0][1], pa)
            self.entries_written += count
        return EDIT_DONE

    cdef int map_below(self, int level, Item *it, uint64_t pa):
        if self.dry:
            if self.f.parents_limit_rights and self.rights & ~pt_item_rights(self.f, level, 0, it.item):
                return self.stop(EDIT_WITHHELD, level, it)
            if it.last & pt_offset_mask(self.f, level) & ~pt_reach_mask(self.f, it.next_level):
                return self.stop(EDIT_SKIPPED, level, it)
        return self.map_range(self.below(level, it), it.next_level, it.first, it.last, pa)

    cdef int map_leaf(self, uint64_t table, int level, int shape, Item *it, uint64_t pa):
        """Write all items of one entry; with a page size, tables that hold nothing give way."""
        cdef Item one = it[0]
        cdef int end
        cdef uint64_t n, count = 1ULL << self.f.level[level].shape[shape].items_lg2
        for n in range(count):
            if n:
                one.index += 1
                one.first += pt_leaf_bytes(self.f, level)
                if not self.read(table, level, PT_ALL_ONES, &one):
                    return self.stop(EDIT_OUTSIDE_MEMORY, level, &one)
            if one.kind == PT_LEAF:
                return self.stop(EDIT_ALREADY_MAPPED, level, &one)
            if one.kind == PT_RESERVED:
                return self.stop(EDIT_MALFORMED, level, &one)
            if one.kind == PT_TABLE and self.dry:
                end = self.must_be_empty(self.below(level, &one), one.next_level, one.first)
                if end != EDIT_DONE:
                    return end
            elif one.kind == PT_TABLE:
                self.free_subtree(self.below(level, &one), one.next_level)
        if not self.dry:
            self.fill_leaves(table, it.index, count, level, shape, self.set_[level][shape], pa)
        return EDIT_DONE

    cdef void fill_leaves(
        self, uint64_t table, uint64_t index, uint64_t count, int level, int shape, pt_item attributes,
        uint64_t pa
    ) noexcept:
        """Write `count` items as leaves of this shape, the first for `pa`, the start of an entry."""
        cdef uint64_t n, own
        cdef uint64_t mask = (1ULL << pt_entry_size_lg2(self.f, level, shape)) - 1
        cdef uint8_t *bytes
        for n in range(count):
            own = pa + (n << self.f.level[level].shift)
            if self.f.level[level].shape[shape].copies:
                own &= ~mask
            bytes = pt_at(self.space.memory, pt_item_at(self.f, table, index + n), pt_entry_bytes(self.f))
            pt_store(self.f, bytes, attributes | pt_output_bits(self.f, level, shape, own))
        self.entries_written += count

    cdef int map_new_table(self, int level, Item *it, uint64_t pa):
        cdef uint64_t table = PT_ALL_ONES
        cdef int end
        if self.dry:
            self.tables_wanted[level - 1] += 1
            return self.map_range(table, level - 1, it.first, it.last, pa)
        table = self.new_table(level - 1)
        end = self.map_range(table, level - 1, it.first, it.last, pa)
        self.link(it, level, table)
        return end

    cdef int must_be_empty(self, uint64_t table, int level, uint64_t va):
        cdef Item it
        cdef int end
        for it.index in range(pt_item_count(self.f, level)):
            it.first = va + (it.index << self.f.level[level].shift)
            if not self.read(table, level, PT_ALL_ONES, &it):
                return self.stop(EDIT_OUTSIDE_MEMORY, level, &it)
            if it.kind == PT_LEAF:
                return self.stop(EDIT_ALREADY_MAPPED, level, &it)
            if it.kind == PT_RESERVED:
                return self.stop(EDIT_MALFORMED, level, &it)
            if it.kind == PT_TABLE:
                end = self.must_be_empty(self.below(level, &it), it.next_level, it.first)
                if end != EDIT_DONE:
                    return end
        return EDIT_DONE

    # -- what is mapped already ------------------------------------------------------------------

    cdef int edit_range(self, uint64_t table, int level, uint64_t first, uint64_t last):
        """Apply `operation` to what is mapped in the range."""
        cdef Item it
        cdef int end
        cdef uint64_t count, last_index = pt_index(self.f, level, last)
        if level == 0 and self.operation == UNMAP:
            if self.unmap_smallest(table, first, last) == EDIT_DONE:
                return EDIT_DONE
        it.index = pt_index(self.f, level, first)
        it.first = first
        while True:
            if not self.read(table, level, last, &it):
                return self.stop(EDIT_OUTSIDE_MEMORY, level, &it)
            if it.kind == PT_RESERVED:
                return self.stop(EDIT_MALFORMED, level, &it)
            count = 1
            end = EDIT_DONE
            if self.operation == COLLAPSE and level == self.page_level and self.page_lg2 > self.f.level[level].shift:
                count = 1ULL << self.f.level[level].shape[self.page_shape].items_lg2
                end = self.collapse_items(table, level, &it)
            elif it.kind == PT_EMPTY and self.dry and not self.missing_ok:
                # In the second pass a table met for the second time is empty already.
                return self.stop(EDIT_HOLE, level, &it)
            elif it.kind == PT_LEAF:
                end = self.edit_leaf(table, level, &it)
            elif it.kind == PT_TABLE:
                end = self.edit_table(table, level, &it)
            if end != EDIT_DONE:
                return end
            if it.index + count > last_index:
                return EDIT_DONE
            it.index += count
            it.first += (count - 1) << self.f.level[level].shift
            it.first = (it.first | pt_offset_mask(self.f, level)) + 1

    cdef bint covers_entry(self, int level, const Item *it) noexcept:
        """Whether the range of the edit covers the entry that the leaf item `it` is a part of."""
        cdef uint64_t mask = (1ULL << pt_entry_size_lg2(self.f, level, it.shape)) - 1
        return self.first <= it.first & ~mask and it.first | mask <= self.last

    cdef int edit_leaf(self, uint64_t table, int level, Item *it):
        if self.operation == COLLAPSE:
            return EDIT_DONE
        if self.operation == SPLIT:
            return self.split_leaf(table, level, it)
        if not self.covers_entry(level, it):
            return self.stop(EDIT_INSIDE_LARGER_LEAF, level, it)
        if self.operation == PROTECT and not self.f.level[level].shape[it.shape].mappable:
            return self.stop(EDIT_READ_ONLY_SHAPE, level, it)
        if not self.dry and self.operation == UNMAP:
            self.write(it, self.f.empty.value)
        elif not self.dry:
            self.write(
                it, pt_replaced(it.item, self.clear[level][it.shape], self.set_[level][it.shape])
            )
        return EDIT_DONE

    cdef int edit_table(self, uint64_t parent, int level, Item *it):
        cdef uint64_t table = self.below(level, it)
        cdef uint64_t reach = pt_offset_mask(self.f, level) & ~pt_reach_mask(self.f, it.next_level)
        cdef uint64_t last = it.last
        cdef int end
        if self.operation == COLLAPSE and level == self.page_level:
            return self.collapse_table(level, it)
        if self.operation in (SPLIT, COLLAPSE) and level <= self.page_level:
            return EDIT_DONE
        if self.operation == PROTECT and self.dry:
            if self.f.parents_limit_rights and self.rights & ~pt_item_rights(self.f, level, 0, it.item):
                return self.stop(EDIT_WITHHELD, level, it)
        if last & reach:
            # The table skips levels: beyond what it reaches nothing is mapped.
            if not self.missing_ok and self.dry:
                return self.stop(EDIT_HOLE, level, it)
            if it.first & reach:
                return EDIT_DONE
            last = it.first | pt_reach_mask(self.f, it.next_level)
        end = self.edit_range(table, it.next_level, it.first, last)
        if self.operation == UNMAP and end == EDIT_DONE and not self.dry and self.free_tables:
            if it.whole or self.is_empty_table(table, it.next_level):
                self.write(it, self.f.empty.value)
                self.free_table(table, it.next_level)
                self.stale_first = min(self.stale_first, it.first & ~pt_offset_mask(self.f, level))
                self.stale_last = max(self.stale_last, it.last | pt_offset_mask(self.f, level))
        return end

    # -- unmap -------------------------------------------------------------------------------

    cdef bint is_empty_table(self, uint64_t table, int level) noexcept:
        cdef uint64_t index
        cdef uint8_t *bytes
        for index in range(pt_item_count(self.f, level)):
            bytes = pt_at(self.space.memory, pt_item_at(self.f, table, index), pt_entry_bytes(self.f))
            if bytes == NULL or not pt_is_empty(self.f, pt_load(self.f, bytes)):
                return False
        return True

    cdef int unmap_smallest(self, uint64_t table, uint64_t first, uint64_t last):
        """The run of items at level 0 when all are leaves: checked and cleared as one."""
        cdef uint64_t index = pt_index(self.f, 0, first)
        cdef uint64_t count = pt_index(self.f, 0, last) - index + 1
        cdef uint8_t *bytes = pt_at_any(
            self.space.memory, pt_item_at(self.f, table, index), count * pt_entry_bytes(self.f)
        )
        if bytes == NULL or self.engine.lawful_leaf_run(self.space, bytes, count) < count:
            return EDIT_HOLE  # not one run: the caller looks at each item
        if not self.dry:
            self.engine.clear(self.space, bytes, count)
            self.entries_written += count
        return EDIT_DONE

    # -- split -------------------------------------------------------------------------------

    cdef int split_leaf(self, uint64_t table, int level, Item *it):
        cdef uint64_t below, pa
        cdef pt_item attributes
        cdef int next_level, next_shape
        if pt_entry_size_lg2(self.f, level, it.shape) <= self.page_lg2:
            return EDIT_DONE
        if self.dry:
            return self.look_at_split(level, it)
        while self.f.level[level].shape[it.shape].smaller[0] == level:
            # A smaller page of the same level: the entry is cut in place, as far as wanted.
            self.cut_entry(table, level, it)
            if pt_entry_size_lg2(self.f, level, it.shape) <= self.page_lg2:
                return EDIT_DONE
        self.stale_first = min(self.stale_first, it.first & ~pt_offset_mask(self.f, level))
        self.stale_last = max(self.stale_last, it.last | pt_offset_mask(self.f, level))
        next_level = level - 1
        next_shape = self.f.level[level].shape[it.shape].smaller[1]
        below = self.new_table(next_level)
        pa = pt_output(self.f, &self.space.rules, level, it.shape, it.item)
        attributes = pt_carry_down(self.f, level, it.shape, it.item)
        attributes |= pt_kept_aside(self.f, &self.space.rules, level, it.shape, it.item)
        self.fill_leaves(
            below, 0, pt_item_count(self.f, next_level), next_level, next_shape, attributes, pa
        )
        self.link(it, level, below)
        return self.edit_range(below, next_level, it.first, it.last)

    cdef int look_at_split(self, int level, Item *it):
        cdef int n, shape = it.shape, at = level
        cdef int below
        cdef uint64_t pa = pt_leaf_output(self.f, &self.space.rules, level, it.shape, it.item, it.first)
        if not self.f.level[level].shape[it.shape].mappable:
            return self.stop(EDIT_READ_ONLY_SHAPE, level, it)
        if self.page_level < level and not self.f.level[level].has_leaf:
            # Several items that cannot become one leaf each: no item can become a table alone.
            return self.stop(EDIT_NO_SMALLER_LEAF, level, it)
        for n in range(self.page_level, level):
            if not self.f.level[n].has_leaf:
                return self.stop(EDIT_NO_SMALLER_LEAF, level, it)
            # One table at level n for each leaf-to-be at level n + 1 that the range touches.
            self.tables_wanted[n] += 1 + (
                (it.last >> self.f.level[n + 1].shift) - (it.first >> self.f.level[n + 1].shift)
            )
        pa &= ~((1ULL << pt_entry_size_lg2(self.f, level, it.shape)) - 1)
        while pt_entry_size_lg2(self.f, at, shape) > self.page_lg2:
            # Some large pages have room for higher addresses than small ones.
            below = self.f.level[at].shape[shape].smaller[0]
            shape = self.f.level[at].shape[shape].smaller[1]
            at = below
            if not pt_has_room_for(self.f, at, shape, pa):
                return self.stop(EDIT_TOO_HIGH, level, it)
        return EDIT_DONE

    cdef int cut_entry(self, uint64_t table, int level, Item *it):
        """Write the items of the entry that `it` is a part of as entries of the next smaller size."""
        cdef uint64_t count = 1ULL << self.f.level[level].shape[it.shape].items_lg2
        cdef uint64_t mask = (1ULL << pt_entry_size_lg2(self.f, level, it.shape)) - 1
        cdef uint64_t pa = pt_leaf_output(self.f, &self.space.rules, level, it.shape, it.item, it.first)
        cdef pt_item attributes = pt_carry_down(self.f, level, it.shape, it.item)
        attributes |= pt_kept_aside(self.f, &self.space.rules, level, it.shape, it.item)
        self.stale_first = min(self.stale_first, it.first & ~mask)
        self.stale_last = max(self.stale_last, it.first | mask)
        self.fill_leaves(
            table,
            it.index & ~(count - 1),
            count,
            level,
            self.f.level[level].shape[it.shape].smaller[1],
            attributes,
            pa & ~mask,
        )
        self.read(table, level, it.last, it)
        return EDIT_DONE

    # -- collapse ----------------------------------------------------------------------------

    cdef int collapse_table(self, int level, Item *it):
        cdef pt_item attributes = 0
        cdef uint64_t pa = 0
        cdef int end = self.one_item(level, it, &attributes, &pa)
        if self.dry or end != EDIT_DONE:
            return end
        self.write(it, attributes | pt_output_bits(self.f, level, 1, pa))
        return self.free_subtree(self.below(level, it), it.next_level)

    cdef int collapse_items(self, uint64_t table, int level, Item *it):
        """Make one entry of the items from `it` on, unless a page as large is there."""
        cdef Item one = it[0]
        cdef pt_item attributes = 0
        cdef uint64_t n, pa = 0
        cdef int shape = self.page_shape
        cdef int end
        cdef uint64_t count = 1ULL << self.f.level[level].shape[shape].items_lg2
        if it.kind == PT_LEAF and pt_entry_size_lg2(self.f, level, it.shape) >= self.page_lg2:
            return EDIT_DONE
        if it.kind == PT_EMPTY and self.all_empty(table, level, it.index, count):
            return EDIT_DONE if self.missing_ok else self.stop(EDIT_HOLE, level, it)
        end = self.one_leaf(table, level, it.first, it.index, count, &attributes, &pa)
        if end == EDIT_DONE and pa & ((1ULL << self.page_lg2) - 1):
            end = self.stop(EDIT_NOT_UNIFORM, level, it)
        if self.dry or end != EDIT_DONE:
            return end
        for n in range(count):
            one.index = it.index + n
            one.first = it.first + (n << self.f.level[level].shift)
            self.read(table, level, PT_ALL_ONES, &one)
            if one.kind == PT_TABLE:
                self.free_subtree(self.below(level, &one), one.next_level)
        attributes = pt_replaced(
            self.as_large(level, level, shape, attributes),
            0,
            pt_kept_aside(self.f, &self.space.rules, level, 1, attributes),
        )
        self.fill_leaves(table, it.index, count, level, shape, attributes, pa)
        return EDIT_DONE

    cdef pt_item as_plain(self, int level, int shape, pt_item attributes) noexcept:
        """The attributes of a leaf of this shape, as the plain leaf of its level has them."""
        while shape and self.f.level[level].shape[shape].items_lg2 and (
            self.f.level[level].shape[shape].smaller[0] == level
        ):
            attributes = pt_carry_down(self.f, level, shape, attributes)
            shape = self.f.level[level].shape[shape].smaller[1]
        return attributes

    cdef pt_item as_large(self, int level, int to_level, int to_shape, pt_item attributes) noexcept:
        """The attributes of a plain leaf at `level`, as the larger page `to` has them."""
        cdef int shape = 1, above
        while level != to_level or shape != to_shape:
            above = self.f.level[level].shape[shape].larger[0]
            shape = self.f.level[level].shape[shape].larger[1]
            level = above
            if shape == 0:
                return attributes
            attributes = pt_carry_up(self.f, level, shape, attributes)
        return attributes

    cdef int one_item(self, int level, Item *it, pt_item *attributes, uint64_t *pa):
        """Whether one item maps what a plain leaf in its place would; its attributes and address."""
        cdef int below = it.next_level, end
        if it.kind == PT_RESERVED:
            return self.stop(EDIT_MALFORMED, level, it)
        if it.kind == PT_EMPTY:
            return self.stop(EDIT_NOT_UNIFORM, level, it)
        if it.kind == PT_LEAF and not self.f.level[level].shape[it.shape].mappable:
            return self.stop(EDIT_NOT_UNIFORM, level, it)
        if it.kind == PT_LEAF:
            attributes[0] = pt_without_output(self.f, level, it.shape, it.item)
            attributes[0] = self.as_plain(level, it.shape, attributes[0])
            attributes[0] |= pt_kept_aside(self.f, &self.space.rules, level, it.shape, it.item)
            pa[0] = pt_leaf_output(
                self.f, &self.space.rules, level, it.shape, it.item, it.first & ~pt_offset_mask(self.f, level)
            )
            return EDIT_DONE
        if pt_item_rights(self.f, level, 0, it.item) != self.f.rights or below != level - 1:
            return self.stop(EDIT_NOT_UNIFORM, level, it)
        end = self.one_leaf(
            self.below(level, it), below, it.first, 0, pt_item_count(self.f, below), attributes, pa
        )
        if end != EDIT_DONE:
            return end
        if pa[0] & pt_offset_mask(self.f, level) or not self.f.level[level].has_leaf:
            return self.stop(EDIT_NOT_UNIFORM, level, it)
        attributes[0] = pt_replaced(
            self.as_large(below, level, 1, attributes[0]),
            0,
            pt_kept_aside(self.f, &self.space.rules, below, 1, attributes[0]),
        )
        return EDIT_DONE

    cdef int one_leaf(
        self, uint64_t table, int level, uint64_t va, uint64_t index, uint64_t count,
        pt_item *attributes, uint64_t *pa
    ):
        """Whether `count` items from `index` (at `va`) on map what one page would; its attributes, as
        a plain leaf of this level has them, and its address."""
        cdef Item it
        cdef int end
        cdef uint64_t n, item_pa = 0
        cdef pt_item seen = 0, marks, first_seen = 0, all_marks = 0
        cdef pt_item mark_bits = pt_mark_bits(self.f, level, 1)
        for n in range(count):
            it.index = index + n
            it.first = va + (n << self.f.level[level].shift)
            if not self.read(table, level, PT_ALL_ONES, &it):
                return self.stop(EDIT_OUTSIDE_MEMORY, level, &it)
            end = self.one_item(level, &it, &seen, &item_pa)
            if end != EDIT_DONE:
                return end
            marks = pt_replaced(seen, ~mark_bits, 0)
            seen = pt_replaced(seen, mark_bits, 0)
            all_marks = pt_replaced(all_marks, 0, marks)
            if n == 0:
                pa[0] = item_pa
                first_seen = seen
            if pt_any(seen ^ first_seen) or item_pa - pa[0] != n << self.f.level[level].shift:
                return self.stop(EDIT_NOT_UNIFORM, level, &it)
        attributes[0] = pt_replaced(first_seen, 0, all_marks)
        return EDIT_DONE
