"""Tables of RISC-V to walk: chains for one case, and seeded images that are plausible. Test-only."""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass, field
from typing import Any

from oracles import riscv
from oracles.riscv import A, D, G, R, U, V, W, X

BASE = 0x10_0000
FLAGS = 1 << V | 1 << R | 1 << W | 1 << X | 1 << U | 1 << A | 1 << D
ADDRESSES = 50


@dataclass
class Image:
    """Tables in one stretch of memory, the root first."""

    mode: str
    data: bytearray
    addresses: list[int] = field(default_factory=list)

    @property
    def scheme(self) -> riscv.Mode:
        return riscv.MODES[self.mode]

    @property
    def root_pages(self) -> int:
        return 4 if self.scheme.g_stage else 1

    def table(self, i: int, which: int = 0) -> int:
        """Return the address of one of the two tables of level i, or of the only root."""
        above = self.scheme.levels - 1 - i
        return BASE if above == 0 else BASE + 4096 * (self.root_pages + 2 * (above - 1) + which)

    def read(self, address: int, size: int) -> int | None:
        at = address - BASE
        if not 0 <= at <= len(self.data) - size:
            return None
        return int.from_bytes(self.data[at : at + size], "little")

    def write(self, address: int, pte: int) -> None:
        size = self.scheme.ptesize
        at = address - BASE
        self.data[at : at + size] = pte.to_bytes(size, "little")

    def walk(self, va: int, **config: Any) -> riscv.Result:
        return riscv.walk(self.read, BASE, va, self.mode, **config)


def image(mode: str) -> Image:
    empty = Image(mode, bytearray())
    empty.data = bytearray(4096 * (empty.root_pages + 2 * (empty.scheme.levels - 1)))
    return empty


def pte(address: int, flags: int = FLAGS) -> int:
    return address >> 12 << 10 | flags


def chain(mode: str, leaf: int, level: int = 0, pointer_flags: int = 1 << V) -> Image:
    """Return tables for address 0 whose entry at `level` is `leaf`."""
    tables = image(mode)
    for i in range(tables.scheme.levels - 1, level, -1):
        tables.write(tables.table(i), pte(tables.table(i - 1), pointer_flags))
    tables.write(tables.table(level), leaf)
    return tables


def random_leaf(rng: random.Random, scheme: riscv.Mode, i: int) -> int:
    ppn = rng.getrandbits(scheme.ppn_bits)
    if rng.random() < 0.85:
        ppn = ppn >> (i * scheme.index_bits) << (i * scheme.index_bits)
    rights = rng.choice((1, 3, 4, 5, 7, 7, 7, 2, 6)) << R
    flags = 1 << V | rights | rng.getrandbits(1) << U | rng.getrandbits(5) << G
    high = 1 << rng.randrange(54, 64) if scheme.ptesize == 8 and rng.random() < 0.06 else 0
    return high | ppn << 10 | flags


def random_pte(rng: random.Random, tables: Image, i: int) -> int:
    """Return an entry for a table of level i: mostly of some use, sometimes broken."""
    scheme = tables.scheme
    kind = rng.random()
    if kind < 0.08:
        return rng.getrandbits(8 * scheme.ptesize) & ~1
    if kind < (0.9 if i == 0 else 0.35):
        return random_leaf(rng, scheme, i)
    ignored = rng.getrandbits(3) << 8 | rng.getrandbits(1) << G | 1 << V
    high = 1 << rng.randrange(54, 64) if scheme.ptesize == 8 and rng.random() < 0.04 else 0
    flags = 1 << rng.choice((D, A, U)) if rng.random() < 0.05 else 0
    target = tables.table(max(i - 1, 0), rng.getrandbits(1))
    if rng.random() < 0.06:
        target = BASE + len(tables.data) + (rng.getrandbits(16) << 12)
    return high | pte(target, ignored & ~(3 << 10) | flags)


def random_image(rng: random.Random, mode: str) -> Image:
    tables = image(mode)
    scheme = tables.scheme
    hot: dict[int, list[int]] = {}
    for i in range(scheme.levels):
        entries = common = 1 << scheme.index_bits
        if i == scheme.levels - 1 and scheme.g_stage:
            # Most in the part of a G-stage that this QEMU reaches.
            entries, common = 4 * entries, entries * (1 if scheme.ptesize == 4 else 2)
        hot[i] = [0, entries - 1, rng.randrange(entries), *rng.sample(range(common), 5)]
        for which, index in itertools.product((0, 1), hot[i]):
            address = tables.table(i, which) + index * scheme.ptesize
            tables.write(address, random_pte(rng, tables, i))
    for _ in range(ADDRESSES):
        va = rng.getrandbits(12)
        for i in range(scheme.levels):
            va |= rng.choice(hot[i]) << (12 + i * scheme.index_bits)
        if scheme.ptesize == 8:
            if not scheme.g_stage and va >> (scheme.va_bits - 1):
                va |= (1 << 64) - (1 << scheme.va_bits)
            if rng.random() < 0.06:
                va ^= 1 << rng.randrange(scheme.va_bits, 64)
        tables.addresses.append(va)
    return tables
