"""AddressTree against a sorted list that is searched from the start."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from ptcore.allocators import AddressTree
from ptcore.errors import AddressError, AlreadyMapped, NoAddressSpace, NotAllocated, OutOfRange

TOP = (1 << 64) - 1


class Naive:
    """Free spans as a sorted list of (start, end), end exclusive."""

    def __init__(self, first: int, last: int) -> None:
        self.free = [(first, last + 1)]

    def fit(self, size: int, align: int, first: int, last: int) -> int | None:
        for start, end in self.free:
            at = -(-max(start, first) // align) * align
            if at + size <= min(end, last + 1):
                return at
        return None

    def holds(self, start: int, size: int) -> bool:
        return any(s <= start and start + size <= e for s, e in self.free)

    def touches(self, start: int, size: int) -> bool:
        return any(s < start + size and start < e for s, e in self.free)

    def take(self, start: int, size: int) -> None:
        pieces = []
        for s, e in self.free:
            if s <= start and start + size <= e:
                pieces += [(s, start), (start + size, e)]
            else:
                pieces.append((s, e))
        self.free = [(s, e) for s, e in pieces if s < e]

    def give(self, start: int, size: int) -> None:
        merged: list[tuple[int, int]] = []
        for s, e in sorted([*self.free, (start, start + size)]):
            if merged and merged[-1][1] == s:
                merged[-1] = (merged[-1][0], e)
            else:
                merged.append((s, e))
        self.free = merged


OUTCOMES: Counter[str] = Counter()
SPACE = 1 << 12
sizes = st.integers(1, 300)
aligns = st.sampled_from([1, 2, 16, 64])
places = st.integers(0, SPACE - 1)


class TreeMachine(RuleBasedStateMachine):
    BASE = 0

    def __init__(self) -> None:
        super().__init__()
        self.tree = AddressTree(self.BASE, self.BASE + SPACE - 1)
        self.naive = Naive(self.BASE, self.BASE + SPACE - 1)
        self.taken: dict[int, int] = {}

    @rule(size=sizes, align=aligns, first=places, span=places)
    def allocate(self, size: int, align: int, first: int, span: int) -> None:
        low, high = self.BASE + first, self.BASE + min(first + span, SPACE - 1)
        expected = self.naive.fit(size, align, low, high)
        if expected is None:
            OUTCOMES["no space"] += 1
            with pytest.raises(NoAddressSpace):
                self.tree.allocate(size, align, low, high)
            return
        OUTCOMES["allocated"] += 1
        assert self.tree.allocate(size, align, low, high) == expected
        self.naive.take(expected, size)
        self.taken[expected] = size

    @rule(size=sizes)
    def allocate_anywhere(self, size: int) -> None:
        self.allocate(size, 1, 0, SPACE - 1)

    @precondition(lambda self: self.taken)
    @rule(data=st.data())
    def free(self, data: st.DataObject) -> None:
        start = data.draw(st.sampled_from(sorted(self.taken)))
        size = self.taken.pop(start)
        self.tree.free(start, size)
        self.naive.give(start, size)
        OUTCOMES["freed"] += 1
        with pytest.raises(NotAllocated):
            self.tree.free(start, size)

    @rule(start=places, size=sizes)
    def free_what_is_free(self, start: int, size: int) -> None:
        start += self.BASE
        if self.naive.touches(start, size) or start + size > self.BASE + SPACE:
            OUTCOMES["refused free"] += 1
            with pytest.raises(NotAllocated):
                self.tree.free(start, size)

    @rule(start=places, size=sizes)
    def reserve(self, start: int, size: int) -> None:
        start += self.BASE
        if start + size > self.BASE + SPACE:
            return
        if not self.naive.holds(start, size):
            OUTCOMES["refused reserve"] += 1
            with pytest.raises(AlreadyMapped):
                self.tree.reserve(start, size)
            return
        OUTCOMES["reserved"] += 1
        self.tree.reserve(start, size)
        self.naive.take(start, size)
        self.taken[start] = size

    @invariant()
    def the_free_spans_are_those_of_the_list(self) -> None:
        assert [(int(a), int(b) + 1) for a, b in self.tree.spans()] == self.naive.free
        assert self.tree.largest == max((e - s for s, e in self.naive.free), default=0)
        assert self.tree.free_bytes == sum(e - s for s, e in self.naive.free)
        self.tree.check()


class TreeAtTheTop(TreeMachine):
    BASE = (1 << 64) - SPACE


@pytest.mark.parametrize("machine", [TreeMachine, TreeAtTheTop])
def test_the_tree_hands_out_what_a_search_from_the_start_would(machine) -> None:
    OUTCOMES.clear()
    run_state_machine_as_test(
        machine, settings=settings(max_examples=60, stateful_step_count=60, deadline=None)
    )
    total = OUTCOMES.total()
    for outcome in (
        "allocated",
        "no space",
        "freed",
        "refused free",
        "reserved",
        "refused reserve",
    ):
        assert OUTCOMES[outcome] > total / 100, OUTCOMES


def test_many_spans_stay_balanced_and_come_back_as_one() -> None:
    tree = AddressTree(0, TOP)
    starts = [tree.allocate(1) for _ in range(20_000)]
    assert starts == list(range(20_000))
    for start in starts[::2]:
        tree.free(start, 1)
    tree.check()
    assert len(tree) == 10_001
    for start in starts[1::2]:
        tree.free(start, 1)
    tree.check()
    assert len(tree) == 1
    assert tree.spans().tolist() == [[0, TOP]]


def test_the_whole_of_64_bits_can_be_taken_and_given() -> None:
    tree = AddressTree(0, TOP)
    assert tree.largest == 1 << 64
    assert tree.allocate(1 << 64) == 0
    assert (tree.largest, len(tree)) == (0, 0)
    with pytest.raises(NoAddressSpace):
        tree.allocate(1)
    tree.free(0, 1 << 64)
    assert tree.largest == 1 << 64


def test_a_search_size_passes_over_spans_that_only_happen_to_be_aligned() -> None:
    tree = AddressTree(0, 0x1FFFF)
    tree.reserve(0x5000, 0x1000)
    tree.reserve(0x7000, 0x1000)  # leaves 0x0..0x4fff below 0x6000..0x6fff, and 0x8000..0x1ffff
    assert tree.allocate(0x5000, 0x4000, search_size=0x5000 + 0x3FFF) == 0x8000
    assert tree.allocate(0x5000, 0x4000) == 0


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda t: t.allocate(0), OutOfRange),
        (lambda t: t.allocate((1 << 64) + 1), OutOfRange),
        (lambda t: t.reserve(0xFFF8, 16), OutOfRange),
        (lambda t: t.reserve(-1, 1), OutOfRange),
        (lambda t: t.reserve(0, 0), OutOfRange),
        (lambda t: t.allocate(16, 3), AddressError),
        (lambda t: t.allocate(16, 1, 5, 4), OutOfRange),
        (lambda t: t.free(0xFFFFF, 16), NotAllocated),
        (lambda t: t.free(0, 0), OutOfRange),
        (lambda t: AddressTree(5, 4), OutOfRange),
        (lambda t: AddressTree(0, 1 << 64), OutOfRange),
    ],
)
def test_bad_input_is_refused_and_changes_nothing(call, error) -> None:
    tree = AddressTree(0, 0xFFFF)
    with pytest.raises(error):
        call(tree)
    assert tree.spans().tolist() == [[0, 0xFFFF]]
