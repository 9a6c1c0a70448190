"""I/O addresses against a naive reading of the kernel's allocator, and what the door refuses."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oracles.iova_kernel import NaiveIova
from ptcore.allocators import FlushQueues, IovaAllocator
from ptcore.errors import AlreadyMapped, NoAddressSpace, NotAllocated, OutOfRange

SEEN: Counter[str] = Counter()
BORDER = 1 << 20
SPACES = ((1, 300), (BORDER - 200, BORDER - 1), (BORDER - 150, BORDER + 150))


@given(data=st.data())
@settings(max_examples=300, deadline=None)
def test_every_address_is_the_naive_allocators(data) -> None:
    first, last = data.draw(st.sampled_from(SPACES))
    cpus, magazine = data.draw(st.integers(1, 2)), data.draw(st.integers(1, 3))
    ours = IovaAllocator(cpus, first, last, magazine_pages=magazine)
    naive = NaiveIova(cpus, first, last, magazine)
    live: list[int] = []
    verbs = st.sampled_from(["allocate"] * 5 + ["free"] * 4 + ["trim"])
    for _ in range(data.draw(st.integers(10, 60))):
        verb, cpu = data.draw(verbs), data.draw(st.integers(0, cpus - 1))
        if verb == "allocate":
            pages = data.draw(st.sampled_from([1, 1, 1, 2, 3, 8, 24, 33, 64]))
            limit = data.draw(
                st.sampled_from([last, last, min(last, BORDER - 1), (first + last) // 2])
            )
            expected = naive.allocate(cpu, pages, limit)
            if expected is None:
                SEEN["no room"] += 1
                with pytest.raises(NoAddressSpace):
                    ours.allocate(cpu, pages, limit)
            else:
                hits = ours.cache_hits
                assert ours.expected(cpu, pages, limit) in (expected, None)
                assert ours.allocate(cpu, pages, limit) == expected
                SEEN["magazine" if ours.cache_hits > hits else "tree"] += 1
                live.append(expected)
        elif verb == "free" and live:
            page = live.pop(data.draw(st.integers(0, len(live) - 1)))
            naive.free(cpu, page)
            ours.free(cpu, page)
        else:
            naive.trim()
            ours.trim()
        assert [(a, b) for a, b, _ in ours.spans().tolist()] == sorted(naive.ranges)
        assert len(ours) == len(live)


def test_all_ways_were_gone() -> None:
    assert min(SEEN[way] for way in ("magazine", "tree", "no room")) > 50, SEEN


def test_a_freed_range_comes_back_first_on_its_cpu_and_only_there() -> None:
    space = IovaAllocator(2)
    pages = [space.allocate(0, 1) for _ in range(3)]
    assert pages == [BORDER - 1, BORDER - 2, BORDER - 3]
    space.free(1, pages[1])
    assert space.allocate(0, 1) == BORDER - 4
    assert space.allocate(1, 1) == pages[1]


def test_sizes_are_rounded_up_and_aligned() -> None:
    space = IovaAllocator(1)
    space.allocate(0, 1)
    assert space.allocate(0, 24) == BORDER - 64
    assert space.spans().tolist()[0] == [BORDER - 64, BORDER - 33, 0]


def test_large_ranges_go_back_to_the_tree() -> None:
    space = IovaAllocator(1)
    page = space.allocate(0, 33)
    space.free(0, page)
    assert space.cached == 0
    assert len(space.spans()) == 0
    assert space.allocate(0, 64) == page


def test_claiming_takes_a_range_wherever_it_is() -> None:
    space = IovaAllocator(1)
    assert space.claim(100, 3) is False
    space.free(0, 100)
    assert space.claim(100, 4) is True
    with pytest.raises(AlreadyMapped, match="0x64"):
        space.claim(102, 1)
    with pytest.raises(AlreadyMapped):
        space.claim(100, 4)
    assert len(space) == 1


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda s: s.allocate(2, 1), OutOfRange),
        (lambda s: s.allocate(-1, 1), OutOfRange),
        (lambda s: s.allocate(0, 0), OutOfRange),
        (lambda s: s.allocate(0, 1, last=BORDER), OutOfRange),
        (lambda s: s.free(0, 5), NotAllocated),
        (lambda s: s.free(7, 5), OutOfRange),
        (lambda s: s.claim(0, 1), OutOfRange),
        (lambda s: IovaAllocator(0), OutOfRange),
        (lambda s: IovaAllocator(1, 5, 4), OutOfRange),
    ],
)
def test_what_cannot_be_is_refused_and_changes_nothing(call, error) -> None:
    space = IovaAllocator(2)
    space.allocate(0, 1)
    before = space.spans().tolist()
    with pytest.raises(error):
        call(space)
    assert space.spans().tolist() == before


def test_a_range_cannot_be_freed_twice() -> None:
    space = IovaAllocator(1)
    page = space.allocate(0, 1)
    space.free(0, page)
    with pytest.raises(NotAllocated):
        space.free(0, page)


def test_a_ring_flushes_when_it_is_full_and_frees_on_others_what_a_flush_covered() -> None:
    queues = FlushQueues(2, entries=4)
    assert [queues.add(0, page) for page in range(3)] == [(False, [])] * 3
    assert queues.add(1, 10) == (False, [])
    assert queues.add(0, 3) == (True, [0, 1, 2])
    assert queues.add(1, 11) == (False, [10])
    assert queues.expire() == [3, 11]
    assert len(queues) == 0


def test_one_queue_serves_all_cpus_where_it_is_single() -> None:
    queues = FlushQueues(4, entries=3, single=True)
    queues.add(0, 1)
    queues.add(3, 2)
    assert queues.add(2, 3) == (True, [1, 2])
    with pytest.raises(OutOfRange):
        FlushQueues(0)
