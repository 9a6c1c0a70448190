"""Which frames hold the tables of a guest, and what they map: read off the manuals, without ptcore.

Intel SDM vol. 3A, "4-Level Paging and 5-Level Paging"; Arm ARM (DDI 0487), "VMSAv8-64 translation table
format descriptors"; RISC-V Privileged Architecture, "Virtual Address Translation Process". Only what the
guests here use: no second stages, tables of one page each but for Arm's root.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

Read = Callable[[int, int], bytes]
# What an entry says: the table that it points to, or the first byte that it maps; neither is a hole.
Said = tuple[int | None, int | None]


@dataclass
class Tree:
    """What was found under the roots: tables (address: bytes), and leaves (address, size, output, entry)."""

    tables: dict[int, int] = field(default_factory=dict)
    leaves: list[tuple[int, int, int, int]] = field(default_factory=list)
    repeats: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Shape:
    """Tables of one kind: page offset bits, index bits of each level (the root's last), what entries say."""

    page_bits: int
    index_bits: tuple[int, ...]
    said: Callable[[int, int], Said]
    upper: bool = False

    def explore(self, read: Read, root: int, tree: Tree) -> None:
        """Add what hangs under `root`. A table is looked into once for each level that it serves."""
        seen: set[tuple[int, int]] = set()
        total = self.page_bits + sum(self.index_bits)
        high = ((1 << 64) - (1 << total)) if self.upper else 0

        def visit(table: int, level: int, va: int) -> None:
            if (table, level) in seen:
                tree.repeats.append(va | high)
                return
            seen.add((table, level))
            bits = self.index_bits[level]
            shift = self.page_bits + sum(self.index_bits[:level])
            size = 8 << bits
            tree.tables[table] = max(size, tree.tables.get(table, 0))
            for n, entry in enumerate(struct.unpack(f"<{1 << bits}Q", read(table, size))):
                at = va | n << shift
                if not self.upper and level == len(self.index_bits) - 1 and self._signed(n, level):
                    at |= (1 << 64) - (1 << total)
                below, maps = self.said(entry, level)
                if below is not None:
                    visit(below, level - 1, at)
                elif maps is not None:
                    tree.leaves.append((at | high, 1 << shift, maps, entry))

        visit(root, len(self.index_bits) - 1, 0)

    def _signed(self, index: int, level: int) -> bool:
        """Whether the addresses under an item of the root are those of the upper half."""
        return self.both and bool(index >> self.index_bits[level] - 1)

    @property
    def both(self) -> bool:
        """One root serves both halves, unlike Arm's."""
        return self.said is not _arm and self.said is not _arm_wide


def _x86(entry: int, level: int) -> Said:
    address = entry & 0x000F_FFFF_FFFF_F000
    if not entry & 1:
        return None, None
    if level and not entry >> 7 & 1:  # PS
        return address, None
    return None, address & ~((1 << 12 + 9 * level) - 1)


def _riscv(entry: int, level: int) -> Said:
    address = (entry >> 10 & (1 << 44) - 1) << 12
    if not entry & 1:
        return None, None
    if not entry & 0b1110:  # neither R nor W nor X
        return address, None
    if entry >> 63:  # N: 64 KiB, the low bits of the number say so
        address &= ~0xFFFF
    return None, address


def _arm(entry: int, level: int) -> Said:
    """4 KiB pages, 48-bit addresses."""
    address = entry & 0x0000_FFFF_FFFF_F000
    if not entry & 1:
        return None, None
    if level and entry & 2:
        return address, None
    return None, address & ~((1 << 12 + 9 * level) - 1)


def _arm_wide(entry: int, level: int) -> Said:
    """52-bit addresses (TCR.DS = 1): bits 49:12 and, in 9:8, bits 51:50."""
    address = entry & 0x0003_FFFF_FFFF_F000 | (entry >> 8 & 3) << 50
    if not entry & 1:
        return None, None
    return (address, None) if level and entry & 2 else (None, address)


def x86(levels: int) -> Shape:
    """Tables of x86-64."""
    return Shape(12, (9,) * levels, _x86)


def riscv(levels: int) -> Shape:
    """Tables of Sv39, Sv48 or Sv57."""
    return Shape(12, (9,) * levels, _riscv)


def arm(tcr: int, upper: bool) -> Shape:
    """One half of what TCR_EL1 describes."""
    size = 64 - (tcr >> (16 if upper else 0) & 63)
    granule = (
        {1: 14, 2: 12, 3: 16}[tcr >> 30 & 3] if upper else {0: 12, 1: 16, 2: 14}[tcr >> 14 & 3]
    )
    wide = bool(tcr >> 59 & 1)
    left = size - granule
    bits: list[int] = []
    while left > 0:
        bits.append(min(left, granule - 3))
        left -= granule - 3
    return Shape(granule, tuple(bits), _arm_wide if wide else _arm, upper)


def runs(leaves: list[tuple[int, int, int, int]]) -> Iterator[tuple[int, int]]:
    """Yield (first, end) of addresses that are mapped without a hole."""
    first = end = None
    for va, size, _, _ in sorted(leaves):
        if va != end:
            if end is not None and first is not None:
                yield first, end
            first = va
        end = va + size
    if end is not None and first is not None:
        yield first, end
