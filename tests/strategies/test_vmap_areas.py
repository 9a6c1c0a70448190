from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oracles.vmalloc_kernel import PAGE, Kernel
from ptcore.allocators import AddressTree
from ptcore.errors import InvalidationOwed, Misaligned, NoAddressSpace, NotAllocated, OutOfRange
from ptcore.strategies.vmap_areas import (
    UNOWNED,
    Area,
    AreaState,
    Drained,
    VmapAreas,
    VmapOptions,
    lazy_max_pages,
)

BASE = 0xFFFFC90000000000
SPACE = 1 << 40


def make(cpus=2, pages=None, **options):
    tree = AddressTree(BASE, BASE + (SPACE if pages is None else pages * PAGE) - 1)
    return VmapAreas(tree, VmapOptions(cpus=cpus, **options))


def pooled(areas, count, pages=3, cpu=0):
    """Put `count` areas into a pool by way of a drain; return their starts, ascending."""
    starts = [areas.allocate(cpu, pages * PAGE) for _ in range(count)]
    for start in starts:
        areas.free(start)
    areas.drain()
    return starts


@pytest.mark.parametrize(
    ("cpus", "pages"), [(1, 8192), (2, 16384), (3, 16384), (4, 24576), (64, 57344), (128, 65536)]
)
def test_the_limit_grows_with_the_bits_of_the_cpu_count(cpus, pages):
    assert lazy_max_pages(cpus) == pages
    assert make(cpus).lazy_max_pages == pages


def test_areas_come_from_the_lowest_hole_that_fits():
    areas = make()
    assert [areas.allocate(0, n * PAGE) - BASE for n in (3, 5, 300)] == [0, 3 * PAGE, 8 * PAGE]


def test_a_freed_area_is_not_used_again_before_a_drain():
    areas = make()
    start = areas.allocate(0, 3 * PAGE)
    areas.free(start)
    assert areas.allocate(0, 3 * PAGE) != start
    areas.drain()
    assert areas.allocate(0, 3 * PAGE) == start


def test_a_drain_is_due_when_more_than_the_limit_is_lazy_and_not_before():
    areas = make(cpus=1)
    starts = [areas.allocate(0, 4096 * PAGE), areas.allocate(0, 4096 * PAGE)]
    last = areas.allocate(0, PAGE)
    assert [areas.free(start) for start in (*starts, last)] == [False, False, True]
    assert areas.lazy_pages == 8193


def test_drained_areas_are_reused_from_the_highest_address_down():
    areas = make()
    starts = pooled(areas, 4)
    assert [areas.allocate(0, 3 * PAGE) for _ in starts] == starts[::-1]


def test_a_pool_serves_only_the_cpu_that_asked_for_the_areas():
    areas = make()
    starts = pooled(areas, 1, cpu=0)
    assert areas.allocate(1, 3 * PAGE) not in starts
    assert areas.allocate(0, 3 * PAGE) in starts


def test_a_pool_serves_only_its_own_size():
    areas = make()
    starts = pooled(areas, 1, pages=3)
    assert areas.allocate(0, 2 * PAGE) not in starts


def test_areas_above_256_pages_go_back_to_the_tree():
    areas = make()
    small, large = areas.allocate(0, 256 * PAGE), areas.allocate(0, 257 * PAGE)
    areas.free(small)
    areas.free(large)
    areas.drain()
    assert list(areas.pool(0, 256)) == [small]
    assert areas.allocate(1, 3 * PAGE) == large


def test_an_area_with_a_window_of_its_own_never_enters_a_pool():
    areas = make()
    window = (BASE + (1 << 30), BASE + (1 << 31) - 1)
    start = areas.allocate(0, 3 * PAGE, 1, *window)
    assert start == window[0]
    areas.free(start)
    assert areas.drain() == Drained(1, 3, start, start + 3 * PAGE - 1)
    assert not areas.pool(0, 3)
    assert not areas.pool(1, 3)
    assert areas.allocate(0, 3 * PAGE, 1, *window) == start


def test_a_drain_takes_a_quarter_off_the_top_before_it_puts_new_areas_on_top():
    areas = make()
    old = pooled(areas, 8)
    areas.free(areas.allocate(0, 3 * PAGE))  # the top one is lazy: seven are left, one of them goes
    areas.drain()
    assert list(areas.pool(0, 3)) == [*old[:6], old[7]]
    assert areas.allocate(1, 3 * PAGE) == old[6]


def test_small_pools_do_not_decay():
    areas = make()
    starts = pooled(areas, 3)
    areas.drain()
    assert list(areas.pool(0, 3)) == starts


def test_a_full_drain_leaves_nothing_pooled():
    areas = make()
    pooled(areas, 8)
    areas.free(areas.allocate(0, 3 * PAGE))
    assert areas.drain(full=True).areas == 1
    assert list(areas.areas()) == []
    assert areas.allocate(0, 300 * PAGE) == BASE


def test_a_misaligned_area_goes_to_the_bottom_and_the_tree_serves():
    areas = make()
    areas.allocate(0, PAGE)
    starts = pooled(areas, 3, pages=5)
    fresh = areas.allocate(0, 5 * PAGE, 1 << 20)
    assert fresh not in starts
    assert fresh % (1 << 20) == 0
    assert list(areas.pool(0, 5)) == [starts[2], *starts[:2]]


def test_an_aligned_area_leaves_the_pages_before_it_free():
    areas = make()
    areas.allocate(0, PAGE)
    assert areas.allocate(0, 5 * PAGE, 4 * PAGE) == BASE + 4 * PAGE
    assert areas.allocate(0, 3 * PAGE) == BASE + PAGE


def test_one_node_has_no_pools():
    areas = make(cpus=1)
    (start,) = pooled(areas, 1)
    assert [area for area in areas.areas() if area.state is AreaState.POOLED] == []
    assert areas.allocate(0, 300 * PAGE) == start


def test_the_pages_of_a_drain_stay_lazy_until_it_is_over():
    areas = make()
    first, second = areas.allocate(0, 10 * PAGE), areas.allocate(1, 20 * PAGE)
    areas.free(second)
    areas.free(first)
    assert areas.begin_drain() == Drained(2, 30, first, second + 20 * PAGE - 1)
    assert areas.lazy_pages == 30
    assert areas.allocate(0, 10 * PAGE) not in (first, second)
    areas.finish_drain()
    assert areas.lazy_pages == 0
    assert areas.allocate(0, 10 * PAGE) == first


def test_a_drain_with_nothing_to_take_owes_no_invalidation():
    assert make().drain() == Drained(0, 0, None, None)


def test_a_drain_must_finish_before_the_next_one():
    areas = make()
    areas.begin_drain()
    with pytest.raises(InvalidationOwed):
        areas.begin_drain()
    areas.finish_drain()
    areas.begin_drain()


def snapshot(areas):
    known = sorted((a.start, a.pages, a.node, a.state.value) for a in areas.areas())
    return known, areas.tree.spans().tolist(), areas.lazy_pages


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda a: a.allocate(0, 100), Misaligned),
        (lambda a: a.allocate(0, 0), Misaligned),
        (lambda a: a.allocate(0, -PAGE), Misaligned),
        (lambda a: a.allocate(0, PAGE, 3), Misaligned),
        (lambda a: a.allocate(0, 1 << 50), NoAddressSpace),
        (lambda a: a.allocate(0, PAGE, 1 << 45), NoAddressSpace),
        (lambda a: a.free(BASE + PAGE), NotAllocated),
        (lambda a: a.remove(Area(BASE, 1, UNOWNED, AreaState.LAZY)), NotAllocated),
    ],
)
def test_a_refused_request_changes_nothing(call, error):
    areas = make()
    pooled(areas, 5)
    areas.allocate(0, 7 * PAGE)
    before = snapshot(areas)
    with pytest.raises(error):
        call(areas)
    assert snapshot(areas) == before


def test_freeing_twice_is_refused():
    areas = make()
    start = areas.allocate(0, PAGE)
    areas.free(start)
    with pytest.raises(NotAllocated, match=f"{start:#x}"):
        areas.free(start)
    assert areas.lazy_pages == 1


@pytest.mark.parametrize("options", [{"cpus": 0}, {"nodes": 0}, {"nodes": 129}])
def test_impossible_machines_are_refused(options):
    with pytest.raises(OutOfRange):
        VmapOptions(**options)


def test_pages_must_be_a_power_of_two():
    with pytest.raises(Misaligned):
        VmapOptions(page_bytes=3000)


def test_when_addresses_run_out_a_full_drain_makes_room():
    areas = make(pages=16)
    start = areas.allocate(0, 16 * PAGE)
    areas.free(start)
    with pytest.raises(NoAddressSpace):
        areas.allocate(0, 8 * PAGE)
    areas.drain(full=True)
    assert areas.allocate(0, 8 * PAGE) == start


def test_a_copy_lives_its_own_life():
    areas = make()
    pooled(areas, 5)
    areas.free(areas.allocate(0, 7 * PAGE))
    tree = AddressTree(areas.tree.first, areas.tree.last)
    spans = areas.tree.spans().tolist()
    for (_, last), (start, _) in zip([(0, tree.first - 1), *spans], spans, strict=False):
        if last + 1 < start:
            tree.reserve(last + 1, start - last - 1)
    twin = areas.copy(tree)
    assert snapshot(twin) == snapshot(areas)
    before = snapshot(areas)
    twin.drain()
    twin.allocate(0, 3 * PAGE)
    assert snapshot(areas) == before


OPERATIONS = ("allocate", "free", "begin", "finish", "full")


def play(cpus, seed, steps, sizes):
    """Run one random history on the model and on the oracle; compare every address and number."""
    pick = random.Random(seed)
    kernel, areas = Kernel(cpus), make(cpus)
    live, seen, drained = [], Counter(), set()
    running = False
    for _ in range(steps):
        what = pick.choices(OPERATIONS, (50, 48, 4, 8, 0.3))[0]
        if what == "allocate":
            cpu, size = pick.randrange(cpus), pick.choice(sizes) * PAGE
            align = pick.choice((1, 1, 1, PAGE, 4 * PAGE))
            start = kernel.allocate(cpu, size, align)
            assert areas.allocate(cpu, size, align) == start
            seen["reused" if start in drained else "fresh"] += 1
            live.append(start)
        elif what == "free" and live:
            start = live.pop(pick.randrange(len(live)))
            drained.add(start)
            lazy = kernel.free(start)
            assert areas.free(start) == (lazy > kernel.nr_lazy_max)
            assert areas.lazy_pages == lazy
        elif what in ("begin", "full") and not running:
            span = kernel.begin_drain(what == "full")
            found = areas.begin_drain(what == "full")
            if found.areas:
                assert (found.first, found.last + 1) == span
            running, took = True, found
        elif what == "finish" and running:
            assert sum(kernel.finish_node(node) for node in kernel.nodes) == took.areas
            areas.finish_drain()
            assert areas.lazy_pages == kernel.nr_lazy
            running = False
            seen["drains"] += 1
    return seen


@settings(max_examples=30, deadline=None)
@given(
    cpus=st.integers(1, 5),
    seed=st.integers(0, 1 << 30),
    sizes=st.lists(st.integers(1, 300), min_size=1, max_size=4),
)
def test_every_address_is_the_one_the_naive_kernel_gives(cpus, seed, sizes):
    play(cpus, seed, 400, sizes)


def test_long_histories_agree_and_use_pools_tree_and_drains():
    seen = sum((play(cpus, cpus, 4000, (3, 4, 5, 66, 300)) for cpus in (1, 2, 4)), Counter())
    assert seen["reused"] > 1000
    assert seen["fresh"] > 500
    assert seen["drains"] > 200
