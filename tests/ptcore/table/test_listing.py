"""The loop that lists a table of leaves: each page as a walk finds it, merged where it goes on."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ptcore import PageTable, PhysicalMemory
from ptcore.errors import Status
from ptcore.table.rows import ROW_DTYPE, Flag, RowKind

LISTING = Path(__file__).parents[3] / "src/ptcore/table/listing.h"
PAGE = 4096
# Bits of a smallest leaf (Intel SDM Vol. 3A, Table 5-20): present, writable, user, PAT, global, ignored, key.
ATTRIBUTES = [0x1, 0x3, 0x7, 0x81, 0x101, 0x201, 1 << 59 | 0x1]
RESERVED = 1 << 51 | 0x1  # beyond 40 bits of physical address


def test_kinds_and_flags_are_those_of_the_compiled_code() -> None:
    found = {n: int(v) for n, v in re.findall(r"PT_ROW_(\w+) = (\d+)", LISTING.read_text())}
    assert found == {m.name: m.value for m in (*RowKind, *Flag)}
    assert ROW_DTYPE.itemsize == 48


def leaf_table(items: np.ndarray[Any, Any]) -> PageTable:
    """Tables whose leaves are these items, from address 0 on."""
    memory = PhysicalMemory(f"{4 * (len(items) // 512 + 16)}K")
    root, top, *middle = (memory.frames.allocate() for _ in range(2 + -(-len(items) // 2**18)))
    memory.write(root, np.array([top | 7], dtype=np.uint64))
    memory.write(top, np.array([frame | 7 for frame in middle], dtype=np.uint64))
    for n in range(0, len(items), 512):
        table = memory.frames.allocate()
        memory.write(table, items[n : n + 512])
        memory.write(middle[n >> 18] + 8 * (n // 512 % 512), np.array([table | 7], dtype=np.uint64))
    return PageTable("x86_64_4level", memory, root=root, physical_bits=40)


def mixed(rng: np.random.Generator, count: int) -> np.ndarray[Any, Any]:
    """Empty items, runs that go on, single pages of changing attributes, and reserved items."""
    items: list[int] = []
    while len(items) < count:
        start, attributes = int(rng.integers(1, 1 << 20)), int(rng.choice(ATTRIBUTES))
        length = int(rng.choice([1, 1, 1, 2, 3, 70]))
        what = rng.integers(8)
        if what < 5:
            items += [(start + n) * PAGE | attributes for n in range(length)]
        else:
            items += [RESERVED if what == 7 else 0] * length
    return np.array(items[:count], dtype=np.uint64)


@pytest.mark.parametrize("seed", range(4))
def test_every_page_is_listed_as_a_walk_finds_it(seed: int) -> None:
    rng = np.random.default_rng(seed)
    items = mixed(rng, 1536)
    table = leaf_table(items)
    outcomes: Counter[str] = Counter()
    for first, last in ((0, 1536 * PAGE - 1), *np.sort(rng.integers(0, 1536 * PAGE, (20, 2)))):
        rows = table.mappings(int(first), int(last))
        assert (rows["first"][1:] > rows["last"][:-1]).all()
        if len(rows):
            assert rows["first"][0] >= first
            assert rows["last"][-1] <= last
        for page in range(int(first) // PAGE, int(last) // PAGE + 1):
            va = max(page * PAGE, int(first))
            at = int(np.searchsorted(rows["first"], va, side="right")) - 1
            row = rows[at] if at >= 0 and rows["last"][at] >= va else None
            walk = table.walk(va)
            outcomes[walk.status.name] += 1
            if walk.status is Status.OK:
                assert row is not None
                assert row["kind"] == RowKind.LEAF
                assert int(row["pa"]) + va - int(row["first"]) == walk.pa
                item = int(items[page])
                assert bool(row["rights"] & 2) == bool(item & 2)
                assert bool(row["flags"] & Flag.GLOBAL) == bool(item & 0x100)
                assert row["pkey"] == item >> 59 & 15
            elif walk.status is Status.NOT_PRESENT:
                assert row is None
            else:
                assert row is not None
                assert row["kind"] == RowKind.RESERVED
    assert set(outcomes) == {"OK", "NOT_PRESENT", "RESERVED_BITS"}
    assert min(outcomes.values()) > 100


def test_neighbours_that_go_on_are_one_row() -> None:
    items = mixed(np.random.default_rng(9), 1536)
    goes_on = (items[1:] == items[:-1] + np.uint64(PAGE)) & (items[1:] & np.uint64(1) == 1)
    same_reserved = (items[1:] == items[:-1]) & (items[1:] == RESERVED)
    # A reserved item and a page that goes on at the same distance are told apart by the address bits.
    expected = np.count_nonzero(items) - np.count_nonzero(goes_on) - np.count_nonzero(same_reserved)
    assert np.count_nonzero(goes_on) > 500
    assert len(leaf_table(items).mappings()) == expected


def scattered(pages: int) -> tuple[np.ndarray[Any, Any], PageTable]:
    pas = np.random.default_rng(3).permutation(pages).astype(np.uint64) * np.uint64(2 * PAGE)
    return pas, leaf_table(pas | np.uint64(1))


def test_rows_move_to_address_space_of_their_own_and_stay_what_they_are() -> None:
    pas, table = scattered(150_000)
    rows = table.mappings()
    assert rows.nbytes > 3 * (1 << 21)
    assert (rows["pa"] == pas).all()
    assert (rows["first"] == np.arange(150_000, dtype=np.uint64) * np.uint64(PAGE)).all()
    assert set(rows["repeat_of"].tolist()) == {2**64 - 1}
    again = table.mappings()
    del table
    assert (again == rows).all()


LIMITED = """
import resource, sys
sys.path.insert(0, {folder!r})
from test_listing import scattered
pas, table = scattered(150_000)
pages = int(open("/proc/self/statm").read().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (pages * 4096 + {room}, -1))
try:
    sys.stdout.write(str((table.mappings()["pa"] == pas).all()))
except MemoryError:
    sys.stdout.write("MemoryError")
"""


@pytest.mark.parametrize(("room", "said"), [(80 << 20, "True"), (2 << 20, "MemoryError")])
def test_where_address_space_is_short_rows_take_what_there_is(room: int, said: str) -> None:
    code = LIMITED.format(folder=str(Path(__file__).parent), room=room)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == said, done.stderr
