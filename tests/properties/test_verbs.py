"""The verbs that the state machine does not ask: reverse, harvest and diff, on every configuration."""

from __future__ import annotations

import pytest

from ptcore import PageTable, PhysicalMemory, diff, formats
from ptcore.errors import AccessFlag
from ptcore.formats import encode
from ptcore.formats.schema import Bits, Format, Role, fields_of
from ptcore.table import Change

CONFIGURATIONS = formats.configurations()
IDS = ["-".join([name, *(f"{k}={v}" for k, v in p.items())]) for name, p in CONFIGURATIONS]


@pytest.fixture(params=CONFIGURATIONS, ids=IDS)
def fmt(request: pytest.FixtureRequest) -> Format:
    name, parameters = request.param
    return formats.get(name, **parameters)


def every_size(fmt: Format) -> tuple[PageTable, dict[int, tuple[int, int]]]:
    """A table with one page of each size that fits beside the others: size -> (va, pa)."""
    table = PageTable(fmt, PhysicalMemory("16M"))
    rights = ("rwx", False) if encode.decides(fmt, encode.X) else ("rw", False)
    found: dict[int, tuple[int, int]] = {}
    va, end = table.legal_spans()[0].start, table.legal_spans()[0].last
    for size in fmt.page_sizes:
        va = -(-va // size) * size
        pa = size if size << 1 <= 1 << min(fmt.physical_bits, 32) else 0
        if va + size - 1 > end:
            break
        table.map(va, pa, size, *rights, page_size=size)
        found[size] = (va, pa)
        va += size
    return table, found


def test_reverse_finds_every_address_that_leads_to_a_frame(fmt: Format) -> None:
    table, pages = every_size(fmt)
    assert pages
    for size, (va, pa) in pages.items():
        at = pa + size - 8
        expected = sorted(
            first + at - output
            for other, (first, output) in pages.items()
            if output <= at < output + other
        )
        assert table.reverse(at).tolist() == expected
        assert va + size - 8 in expected


def mark_of(fmt: Format, level: int, shape: int, what: str) -> tuple[int, int] | None:
    """The bits of a leaf that make a mark, and their values when it is set; None without one."""
    word = fmt.levels[level].leaves[shape - 1].word
    if what == "dirty" and fmt.dirty is not None:
        bits = fields_of(word, [name for name, _ in fmt.dirty.fields])
        if bits is None:
            return None
        pairs = zip(bits, (value for _, value in fmt.dirty.fields), strict=True)
        return sum(b.mask for b in bits), sum(value << b.low for b, value in pairs)
    role = Role.ACCESSED if what == "accessed" else Role.DIRTY
    one: Bits | None = next((b for b in word if b.role is role), None)
    return None if one is None else (one.mask, one.value << one.low)


@pytest.mark.parametrize("what", ["accessed", "dirty"])
def test_harvest_lists_the_marked_pages_and_clears_them(fmt: Format, what: str) -> None:
    table, pages = every_size(fmt)
    marked = {}
    for size, (va, pa) in pages.items():
        mark = mark_of(fmt, *fmt.page_shapes[size], what)
        if mark is None:
            continue
        leaf = table.walk(va).path[-1]
        value = leaf.entry & ~mark[0] | mark[1]
        table.memory.write(leaf.entry_address, value.to_bytes(fmt.entry_bytes, fmt.byte_order))
        marked[va] = (pa, size)
    listed, nothing = table.harvest(what, clear=False)
    assert not nothing
    assert {int(r["va"]): (int(r["pa"]), int(r["page_size"])) for r in listed} == marked
    _, owed = table.harvest(what)
    assert owed.entries_written == len(marked)
    assert bool(owed) == bool(marked)
    assert len(table.harvest(what)[0]) == 0
    for va in marked:
        if what == "accessed" and fmt.accessed_required:
            with pytest.raises(AccessFlag):
                table.translate(va)
        elif not fmt.accessed_required:
            assert table.translate(va) == marked[va][0]


def test_diff_tells_what_was_unmapped_and_what_lost_a_right(fmt: Format) -> None:
    table, pages = every_size(fmt)
    copy = PhysicalMemory.from_buffer(bytearray(table.memory.read(0, 16 << 20)))
    after = PageTable(fmt, copy, table.root)
    assert len(diff(table, after)) == 0
    sizes = sorted(pages)
    va, _ = pages[sizes[0]]
    after.unmap(va, sizes[0])
    changes = {va: Change.REMOVED}
    if len(sizes) > 1 and encode.decides(fmt, encode.W):
        va, _ = pages[sizes[1]]
        after.protect(va, sizes[1], "r")
        changes[va] = Change.CHANGED
    rows = diff(table, after)
    assert {int(row["first"]): Change(int(row["change"])) for row in rows} == changes
    assert len(diff(after, after)) == 0
