"""Bitmaps of pages: which runs of pages a bitmap has, and how many come before one."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

CHUNK_BYTES = 1 << 16
GROUP_BYTES = 256
_ONES = np.array([byte.bit_count() for byte in range(256)], dtype=np.uint8)


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
    """How many ones come before a bit: what comes before each group of bytes is counted once."""

    def __init__(self, bitmap: memoryview) -> None:
        self._bytes = np.frombuffer(bitmap, dtype=np.uint8)
        ones = [
            int(_ONES[self._bytes[at : at + GROUP_BYTES]].sum(dtype=np.uint64))
            for at in range(0, len(self._bytes), GROUP_BYTES)
        ]
        self._before = np.concatenate([[0], np.cumsum(ones, dtype=np.uint64)]).astype(np.uint64)

    @property
    def ones(self) -> int:
        """All ones of the bitmap."""
        return int(self._before[-1])

    def has(self, bits: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
        """Whether each bit is one; bits beyond the bitmap are not."""
        at = bits >> np.uint64(3)
        inside = at < len(self._bytes)
        words = self._bytes[np.where(inside, at, np.uint64(0))]
        found: npt.NDArray[np.bool_] = words >> (bits & np.uint64(7)).astype(np.uint8) & 1 != 0
        return inside & found

    def before(self, bit: int) -> int:
        """Return how many ones come before `bit`, which is inside the bitmap."""
        group = bit // 8 // GROUP_BYTES
        text = self._bytes[group * GROUP_BYTES : bit // 8]
        rest = int(self._bytes[bit // 8]) & ((1 << bit % 8) - 1)
        return int(self._before[group]) + int(_ONES[text].sum(dtype=np.uint64)) + rest.bit_count()
