"""Address streams with fixed seeds: the same numbers wherever NumPy's default generator runs."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

BASE = np.uint64(0x7F00_0000_0000)
PAGES = 1 << 18


def addresses(pages: np.ndarray, seed: int) -> np.ndarray:
    """A random 8-byte word in each page."""
    words = np.random.default_rng(seed).integers(0, 512, size=pages.size, dtype=np.uint64)
    return BASE + (pages.astype(np.uint64) << np.uint64(12)) + words * np.uint64(8)


def zipf(count: int, alpha: float, n: int, rng: np.random.Generator) -> np.ndarray:
    weight = 1.0 / np.arange(1, count + 1) ** alpha
    cumulative = np.cumsum(weight) / weight.sum()
    return rng.permutation(count)[np.searchsorted(cumulative, rng.random(n))]


def streams(n: int) -> Iterator[tuple[str, np.ndarray]]:
    """Name and n addresses, all within 2**18 pages of 4 KiB from BASE on."""

    def fresh(seed: int) -> np.random.Generator:
        return np.random.default_rng(seed)

    count = np.arange(n, dtype=np.uint64)
    yield "uniform_32p", addresses(fresh(1).integers(0, 32, n), 101)
    yield "uniform_1024p", addresses(fresh(2).integers(0, 1024, n), 102)
    yield "uniform_256Kp", addresses(fresh(3).integers(0, PAGES, n), 103)
    yield "zipf099_256Kp", addresses(zipf(PAGES, 0.99, n, fresh(4)), 104)
    yield "sequential_64B", BASE + count * np.uint64(64)
    yield "stride_128p", BASE + (count % np.uint64(64)) * np.uint64(128 * 4096)
