"""Readers of traces, against one NumPy pass over the same bytes."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from side_by_side import Result, measure

from ptcore.workloads.accesses import convert, open_accesses

ACCESSES = 2_000_000


def read(path: Path) -> int:
    with open_accesses(path) as reader:
        return sum(len(chunk) for chunk in reader)


def newlines(path: Path) -> int:
    return int(np.count_nonzero(np.fromfile(path, dtype=np.uint8) == ord("\n")))


def total(path: Path) -> int:
    return int(np.fromfile(path, dtype=np.uint64).sum())


def results() -> Iterator[Result]:
    rng = np.random.default_rng(4)
    kinds = rng.choice(np.array([0, 1, 2], dtype=np.uint8), ACCESSES, p=[0.3, 0.15, 0.55])
    vas = 0x40_0000 + rng.integers(0, 1 << 30, ACCESSES)
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "trace.npz"
        np.savez(source, va=vas, kind=kinds, size=np.full(ACCESSES, 4, dtype=np.uint32))
        for claim, name, baseline in (
            ("read_lackey", "trace.lackey", newlines),
            ("read_champsim", "trace.champsim", total),
        ):
            path = Path(folder) / name
            convert(source, path)
            accesses = read(path)
            assert accesses >= ACCESSES
            yield measure(
                claim,
                lambda path=path: read(path),
                lambda path=path, baseline=baseline: baseline(path),
                accesses,
                rounds=7,
                note=f"{path.stat().st_size >> 20} MiB",
            )
