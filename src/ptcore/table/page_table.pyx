"""PageTable: the door to one stage of translation."""

import operator

from libc.stdint cimport uint8_t, uint64_t

import numpy as np

from ptcore.memory.physical cimport FrameAllocator, PhysicalMemory, pt_holds
from ptcore.table cimport scan
from ptcore.table.abi cimport (
    PT_ALL_ONES,
    PT_BUS,
    PT_LEAF,
    PT_OK,
    PT_PERMISSION,
    pt_item,
    pt_layout,
    pt_need,
    pt_path,
    pt_step_read,
)
from ptcore.table.decode cimport (
    pt_entry_size_lg2,
    pt_find_usual,
    pt_full_input,
    pt_index,
    pt_is_global,
    pt_is_marked,
    pt_item_at,
    pt_layout_of,
    pt_leaf_bytes,
    pt_number,
    pt_rights_with,
    pt_table_bytes,
    pt_untagged,
)
from ptcore.table.edit cimport (
    COLLAPSE,
    EDIT_ALREADY_MAPPED,
    EDIT_DONE,
    EDIT_HOLE,
    EDIT_INSIDE_LARGER_LEAF,
    EDIT_MALFORMED,
    EDIT_NO_SMALLER_LEAF,
    EDIT_NOT_UNIFORM,
    EDIT_OUTSIDE_MEMORY,
    EDIT_READ_ONLY_SHAPE,
    EDIT_SKIPPED,
    EDIT_TOO_HIGH,
    EDIT_WITHHELD,
    MAP,
    PROTECT,
    SPLIT,
    UNMAP,
    Edit,
)
from ptcore.table.fill cimport fill_format
from ptcore.table.translate cimport pt_engine_for, pt_trace

from ptcore import formats
from ptcore.errors import (
    AlreadyMapped,
    FormatError,
    InsideLargerLeaf,
    MalformedTable,
    MapError,
    Misaligned,
    NoFrame,
    NotCanonical,
    NotMapped,
    NotUniform,
    OutOfRange,
    Status,
)
from ptcore.formats import access as access_rules
from ptcore.formats import encode
from ptcore.formats.lower import lower
from ptcore.formats.schema import AddressRule, Format, RIGHT_ROLES, Role, address_bits, output_mask, role_mask
from ptcore.table import path as paths
from ptcore.table.arrays import as_addresses, outputs_for
from ptcore.table.listing import listing
from ptcore.table.owed import Owed
from ptcore.table.rows import Stats
from ptcore.units import ALL_ONES, Span, format_size, parse_size

cdef str READ = "r"
cdef dict KIND_OF = {}  # access letters -> bits, filled as they are met
cdef tuple KINDS = paths.KIND_NAMES
cdef object SMALLEST_FRAME_LG2 = 12
cdef PhysicalMemory nowhere = PhysicalMemory.__new__(PhysicalMemory)
nowhere.writable = False


cdef uint64_t as_address(value) except? 0xFFFF_FFFF_FFFF_FFFF:
    """`value` as a 64-bit address; OutOfRange for a number that is none, TypeError for no number."""
    cdef uint64_t address
    if type(value) is not int:
        value = operator.index(value)
    if not 0 <= value <= ALL_ONES:
        raise OutOfRange(f"{value:#x} is no 64-bit address")
    return value


cdef class PageTable:
    def __cinit__(self):
        # The general engine over an empty memory: a table that __init__ never saw reads nothing.
        self.space.format = &self.own_format
        self.memory = nowhere
        self.space.memory = &nowhere.c
        self.engine = pt_engine_for(&self.own_format)

    def __init__(
        self,
        format,
        memory,
        root=None,
        *,
        physical_bits=None,
        check_reserved=True,
        encryption_mask=0,
        encryption_bit=True,
        check_canonical=True,
        tag_bits=0,
    ):
        if not isinstance(memory, PhysicalMemory):
            raise TypeError(f"memory is a PhysicalMemory, not {type(memory).__name__}")
        self.format = formats.get(format) if isinstance(format, str) else format
        if not isinstance(self.format, Format):
            raise TypeError(f"format is a name or a Format, not {type(format).__name__}")
        self.memory = memory
        fill_format(&self.own_format, lower(self.format))
        self.engine = pt_engine_for(&self.own_format)
        self.space.format = &self.own_format
        self.space.memory = &self.memory.c
        self.space.rules.check_input = check_canonical
        if not 0 <= operator.index(tag_bits) < 64 - self.format.granule_lg2:
            raise OutOfRange(f"tag_bits {tag_bits} is not in 0..{63 - self.format.granule_lg2}")
        self.tag_bits = tag_bits
        self.space.rules.tag_bits = tag_bits
        self.check_reserved = check_reserved
        self.encryption_bit = encryption_bit
        self._set_widths(physical_bits, encryption_mask)
        self._set_needs()
        self.leaf_items = {}
        self._set_root(root)

    def _set_widths(self, physical_bits, encryption_mask):
        widest = self.format.physical_bits
        bits = widest if physical_bits is None else operator.index(physical_bits)
        if not self.format.granule_lg2 <= bits <= widest:
            raise OutOfRange(
                f"physical_bits is {self.format.granule_lg2} to {widest} for {self.format.name}, not {bits}"
            )
        cdef object encryption = as_address(encryption_mask)  # ~ of a C integer would have 64 bits
        outputs = [output_mask(word) for level in self.format.levels for _, word in level.words()]
        if any(encryption & ~mask for mask in outputs):
            raise FormatError(
                f"encryption_mask {encryption:#x} is not an address bit of every item of {self.format.name}"
            )
        self.physical_bits = bits
        self.width = bits
        self.encryption_mask = encryption
        self.frame_limit = _table_limit(self.format, bits, encryption)
        self.zero_masks = []
        for n, level in enumerate(self.format.levels):
            masks = []
            for shape, word in enumerate((level.table, *(leaf.word for leaf in level.leaves))):
                above = _bits_beyond(word, bits, encryption)
                masks.append((role_mask(word, Role.RESERVED) | above) if self.check_reserved else 0)
                self.space.rules.zero[n][shape] = masks[shape]
            self.zero_masks.append(masks)
        self.space.rules.keep = ((1 << bits) - 1) & ~encryption
        self.space.rules.encryption = encryption
        pt_find_usual(&self.own_format, &self.space.rules)

    def _set_needs(self):
        """What each kind of access needs (letters r, w, x as bits 0 to 2, user mode as bit 3), and what new
        table items say besides their address."""
        cdef int kind, n
        for n in range(1, self.own_format.top + 1):
            self.table_item[n] = encode.table_bits(self.format, n)
            if self.encryption_bit:
                self.table_item[n] |= address_bits(self.format.levels[n].table, self.encryption_mask)
        for kind in range(16):
            found = access_rules.need(self.format, kind)
            self.needs[kind].allowed = found.allowed
            self.needs[kind].denied_keys[0] = found.denied_keys[0]
            self.needs[kind].denied_keys[1] = found.denied_keys[1]
            self.needs[kind].any = found.any
            self.needs[kind].dirty = found.dirty

    def _set_root(self, root):
        cdef uint64_t size = pt_table_bytes(&self.own_format, self.own_format.top)
        if root is None:
            bytes_wanted = max(size, 1 << SMALLEST_FRAME_LG2)
            self.space.root = self.memory.frames.allocate(bytes_wanted)
            if self.space.root + bytes_wanted > self.frame_limit:
                self.memory.frames.free(self.space.root, bytes_wanted)
                raise NoFrame(f"no frame for a root lies below {self.frame_limit:#x}")
            self.owns_root = True
            return
        address = as_address(root)
        align = self.format.root_align or size
        if address & (align - 1):
            raise Misaligned(
                f"root {address:#x} is not aligned to the {format_size(align)} of a "
                f"{self.format.levels[self.own_format.top].name} table"
            )
        if not pt_holds(&self.memory.c, address, size):
            raise OutOfRange(f"root {address:#x} lies outside the memory")
        self.space.root = address

    @property
    def root(self):
        return self.space.root

    @property
    def specialised(self):
        return self.engine.format != NULL

    # -- translation -------------------------------------------------------------------------

    cdef const pt_need *need_of(self, unsigned kind) noexcept nogil:
        return &self.needs[kind] if self.needs[kind].any else NULL

    cdef int translate_one(self, uint64_t ia, unsigned kind, uint64_t *oa) noexcept nogil:
        return self.engine.one(&self.space, self.need_of(kind), ia, oa)

    cdef int trace(self, uint64_t ia, uint64_t *oa, pt_path *path) noexcept nogil:
        return pt_trace(&self.space, ia, oa, path)

    cdef unsigned kind_of(self, access, bint user) except? 255:
        """The kind of an access as bits: 0 read, 1 write, 2 execute, 3 user mode."""
        cdef unsigned kind = 1
        if access is not READ:
            known = KIND_OF.get(access)
            if known is None:
                known = sum(1 << RIGHT_ROLES.index(role) for role in encode.rights_of(access))
                KIND_OF[access] = known
            kind = known
        return kind | (8 if user else 0)

    def translate(self, va, access=READ, user=False):
        cdef uint64_t oa
        cdef uint64_t ia = as_address(va)
        cdef unsigned kind = 1
        if access is not READ or user is not False:
            kind = self.kind_of(access, user)
        cdef int status = self.engine.one(&self.space, self.need_of(kind), ia, &oa)
        if status == PT_BUS and self.memory.lazy is not None:
            status = self._translate_lazily(ia, kind, &oa)
        if status != PT_OK:
            raise self._fault(Status(status), ia, access, user)
        return oa

    cdef int _translate_lazily(self, uint64_t ia, unsigned kind, uint64_t *oa) except -1:
        """Translate in memory that is read piece by piece, a page at a time."""
        cdef uint64_t seen = self.memory.misses()
        cdef int status = self.translate_one(ia, kind, oa)
        while self.memory.fetch_missing(&seen):
            status = self.translate_one(ia, kind, oa)
        return status

    def translate_many(self, vas, access=READ, user=False, *, out=None):
        source = as_addresses(vas)
        pas, statuses = outputs_for(source, out)
        cdef unsigned kind = self.kind_of(access, user)
        cdef uint64_t seen = self.memory.misses()
        self._pass_over(source, pas, statuses, kind)
        while self.memory.fetch_missing(&seen):
            # What met a missing page ended with BUS: only that goes again.
            again = np.flatnonzero(statuses == PT_BUS)
            found = np.empty(len(again), dtype=np.uint64), np.empty(len(again), dtype=np.uint8)
            self._pass_over(source.reshape(-1)[again], found[0], found[1], kind)
            pas.reshape(-1)[again], statuses.reshape(-1)[again] = found
        return pas, statuses

    cdef int _pass_over(self, object source, object pas, object statuses, unsigned kind) except -1:
        """Translate contiguous arrays once, without fetching anything."""
        cdef const uint64_t[::1] ias = source.reshape(-1)
        cdef uint64_t[::1] oas = pas.reshape(-1)
        cdef uint8_t[::1] ends = statuses.reshape(-1)
        cdef const pt_need *need = self.need_of(kind)
        cdef size_t n = ias.shape[0]
        if n:
            with nogil:
                self.engine.many(&self.space, need, &ias[0], &oas[0], &ends[0], n)
        return 0

    cdef int _trace_all(self, uint64_t ia, uint64_t *oa, pt_path *path) except -1:
        """Trace, and fetch what is missing on the way."""
        cdef uint64_t seen = self.memory.misses()
        cdef int status = self.trace(ia, oa, path)
        while self.memory.fetch_missing(&seen):
            status = self.trace(ia, oa, path)
        return status

    def walk(self, va):
        cdef uint64_t oa
        cdef pt_path seen
        cdef uint64_t ia = as_address(va)
        cdef int status = self._trace_all(ia, &oa, &seen)
        steps = self._steps(&seen)
        if status != PT_OK:
            end = Status(status)
            return paths.Walk(
                va=ia, status=end, path=steps, fault=self._fault_of(end, ia, &seen, READ, False)
            )
        cdef int level = seen.level
        cdef int shape = seen.step[seen.count - 1].shape
        cdef pt_item item = seen.step[seen.count - 1].item
        cdef const pt_layout *layout = pt_layout_of(&self.own_format, level, shape)
        return paths.Walk(
            va=ia,
            status=Status.OK,
            path=steps,
            pa=oa,
            page_size=1 << int(pt_entry_size_lg2(&self.own_format, level, shape)),
            rights=encode.rights_names(self._rights(&seen), self.format.rights),
            memory_type=pt_number(layout.memory_type, item),
            pkey=pt_number(layout.protection_key, item),
            software=pt_number(layout.software, item),
            global_=bool(pt_is_global(&self.own_format, level, shape, item)),
            accessed=bool(pt_is_marked(layout.accessed, item)),
            dirty=bool(pt_is_marked(layout.dirty, item)),
        )

    cdef unsigned _rights(self, const pt_path *seen) noexcept:
        """What all items of a path that ended in a leaf grant together."""
        cdef unsigned rights = self.own_format.rights
        cdef int n
        for n in range(seen.count):
            rights = pt_rights_with(
                &self.own_format, seen.step[n].level, seen.step[n].shape, seen.step[n].item, rights
            )
        return rights

    cdef tuple _steps(self, const pt_path *seen):
        cdef int n
        return tuple(
            paths.Step(
                level=seen.step[n].level,
                name=self.format.levels[seen.step[n].level].name,
                table=seen.step[n].table,
                index=(seen.step[n].at - seen.step[n].table) >> self.own_format.entry_lg2,
                entry_address=seen.step[n].at,
                entry=seen.step[n].item,
                kind=KINDS[seen.step[n].kind],
            )
            for n in range(seen.count)
        )

    def _fault(self, status, uint64_t ia, access, user):
        cdef uint64_t oa
        cdef pt_path seen
        self._trace_all(ia, &oa, &seen)
        return self._fault_of(status, ia, &seen, access, user)

    cdef object _fault_of(self, status, uint64_t ia, const pt_path *seen, access, user):
        steps = self._steps(seen)
        rule = ""
        level = seen.level
        if status is Status.NOT_CANONICAL:
            rule = f"{self.format.name} translates {self._legal_text()}"
            return paths.make_fault(status, ia, steps, (None, None, rule))
        name = self.format.levels[level].name
        if status is Status.BUS:
            at = pt_item_at(&self.own_format, seen.table, pt_index(&self.own_format, level, ia))
            return paths.bus_fault(ia, steps, (level, name, at))
        last = steps[len(steps) - 1]
        letters = access if isinstance(access, str) else READ
        # A leaf that a walk may not use has no protection key.
        used = status in (Status.PERMISSION, Status.PROTECTION_KEY)
        keyed = self._key_denies(seen, letters, user) if used else False
        if status is Status.PERMISSION:
            rule = paths.permission_rule(self.format, steps, letters, user)
        elif status is Status.PROTECTION_KEY:
            rule = "the page's protection key denies the access"
        elif status is Status.ACCESS_FLAG:
            rule = "software must mark the leaf accessed, and dirty before a write"
        elif last.kind != "empty" and status is not Status.NOT_PRESENT:
            zero = self.zero_masks[last.level][paths.shape_number(self.format, last)]
            rule = paths.reserved_rule(self.format, last, zero)
        code = access_rules.error_code(
            self.format,
            {
                "mapped": last.kind != "empty",
                "write": "w" in letters,
                "user": user,
                "reserved": status is Status.RESERVED_BITS,
                "fetch": "x" in letters,
                "key": keyed,
            },
        )
        return paths.make_fault(status, ia, steps, (level, name, rule), code)

    cdef bint _key_denies(self, const pt_path *seen, letters, bint user) except -1:
        """Whether the leaf's protection key denies the access, whatever else does."""
        cdef const pt_step_read *leaf = &seen.step[seen.count - 1]
        cdef const pt_layout *layout = pt_layout_of(&self.own_format, leaf.level, leaf.shape)
        cdef uint64_t key = pt_number(layout.protection_key, leaf.item)
        denied = self.needs[self.kind_of(letters, user)].denied_keys[self._rights(seen) >> 3 & 1]
        return denied >> key & 1

    def _legal_text(self):
        return " and ".join(f"{span.start:#x}..{span.last:#x}" for span in self.legal_spans())

    def legal_spans(self):
        bits = self.format.input_bits
        rule = self.format.address_rule
        if bits == 64:
            return (Span(0, ALL_ONES),)
        if rule is AddressRule.ZERO_EXTENDED:
            return (Span(0, (1 << bits) - 1),)
        if rule is AddressRule.UPPER_ONLY:
            top = (1 << self.format.address_bits) - 1
            return (Span(top - (1 << bits) + 1, top),)
        half = 1 << (bits - 1)
        return (Span(0, half - 1), Span(ALL_ONES - half + 1, ALL_ONES))

    def untagged(self, va):
        return pt_untagged(&self.space.rules, as_address(va))

    # -- listings ----------------------------------------------------------------------------

    def mappings(self, first=0, last=None, *, repeats=True):
        low = as_address(first)
        high = ALL_ONES if last is None else as_address(last)
        if low > high:
            raise OutOfRange(f"first {low:#x} comes after last {high:#x}")
        ranges = [
            (max(low, span.start), min(high, span.last))
            for span in self.legal_spans()
            if low <= span.last and high >= span.start
        ]
        return listing(
            scan.mappings(self.memory, &self.space, self.engine, ranges, not repeats)
        )

    def reverse(self, pa):
        return scan.reverse(self.memory, &self.space, as_address(pa))

    def stats(self):
        counts = scan.stats(self.memory, &self.space)
        table_bytes = sum(
            count * int(pt_table_bytes(&self.own_format, level))
            for level, count in enumerate(counts["tables"])
        )
        return Stats(**counts, table_bytes=table_bytes)

    def harvest(self, what, *, clear=True):
        if what not in ("dirty", "accessed"):
            raise ValueError(f"harvest what: 'dirty' or 'accessed', not {what!r}")
        if clear:
            self._check_editable()
        rows, repeats = scan.harvest(self.memory, &self.space, what == "dirty", clear)
        if not clear:
            return rows, Owed()
        spans = [Span(int(row["va"]), int(row["va"]) + int(row["page_size"]) - 1) for row in rows]
        spans += [Span(first, last) for first, last in repeats]
        return rows, Owed(spans=tuple(sorted(spans)), entries_written=len(rows))

    # -- edits -------------------------------------------------------------------------------

    def _check_editable(self):
        if self.destroyed:
            raise MapError("this table was destroyed")
        if not self.memory.writable:
            raise MapError("this memory is read-only")
        size = max(pt_table_bytes(&self.own_format, self.own_format.top), 1 << SMALLEST_FRAME_LG2)
        if self.owns_root and not self.memory.frames.is_allocated(self.space.root, size):
            raise MapError(f"the root's frame at {self.space.root:#x} was freed")

    cdef Edit new_edit(self):
        cdef Edit edit = Edit.__new__(Edit)
        cdef int n
        self._check_editable()
        edit.space = &self.space
        edit.f = &self.own_format
        edit.engine = self.engine
        edit.frames = self.memory.frames
        edit.rights = 0
        for n in range(1, self.own_format.top + 1):
            edit.table_item[n] = self.table_item[n]
        edit.dry = True
        return edit

    def _span(self, va, length, uint64_t page_size):
        """The span asked for, checked: [first, last], page aligned, inside one legal range."""
        first = as_address(va)
        size = parse_size(length)
        if size == 0:
            raise OutOfRange(f"the length at va {first:#x} is 0")
        for what, number in (("va", first), ("length", size)):
            if number & (page_size - 1):
                raise Misaligned(f"{what} {number:#x} is no multiple of {format_size(page_size)}")
        last = first + size - 1
        if not any(first in span and last in span for span in self.legal_spans()):
            raise NotCanonical(
                f"{first:#x}..{last:#x} is not inside {self._legal_text()}, which is what "
                f"{self.format.name} translates",
                va=first,
            )
        return Span(first, last)

    cdef int reserve(self, Edit edit) except -1:
        """Raise NoFrame unless every table that the edit will want can be had."""
        cdef int n, lg2 = 0
        wanted = {}
        for n in range(self.own_format.top + 1):
            if edit.tables_wanted[n]:
                size = int(pt_table_bytes(&self.own_format, n))
                lg2 = max(size.bit_length() - 1, SMALLEST_FRAME_LG2)
                wanted[lg2] = wanted.get(lg2, 0) + edit.tables_wanted[n]
        cdef FrameAllocator frames = self.memory.frames
        if len(wanted) == 1 and frames.end <= self.frame_limit:
            if wanted[lg2] <= frames.room(lg2):
                return 0
        elif wanted:
            # Frames of several sizes compete, so they are taken here, before anything is written.
            edit.ready = frames.take_all(wanted, min(self.frame_limit, ALL_ONES))
        if wanted and edit.ready is None:
            tables = " and ".join(f"{n} of {format_size(1 << lg2)}" for lg2, n in wanted.items())
            raise NoFrame(
                f"tables are wanted ({tables}) below {self.frame_limit:#x}; too few frames are left "
                f"between {frames.start:#x} and {frames.end:#x}"
            )
        return 0

    cdef object carry_out(self, Edit edit, int operation, span, uint64_t pa):
        """Look, reserve what will be wanted, then do it: wholly or not at all."""
        edit.operation = operation
        cdef int end = edit.run(span.start, span.last, pa)
        if end == EDIT_DONE:
            self.reserve(edit)
            edit.dry = False
            end = edit.run(span.start, span.last, pa)
        grown = span
        if edit.stale_first <= edit.stale_last:
            # Large translations that were split, or tables taken out, reach beyond the span asked for.
            grown = Span(
                min(span.start, pt_full_input(&self.own_format, edit.stale_first)),
                max(span.last, pt_full_input(&self.own_format, edit.stale_last)),
            )
        span = grown if operation == SPLIT else span
        # Filling empty items makes nothing stale, replacing tables does.
        stale = edit.freed if operation == MAP else edit.entries_written
        return self.finish(edit, end, (span,) if stale else (), (grown,) if edit.freed else ())

    cdef object finish(self, Edit edit, int end, tuple spans, tuple table_spans):
        """The Owed of an edit that went through, or the exception of one that did not."""
        for lg2, unused in (edit.ready or {}).items():
            for pa in unused:
                self.memory.frames.give(pa, lg2)
        if end != EDIT_DONE:
            raise self._edit_error(edit, end)
        return Owed(
            spans=spans,
            tables=tuple(dict.fromkeys(edit.freed)),
            table_spans=table_spans,
            entries_written=edit.entries_written,
            tables_allocated_bytes=edit.tables_allocated_bytes,
            _release=self._release_table if edit.freed else None,
        )

    def _release_table(self, address, size):
        size = max(size, 1 << SMALLEST_FRAME_LG2)
        # Tables that another owner placed (an attached root) are unlinked, not freed.
        if self.memory.frames.is_allocated(address, size):
            self.memory.frames.free(address, size)

    def _edit_error(self, Edit edit, int end):
        level = edit.at_level
        fmt = self.format
        va = pt_full_input(&self.own_format, edit.at_va)
        where = f"{fmt.levels[level].name} (level {level}), entry {int(edit.item):#x} at {edit.at_item:#x}, va {va:#x}"
        leaf_size = int(pt_leaf_bytes(&self.own_format, level))
        if end in (EDIT_ALREADY_MAPPED, EDIT_INSIDE_LARGER_LEAF):
            found = self.walk(va)
            leaf_size = found.page_size or leaf_size
            start = va & ~(leaf_size - 1)
            leaf = (start, self.walk(start).pa, leaf_size)
            if end == EDIT_ALREADY_MAPPED:
                return AlreadyMapped(f"already mapped at {where}", leaf)
            return InsideLargerLeaf(
                f"only a part of a {format_size(leaf_size)} leaf is meant at {where}; split it first", leaf
            )
        if end == EDIT_HOLE:
            return NotMapped(f"not mapped at {where}", va)
        if end == EDIT_OUTSIDE_MEMORY:
            return MalformedTable(f"the table lies outside the memory: {where}")
        if end == EDIT_WITHHELD:
            return MapError(f"the table above would withhold a right that the leaf grants: {where}")
        if end == EDIT_SKIPPED:
            return MapError(f"the table above skips levels and does not reach so far: {where}")
        if end == EDIT_TOO_HIGH:
            return OutOfRange(
                f"a {format_size(leaf_size)} page of {fmt.name} cannot hold the address; a larger page "
                f"might: va {va:#x}"
            )
        if end == EDIT_READ_ONLY_SHAPE:
            return MapError(f"leaves of this kind are only read: {where}")
        if end == EDIT_NO_SMALLER_LEAF:
            return FormatError(f"{fmt.name} has no smaller leaf to split into: {where}")
        if end == EDIT_NOT_UNIFORM:
            return NotUniform(f"the small leaves do not make one large leaf: {where}")
        return MalformedTable(f"reserved bits are set: {where}")

    def map(
        self,
        va,
        pa,
        length,
        access="rw",
        user=False,
        global_=False,
        memory_type=None,
        pkey=0,
        software=0,
        *,
        page_size=None,
        encryption_bit=None,
    ):
        cdef Edit edit = self.new_edit()
        cdef int n, shape
        size = 1 << self.format.granule_lg2 if page_size is None else parse_size(page_size)
        if page_size is not None:
            self._set_page_size(edit, size)
        span = self._span(va, length, size)
        output = as_address(pa)
        if output & (size - 1):
            raise Misaligned(f"pa {output:#x} is no multiple of {format_size(size)}")
        if output + span.size > 1 << self.physical_bits:
            raise OutOfRange(
                f"pa {output:#x} + {format_size(span.size)} goes beyond {self.physical_bits} physical bits"
            )
        if self._reaches_encryption(output, output + span.size - 1):
            raise OutOfRange(
                f"pa {output:#x} + {format_size(span.size)} has address bits of the encryption mask "
                f"{self.encryption_mask:#x}"
            )
        wanted = encode.Attributes(access, user, global_, memory_type, pkey, software)
        only = None if page_size is None else size
        marked = self.encryption_bit if encryption_bit is None else bool(encryption_bit)
        items = self.leaf_items.get((wanted, only, marked))
        if items is None:
            items = self._leaf_items(wanted, only, marked)
        for n, shape, item in items:
            edit.set_[n][shape] = item
        edit.rights = encode.wanted_rights(self.format, access, user)[1]
        return self.carry_out(edit, MAP, span, output)

    cdef bint _reaches_encryption(self, uint64_t first, uint64_t last) noexcept:
        """Whether any address from `first` to `last` has a bit of the encryption mask."""
        cdef uint64_t mask = self.encryption_mask
        cdef uint64_t lowest = mask & (~mask + 1)
        return mask != 0 and ((first & mask) != 0 or (first ^ last) >= lowest)

    def _leaf_items(self, wanted, only, marked):
        """(level, shape, item without its address) of each size of page, or of one."""
        items = []
        for size, (n, shape) in self.format.page_shapes.items():
            if only is not None and size != only:
                continue
            item = encode.leaf_change(self.format, n, wanted, shape)[1]
            if marked:
                word = self.format.levels[n].leaves[shape - 1].word
                item |= address_bits(word, self.encryption_mask)
            items.append((n, shape, item | encode.new_marks(self.format, n, shape)))
        self.leaf_items[wanted, only, marked] = items
        return items

    def _set_page_size(self, Edit edit, size):
        edit.page_level, edit.page_shape = self.format.shape_of(size)
        edit.page_lg2 = size.bit_length() - 1

    def unmap(self, va, length, *, missing_ok=False, free_tables=True):
        cdef Edit edit = self.new_edit()
        span = self._span(va, length, 1 << self.format.granule_lg2)
        edit.missing_ok = missing_ok
        edit.free_tables = free_tables
        return self.carry_out(edit, UNMAP, span, 0)

    def protect(
        self,
        va,
        length,
        access=None,
        user=None,
        global_=None,
        memory_type=None,
        pkey=None,
        software=None,
        *,
        missing_ok=False,
    ):
        cdef Edit edit = self.new_edit()
        cdef int n, shape
        span = self._span(va, length, 1 << self.format.granule_lg2)
        wanted = encode.Attributes(access, user, global_, memory_type, pkey, software)
        edit.missing_ok = missing_ok
        for n, shape in self.format.page_shapes.values():
            edit.clear[n][shape], edit.set_[n][shape] = encode.leaf_change(self.format, n, wanted, shape)
        edit.rights = encode.wanted_rights(self.format, access, user)[1]
        return self.carry_out(edit, PROTECT, span, 0)

    def split(self, va, length, page_size=None, *, missing_ok=False):
        cdef Edit edit = self.new_edit()
        size = 1 << self.format.granule_lg2 if page_size is None else parse_size(page_size)
        self._set_page_size(edit, size)
        edit.missing_ok = missing_ok
        span = self._span(va, length, size)
        return self.carry_out(edit, SPLIT, span, 0)

    def collapse(self, va, length, page_size, *, missing_ok=False):
        cdef Edit edit = self.new_edit()
        size = parse_size(page_size)
        self._set_page_size(edit, size)
        edit.missing_ok = missing_ok
        span = self._span(va, length, size)
        return self.carry_out(edit, COLLAPSE, span, 0)

    def destroy(self):
        cdef Edit edit
        self._check_editable()
        edit = self.new_edit()
        edit.free_subtree(self.space.root, self.own_format.top)
        self.destroyed = True
        return self.finish(edit, EDIT_DONE, self.legal_spans(), self.legal_spans())

    def __repr__(self):
        return f"PageTable({self.format.name}, root={self.space.root:#x})"


def _bits_beyond(word, physical_bits, encryption):
    """The item bits of `word` that give output bits at or above `physical_bits`, but for encryption."""
    return address_bits(word, PT_ALL_ONES >> physical_bits << physical_bits & ~encryption)


def _table_limit(fmt, physical_bits, encryption):
    """Tables must lie below this address, so that the items that point to them can say where."""
    limit = 1 << physical_bits
    for level in fmt.levels:
        ends = [bits.target + bits.width for bits in level.table or () if bits.role is Role.OUTPUT]
        limit = min(limit, 1 << max(ends, default=physical_bits))
    return min(limit, encryption & -encryption) if encryption else limit
