"""walk, translate and translate_many: paths, faults, batches, and what they do with rubbish."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from oracles import x86_64
from ptcore import PageTable, PhysicalMemory, Status, formats
from ptcore.errors import (
    BusError,
    Fault,
    FormatError,
    Misaligned,
    NoFrame,
    NotCanonical,
    NotPresent,
    OutOfRange,
    PermissionDenied,
    PtcoreError,
    ReservedBits,
    fault_class,
)
from ptcore.testing import strategies as ours

ALL_ONES = (1 << 64) - 1
P, RW, US, PS = 1, 2, 4, 1 << 7


def table_with(*items: tuple[int, int], size: str = "64K", **options: Any) -> PageTable:
    """A 4-level table with its root at 0x1000 and (address, item) written."""
    ram = PhysicalMemory(size)
    for address, item in items:
        ram.write_word(address, item)
    return PageTable("x86_64_4level", ram, root=0x1000, **options)


def path_to(leaf: int, level: int = 0) -> list[tuple[int, int]]:
    """Items that lead va 0 through tables at 0x1000, 0x2000, ... to `leaf` at `level`."""
    tables = [(0x1000 * n, 0x1000 * (n + 1) | P | RW | US) for n in range(1, 4 - level)]
    return [*tables, (0x1000 * (4 - level), leaf)]


# -- paths ---------------------------------------------------------------------------------------


def test_a_walk_shows_every_item_from_the_root_down() -> None:
    table = table_with(*path_to(0x7000 | P | RW | 1 << 5 | 1 << 6 | 1 << 9 | 3 << 59))
    walk = table.walk(0x123)
    assert [step.name for step in walk.path] == ["PML4", "PDPT", "PD", "PT"]
    assert [step.level for step in walk.path] == [3, 2, 1, 0]
    assert [step.entry_address for step in walk.path] == [0x1000, 0x2000, 0x3000, 0x4000]
    assert [step.kind for step in walk.path] == ["table", "table", "table", "leaf"]
    assert (walk.pa, walk.page_size, walk.rights, walk.references) == (0x7123, 4096, "rwx-", 4)
    assert (walk.accessed, walk.dirty, walk.software, walk.pkey) == (True, True, 1, 3)
    assert walk.fault is None
    assert repr(walk) == (
        "Walk(va=0x123, pa=0x7123, size=4K, rwx-, path=[PML4#0=0x2007(table) -> "
        "PDPT#0=0x3007(table) -> PD#0=0x4007(table) -> PT#0=0x1800000000007263(leaf)])"
    )


@pytest.mark.parametrize(
    ("level", "va", "size"), [(1, 0x1F_FFFF, 2 << 20), (2, 0x3FFF_FFFF, 1 << 30)]
)
def test_a_large_leaf_ends_the_walk_and_keeps_the_offset(level: int, va: int, size: int) -> None:
    walk = table_with(*path_to(0x4000_0000 | P | PS, level)).walk(va)
    assert (walk.pa, walk.page_size, walk.references) == (0x4000_0000 + va, size, 4 - level)
    assert walk.rights == "r-x-"


def test_every_level_limits_the_rights_below_it() -> None:
    for level in range(4):
        for right, letter in ((RW, "w"), (US, "u")):
            items = path_to(0x7000 | P | RW | US)
            address, item = items[3 - level]
            items[3 - level] = (address, item & ~right)
            table = table_with(*items)
            assert letter not in table.walk(0).rights
            with pytest.raises(PermissionDenied) as caught:
                table.translate(0, "w" if right == RW else "r", user=right == US)
            name = ("PT", "PD", "PDPT", "PML4")[level]
            assert f"at {name} (level {level})" in str(caught.value)
            assert table.translate(0, "r") == 0x7000


def test_a_fault_says_where_and_why() -> None:
    table = table_with(*path_to(0), (0x1000 + 8, 0x5000 | P | PS))
    with pytest.raises(NotPresent) as caught:
        table.translate(0x234)
    fault = caught.value
    assert str(fault) == "not present at PT (level 0), entry 0x0 at 0x4000, va 0x234"
    assert (fault.va, fault.stage, fault.level, fault.level_name) == (0x234, 1, 0, "PT")
    assert (fault.entry, fault.entry_address, len(fault.path)) == (0, 0x4000, 4)
    with pytest.raises(
        ReservedBits, match=r"no table of this level|bits 7 \(reserved\)"
    ) as reserved:
        table.translate(1 << 39)
    assert reserved.value.entry == 0x5000 | P | PS
    with pytest.raises(
        NotCanonical, match=r"0x0\.\.0x7fffffffffff and 0xffff800000000000\.\."
    ) as far:
        table.translate(1 << 47)
    assert (far.value.level, far.value.entry, far.value.path) == (None, None, ())


@pytest.mark.parametrize(
    ("item", "level", "named"),
    [
        (0x4000_0000 | 1 << 13 | PS | P, 1, "20:13 (reserved)"),
        (0x4000_0000 | 1 << 29 | PS | P, 2, "29:13 (reserved)"),
        (1 << 45 | P, 0, "51:12 (address)"),
        (1 << 45 | P, 1, "51:12 (address)"),
    ],
)
def test_the_rule_of_a_reserved_bit_is_named(item: int, level: int, named: str) -> None:
    table = table_with(*path_to(item, level), physical_bits=40)
    with pytest.raises(ReservedBits) as caught:
        table.translate(0)
    assert named in str(caught.value)
    relaxed = table_with(*path_to(item, level), physical_bits=40, check_reserved=False)
    assert relaxed.walk(0).status in (Status.OK, Status.BUS, Status.NOT_PRESENT)


def test_bits_beyond_the_physical_width_are_reserved_exactly() -> None:
    for bits in (36, 40, 46, 51, 52):
        for bit in range(35, 52):
            table = table_with(*path_to(1 << bit | P), physical_bits=bits)
            expected = Status.OK if bit < bits else Status.RESERVED_BITS
            assert table.walk(0).status is expected


def test_the_encryption_bit_is_no_part_of_an_address() -> None:
    bit = 1 << 47
    items = [(a, item | bit) for a, item in path_to(0x7000 | P)]
    table = table_with(*items, encryption_mask=bit, physical_bits=43)
    assert table.translate(0x21) == 0x7021
    assert table_with(*items).walk(0).status is Status.BUS
    assert table_with(*items, physical_bits=43).walk(0).status is Status.RESERVED_BITS


def test_without_the_canonical_check_only_the_index_bits_count() -> None:
    table = table_with(*path_to(0x7000 | P), check_canonical=False)
    assert table.translate(0xABCD << 48 | 0x55) == 0x7055
    assert table.translate_many([0xABCD << 48 | 0x55])[0].tolist() == [0x7055]


def test_rights_of_parents_do_not_count_where_the_format_says_so() -> None:
    from dataclasses import replace

    fmt = replace(formats.get("x86_64_4level"), parents_limit_rights=False)
    ram = PhysicalMemory("64K")
    for address, item in path_to(0x7000 | P | RW):
        ram.write_word(address, item if address == 0x4000 else item & ~RW & ~US)
    table = PageTable(fmt, ram, root=0x1000)
    assert table.walk(0).rights == "rwx-"
    assert table.translate(0, "w") == 0x7000
    assert table.mappings()["rights"].tolist() == [7]
    with pytest.raises(PermissionDenied, match=r"user is withheld by bit 2 \(U/S\) at PT"):
        table.translate(0, "w", user=True)


# -- batches -------------------------------------------------------------------------------------


def some_table() -> PageTable:
    table = PageTable("x86_64_4level", PhysicalMemory("4M"))
    table.map(0, 0x10000000, "8M", access="rwx", user=True, page_size="4K")
    table.map(0x40000000, 0x40000000, "1G", access="r")
    table.map(0x7FFFFFE00000, 0x200000, "2M")
    table.map(0xFFFF800000000000, 0x600000, "64K", access="rx")
    return table


@pytest.mark.parametrize("count", [0, 1, 2, 63, 64, 65, 511, 512, 513, 1500, 40000])
def test_a_batch_is_translated_like_its_items_whatever_its_length(count: int) -> None:
    table = some_table()
    generator = np.random.default_rng(count)
    bases = np.array([0, 0x700000, 0x40000000, 0x7FFFFFE00000, 0xFFFF800000000000, 1 << 47], "u8")
    vas = bases[generator.integers(0, len(bases), count)] + generator.integers(
        0, 1 << 18, count
    ).astype("u8")
    for access, user in (("r", False), ("w", False), ("x", False), ("r", True)):
        pas, statuses = table.translate_many(vas, access, user)
        assert pas.dtype == np.uint64
        assert statuses.dtype == np.uint8
        assert np.all((statuses == 0) | (pas == ALL_ONES))
        for n in range(0, count, max(1, count // 50)):
            try:
                assert table.translate(int(vas[n]), access, user) == pas[n]
                assert statuses[n] == Status.OK
            except Fault as fault:
                assert statuses[n] == fault.status  # noqa: PT017 (both ends are right)
    if count > 100:
        assert len(set(statuses.tolist())) >= 3


def test_the_shape_of_a_batch_is_that_of_its_addresses() -> None:
    table = some_table()
    for shape in ((), (0,), (3,), (2, 3), (2, 0, 4)):
        pas, statuses = table.translate_many(np.zeros(shape, dtype=np.uint64))
        assert pas.shape == statuses.shape == shape
    strided = np.arange(100, dtype=np.uint64)[::7] * np.uint64(4096)
    assert np.array_equal(table.translate_many(strided)[0], strided + np.uint64(0x10000000))
    assert table.translate_many([0, ALL_ONES])[1].tolist() == [0, 1]
    assert table.translate_many(np.array([4096], dtype=">u8"))[0][0] == 0x10001000
    assert table.translate_many(np.array([4096], dtype="i4"))[0][0] == 0x10001000


def test_a_batch_fills_the_arrays_given() -> None:
    table = some_table()
    vas = np.arange(1000, dtype=np.uint64) * np.uint64(4096)
    out = np.full(1000, 5, dtype=np.uint64), np.full(1000, 5, dtype=np.uint8)
    answer = table.translate_many(vas, out=out)
    assert answer[0] is out[0]
    assert answer[1] is out[1]
    assert np.array_equal(out[0], vas + np.uint64(0x10000000))


@pytest.mark.parametrize(
    "out",
    [
        (np.zeros(3, "u8"), np.zeros(4, "u1")),
        (np.zeros(4, "i8"), np.zeros(4, "u1")),
        (np.zeros(4, "u8"), np.zeros(4, "u8")),
        (np.zeros(8, "u8")[::2], np.zeros(4, "u1")),
        ([0] * 4, np.zeros(4, "u1")),
    ],
)
def test_unfit_arrays_are_refused(out: Any) -> None:
    with pytest.raises(TypeError, match="out"):
        some_table().translate_many(np.zeros(4, "u8"), out=out)


def test_a_batch_refuses_to_write_over_its_input() -> None:
    vas = np.arange(4096, dtype=np.uint64) * np.uint64(4096)
    before = vas.copy()
    with pytest.raises(TypeError, match="share no memory"):
        some_table().translate_many(vas, out=(vas, np.zeros(4096, "u1")))
    assert np.array_equal(vas, before)


@pytest.mark.parametrize("vas", [[1.5], ["0x1000"], [True], [None]])
def test_what_is_no_address_is_a_type_error(vas: Any) -> None:
    with pytest.raises(TypeError):
        some_table().translate_many(vas)


@pytest.mark.parametrize("va", [-1, 1 << 64, -(1 << 70)])
def test_a_number_without_64_bits_is_out_of_range_everywhere(va: int) -> None:
    table = some_table()
    for ask in (table.translate, table.walk, table.reverse, table.mappings):
        with pytest.raises(OutOfRange):
            ask(va)
    with pytest.raises(OutOfRange):
        table.translate_many([va])
    for edit in (lambda: table.map(va, 0, "4K"), lambda: table.map(0, va, "4K")):
        with pytest.raises(OutOfRange):
            edit()


@pytest.mark.parametrize("thing", ["0x1000", 4096.0, None, b"\0"])
def test_what_is_no_number_is_a_type_error(thing: Any) -> None:
    table = some_table()
    for ask in (table.translate, table.walk, table.reverse):
        with pytest.raises(TypeError):
            ask(thing)


# -- attaching -----------------------------------------------------------------------------------


def test_a_root_is_checked_at_the_door() -> None:
    ram = PhysicalMemory("64K")
    for root, error in ((0x1008, Misaligned), (0x10000, OutOfRange), (1 << 63, OutOfRange)):
        with pytest.raises(error):
            PageTable("x86_64_4level", ram, root=root)
    with pytest.raises(TypeError, match="PhysicalMemory"):
        PageTable("x86_64_4level", bytearray(4096))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="Format"):
        PageTable(4, ram)  # type: ignore[arg-type]
    with pytest.raises(FormatError, match="nearest: x86_64_4level"):
        PageTable("x86-64-4level", ram)
    for bits in (11, 53, -1):
        with pytest.raises(OutOfRange, match="physical_bits"):
            PageTable("x86_64_4level", ram, physical_bits=bits)
    for mask in (1, 1 << 20, 1 << 52, 1 << 63):
        with pytest.raises(FormatError, match="encryption_mask"):
            PageTable("x86_64_4level", ram, encryption_mask=mask)
    assert ram.frames.allocated_bytes == 0


def test_a_memory_without_a_frame_has_no_room_for_a_root() -> None:
    with pytest.raises(NoFrame):
        PageTable("x86_64_4level", PhysicalMemory("4K"))


def test_a_table_that_was_never_initialised_reads_nothing() -> None:
    table = PageTable.__new__(PageTable)
    for use in (lambda: table.translate(0), lambda: table.walk(0), lambda: table.map(0, 0, "4K")):
        with pytest.raises((AttributeError, PtcoreError)):  # whichever, but no crash
            use()


# -- rubbish -------------------------------------------------------------------------------------


def read_word_of(ram: PhysicalMemory) -> Any:
    def read8(pa: int) -> int | None:
        try:
            return ram.read_word(pa)
        except OutOfRange:
            return None

    return read8


def test_a_random_page_as_a_root_never_crashes_loops_or_reads_outside_memory() -> None:
    seen: Counter[str] = Counter()
    for seed in range(150):
        random = np.random.default_rng(seed)
        # Pages of pointers that mostly stay inside: loops, self-maps and aliases of all kinds.
        words = random.integers(0, 1 << 64, 4 * 512, dtype=np.uint64)
        inside = random.random(len(words)) < random.choice([0.0, 0.5, 0.95, 1.0])
        pages = random.integers(0, 5, len(words), dtype=np.uint64) << np.uint64(12)
        flags = random.integers(0, 1 << 12, len(words), dtype=np.uint64)
        words = np.where(inside, pages | flags, words)
        ram = PhysicalMemory.from_buffer(words, start=0x1000, frames=(0x1000, "16K"))
        table = PageTable("x86_64_4level", ram, root=0x1000)
        vas = random.integers(0, 1 << 64, 300, dtype=np.uint64)
        vas[:250] &= np.uint64((1 << 47) - 1)
        pas, statuses = table.translate_many(vas)
        for va, pa, status in zip(vas[::10].tolist(), pas[::10], statuses[::10], strict=True):
            expected = x86_64.walk(read_word_of(ram), 0x1000, va)
            assert Status(status).name.lower() == expected.outcome, (seed, hex(va))
            assert table.walk(va).status == status
            assert pa == (ALL_ONES if expected.pa is None else expected.pa)
        seen.update(Status(status).name for status in statuses.tolist())
        rows = table.mappings()
        assert np.all(rows["first"] <= rows["last"])
        assert np.all(rows["first"][1:] > rows["last"][:-1])
        stats = table.stats()
        assert sum(stats.tables) <= 4 * 4 + len(words)
        table.harvest("accessed")
        assert len(table.harvest("accessed")[0]) == 0
        if seed % 10 == 0:
            with suppress(PtcoreError):  # more results than anybody wants
                table.reverse(0x5000)
        before = words.copy()
        try:
            table.map(0x1000, 0, "64K").discharge()
        except PtcoreError:
            assert np.array_equal(words, before)
        table.destroy().discharge()
    assert seen["OK"] > 100
    assert seen["NOT_PRESENT"] > 1000
    assert seen["RESERVED_BITS"] > 1000
    assert seen["BUS"] > 100
    assert seen["NOT_CANONICAL"] > 1000


# -- properties ----------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_non_canonical_addresses_are_refused_by_every_configuration(data: st.DataObject) -> None:
    fmt = data.draw(ours.configured_formats())
    assume(fmt.input_bits < 64)
    table = PageTable(fmt, PhysicalMemory("2M"))
    va = data.draw(ours.non_canonical_addresses(fmt))
    assert table.walk(va).status is Status.NOT_CANONICAL
    assert table.walk(va).references == 0
    assert table.translate_many([va])[1].tolist() == [Status.NOT_CANONICAL]
    with pytest.raises(NotCanonical):
        table.translate(va)
    with pytest.raises(NotCanonical):
        table.map(va & -fmt.page_sizes[0], 0, fmt.page_sizes[0])
    legal = data.draw(ours.canonical_addresses(fmt))
    assert table.walk(legal).status is Status.NOT_PRESENT


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_translation_is_a_constant_offset_inside_a_leaf(data: st.DataObject) -> None:
    fmt = data.draw(ours.configured_formats())
    table = PageTable(fmt, PhysicalMemory("2M"))
    size = data.draw(ours.page_sizes(fmt))
    span = data.draw(ours.aligned_spans(fmt, size))
    pa = data.draw(ours.output_addresses(fmt, size, fmt.physical_bits))
    table.map(span.start, pa, size, access="rwx", page_size=size)
    for offset in data.draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=5)):
        assert table.translate(span.start + offset) == pa + offset
        assert table.walk(span.start + offset).page_size == size


def test_every_fault_class_that_the_engine_can_raise_is_its_status() -> None:
    table = some_table()
    for va, status in (
        (1 << 47, Status.NOT_CANONICAL),
        (1 << 46, Status.NOT_PRESENT),
    ):
        with pytest.raises(fault_class(status)) as caught:
            table.translate(va)
        assert type(caught.value) is fault_class(status)
        assert table.walk(va).fault is not None
        assert str(table.walk(va).fault) == str(caught.value)
    assert issubclass(BusError, Fault)
