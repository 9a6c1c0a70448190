"""One pass over a ledger that finds its exposure windows: each row looks only at the spans that it is about."""

cimport cython
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy

import numpy as np

from ptcore.machine.ledger cimport LedgerRow
from ptcore.machine.stale cimport CpuSet, StaleSpans, iv_meeting

from ptcore.machine.events import Event

WINDOW_DTYPE = np.dtype(
    [
        ("start_ns", "<i8"),
        ("end_ns", "<i8"),
        ("first", "<u8"),
        ("pa", "<u8"),
        ("pages", "<i8"),
        ("cpus", "<i4"),
        ("held_on", "<i4"),
        ("reused", "?"),
        ("closed", "?"),
    ]
)
cdef int UNMAPPED = Event.UNMAPPED
cdef int FRAMES_ALLOCATED = Event.FRAMES_ALLOCATED
cdef int FRAMES_FREED = Event.FRAMES_FREED
cdef int STALE_HELD = Event.STALE_HELD
cdef int INVALIDATED = Event.INVALIDATED
cdef int DEVICE_INVALIDATED = Event.DEVICE_INVALIDATED
cdef int POOL_TAKEN = Event.POOL_TAKEN
cdef int POOL_RETURNED = Event.POOL_RETURNED
EVENTS = (
    Event.UNMAPPED,
    Event.FRAMES_ALLOCATED,
    Event.FRAMES_FREED,
    Event.STALE_HELD,
    Event.INVALIDATED,
    Event.DEVICE_INVALIDATED,
    Event.POOL_TAKEN,
    Event.POOL_RETURNED,
)


cdef bint has_all(CpuSet some, CpuSet others) noexcept:
    """Whether `some` has all of `others`."""
    cdef uint32_t w
    for w in range(others.words):
        if others.bits[w] & ~(some.bits[w] if w < some.words else 0):
            return False
    return True


@cython.final
cdef class WindowScan:
    def __init__(self, ledger, cpus):
        self.ledger = ledger
        self.everyone = CpuSet(range(cpus))
        self.spans = StaleSpans()
        self.sets = []

    def __dealloc__(self):
        free(self.opened)
        free(self.out)

    cdef CpuSet named(self, uint32_t number):
        while number >= <uint32_t>len(self.sets):
            self.sets.append(CpuSet(self.ledger.cpu_set(len(self.sets))))
        return self.sets[number]

    def feed(self, rows):
        cdef const uint8_t[::1] bytes_ = rows.view(np.uint8)
        cdef size_t n, count = len(rows)
        cdef const LedgerRow *row
        cdef const LedgerRow *after
        cdef CpuSet holders
        if not count:
            return
        row = <const LedgerRow *>&bytes_[0]
        for n in range(count):
            if row.event == UNMAPPED:
                holders = self.named(row.cpus)
                if not holders.count:
                    holders = self.everyone
                after = row + 1
                # What the very next row invalidates everywhere was never exposed.
                if not (
                    n + 1 < count and (after.event == INVALIDATED or after.event == DEVICE_INVALIDATED)
                    and after.first <= row.first and row.last <= after.last
                    and has_all(self.named(after.cpus), holders)
                ):
                    self.open(row, holders)
            elif row.event == FRAMES_FREED or row.event == POOL_RETURNED:
                self.frames(row, True)
            elif row.event == FRAMES_ALLOCATED or row.event == POOL_TAKEN:
                self.frames(row, False)
            elif row.event == STALE_HELD:
                self.held(row)
            else:
                self.close(row)
            row += 1

    cdef int open(self, const LedgerRow *row, CpuSet held) except -1:
        cdef uint32_t n
        cdef Opened *grown
        cdef uint64_t pages = row.count if row.count > 0 else 0
        n = self.spans.open(row.first, row.last, row.pa, held)
        if n >= self.room:
            grown = <Opened *>realloc(self.opened, 2 * <size_t>(n + 32) * sizeof(Opened))
            if grown == NULL:
                raise MemoryError()
            self.opened = grown
            self.room = 2 * (n + 32)
        self.opened[n] = Opened(row.first, row.pa, 0, pages, -1, 0, held.count, 0, False)
        self.opened[n].page = (row.last - row.first + 1) // max(pages, 1)
        if self.opened[n].page > self.largest_page:
            self.largest_page = self.opened[n].page
        return 0

    cdef int64_t overlap(self, const Opened *o, const LedgerRow *row) noexcept:
        """How many of the span's pages are among a row's frames."""
        cdef uint64_t low = max(o.pa, row.pa)
        cdef uint64_t end = min(o.pa + <uint64_t>o.pages * o.page, row.pa + <uint64_t>row.count * o.page)
        return <int64_t>((end - low) // o.page) if end > low and o.page else 0

    cdef int frames(self, const LedgerRow *row, bint freed) except -1:
        """The first free opens a window (later owners of the same frames have their own); then reuse is noted."""
        cdef size_t k, found
        cdef int64_t pages
        cdef Opened *o
        if row.count <= 0 or not self.spans.count:
            return 0
        found = self.spans.at_frames(row.pa, row.pa + <uint64_t>row.count * self.largest_page - 1)
        for k in range(found):
            o = &self.opened[self.spans.found.ids[k]]
            if freed and o.freed_ns < 0:
                pages = self.overlap(o, row)
                if pages:
                    o.freed_ns = row.time_ns
                    o.freed_pages = pages
            elif not freed and o.freed_ns >= 0 and not o.reused:
                o.reused = self.overlap(o, row) > 0
        return 0

    cdef int held(self, const LedgerRow *row) except -1:
        cdef size_t k
        cdef Opened *o
        self.spans.found.count = 0
        iv_meeting(&self.spans.by_address, self.spans.by_address.root, row.first, row.first, &self.spans.found)
        for k in range(self.spans.found.count):
            o = &self.opened[self.spans.found.ids[k]]
            # Noted again when later owners free the frames; by then fewer may hold it.
            if o.first == row.first and row.count > o.held_on:
                o.held_on = <int32_t>row.count
        return 0

    cdef int close(self, const LedgerRow *row) except -1:
        cdef size_t k
        cdef Opened *o
        if not self.spans.count:
            return 0
        self.spans.drop(row.first, row.last, self.named(row.cpus))
        self.spans.sort(&self.spans.gone)
        for k in range(self.spans.gone.count):
            o = &self.opened[self.spans.gone.ids[k]]
            if 0 <= o.freed_ns <= row.time_ns:
                self.put(o, row.time_ns, True)
        return 0

    cdef int put(self, const Opened *o, int64_t end_ns, bint closed) except -1:
        cdef Window *grown
        cdef size_t room
        if self.used == self.out_room:
            room = 2 * self.out_room if self.out_room else 256
            grown = <Window *>realloc(self.out, room * sizeof(Window))
            if grown == NULL:
                raise MemoryError()
            self.out = grown
            self.out_room = room
        self.out[self.used] = Window(
            o.freed_ns, end_ns, o.first, o.pa, o.freed_pages, o.cpus, o.held_on, o.reused, closed
        )
        self.used += 1
        return 0

    def take(self):
        cdef uint8_t[::1] bytes_
        out = np.empty(self.used, dtype=WINDOW_DTYPE)
        if self.used:
            bytes_ = out.view(np.uint8)
            memcpy(&bytes_[0], self.out, self.used * sizeof(Window))
        self.used = 0
        return out

    def finish(self, end_ns):
        cdef size_t k
        cdef Opened *o
        self.spans.found.count = 0
        iv_meeting(&self.spans.by_address, self.spans.by_address.root, 0, <uint64_t>-1, &self.spans.found)
        self.spans.sort(&self.spans.found)
        for k in range(self.spans.found.count):
            o = &self.opened[self.spans.found.ids[k]]
            if o.freed_ns >= 0:
                self.put(o, end_ns, False)
        return self.take()
