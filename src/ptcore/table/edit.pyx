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
    pt_breaks_zero,
    pt_carry_down,
    pt_carry_up,
    pt_entry_bytes,
    pt_index,
    pt_is_empty,
    pt_item_at,
    pt_item_count,
    pt_item_rights,
    pt_kept_aside,
    pt_kind,
    pt_leaf_bytes,
    pt_load,
    pt_offset_mask,
    pt_output,
    pt_output_bits,
    pt_replaced,
    pt_store,
    pt_table_bytes,
    pt_withheld,
    pt_without_output,
)

cdef unsigned ALL_RIGHTS = 15


@cython.final
cdef class Edit:
    def __cinit__(self):
        self.freed = []
        self.noted = set()
        self.page_level = -1
        self.stale_first = PT_ALL_ONES
        self.stale_last = 0

    cdef int run(self, uint64_t first, uint64_t last, uint64_t pa):
        """One pass of the operation from the root; `pa` is for a map."""
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
        it.bytes = NULL
        if table == PT_ALL_ONES:
            return True
        it.bytes = pt_at(self.space.memory, it.at, pt_entry_bytes(self.f))
        if it.bytes == NULL:
            return False
        it.item = pt_load(self.f, it.bytes)
        it.kind = pt_kind(self.f, level, it.item)
        if it.kind != PT_EMPTY and pt_breaks_zero(&self.space.rules, level, it.kind, it.item):
            it.kind = PT_RESERVED
        return True

    cdef void write(self, Item *it, pt_item item) noexcept:
        pt_store(self.f, it.bytes, item)
        self.entries_written += 1

    cdef uint64_t below(self, int level, const Item *it) noexcept:
        return pt_output(self.f, &self.space.rules, level, PT_TABLE, it.item)

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
        self.write(it, self.table_item[level] | pt_output_bits(self.f, level, PT_TABLE, table))

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
                self.free_subtree(self.below(level, &it), level - 1)
        return EDIT_DONE

    # -- map ---------------------------------------------------------------------------------

    cdef int map_range(self, uint64_t table, int level, uint64_t first, uint64_t last, uint64_t pa):
        cdef Item it
        cdef int end
        cdef uint64_t item_pa
        cdef uint64_t last_index = pt_index(self.f, level, last)
        cdef uint64_t mask = pt_offset_mask(self.f, level)
        cdef bint fits
        if level == 0:
            return self.map_smallest(table, first, last, pa)
        it.index = pt_index(self.f, level, first)
        it.first = first
        while True:
            if not self.read(table, level, last, &it):
                return self.stop(EDIT_OUTSIDE_MEMORY, level, &it)
            item_pa = pa + (it.first - first)
            fits = it.whole and self.f.level[level].has_leaf and (item_pa & mask) == 0
            fits = fits and (self.page_level < 0 or self.page_level == level)
            if it.kind == PT_LEAF:
                return self.stop(EDIT_ALREADY_MAPPED, level, &it)
            if it.kind == PT_RESERVED:
                return self.stop(EDIT_MALFORMED, level, &it)
            if it.kind == PT_TABLE and not (fits and self.page_level == level):
                end = self.map_below(level, &it, item_pa)
            elif fits:
                end = self.map_leaf(level, &it, item_pa)
            else:
                end = self.map_new_table(level, &it, item_pa)
            if end != EDIT_DONE:
                return end
            if it.index == last_index:
                return EDIT_DONE
            it.index += 1
            it.first = it.last + 1

    cdef int map_smallest(self, uint64_t table, uint64_t first, uint64_t last, uint64_t pa):
        """The run of items at level 0: most of the work of most maps, so looked up once, not per item."""
        cdef Item it
        cdef uint64_t size = pt_entry_bytes(self.f)
        cdef uint64_t n, count
        cdef uint8_t *bytes
        if table == PT_ALL_ONES:
            return EDIT_DONE  # a table that is still to come has room for every leaf
        it.index = pt_index(self.f, 0, first)
        it.first = first
        it.at = pt_item_at(self.f, table, it.index)
        it.item = 0
        count = pt_index(self.f, 0, last) - it.index + 1
        bytes = pt_at_any(self.space.memory, it.at, count * size)
        if bytes == NULL:
            return self.stop(EDIT_OUTSIDE_MEMORY, 0, &it)
        if self.dry:
            n = self.engine.empty_run(self.space, bytes, count)
            if n < count:
                it.first = first + (n << self.f.level[0].shift)
                it.at += n * size
                it.item = pt_load(self.f, bytes + n * size)
                if self.engine.lawful_leaf_run(self.space, bytes + n * size, 1):
                    return self.stop(EDIT_ALREADY_MAPPED, 0, &it)
                return self.stop(EDIT_MALFORMED, 0, &it)
        else:
            self.engine.fill(self.space, bytes, count, self.set_[0], pa)
            self.entries_written += count
        return EDIT_DONE

    cdef int map_below(self, int level, Item *it, uint64_t pa):
        if self.dry and pt_any(pt_withheld(self.f, self.need, level, PT_TABLE, it.item)):
            return self.stop(EDIT_WITHHELD, level, it)
        return self.map_range(self.below(level, it), level - 1, it.first, it.last, pa)

    cdef int map_leaf(self, int level, Item *it, uint64_t pa):
        cdef int end
        if it.kind == PT_TABLE:
            # An explicit page size may replace tables that hold nothing.
            if self.dry:
                return self.must_be_empty(self.below(level, it), level - 1, it.first)
            self.free_subtree(self.below(level, it), level - 1)
        if not self.dry:
            self.write(it, self.set_[level] | pt_output_bits(self.f, level, PT_LEAF, pa))
        return EDIT_DONE

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
                end = self.must_be_empty(self.below(level, &it), level - 1, it.first)
                if end != EDIT_DONE:
                    return end
        return EDIT_DONE

    # -- what is mapped already ------------------------------------------------------------------

    cdef int edit_range(self, uint64_t table, int level, uint64_t first, uint64_t last):
        """Apply `operation` to what is mapped in the range."""
        cdef Item it
        cdef int end = EDIT_DONE
        cdef uint64_t last_index = pt_index(self.f, level, last)
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
            if it.kind == PT_EMPTY and self.dry and not self.missing_ok:
                # In the second pass a table met for the second time is empty already.
                return self.stop(EDIT_HOLE, level, &it)
            if it.kind == PT_LEAF:
                end = self.edit_leaf(level, &it)
            elif it.kind == PT_TABLE:
                end = self.edit_table(level, &it)
            if end != EDIT_DONE:
                return end
            if it.index == last_index:
                return EDIT_DONE
            it.index += 1
            it.first = it.last + 1

    cdef int edit_leaf(self, int level, Item *it):
        if self.operation == COLLAPSE:
            return EDIT_DONE
        if self.operation == SPLIT:
            return self.split_leaf(level, it) if level > self.page_level else EDIT_DONE
        if not it.whole:
            return self.stop(EDIT_INSIDE_LARGER_LEAF, level, it)
        if not self.dry and self.operation == UNMAP:
            self.write(it, self.f.empty.value)
        elif not self.dry:
            self.write(it, pt_replaced(it.item, self.clear[level], self.set_[level]))
        return EDIT_DONE

    cdef int edit_table(self, int level, Item *it):
        cdef uint64_t table = self.below(level, it)
        cdef int end
        if self.operation == COLLAPSE and level == self.page_level:
            return self.collapse_table(level, it)
        if self.operation in (SPLIT, COLLAPSE) and level <= self.page_level:
            return EDIT_DONE
        if self.operation == PROTECT and self.dry:
            if pt_any(pt_withheld(self.f, self.need, level, PT_TABLE, it.item)):
                return self.stop(EDIT_WITHHELD, level, it)
        end = self.edit_range(table, level - 1, it.first, it.last)
        if self.operation == UNMAP and end == EDIT_DONE and not self.dry and self.free_tables:
            if it.whole or self.is_empty_table(table, level - 1):
                self.write(it, self.f.empty.value)
                self.free_table(table, level - 1)
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

    cdef int split_leaf(self, int level, Item *it):
        cdef int n
        cdef uint64_t table, pa, index
        cdef pt_item attributes
        cdef uint8_t *bytes
        if self.dry:
            for n in range(self.page_level, level):
                if not self.f.level[n].has_leaf:
                    return self.stop(EDIT_NO_SMALLER_LEAF, level, it)
                # One table at level n for each leaf-to-be at level n + 1 that the range touches.
                self.tables_wanted[n] += 1 + (
                    (it.last >> self.f.level[n + 1].shift) - (it.first >> self.f.level[n + 1].shift)
                )
            return EDIT_DONE
        self.stale_first = min(self.stale_first, it.first & ~pt_offset_mask(self.f, level))
        self.stale_last = max(self.stale_last, it.last | pt_offset_mask(self.f, level))
        table = self.new_table(level - 1)
        pa = pt_output(self.f, &self.space.rules, level, PT_LEAF, it.item)
        attributes = pt_carry_down(self.f, level, it.item) | pt_kept_aside(self.f, &self.space.rules, it.item)
        for index in range(pt_item_count(self.f, level - 1)):
            bytes = pt_at(self.space.memory, pt_item_at(self.f, table, index), pt_entry_bytes(self.f))
            pt_store(
                self.f, bytes, attributes | pt_output_bits(self.f, level - 1, PT_LEAF, pa)
            )
            pa += pt_leaf_bytes(self.f, level - 1)
        self.entries_written += pt_item_count(self.f, level - 1)
        self.link(it, level, table)
        return self.edit_range(table, level - 1, it.first, it.last)

    # -- collapse ----------------------------------------------------------------------------

    cdef int collapse_table(self, int level, Item *it):
        cdef pt_item attributes = 0
        cdef uint64_t pa = 0
        cdef uint64_t table = self.below(level, it)
        cdef int end
        if self.dry:
            if pt_item_rights(self.f, level, PT_TABLE, it.item) != ALL_RIGHTS:
                return self.stop(EDIT_NOT_UNIFORM, level, it)
            return self.one_leaf(table, level - 1, it.first, &attributes, &pa)
        end = self.one_leaf(table, level - 1, it.first, &attributes, &pa)
        self.write(it, attributes | pt_output_bits(self.f, level, PT_LEAF, pa))
        self.free_subtree(table, level - 1)
        return end

    cdef int one_leaf(
        self, uint64_t table, int level, uint64_t va, pt_item *attributes, uint64_t *pa
    ):
        """Whether a table maps what one leaf above it would; that leaf's attributes and address."""
        cdef Item it
        cdef int end
        cdef uint64_t item_pa = 0
        cdef pt_item seen, marks, first_seen = 0, all_marks = 0
        cdef pt_item mark_bits
        mark_bits = self.f.level[level].layout[1].accessed | self.f.level[level].layout[1].dirty
        for it.index in range(pt_item_count(self.f, level)):
            it.first = va + (it.index << self.f.level[level].shift)
            if not self.read(table, level, PT_ALL_ONES, &it):
                return self.stop(EDIT_OUTSIDE_MEMORY, level, &it)
            if it.kind == PT_RESERVED:
                return self.stop(EDIT_MALFORMED, level, &it)
            if it.kind == PT_EMPTY:
                return self.stop(EDIT_NOT_UNIFORM, level, &it)
            if it.kind == PT_TABLE:
                if pt_item_rights(self.f, level, PT_TABLE, it.item) != ALL_RIGHTS:
                    return self.stop(EDIT_NOT_UNIFORM, level, &it)
                end = self.one_leaf(self.below(level, &it), level - 1, it.first, &seen, &item_pa)
                if end != EDIT_DONE:
                    return end
            else:
                seen = pt_without_output(self.f, level, PT_LEAF, it.item) | pt_kept_aside(self.f, &self.space.rules, it.item)
                item_pa = pt_output(self.f, &self.space.rules, level, PT_LEAF, it.item)
            marks = pt_replaced(seen, ~mark_bits, 0)
            seen = pt_replaced(seen, mark_bits, 0)
            all_marks = pt_replaced(all_marks, 0, marks)
            if it.index == 0:
                pa[0] = item_pa
                first_seen = seen
            if (
                pt_any(seen ^ first_seen)
                or item_pa - pa[0] != it.index << self.f.level[level].shift
            ):
                return self.stop(EDIT_NOT_UNIFORM, level, &it)
        attributes[0] = pt_carry_up(self.f, level + 1, pt_replaced(first_seen, 0, all_marks))
        attributes[0] = pt_replaced(attributes[0], 0, pt_kept_aside(self.f, &self.space.rules, first_seen))
        if pa[0] & pt_offset_mask(self.f, level + 1) or not self.f.level[level + 1].has_leaf:
            it.index = 0
            it.first = va
            self.read(table, level, PT_ALL_ONES, &it)
            return self.stop(EDIT_NOT_UNIFORM, level, &it)
        return EDIT_DONE
