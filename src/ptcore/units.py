"""Sizes and spans: the plain values that every floor speaks in.

Sizes are whole bytes. A text such as ``"2M"`` means 2 * 1024 * 1024 bytes, as kernel parameters
have it. A span names its `last` address, inclusive, because 2**64 - 1 is a legal last address and
2**64 is not a legal 64-bit number.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ptcore.errors import AddressError

SIZE_SUFFIXES = "KMGTPE"  # 2**10, 2**20, ... 2**60
ALL_ONES = (1 << 64) - 1  # the value of every failed 64-bit output

_SIZE = re.compile(
    r"(0x[0-9a-f]{1,20}|[0-9]{1,20})\s*([KMGTPE]?)(?:i?B)?", re.IGNORECASE | re.ASCII
)


def parse_size(size: int | str) -> int:
    """Return `size` in bytes.

    Takes a number of bytes or a text: decimal or 0x-hexadecimal digits and, optionally, one of the
    binary suffixes K M G T P E (``"4K"``, ``"2MiB"``, ``"0x1000"``). Raises AddressError for
    anything else and for a negative number; nothing is rounded.
    """
    if type(size) is int and size >= 0:
        return size
    if isinstance(size, str):
        found = _SIZE.fullmatch(size.strip())
        if found is None:
            raise AddressError(f"size {size!r} is not a number with an optional K, M, G, T, P or E")
        digits, suffix = found.groups()
        number = int(digits, 16 if digits[1:2] in ("x", "X") else 10)
        return number << (10 * (1 + SIZE_SUFFIXES.index(suffix.upper())) if suffix else 0)
    if isinstance(size, bool) or not hasattr(size, "__index__"):
        raise TypeError(f"a size is an int of bytes or a text such as '2M', not {size!r}")
    number = size.__index__()
    if number < 0:
        raise AddressError(f"size {number} is negative")
    return number


def format_size(size: int) -> str:
    """Return bytes in the shortest exact form that parse_size reads back: 2097152 -> '2M'."""
    shift = 0
    while size and size % 1024 == 0 and shift < len(SIZE_SUFFIXES):
        size //= 1024
        shift += 1
    return f"{size}{SIZE_SUFFIXES[shift - 1]}" if shift else str(size)


@dataclass(frozen=True, slots=True, order=True, init=False)
class Span:
    """The addresses from `start` to `last`, both inclusive."""

    start: int
    last: int

    def __init__(self, start: int, last: int) -> None:
        # Millions are made: what a frozen dataclass would write takes twice the time.
        if not 0 <= start <= last <= ALL_ONES:
            raise AddressError(f"no span runs from {start:#x} to {last:#x}")
        _set_start(self, start)
        _set_last(self, last)

    @classmethod
    def of(cls, start: int, size: int | str) -> Span:
        """Return the span of `size` bytes (or a text such as '2M') that begins at `start`."""
        return cls(
            start, start + (size if type(size) is int and size > 0 else parse_size(size)) - 1
        )

    @property
    def size(self) -> int:
        """How many bytes the span holds."""
        return self.last - self.start + 1

    def __contains__(self, address: int) -> bool:
        return self.start <= address <= self.last

    def __repr__(self) -> str:
        return f"Span({self.start:#x}..{self.last:#x})"


_set_start, _set_last = vars(Span)["start"].__set__, vars(Span)["last"].__set__
