"""Simulated and borrowed physical memory, and the frames in it."""

import operator

import numpy as np

from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, Py_buffer, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset
from posix.mman cimport (
    MAP_ANONYMOUS,
    MAP_FAILED,
    MAP_NORESERVE,
    MAP_PRIVATE,
    PROT_READ,
    PROT_WRITE,
    mmap,
    munmap,
)

from ptcore.memory.lazy cimport LazyPages

from ptcore.errors import AddressError, MapError, Misaligned, NoFrame, NotAllocated, OutOfRange
from ptcore.units import Span, format_size, parse_size

PHYSICAL_BITS = 56
FRAME_LG2 = 12
LARGEST_LG2 = 30
cdef uint64_t BULK_BYTES = 1 << 24
cdef int frame_lg2 = FRAME_LG2
cdef uint64_t no_frame = <uint64_t>-1


cdef class _Reservation:
    """Zeroed address space of this process, committed page by page when touched."""

    cdef void *bytes
    cdef size_t size

    def __cinit__(self, size_t size):
        self.bytes = mmap(
            NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0
        )
        if self.bytes == MAP_FAILED:
            self.bytes = NULL
            raise MemoryError(f"this process cannot reserve {format_size(size)} of address space")
        self.size = size

    def __dealloc__(self):
        if self.bytes != NULL:
            munmap(self.bytes, self.size)


cdef class _Borrowed:
    """A buffer held open."""

    cdef Py_buffer view
    cdef bint held

    def __cinit__(self, source, bint writable):
        PyObject_GetBuffer(source, &self.view, PyBUF_WRITABLE if writable else PyBUF_SIMPLE)
        self.held = True

    def __dealloc__(self):
        if self.held:
            PyBuffer_Release(&self.view)


cdef class FrameAllocator:
    def __init__(self):
        raise TypeError("a FrameAllocator belongs to a PhysicalMemory: use memory.frames")

    def __dealloc__(self):
        if self.states != NULL:
            munmap(self.states, self.states_bytes)

    cdef uint64_t room(self, int size_lg2) noexcept:
        """How many frames of this size could still be taken if no other size were."""
        cdef uint64_t size = 1ULL << size_lg2
        cdef uint64_t first = (self.next + size - 1) & ~(size - 1)
        cdef uint64_t fresh = (self.end - first) >> size_lg2 if first < self.end else 0
        return fresh + <uint64_t>len(self.stacks[size_lg2])

    cdef dict take_all(self, dict wanted, uint64_t limit):
        """Take {size_lg2: count} frames that end at or below `limit`: all of them, or None and nothing."""
        cdef object end = min(self.end, limit)
        cdef object fresh = self.next
        cdef object single = len(self.stacks[frame_lg2])
        if self.next > limit:
            return None  # freed frames may lie beyond the limit, too
        for lg2 in sorted(wanted, reverse=True):
            size = 1 << lg2
            kept = single if lg2 == frame_lg2 else len(self.stacks[lg2])
            if wanted[lg2] > kept:
                first = -(-fresh // size) * size
                single += (first - fresh) >> frame_lg2
                fresh = first + (wanted[lg2] - kept) * size
        if fresh > end:
            return None
        return {
            lg2: [self.take(lg2, True) for _ in range(wanted[lg2])]
            for lg2 in sorted(wanted, reverse=True)
        }

    cdef uint64_t take(self, int size_lg2, bint zero):
        cdef uint64_t size = 1ULL << size_lg2
        cdef uint64_t pa, skipped
        cdef list stack = <list>self.stacks[size_lg2]
        if stack:
            pa = stack.pop()
        else:
            pa = (self.next + size - 1) & ~(size - 1)
            if pa >= self.end or self.end - pa < size:
                return no_frame
            # What alignment skips stays usable for single frames.
            skipped = self.next
            while skipped < pa:
                (<list>self.stacks[frame_lg2]).append(skipped)
                skipped += self.frame_bytes
            self.next = pa + size
        self.states[(pa - self.start) >> frame_lg2] = <uint8_t>size_lg2
        self.allocated_bytes += size
        if self.allocated_bytes > self.peak_bytes:
            self.peak_bytes = self.allocated_bytes
        if zero:
            memset(self.bytes + (pa - self.start), 0, size)
        return pa

    cdef bint owns(self, uint64_t pa, int size_lg2) noexcept:
        if pa < self.start or pa >= self.end or (pa - self.start) & (self.frame_bytes - 1):
            return False
        return self.states[(pa - self.start) >> frame_lg2] == size_lg2

    cdef bint give(self, uint64_t pa, int size_lg2) noexcept:
        if not self.owns(pa, size_lg2):
            return False
        self.states[(pa - self.start) >> frame_lg2] = 0
        self.allocated_bytes -= 1ULL << size_lg2
        (<list>self.stacks[size_lg2]).append(pa)
        return True

    @staticmethod
    def _size_lg2(size):
        cdef uint64_t number = parse_size(size)
        lg2 = number.bit_length() - 1 if number else 0
        if not number or number != 1 << lg2 or not FRAME_LG2 <= lg2 <= LARGEST_LG2:
            raise AddressError(f"a frame has a power of two of bytes from 4K to 1G, not {size!r}")
        return lg2

    def allocate(self, size=4096, *, zero=True):
        cdef uint64_t pa = self.take(self._size_lg2(size), zero)
        if pa == no_frame:
            raise NoFrame(
                f"no frame of {format_size(parse_size(size))} is left between {self.start:#x} and {self.end:#x}"
            )
        return pa

    def free(self, pa, size=4096):
        lg2 = self._size_lg2(size)
        if not 0 <= pa < 1 << 64 or not self.give(pa, lg2):
            raise NotAllocated(f"no frame of {format_size(1 << lg2)} is allocated at {pa:#x}")

    def is_allocated(self, pa, size=4096):
        return bool(0 <= pa < 1 << 64 and self.owns(pa, self._size_lg2(size)))


cdef FrameAllocator _frames_in(PhysicalMemory memory, int segment, uint64_t start, uint64_t end):
    cdef FrameAllocator frames = FrameAllocator.__new__(FrameAllocator)
    cdef uint64_t granule = 1ULL << frame_lg2
    frames.frame_bytes = granule
    frames.start = (start + granule - 1) & ~(granule - 1)
    frames.end = end & ~(granule - 1)
    if frames.end < frames.start:
        frames.end = frames.start
    frames.next = frames.start
    if frames.next == 0 and frames.end:
        frames.next = granule  # frame 0 is never handed out: 0 reads as "no table" in dumps
    # The bytes outlive the memory for as long as the allocator does.
    frames.owner = memory.buffers[segment]
    if frames.end > frames.start:
        frames.bytes = pt_at_any(&memory.c, frames.start, frames.end - frames.start)
    frames.stacks = [[] for _ in range(LARGEST_LG2 + 1)]
    frames.states_bytes = ((frames.end - frames.start) >> frame_lg2) + 1
    cdef void *states = mmap(
        NULL,
        frames.states_bytes,
        PROT_READ | PROT_WRITE,
        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
        -1,
        0,
    )
    if states == MAP_FAILED:
        raise MemoryError(f"this process cannot reserve {frames.states_bytes} bytes for frame states")
    frames.states = <uint8_t *>states
    return frames


cdef class PhysicalMemory:
    def __cinit__(self):
        self.buffers = []
        self.mapped = []
        self.writable = True

    def __init__(self, size=None, *, start=0, segments=None, frames=None):
        if (size is None) == (segments is None):
            raise TypeError("give a size, or segments=[(start, size), ...]")
        spans = [(start, size)] if segments is None else list(segments)
        checked = _check_segments([(operator.index(first), parse_size(length)) for first, length in spans])
        parts = []
        self.buffers = []
        for first, length in checked:
            reservation = _Reservation(length)
            self.buffers.append(reservation)
            parts.append((first, length, <size_t>(<_Reservation>reservation).bytes))
        self._adopt(parts)
        self._place_frames(frames)

    @classmethod
    def from_buffer(cls, buffer, *, start=0, writable=None, frames=None):
        return cls.from_buffers([(start, buffer)], writable=writable, frames=frames)

    @classmethod
    def from_buffers(cls, buffers, *, writable=None, frames=None):
        cdef PhysicalMemory memory = cls.__new__(cls)
        held = []
        for first, buffer in buffers:
            if writable is None:
                read_only = memoryview(buffer).readonly
            else:
                read_only = not writable
            held.append((operator.index(first), _Borrowed(buffer, not read_only)))
            memory.writable = memory.writable and not read_only
        held.sort(key=_first)
        _check_segments([(first, <size_t>(<_Borrowed>part).view.len) for first, part in held])
        memory.buffers.extend(part for _, part in held)
        memory._adopt(
            [
                (first, <size_t>(<_Borrowed>part).view.len, <size_t>(<_Borrowed>part).view.buf)
                for first, part in held
            ]
        )
        if frames is None:
            memory.frames = _frames_in(memory, 0, 0, 0)
        else:
            memory._place_frames(frames)
        return memory

    @classmethod
    def from_reader(cls, reader):
        spans = sorted(reader.spans)
        _check_segments([(span.start, span.size) for span in spans])
        return _lazy_memory(cls, LazyPages(reader, spans, reader.page_bytes))

    @classmethod
    def view(cls, PhysicalMemory memory not None, spans, *, frames=None):
        cdef PhysicalMemory seen = cls.__new__(cls)
        cdef size_t n
        parts = []
        for first, pa, size in spans:
            for n in range(memory.c.count):
                segment = Span(memory.c.segments[n].start, memory.c.segments[n].start + (memory.c.segments[n].size - 1))
                low, high = max(pa, segment.start), min(pa + size - 1, segment.last)
                if low <= high:
                    where = <size_t>memory.c.segments[n].bytes + <size_t>(low - segment.start)
                    parts.append((first + (low - pa), high - low + 1, where))
        parts.sort()
        _check_segments([(first, size) for first, size, _ in parts])
        seen.buffers.append(memory)
        seen.writable = memory.writable
        seen.lazy = memory.lazy
        seen._adopt(parts)
        if frames is None:
            seen.frames = _frames_in(seen, 0, 0, 0)
        else:
            seen._place_frames(frames)
        return seen

    def _adopt(self, parts):
        cdef size_t n, address
        free(self.owned_segments)
        self.owned_segments = <pt_segment *>calloc(len(parts), sizeof(pt_segment))
        if self.owned_segments == NULL:
            raise MemoryError()
        for n, (first, length, address_) in enumerate(parts):
            address = address_
            self.owned_segments[n].start = first
            self.owned_segments[n].size = length
            self.owned_segments[n].bytes = <uint8_t *>address
            if self.lazy is not None:
                self.owned_segments[n].lazy = &self.lazy.c
        self.c.segments = self.owned_segments
        self.c.count = len(parts)
        self.c.flat_start = self.owned_segments[0].start
        self.c.flat = self.owned_segments[0].bytes
        self.c.flat_room = 0
        if self.lazy is None and self.owned_segments[0].size >= PT_LONGEST_ITEM:
            self.c.flat_room = self.owned_segments[0].size - (PT_LONGEST_ITEM - 1)

    def _place_frames(self, frames):
        if frames is None:
            first = self.segments[0]
            self.frames = _frames_in(self, 0, first.start, first.last + 1)
            return
        start, size = operator.index(frames[0]), frames[1]
        length = parse_size(size)
        if not self.writable:
            raise MapError("frames cannot be allocated in a read-only memory")
        for n, segment in enumerate(self.segments):
            if length and start in segment and start + length - 1 in segment:
                self.frames = _frames_in(self, n, start, start + length)
                return
        raise OutOfRange(f"no segment holds the {format_size(length)} at {start:#x} asked for frames")

    def __dealloc__(self):
        free(self.owned_segments)

    @property
    def segments(self):
        return tuple(
            Span(self.c.segments[n].start, self.c.segments[n].start + (self.c.segments[n].size - 1))
            for n in range(self.c.count)
        )

    def stored_spans(self):
        return self.segments

    @property
    def size(self):
        return sum(segment.size for segment in self.segments)

    # -- memory that is read piece by piece ------------------------------------------------------

    cdef uint64_t misses(self) noexcept nogil:
        return self.lazy.misses() if self.lazy is not None else 0

    cdef bint fetch_missing(self, uint64_t *seen) except -1:
        """Fetch what was met missing since `seen`, in one list; whether anything was."""
        cdef uint64_t now = self.misses()
        if now == seen[0]:
            return False
        seen[0] = now
        self.lazy.fetch()
        return True

    cdef uint8_t *_find(self, uint64_t pa, uint64_t size) except? NULL:
        """The bytes at `pa`, fetched if need be; NULL without an exception if they do not exist."""
        cdef uint64_t seen, at
        if self.lazy is not None and size > BULK_BYTES and pt_holds(&self.c, pa, size):
            for at in range(0, size, BULK_BYTES):  # lists of a size that the reader can answer at once
                self._find(pa + at, min(<uint64_t>BULK_BYTES, size - at))
        seen = self.misses()
        cdef uint8_t *found = pt_at_any(&self.c, pa, size)
        while found == NULL and self.fetch_missing(&seen):
            found = pt_at_any(&self.c, pa, size)
        return found

    def fetch(self, pas):
        cdef uint64_t seen = self.misses()
        cdef uint64_t pa
        if self.lazy is None:
            return
        for number in np.unique(np.asarray(pas, dtype=np.uint64)):
            pa = number
            pt_at_any(&self.c, pa, 1)
        self.fetch_missing(&seen)

    @property
    def fetched_bytes(self):
        return self.lazy.fetched_bytes if self.lazy is not None else 0

    def snapshot(self):
        if self.lazy is None:
            if self.writable:
                raise TypeError("only memory that is read through a reader, or read-only, has snapshots")
            return self
        made = _lazy_memory(type(self), self.lazy.copy())
        if hasattr(self, "__dict__"):
            made.__dict__.update(self.__dict__)
        return made

    def refresh(self):
        if self.lazy is not None:
            self.lazy.refresh()

    # -- bytes -----------------------------------------------------------------------------------

    cdef uint8_t *_bytes_at(self, pa, size) except NULL:
        cdef uint8_t *found
        if not 0 <= pa < 1 << 64 or not 0 <= size < 1 << 64:
            raise OutOfRange(f"{size} bytes at {pa:#x} are no physical addresses")
        found = self._find(pa, size)
        if found == NULL:
            if pt_holds(&self.c, pa, size):
                raise OutOfRange(f"the memory lacks pages of the {size} bytes at {pa:#x}")
            raise OutOfRange(f"no segment holds the {size} bytes at {pa:#x}")
        return found

    def read(self, pa, size):
        cdef uint8_t *found = NULL
        if 0 <= pa < 1 << 64 and 0 <= size < 1 << 64:
            found = self._find(pa, size)
        if found != NULL:
            return PyBytes_FromStringAndSize(<char *>found, size)
        pieces = []
        at, end = pa, pa + size
        for span in self.segments:  # those that adjoin go on from one to the next
            if span.start <= at <= span.last and at < end:
                length = min(end, span.last + 1) - at
                pieces.append(PyBytes_FromStringAndSize(<char *>self._bytes_at(at, length), length))
                at += length
        if not pieces or at < end:
            self._bytes_at(pa, size)  # raises
        return b"".join(pieces)

    def write(self, pa, source):
        cdef const uint8_t[::1] view = memoryview(source).cast("B")
        if not self.writable:
            raise MapError("this memory is read-only")
        if view.shape[0]:
            memcpy(self._bytes_at(pa, view.shape[0]), &view[0], view.shape[0])

    def read_word(self, pa, size=8, byteorder="little"):
        return int.from_bytes(self.read(pa, size), byteorder)

    def write_word(self, pa, word, size=8, byteorder="little"):
        self.write(pa, word.to_bytes(size, byteorder))

    def __contains__(self, pa):
        return bool(0 <= pa < 1 << 64 and self._find(pa, 1) != NULL)

    def __repr__(self):
        parts = ", ".join(f"{s.start:#x}..{s.last:#x}" for s in self.segments)
        return f"PhysicalMemory({parts}{'' if self.writable else ', read-only'})"


cdef object _lazy_memory(cls, LazyPages pages):
    cdef PhysicalMemory memory = cls.__new__(cls)
    memory.lazy = pages
    memory.writable = False
    memory.buffers.append(pages)
    memory._adopt(pages.parts())
    memory.frames = _frames_in(memory, 0, 0, 0)
    return memory


def _first(pair):
    return pair[0]


def _check_segments(spans):
    """Return (start, size) pairs in order of address; OutOfRange names what is wrong with them."""
    if not spans:
        raise OutOfRange("a memory has at least one segment")
    spans = sorted(spans)
    previous = -1
    for start, size in spans:
        if size < 1:
            raise OutOfRange(f"the segment at {start:#x} is empty")
        if start < 0 or start + size > 1 << PHYSICAL_BITS:
            raise OutOfRange(
                f"the segment {start:#x}..{start + size - 1:#x} goes beyond {PHYSICAL_BITS} address bits"
            )
        if start <= previous:
            raise OutOfRange(f"the segment at {start:#x} overlaps the one that ends at {previous:#x}")
        previous = start + size - 1
    return spans
