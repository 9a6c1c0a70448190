"""Tables read as volatility3's layers read them, for ptcore.interop.volatility.

What a table item means is the format's; what is volatility3's own is here: a table of equal items does
not exist, bits below a large page's address are kept, memory below the layer has a say, and a listing
merges neighbours whatever their size. The rules were read off volatility3 2.28, framework/layers/intel.py.
"""

cimport cython
from libc.stdint cimport uint8_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memset

from ptcore.memory.physical cimport PhysicalMemory, pt_at_any
from ptcore.table.abi cimport (
    PT_ALL_ONES,
    PT_LEAF,
    PT_MAX_LEVELS,
    PT_TABLE,
    pt_format,
    pt_item,
    pt_rules,
)
from ptcore.table.decode cimport (
    pt_entry_bytes,
    pt_find_usual,
    pt_index,
    pt_is_usual,
    pt_item_at,
    pt_kind,
    pt_layout_of,
    pt_leaf_bytes,
    pt_leaf_shape,
    pt_load,
    pt_offset_mask,
    pt_output,
)
from ptcore.table.fill cimport fill_format

from ptcore.formats.lower import lower

cdef extern from "Python.h":
    void PyObject_GC_UnTrack(object)

cdef enum:
    BATCH = 32  # rows found at once
    PLACES = 512  # tables whose bytes are found without a search, by the low bits of their frame

# Tables that came through the layer below, not out of a mapped file, are kept: 64 MiB of them at most.
cdef Py_ssize_t MOST_FETCHED = 1 << 14

# Whether a page that is not there may be in a swap layer: the layer is asked at the first such page.
cdef enum:
    ASK = 0
    NO_SWAP
    SWAP

# How a look at an address ended.
cdef enum:
    FOUND = 0
    NO_TABLE  # the table at `level` does not exist: `entry` is the item that points to it
    NO_PAGE  # the item at `level` is neither table nor page

cdef struct Look:
    int end
    int level
    uint64_t entry  # the last item read
    uint64_t pa


@cython.final
cdef class LayerReads:
    cdef pt_format format
    cdef pt_rules rules
    cdef uint64_t root
    cdef uint64_t root_entry
    cdef uint64_t page_bytes
    cdef uint64_t page_keep
    cdef uint64_t large_mark  # the bit that says "large page", where a level has those
    cdef uint64_t large_ignored  # the bit of a large page that is no address bit, though it is in its place
    cdef bint large[PT_MAX_LEVELS]
    cdef readonly PhysicalMemory memory
    cdef readonly object layer
    cdef object layer_below
    # Spans of the layer below in which every byte is valid, or none when it must be asked each time.
    cdef uint64_t *firsts
    cdef uint64_t *ends
    cdef size_t spans
    cdef size_t span_hit
    cdef dict fetched
    cdef uint64_t place_of[PLACES]
    cdef const uint8_t *place_bytes[PLACES]
    # The tables on the way to the last address.
    cdef uint64_t last_va
    cdef int last_reached  # the lowest level whose table is known
    cdef const uint8_t *path[PT_MAX_LEVELS]
    cdef uint64_t path_entry[PT_MAX_LEVELS]

    def __cinit__(self):
        self.fetched = {}

    def __dealloc__(self):
        free(self.firsts)

    def __init__(self, format, layer, rules, memory=None, spans=()):
        fill_format(&self.format, lower(format))
        memset(&self.rules, 0, sizeof(pt_rules))
        self.rules.keep = (1 << rules.physical_bits) - 1
        self.layer = layer
        self.layer_below = rules.layer_below
        self.memory = memory
        self.root = rules.root
        self.root_entry = rules.root_entry
        self.page_bytes = 1 << self.format.level[0].shift
        self.page_keep = rules.page_keep
        self.large_mark = rules.large_mark
        self.large_ignored = rules.large_ignored
        for level in rules.large_levels:
            self.large[level] = True
        pt_find_usual(&self.format, &self.rules)
        self._keep_spans(spans)
        self._forget()

    cdef int _keep_spans(self, spans) except -1:
        cdef size_t n
        self.spans = len(spans)
        if not self.spans:
            return 0
        self.firsts = <uint64_t *>malloc(2 * self.spans * sizeof(uint64_t))
        if self.firsts == NULL:
            self.spans = 0
            raise MemoryError()
        self.ends = self.firsts + self.spans
        for n in range(self.spans):
            self.firsts[n], self.ends[n] = spans[n]
        return 0

    cdef void _forget(self) noexcept:
        memset(self.place_of, 0, sizeof(self.place_of))
        self.last_reached = self.format.top + 1

    # -- tables ------------------------------------------------------------------------------

    cdef const uint8_t *_fetch(self, uint64_t table) except? NULL:
        """The table's bytes through the layer below; NULL where that has none."""
        found = self.fetched.get(table, self)
        if found is self:
            found = self.fetched[table] = self.layer._read_table(table)
        if found is None:
            return NULL
        return <const uint8_t *>(<bytes>found)

    cdef const uint8_t *_table(self, uint64_t table) except? NULL:
        """The bytes of a table that exists: it can be read, and its items are not all equal."""
        cdef size_t place = (table >> 12) % PLACES
        cdef uint64_t size = pt_entry_bytes(&self.format)
        cdef const uint8_t *bytes
        if self.place_of[place] == table + 1:
            return self.place_bytes[place]
        bytes = NULL if self.memory is None else pt_at_any(&self.memory.c, table, self.page_bytes)
        if bytes == NULL:
            bytes = self._fetch(table)
        if bytes != NULL and memcmp(bytes, bytes + size, self.page_bytes - size) == 0:
            bytes = NULL
        self.place_of[place] = table + 1
        self.place_bytes[place] = bytes
        return bytes

    cdef int _look(self, uint64_t va, Look *look) except -1:
        """Walk from the lowest table that the last walk shares with this one."""
        cdef const pt_format *f = &self.format
        cdef uint64_t apart = va ^ self.last_va
        cdef int level, kind, shape
        cdef uint64_t table = self.root
        cdef const uint8_t *bytes
        cdef pt_item item
        if len(self.fetched) > MOST_FETCHED:
            self.fetched = {}
            self._forget()
        level = self.last_reached
        while level <= f.top and apart >> (f.level[level].shift + f.level[level].bits):
            level += 1
        if level > f.top:
            level = f.top
            self.last_reached = f.top + 1
            bytes = self._table(table)
            self.path_entry[level] = self.root_entry
        else:
            bytes = self.path[level]
        self.last_va = va
        look.entry = self.path_entry[level]
        while True:
            look.level = level
            if bytes == NULL:
                look.end = NO_TABLE
                return 0
            self.path[level] = bytes
            self.path_entry[level] = look.entry
            self.last_reached = level
            item = pt_load(f, bytes + pt_item_at(f, 0, pt_index(f, level, va)))
            look.entry = <uint64_t>item
            kind = pt_kind(f, level, item)
            if kind != PT_TABLE:
                break
            table = pt_output(f, &self.rules, level, 0, item)
            level -= 1
            bytes = self._table(table)
        if self.large[level] and look.entry & self.large_mark:
            look.entry &= ~self.large_ignored
        look.end = NO_PAGE
        if kind == PT_LEAF:
            look.end = FOUND
            shape = pt_leaf_shape(f, level, item)
            look.pa = pt_output(f, &self.rules, level, shape, item)
            look.pa |= self._kept_below(level, shape, look.entry)
            look.pa = (look.pa & self.page_keep) | (va & pt_offset_mask(f, level))
        return 0

    cdef uint64_t _kept_below(self, int level, int shape, uint64_t entry) noexcept:
        """What the item of a large page has in the bits between its address and the smallest page's."""
        if pt_layout_of(&self.format, level, shape).invert != 0:
            entry = ~entry
        return entry & pt_offset_mask(&self.format, level) & ~(self.page_bytes - 1)

    cdef unsigned _fault_bits(self, const Look *look) noexcept:
        """How many bits of the address have nothing behind them."""
        cdef unsigned bits = self.format.level[look.level].shift
        return bits + self.format.level[look.level].bits if look.end == NO_TABLE else bits

    # -- the layer below ---------------------------------------------------------------------

    cdef bint _is_there(self, uint64_t pa, uint64_t size) except -1:
        """Whether the layer below has all of these bytes."""
        if self.spans == 0:
            return self.layer._is_below_valid(self.layer_below, pa, size)
        return self._is_in_spans(pa, size)

    cdef bint _is_in_spans(self, uint64_t pa, uint64_t size) noexcept:
        cdef size_t low = 0, end = self.spans, middle
        cdef size_t hit = self.span_hit
        if self.firsts[hit] <= pa < self.ends[hit]:
            return size <= self.ends[hit] - pa
        while low < end:
            middle = (low + end) >> 1
            if self.firsts[middle] <= pa:
                low = middle + 1
            else:
                end = middle
        if low == 0:
            return False
        self.span_hit = low - 1
        return pa < self.ends[low - 1] and size <= self.ends[low - 1] - pa

    # -- questions ---------------------------------------------------------------------------

    cdef bint _are_known(self, va, length, uint64_t *first, uint64_t *size) except -1:
        """Take the addresses of a question; False for those that are left to the layer's own code."""
        try:
            first[0] = va
            size[0] = length
        except (OverflowError, TypeError):
            return False
        return 0 < size[0] <= PT_ALL_ONES - first[0]

    cdef bint _finds(self, va, Look *look) except -1:
        cdef uint64_t ia, size
        if not self._are_known(va, 1, &ia, &size):
            return False
        self._look(ia, look)
        return look.end == FOUND

    def find(self, va):
        cdef Look look
        return look.pa if self._finds(va, &look) and self._is_there(look.pa, 1) else None

    def page(self, va):
        cdef Look look
        if not self._finds(va, &look):
            return None
        return look.pa, pt_leaf_bytes(&self.format, look.level)

    def entry(self, va):
        cdef Look look
        cdef uint64_t ia = va
        self._look(ia, &look)
        ended = look.level == 0 or (self.large[look.level] and look.entry & self.large_mark)
        if look.end == NO_TABLE or not ended:
            below = look.level - (look.end == NO_PAGE)
            return look.entry, self._fault_bits(&look), self.format.top - below
        return look.entry, self.format.level[look.level].shift, None

    def is_valid(self, va, length):
        cdef Look look
        cdef uint64_t ia, left, size
        if self.spans == 0 or not self._are_known(va, length, &ia, &left):
            return None
        while left > 0:
            self._look(ia, &look)
            if look.end != FOUND:
                return None if self.layer._has_swap() else False
            size = min(pt_leaf_bytes(&self.format, look.level) - (ia & pt_offset_mask(&self.format, look.level)), left)
            if not self._is_there(look.pa, size):
                return False
            ia += size
            left -= size
        return True

    def mapping(self, va, length, ignore_errors):
        cdef Mapping rows
        cdef uint64_t ia, left
        if not self._are_known(va, length, &ia, &left):
            return None
        rows = Mapping.__new__(Mapping)
        rows.reads = self
        rows.va = ia
        rows.left = left
        rows.ignore_errors = ignore_errors
        rows.asks_swap = ASK
        return rows


cdef struct Row:
    uint64_t va
    uint64_t pa
    uint64_t size


@cython.final
cdef class Mapping:
    cdef LayerReads reads
    cdef uint64_t va
    cdef uint64_t left
    cdef bint ignore_errors
    cdef int asks_swap
    # Rows that were found and not yet given out; the last may still grow.
    cdef Row rows[BATCH]
    cdef int count
    cdef int given
    cdef dict elsewhere  # the number of a row -> its layer, where that is not the one below
    cdef object fault  # raised when the rows before it are given out
    cdef object size_object
    cdef uint64_t size_of_object

    def __iter__(self):
        return self

    def __next__(self):
        cdef Row *row
        cdef object made, layer
        if self.given + 1 >= self.count and self.left > 0:
            self.gather()
        if self.given == self.count:
            if self.fault is not None:
                fault, self.fault = self.fault, None
                raise fault
            raise StopIteration
        row = &self.rows[self.given]
        if self.size_object is None or self.size_of_object != row.size:
            self.size_object = row.size
            self.size_of_object = row.size
        layer = self.reads.layer_below
        if self.elsewhere is not None:
            layer = self.elsewhere.get(self.given, layer)
        self.given += 1
        made = (row.va, self.size_object, row.pa, self.size_object, layer)
        PyObject_GC_UnTrack(made)  # numbers and a text are in no cycle
        return made

    cdef int gather(self) except -1:
        """Find rows, until all but the last are complete or nothing is left."""
        cdef object layer
        cdef uint64_t pa = 0, size = 0
        self.keep_last()
        while self.left > 0 and self.count < BATCH:
            if self.next_small_page(&pa, &size):
                self.add(pa, size, None)
                continue
            try:
                layer = self.next_chunk(&pa, &size)
            except self.reads.layer.INVALID as fault:
                # The row before it is never given out, as in volatility3.
                self.fault = fault
                self.count = max(self.count - 1, 0)
                self.left = 0
                break
            if layer is not None:
                self.add(pa, size, None if layer == self.reads.layer_below else layer)
        return 0

    cdef int keep_last(self) except -1:
        """Make room behind the row that may still grow."""
        cdef int last = self.given
        if last == 0:
            return 0
        self.given = 0
        self.count -= last
        self.rows[0] = self.rows[last % BATCH]
        if self.elsewhere is not None:
            kept = self.elsewhere.get(last)
            self.elsewhere = None if kept is None else {0: kept}
        return 0

    cdef int add(self, uint64_t pa, uint64_t size, object layer) except -1:
        """Let the last row grow, or add one, and go on behind it. `layer`: None for the one below."""
        cdef Row *last = &self.rows[self.count - 1]
        cdef bint grows = self.count > 0 and last.va + last.size == self.va and last.pa + last.size == pa
        if grows and (layer is not None or self.elsewhere is not None):
            before = None if self.elsewhere is None else self.elsewhere.get(self.count - 1)
            grows = before == layer
        if grows:
            last.size += size
        else:
            self.rows[self.count] = Row(self.va, pa, size)
            if layer is not None:
                self.elsewhere = self.elsewhere or {}
                self.elsewhere[self.count] = layer
            self.count += 1
        self.step(size)
        return 0

    cdef void step(self, uint64_t size) noexcept:
        size = min(size, self.left)
        self.left -= size
        self.va += size

    cdef bint next_small_page(self, uint64_t *pa, uint64_t *size) noexcept:
        """The next page, where that is an ordinary one in the table of the last; else False."""
        cdef LayerReads reads = self.reads
        cdef const pt_format *f = &reads.format
        cdef uint64_t offset = self.va & pt_offset_mask(f, 0)
        cdef pt_item item
        if reads.last_reached != 0 or (self.va ^ reads.last_va) >> (f.level[0].shift + f.level[0].bits):
            return False
        item = pt_load(f, reads.path[0] + pt_item_at(f, 0, pt_index(f, 0, self.va)))
        if not pt_is_usual(f, &reads.rules, 0, item):
            return False
        pa[0] = (pt_output(f, &reads.rules, 0, 1, item) & reads.page_keep) | offset
        size[0] = min(pt_leaf_bytes(f, 0) - offset, self.left)
        return reads.spans > 0 and reads._is_in_spans(pa[0], size[0])

    cdef object next_chunk(self, uint64_t *pa, uint64_t *size):
        """The layer that the next page, or its part asked for, leads to; None after a step over a fault."""
        cdef LayerReads reads = self.reads
        cdef object layer = reads.layer_below
        cdef Look look
        cdef uint64_t page_bytes, skipped
        reads._look(self.va, &look)
        if look.end == FOUND:
            pa[0] = look.pa
            page_bytes = pt_leaf_bytes(&reads.format, look.level)
        else:
            page_bytes = 1ULL << reads._fault_bits(&look)
            found = self.found_elsewhere(look.entry)
            if found is None:
                self.step(page_bytes - (self.va & (page_bytes - 1)))
                return None
            pa[0], page_bytes, layer = found
        size[0] = min(page_bytes - (self.va & (page_bytes - 1)), self.left)
        if look.end == FOUND and reads._is_there(pa[0], size[0]):
            return layer
        if look.end != FOUND and reads.layer._is_below_valid(layer, pa[0], size[0]):
            return layer
        if not self.ignore_errors:
            reads.layer._refuse(layer, pa[0])
        # As volatility3 does it: a step to the end of the chunk only where its size is a power of two.
        skipped = size[0] - 1
        self.step(skipped + 1 - (self.va & skipped))
        return None

    cdef object found_elsewhere(self, uint64_t entry):
        """Where a page that is not there is instead; None if nowhere and errors are ignored."""
        layer = self.reads.layer
        if not self.ignore_errors:
            return layer._translate(self.va)
        if entry == 0 or self.asks_swap == NO_SWAP:
            return None
        if self.asks_swap == ASK:
            self.asks_swap = SWAP if layer._has_swap() else NO_SWAP
        if self.asks_swap == NO_SWAP:
            return None
        try:
            return layer._translate(self.va)
        except layer.INVALID:
            return None
