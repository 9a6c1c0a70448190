"""Segments, borrowed buffers, frames: what exists, and that nothing else is ever touched."""

from __future__ import annotations

import gc
import mmap
import operator
import resource
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptcore import PageTable, PhysicalMemory, Span, Status
from ptcore.errors import AddressError, BusError, MapError, NoFrame, NotAllocated, OutOfRange
from ptcore.memory import FrameAllocator

FRAME = 4096


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


# -- segments ------------------------------------------------------------------------------------


def test_simulated_memory_is_zero_and_keeps_what_is_written() -> None:
    ram = PhysicalMemory("1M")
    assert ram.read(0, 1 << 20) == bytes(1 << 20)
    ram.write(0xFFFFF, b"z")
    ram.write_word(0x1000, 0x1122334455667788)
    assert ram.read(0x1000, 8) == bytes.fromhex("8877665544332211")
    assert ram.read_word(0x1000, 8, "big") == 0x8877665544332211
    assert ram.read_word(0x1000, 4) == 0x55667788
    assert ram.read(0xFFFFF, 1) == b"z"


def test_a_terabyte_costs_nothing_until_it_is_touched() -> None:
    gc.collect()
    before = resident_bytes()
    ram = PhysicalMemory("1T")
    assert ram.size == 1 << 40
    ram.write(1 << 39, b"in the middle")
    table = PageTable("x86_64_4level", ram)
    table.map(0, 0, "1T")
    assert table.translate((1 << 40) - 1) == (1 << 40) - 1
    assert ram.read(1 << 39, 13) == b"in the middle"
    assert resident_bytes() - before < 4 << 20


def test_segments_are_listed_in_order_with_their_last_address() -> None:
    ram = PhysicalMemory(segments=[(1 << 40, "2M"), (0x1000, "4K"), (1 << 55, "1M")])
    assert ram.segments == (
        Span(0x1000, 0x1FFF),
        Span(1 << 40, (1 << 40) + (2 << 20) - 1),
        Span(1 << 55, (1 << 55) + (1 << 20) - 1),
    )
    assert ram.size == 4096 + (2 << 20) + (1 << 20)
    assert repr(ram).startswith("PhysicalMemory(0x1000..0x1fff, ")


def test_the_last_byte_of_56_bits_exists_and_the_next_cannot() -> None:
    ram = PhysicalMemory("1M", start=(1 << 56) - (1 << 20))
    ram.write((1 << 56) - 1, b"!")
    assert ram.read((1 << 56) - 1, 1) == b"!"
    with pytest.raises(OutOfRange, match="56 address bits"):
        PhysicalMemory("1M", start=(1 << 56) - (1 << 20) + 1)


@pytest.mark.parametrize(
    ("segments", "rule"),
    [
        ([], "at least one segment"),
        ([(0, 0)], "empty"),
        ([(0, "8K"), (0x1000, "4K")], "overlaps"),
        ([(0, "4K"), (0, "4K")], "overlaps"),
        ([(-1, "4K")], "address bits"),
        ([(0, (1 << 56) + 1)], "address bits"),
        ([(0, "1E")], "address bits"),
    ],
)
def test_segments_that_cannot_be_are_refused(segments: list[tuple[int, int]], rule: str) -> None:
    with pytest.raises(OutOfRange, match=rule):
        PhysicalMemory(segments=segments)


def test_a_memory_has_a_size_or_segments() -> None:
    for arguments in ({}, {"size": "4K", "segments": [(0, "4K")]}):
        with pytest.raises(TypeError, match="size, or segments"):
            PhysicalMemory(**arguments)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        PhysicalMemory("4K", start=1.5)  # type: ignore[arg-type]


def test_more_than_this_process_can_address_is_a_memory_error() -> None:
    with pytest.raises(MemoryError, match="64P"):
        PhysicalMemory("64P")


EDGES = [(0x1000, 0x2000), (0x3000, 0x1000), (0x10000, 0x1000)]  # (start, size)
RUNS = [(0x1000, 0x4000), (0x10000, 0x11000)]  # (start, end)


@given(st.integers(0, 0x12000), st.integers(0, 0x3000))
def test_bytes_are_read_where_adjoining_segments_hold_them_and_written_where_one_does(
    pa: int, size: int
) -> None:
    ram = PhysicalMemory(segments=EDGES)
    whole = any(start <= pa < start + n and pa + size <= start + n for start, n in EDGES)
    exists = any(start <= pa < end and pa + size <= end for start, end in RUNS)
    assert (pa in ram) == any(start <= pa < start + n for start, n in EDGES)
    if exists:
        assert ram.read(pa, size) == bytes(size)
    else:
        with pytest.raises(OutOfRange, match=f"{pa:#x}"):
            ram.read(pa, size)
    if whole:
        ram.write(pa, b"x" * size)
        assert ram.read(pa, size) == b"x" * size
    elif size:
        with pytest.raises(OutOfRange):
            ram.write(pa, b"x" * size)


def test_a_read_across_segments_has_the_bytes_of_each() -> None:
    ram = PhysicalMemory.from_buffers([(0x3000, b"cd" * 8), (0x2FF0, b"ab" * 8), (0x3010, b"e")])
    assert ram.read(0x2FFC, 8) == b"ababcdcd"
    assert ram.read(0x2FF0, 33) == b"ab" * 8 + b"cd" * 8 + b"e"
    with pytest.raises(OutOfRange):
        ram.read(0x2FF0, 34)


@pytest.mark.parametrize(
    ("pa", "size"), [(-1, 8), (1 << 64, 8), (0, -1), (0, 1 << 64), (1 << 63, 8)]
)
def test_addresses_that_no_memory_has_are_refused(pa: int, size: int) -> None:
    ram = PhysicalMemory("64K")
    with pytest.raises(OutOfRange):
        ram.read(pa, size)
    assert pa not in ram or size in (-1, 1 << 64)


# -- BUS -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "target",
    [0x0000_0000_0000_3000, 0x000F_FFFF_FFFF_F000, 0x0000_0000_0001_0000, 0x2000 - 0x1000 * 2],
)
def test_a_table_outside_the_memory_is_bus_on_every_way_in(target: int) -> None:
    ram = PhysicalMemory("8K", start=0x1000)  # 0x1000 .. 0x2fff
    ram.write_word(0x1000, target | 7)
    table = PageTable("x86_64_4level", ram, root=0x1000)
    walk = table.walk(0x1234)
    assert (walk.status, walk.pa, walk.references) == (Status.BUS, None, 1)
    with pytest.raises(BusError, match=f"{target:#x} lies outside the memory"):
        table.translate(0x1234)
    for n in (1, 64, 1000, 5000):  # every order in which batches walk
        pas, statuses = table.translate_many(np.full(n, 0x1234, dtype=np.uint64))
        assert set(statuses.tolist()) == {Status.BUS}
        assert set(pas.tolist()) == {(1 << 64) - 1}


@pytest.mark.parametrize("size", [4096, 4096 + 8, 4096 + 16, 8192 - 8])
def test_the_last_item_inside_the_memory_is_read_and_the_next_is_bus(size: int) -> None:
    ram = PhysicalMemory(size, start=0x1000)
    items = (size - 4096) // 8  # of the table at 0x2000
    ram.write_word(0x1000, 0x2000 | 7)
    table = PageTable("x86_64_4level", ram, root=0x1000)
    for index in (0, 1, 510, 511):
        expected = Status.NOT_PRESENT if index < items else Status.BUS
        assert table.walk(index << 30).status is expected
        assert table.translate_many([index << 30] * 2)[1].tolist() == [expected] * 2


def test_a_table_that_lies_across_two_adjacent_segments_is_walked() -> None:
    ram = PhysicalMemory(segments=[(0x1000, 0x1800), (0x2800, 0x1800)])
    ram.write_word(0x1000, 0x2000 | 7)
    ram.write_word(0x2000 + 8 * 511, 0x3000 | 7)
    table = PageTable("x86_64_4level", ram, root=0x1000)
    assert table.walk(511 << 30).references == 3
    assert table.walk(5 << 30).status is Status.NOT_PRESENT


# -- borrowed buffers ----------------------------------------------------------------------------


def test_a_buffer_is_borrowed_not_copied() -> None:
    buffer = bytearray(1 << 20)
    ram = PhysicalMemory.from_buffer(buffer, start=1 << 30)
    buffer[5] = 7
    assert ram.read(1 << 30, 6) == bytes([0, 0, 0, 0, 0, 7])
    ram.write((1 << 30) + 6, b"\x09")
    assert buffer[6] == 9
    with pytest.raises(BufferError):
        buffer.extend(b"no room while it is borrowed")
    del ram
    gc.collect()
    buffer.extend(b"free again")


def test_a_large_buffer_costs_no_second_copy() -> None:
    array = np.zeros(64 << 20, dtype=np.uint8)
    array[:] = 1
    before = resident_bytes()
    ram = PhysicalMemory.from_buffer(array)
    assert ram.read(1 << 25, 1) == b"\x01"
    assert resident_bytes() - before < 8 << 20


def test_a_table_in_a_borrowed_buffer_is_read_and_edited_in_place() -> None:
    array = np.zeros(512 * 8, dtype=np.uint64)
    ram = PhysicalMemory.from_buffer(array, frames=(0, "32K"))
    table = PageTable("x86_64_4level", ram)
    table.map(0x1000, 0x5000, "4K")
    items = array.reshape(8, 512)
    assert sorted(np.flatnonzero(items.any(axis=1)).tolist()) == [1, 2, 3, 4]
    assert int(items[4][1]) & ~(1 << 63) == 0x5003


def test_bytes_are_read_only() -> None:
    ram = PhysicalMemory.from_buffer(bytes(8192))
    assert not ram.writable
    with pytest.raises(MapError, match="read-only"):
        ram.write(0, b"x")
    table = PageTable("x86_64_4level", ram, root=0)
    assert table.walk(0).status is Status.NOT_PRESENT
    for edit in (
        lambda: table.map(0, 0, "4K"),
        lambda: table.unmap(0, "4K", missing_ok=True),
        lambda: table.protect(0, "4K", "r", missing_ok=True),
        lambda: table.split(0, "4K", missing_ok=True),
        lambda: table.collapse(0, "2M", "2M", missing_ok=True),
        lambda: table.harvest("dirty"),
        table.destroy,
    ):
        with pytest.raises(MapError, match="read-only"):
            edit()
    assert len(table.harvest("dirty", clear=False)[0]) == 0
    with pytest.raises(MapError, match="read-only"):
        PhysicalMemory.from_buffer(bytes(8192), frames=(0, "8K"))
    with pytest.raises(BufferError):
        PhysicalMemory.from_buffer(bytes(8192), writable=True)
    assert not PhysicalMemory.from_buffer(bytearray(8192), writable=False).writable


def test_an_anonymous_map_and_several_buffers_make_one_memory() -> None:
    mapped = mmap.mmap(-1, 8192)
    ram = PhysicalMemory.from_buffers([(0x10000, mapped), (0, bytearray(b"low" + bytes(93)))])
    assert ram.segments == (Span(0, 95), Span(0x10000, 0x11FFF))
    ram.write(0x11FFF, b"!")
    assert mapped[8191] == ord("!")
    assert ram.read(0, 3) == b"low"
    del ram
    gc.collect()
    mapped.close()


def test_a_buffer_that_is_not_contiguous_is_refused() -> None:
    with pytest.raises((BufferError, ValueError), match="contiguous"):
        PhysicalMemory.from_buffer(np.zeros((8, 8), dtype=np.uint8)[:, ::2])
    with pytest.raises(TypeError):
        PhysicalMemory.from_buffer("text")  # type: ignore[arg-type]


def test_borrowed_memory_has_no_frames_unless_told_where() -> None:
    ram = PhysicalMemory.from_buffer(bytearray(1 << 20))
    with pytest.raises(NoFrame):
        PageTable("x86_64_4level", ram)
    with pytest.raises(NoFrame):
        ram.frames.allocate()


# -- frames --------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", ["4K", "8K", "64K", "2M"])
def test_frames_are_aligned_to_their_size_and_do_not_overlap(size: str) -> None:
    ram = PhysicalMemory("16M", start=0x3000)
    frames = ram.frames
    taken: list[tuple[int, int]] = []
    for wanted in ("4K", size, "4K", size, size, "8K"):
        number = frames.allocate(wanted)
        length = {"4K": 4096, "8K": 8192, "64K": 65536, "2M": 2 << 20}[wanted]
        assert number % length == 0
        assert Span(number, number + length - 1).start >= ram.segments[0].start
        assert number + length - 1 <= ram.segments[0].last
        assert all(number + length <= pa or pa + n <= number for pa, n in taken)
        taken.append((number, length))
    assert frames.allocated_bytes == sum(n for _, n in taken)


def test_what_alignment_skips_is_handed_out_as_single_frames() -> None:
    frames = PhysicalMemory("4M", start=0x1000).frames
    assert frames.allocate("2M") == 2 << 20
    singles = {frames.allocate() for _ in range(511)}
    assert singles == {n * FRAME for n in range(1, 512)}
    with pytest.raises(NoFrame):
        frames.allocate("2M")


def test_frame_zero_is_never_handed_out() -> None:
    frames = PhysicalMemory("16K").frames
    assert [frames.allocate() for _ in range(3)] == [0x1000, 0x2000, 0x3000]
    with pytest.raises(NoFrame, match="4K"):
        frames.allocate()


def test_a_memory_smaller_than_a_frame_has_none() -> None:
    for size in (1, 100, 4095):
        with pytest.raises(NoFrame):
            PhysicalMemory(size).frames.allocate()


def test_a_freed_frame_comes_back_zeroed_and_only_once() -> None:
    ram = PhysicalMemory("64K")
    frames = ram.frames
    pa = frames.allocate()
    ram.write(pa, b"\xff" * FRAME)
    frames.free(pa)
    with pytest.raises(NotAllocated, match=f"{pa:#x}"):
        frames.free(pa)
    assert frames.allocate(zero=False) == pa
    assert ram.read(pa, 1) == b"\xff"
    frames.free(pa)
    assert frames.allocate() == pa
    assert ram.read(pa, FRAME) == bytes(FRAME)


@pytest.mark.parametrize(
    ("pa", "size"),
    [(0, 4096), (0x1001, 4096), (0x2000, 4096), (1 << 40, 4096), (-4096, 4096), (1 << 64, 4096)],
)
def test_what_was_never_handed_out_cannot_be_freed(pa: int, size: int) -> None:
    frames = PhysicalMemory("64K").frames
    assert frames.allocate() == 0x1000
    before = frames.allocated_bytes
    with pytest.raises(NotAllocated):
        frames.free(pa, size)
    assert not frames.is_allocated(pa, size)
    assert frames.allocated_bytes == before
    assert frames.is_allocated(0x1000)


def test_a_part_of_a_large_frame_cannot_be_freed() -> None:
    frames = PhysicalMemory("64K").frames
    pa = frames.allocate("16K")
    for part, size in ((pa, "4K"), (pa + 4096, "4K"), (pa, "8K"), (pa, "32K")):
        with pytest.raises(NotAllocated):
            frames.free(part, size)
    frames.free(pa, "16K")
    assert frames.allocated_bytes == 0


@pytest.mark.parametrize("size", [0, 1, 2048, 4097, 12288, "3M", "2G", -4096])
def test_a_frame_of_another_size_is_refused(size: int | str) -> None:
    frames = PhysicalMemory("16M").frames
    with pytest.raises(AddressError):
        frames.allocate(size)
    assert frames.allocated_bytes == 0


def test_frames_come_from_the_region_given() -> None:
    ram = PhysicalMemory(segments=[(0, "1M"), (1 << 30, "1M")], frames=((1 << 30) + 0x2000, "12K"))
    frames = ram.frames
    assert (frames.start, frames.end) == ((1 << 30) + 0x2000, (1 << 30) + 0x5000)
    assert [frames.allocate() - (1 << 30) for _ in range(3)] == [0x2000, 0x3000, 0x4000]
    with pytest.raises(NoFrame):
        frames.allocate()
    assert frames.peak_bytes == frames.allocated_bytes == 3 * FRAME
    for start, size in ((0xFF000, "8K"), (1 << 40, "4K"), (0, 0)):
        with pytest.raises(OutOfRange, match="asked for frames"):
            PhysicalMemory(segments=[(0, "1M")], frames=(start, size))


def test_an_allocator_outlives_its_memory() -> None:
    frames = PhysicalMemory("64M").frames
    gc.collect()
    assert frames.allocate() == 0x1000


def test_a_frame_allocator_is_not_made_by_hand() -> None:
    with pytest.raises(TypeError, match=r"memory\.frames"):
        FrameAllocator()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([12, 13, 14, 16]), st.integers(0, 9)), max_size=40))
def test_frames_in_use_never_overlap_and_all_come_back(steps: list[tuple[int, int]]) -> None:
    frames = PhysicalMemory("256K").frames
    live: dict[int, int] = {}
    for lg2, choice in steps:
        if choice >= 6 and live:
            pa = sorted(live)[choice % len(live)]
            frames.free(pa, live.pop(pa))
            continue
        try:
            pa = frames.allocate(1 << lg2)
        except NoFrame:
            continue
        assert pa % (1 << lg2) == 0
        assert pa > 0
        assert pa + (1 << lg2) <= 256 << 10
        assert all(pa + (1 << lg2) <= other or other + n <= pa for other, n in live.items())
        live[pa] = 1 << lg2
    assert frames.allocated_bytes == sum(live.values())
    for pa, size in live.items():
        frames.free(pa, size)
    assert frames.allocated_bytes == 0


def test_indexes_of_other_integer_types_are_taken() -> None:
    ram = PhysicalMemory(np.int64(65536), start=operator.index(np.uint64(4096)))
    assert ram.segments == (Span(4096, 69631),)
    assert ram.read(np.uint64(4096), 4) == bytes(4)
