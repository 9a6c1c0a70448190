"""Blocks of vm_map_ram(), against a reading of vb_alloc() and vb_free() that looks at every page."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptcore.allocators import AddressTree
from ptcore.errors import NotAllocated, OutOfRange
from ptcore.machine import Event, Machine, Request
from ptcore.strategies.vm_map_ram import VmMapRam
from ptcore.strategies.vmap_areas import VmapAreas, VmapOptions
from ptcore.strategies.vmap_blocks import MOST_PAGES, VmapBlocks, block_pages
from ptcore.units import Span

PAGE = 4096
GIB = 1 << 30


@pytest.mark.parametrize(
    ("built_for", "pages"), [(1, 1024), (64, 1024), (2048, 1024), (4096, 512), (8192, 256)]
)
def test_a_blocks_size_follows_from_what_the_kernel_is_built_for(
    built_for: int, pages: int
) -> None:
    assert block_pages(built_for) == pages


class Naive:
    """A list per block, with a word per page: 'free', 'used' or 'dirty'."""

    def __init__(self, pages: int) -> None:
        self.pages, self.blocks, self.queues, self.given_up = pages, {}, {}, []

    def allocate(self, cpu: int, pages: int, new_block) -> tuple[int, int]:
        count = next(2**n for n in range(7) if 2**n >= pages)
        for block in self.queues.setdefault(cpu, []):
            states = self.blocks[block]
            if states.count("free") >= count:
                break
        else:
            block = new_block()
            states = self.blocks[block] = ["free"] * self.pages
            self.queues[cpu].append(block)
        at = states.index("free")
        states[at : at + count] = ["used"] * count
        return block, at

    def free(self, block: int, at: int, pages: int) -> None:
        count = next(2**n for n in range(7) if 2**n >= pages)
        states = self.blocks[block]
        assert states[at : at + count] == ["used"] * count
        states[at : at + count] = ["dirty"] * count
        if states == ["dirty"] * self.pages:
            self.give_up(block)

    def give_up(self, block: int) -> None:
        del self.blocks[block]
        for queue in self.queues.values():
            if block in queue:
                queue.remove(block)
        self.given_up.append(block)

    def purge(self, force: bool) -> None:
        for block, states in list(self.blocks.items()):
            if "used" not in states and (force or states.count("free") * 4 < self.pages):
                self.give_up(block)


OUTCOMES: Counter[str] = Counter()


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["take", "take", "take", "give", "give", "purge", "force"]),
            st.integers(0, 1),
            st.sampled_from([1, 2, 3, 5, 16, 33, 64]),
            st.integers(0, 999),
        ),
        min_size=20,
        max_size=120,
    )
)
def follow(script) -> None:
    areas = VmapAreas(AddressTree(GIB, 8 * GIB - 1), VmapOptions(cpus=2))
    blocks = VmapBlocks(areas, 128, PAGE)
    naive = Naive(128)
    live: list[tuple[int, int, int, int]] = []
    for verb, cpu, pages, pick in script:
        if verb == "take":
            start, ready = blocks.allocate(cpu, pages)
            block, at = naive.allocate(cpu, pages, lambda at=start: at & -blocks.block_bytes)
            OUTCOMES["ready" if ready else "new"] += 1
            assert start == block + at * PAGE
            live.append((start, pages, block, at))
        elif verb == "give" and live:
            start, pages, block, at = live.pop(pick % len(live))
            blocks.free(start, pages)
            naive.free(block, at, pages)
        elif verb in ("purge", "force"):
            blocks.purge(force=verb == "force")
            naive.purge(verb == "force")
        OUTCOMES["given up"] = max(OUTCOMES["given up"], len(naive.given_up))
        assert [block.start for block in blocks.blocks()] == list(naive.blocks)
        for found in blocks.blocks():
            states = naive.blocks[found.start]
            assert found.free == states.count("free")
            assert found.dirty == states.count("dirty")
    # Blocks that were given up are lazy: addresses that nobody gets before a drain.
    lazy = [area.start for area in areas.areas() if area.state.value == "lazy"]
    assert sorted(lazy) == sorted(naive.given_up)


def test_blocks_are_used_up_and_given_up_as_the_kernel_does() -> None:
    follow()
    assert OUTCOMES["ready"] > 300
    assert OUTCOMES["new"] > 100
    assert OUTCOMES["given up"] > 2


def test_what_no_block_gave_is_refused() -> None:
    blocks = VmapBlocks(VmapAreas(AddressTree(GIB, 2 * GIB - 1)), 128, PAGE)
    start, _ = blocks.allocate(0, 3)
    with pytest.raises(OutOfRange):
        blocks.allocate(0, MOST_PAGES + 1)
    with pytest.raises(NotAllocated):
        blocks.free(start + 4 * PAGE, 1)
    blocks.free(start, 3)
    with pytest.raises(NotAllocated):
        blocks.free(start, 3)


def test_a_block_costs_one_invalidation_when_all_of_it_was_used_up_and_drained() -> None:
    machine = Machine(2, ram="1G")
    strategy = VmMapRam(machine)
    boot = len(machine.ledger)
    for _ in range(2 * 1024):
        strategy.release(strategy.acquire(Request(0, 1)), 1)
    totals = machine.ledger.totals(boot)
    assert totals[Event.POOL_MISS][0] == 2  # a new block each 1024 pages
    assert totals[Event.INVALIDATED][0] == 0
    assert strategy.areas.lazy_pages == 2 * 1024
    handle = strategy.acquire(Request(1, 5))
    strategy.access(handle, Span.of(0, 5 * PAGE), 1, "w")
    strategy.release(handle, 0)
    assert len(machine.stale()) > 0
    strategy.unmap_aliases(0)
    assert machine.stale() == ()
    assert machine.ledger.totals(boot)[Event.INVALIDATED][0] == 1
    strategy.unmap_aliases(0)
    assert machine.ledger.totals(boot)[Event.INVALIDATED][0] == 1, "nothing is owed any more"
