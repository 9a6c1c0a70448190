"""Bitmaps of pages: which runs of pages a bitmap has, and how many come before one."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

CHUNK_BYTES = 1 << 16
WORD_BYTES = 8
_ONES = np.array([byte.bit_count() for byte in range(256)], dtype=np.uint8)

Numbers = npt.NDArray[np.uint64]


def runs(bitmap: memoryview, count: int) -> Iterator[tuple[int, int]]:
    """Yield (first, number) of each run of ones among the first `count` bits, the lowest bit first.

    Cost: O(bytes of the bitmap).
    """
    begun: int | None = None
    for at in range(0, (count + 7) // 8, CHUNK_BYTES):
        text = np.frombuffer(bitmap[at : at + CHUNK_BYTES], dtype=np.uint8)
        bits = np.unpackbits(text, bitorder="little")[: count - 8 * at]
        edges = np.flatnonzero(np.diff(bits, prepend=np.uint8(begun is not None))) + 8 * at
        for edge in edges.tolist():
            if begun is None:
                begun = edge
            else:
                yield begun, edge - begun
                begun = None
    if begun is not None:
        yield begun, count - begun


class Ranks:
    """How many ones come before a bit: what comes before each word of 64 bits is counted once.

    Memory: as much again as the bitmap.
    """

    def __init__(self, bitmap: memoryview) -> None:
        size = (len(bitmap) // WORD_BYTES + 1) * WORD_BYTES
        self._count = 8 * len(bitmap)
        self._bytes = np.zeros(size, dtype=np.uint8)
        self._bytes[: len(bitmap)] = np.frombuffer(bitmap, dtype=np.uint8)
        ones = _ONES[self._bytes].reshape(-1, WORD_BYTES).sum(axis=1, dtype=np.uint64)
        self._before = np.concatenate([np.zeros(1, dtype=np.uint64), np.cumsum(ones)])

    @property
    def ones(self) -> int:
        """All ones of the bitmap."""
        return int(self._before[-1])

    def has(self, bits: Numbers) -> npt.NDArray[np.bool_]:
        """Whether each bit is one; bits beyond the bitmap are not."""
        inside = bits < self._count
        words = self._bytes[np.where(inside, bits >> np.uint64(3), np.uint64(0))]
        found: npt.NDArray[np.bool_] = words >> (bits & np.uint64(7)).astype(np.uint8) & 1 != 0
        return inside & found

    def before(self, bits: Numbers) -> Numbers:
        """Return how many ones come before each bit, all of which are inside the bitmap."""
        words = self._bytes.view("<u8")[bits >> np.uint64(6)]
        below = (words & ((np.uint64(1) << (bits & np.uint64(63))) - np.uint64(1))).astype("<u8")
        inside = _ONES[below.view(np.uint8).reshape(-1, WORD_BYTES)].sum(axis=1, dtype=np.uint64)
        counted: Numbers = self._before[bits >> np.uint64(6)] + inside
        return counted
