"""`reverse_many` and `check` on tangled tables, against a naive listing: aliases of aliases, any rights."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptcore import PageTable, PhysicalMemory
from ptcore.errors import OutOfRange
from ptcore.table.check import check
from ptcore.table.ranges import reverse_many
from ptcore.table.rows import RowKind, Rule

PAGE = 4096
FRAMES = 40
ADDRESS = (1 << 52) - 1 & ~0xFFF
MOST_LEAVES = 60_000
OUTCOMES = Counter[str]()


@dataclass(frozen=True, slots=True)
class Leaf:
    va: int
    pa: int
    size: int
    writable: bool
    executable: bool
    user: bool

    @property
    def last(self) -> int:
        return self.va + self.size - 1


def tangle(rng: random.Random) -> PageTable:
    """Ten tables whose items point to each other at any level, to pages, or nowhere."""
    ram = PhysicalMemory(FRAMES * PAGE + (1 << 20), frames=(PAGE, 32 * PAGE))
    table = PageTable("x86_64_4level", ram)
    known = [table.root, *(ram.frames.allocate() for _ in range(9))]
    for frame in known:
        for _ in range(rng.choice((2, 4, 7))):
            to = rng.choice(known) if rng.random() < 0.75 else rng.randrange(FRAMES) * PAGE
            flags = rng.choice((3, 7, 7, 5, 1, 1 << 63 | 3, 0x63))
            kind = rng.random()
            if kind > 0.97:
                to = 1 << 45
            elif kind > 0.9:
                to, flags = rng.randrange(3) << 21, flags | 0x80
            index = rng.randrange(512) if rng.random() < 0.7 else rng.randrange(4)
            ram.write_word(frame + 8 * index, to | flags)
    return table


def canonical(va: int) -> int:
    return va | 0xFFFF << 48 if va >> 47 else va


def leaves_of(
    ram: PhysicalMemory, table: int, level: int, va: int, rights: tuple[bool, bool, bool]
) -> Iterator[Leaf]:
    """Every page under a table, from the manual's tables of entries, with nothing remembered."""
    for index in range(512):
        try:
            item = ram.read_word(table + 8 * index)
        except OutOfRange:
            return
        if not item & 1 or (level == 3 and item & 0x80):
            continue
        at = va | index << 12 + 9 * level
        writable, executable, user = rights
        granted = (
            writable and bool(item & 2),
            executable and not item >> 63,
            user and bool(item & 4),
        )
        if level and not item & 0x80:
            yield from leaves_of(ram, item & ADDRESS, level - 1, at, granted)
            continue
        size = 1 << 12 + 9 * level
        if level and item & (size - 1) & ~0x1FFF:
            continue  # bits between the address and PAT must be 0
        yield Leaf(canonical(at), item & ADDRESS & ~(size - 1), size, *granted)


def tangled(seed: int) -> tuple[PageTable, list[Leaf]] | None:
    table = tangle(random.Random(seed))
    found: list[Leaf] = []
    for leaf in leaves_of(table.memory, table.root, 3, 0, (True, True, True)):
        found.append(leaf)
        if len(found) > MOST_LEAVES:
            return None
    return table, found


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1 << 32))
def test_reverse_many_says_all_and_nothing_else(seed: int) -> None:
    made = tangled(seed)
    if made is None:
        return
    table, leaves = made
    rng = random.Random(seed)
    pas = {rng.randrange(FRAMES * PAGE) for _ in range(6)}
    pas |= {rng.choice(leaves).pa + 5 for _ in range(4) if leaves}
    found = reverse_many(table.mappings(), sorted(pas))
    for pa in pas:
        true = sorted(x.va + pa - x.pa for x in leaves if x.pa <= pa < x.pa + x.size)
        rows = found[found["pa"] == pa]
        said = rows[rows["kind"] == RowKind.LEAF]["first"].tolist()
        repeats = rows[rows["kind"] == RowKind.REPEAT]
        assert len(said) == len(set(said))
        assert set(said) <= set(true)
        spans = [(int(row["first"]), int(row["last"]), int(row["page_size"])) for row in repeats]
        left = [va for va in true if va not in set(said)]
        assert all(any(a <= va <= b for a, b, _ in spans) for va in left), hex(pa)
        there = np.array(true, dtype=np.uint64)
        for first, last, period in spans:
            for start in range(first, min(last, first + 500 * period), period):
                inside = (there >= start) & (there <= start + period - 1)
                assert inside.any(), (hex(pa), hex(start))
        OUTCOMES["leaf"] += len(said)
        OUTCOMES["repeat"] += len(spans)
        OUTCOMES["nowhere"] += not true


def spans_of(rows: np.ndarray, kind: int, name: str) -> list[tuple[int, int]]:
    return [(int(r["first"]), int(r["last"])) for r in rows if r[name] == kind]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1 << 32))
def test_pages_that_break_a_rule_are_found_and_no_others(seed: int) -> None:
    made = tangled(seed)
    if made is None:
        return
    table, leaves = made
    found = check(table).rows
    halves = {
        Rule.WRITABLE_EXECUTABLE: (0, lambda x: x.writable and x.executable),
        Rule.USER_IN_KERNEL_HALF: (1 << 63, lambda x: x.user and x.va >> 63),
    }
    for rule, (first, breaks) in halves.items():
        expected = {(x.va, x.last) for x in leaves if breaks(x)}
        spans = spans_of(found, rule, "rule")
        # What repeats is found where it is listed.
        repeats = spans_of(table.mappings(first, (1 << 64) - 1), RowKind.REPEAT, "kind")
        for a, b in expected:
            assert any(x <= a and b <= y for x, y in spans + repeats), (rule.name, hex(a))
        for x, y in spans:
            inside = sum(b - a + 1 for a, b in expected if x <= a and b <= y)
            assert inside == y - x + 1, (rule.name, hex(x))
        OUTCOMES[rule.name] += len(spans)


def loops_of(ram: PhysicalMemory, tables: tuple[int, ...]) -> set[int]:
    """The addresses of items that point to a table on the way to them, root first in `tables`."""
    level = 4 - len(tables)
    found = set()
    for at in range(tables[-1], tables[-1] + PAGE, 8):
        try:
            item = ram.read_word(at)
        except OutOfRange:
            return found
        if not level or not item & 1 or item & 0x80:
            continue
        if item & ADDRESS in tables:
            found.add(at)
        found |= loops_of(ram, (*tables, item & ADDRESS))
    return found


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1 << 32))
def test_a_loop_is_found_on_whichever_way_it_is_one(seed: int) -> None:
    table = tangle(random.Random(seed))
    rows = check(table).rows
    loops = rows[rows["rule"] == Rule.LOOP]
    expected = loops_of(table.memory, (table.root,))
    assert set(loops["entry_address"].tolist()) == expected
    said = table.stats().self_maps
    assert (set(said), len(said)) == (expected, len(expected))
    OUTCOMES["loop"] += len(expected)


@pytest.mark.parametrize("page", range(4))
def test_every_page_of_a_large_root_counts_as_a_table_that_user_mode_may_write(page: int) -> None:
    ram = PhysicalMemory("16M", frames=(0x10_0000, "4M"))
    table = PageTable("sv39x4", ram)  # its root has four pages
    table.map(0x1000, table.root + page * PAGE, PAGE, access="rw", user=True)
    found = [it for it in check(table) if it.rule is Rule.USER_WRITABLE_TABLE]
    assert [(it.first, it.last, it.other) for it in found] == [(0x1000, 0x1FFF, table.root)]


def test_the_tangles_above_had_everything_in_them() -> None:
    if not OUTCOMES:
        pytest.skip("run by itself")
    assert min(OUTCOMES[name] for name in ("leaf", "repeat", "nowhere", "loop")) > 5, OUTCOMES
    assert min(OUTCOMES[r.name] for r in (Rule.WRITABLE_EXECUTABLE, Rule.USER_IN_KERNEL_HALF)) > 5
