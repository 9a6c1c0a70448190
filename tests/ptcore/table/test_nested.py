"""Two stages: references measured by the walk, faults that name their stage, the verbs of both."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from ptcore import Nested, PageTable, PhysicalMemory, Span, formats, guest_memory
from ptcore.errors import (
    AccessFlag,
    BusError,
    Fault,
    Misconfigured,
    NotPresent,
    PermissionDenied,
    Status,
)
from ptcore.table import Flag

GUEST_BYTES = 16 << 20
HOST_AT = 64 << 20
TABLES_AT = 8 << 20


def nested(
    first: str, second: str, page: str = "4K", stage_2_page: str | None = "4K", **parameters: object
) -> Nested:
    """A guest of 16M at host 64M; its tables lie in its upper half; va 2M is mapped to ipa 1M or 2M."""
    host = PhysicalMemory("256M", frames=(0, "32M"))
    second_format = formats.get(second, **parameters)
    stage2 = PageTable(second_format, host)
    user = "u" in second_format.table_access
    stage2.map(0, HOST_AT, GUEST_BYTES, "rwx", user, page_size=stage_2_page)
    seen = guest_memory(stage2, frames=(TABLES_AT, "1M"))
    stage1 = PageTable(first, seen)
    size = {"4K": 4096, "2M": 2 << 20}[page]
    stage1.map(2 << 20, 2 << 20, size, "rw", page_size=page)
    return Nested(stage1, stage2)


@pytest.mark.parametrize(
    ("first", "second", "page", "stage_2_page", "references"),
    [
        ("x86_64_4level", "ept_4level", "4K", "4K", 24),
        ("x86_64_5level", "ept_5level", "4K", "4K", 35),
        ("sv39", "sv39x4", "4K", "4K", 15),
        ("x86_64_4level", "ept_4level", "2M", "4K", 19),
        ("x86_64_4level", "ept_4level", "4K", "2M", 19),
        ("x86_64_4level", "ept_4level", "2M", "2M", 15),
        ("aarch64_4k_48", "aarch64_s2_4k", "4K", "4K", 19),
        ("x86_64_4level", "vtd_ss_4level", "4K", "4K", 24),
        ("x86_64_4level", "x86_64_4level", "4K", "4K", 24),
    ],
)
def test_a_nested_walk_reads_as_many_items_as_the_manuals_say(
    first: str, second: str, page: str, stage_2_page: str, references: int
) -> None:
    # (g + 1)(h + 1) - 1 for g guest and h host levels that are read: measured, not computed.
    parameters = {"nested": True} if second.startswith("x86") else {}
    both = nested(first, second, page, stage_2_page, **parameters)
    walk = both.walk(2 << 20)
    assert walk.status is Status.OK
    assert walk.references == references
    assert Counter(step.stage for step in walk.path)[1] == len(walk.stage1.path)
    assert walk.pa == HOST_AT + (2 << 20)
    assert both.translate(2 << 20) == walk.pa


def test_a_shadow_table_needs_one_stage() -> None:
    both = nested("x86_64_4level", "ept_4level")
    shadow = both.shadow(PhysicalMemory("1M"))
    walk = shadow.walk(2 << 20)
    assert (walk.pa, walk.references) == (HOST_AT + (2 << 20), 4)
    assert shadow.mappings()["rights"].tolist() == both.mappings()["rights"].tolist()


def test_a_fault_says_which_stage_and_which_address() -> None:
    both = nested("x86_64_4level", "ept_4level")
    with pytest.raises(NotPresent) as first:
        both.translate(4 << 20)
    assert first.value.stage == 1
    both.stage2.unmap(2 << 20, "4K").discharge()
    with pytest.raises(NotPresent, match="stage 2, ipa 0x200000") as second:
        both.translate(2 << 20)
    assert (second.value.stage, second.value.ipa, second.value.va) == (2, 2 << 20, 2 << 20)
    assert both.walk(2 << 20).stage == 2


def test_a_table_that_stage_2_takes_away_is_a_fault_of_stage_2() -> None:
    both = nested("x86_64_4level", "ept_4level")
    table = both.stage1.walk(2 << 20).path[1].table
    both.stage2.unmap(table, "4K").discharge()
    walk = both.walk(2 << 20)
    assert (walk.stage, walk.status) == (2, Status.NOT_PRESENT)
    assert walk.fault.ipa == table + 8 * 0
    # Seen anew, stage 1 cannot read the table at all; stage 2 still says why.
    again = Nested(
        PageTable("x86_64_4level", guest_memory(both.stage2), both.stage1.root), both.stage2
    )
    with pytest.raises(Fault) as fault:
        again.translate(2 << 20)
    assert (fault.value.stage, fault.value.status) == (2, Status.NOT_PRESENT)
    assert not isinstance(fault.value, BusError)
    _, statuses = again.translate_many([2 << 20, 4 << 20])
    assert statuses.tolist() == [Status.NOT_PRESENT, Status.NOT_PRESENT]


def test_rights_are_those_of_both_stages() -> None:
    both = nested("x86_64_4level", "ept_4level")
    both.stage2.protect(2 << 20, "4K", access="r").discharge()
    assert both.translate(2 << 20, "r") == HOST_AT + (2 << 20)
    with pytest.raises(PermissionDenied) as fault:
        both.translate(2 << 20, "w")
    assert fault.value.stage == 2
    assert both.mappings()["rights"].tolist() == [1]


def test_a_misconfigured_entry_of_stage_2_is_its_own_status() -> None:
    both = nested("x86_64_4level", "ept_4level")
    step = both.stage2.walk(2 << 20).path[-1]
    both.stage2.memory.write_word(step.entry_address, step.entry & ~0b001)  # write without read
    with pytest.raises(Misconfigured, match="without read") as fault:
        both.translate(2 << 20)
    assert fault.value.stage == 2


def test_the_tables_of_a_nested_stage_1_are_read_as_writes_where_the_cpu_does() -> None:
    # AMD APM vol. 2, "Nested Paging": table reads of the guest are user writes to the nested tables.
    both = nested("x86_64_4level", "x86_64_4level", nested=True)
    table = both.stage1.walk(2 << 20).path[0].table
    both.stage2.protect(table, "4K", access="r").discharge()
    walk = both.walk(2 << 20)
    assert (walk.stage, walk.status, walk.fault.ipa) == (2, Status.PERMISSION, table)


def test_listings_and_batches_agree_with_walks() -> None:
    both = nested("x86_64_4level", "ept_4level", "2M", "4K")
    both.stage2.unmap((2 << 20) + 0x5000, "8K").discharge()
    vas = np.arange(0, 8 << 20, 4096, dtype=np.uint64)
    pas, statuses = both.translate_many(vas)
    expected = [both.walk(int(va)) for va in vas]
    assert pas.tolist() == [(1 << 64) - 1 if w.pa is None else w.pa for w in expected]
    assert statuses.tolist() == [w.status for w in expected]
    assert Counter(statuses.tolist())[Status.OK] == 510
    rows = both.mappings()
    listed = {
        (int(row["first"]) + offset, int(row["pa"]) + offset)
        for row in rows
        for offset in range(0, int(row["last"]) - int(row["first"]) + 1, 4096)
    }
    assert listed == {(int(va), int(pa)) for va, pa in zip(vas, pas, strict=True) if pa < 1 << 63}
    for va, pa in sorted(listed)[::37]:
        assert va in both.reverse(pa)


def test_edits_go_to_stage_1() -> None:
    both = nested("x86_64_4level", "ept_4level")
    both.map(0x40_0000_0000, 0x1000, "8K")
    assert both.translate(0x40_0000_1000) == HOST_AT + 0x2000
    both.unmap(0x40_0000_0000, "8K").discharge()
    assert both.walk(0x40_0000_0000).stage == 1
    assert Span.of(TABLES_AT, "1M").start <= both.stage1.root
    assert both.stats().stage1.tables == (1, 1, 1, 1)


def test_a_page_that_is_not_marked_accessed_is_listed_as_such_and_hides_what_lies_behind_it() -> (
    None
):
    both = nested("aarch64_4k_48", "aarch64_s2_4k")
    before = both.translate(2 << 20)
    row = both.mappings()[0]
    assert not row["flags"] & Flag.UNACCESSED
    walk = both.walk(2 << 20)
    leaf = walk.path[-1].step
    assert walk.path[-1].stage == 2
    both.stage2.memory.write_word(leaf.entry_address, leaf.entry & ~(1 << 10))
    with pytest.raises(AccessFlag) as fault:
        both.translate(2 << 20)
    assert (fault.value.stage, fault.value.ipa) == (2, 2 << 20)
    first = both.mappings()[0]
    assert first["flags"] & Flag.UNACCESSED
    assert (first["pa"], first["last"]) == (before, (2 << 20) + 4095)
    assert len(both.shadow(PhysicalMemory("1M")).mappings()) == 0
