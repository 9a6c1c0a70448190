"""How far apart two prices are, for any machine that the constants' uncertainties allow.

Both prices rest on the same constants, so what is common to them cannot turn the order round: the
bounds are those of the ratio when every constant takes the same value, within its factor, in both.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ptcore.machine.cost import Constant, Price

Cycles = npt.NDArray[np.float64]
UNSAID = 2.0  # the factor of a constant whose uncertainty is said in words
MOST_ROUNDS = 64


@dataclass(frozen=True, slots=True)
class Margin:
    """How many times as much the second costs: as the constants stand, at least, and at most."""

    ratio: float
    least: float
    most: float

    @property
    def tie(self) -> bool:
        """Whether the order may be the other way round within the uncertainty."""
        return self.least <= 1.0


def factor(constant: Constant) -> float:
    """Return by how much a constant may be off: 'x2: ...' is 2; 2 where it is said in words."""
    digits = constant.uncertainty.removeprefix("x").partition(":")[0]
    try:
        return float(digits)
    except ValueError:
        return UNSAID


def margin(first: Price, second: Price, scale: float = 1.0) -> Margin:
    """Return how many times as much `second` costs as `first`, times `scale`. Pure.

    Every constant may be off by its factor either way, the clock as well, which turns ns into cycles.
    A first price of nothing gives infinities, and 1 where both are.
    """
    if not first.cycles:
        even = float("inf") if second.cycles else 1.0
        return Margin(even, even, even)
    known = {constant.name: constant for constant in first.constants}
    mine, other = (np.array([line.cycles for line in p.lines], float) for p in (first, second))
    factors = np.array([factor(known[line.name]) for line in first.lines])
    timed = np.array([known[line.name].unit == "ns" for line in first.lines])
    clock = factor(known["clock"]) if "clock" in known else 1.0
    bounds = []
    for speed in (1 / clock, clock):
        at = np.where(timed, speed, 1.0)
        bounds += [_extreme(mine * at, other * at, factors, least) for least in (True, False)]
    return Margin(scale * second.cycles / first.cycles, scale * min(bounds), scale * max(bounds))


def _extreme(mine: Cycles, other: Cycles, factors: Cycles, least: bool) -> float:
    """Return the least (or most) that sum(w * other) / sum(w * mine) can be, w within 1/factor..factor.

    Dinkelbach's method: at the extreme ratio every weight is at one of its ends, by the sign of what it adds.
    """
    ratio = float(other.sum() / mine.sum())
    for _ in range(MOST_ROUNDS):
        adds = other - ratio * mine > 0
        weights = np.where(adds == least, 1 / factors, factors)
        new = float((weights * other).sum() / (weights * mine).sum())
        if abs(new - ratio) <= 1e-12 * ratio:
            break
        ratio = new
    return ratio


def price_range(price: Price) -> tuple[float, float]:
    """Return the least and the most cycles that a price may stand for."""
    known = {constant.name: constant for constant in price.constants}
    clock = factor(known["clock"]) if "clock" in known else 1.0
    low = high = 0.0
    for line in price.lines:
        off = factor(known[line.name]) * (clock if known[line.name].unit == "ns" else 1.0)
        low, high = low + line.cycles / off, high + line.cycles * off
    return low, high


__all__ = ["Margin", "factor", "margin", "price_range"]
