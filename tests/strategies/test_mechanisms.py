"""What each strategy is known for, counted in its ledger."""

from __future__ import annotations

import contextlib

import pytest

from ptcore import formats, strategies
from ptcore.errors import (
    AlreadyMapped,
    InvalidationOwed,
    NoFrame,
    NotMapped,
    OutOfRange,
)
from ptcore.machine import Event, Machine, Request
from ptcore.machine.cost import price
from ptcore.machine.exposure import windows
from ptcore.strategies import UnknownStrategy
from ptcore.strategies.direct_map import DirectMap, split
from ptcore.strategies.hybrid import Hybrid
from ptcore.strategies.iommu import TIMEOUT_NS, Iommu
from ptcore.strategies.kmap_local import SLOTS, KmapLocal
from ptcore.strategies.layouts import layout_of
from ptcore.strategies.sparse_direct_map import Segment, SparseDirectMap
from ptcore.strategies.unmapped_pool import UnmappedPool
from ptcore.strategies.vmalloc import Vmalloc
from ptcore.strategies.windows import EphemeralWindow
from ptcore.units import Span

PAGE = 4096
GIB = 1 << 30
BLOCK_PAGES = 512  # of 4 KiB: 2 MiB


def count(machine: Machine, event: Event, first_row: int = 0) -> int:
    return machine.ledger.totals(first_row)[event][0]


def test_an_ephemeral_region_is_invalidated_once_in_511_maps_and_only_on_its_cpu() -> None:
    machine = Machine(4, ram="1G")
    window = EphemeralWindow(machine)
    boot = len(machine.ledger)
    for _ in range(5 * 511):
        window.put(2, window.get(2, 0x1000, 1))
    assert count(machine, Event.INVALIDATED, boot) == 4  # the first 511 need none
    assert count(machine, Event.INTERRUPTED, boot) == 0
    rows = machine.ledger.rows()[boot:]
    targets = {
        machine.ledger.cpu_set(int(row["cpus"]))
        for row in rows
        if row["event"] == Event.INVALIDATED
    }
    assert targets == {frozenset({2})}


def test_an_ephemeral_region_fails_when_what_is_live_leaves_no_room() -> None:
    machine = Machine(1, ram="1G")
    window = EphemeralWindow(machine, pages=8)
    held = window.get(0, 0x1000, 5)
    assert window.get(0, 0x1000, 3) is None
    window.put(0, window.get(0, 0x1000, 2))
    assert window.get(0, 0x1000, 2) is not None  # after a wrap, above what is live
    window.reach(0, 0x10_0000, Span.of(0, 3 * PAGE), "r", most=3)
    assert count(machine, Event.FALLBACK) == 3
    assert held == window.regions[0].start


def test_a_refill_of_the_pool_is_one_invalidation_for_512_pages() -> None:
    machine = Machine(8, ram="4G")
    pool = UnmappedPool(machine)
    boot = len(machine.ledger)
    handles = [pool.acquire(Request(n % 8, 1)) for n in range(BLOCK_PAGES)]
    # One for the split of the large leaf, one for the block.
    assert count(machine, Event.INVALIDATED, boot) == 2
    assert count(machine, Event.SPLIT, boot) == 1
    assert pool.stranded_pages == 0
    for handle in handles[1:]:
        pool.release(handle, 0)
    pool.idle()
    assert pool.stranded_pages == BLOCK_PAGES - 1, "a block with a live page stays"
    pool.release(handles[0], 0)
    pool.idle()
    assert pool.stranded_pages == 0
    assert count(machine, Event.INVALIDATED, boot) == 2, "giving back needs none"


def test_a_page_of_the_pool_that_is_freed_may_still_be_held_and_the_window_says_so() -> None:
    machine = Machine(2, ram="1G")
    pool = UnmappedPool(machine)
    handle = pool.acquire(Request(0, 1))
    pool.access(handle, Span.of(0, PAGE), 1, "w")
    pool.release(handle, 0)
    pool.acquire(Request(0, 1))
    machine.advance(5000)
    machine.invalidate(None, 0)
    (window,) = windows(machine.ledger, machine.cpus)
    assert (window["held_on"], window["reused"], window["end_ns"], window["cpus"]) == (
        1, True, 5000, 1,
    )  # fmt: skip


def test_naive_removal_invalidates_for_every_page_and_splits_the_direct_map() -> None:
    machine = Machine(4, ram="1G")
    strategy = strategies.get("naive_unmap").make(machine)
    boot = len(machine.ledger)
    strategy.acquire(Request(0, 20))
    assert count(machine, Event.INVALIDATED, boot) == 20 + 1  # and one for the split
    assert machine.ledger.totals(boot)[Event.INTERRUPTED][1] == 21 * 3


def test_slots_are_a_stack() -> None:
    strategy = KmapLocal(Machine(2, ram="1G"))
    held = [strategy.push(PAGE * (n + 1), 1) for n in range(SLOTS)]
    with pytest.raises(OutOfRange, match="in use"):
        strategy.push(PAGE, 1)
    with pytest.raises(OutOfRange, match="took last"):
        strategy.pop(held[0], 1)
    for va in reversed(held):
        strategy.pop(va, 1)
    assert strategy.machine.stale() == ()


def test_segments_are_found_and_holes_are_not() -> None:
    machine = Machine(1, ram="8G")
    strategy = SparseDirectMap(machine, holes=((GIB, GIB), (3 * GIB, PAGE)))
    assert [s.pa for s in strategy.segments] == [0, 2 * GIB, 3 * GIB + PAGE]
    assert strategy.find(GIB - 1).pa == 0
    assert strategy.find(GIB) is None
    assert strategy.find(3 * GIB) is None
    assert machine.table.walk(strategy.segments[1].va).page_size == GIB
    with pytest.raises(AlreadyMapped):
        strategy.add_segment(Segment(0, PAGE, 0xFFFF_9000_0000_0000), 0)
    strategy.remove_segment(2 * GIB, 0)
    assert strategy.find(2 * GIB) is None
    with pytest.raises(NotMapped):
        strategy.remove_segment(2 * GIB, 0)
    strategy.add_segment(Segment(2 * GIB, GIB, 0xFFFF_9000_0000_0000), 0)
    assert strategy.find(2 * GIB).va == 0xFFFF_9000_0000_0000


def test_memory_in_a_hole_is_not_reachable_but_a_devices_is() -> None:
    machine = Machine(1, ram="1G")
    strategy = SparseDirectMap(machine, holes=((0, machine.data_bytes),))
    plain, device = strategy.acquire(Request(0, 2)), strategy.acquire(Request(0, 2, device="gpu"))
    with pytest.raises(NotMapped, match="hole"):
        strategy.access(plain, Span.of(0, PAGE), 0)
    strategy.access(device, Span.of(0, PAGE), 0)
    strategy.release(device, 0)
    assert machine.table.walk(device.span.start).pa is None
    assert machine.stale() == ()


def test_strict_windows_have_no_length_and_deferred_ones_end_with_the_timer() -> None:
    for deferred in (False, True):
        machine = Machine(2, ram="1G")
        strategy = Iommu(machine, deferred=deferred)
        handle = strategy.acquire(Request(0, 3))
        strategy.access(handle, Span.of(0, 3 * PAGE), 0, "w")
        machine.advance(1000)
        strategy.release(handle, 1)
        assert bool(strategy.device.stale()) == deferred
        machine.advance(10 * TIMEOUT_NS)
        assert strategy.device.stale() == ()
        found = windows(machine.ledger, machine.cpus)
        lengths = [int(w["end_ns"] - w["start_ns"]) for w in found]
        assert lengths == ([TIMEOUT_NS] if deferred else [])
        assert not deferred or found[0]["held_on"] == 1


def test_a_full_ring_ends_the_wait() -> None:
    machine = Machine(1, ram="1G")
    strategy = Iommu(machine, deferred=True)
    for _ in range(256):
        strategy.release(strategy.acquire(Request(0, 1)), 0)
    assert count(machine, Event.DEVICE_INVALIDATED) == 1
    assert machine.ledger.totals()[Event.DRAINED] == (1, 255)


def test_the_iommu_leaves_the_cpus_tables_alone() -> None:
    machine = Machine(1, ram="1G")
    before = machine.table.stats()
    strategy = Iommu(machine, deferred=False)
    strategy.access(strategy.acquire(Request(0, 600)), Span.of(0, PAGE), 0)
    assert machine.table.stats() == before
    assert count(machine, Event.INTERRUPTED) == 0


def test_io_addresses_go_above_4_gib_once_all_below_are_taken() -> None:
    machine = Machine(1, ram="8G")
    strategy = Iommu(machine, deferred=False)
    large = [strategy.acquire(Request(0, 512)) for _ in range(2100)]
    starts = [handle.span.start for handle in large if handle.span is not None]
    below = [start for start in starts if start < 1 << 32]
    # 4 GiB in pieces of 2 MiB, but for the first, which page 0 is left out of.
    assert len(below) == 2047
    assert starts[: len(below)] == below
    assert max(starts) <= machine.devices[0].table.legal_spans()[0].last
    strategy.release(large[0], 0)
    again = strategy.acquire(Request(0, 512))
    # It is for good: what is free below serves nobody that asks from above.
    assert again.span is not None
    assert again.span.start > 1 << 32


def test_a_device_refuses_what_it_may_hold_otherwise() -> None:
    device = Machine(1, ram="1G").attach()
    device.map(0x10_0000, 0x20_0000, PAGE, 0)
    device.access(Span.of(0x10_0000, PAGE), 0)
    device.unmap(0x10_0000, PAGE, 0)
    with pytest.raises(InvalidationOwed, match="may still hold"):
        device.map(0x10_0000, 0x30_0000, PAGE, 0)
    device.invalidate(Span.of(0x10_0000, PAGE), 0)
    device.map(0x10_0000, 0x30_0000, PAGE, 0)
    assert device.table.translate(0x10_0000) == 0x30_0000


def test_the_hybrid_sends_each_request_to_its_part() -> None:
    machine = Machine(2, ram="1G")
    strategy = strategies.get("hybrid").make(machine)
    strategy.acquire(Request(0, 1))
    strategy.acquire(Request(0, 1, device="nic"))
    large = strategy.acquire(Request(0, 600))
    assert large.span is not None
    assert len(machine.devices[0].table.mappings()) == 1
    lost = Hybrid(machine, strategy.parts, classify=lambda request, seen: "nowhere")
    with pytest.raises(UnknownStrategy, match="pool, vmalloc, iommu"):
        lost.acquire(Request(0, 1))


def test_a_pool_that_cannot_grow_says_so() -> None:
    machine = Machine(1, ram="64M")
    pool = UnmappedPool(machine)
    while machine.free_frame_bytes > 2 * BLOCK_PAGES * PAGE:
        pool.acquire(Request(0, BLOCK_PAGES))
    with pytest.raises(NoFrame):
        pool.acquire(Request(0, 3 * BLOCK_PAGES))
    assert pool.stranded_pages == 0


def test_timers_run_at_their_time_and_in_order() -> None:
    machine = Machine(1, ram="1G")
    seen: list[tuple[str, int]] = []
    machine.call_at(300, lambda: seen.append(("b", machine.now_ns)))
    machine.call_at(100, lambda: machine.call_at(200, lambda: seen.append(("c", machine.now_ns))))
    machine.call_at(300, lambda: seen.append(("d", machine.now_ns)))
    machine.advance(250)
    assert seen == [("c", 200)]
    machine.advance(1000)
    assert seen == [("c", 200), ("b", 300), ("d", 300)]
    with pytest.raises(OutOfRange):
        machine.call_at(10, lambda: None)


def leaves(machine: Machine, va: int, pages: int) -> list[int]:
    return [machine.table.walk(va + n * PAGE).page_size for n in range(pages)]


def test_a_change_of_rights_splits_a_level_at_a_time_and_only_one_call_heals() -> None:
    machine = Machine(4, ram="4G")
    strategy = DirectMap(machine)
    handles = [strategy.acquire(Request(0, n)) for n in (3, 509, 512)]
    boot = len(machine.ledger)
    strategy.set_memory(handles[0], "r", 1)
    totals = machine.ledger.totals(boot)
    # 1G into 512 of 2M, one of those into 512 of 4K: a table each, each with an invalidation.
    assert totals[Event.SPLIT] == (2, 2 * PAGE)
    assert totals[Event.INVALIDATED][0] == 3
    start = handles[0].span.start
    assert set(leaves(machine, start, 3)) == {PAGE}
    assert machine.table.walk(start).rights == "r---"
    assert machine.table.walk(start + (4 << 20)).page_size == 2 << 20
    strategy.set_memory(handles[0], "rw", 1)
    assert leaves(machine, start, 1) == [PAGE], "back to its rights, but not whole"
    strategy.set_memory_rox(handles[0], 1)
    assert leaves(machine, start, 1) == [PAGE], "its neighbours have other rights"
    for handle in handles[1:]:
        strategy.set_memory_rox(handle, 1)
    # Page 0 is nobody's: the first block stays in pages, the second is whole again.
    assert leaves(machine, start, 1) == [PAGE]
    assert leaves(machine, strategy.start + (2 << 20), 1) == [2 << 20]


def test_a_leaf_that_is_all_of_the_spans_keeps_its_size() -> None:
    machine = Machine(1, ram="4G")
    strategy = DirectMap(machine)
    handle = strategy.acquire(Request(0, 1024, align=2 << 20))
    boot = len(machine.ledger)
    strategy.set_memory(handle, "r", 0)
    assert machine.ledger.totals(boot)[Event.SPLIT][0] == 1  # of the 1G leaf alone
    assert set(leaves(machine, handle.span.start, 1024)) == {2 << 20}


def test_a_format_that_needs_it_breaks_a_leaf_before_it_makes_smaller_ones() -> None:
    rows = {}
    for level in (0, 2):
        machine = Machine(2, formats.get("aarch64_4k_48", bbm_level=level), ram="2G")
        strategy = DirectMap(machine)
        handle = strategy.acquire(Request(0, 1))
        boot = len(machine.ledger)
        strategy.set_memory(handle, "r", 0)
        found = [Event(e) for e in machine.ledger.rows()["event"][boot:]]
        rows[level] = [e for e in found if e in (Event.UNMAPPED, Event.MAPPED, Event.SPLIT)]
        assert machine.table.walk(handle.span.start).page_size == PAGE
        assert machine.table.translate(strategy.start + (1 << 30)) == 1 << 30
        strategy.set_memory(strategy.acquire(Request(0, 512, align=2 << 20)), "rx", 0)
        split(machine, Span.of(strategy.start + (2 << 20), PAGE), PAGE, 0)
        assert machine.table.walk(strategy.start + (3 << 20)).rights.startswith("r-x-"), (
            "rights are kept"
        )
    assert Event.SPLIT not in rows[0]
    assert rows[0].index(Event.UNMAPPED) < rows[0].index(Event.MAPPED)
    assert set(rows[2]) == {Event.SPLIT}


def test_where_leaves_cannot_be_split_pools_begin_with_pages() -> None:
    sizes = {}
    for level in (0, 2):
        machine = Machine(2, formats.get("aarch64_4k_48", bbm_level=level), ram="1G")
        pool = UnmappedPool(machine)
        boot = len(machine.ledger)
        pool.acquire(Request(0, 1))
        totals = machine.ledger.totals(boot)
        sizes[level] = machine.ledger.totals()[Event.TABLES_ALLOCATED][1]
        # Without the feature 512 entries are cleared. With it a row of 16 leaves of 2M that count as one
        # is written anew, and one of them cleared.
        assert totals[Event.ENTRIES_WRITTEN][1] == {0: 512, 2: 17}[level]
    assert sizes[0] > sizes[2] + 400 * PAGE


def test_large_requests_of_vmalloc_get_large_leaves_and_fall_back_to_pages() -> None:
    machine = Machine(2, ram="64M")
    strategy = strategies.get("vmalloc_huge").make(machine)
    boot = len(machine.ledger)
    small, exact, odd = (strategy.acquire(Request(0, n)) for n in (511, 512, 700))
    assert leaves(machine, small.span.start, 511) == [PAGE] * 511
    assert leaves(machine, exact.span.start, 1) == [2 << 20]
    assert odd.span.size == 700 * PAGE
    assert strategy.stranded_pages == 1024 - 700
    assert machine.ledger.totals(boot)[Event.FALLBACK][0] == 0
    strategy.release(odd, 1)
    assert strategy.stranded_pages == 0
    # The first page of every 2M that is left is somebody's: there are no frames in a row at all.
    with contextlib.suppress(NoFrame):
        while True:
            machine.allocate_frames(1, 0, align=2 << 20)
    free = machine.free_frame_bytes
    assert free > 2 << 20
    with pytest.raises(NoFrame):
        strategy.acquire(Request(0, 512))
    assert machine.free_frame_bytes == free
    assert machine.ledger.totals(boot)[Event.FALLBACK][0] == 1


def test_without_addresses_for_large_leaves_vmalloc_falls_back_to_pages() -> None:
    machine = Machine(2, ram="64M")
    room = Span.of(layout_of(machine).vmalloc.start, 3 << 20)
    strategy = Vmalloc(machine, lazy=True, huge=True, span=room)
    handle = strategy.acquire(Request(0, 512))
    assert leaves(machine, handle.span.start, 512) == [PAGE] * 512
    assert count(machine, Event.FALLBACK) == 1
    assert strategy.stranded_pages == 0


def test_tables_built_beforehand_are_all_that_mappings_there_need() -> None:
    taken = {}
    for name in ("vmalloc_lazy", "vmalloc_prebuilt"):
        machine = Machine(2, ram="2G")
        strategy = strategies.get(name).make(machine)
        boot = len(machine.ledger)
        for _ in range(100):
            strategy.acquire(Request(0, 600))
        taken[name] = machine.ledger.totals(boot)[Event.TABLES_ALLOCATED][1]
    assert taken["vmalloc_prebuilt"] == 0
    assert taken["vmalloc_lazy"] >= 100 * 600 * 8


@pytest.mark.parametrize("name", ["unmapped_pool", "direct_map", "iommu_strict", "hybrid"])
def test_the_cache_stands_in_front_of_any_strategy(name: str) -> None:
    machine = Machine(2, ram="1G")
    strategy = strategies.find(f"page_table_cache+{name}").make(machine)
    assert strategy.name == f"page_table_cache+{name}"
    boot = len(machine.ledger)
    hot, large = strategy.acquire(Request(0, 8)), strategy.acquire(Request(0, 65))
    device = strategy.acquire(Request(0, 4, device="nic"))
    for _ in range(10):
        strategy.access(hot, Span.of(0, 8 * PAGE), 1, "r")
    strategy.access(large, Span.of(0, PAGE), 0, "r")
    strategy.access(device, Span.of(0, PAGE), 0, "r")
    assert strategy.hit_rate == 72 / 80
    assert count(machine, Event.INVALIDATED, boot) <= 4  # one or two refills of the pool, no slots
    owed = strategy.cache.owed
    strategy.release(hot, 0)
    assert strategy.cache.owed == owed + 8, "invalidations are put off"
    for handle in (large, device):
        strategy.release(handle, 0)


def test_slots_that_are_owed_are_cleaned_by_one_invalidation_when_none_is_clean() -> None:
    machine = Machine(2, ram="1G")
    strategy = strategies.get("page_table_cache+unmapped_pool").make(machine)
    handles = [strategy.acquire(Request(0, 64)) for _ in range(17)]
    boot = len(machine.ledger)
    for handle in handles[:16]:
        strategy.access(handle, Span.of(0, 64 * PAGE), 0, "r")
    assert count(machine, Event.INVALIDATED, boot) == 0
    strategy.access(handles[16], Span.of(0, 64 * PAGE), 0, "r")
    # 1024 slots are full: a quarter is evicted, and one invalidation makes all of it clean.
    assert count(machine, Event.INVALIDATED, boot) == 1
    assert strategy.cache.counts.evictions == 256
    assert strategy.cache.clean == 256 - 64


def test_a_cache_in_front_of_ones_own_strategy_and_of_nothing_known() -> None:
    machine = Machine(1, ram="1G")
    found = strategies.find("page_table_cache+ptcore.strategies.direct_map:DirectMap")
    assert found.make(machine).name == "page_table_cache+direct_map"
    with pytest.raises(UnknownStrategy, match="nearest"):
        strategies.find("page_table_cache+nothing")


def iommu(name: str, cpus: int = 1, ram: str = "1G") -> tuple[Machine, Iommu, int]:
    machine = Machine(cpus, ram=ram)
    strategy = strategies.get(name).make(machine)
    return machine, strategy, len(machine.ledger)


def test_the_single_queue_holds_32767_addresses_or_waits_for_a_second() -> None:
    machine, strategy, boot = iommu("iommu_single_queue", cpus=2)
    for number in range(300):  # more than a CPU's own ring would hold
        strategy.release(strategy.acquire(Request(number % 2, 1)), 0)
    assert count(machine, Event.DEVICE_INVALIDATED, boot) == 0
    machine.advance(999_999_999)
    assert count(machine, Event.DEVICE_INVALIDATED, boot) == 0
    machine.advance(1_000_000_000)
    assert machine.ledger.totals(boot)[Event.DRAINED] == (1, 300)


def test_a_device_with_a_tlb_of_its_own_asks_less_and_is_told_of_every_invalidation() -> None:
    machine, strategy, boot = iommu("iommu_ats")
    handle = strategy.acquire(Request(0, 4))
    for _ in range(5):
        strategy.access(handle, Span.of(0, 4 * PAGE), 0, "r")
    totals = machine.ledger.totals(boot)
    assert totals[Event.DEVICE_WALKS][1] == 4
    assert totals[Event.DEVICE_HITS][1] == 16
    strategy.release(handle, 0)
    rows = machine.ledger.rows()[boot:]["event"].tolist()
    assert rows.index(Event.DEVICE_TLB_INVALIDATED) == rows.index(Event.DEVICE_INVALIDATED) + 1
    assert len(strategy.device.mmu.device_tlb.entries()) == 0
    assert count(machine, Event.DEVICE_TLB_INVALIDATED, boot) == 1


@pytest.mark.parametrize(
    ("name", "waits"),
    [
        ("iommu_strict", {"device_invalidate": 3}),
        ("iommu_deferred", {}),
        ("iommu_ats", {"device_invalidate": 3, "device_tlb_invalidate": 3}),
        ("iommu_passthrough", {}),
    ],
)
def test_a_cpu_pays_for_each_command_to_a_device_and_not_for_each_page(
    name: str, waits: dict[str, int]
) -> None:
    machine, strategy, boot = iommu(name)
    for pages in (1, 4, 32):
        handle = strategy.acquire(Request(0, pages))
        strategy.access(handle, Span.of(0, pages * PAGE), 0, "r")
        strategy.release(handle, 0)
    found = price(machine.ledger, first_row=boot)
    names = ("device_invalidate", "device_tlb_invalidate")
    assert {
        line.name: line.count for line in found.lines if line.name in names and line.count
    } == waits
    ns = {"device_invalidate": 1000, "device_tlb_invalidate": 630}
    paid = sum(line.cycles for line in found.lines if line.name in names)
    assert paid == sum(3 * ns[n] * count for n, count in waits.items()), "3 cycles a ns"
    # The device's own reads of tables are no CPU's.
    assert machine.ledger.totals(boot)[Event.DEVICE_REFERENCES][1] or name == "iommu_passthrough"
    assert not any(line.count for line in found.lines if line.name == "walk_reference")


@pytest.mark.parametrize(("name", "items"), [("iommu_strict", 2), ("iommu_nested", 4)])
def test_the_context_is_read_once_and_then_cached(name: str, items: int) -> None:
    machine, strategy, boot = iommu(name)
    handle = strategy.acquire(Request(0, 8))
    strategy.access(handle, Span.of(0, 8 * PAGE), 0, "r")
    # Root and context entry; by PASID its directory's and table's entries too.
    assert machine.ledger.totals(boot)[Event.CONTEXT_REFERENCES][1] == items


def test_a_walk_through_a_guests_tables_reads_what_both_stages_have() -> None:
    references = {}
    for name in ("iommu_strict", "iommu_nested"):
        machine, strategy, boot = iommu(name)
        handle = strategy.acquire(Request(0, 1))
        strategy.access(handle, Span.of(0, PAGE), 0, "r")
        found = machine.ledger.totals(boot)
        contexts = found[Event.CONTEXT_REFERENCES][1]
        references[name] = found[Event.DEVICE_REFERENCES][1] - contexts
    # The host maps a guest's memory with leaves of 1G: (4 + 1)(2 + 1) - 1.
    assert references == {"iommu_strict": 4, "iommu_nested": 14}


def test_a_walker_that_does_not_look_into_caches_has_lines_flushed() -> None:
    machine, strategy, boot = iommu("iommu_incoherent")
    first = strategy.acquire(Request(0, 1))
    # Three new tables of 64 lines, and the items that point to them; a line of the leaf's table.
    assert machine.ledger.totals(boot)[Event.LINES_FLUSHED] == (1, 3 * 64 + 3 + 1)
    strategy.acquire(Request(0, 32))  # aligned to its size: 32 items of 8 bytes
    assert machine.ledger.totals(boot)[Event.LINES_FLUSHED][1] == 3 * 64 + 3 + 1 + 4
    strategy.release(first, 0)
    assert machine.ledger.totals(boot)[Event.LINES_FLUSHED][1] == 3 * 64 + 3 + 1 + 4 + 1
    assert price(machine.ledger).cycles > 200 * 190 * 3
    machine, strategy, boot = iommu("iommu_strict")
    strategy.acquire(Request(0, 1))
    assert count(machine, Event.LINES_FLUSHED, boot) == 0


def test_the_depot_gives_a_magazine_back_every_100_ms_down_to_one_per_cpu() -> None:
    machine, strategy, _ = iommu("iommu_strict", cpus=2)
    handles = [strategy.acquire(Request(0, 1)) for _ in range(10 * 127)]
    for handle in handles:
        strategy.release(handle, 0)
    full = strategy.space.depot_magazines
    assert full == 8  # ten magazines, of which two stay with the CPU
    cached = strategy.space.cached
    machine.advance(99_999_999)
    assert strategy.space.depot_magazines == full
    for step in range(1, 7):
        machine.advance(step * 100_000_000)
        assert strategy.space.depot_magazines == full - step
    machine.advance(10**10)
    assert strategy.space.depot_magazines == 2
    assert strategy.space.cached == cached - 6 * 127


def test_the_hybrid_learns_which_kind_of_request_is_hot_and_lives_long() -> None:
    machine = Machine(2, ram="1G")
    strategy = strategies.get("hybrid").make(machine)
    hot, cold = Request(0, 4, purpose="cache"), Request(0, 4, purpose="stack")
    for _ in range(20):
        live = [(strategy.acquire(request), times) for request, times in ((hot, 6), (cold, 1))]
        for handle, times in live:
            for _ in range(times):
                strategy.access(handle, Span.of(0, 4 * PAGE), 1)
        machine.advance(machine.now_ns + 3_000_000)
        for handle, _ in live:
            strategy.release(handle, 0)
    assert strategy.seen(hot).touches == 6
    assert strategy.seen(hot).lived_ns == 3e6
    assert strategy.acquire(hot).span is not None, "a mapping of its own"
    assert strategy.acquire(cold).span is None, "the pool"


def test_what_is_sensitive_is_reachable_by_nobody_once_it_is_given_back() -> None:
    machine = Machine(2, ram="1G")
    strategy = strategies.get("hybrid").make(machine)
    found = {}
    for sensitive in (True, False):
        handle = strategy.acquire(Request(0, 4, sensitive=sensitive))
        strategy.access(handle, Span.of(0, 4 * PAGE), 1, "w")
        boot = len(machine.ledger)
        strategy.release(handle, 0)
        found[sensitive] = count(machine, Event.STALE_HELD, boot)
    assert found[True] == 0 < found[False]


def test_every_address_space_has_regions_and_tables_of_its_own_for_every_cpu() -> None:
    machine = Machine(4, ram="1G")
    window = EphemeralWindow(machine)
    before = machine.memory.frames.allocated_bytes
    boot = len(machine.ledger)
    window.enter(1, 7)
    # 4 CPUs of 2M each: a table for each, whether or not the CPU is ever in it.
    assert machine.ledger.totals(boot)[Event.TABLES_ALLOCATED][1] == 4 * PAGE
    first, other = window.regions[0].start, window.regions[1].start
    assert window.spaces == (0, 7)
    assert other - first == (4 + 1) * 512 * PAGE
    held = window.get(1, 0x1000, 1)
    machine.access(Span.of(held, PAGE), 1, "r")
    window.enter(2, 7)
    assert window.regions[2].start == other + 512 * PAGE
    with pytest.raises(OutOfRange, match="in use"):
        window.end(7, 0)
    window.put(1, held)
    assert machine.mmu(1).tlb.holds(held, held), "stale until the region wraps or the space ends"
    window.end(7, 0)
    assert not machine.mmu(1).tlb.holds(held, held)
    assert machine.stale() == ()
    assert machine.memory.frames.allocated_bytes == before
    assert window.regions[1].start == first + 512 * PAGE
    for space in (0, 7):
        with pytest.raises(OutOfRange):
            window.end(space, 0)


def test_a_segments_leaves_are_as_large_as_alignment_and_its_own_size_allow() -> None:
    machine = Machine(1, ram="8G")
    strategy = SparseDirectMap(machine, holes=((0, machine.data_bytes),))
    at = layout_of(machine).second_map.start
    cases = (
        (Segment(GIB, GIB, at), GIB),
        (Segment(2 * GIB, GIB, at + 4 * GIB + (2 << 20)), 2 << 20),  # pa and va differ modulo 1G
        (Segment(3 * GIB, GIB, at + 8 * GIB + PAGE), PAGE),
        (Segment(4 * GIB, GIB, at + 12 * GIB, 2 << 20), 2 << 20),
    )
    for segment, page_size in cases:
        strategy.add_segment(segment, 0)
        assert machine.table.walk(segment.va + (4 << 20)).page_size == page_size
    boot = len(machine.ledger)
    for segment, _ in cases:
        strategy.remove_segment(segment.pa, 0)
    assert count(machine, Event.INVALIDATED, boot) == len(cases)
    assert strategy.segments == []
