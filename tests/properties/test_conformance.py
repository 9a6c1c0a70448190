"""What every level of every configuration of every format must do.

Linux drivers/iommu/generic_pt/kunit_generic_pt.h and kunit_iommu_pt.h name the properties that the kernel
asks of its generic tables; the tests are ours.
"""

from __future__ import annotations

import itertools
import random
import re
from collections import Counter

import pytest

from ptcore import PageTable, PhysicalMemory, formats
from ptcore.errors import AlreadyMapped, FormatError, PtcoreError
from ptcore.formats import encode
from ptcore.formats.schema import Format, Role, match_of
from ptcore.table import RowKind

CONFIGURATIONS = formats.configurations()


def _name(configuration: tuple[str, dict[str, object]]) -> str:
    name, parameters = configuration
    return "-".join([name, *(f"{key}={value}" for key, value in parameters.items())])


@pytest.fixture(params=CONFIGURATIONS, ids=_name)
def fmt(request: pytest.FixtureRequest) -> Format:
    name, parameters = request.param
    return formats.get(name, **parameters)


def fresh(fmt: Format, **options: object) -> PageTable:
    return PageTable(fmt, PhysicalMemory("16M"), **options)


def rights_for(fmt: Format) -> tuple[str, bool]:
    """An access that a page of the format can grant and that reads need."""
    return ("rwx", False) if encode.decides(fmt, encode.X) else ("rw", False)


def test_the_highest_address_is_mapped_in_every_size_with_every_output(fmt: Format) -> None:
    rng = random.Random(fmt.name)
    seen = Counter[int]()
    for size, (level, shape) in fmt.page_shapes.items():
        word = fmt.levels[level].leaves[shape - 1].word
        held = sum(((1 << b.width) - 1) << b.target for b in word if b.role is Role.OUTPUT)
        table = fresh(fmt)
        last = table.legal_spans()[-1].last
        va = last + 1 - size
        for pa in {0, held & -size, rng.getrandbits(64) & held & -size}:
            table.map(va, pa, size, *rights_for(fmt), page_size=size)
            items = size >> fmt.levels[level].shift
            for item in {0, items - 1, rng.randrange(items)}:
                offset = (item << fmt.levels[level].shift) + rng.randrange(1 << 12)
                walk = table.walk(va + offset)
                assert (walk.pa, walk.page_size) == (pa + offset, size)
                assert walk.path[-1].level == level
                seen[size] += 1
            row = table.mappings()
            assert len(row) == 1
            found = (int(row[0]["first"]), int(row[0]["last"]), int(row[0]["pa"]))
            assert found == (va, last, pa)
            table.unmap(va, size).discharge()
            assert not len(table.mappings())
    assert set(seen) == set(fmt.page_sizes)


def test_the_best_page_sizes_are_those_of_brute_force(fmt: Format) -> None:
    rng = random.Random(fmt.name)
    granule = fmt.page_sizes[0]
    largest = fmt.page_sizes[-1]
    most_output = 1 << min(fmt.physical_bits, 32 if fmt.physical_bits == 40 else fmt.physical_bits)
    room = min(1 << fmt.input_bits, most_output, 8 * largest)
    for _ in range(12):
        table = fresh(fmt)
        start = table.legal_spans()[0].start
        offset = rng.randrange(room // granule) * granule
        length = min(rng.randrange(1, 600) * granule, room - offset)
        va = start + offset
        pa = rng.choice([offset, rng.randrange((room - length) // granule + 1) * granule])
        table.map(va, pa, length, *rights_for(fmt))
        expected = []
        here, there, end = va, pa, va + length
        while here < end:
            size = max(
                s for s in fmt.page_sizes if not (here | there) & (s - 1) and here + s <= end
            )
            expected.append((here, size))
            here, there = here + size, there + size
        listed = [
            (first, int(row["page_size"]))
            for row in table.mappings()
            for first in range(int(row["first"]), int(row["last"]) + 1, int(row["page_size"]))
        ]
        assert listed == expected


def test_attributes_round_trip_bit_for_bit(fmt: Format) -> None:
    seen = Counter[str]()
    always = fmt.rights & ~sum(1 << n for n in range(6) if encode.decides(fmt, 1 << n))
    for level, shape in fmt.page_shapes.values():
        for rights in range(64):
            if rights & ~fmt.rights or rights & always != always:
                continue
            wanted = encode.Attributes(access=rights, user=None)
            try:
                _, bits = encode.leaf_change(fmt, level, wanted, shape)
            except FormatError as error:
                seen["refused"] += 1
                seen["unexplained"] += not re.search("nearest|refuses", str(error))
                continue
            word = fmt.levels[level].leaves[shape - 1].word
            table = fresh(fmt)
            size = 1 << (fmt.levels[level].shift + fmt.levels[level].leaves[shape - 1].items_lg2)
            va = table.legal_spans()[-1].last + 1 - size
            table.map(va, 0, size, rights, None, page_size=size)
            walk = table.walk(va)
            entry = walk.path[-1].entry
            assert entry & ~encode.new_marks(fmt, level, shape) == bits
            assert not any(match_of(word, r.fields)(entry) for r in fmt.refusals)
            row = table.mappings()[0]
            assert int(row["rights"]) == rights
            assert walk.rights == encode.rights_names(rights, fmt.rights)
            seen["said"] += 1
    assert seen["said"] >= len(fmt.page_sizes), seen
    assert seen["unexplained"] == 0


def test_splitting_then_collapsing_restores_the_bytes(fmt: Format) -> None:
    done = 0
    sizes = fmt.page_sizes
    for small, large in itertools.pairwise(sizes):
        table = fresh(fmt)
        va = table.legal_spans()[-1].last + 1 - large
        table.map(va, 0, large, *rights_for(fmt), page_size=large)
        step = table.walk(va).path[-1]
        level = fmt.level_of(large)
        count = (large >> fmt.levels[level].shift) * fmt.entry_bytes
        before = table.memory.read(step.entry_address, count)
        held = table.memory.frames.allocated_bytes
        try:
            table.split(va, large, small).discharge()
        except FormatError:
            continue
        assert table.walk(va).page_size == small
        assert table.translate_many([va + large - 1])[0][0] == large - 1
        table.collapse(va, large, large).discharge()
        assert table.memory.read(step.entry_address, count) == before
        assert table.memory.frames.allocated_bytes == held
        done += 1
    assert done >= (len(sizes) > 1)


@pytest.mark.parametrize("name", formats.names())
def test_a_thousand_random_edits_against_intervals(name: str) -> None:
    rng = random.Random(name)
    table = PageTable(formats.get(name), PhysicalMemory("64M"))
    fmt = table.format
    unit = fmt.page_sizes[0]
    spans = table.legal_spans()
    window = 3000
    pages: dict[int, int] = {}  # page number -> output page
    ended = Counter[str]()
    top_size = min(window * unit, 1 << fmt.input_bits - 1)
    window = top_size // unit
    origin = spans[rng.randrange(len(spans))]
    start = origin.last + 1 - top_size
    root = table.memory.frames.allocated_bytes
    for _ in range(1000):
        first = rng.randrange(window)
        count = min(rng.randrange(1, 200), window - first)
        covered = range(first, first + count)
        if rng.random() < 0.6:
            pa = rng.randrange(4000)
            taken = [n for n in covered if n in pages]
            try:
                table.map(
                    start + first * unit, pa * unit, count * unit, *rights_for(fmt), page_size=unit
                )
            except AlreadyMapped:
                assert taken
                ended["refused"] += 1
                continue
            assert not taken
            pages |= {n: pa + n - first for n in covered}
            ended["mapped"] += 1
        else:
            table.unmap(start + first * unit, count * unit, missing_ok=True).discharge()
            pages = {n: pa for n, pa in pages.items() if n not in covered}
            ended["unmapped"] += 1
    rows = table.mappings()
    listed = {
        (int(row["first"]) - start) // unit + k: int(row["pa"]) // unit + k
        for row in rows
        for k in range((int(row["last"]) + 1 - int(row["first"])) // unit)
    }
    assert all(row["kind"] == RowKind.LEAF for row in rows)
    assert listed == pages
    table.unmap(start, top_size, missing_ok=True).discharge()
    assert table.memory.frames.allocated_bytes == root, "a frame leaked"
    assert min(ended[what] for what in ("mapped", "refused", "unmapped")) > 50, ended


def test_the_mixed_range_of_the_kernels_regression_uses_twenty_entries() -> None:
    table = PageTable("x86_64_4level", PhysicalMemory("1M"))
    table.map(0x3FE40_0000, 0x3FE40_0000, 0x4C060_0000 - 0x3FE40_0000)
    counts = Counter[int]()
    order = []
    for row in table.mappings():
        size = int(row["page_size"])
        number = (int(row["last"]) + 1 - int(row["first"])) // size
        counts[size] += number
        order.append((size, number))
    assert order == [(2 << 20, 14), (1 << 30, 3), (2 << 20, 3)]
    table = PageTable("x86_64_4level", PhysicalMemory("1M"))
    table.map(0xFEF8_0000, 0x20_8B95_D000, 0x2_0000)
    assert table.translate(0xFEF9_FFFF) == 0x20_8B97_CFFF


def test_what_a_format_cannot_say_names_the_rule_and_what_would_work() -> None:
    for name, arguments, words in (
        (
            "x86_64_4level",
            (0, 0, "4K", "x"),
            "cannot withhold read.*nearest is 'rwx'|nearest is 'rx'",
        ),
        ("sv39", (0, 0, "4K", "w"), "write without read.*nearest is 'rw'"),
        ("ept_4level", (0, 0, "4K", "w"), "without read.*nearest is 'rw'"),
        ("vtd_ss_4level", (0, 0, "4K", "x"), "is empty.*nearest is 'r'"),
    ):
        table = PageTable(name, PhysicalMemory("1M"))
        before = table.memory.read(0, 1 << 20)
        with pytest.raises(FormatError, match=words):
            table.map(*arguments)
        assert table.memory.read(0, 1 << 20) == before
    table = PageTable("x86_64_4level", PhysicalMemory("1M"))
    with pytest.raises(PtcoreError, match="no 3M page; it has 4K, 2M, 1G"):
        table.map(0, 0, "3M", page_size="3M")
