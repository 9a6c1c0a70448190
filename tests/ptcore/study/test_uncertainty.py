"""Bounds of a margin: against every corner of the box that the constants' factors span."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptcore.machine.cost import DEFAULT_CONSTANTS, Constant, Line, Price
from ptcore.study.uncertainty import Margin, factor, margin, price_range

CONSTANTS = (
    Constant("a", 10, "cycles", "-", "x2"),
    Constant("b", 20, "ns", "-", "x4: an order of magnitude"),
    Constant("c", 5, "cycles", "-", "an upper bound"),
    Constant("clock", 3.0, "GHz", "-", "x1.7"),
)
COUNTS = st.tuples(*[st.integers(0, 50)] * 3)


def price(counts: tuple[int, ...]) -> Price:
    each = (10.0, 60.0, 5.0)
    lines = tuple(
        Line(name, count, cycles, count * cycles)
        for name, count, cycles in zip("abc", counts, each, strict=True)
    )
    return Price(lines, sum(line.cycles for line in lines), 7, CONSTANTS)


def corners(counts: tuple[int, ...]) -> list[float]:
    """The price at each corner: constants, then the clock, at their least and most."""
    found = []
    for a, b, c, clock in itertools.product((1 / 2, 2), (1 / 4, 4), (1 / 2, 2), (1 / 1.7, 1.7)):
        found.append(counts[0] * 10 * a + counts[1] * 60 * b * clock + counts[2] * 5 * c)
    return found


@given(COUNTS, COUNTS)
def test_the_bounds_are_those_of_the_corners(first, second) -> None:
    if not any(first):
        expected = float("inf") if any(second) else 1.0
        assert margin(price(first), price(second)) == Margin(expected, expected, expected)
        return
    ratios = [b / a for a, b in zip(corners(first), corners(second), strict=True)]
    found = margin(price(first), price(second), 3.0)
    assert found.least == pytest.approx(3 * min(ratios))
    assert found.most == pytest.approx(3 * max(ratios))
    assert found.least <= found.ratio * (1 + 1e-9)
    assert found.ratio <= found.most * (1 + 1e-9)


@given(COUNTS)
def test_a_price_spans_its_corners(counts) -> None:
    low, high = price_range(price(counts))
    assert (low, high) == pytest.approx((min(corners(counts)), max(corners(counts))))


def test_what_both_share_cannot_turn_the_order_round() -> None:
    """Twice the work of one kind is twice the price, however far off its constant may be."""
    found = margin(price((3, 4, 5)), price((6, 8, 10)))
    assert (found.least, found.ratio, found.most) == pytest.approx((2, 2, 2))
    assert not found.tie
    apart = margin(price((10, 0, 0)), price((0, 2, 0)))
    assert apart.ratio == pytest.approx(1.2)
    assert apart.tie
    assert apart.least == pytest.approx(1.2 / 2 / 4 / 1.7)


def test_uncertainties_are_read_from_the_constants() -> None:
    assert factor(DEFAULT_CONSTANTS["interrupt"]) == 4
    assert factor(DEFAULT_CONSTANTS["edit_call"]) == 1.5
    assert all(factor(constant) >= 1 for constant in DEFAULT_CONSTANTS.values())
