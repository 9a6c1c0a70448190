"""Random numbers as NumPy draws them, and lives in order of time."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest

from ptcore.workloads.planning import Draws, steps_of_lives
from ptcore.workloads.scenarios import Life, Use
from ptcore.workloads.steps import MEMORY_TYPES, MODES, SENSITIVE, STEP_DTYPE, StepKind

# A bound of 3 * 2**30 draws again every fourth time, one just above 2**31 every second time.
BOUNDS = (1, 2, 7, 512, 3 << 30, (1 << 31) + 1, (1 << 32) - 1, 1 << 32, (1 << 32) + 1, 1 << 40)


@pytest.mark.parametrize("seed", range(4))
def test_numbers_are_those_of_numpys_generator_in_any_order_of_calls(seed: int) -> None:
    draws, judge = Draws(seed), np.random.default_rng(seed)
    order = np.random.default_rng(1000 + seed)
    asked = Counter[str]()
    for _ in range(6000):
        which = int(order.integers(6))
        bound = BOUNDS[int(order.integers(len(BOUNDS)))]
        low = int(order.integers(-9, 9))
        if which == 0:
            assert draws.integers(bound) == judge.integers(bound)
        elif which == 1:
            assert draws.integers(low, low + bound) == judge.integers(low, low + bound)
        elif which == 2:
            assert draws.random() == judge.random()
        elif which == 3:
            assert draws.exponential(5.0) == judge.exponential(5.0)
        elif which == 4:
            assert draws.geometric(0.2) == judge.geometric(0.2)
        else:
            assert draws.zipf(1.6) == judge.zipf(1.6)
        asked[f"{which}, {bound if which < 2 else ''}"] += 1
    assert len(asked) == 2 * len(BOUNDS) + 4
    assert min(asked.values()) > 50
    assert isinstance(draws.integers(1 << 40), int)


@pytest.mark.parametrize("span", [(0,), (-1,), (3, 3), (4, 2)])
def test_there_is_no_number_in_nothing(span: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="high"):
        Draws(1).integers(*span)


def some_lives(seed: int, count: int) -> Iterator[Life]:
    """Yield lives at few different times, so that many steps happen at one time."""
    rng = np.random.default_rng(seed)
    cpus = (None, -1, 0, 1, 2, 9)
    for _ in range(count):
        after, lives = (int(n) for n in rng.integers(0, 4, 2))
        pages = int(rng.integers(1, 9))
        uses = tuple(
            Use(
                int(rng.integers(0, 6)), int(rng.integers(pages)), 1, str(rng.choice([*MODES])),
                cpus[int(rng.integers(6))],
            )
            for _ in range(int(rng.integers(4)))
        )  # fmt: skip
        yield Life(
            after, lives, pages, bool(rng.integers(2)), MEMORY_TYPES[int(rng.integers(2))], 4096,
            uses, cpus[int(rng.integers(6))], cpus[int(rng.integers(6))], bool(rng.integers(2)),
        )  # fmt: skip


def played(lives: Iterator[Life], rng: np.random.Generator, cpus: int) -> Iterator[tuple[int, ...]]:
    """Play lives one after the other; what is due goes first, of two at one time what was planned first."""
    waiting: list[tuple[int, int, tuple[int, ...]]] = []
    now = planned = 0

    def cpu_of(asked: int | None, own: int) -> int:
        if asked is None:
            return own
        return int(rng.integers(cpus)) if asked < 0 else asked % cpus

    for number, life in enumerate(lives):
        now += life.after_ns
        while waiting and waiting[0][0] <= now:
            yield heapq.heappop(waiting)[2]
        cpu = cpu_of(-1 if life.cpu is None else life.cpu, 0)
        memory = SENSITIVE if life.sensitive else MEMORY_TYPES.index(life.memory)
        alike = (life.align, life.device, memory)
        yield (now, StepKind.ACQUIRE, cpu, number, life.pages, *alike, 0, 0)
        end = now + life.lives_ns
        for use in life.uses:
            at, on = min(now + use.after_ns, end), cpu_of(use.cpu, cpu)
            mode = MODES.index(use.mode)
            row = (at, StepKind.ACCESS, on, number, use.pages, *alike, use.first, mode)
            heapq.heappush(waiting, (at, planned, row))
            planned += 1
        on = cpu_of(-1 if life.freed_on is None else life.freed_on, cpu)
        row = (end, StepKind.RELEASE, on, number, life.pages, *alike, 0, 0)
        heapq.heappush(waiting, (end, planned, row))
        planned += 1
    while waiting:
        yield heapq.heappop(waiting)[2]


@pytest.mark.parametrize("cpus", [1, 3, 64])
@pytest.mark.parametrize("count", [0, 1, 2, 40, 3000])
def test_lives_in_order_are_what_is_played_one_by_one(count: int, cpus: int) -> None:
    for seed in range(3):
        judge = played(some_lives(seed, count), np.random.default_rng(seed), cpus)
        expected = np.array(list(judge), dtype=STEP_DTYPE)
        found = steps_of_lives(some_lives(seed, count), Draws(seed), cpus)
        assert found.dtype == STEP_DTYPE
        assert np.array_equal(found, expected)
        if count == 3000:
            assert len(np.unique(found["time_ns"])) < len(found) / 2
            assert np.bincount(found["kind"])[1:].min() >= count


def test_what_no_row_can_say_is_refused() -> None:
    for life, error in (
        (Life(0, 1, 1, memory="cheese"), ValueError),
        (Life(0, 1, 1, uses=(Use(0, 0, 1, "z"),)), ValueError),
        (Life(0, 1 << 64, 1), OverflowError),
        (Life(0, 1, 1 << 64), OverflowError),
    ):
        with pytest.raises(error):
            steps_of_lives([life], Draws(1), 1)
