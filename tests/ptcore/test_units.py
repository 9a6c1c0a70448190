"""Sizes and spans."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptcore.errors import AddressError
from ptcore.units import ALL_ONES, Span, format_size, parse_size


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("4K", 4096),
        ("4k", 4096),
        ("2M", 2 << 20),
        ("2MiB", 2 << 20),
        ("2MB", 2 << 20),
        ("1G", 1 << 30),
        ("1T", 1 << 40),
        ("3P", 3 << 50),
        ("1E", 1 << 60),
        ("4096", 4096),
        ("4096B", 4096),
        ("0x1000", 4096),
        ("0X1000", 4096),
        ("0x1E", 30),  # digits go before suffixes
        (" 4 K ", 4096),
        ("010", 10),
        ("0", 0),
        (4096, 4096),
        (np.uint64(4096), 4096),
    ],
)
def test_a_size_is_bytes_or_a_text_with_a_binary_suffix(text: int | str, number: int) -> None:
    assert parse_size(text) == number
    assert type(parse_size(text)) is int


@pytest.mark.parametrize(
    "text",
    ["", "K", "4X", "4KK", "-4K", "4.5K", "4K5", "0x", "1e3", "4\u212a", "\u0664K", "9" * 99],
)
def test_what_is_no_size_is_refused_and_named(text: str) -> None:
    with pytest.raises(AddressError) as caught:
        parse_size(text)
    assert repr(text) in str(caught.value)


def test_a_negative_size_is_refused() -> None:
    with pytest.raises(AddressError, match="-4096"):
        parse_size(-4096)


@pytest.mark.parametrize("thing", [4096.0, None, b"4K", True, [4096]])
def test_what_is_no_number_is_a_type_error(thing: object) -> None:
    with pytest.raises(TypeError, match="size"):
        parse_size(thing)  # type: ignore[arg-type]


@given(st.integers(0, 1 << 64))
def test_a_formatted_size_reads_back(size: int) -> None:
    assert parse_size(format_size(size)) == size


@given(st.integers(1, 1023), st.integers(0, 6))
def test_a_formatted_size_has_the_largest_suffix_that_is_exact(number: int, power: int) -> None:
    assert format_size(number << (10 * power)) == f"{number}{['', *'KMGTPE'][power]}"


def test_a_span_has_both_its_ends() -> None:
    span = Span.of(0x1000, "8K")
    assert (span.start, span.last, span.size) == (0x1000, 0x2FFF, 0x2000)
    assert 0x1000 in span
    assert 0x2FFF in span
    assert 0xFFF not in span
    assert 0x3000 not in span
    assert repr(span) == "Span(0x1000..0x2fff)"


def test_the_last_byte_of_64_bits_is_in_a_span() -> None:
    assert Span(0, ALL_ONES).size == 1 << 64
    assert ALL_ONES in Span.of(ALL_ONES, 1)


@pytest.mark.parametrize(("start", "last"), [(2, 1), (-1, 5), (0, 1 << 64)])
def test_a_span_that_runs_nowhere_is_refused(start: int, last: int) -> None:
    with pytest.raises(AddressError, match="no span"):
        Span(start, last)


def test_an_empty_span_is_refused() -> None:
    with pytest.raises(AddressError, match="no span"):
        Span.of(0x1000, 0)
