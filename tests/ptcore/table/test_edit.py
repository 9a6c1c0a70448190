"""map, unmap, protect, split, collapse: wholly or not at all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import event, example, given, settings
from hypothesis import strategies as st

from properties.test_page_table_machine import made_up
from ptcore import PageTable, PhysicalMemory, Span, formats
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
    PtcoreError,
    Status,
)
from ptcore.table import Owed

K, M, G = 1 << 10, 1 << 20, 1 << 30
NAMES = ("x86_64_4level", "x86_64_5level")  # what other formats do: tests/properties


def new(size: str = "4M", name: str = "x86_64_4level", **options: Any) -> PageTable:
    return PageTable(name, PhysicalMemory(size), **options)


def contents(table: PageTable) -> bytes:
    return table.memory.read(table.memory.segments[0].start, table.memory.size)


def used(table: PageTable) -> int:
    return table.memory.frames.allocated_bytes // 4096


def unchanged_by(
    table: PageTable, edit: Callable[[], Owed], error: type[PtcoreError]
) -> PtcoreError:
    """The edit raises exactly `error`, and every byte and frame is as it was."""
    before, frames = contents(table), table.memory.frames.allocated_bytes
    with pytest.raises(error) as caught:
        edit()
    assert type(caught.value) is error
    assert contents(table) == before
    assert table.memory.frames.allocated_bytes == frames
    return caught.value


def sizes(table: PageTable) -> list[tuple[int, int]]:
    """(page size, pages) of each row of the listing."""
    return [
        (int(r["page_size"]), int(r["last"] - r["first"] + 1) // int(r["page_size"]))
        for r in table.mappings()
    ]


# -- map -----------------------------------------------------------------------------------------


def test_a_mixed_range_gets_the_best_sizes() -> None:
    table = new()
    owed = table.map(0x3FE400000, 0x3FE400000, 0x4C0600000 - 0x3FE400000)
    assert sizes(table) == [(2 * M, 14), (G, 3), (2 * M, 3)]
    assert owed.entries_written == 14 + 3 + 3 + 3  # and three tables: one PDPT, two PDs
    assert owed.tables_allocated_bytes == 3 * 4096
    assert not owed
    assert used(table) == 4


@pytest.mark.parametrize(
    ("va", "pa", "length", "expected"),
    [
        (0, 0, 4 * K, [(4 * K, 1)]),
        (0, 0, 2 * M, [(2 * M, 1)]),
        (0, 4 * K, 2 * M, [(4 * K, 512)]),
        (4 * K, 4 * K, 2 * M, [(4 * K, 512)]),
        (0, 2 * M, G, [(2 * M, 512)]),
        (0, G, G, [(G, 1)]),
        (G - 2 * M, G - 2 * M, G + 4 * M, [(2 * M, 1), (G, 1), (2 * M, 1)]),
        (2 * M - 4 * K, 6 * M - 4 * K, 2 * M + 8 * K, [(4 * K, 1), (2 * M, 1), (4 * K, 1)]),
    ],
)
def test_alignment_of_both_addresses_decides_the_size(
    va: int, pa: int, length: int, expected: list[tuple[int, int]]
) -> None:
    table = new()
    table.map(va, pa, length)
    assert sizes(table) == expected
    for offset in (0, 1, length // 2, length - 1):
        assert table.translate(va + offset) == pa + offset


@pytest.mark.parametrize(("size", "pages"), [("4K", 512 * 512), ("2M", 512), ("1G", 1)])
def test_a_page_size_that_is_given_is_used(size: str, pages: int) -> None:
    table = new()
    owed = table.map(G, G, "1G", page_size=size)
    assert sizes(table) == [(G // pages, pages)]
    assert owed.entries_written == pages + used(table) - 1


def test_a_page_size_given_may_replace_tables_that_hold_nothing() -> None:
    table = new()
    table.map(0, 0, "4K")
    table.unmap(0, "4K", free_tables=False)
    assert used(table) == 4
    table.map(0, 0, "2M")  # the best size that fits is 4K below the table that is there
    assert sizes(table) == [(4 * K, 512)]
    table.unmap(0, "2M", free_tables=False)
    owed = table.map(0, 0, "2M", page_size="2M")
    assert sizes(table) == [(2 * M, 1)]
    assert owed.spans == (Span(0, 2 * M - 1),)
    assert len(owed.tables) == 1
    assert owed.structures
    assert used(table) == 4
    owed.discharge()
    assert used(table) == 3


def test_what_is_in_the_way_is_named() -> None:
    table = new()
    table.map(6 * M, 0x40000000, "2M", page_size="2M")
    error = unchanged_by(table, lambda: table.map(0, 0, "8M"), AlreadyMapped)
    assert error.existing == (6 * M, 0x40000000, 2 * M)
    table.map(0x5000, 0x9000, "4K")
    error = unchanged_by(table, lambda: table.map(0, 0, "8M", page_size="4K"), AlreadyMapped)
    assert error.existing == (0x5000, 0x9000, 4 * K)
    error = unchanged_by(table, lambda: table.map(0, 0, "2M", page_size="2M"), AlreadyMapped)
    assert error.existing == (0x5000, 0x9000, 4 * K)
    error = unchanged_by(table, lambda: table.map(6 * M + 4096, 0, "4K"), AlreadyMapped)
    assert error.existing == (6 * M, 0x40000000, 2 * M)
    assert "PD (level 1)" in str(error)


@pytest.mark.parametrize("position", [0, 1, 5, 511, 512, 513, 1000, 1023])
@pytest.mark.parametrize("size", ["4K", None])
def test_one_page_in_the_way_at_any_position_leaves_everything_as_it_was(
    position: int, size: str | None
) -> None:
    table = new()
    table.map(position * 4096, 0x7000, "4K")
    # Not congruent, so small pages throughout, across two tables of which one exists.
    error = unchanged_by(
        table, lambda: table.map(0, 0x80001000, "4M", page_size=size), AlreadyMapped
    )
    assert error.existing == (position * 4096, 0x7000, 4096)


@pytest.mark.parametrize("name", NAMES)
def test_running_out_of_frames_at_any_point_leaves_everything_as_it_was(name: str) -> None:
    levels = len(formats.get(name).levels)
    # Crosses a boundary of the top-level table's items: two tables at each level below.
    top = 1 << formats.get(name).levels[-1].shift
    wanted = 2 * (levels - 1)
    outcomes = []
    for frames_left in range(wanted + 2):
        table = new("128K", name)
        frames = table.memory.frames
        spare = [frames.allocate() for _ in range(31 - 1 - frames_left)]
        edit = lambda: table.map(top - 0x2000, 0, "16K", page_size="4K")  # noqa: B023, E731
        if frames_left < wanted:
            error = unchanged_by(table, edit, NoFrame)
            assert str(wanted) in str(error)
            outcomes.append("refused")
            for pa in spare:
                frames.free(pa)
        edit()
        assert used(table) == 1 + wanted + (0 if frames_left < wanted else len(spare))
        assert table.translate(top + 0x1FFF) == 0x3FFF
        outcomes.append("done")
    assert outcomes.count("refused") == wanted
    assert outcomes.count("done") == wanted + 2


def test_splits_run_out_of_frames_wholly_or_not_at_all() -> None:
    for frames_left in range(5):
        table = new("64K")
        table.map(0, 0, "4G", page_size="1G")
        for _ in range(15 - used(table) - frames_left):
            table.memory.frames.allocate()
        # One PD, and a PT on each side of a 2M boundary.
        edit = lambda: table.split(2 * M - 4096, "8K")  # noqa: B023, E731
        if frames_left < 3:
            unchanged_by(table, edit, NoFrame)
        else:
            edit()
            assert sizes(table)[0] == (4 * K, 1024)


def test_tables_of_several_sizes_run_out_wholly_or_not_at_all() -> None:
    # Tables of 4K (level 0), 16K (level 1) and 4K (level 2), taken from one region.
    fmt = made_up(8, "little", (9, 11, 9), leaves=1)
    step = 1 << fmt.levels[2].shift
    outcomes = []
    for frames_left in range(20):
        ram = PhysicalMemory("128K")
        table = PageTable(fmt, ram)
        kept = []
        while ram.frames.allocated_bytes < (31 - frames_left) * 4096:
            kept.append(ram.frames.allocate())
        # Freed frames of another size are no room for these.
        edit = lambda: table.map(step - 4096, 0, "8K", "rwx")  # noqa: B023, E731
        try:
            edit()
        except NoFrame:
            outcomes.append("refused")
            unchanged_by(table, edit, NoFrame)
            for pa in kept:
                ram.frames.free(pa)
            continue
        outcomes.append("done")
        assert table.translate(step + 5) == 4096 + 5
        assert frames_left >= 10
        stats = table.stats()
        assert stats.tables == (2, 2, 1)
        assert ram.frames.allocated_bytes == len(kept) * 4096 + 4096 * 3 + 2 * 16384
    assert outcomes.count("refused") >= 10
    assert outcomes.count("done") >= 5
    small = PageTable(fmt, PhysicalMemory("44K"))
    unchanged_by(small, lambda: small.map(step - 4096, 0, "8K", "rwx"), NoFrame)


def test_freed_frames_of_one_size_are_no_room_for_another() -> None:
    fmt = made_up(8, "little", (9, 10, 9), leaves=1)  # 4K, 8K, 4K
    ram = PhysicalMemory("256K")
    table = PageTable(fmt, ram)
    large = [ram.frames.allocate("16K") for _ in range(14)]
    while True:
        try:
            ram.frames.allocate("4K")
        except NoFrame:
            break
    for pa in large:
        ram.frames.free(pa, "16K")
    unchanged_by(table, lambda: table.map(0, 0, "4K", "rwx"), NoFrame)


def test_tables_are_not_placed_where_their_items_cannot_point() -> None:
    for start, options in ((1 << 55, {}), (1 << 40, {"physical_bits": 36})):
        ram = PhysicalMemory("1M", start=start)
        with pytest.raises(NoFrame, match="below"):
            PageTable("x86_64_4level", ram, **options)  # type: ignore[arg-type]
        assert ram.frames.allocated_bytes == 0
    ram = PhysicalMemory("64K", start=(1 << 36) - (32 << 10))
    table = PageTable("x86_64_4level", ram, physical_bits=36)
    table.map(0, 0, "4K")
    for n in range(1, 5):
        assert table.translate(0) == 0
        try:
            table.map(n << 39, 0, "4K")
        except NoFrame:
            assert n == 2  # 8 frames are low enough: a root and two times three tables
            break
        assert table.translate(n << 39) == 0
    else:
        raise AssertionError("frames beyond 36 bits were used")


def test_an_address_with_an_encryption_bit_is_refused_and_all_items_get_it() -> None:
    bit = 1 << 47
    table = new(encryption_mask=bit, physical_bits=48)
    for pa, length in ((bit, "4K"), (bit - 4096, "8K"), (bit + G, "4K")):
        unchanged_by(table, lambda pa=pa, n=length: table.map(0, pa, n), OutOfRange)  # type: ignore[misc]
    table.map(0, bit - 4096, "4K")
    assert all(step.entry & bit for step in table.walk(0).path)
    assert table.translate(5) == bit - 4096 + 5
    assert table.mappings()["flags"].tolist() == [2]
    table.map(2 * M, 2 * M, "2M")
    table.split(2 * M, "2M")
    assert table.walk(2 * M + 4096).path[-1].entry & bit
    assert table.translate(2 * M + 4097) == 2 * M + 4097
    table.collapse(2 * M, "2M", "2M")
    assert table.walk(2 * M).path[-1].entry & bit
    table.protect(2 * M, "2M", "r")
    assert table.walk(2 * M).path[-1].entry & bit


@pytest.mark.parametrize("bits", [36, 46, 52])
def test_output_addresses_stop_at_the_physical_width(bits: int) -> None:
    table = new(physical_bits=bits)
    last = (1 << bits) - 4096
    table.map(0, last, "4K")
    assert table.translate(0xFFF) == (1 << bits) - 1
    unchanged_by(table, lambda: table.map(2 * M, last, "8K"), OutOfRange)
    unchanged_by(table, lambda: table.map(2 * M, 1 << bits, "4K"), OutOfRange)


@pytest.mark.parametrize(
    ("arguments", "error", "named"),
    [
        ((0x1234, 0, "4K"), Misaligned, "va 0x1234"),
        ((0, 0x1234, "4K"), Misaligned, "pa 0x1234"),
        ((0, 0, 5000), Misaligned, "length 0x1388"),
        ((0, 0, 0), OutOfRange, "length at va 0x0 is 0"),
        ((0, 0, "x"), ValueError, "'x'"),
        ((0, 0, -4096), ValueError, "-4096"),
        ((1 << 47, 0, "4K"), NotCanonical, "0x800000000000"),
        (((1 << 47) - 4096, 0, "8K"), NotCanonical, "0x7ffffffff000"),
        (((1 << 64) - 4096, 0, "8K"), NotCanonical, "0xfffffffffffff000"),
        ((0, 0, "1E"), NotCanonical, "0x0"),
        ((0, 0, "4K", "q"), FormatError, "'q'"),
        ((0, 0, "4K", "w"), FormatError, "'rw'"),
        ((0, 0, "4K", "r", False, False, "WC"), FormatError, "'WC'"),
        ((0, 0, "4K", "r", False, False, None, 16), FormatError, "0x10"),
        ((0, 0, "4K", "r", False, False, None, 0, 1 << 10), FormatError, "0x400"),
    ],
)
def test_bad_input_is_one_clear_exception_that_names_it(
    arguments: tuple[Any, ...], error: type[Exception], named: str
) -> None:
    table = new("64K")
    before = contents(table)
    with pytest.raises(error) as caught:
        table.map(*arguments)
    assert named in str(caught.value)
    assert contents(table) == before
    assert used(table) == 1


@pytest.mark.parametrize("size", ["1M", "512G", 0, 4095])
def test_a_page_size_that_the_format_lacks_is_refused(size: int | str) -> None:
    table = new()
    for edit in (
        lambda: table.map(0, 0, "1G", page_size=size),
        lambda: table.split(0, "1G", size),
        lambda: table.collapse(0, "1G", size),
    ):
        error = unchanged_by(table, edit, FormatError)
        assert "4K, 2M, 1G" in str(error)


@pytest.mark.parametrize("verb", ["unmap", "protect", "split", "collapse"])
def test_every_verb_checks_its_span(verb: str) -> None:
    table = new()
    table.map(0, 0, "2M", page_size="4K")
    more = (4096,) if verb == "collapse" else ()
    do = getattr(table, verb)
    for va, length, error in (
        (0x800, "4K", Misaligned),
        (0, 100, Misaligned),
        (0, 0, OutOfRange),
        (1 << 47, "4K", NotCanonical),
        (-4096, "4K", OutOfRange),
        (4 * M, "4K", NotMapped),
    ):
        unchanged_by(table, lambda d=do, v=va, n=length: d(v, n, *more), error)  # type: ignore[misc]
    with pytest.raises(TypeError):
        do("0", "4K", *more)


# -- unmap ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("length", [4 * K, 64 * K, 2 * M, 4 * M + 4 * K, G, 2 * G + 2 * M + 4 * K])
def test_unmap_restores_the_root_and_gives_the_tables_back(name: str, length: int) -> None:
    table = new(name=name)
    table.map(0x7FC0000000, 0, "4K")
    items = table.memory.read(table.root, 4096)
    frames = used(table)
    table.map(G, G, length)
    owed = table.unmap(G, length)
    assert table.memory.read(table.root, 4096) == items
    assert owed.spans == (Span.of(G, length),)
    assert used(table) == frames + len(owed.tables)
    owed.discharge()
    assert used(table) == frames
    assert sizes(table) == [(4 * K, 1)]


def test_tables_stay_allocated_until_the_owed_is_discharged() -> None:
    table = new()
    table.map(0, 0, "4K")
    owed = table.unmap(0, "4K")
    assert owed
    assert [size for _, size in owed.tables] == [4096, 4096, 4096]
    held = {address for address, _ in owed.tables}
    assert used(table) == 4
    table.map(0, 0, "4K")
    assert held.isdisjoint({step.table for step in table.walk(0).path[1:]})
    owed.discharge()
    assert not owed
    owed.discharge()
    assert used(table) == 4


def test_tables_can_be_kept() -> None:
    table = new()
    table.map(0, 0, "8K")
    owed = table.unmap(0, "8K", free_tables=False)
    assert owed.tables == ()
    assert owed.entries_written == 2
    assert used(table) == 4
    assert table.unmap(0, "4K", missing_ok=True).tables != ()


def test_a_part_of_a_larger_leaf_is_not_unmapped() -> None:
    table = new()
    table.map(0, G, "1G")
    for va, length in ((0, "4K"), (G - 4096, "4K"), (2 * M, "2M"), (0, G - 4096)):
        error = unchanged_by(
            table,
            lambda v=va, n=length: table.unmap(v, n),  # type: ignore[misc]
            InsideLargerLeaf,
        )
        assert error.leaf == (0, G, G)
    unchanged_by(table, lambda: table.protect(4096, "4K", "r"), InsideLargerLeaf)
    # The page before the leaf is not mapped, and comes first.
    unchanged_by(table, lambda: table.unmap((1 << 47) - 4096, "4K"), NotMapped)


@pytest.mark.parametrize("hole", [0, 1, 7, 511, 512, 1023])
@pytest.mark.parametrize("verb", ["unmap", "protect"])
def test_a_hole_at_any_position_leaves_everything_as_it_was(hole: int, verb: str) -> None:
    table = new()
    table.map(0, 0, "4M", page_size="4K")
    table.unmap(hole * 4096, "4K").discharge()
    more = ("r",) if verb == "protect" else ()
    do = getattr(table, verb)
    error = unchanged_by(table, lambda: do(0, "4M", *more), NotMapped)
    assert error.va == hole * 4096
    assert do(0, "4M", *more, missing_ok=True).entries_written >= 1023


def test_an_unmap_across_two_aliases_of_one_table_is_done_wholly() -> None:
    table = new()
    table.map(0, 0x200000, "2M", page_size="4K")
    item = table.walk(0).path[2]
    table.memory.write_word(item.entry_address + 8, item.entry)
    assert table.translate(2 * M + 5) == 0x200005
    owed = table.unmap(0, "4M")
    assert table.walk(0).status is table.walk(2 * M).status is Status.NOT_PRESENT
    assert len({address for address, _ in owed.tables}) == len(owed.tables)
    owed.discharge()
    assert used(table) == 1


# -- protect -------------------------------------------------------------------------------------


@given(
    st.sampled_from(["access", "user", "global_", "memory_type", "pkey", "software"]),
    st.sampled_from(["4K", "2M", "1G"]),
)
@settings(max_examples=40, deadline=None)
def test_protect_changes_what_is_given_and_nothing_else(name: str, size: str) -> None:
    table = new()
    table.map(G, 5 * G, "1G", "rwx", True, True, 5, 9, 0x155, page_size=size)
    at = G if size == "1G" else G + 2 * M
    walk = table.walk(at)
    item = walk.path[-1]
    table.memory.write_word(item.entry_address, item.entry | 1 << 5 | 1 << 6)
    value = {"access": "r", "user": False, "global_": False, "memory_type": 2, "pkey": 3}.get(
        name, 7
    )
    owed = table.protect(at, size, **{name: value})
    assert owed.spans == (Span.of(at, walk.page_size or 0),)
    after = table.walk(at)
    expected = {
        "rights": {"access": "r--u", "user": "rwx-"}.get(name, "rwxu"),
        **{n: value if n == name else getattr(walk, n) for n in ("global_", "memory_type", "pkey")},
        "software": value if name == "software" else 0x155,
        "accessed": True,
        "dirty": True,
        "pa": walk.pa,
        "page_size": walk.page_size,
    }
    assert {key: getattr(after, key) for key in expected} == expected


def test_protect_of_nothing_changes_nothing() -> None:
    table = new()
    table.map(0, 0, "2M")
    before = contents(table)
    table.protect(0, "2M")
    assert contents(table) == before


def test_a_right_that_a_table_above_withholds_is_refused() -> None:
    table = new()
    table.map(0, 0, "8K")
    for level, name in ((0, "PML4"), (1, "PDPT"), (2, "PD")):
        step = table.walk(0).path[level]
        table.memory.write_word(step.entry_address, step.entry & ~2)
        error = unchanged_by(table, lambda: table.protect(0, "4K", "rw"), MapError)
        assert name in str(error)
        unchanged_by(table, lambda: table.map(0x3000, 0, "4K", "rw"), MapError)
        table.map(0x3000, 0, "4K", "r")
        table.unmap(0x3000, "4K").discharge()
        table.protect(0, "4K", "r")
        table.memory.write_word(step.entry_address, step.entry)


def test_a_failing_protect_changes_no_page_before_the_fault() -> None:
    table = new()
    table.map(0, 0, "4M", page_size="4K")
    table.map(4 * M, 4 * M, "2M", page_size="2M")
    unchanged_by(table, lambda: table.protect(0, 4 * M + 4096, "r"), InsideLargerLeaf)
    unchanged_by(table, lambda: table.protect(0, "4M", pkey=16), FormatError)


# -- split and collapse --------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("large", "small"), [("2M", "4K"), ("1G", "2M"), ("1G", "4K")])
def test_split_then_collapse_restores_every_byte(name: str, large: str, small: str) -> None:
    table = new(name=name)
    table.map(0, G, large, "rx", True, True, 5, 9, 0x3FF, page_size=large)
    size = table.walk(0).page_size or 0
    step = table.walk(0).path[-1]
    table.memory.write_word(step.entry_address, step.entry | 1 << 6)  # dirty
    live = {s.table for s in table.walk(0).path}
    before = {address: table.memory.read(address, 4096) for address in live}
    ends = [(offset, table.translate(offset)) for offset in (0, size // 3, size - 1)]
    owed = table.split(0, large, small)
    assert owed.spans == (Span(0, size - 1),)
    assert not owed.structures
    for offset, pa in ends:
        assert table.translate(offset) == pa
        walk = table.walk(offset)
        assert (walk.page_size, walk.rights) == ({"4K": 4096, "2M": 2 * M}[small], "r-xu")
        assert (walk.memory_type, walk.pkey, walk.software) == (5, 9, 0x3FF)
        assert (walk.global_, walk.dirty, walk.accessed) == (True, True, False)
    table.collapse(0, large, large).discharge()
    assert {address: table.memory.read(address, 4096) for address in live} == before
    assert used(table) == len(live)


def test_a_split_of_a_part_keeps_the_largest_pages_elsewhere() -> None:
    table = new()
    table.map(0, 0, "1G")
    owed = table.split(6 * M + 4096, "4K")
    assert sizes(table) == [(2 * M, 3), (4 * K, 512), (2 * M, 508)]
    assert owed.spans == (Span(0, G - 1),), "the old translation reached that far"
    assert not table.split(6 * M, "2M").entries_written


def test_a_format_without_the_size_between_cannot_split_to_it() -> None:
    fmt = made_up(8, "little", (9, 9, 9), leaves=3)
    from dataclasses import replace

    levels = (fmt.levels[0], replace(fmt.levels[1], leaf=None), fmt.levels[2])
    table = PageTable(replace(fmt, levels=levels), PhysicalMemory("64K"))
    table.map(0, 0, 1 << 30, "rwx")
    error = unchanged_by(table, lambda: table.split(0, 1 << 30, "4K"), FormatError)
    assert "no smaller leaf" in str(error)


def uniform(table: PageTable) -> None:
    table.map(0, 2 * M, "2M", page_size="4K")


def spoil(how: str, table: PageTable) -> None:
    uniform(table)
    last = table.walk(2 * M - 4096).path[-1]
    if how == "a hole":
        table.unmap(0x5000, "4K")
    elif how == "another address":
        table.unmap(0x5000, "4K")
        table.map(0x5000, 0, "4K")
    elif how == "other rights":
        table.protect(0x5000, "4K", "r")
    elif how == "another key at the end":
        table.protect(2 * M - 4096, "4K", pkey=1)
    elif how == "a reserved item":
        table.memory.write_word(last.entry_address, last.entry | 1 << 51)
    elif how == "addresses that are not aligned":
        table.unmap(0, "2M").discharge()
        table.map(0, 2 * M + 4096, "2M", page_size="4K")
    elif how == "a table that withholds":
        step = table.walk(0).path[2]
        table.memory.write_word(step.entry_address, step.entry & ~2)


@pytest.mark.parametrize(
    "how",
    [
        "a hole",
        "another address",
        "other rights",
        "another key at the end",
        "addresses that are not aligned",
        "a table that withholds",
    ],
)
def test_collapse_refuses_what_is_not_uniform(how: str) -> None:
    table = new()
    spoil(how, table)
    unchanged_by(table, lambda: table.collapse(0, "2M", "2M"), NotUniform)


def test_collapse_refuses_a_reserved_item() -> None:
    table = new(physical_bits=46)
    spoil("a reserved item", table)
    unchanged_by(table, lambda: table.collapse(0, "2M", "2M"), MalformedTable)


def test_a_collapse_that_fails_late_leaves_the_early_part_as_it_was() -> None:
    table = new()
    table.map(0, 0, "8M", page_size="4K")
    table.protect(8 * M - 4096, "4K", "r")
    unchanged_by(table, lambda: table.collapse(0, "8M", "2M"), NotUniform)
    table.collapse(0, "6M", "2M")
    assert sizes(table) == [(2 * M, 3), (4 * K, 511), (4 * K, 1)]


def test_accessed_and_dirty_of_any_small_leaf_are_those_of_the_large_one() -> None:
    table = new()
    uniform(table)
    for va, bits in ((0x3000, 1 << 5), (0x9000, 1 << 6)):
        step = table.walk(va).path[-1]
        table.memory.write_word(step.entry_address, step.entry | bits)
    table.collapse(0, "2M", "2M")
    walk = table.walk(0)
    assert (walk.accessed, walk.dirty, walk.page_size) == (True, True, 2 * M)


def test_collapse_joins_pages_of_several_sizes() -> None:
    table = new()
    table.map(0, G, "1G", page_size="2M")
    table.split(4 * M, "2M")
    table.split(G - 2 * M, "2M")
    owed = table.collapse(0, "1G", "1G")
    assert sizes(table) == [(G, 1)]
    assert len(owed.tables) == 3
    owed.discharge()
    assert used(table) == 2


# -- malformed tables, freed and foreign frames --------------------------------------------------


@pytest.mark.parametrize("level", [0, 1, 2, 3])
@pytest.mark.parametrize("verb", ["map", "unmap", "protect", "split", "collapse"])
def test_edits_trust_no_reserved_item_and_no_table_outside_the_memory(
    level: int, verb: str
) -> None:
    for item in (1 << 51 | 1, (1 << 45) | 7):
        table = new(physical_bits=46)
        table.map(0, 0, "4K")
        step = table.walk(0).path[3 - level]
        table.memory.write_word(step.entry_address, item)
        arguments = {"map": (0, "4K"), "protect": ("4K", "r"), "collapse": ("4K", "4K")}
        do, rest = getattr(table, verb), arguments.get(verb, ("4K",))
        if level == 0 and item == (1 << 45) | 7:
            continue  # that is a lawful leaf
        unchanged_by(
            table,
            lambda d=do, a=rest: d(0, *a),  # type: ignore[misc]
            MalformedTable,
        )


def test_a_table_whose_root_was_freed_or_destroyed_is_not_edited() -> None:
    table = new()
    table.memory.frames.free(table.root)
    unchanged_by(table, lambda: table.map(0, 0, "4K"), MapError)
    table = new()
    table.map(0, 0, "4K")
    owed = table.destroy()
    assert used(table) == 4
    owed.discharge()
    assert used(table) == 0
    unchanged_by(table, lambda: table.map(0, 0, "4K"), MapError)
    unchanged_by(table, table.destroy, MapError)


def test_a_table_in_somebody_elses_memory_is_unlinked_not_freed() -> None:
    ram = PhysicalMemory("64K", frames=(0x8000, "32K"))
    for n in range(1, 4):
        ram.write_word(0x1000 * n, 0x1000 * (n + 1) | 7)
    ram.write_word(0x4000, 0x7003)
    table = PageTable("x86_64_4level", ram, root=0x1000)
    owed = table.unmap(0, "4K")
    assert {address for address, _ in owed.tables} == {0x2000, 0x3000, 0x4000}
    owed.discharge()
    assert ram.frames.allocated_bytes == 0


def test_destroy_visits_a_shared_table_once() -> None:
    ram = PhysicalMemory("64K")
    root = ram.frames.allocate()
    # Every item of the root points to the root: 512 ** 4 ways down, one table.
    ram.write(root, np.full(512, root | 7, dtype=np.uint64))
    table = PageTable("x86_64_4level", ram, root=root)
    owed = table.destroy()
    assert owed.tables == ((root, 4096),)


# -- laws ----------------------------------------------------------------------------------------


@settings(max_examples=80, deadline=None)
@example(1, 0, 1, 0)
@given(st.integers(0, 1 << 18), st.integers(0, 1 << 18), st.integers(1, 3000), st.integers(0, 3))
def test_map_then_unmap_is_nothing(va: int, pa: int, pages: int, shift: int) -> None:
    table = new("8M")
    va, pa = (va << 12) & ~((1 << (9 * shift)) - 1), (pa << 12) & ~((1 << (9 * shift)) - 1)
    before = contents(table)[: 4096 * 2]
    table.map(va, pa, pages * 4096)
    vas = np.arange(pages, dtype=np.uint64) * np.uint64(4096) + np.uint64(va)
    pas, statuses = table.translate_many(vas)
    assert np.array_equal(pas - np.uint64(pa), vas - np.uint64(va))
    assert not statuses.any()
    event(f"{len(table.mappings())} rows")
    table.unmap(va, pages * 4096).discharge()
    assert contents(table)[: 4096 * 2] == before
    assert used(table) == 1
    assert len(table.mappings()) == 0


def test_a_shared_bit_is_set_where_it_is_asked_for_and_only_there() -> None:
    shared = (
        1 << 51
    )  # as Intel TDX has it: the private half of the guest's addresses has the bit clear
    table = new(encryption_mask=shared, encryption_bit=False, physical_bits=52)
    table.map(0, 2 * M, "2M")
    table.map(2 * M, 4 * M, "2M", encryption_bit=True)
    table.map(4 * M, 6 * M, "4K", encryption_bit=True)
    assert [bool(step.entry & shared) for step in table.walk(0).path] == [False] * 3
    assert [bool(step.entry & shared) for step in table.walk(2 * M).path] == [False, False, True]
    assert table.translate(2 * M + 5) == 4 * M + 5
    table.split(2 * M, "2M")
    assert table.walk(2 * M + 4096).path[-1].entry & shared
    assert not table.walk(2 * M + 4096).path[-2].entry & shared
    assert table.mappings()["flags"].tolist() == [0, 2]


def test_an_encryption_bit_lies_where_the_format_keeps_that_bit_of_the_address() -> None:
    bit = 1 << 40
    table = PageTable("sv39", PhysicalMemory("1M"), encryption_mask=bit)
    table.map(0, 0x5000, "4K")
    assert all(step.entry & bit >> 2 for step in table.walk(0).path)
    assert table.translate(0x123) == 0x5123
    assert table.mappings()["flags"].tolist() == [2]
