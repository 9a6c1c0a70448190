"""What a strategy is asked for and gives out, and the book that it keeps of that: compiled, as millions are made."""

cimport cython
from libc.stdint cimport int64_t, uint64_t

from ptcore.machine.verbs cimport Verbs

from ptcore.errors import AddressError, NotAllocated, OutOfRange
from ptcore.machine.events import Event

cdef int ACQUIRED = Event.ACQUIRED
cdef int RELEASED = Event.RELEASED


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
cdef class Book:
    cdef Verbs machine
    cdef dict live
    cdef int64_t numbers

    def __init__(self, Verbs machine not None):
        self.machine = machine
        self.live = {}

    def __contains__(self, Handle handle not None):
        return handle.number in self.live

    def __len__(self):
        return len(self.live)

    def give(self, Request request not None, pa, span=None):
        self.numbers += 1
        handle = Handle(self.numbers, request.pages, pa, span, request.memory_type)
        self.live[self.numbers] = handle
        self.machine.row(ACQUIRED, request.cpu, request.pages, 0, 0, 0, None)
        return handle

    def check(self, Handle handle not None, span=None):
        if handle.number not in self.live:
            raise NotAllocated(f"handle {handle.number} is not live")
        if span is not None:
            handle.check_offsets(span, self.machine.page_bytes)

    def take_back(self, Handle handle not None, cpu):
        self.machine.check(cpu)
        if self.live.pop(handle.number, None) is None:
            raise NotAllocated(f"handle {handle.number} is not live")

    def free_frames(self, Handle handle not None, cpu, pages=None):
        self.machine.free_frames(handle.pa, handle.pages if pages is None else pages, cpu)
        self.machine.row(RELEASED, cpu, handle.pages, 0, 0, 0, None)
