"""Exposure windows of random ledgers are those that the definition, read row by row, gives."""

from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from oracles import exposure_windows
from ptcore.machine import Event, Ledger
from ptcore.machine.exposure import windows

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
