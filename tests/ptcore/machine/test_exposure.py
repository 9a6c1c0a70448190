"""Exposure windows of random ledgers are those that the definition, read row by row, gives."""

from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from oracles import exposure_windows
from ptcore.machine import Event, Ledger
from ptcore.machine.exposure import WINDOW_DTYPE, summary, windows

PAGE = 4096
CPUS = 3
OUTCOMES: Counter[str] = Counter()

kinds = [
    *[Event.UNMAPPED] * 4,
    *[Event.FRAMES_FREED, Event.POOL_RETURNED] * 2,
    *[Event.FRAMES_ALLOCATED, Event.POOL_TAKEN],
    *[Event.STALE_HELD, Event.INVALIDATED, Event.INVALIDATED, Event.DEVICE_INVALIDATED],
    Event.ENTRIES_WRITTEN,
]
rows = st.lists(
    st.tuples(
        st.sampled_from(kinds),
        st.integers(0, 5),  # ns since the row before
        st.integers(0, 9),  # page of the address
        st.integers(0, 9),  # frame
        st.integers(1, 4),  # pages
        st.frozensets(st.integers(0, CPUS), max_size=3),
        st.booleans(),  # of everything
    ),
    min_size=10,
    max_size=60,
)


def test_one_pass_finds_the_windows_that_the_definition_gives() -> None:
    OUTCOMES.clear()

    @settings(max_examples=300, deadline=None, derandomize=True)
    @given(rows)
    def follow(script: list[tuple[Event, int, int, int, int, frozenset[int], bool]]) -> None:
        ledger, now = Ledger(), 0
        for event, after, page, frame, pages, cpus, everything in script:
            now += after
            first, last = page * PAGE, (page + pages) * PAGE - 1
            if everything and event in (Event.INVALIDATED, Event.DEVICE_INVALIDATED):
                first, last = 0, 2**64 - 1
            ledger.append(event, now, 0, pages, first=first, last=last, pa=frame * PAGE, cpus=cpus)
        found, wanted = windows(ledger, CPUS), exposure_windows.windows(ledger, CPUS)
        assert np.array_equal(found, wanted)
        for row in found:
            OUTCOMES["closed" if row["closed"] else "open"] += 1
            OUTCOMES["reused"] += int(row["reused"])
            OUTCOMES["held"] += int(row["held_on"] > 0)
            OUTCOMES["in part"] += int(row["pages"] == 1)

    follow()
    wanted = ("closed", "open", "reused", "held", "in part")
    assert all(OUTCOMES[outcome] > 30 for outcome in wanted), OUTCOMES


def test_percentiles_of_windows_are_lengths_of_windows() -> None:
    found = np.zeros(200, dtype=WINDOW_DTYPE)
    found["pages"] = 1
    found["end_ns"] = np.random.default_rng(1).permutation(np.arange(1, 201))
    of_all = summary(found)
    # 100 of 200 are at most 100 long, 198 at most 198.
    assert (of_all.median_ns, of_all.percentile_99_ns, of_all.longest_ns) == (100, 198, 200)
    assert summary(found[:0]).percentile_99_ns == 0
    assert summary(found[:1]).percentile_99_ns == int(found["end_ns"][0])
