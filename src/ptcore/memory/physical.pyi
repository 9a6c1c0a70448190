"""Simulated and borrowed physical memory, and the frames in it.

Addresses are whole numbers of bytes below 2**56. Sizes are bytes or texts such as ``"2M"``
(`ptcore.units.parse_size`).
"""

from collections.abc import Iterable
from typing import Literal, Self, final

import numpy.typing as npt
from typing_extensions import Buffer, disjoint_base

from ptcore.memory.reader import PageReader
from ptcore.units import Span

PHYSICAL_BITS: int
"""No segment reaches beyond this many address bits."""
FRAME_LG2: int
LARGEST_LG2: int
"""The smallest and the largest frame as powers of two: 4 KiB and 1 GiB."""

@final
class FrameAllocator:
    """Hands out frames (aligned blocks of a power of two of bytes) of one region of a memory.

    Found as `PhysicalMemory.frames`. Fresh frames come in order of address; freed ones are reused,
    the last freed first, for requests of their own size. Frame 0 is never handed out.
    Single-writer: not to be used from two threads at once.
    """

    @property
    def start(self) -> int:
        """The first address of the region, a multiple of 4 KiB."""

    @property
    def end(self) -> int:
        """The address after the region (exclusive)."""

    @property
    def frame_bytes(self) -> int:
        """The smallest frame: 4096."""

    @property
    def allocated_bytes(self) -> int:
        """Bytes of the frames in use."""

    @property
    def peak_bytes(self) -> int:
        """The most that `allocated_bytes` ever was."""

    def allocate(self, size: int | str = 4096, *, zero: bool = True) -> int:
        """Return the address of a frame of `size` bytes, aligned to its size.

        `size` is a power of two from 4 KiB to 1 GiB. `zero` clears the frame, which commits it.
        Raises AddressError for another size and NoFrame when the region is full. O(1).
        """

    def free(self, pa: int, size: int | str = 4096) -> None:
        """Give back the frame of `size` bytes at `pa`.

        Raises NotAllocated when no frame of this size begins there: freed twice, never handed out,
        or of another size; the allocator is unchanged then. O(1).
        """

    def is_allocated(self, pa: int, size: int | str = 4096) -> bool:
        """Whether a frame of `size` bytes that begins at `pa` is in use. O(1)."""

@disjoint_base
class PhysicalMemory:
    """The bytes that tables lie in: sorted, disjoint segments of physical addresses.

    Simulated memory is zero, and costs nothing until it is touched: it is reserved address space
    of this process, so a "1T" memory is fine. Borrowed memory is a view of a buffer, never a copy.
    Whatever lies in no segment cannot be read or written by any part of ptcore: a walk that gets
    there ends with BUS.
    """

    def __init__(
        self,
        size: int | str | None = None,
        *,
        start: int = 0,
        segments: Iterable[tuple[int, int | str]] | None = None,
        frames: tuple[int, int | str] | None = None,
    ) -> None:
        """Simulate `size` bytes from `start` on, or several `segments` of (start, size).

        `frames`: (start, size) of the region that frames are allocated from, inside one segment; by
        default all of the first segment. Raises TypeError unless exactly one of `size` and
        `segments` is given; OutOfRange for segments that are empty, overlap or go beyond 56
        address bits, and for a frames region that no segment holds; MemoryError when this process
        cannot reserve that much address space.
        """

    @classmethod
    def from_buffer(
        cls,
        buffer: Buffer,
        *,
        start: int = 0,
        writable: bool | None = None,
        frames: tuple[int, int | str] | None = None,
    ) -> Self:
        """Return the memory whose bytes from `start` on are those of `buffer`, without copying.

        The buffer (bytes, bytearray, mmap, a C-contiguous array) is held as long as the memory
        lives; writes go to it. `writable=None` takes what the buffer allows. `frames` as for
        PhysicalMemory, but by default none, because what is free in somebody's memory is unknown.
        Raises BufferError for a buffer that is not contiguous, or for writable=True of a read-only
        one; MapError for frames in a read-only memory; OutOfRange as PhysicalMemory does. O(1).
        """

    @classmethod
    def from_buffers(
        cls,
        buffers: Iterable[tuple[int, Buffer]],
        *,
        writable: bool | None = None,
        frames: tuple[int, int | str] | None = None,
    ) -> Self:
        """Return the memory of several (start, buffer) pairs; see from_buffer.

        It is writable only if all of them are.
        """

    @classmethod
    def from_reader(cls, reader: PageReader) -> Self:
        """Return the memory that `reader` reads, page by page, when something first wants a page.

        Read-only. What was read stays as it was until `refresh`. Every verb asks for whole lists of
        pages: a batch of walks in one call per level, a listing in one call per level, a read in one.
        Pages that the reader does not have do not exist (BUS). Raises OutOfRange as PhysicalMemory
        does, and for a page size that is no power of two. Cost: address space for all spans and one
        byte of it per page, committed as pages come.
        """

    @classmethod
    def view(
        cls,
        memory: PhysicalMemory,
        spans: Iterable[tuple[int, int, int]],
        *,
        frames: tuple[int, int | str] | None = None,
    ) -> Self:
        """Return a memory whose bytes are those of `memory` at other addresses.

        `spans`: (address here, address in `memory`, bytes); what `memory` does not hold is left out.
        `frames` as in `from_buffers`. Raises OutOfRange for spans that overlap here, or when nothing
        is left.
        """

    @property
    def writable(self) -> bool:
        """Whether anything may be written."""

    @property
    def frames(self) -> FrameAllocator:
        """The frames of this memory: tables are allocated here."""

    @property
    def segments(self) -> tuple[Span, ...]:
        """The spans of physical addresses that exist, in order of address."""

    @property
    def size(self) -> int:
        """Bytes in all segments together."""

    def stored_spans(self) -> tuple[Span, ...]:
        """Return spans of the segments, in order: what lies in none of them reads as zeros, and costs nothing
        to leave out. Here all segments; of an image those parts that the file has no holes for.
        """

    @property
    def fetched_bytes(self) -> int:
        """Bytes of the pages that were read through a reader so far and are kept; else 0."""

    def fetch(self, pas: npt.ArrayLike) -> None:
        """Read the pages of these addresses, in one list, unless they are here. Others are ignored."""

    def snapshot(self) -> Self:
        """Return a memory of the pages that were read so far, which stays as it is.

        All other pages do not exist there. Read-only memory without a reader is its own snapshot.
        Raises TypeError for writable memory. Cost: a copy of what was read.
        """

    def refresh(self) -> None:
        """Forget what was read through a reader: it is read anew when it is next wanted.

        Views of the memory forget as well. Not to be called while another thread reads. Memory without
        a reader stays as it is. Cost: O(pages read so far).
        """

    def read(self, pa: int, size: int) -> bytes:
        """Return the `size` bytes at `pa`. Raises OutOfRange unless one segment, or several that
        adjoin, hold them all.
        """

    def write(self, pa: int, source: Buffer) -> None:
        """Store the bytes of `source` at `pa`.

        Raises MapError for a read-only memory; OutOfRange unless one segment holds all the bytes.
        Nothing is written then.
        """

    def read_word(
        self, pa: int, size: int = 8, byteorder: Literal["little", "big"] = "little"
    ) -> int:
        """Return the unsigned number in the `size` bytes at `pa`. Raises as read does."""

    def write_word(
        self, pa: int, word: int, size: int = 8, byteorder: Literal["little", "big"] = "little"
    ) -> None:
        """Store an unsigned number in the `size` bytes at `pa`.

        Raises as write does, and OverflowError for a number that does not fit `size` bytes.
        """

    def __contains__(self, pa: int, /) -> bool:
        """Whether the byte at `pa` exists."""
