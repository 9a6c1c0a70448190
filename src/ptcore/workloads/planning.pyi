"""Lives of allocations become steps: random numbers one at a time, and rows in order of time."""

from collections.abc import Callable, Iterable
from typing import Any, final

from numpy.typing import NDArray

from ptcore.workloads.scenarios import Life

@final
class Draws:
    """The numbers that numpy.random.default_rng(seed) draws, in the same order, and as Python's.

    Its `exponential`, `geometric` and `zipf` are the generator's own.
    """

    def __init__(self, seed: int) -> None: ...
    exponential: Callable[[float], float]
    geometric: Callable[[float], int]
    zipf: Callable[[float], int]

    def integers(self, low: int, high: int | None = None) -> int:
        """Return a whole number from `low` on and below `high`, or below `low` where there is no `high`.

        Raises ValueError where there is none.
        """

    def random(self) -> float:
        """Return a number from 0 on and below 1."""

def steps_of_lives(lives: Iterable[Life], draws: Draws, cpus: int) -> NDArray[Any]:
    """Return the steps (STEP_DTYPE) of all lives by time; of two at one time the one planned first.

    A life is planned when the one before it is: a CPU for it, its uses in order, a CPU for its end. What is
    left open is drawn from `draws`. Lives begin one after the other: `after_ns` is not below 0. Raises
    ValueError for a memory type or mode that is none, OverflowError for what no row can hold.
    O(steps log steps).
    """
