"""What a strategy is asked for and what it gives out, and the book that it keeps of it: compiled, as millions are made."""

cimport cython
from libc.stdint cimport int64_t, uint64_t

from ptcore.errors import AddressError, NotAllocated, OutOfRange


@cython.final
@cython.freelist(64)
@cython.dataclasses.dataclass(frozen=True)
cdef class Request:
    cpu: int64_t
    pages: int64_t
    align: int64_t = 1
    purpose: str = ""
    device: str | None = None
    memory_type: str | None = None
    sensitive: cython.bint = False

    def __post_init__(self):
        if self.pages < 1:
            raise AddressError(f"a request is for at least one page, not {self.pages}")
        if self.align < 1 or self.align & (self.align - 1):
            raise AddressError(f"an alignment is a power of two, not {self.align}")


@cython.final
@cython.no_gc
@cython.freelist(64)
@cython.dataclasses.dataclass(frozen=True)
cdef class Handle:
    number: int64_t
    pages: int64_t
    pa: uint64_t
    span: object
    memory_type: object = None

    def check_offsets(self, span, page_bytes):
        if span.last >= self.pages * page_bytes:
            raise OutOfRange(f"{span} goes beyond the {self.pages} pages of handle {self.number}")


@cython.final
cdef class Live:
    cdef dict handles
    cdef int64_t numbers

    def __cinit__(self):
        self.handles = {}

    def __contains__(self, Handle handle not None):
        return handle.number in self.handles

    def __len__(self):
        return len(self.handles)

    def add(self, pages, pa, span, memory_type=None):
        self.numbers += 1
        handle = Handle(self.numbers, pages, pa, span, memory_type)
        self.handles[self.numbers] = handle
        return handle

    def check(self, Handle handle not None):
        if handle.number not in self.handles:
            raise NotAllocated(f"handle {handle.number} is not live")

    def end(self, Handle handle not None):
        self.check(handle)
        del self.handles[handle.number]
