"""Machine, ledger, cost and exposure in scenarios small enough to count by hand."""

from __future__ import annotations

import numpy as np
import pytest

from ptcore.errors import (
    AddressError,
    InvalidationOwed,
    NoFrame,
    NotAllocated,
    OutOfRange,
    TraceError,
)
from ptcore.machine import Event, Ledger, Machine, Request
from ptcore.machine.cost import DEFAULT_CONSTANTS, Constant, price
from ptcore.machine.exposure import summary, windows
from ptcore.units import Span

VA = 0xFFFF_C900_0000_0000
PAGE = 4096


def machine(cpus: int = 2) -> Machine:
    return Machine(cpus, ram="1G")


def three_pages(platform: Machine) -> int:
    pa = platform.allocate_frames(3, 0)
    platform.map(VA, pa, 3 * PAGE, 0, page_size="4K")
    return pa


def test_a_mapping_writes_its_leaves_and_the_tables_above_them() -> None:
    platform = machine()
    three_pages(platform)
    totals = platform.ledger.totals()
    # PDPT, PD and PT are new: three items that point to them, and three leaves.
    assert totals[Event.ENTRIES_WRITTEN] == (1, 6)
    assert totals[Event.TABLES_ALLOCATED] == (1, 3 * PAGE)
    assert totals[Event.MAPPED] == (1, 3)
    assert totals[Event.FRAMES_ALLOCATED] == (1, 3)


def test_a_touch_misses_then_hits_and_a_walk_starts_below_what_is_cached() -> None:
    platform = machine()
    three_pages(platform)
    platform.access(Span.of(VA, 3 * PAGE), 0)
    totals = platform.ledger.totals()
    assert totals[Event.WALKS] == (1, 3)
    # Four items for the first page; then the paging-structure cache knows the last table.
    assert totals[Event.WALK_REFERENCES] == (1, 4 + 1 + 1)
    platform.access(Span.of(VA, 3 * PAGE), 0)
    assert platform.ledger.totals()[Event.WALKS] == (1, 3)
    assert platform.mmu(1).counts.accesses == 0


def test_a_stale_translation_is_reachable_until_it_is_invalidated_on_every_cpu() -> None:
    platform = machine()
    pa = three_pages(platform)
    for cpu in range(2):
        platform.access(Span.of(VA, 3 * PAGE), cpu)
    platform.advance(1000)
    platform.unmap(VA, 3 * PAGE, 0)
    platform.free_frames(pa, 3, 0)
    assert platform.mmu(1).tlb.lookup(VA).pa == pa
    with pytest.raises(InvalidationOwed, match="is mapped anew while CPUs"):
        platform.map(VA, pa, PAGE, 0)
    platform.advance(5000)
    platform.invalidate(Span.of(VA, 3 * PAGE), 0, cpus=[0])
    assert platform.stale() == (Span.of(VA, 3 * PAGE),)
    assert platform.mmu(0).tlb.lookup(VA) is None
    platform.advance(7000)
    platform.invalidate(Span.of(VA, 3 * PAGE), 0, cpus=[1])
    assert platform.stale() == ()
    assert platform.mmu(1).tlb.lookup(VA) is None
    (window,) = windows(platform.ledger, 2)
    assert (window["start_ns"], window["end_ns"], window["pages"]) == (1000, 7000, 3)
    assert (window["held_on"], window["closed"], window["reused"]) == (2, True, False)


def test_frames_ask_again_after_a_stale_span_that_was_given_up_is_mapped_anew() -> None:
    platform = machine()
    pa = platform.allocate_frames(3, 0)
    platform.map(VA, pa, 3 * PAGE, 0, page_size=PAGE, cpus=[0])
    platform.access(Span.of(VA, 3 * PAGE), 0)
    platform.unmap(VA, 3 * PAGE, 0, cpus=[0])
    platform.mmu(0).invalidate_all()  # its TLB has lost them, but nobody was told
    held = []
    for anew in (False, False, True, True):
        if anew:  # by a CPU that never had it, and then touched by the other, against the contract
            platform.map(VA, pa, 3 * PAGE, 1, page_size=PAGE, cpus=[1])
            platform.access(Span.of(VA, 3 * PAGE), 0)
            platform.unmap(VA, 3 * PAGE, 1, cpus=[1])
            platform.invalidate(Span.of(VA, 3 * PAGE), 1, cpus=[1])
        platform.free_frames(pa, 3, 0)
        assert platform.allocate_frames(3, 0) == pa
        held.append(platform.ledger.totals().get(Event.STALE_HELD, (0, 0)))
    assert held == [(0, 0), (0, 0), (1, 1), (2, 2)]
    platform.invalidate(None, 0)
    assert platform.stale() == ()


def test_rows_of_a_window_are_mapped_touched_and_unmapped_as_one_by_one() -> None:
    rows = [(40, 3, 2), (90, 0, 1), (50, 7, 4)]
    platform, single = machine(), machine()
    for each in (platform, single):
        each.map(VA, PAGE, 16 * PAGE, 0, page_size=PAGE)
        each.unmap(VA, 16 * PAGE, 0)
        each.invalidate(None, 0)
    platform.map_rows(VA, rows, 1)
    platform.access_rows(VA, rows, 1, "w")
    platform.unmap_rows(VA, rows, 1)
    for frame, slot, count in rows:
        single.map(VA + slot * PAGE, frame * PAGE, count * PAGE, 1, page_size=PAGE)
    for _, slot, count in rows:
        single.access(Span.of(VA + slot * PAGE, count * PAGE), 1, "w")
    for _, slot, count in rows:
        single.unmap(VA + slot * PAGE, count * PAGE, 1)
    assert platform.ledger.rows().tolist() == single.ledger.rows().tolist()
    assert platform.ledger.totals()[Event.MAPPED] == (4, 16 + 7)
    assert platform.stale() == single.stale()
    with pytest.raises(AddressError, match="an access is"):
        platform.access_rows(VA, rows, 1, "rw")


def test_frames_handed_out_again_inside_a_window_are_seen() -> None:
    platform = machine()
    pa = three_pages(platform)
    platform.unmap(VA, 3 * PAGE, 0)
    platform.free_frames(pa, 3, 0)
    platform.advance(10)
    assert platform.allocate_frames(1, 1) == pa
    found = summary(windows(platform.ledger, 2))
    assert (found.windows, found.reused_windows, found.still_open) == (1, 1, 1)
    assert (found.pages, found.page_ns, found.longest_ns, found.peak_pages) == (3, 30, 10, 3)


def test_an_invalidation_before_the_free_leaves_no_window() -> None:
    platform = machine()
    pa = three_pages(platform)
    platform.unmap(VA, 3 * PAGE, 0)
    platform.invalidate(None, 0)
    platform.free_frames(pa, 3, 0)
    assert len(windows(platform.ledger, 2)) == 0


@pytest.mark.parametrize(("pages", "one_by_one"), [(33, True), (34, False)])
def test_thirty_three_pages_go_one_by_one_and_more_drop_everything(
    pages: int, one_by_one: bool
) -> None:
    platform = machine()
    three_pages(platform)
    platform.access(Span.of(VA, PAGE), 1)
    platform.invalidate(Span.of(VA + (1 << 30), pages * PAGE), 0)
    assert platform.mmu(1).tlb.holds(VA, VA) is one_by_one
    row = platform.ledger.rows()[-3:]
    told = [Event.INVALIDATED, Event.INTERRUPTED, Event.ACKNOWLEDGED]
    assert row["event"].tolist() == told
    assert row["count"].tolist() == [pages if one_by_one else 0, 1, 1]


def test_table_frames_come_back_when_their_invalidation_is_done() -> None:
    platform = machine()
    three_pages(platform)
    before = platform.memory.frames.allocated_bytes
    platform.unmap(VA, 3 * PAGE, 0, free_tables=True)
    assert platform.memory.frames.allocated_bytes == before
    platform.invalidate(None, 0)
    assert platform.memory.frames.allocated_bytes == before - 3 * PAGE
    assert platform.ledger.totals()[Event.TABLES_FREED] == (1, 3 * PAGE)


def test_the_price_is_the_sum_of_what_was_counted() -> None:
    platform = machine()
    pa = three_pages(platform)
    platform.unmap(VA, 3 * PAGE, 0)
    platform.invalidate(Span.of(VA, 3 * PAGE), 0)
    platform.free_frames(pa, 3, 0)
    platform.note(Event.ACQUIRED, 0, 3)
    platform.note(Event.RELEASED, 0, 3)
    values = {
        "invalidate_all": 10_000,
        "invalidate_call": 100,
        "invalidate_page": 10,
        "interrupt": 1000,
        "broadcast": 500,
        "switch": 20,
        "edit_call": 7,
        "entry": 1,
        "table": 50,
        "tlb_hit_lower": 0,
        "walk_reference": 0,
        "line": 0,
        "device_invalidate": 0,
        "device_tlb_invalidate": 0,
    }
    table = {n: Constant(n, v, "cycles", "made up", "none") for n, v in values.items()}
    # 2 CPUs x (a call and 3 pages); 1 interrupt; 2 edits; 6 + 3 entries; 3 tables.
    expected = 2 * (100 + 3 * 10) + 1000 + 2 * 7 + 9 + 3 * 50
    found = price(platform.ledger, table)
    assert found.cycles == expected
    assert found.per_operation == expected / 2
    table["entry"] = Constant("entry", 2, "furlongs", "made up", "none")
    with pytest.raises(ValueError, match="cycles or ns"):
        price(platform.ledger, table)


@pytest.mark.parametrize(
    ("name", "below_1us", "above_1us", "most_us"),
    [("device_invalidate", 286, 123, 3), ("device_tlb_invalidate", 276, 133, 1)],
)
def test_a_device_s_price_is_the_middle_of_the_averages_that_histograms_allow(
    name: str, below_1us: int, above_1us: int, most_us: int
) -> None:
    # The least average: every command at the lower end of its bucket, 0.1 us and 1 us.
    least = (100 * below_1us + 1000 * above_1us) / (below_1us + above_1us)
    constant = DEFAULT_CONSTANTS[name]
    assert constant.unit == "ns"
    assert constant.value == pytest.approx((least * 1000 * most_us) ** 0.5, rel=0.06)
    off = float(constant.uncertainty.removeprefix("x").partition(":")[0])
    assert constant.value / off <= least < 1000 * most_us <= constant.value * off
    assert all(str(n) in constant.source for n in (below_1us, above_1us))


def test_a_ledger_only_goes_on_and_comes_back_from_a_file(tmp_path) -> None:
    platform = machine()
    platform.advance(50)
    three_pages(platform)
    platform.invalidate(None, 1)
    path = tmp_path / "ledger.npz"
    platform.ledger.save(path)
    loaded = Ledger.load(path)
    assert np.array_equal(loaded.rows(), platform.ledger.rows())
    sets = [loaded.cpu_set(int(n)) for n in loaded.rows()["cpus"]]
    assert sets == [platform.ledger.cpu_set(int(n)) for n in platform.ledger.rows()["cpus"]]
    with pytest.raises(ValueError, match="before"):
        loaded.append(Event.ACQUIRED, 49, 0)
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    with pytest.raises(TraceError, match="no ledger"):
        Ledger.load(tmp_path / "other.npz")


def test_bad_input_is_refused_and_changes_nothing() -> None:
    platform = machine()
    pa = three_pages(platform)
    rows = len(platform.ledger)
    platform.now_ns = 9
    for call, error in (
        (lambda: platform.advance(8), OutOfRange),
        (lambda: platform.mmu(2), OutOfRange),
        (lambda: platform.access(Span.of(VA, PAGE), -1), OutOfRange),
        (lambda: platform.invalidate(None, 0, cpus=[5]), OutOfRange),
        (lambda: platform.allocate_frames(1 << 30, 0), NoFrame),
        (lambda: platform.free_frames(pa + (1 << 20), 1, 0), NotAllocated),
        (lambda: Machine(0), OutOfRange),
    ):
        with pytest.raises(error):
            call()
    assert len(platform.ledger) == rows
    with pytest.raises(ValueError, match="at least one page"):
        Request(0, 0)
