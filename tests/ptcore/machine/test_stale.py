"""Stale spans are found as a list of them all would find them."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from ptcore.machine.stale import StaleSpans
from ptcore.units import ALL_ONES, Span

Row = tuple[Span, int, frozenset[int]]
PAGE = 4096
CPUS = 130  # more than two words of bits hold
OUTCOMES: Counter[str] = Counter()

spans = st.builds(
    lambda page, pages: Span.of(page * PAGE, pages * PAGE), st.integers(0, 40), st.integers(1, 9)
)
whole = st.just(Span(0, ALL_ONES))
cpus = st.one_of(
    st.frozensets(st.integers(0, CPUS - 1), min_size=1, max_size=4),
    st.just(frozenset(range(CPUS))),
    st.just(frozenset({0, 1, 2})),
)
steps = st.lists(
    st.tuples(
        st.sampled_from(["open", "open", "open", "drop", "holding", "frames"]),
        st.one_of(spans, spans, spans, whole),
        st.integers(0, 40),
        cpus,
    ),
    min_size=20,
    max_size=80,
)


class Listed:
    """The same in a list."""

    def __init__(self) -> None:
        self.found: list[Row] = []

    def drop(self, span: Span, targets: frozenset[int]) -> None:
        left = []
        for other, pa, holders in self.found:
            if span.start <= other.start and other.last <= span.last:
                holders = holders - targets
                OUTCOMES["dropped in part" if holders else "dropped"] += 1
            if holders:
                left.append((other, pa, holders))
        self.found = left

    def holding(self, span: Span, asked: frozenset[int]) -> Row | None:
        for row in self.found:
            if row[0].start <= span.last and span.start <= row[0].last and row[2] & asked:
                return row
        return None

    def of_frames(self, pa: int, size: int) -> list[Row]:
        return [row for row in self.found if row[1] < pa + size and pa < row[1] + row[0].size]


def test_the_trees_find_what_a_list_of_all_spans_finds() -> None:
    OUTCOMES.clear()

    @settings(max_examples=150, deadline=None, derandomize=True)
    @given(steps)
    def follow(script: list[tuple[str, Span, int, frozenset[int]]]) -> None:
        index, listed = StaleSpans(), Listed()
        for verb, span, frame, named in script:
            if verb == "open" and span.last != ALL_ONES:
                index.add(span, frame * PAGE, named)
                listed.found.append((span, frame * PAGE, named))
            elif verb == "drop":
                index.invalidated(span, named)
                listed.drop(span, named)
            elif verb == "holding":
                want = listed.holding(span, named)
                assert index.holding(span, named) == want
                OUTCOMES["held" if want else "not held"] += 1
            elif verb == "frames":
                rows = listed.of_frames(frame * PAGE, 3 * PAGE)
                assert index.of_frames(frame * PAGE, 3 * PAGE) == rows
                OUTCOMES["several by frame" if len(rows) > 1 else "few by frame"] += 1
            assert len(index) == len(listed.found)
        assert index.rows() == listed.found

    follow()
    wanted = ("held", "not held", "dropped", "dropped in part", "several by frame", "few by frame")
    assert all(OUTCOMES[outcome] > 20 for outcome in wanted), OUTCOMES


def test_many_spans_are_opened_and_dropped_in_any_order() -> None:
    index, listed = StaleSpans(), Listed()
    everyone = frozenset(range(8))
    for n in range(3000):
        at = n * 7919 % 4001
        index.add(Span.of(at * PAGE, PAGE), (n * 104729 % 5003) * PAGE, everyone)
        listed.found.append((Span.of(at * PAGE, PAGE), (n * 104729 % 5003) * PAGE, everyone))
        if n % 3 == 0:
            gone = Span.of((n * 31 % 4001) * PAGE, 5 * PAGE)
            index.invalidated(gone, everyone)
            listed.drop(gone, everyone)
    assert index.rows() == listed.found
    assert 1500 < len(index) < 3000
    index.invalidated(Span(0, ALL_ONES), everyone)
    assert len(index) == 0
