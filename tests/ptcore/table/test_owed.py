"""What an edit owes: how far the items reach over the tables that it took out."""

from __future__ import annotations

import random
from collections import Counter
from itertools import pairwise

import pytest

from ptcore import PageTable, PhysicalMemory, formats
from ptcore.errors import MapError
from ptcore.formats import encode
from ptcore.table.owed import Owed
from ptcore.units import Span

CONFIGURATIONS = formats.configurations()


def items(table: PageTable, pages: list[int]) -> dict[Span, int]:
    """What each table item over some pages is over, and the table that it points to: from listed walks."""
    found = {}
    for page in pages:
        path = table.walk(page).path
        for step, below in pairwise(path):
            size = 1 << table.format.levels[step.level].shift
            found[Span.of(page // size * size, size)] = below.table
    return found


@pytest.mark.parametrize(("name", "parameters"), CONFIGURATIONS, ids=str)
def test_spans_of_tables_are_those_of_the_edit_and_of_the_items_that_pointed_to_them(
    name: str, parameters: dict[str, object]
) -> None:
    fmt = formats.get(name, **parameters)
    rng = random.Random(name)
    table = PageTable(fmt, PhysicalMemory("16M"))
    access = "rwx" if encode.decides(fmt, encode.X) else "rw"
    page, large = fmt.page_sizes[0], 1 << fmt.levels[min(1, fmt.top_level)].shift
    legal = rng.choice(table.legal_spans())
    slots = [legal.start + n * large for n in range(min(4, legal.size // large))]
    pages = [slot + n * page for slot in slots for n in range(3)]
    seen: Counter[str] = Counter()
    for _ in range(80):
        va = rng.choice(pages)
        before = items(table, pages)
        try:
            if rng.random() < 0.5:
                owed = table.map(va, 0, page, access, page_size=page)
            else:
                last = rng.choice([other for other in pages if other >= va])
                owed = table.unmap(va, last - va + page, missing_ok=True)
        except MapError:
            continue
        freed = {address for address, _ in owed.tables}
        gone = [span for span, below in before.items() if below in freed]
        expected = ()
        if gone:
            reached = [*gone, *owed.spans]
            expected = (Span(min(s.start for s in reached), max(s.last for s in reached)),)
            seen["larger"] += expected != owed.spans
        assert owed.table_spans == expected
        seen["freed" if freed else "kept"] += 1
        owed.discharge()
    assert seen["kept"] > 10
    assert (seen["larger"] > 5 and seen["freed"] > 5) or fmt.top_level == 0, seen


def test_a_map_over_empty_tables_and_an_end_of_all_say_where_the_tables_were() -> None:
    table = PageTable("x86_64_4level", PhysicalMemory("4M"))
    table.map(0, 0, "4K")
    assert table.unmap(0, "4K", free_tables=False).table_spans == ()
    owed = table.map(0, 0, "1G", page_size="1G")
    assert len(owed.tables) == 2
    assert owed.table_spans == owed.spans == (Span.of(0, 1 << 30),)
    assert table.split(0, "4K").table_spans == ()
    assert table.destroy().table_spans == table.legal_spans()
    assert Owed().table_spans == ()
