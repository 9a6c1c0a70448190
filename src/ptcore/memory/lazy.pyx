"""Pages that are fetched when something first wants them."""

import threading

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, Py_buffer, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport uint8_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memcpy, memmove
from posix.mman cimport (
    MADV_DONTNEED,
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

from ptcore.errors import ImageError, OutOfRange
from ptcore.units import format_size


cdef extern from *:
    """
    #define PT_STORE_STATE(at, state) __atomic_store_n(at, (uint8_t)(state), __ATOMIC_RELEASE)
    #define PT_LOAD_COUNT(at) __atomic_load_n(at, __ATOMIC_SEQ_CST)
    #define PT_TAKE_LOCK(at) while (__atomic_test_and_set(at, __ATOMIC_ACQUIRE))
    #define PT_GIVE_LOCK(at) __atomic_clear(at, __ATOMIC_RELEASE)
    """
    void PT_STORE_STATE(uint8_t *at, int state) noexcept nogil
    uint64_t PT_LOAD_COUNT(const uint64_t *at) noexcept nogil
    void PT_TAKE_LOCK(uint8_t *at) noexcept nogil
    void PT_GIVE_LOCK(uint8_t *at) noexcept nogil


cdef void *_reserve(uint64_t size) except NULL:
    cdef void *found = mmap(
        NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0
    )
    if found == MAP_FAILED:
        raise MemoryError(f"this process cannot reserve {format_size(size)} of address space")
    return found


@cython.final
cdef class LazyPages:
    def __init__(self, reader, spans, page_bytes):
        if self.c.states != NULL:
            raise TypeError("these pages exist already")
        size = int(page_bytes)
        lg2 = size.bit_length() - 1
        if not 16 <= size <= 1 << 30 or size & (size - 1):
            raise OutOfRange(f"a page has a power of two of bytes from 16 to 2**30, not {page_bytes}")
        self.reader = reader
        self.c.frozen = reader is None
        self.c.page_lg2 = lg2
        self.page_bytes = size
        self.spans = tuple(spans)
        self.lock = threading.RLock()
        self.known = []
        pas, numbers = [], []
        for span in self.spans:
            pas.append(span.start >> lg2 << lg2)
            numbers.append(int(self.pages))
            self.pages += (span.last >> lg2) - (span.start >> lg2) + 1
        self.first_pas = np.array(pas, dtype=np.uint64)
        self.first_pages = np.array(numbers, dtype=np.uint64)
        self.c.states = <uint8_t *>_reserve(self.pages + 1)
        self.reserved_bytes = (self.pages << lg2) + 1
        self.c.bytes = <uint8_t *>_reserve(self.reserved_bytes)

    def __dealloc__(self):
        free(self.c.wanted)
        if self.c.states != NULL:
            munmap(self.c.states, self.pages + 1)
        if self.c.bytes != NULL:
            munmap(self.c.bytes, self.reserved_bytes)

    cdef list parts(self):
        """(start, size, host address) of each span."""
        found = []
        cdef uint64_t at
        for span, number, pa in zip(self.spans, self.first_pages.tolist(), self.first_pas.tolist()):
            at = <uint64_t>self.c.bytes + (<uint64_t>number << self.c.page_lg2)
            found.append((span.start, span.size, int(at) + (span.start - pa)))
        return found

    cdef uint64_t misses(self) noexcept nogil:
        return PT_LOAD_COUNT(&self.c.misses)

    cdef object take(self):
        """Take the list of wanted pages: their numbers, ascending."""
        cdef uint64_t[::1] numbers
        cdef size_t count
        cdef bint starved
        # Nobody who holds the lock waits for this thread: pt_want does nothing but append.
        PT_TAKE_LOCK(&self.c.lock)
        count = self.c.wanted_count
        starved = self.c.starved
        self.c.starved = 0
        PT_GIVE_LOCK(&self.c.lock)
        if starved:
            raise MemoryError("no room for the list of pages to fetch")
        pages = np.empty(count, dtype=np.uint64)
        if not count:
            return pages
        numbers = pages
        PT_TAKE_LOCK(&self.c.lock)
        memcpy(&numbers[0], self.c.wanted, count * sizeof(uint64_t))
        self.c.wanted_count -= count
        if self.c.wanted_count:  # another thread went on meanwhile: its pages move to the front
            memmove(self.c.wanted, self.c.wanted + count, self.c.wanted_count * sizeof(uint64_t))
        PT_GIVE_LOCK(&self.c.lock)
        pages.sort()
        return pages

    cdef int fetch(self) except -1:
        """Fetch the pages that are on the list, in one call of the reader."""
        with self.lock:
            pages = self.take()
            if not len(pages):
                return 0  # another thread's fetch had them
            span = np.searchsorted(self.first_pages, pages, side="right") - 1
            offsets = (pages - self.first_pages[span]) << np.uint64(self.c.page_lg2)
            stored = False
            try:
                texts = self.reader.read_pages(self.first_pas[span] + offsets)
                self.store(pages, texts)
                stored = True
            finally:
                if not stored:
                    self.give_back(pages)
        return 0

    cdef int store(self, object pages, object texts) except -1:
        cdef const uint64_t[::1] numbers = pages
        cdef Py_ssize_t n
        cdef Py_buffer view
        cdef uint64_t size = self.page_bytes
        if len(texts) != len(pages):
            raise ImageError(f"the reader gave {len(texts)} pages for {len(pages)}")
        for n in range(len(pages)):
            text = texts[n]
            if text is None:
                PT_STORE_STATE(&self.c.states[numbers[n]], PT_PAGE_ABSENT)
                continue
            PyObject_GetBuffer(text, &view, PyBUF_SIMPLE)
            if <uint64_t>view.len != size:
                given = view.len
                PyBuffer_Release(&view)
                raise ImageError(f"the reader gave {given} bytes for a page of {size}")
            memcpy(self.c.bytes + (numbers[n] << self.c.page_lg2), view.buf, size)
            PyBuffer_Release(&view)
            PT_STORE_STATE(&self.c.states[numbers[n]], PT_PAGE_READ)
            self.fetched_bytes += size
        self.known.append(pages)
        return 0

    cdef int give_back(self, object pages) except -1:
        """Let pages whose fetch failed be asked for again."""
        cdef uint64_t page
        for number in pages:
            page = number
            if self.c.states[page] == PT_PAGE_WANTED:
                PT_STORE_STATE(&self.c.states[page], PT_PAGE_UNREAD)
            else:
                self.known.append(np.array([page], dtype=np.uint64))
        return 0

    def copy(self):
        cdef uint64_t page
        cdef LazyPages made = LazyPages(None, self.spans, self.page_bytes)
        with self.lock:
            for pages in self.known:
                for number in pages:
                    page = number
                    if self.c.states[page] == PT_PAGE_READ:
                        memcpy(
                            made.c.bytes + (page << self.c.page_lg2),
                            self.c.bytes + (page << self.c.page_lg2),
                            self.page_bytes,
                        )
                        made.c.states[page] = PT_PAGE_READ
            made.known = list(self.known)
            made.fetched_bytes = self.fetched_bytes
        return made

    def refresh(self):
        cdef uint64_t page
        if self.c.frozen:
            return
        with self.lock:
            for pages in self.known:
                for number in pages:
                    page = number
                    PT_STORE_STATE(&self.c.states[page], PT_PAGE_UNREAD)
            self.known = []
            self.fetched_bytes = 0
            madvise(self.c.bytes, self.reserved_bytes, MADV_DONTNEED)
