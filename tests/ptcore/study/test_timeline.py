"""Exposure over time: against windows that are looked at one by one, moment by moment."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ptcore.machine.exposure import WINDOW_DTYPE, summary
from ptcore.study.timeline import exposed_over_time

# Windows begin at even times and end at odd ones, so that at no moment two things happen.
WINDOWS = st.lists(
    st.tuples(st.integers(0, 79), st.integers(0, 79), st.integers(1, 9)), min_size=1, max_size=12
)


@given(WINDOWS)
def test_each_part_has_the_most_pages_of_any_moment_in_it(made) -> None:
    found = np.zeros(len(made), dtype=WINDOW_DTYPE)
    for row, (start, length, pages) in zip(found, made, strict=True):
        row["start_ns"], row["pages"] = 2 * start, pages
        row["end_ns"] = min(2 * (start + length) + 1, 159)
    naive = [
        max(
            sum(int(w["pages"]) for w in found if w["start_ns"] <= at < w["end_ns"])
            for at in range(20 * part, 20 * part + 20)
        )
        for part in range(8)
    ]
    assert list(exposed_over_time(found, 0, 160, 8)) == naive
    assert max(naive) == summary(found).peak_pages


def test_a_window_of_no_length_was_open() -> None:
    found = np.zeros(1, dtype=WINDOW_DTYPE)
    found["start_ns"] = found["end_ns"] = 35
    found["pages"] = 4
    assert exposed_over_time(found, 0, 100, 5) == (0, 4, 0, 0, 0)


def test_nothing_exposed_is_zero_all_along() -> None:
    assert exposed_over_time(np.zeros(0, dtype=WINDOW_DTYPE), 0, 100, 5) == (0,) * 5
