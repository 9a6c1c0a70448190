"""PageTableCache: a dict with losses, whose slots come back only after an invalidation."""

from __future__ import annotations

from collections import Counter, OrderedDict
from itertools import pairwise
from random import Random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from ptcore.caches import PageTableCache
from ptcore.errors import AlreadyMapped, FormatError, InvalidationOwed, NotMapped, OutOfRange

SEEN: Counter[str] = Counter()
PAGES = st.one_of(st.integers(0, 12), st.sampled_from([1 << 52, (1 << 64) - 1, 1 << 32]))


class NaiveLru:
    def __init__(self) -> None:
        self.order: OrderedDict[int, None] = OrderedDict()

    def admitted(self, page: int) -> None:
        self.order[page] = None

    def used(self, page: int) -> None:
        self.order.move_to_end(page)

    def left(self, page: int) -> None:
        del self.order[page]

    def victim(self) -> int:
        return next(iter(self.order))


class NaiveClock:
    """A ring of places. The hand stands on a place; a page takes the place that was left last."""

    def __init__(self, room: int) -> None:
        self.ring: list[list | None] = [None] * room
        self.free = list(range(room))[::-1]
        self.hand = 0

    def admitted(self, page: int) -> None:
        self.ring[self.free.pop()] = [page, False]

    def place(self, page: int) -> int:
        return next(n for n, held in enumerate(self.ring) if held and held[0] == page)

    def used(self, page: int) -> None:
        self.ring[self.place(page)][1] = True

    def left(self, page: int) -> None:
        place = self.place(page)
        self.ring[place] = None
        self.free.append(place)

    def victim(self) -> int:
        while True:
            held = self.ring[self.hand]
            self.hand = (self.hand + 1) % len(self.ring)
            if held and not held[1]:
                return held[0]
            if held:
                held[1] = False


class CacheMachine(RuleBasedStateMachine):
    policy = "lru"

    @initialize(slots=st.integers(1, 9))
    def make(self, slots: int) -> None:
        self.slots = slots
        self.cache = PageTableCache(slots, self.policy)
        self.naive = NaiveLru() if self.policy == "lru" else NaiveClock(slots)
        self.live: dict[int, int] = {}
        self.owed: set[int] = set()

    @rule(page=PAGES)
    def lookup(self, page: int) -> None:
        assert self.cache.lookup(page) == self.live.get(page, -1)
        if page in self.live:
            self.naive.used(page)
        SEEN["hit" if page in self.live else "miss"] += 1

    @rule(page=PAGES)
    def admit(self, page: int) -> None:
        if page in self.live:
            with pytest.raises(AlreadyMapped):
                self.cache.admit(page)
            SEEN["already"] += 1
        elif len(self.live) + len(self.owed) == self.slots:
            with pytest.raises(InvalidationOwed):
                self.cache.admit(page)
            SEEN["no clean slot"] += 1
        else:
            slot = self.cache.admit(page)
            assert 0 <= slot < self.slots
            assert slot not in self.owed, "an owed slot was handed out"
            assert slot not in self.live.values(), "a live slot was handed out"
            self.live[page] = slot
            self.naive.admitted(page)
            SEEN["admitted"] += 1

    @rule(page=PAGES)
    def drop(self, page: int) -> None:
        if page not in self.live:
            with pytest.raises(NotMapped):
                self.cache.drop(page)
            return
        slot = self.live.pop(page)
        assert self.cache.drop(page) == slot
        self.owed.add(slot)
        self.naive.left(page)
        SEEN["dropped"] += 1

    @rule(count=st.one_of(st.none(), st.integers(0, 4)))
    def evict(self, count: int | None) -> None:
        wanted = max(1, self.slots // 4) if count is None else count
        rows = self.cache.evict(count).tolist()
        assert len(rows) == min(wanted, len(self.live))
        for page, slot in rows:
            assert page == self.naive.victim()
            assert slot == self.live.pop(page)
            self.naive.left(page)
            self.owed.add(slot)
            SEEN["evicted"] += 1

    @rule()
    def invalidated(self) -> None:
        SEEN["paid"] += len(self.owed)
        self.cache.invalidated()
        self.owed.clear()

    @invariant()
    def counts_agree(self) -> None:
        if not hasattr(self, "cache"):
            return
        assert len(self.cache) == len(self.live)
        assert self.cache.owed == len(self.owed)
        assert self.cache.clean == self.slots - len(self.live) - len(self.owed)
        assert all(page in self.cache for page in self.live)


class ClockMachine(CacheMachine):
    policy = "clock"


@pytest.mark.parametrize("machine", [CacheMachine, ClockMachine], ids=["lru", "clock"])
def test_it_is_a_dict_with_losses_that_evicts_as_the_naive_policy(machine) -> None:
    SEEN.clear()
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=150, stateful_step_count=50, deadline=None, derandomize=True
        ),
    )
    for outcome in ("hit", "miss", "already", "no clean slot", "admitted", "dropped", "evicted"):
        assert SEEN[outcome] >= 10, SEEN
    assert SEEN["paid"] >= 10


def test_one_invalidation_pays_for_a_batch() -> None:
    cache = PageTableCache(8)
    for page in range(8):
        cache.admit(page)
    assert [page for page, _ in cache.evict().tolist()] == [0, 1]  # a quarter of the slots
    with pytest.raises(InvalidationOwed, match="6 are live, 2 are owed"):
        cache.admit(100)
    cache.invalidated()
    assert {cache.admit(100), cache.admit(101)} == {0, 1}
    counts = cache.counts
    assert (counts.admissions, counts.evictions, counts.invalidations) == (10, 2, 1)


def test_clock_spares_what_was_used_and_lru_what_was_used_last() -> None:
    for policy, gone in (("lru", [1, 2]), ("clock", [1, 2])):
        cache = PageTableCache(4, policy)
        for page in range(4):
            cache.admit(page)
        assert cache.lookup(0) >= 0
        assert [page for page, _ in cache.evict(2).tolist()] == gone


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"slots": 0}, "slots"),
        ({"slots": -1}, "slots"),
        ({"slots": 1 << 40}, "slots"),
        ({"slots": 4, "policy": "fifo"}, "'fifo'.*lru, clock"),
        ({"slots": 4, "evict_batch": 0}, "evict_batch"),
        ({"slots": 4, "evict_batch": 5}, "evict_batch"),
    ],
    ids=str,
)
def test_an_impossible_cache_is_refused(arguments, words) -> None:
    with pytest.raises(FormatError, match=words):
        PageTableCache(**arguments)


def test_a_page_that_is_no_64_bit_number_is_refused() -> None:
    cache = PageTableCache(4)
    for page in (-1, 1 << 64):
        with pytest.raises(OutOfRange):
            cache.lookup(page)
    assert cache.counts.misses == 0


def one_by_one(cache: PageTableCache, first: int, end: int) -> tuple[list, list]:
    """The (page, slot) that are touched, and those of them that are new."""
    touched, new = [], []
    for page in range(first, end):
        if page not in cache and not cache.clean:
            break
        slot = cache.lookup(page)
        if slot < 0:
            slot = cache.admit(page)
            new.append((page, slot))
        touched.append((page, slot))
    return touched, new


def pairs(rows: list[tuple[int, int, int]]) -> list[tuple[int, int]]:
    for (page, slot, count), (later, other, _) in pairwise(rows):
        assert (page + count, slot + count) != (later, other)  # else it were one row
    return [(page + n, slot + n) for page, slot, count in rows for n in range(count)]


@pytest.mark.parametrize("policy", ["lru", "clock"])
def test_pages_in_a_row_are_served_and_dropped_as_one_by_one(policy: str) -> None:
    SEEN.clear()
    rng = Random(5)
    rows, single = PageTableCache(24, policy), PageTableCache(24, policy)
    for _ in range(2000):
        first = rng.randrange(60)
        end = first + rng.randrange(9)
        if rng.random() < 0.7:
            served = rows.serve(first, end)
            touched, new = one_by_one(single, first, end)
            assert (pairs(served.touched), pairs(served.new)) == (touched, new)
            assert (served.pages, served.misses) == (len(touched), len(new))
            assert served.hits == len(touched) - len(new)
            SEEN["short" if served.pages < end - first else "whole"] += 1
            SEEN["joined" if len(served.touched) < served.pages else "apart"] += 1
        else:
            gone = [(page, single.drop(page)) for page in range(first, end) if page in single]
            assert pairs(rows.drop_all(first, end)) == gone
            SEEN["dropped" if gone else "nothing"] += 1
        if not single.clean and rng.random() < 0.5:
            assert rows.evict(6).tolist() == single.evict(6).tolist()
            rows.invalidated()
            single.invalidated()
        assert rows.counts == single.counts
    assert min(SEEN[found] for found in ("short", "whole", "joined", "apart", "dropped")) > 50
    with pytest.raises(OutOfRange):
        rows.serve(-1, 4)
    with pytest.raises(OutOfRange):
        rows.drop_all(0, 1 << 64)
