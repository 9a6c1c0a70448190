"""Memory for the tests of the naive oracles of second-stage and IOMMU tables."""

from __future__ import annotations

import random
from collections.abc import Callable

Read = Callable[[int, int], "int | None"]
Words = dict[int, int]

# Indexes 1, 2, 3 and 4 and the offset 0x567: entries at 0x1008, 0x2010, 0x3018 and 0x4020 of
# tables at 0x1000, 0x2000, 0x3000 and 0x4000.
ADDRESS = 0x80_8060_4567
ROOT = 0x1000
WALKS = 4000


def memory(words: Words, end: int = 0x10_0000) -> Read:
    """Return memory that is 0 but for some words, and that ends somewhere."""

    def read(address: int, size: int) -> int | None:
        assert size == 8
        assert address % 8 == 0
        return words.get(address, 0) if address < end else None

    return read


def random_memory(seed: int, entry: Callable[[random.Random], int]) -> Read:
    """Return 64 KiB of entries, each made when it is read, and always the same."""
    known: Words = {}

    def read(address: int, size: int) -> int | None:
        assert size == 8
        if address >= 0x10000:
            return None
        if address not in known:
            known[address] = entry(random.Random(seed * 0x10000 + address))
        return known[address]

    return read


def patched(read: Read, where: int, value: int) -> Read:
    """Return memory with one other word."""
    return lambda address, size: value if address == where else read(address, size)
