"""Translations that the tables no longer have and some CPUs may still hold, found by address and by frame."""

cimport cython
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memset

import operator

from ptcore.errors import OutOfRange
from ptcore.units import Span

cdef uint32_t FIRST_ROOM = 64


@cython.final
cdef class CpuSet:
    def __cinit__(self, members):
        cdef uint32_t n
        self.members = frozenset(members)
        self.count = len(self.members)
        self.ledger_number = -1
        self.without_one = {}
        for number in self.members:
            if operator.index(number) < 0:
                raise OutOfRange(f"no CPU has the number {number}")
        self.words = (max(self.members, default=0) >> 6) + 1
        self.bits = <uint64_t *>calloc(self.words, sizeof(uint64_t))
        self.numbers = <uint32_t *>malloc((self.count + 1) * sizeof(uint32_t))
        if self.bits == NULL or self.numbers == NULL:
            raise MemoryError()
        # In the order of the set itself: that of a loop over it.
        for at, number in enumerate(self.members):
            n = number
            self.numbers[<uint32_t>at] = n
            self.bits[n >> 6] |= 1ULL << (n & 63)

    def __dealloc__(self):
        free(self.bits)
        free(self.numbers)

    cdef bint has(self, int64_t number) noexcept:
        return 0 <= number < 64 * <int64_t>self.words and self.bits[number >> 6] >> (number & 63) & 1


@cython.final
cdef class StaleSpans:
    def __dealloc__(self):
        free(self.by_address.nodes)
        free(self.by_frame.nodes)
        free(self.order)
        free(self.bits)
        free(self.maybe)
        free(self.framed)
        free(self.found.ids)
        free(self.gone.ids)

    cdef int make_room(self, uint32_t words) except -1:
        """Have room for one more span, and for CPUs in so many words."""
        cdef uint32_t room = self.by_address.room, wider = max(words, self.words), n, w
        cdef uint64_t *order
        cdef uint64_t *bits
        cdef uint64_t *maybe
        cdef uint8_t *framed
        if self.unused == 0 and self.used + 1 >= room:
            room = 2 * room if room else FIRST_ROOM
        if room == self.by_address.room and wider == self.words:
            return 0
        order = <uint64_t *>realloc(self.order, room * sizeof(uint64_t))
        if order != NULL:
            self.order = order
        framed = <uint8_t *>realloc(self.framed, room)
        if framed != NULL:
            self.framed = framed
        bits = <uint64_t *>calloc(<size_t>room * wider, sizeof(uint64_t))
        maybe = <uint64_t *>calloc(<size_t>room * wider, sizeof(uint64_t))
        if (
            order == NULL or framed == NULL or bits == NULL or maybe == NULL
            or not iv_reserve(&self.by_address, room) or not iv_reserve(&self.by_frame, room)
        ):
            free(bits)
            free(maybe)
            raise MemoryError()
        for n in range(self.used + 1 if self.words else 0):
            for w in range(self.words):
                bits[n * wider + w] = self.bits[n * self.words + w]
                maybe[n * wider + w] = self.maybe[n * self.words + w]
        free(self.bits)
        free(self.maybe)
        self.bits = bits
        self.maybe = maybe
        self.words = wider
        return 0

    cdef void free_gone(self) noexcept:
        cdef size_t k
        for k in range(self.gone.count):
            self.order[self.gone.ids[k]] = self.unused
            self.unused = self.gone.ids[k]
        self.gone.count = 0

    cdef uint32_t open(self, uint64_t first, uint64_t last, uint64_t pa, CpuSet holders) except? 0xFFFF_FFFF:
        """Add a span and return its number; 0, and no span, where nobody holds it."""
        cdef uint32_t n, w
        if holders.count == 0:
            return 0
        self.free_gone()
        self.make_room(holders.words)
        if self.unused:
            n = self.unused
            self.unused = <uint32_t>self.order[n]
        else:
            self.used += 1
            n = self.used
        for w in range(self.words):
            self.bits[n * self.words + w] = holders.bits[w] if w < holders.words else 0
            self.maybe[n * self.words + w] = self.bits[n * self.words + w]
        self.order[n] = self.opened
        self.opened += 1
        self.count += 1
        iv_insert(&self.by_address, n, first, last)
        iv_insert(&self.by_frame, n, pa, pa + (last - first))
        self.framed[n] = True
        return n

    cdef int drop(self, uint64_t first, uint64_t last, CpuSet targets) except -1:
        """The spans inside [first, last] are no longer held by `targets`; those that nobody holds are gone."""
        cdef size_t k
        cdef uint32_t n, w
        cdef uint64_t left
        self.free_gone()
        if self.count == 0:
            return 0
        self.found.count = 0
        iv_inside(&self.by_address, self.by_address.root, first, last, &self.found)
        if self.found.short_:
            self.found.short_ = 0
            raise MemoryError()
        for k in range(self.found.count):
            n = self.found.ids[k]
            left = 0
            for w in range(self.words):
                if w < targets.words:
                    self.bits[n * self.words + w] &= ~targets.bits[w]
                    self.maybe[n * self.words + w] &= ~targets.bits[w]
                left |= self.bits[n * self.words + w]
            if left == 0:
                iv_remove(&self.by_address, n)
                if self.framed[n]:
                    iv_remove(&self.by_frame, n)
                iv_push(&self.gone, n)
                self.count -= 1
        if self.gone.short_:
            self.gone.short_ = 0
            raise MemoryError()
        return 0

    cdef int sort(self, iv_hits *hits) except -1:
        """Sort what was found by when it was opened."""
        cdef size_t k, j
        cdef uint32_t n
        if hits.short_:
            hits.short_ = 0
            raise MemoryError()
        if hits.count > 32:
            found = sorted([(self.order[hits.ids[k]], hits.ids[k]) for k in range(hits.count)])
            for k in range(hits.count):
                hits.ids[k] = found[k][1]
            return 0
        for k in range(1, hits.count):
            n = hits.ids[k]
            j = k
            while j and self.order[hits.ids[j - 1]] > self.order[n]:
                hits.ids[j] = hits.ids[j - 1]
                j -= 1
            hits.ids[j] = n
        return 0

    cdef size_t at_frames(self, uint64_t pa, uint64_t last) except? 0xFFFF_FFFF:
        """Find the spans that led to any of the frames and that a TLB may have, the oldest first: in `found`."""
        self.found.count = 0
        if self.count == 0:
            return 0
        iv_meeting(&self.by_frame, self.by_frame.root, pa, last, &self.found)
        self.sort(&self.found)
        return self.found.count

    cdef uint32_t meeting(self, uint64_t first, uint64_t last, CpuSet asked) except? 0xFFFF_FFFF:
        """The oldest span that meets the addresses and that one of `asked` may hold; 0 for none."""
        cdef size_t k
        cdef uint32_t n, w
        self.found.count = 0
        if self.count == 0:
            return 0
        iv_meeting(&self.by_address, self.by_address.root, first, last, &self.found)
        self.sort(&self.found)
        for k in range(self.found.count):
            n = self.found.ids[k]
            for w in range(min(self.words, asked.words)):
                if self.bits[n * self.words + w] & asked.bits[w]:
                    return n
        return 0

    cdef void given_up(self, uint32_t n) noexcept:
        """Look no more at a span that was found by its frames, if no TLB has any of it."""
        cdef uint32_t w
        for w in range(self.words):
            if self.maybe[n * self.words + w]:
                return
        iv_remove(&self.by_frame, n)
        self.framed[n] = False

    cdef void ask_again(self) noexcept:
        """Of the spans in `found`, any holder may hold the addresses again: they are mapped anew."""
        cdef size_t k
        cdef uint32_t n, w
        for k in range(self.found.count):
            n = self.found.ids[k]
            for w in range(self.words):
                self.maybe[n * self.words + w] = self.bits[n * self.words + w]
            if not self.framed[n]:
                iv_insert(&self.by_frame, n, self.by_frame.nodes[n].start, self.by_frame.nodes[n].last)
                self.framed[n] = True

    cdef frozenset holders_of(self, uint32_t n):
        cdef uint32_t w, bit
        return frozenset(
            [
                64 * w + bit
                for w in range(self.words)
                for bit in range(64)
                if self.bits[n * self.words + w] >> bit & 1
            ]
        )

    # -- for Python --------------------------------------------------------------------------

    def add(self, span, pa, holders):
        self.open(span.start, span.last, pa, CpuSet(holders))

    def invalidated(self, span, targets):
        self.drop(span.start, span.last, CpuSet(targets))

    def _as_rows(self, numbers):
        cdef uint32_t n
        rows = []
        for number in numbers:
            n = number
            span = Span(self.by_address.nodes[n].start, self.by_address.nodes[n].last)
            rows.append((span, int(self.by_frame.nodes[n].start), self.holders_of(n)))
        return rows

    def holding(self, span, cpus):
        cdef uint32_t n = self.meeting(span.start, span.last, CpuSet(cpus))
        return self._as_rows([n])[0] if n else None

    def of_frames(self, pa, size):
        cdef size_t k, found = self.at_frames(pa, pa + size - 1)
        return self._as_rows([self.found.ids[k] for k in range(found)])

    def rows(self):
        cdef size_t k
        self.found.count = 0
        iv_meeting(&self.by_address, self.by_address.root, 0, <uint64_t>-1, &self.found)
        self.sort(&self.found)
        return self._as_rows([self.found.ids[k] for k in range(self.found.count)])

    def __len__(self):
        return self.count
