"""A naive listing of everything under a CR3 with 4-level paging, path by path.

As x86_64.py beside it, this is a judge: it imports nothing of the library, visits every path (tables that
hang in several places are visited again), and knows no format. Bit positions follow the Intel SDM, volume 3A,
chapter "Paging": P 0, R/W 1, U/S 2, PS 7 (PAT of a PTE), PAT 12 of large pages, XD 63, addresses 51:12.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

PWT, PCD = 1 << 3, 1 << 4
ADDRESS = ((1 << 52) - 1) & ~0xFFF


@dataclass(frozen=True)
class Leaf:
    """One page on one path."""

    va: int
    size: int
    pa: int
    write: bool
    execute: bool
    user: bool
    pat: int
    at: int

    @property
    def last(self) -> int:
        return self.va + self.size - 1


@dataclass(frozen=True)
class Oddity:
    """An item that no walk may use, or a pointer outside memory or upward: reserved, outside, loop."""

    what: str
    va: int
    at: int


def canonical(va: int) -> int:
    """Bits 63:48 equal bit 47."""
    return va | (0xFFFF << 48) if va >> 47 & 1 else va


def everything(
    read8: Callable[[int], int | None], root: int, maxphyaddr: int = 52
) -> Iterator[Leaf | Oddity]:
    """Yield what is found on every path from the PML4 table at `root`, in order of address."""
    yield from _table(read8, maxphyaddr, 39, 0, (root,), (True, True, True))


def _table(
    read8: Callable[[int], int | None],
    maxphyaddr: int,
    shift: int,
    va: int,
    path: tuple[int, ...],
    rights: tuple[bool, bool, bool],
) -> Iterator[Leaf | Oddity]:
    for slot in range(512):
        at = path[-1] + 8 * slot
        entry = read8(at)
        if entry is None or not entry & 1:
            continue
        here = canonical(va | slot << shift)
        large = bool(entry & 1 << 7) and shift > 12
        # "IF PS = 1 in a PML4E" and address bits beyond MAXPHYADDR are reserved; so are, in a large page,
        # the address bits below the page's size but for PAT (bit 12).
        reserved = entry & ADDRESS & ~((1 << maxphyaddr) - 1)
        if large and shift == 39:
            reserved |= 1 << 7
        elif large:
            reserved |= entry & ((1 << shift) - 1) & ~0x1FFF
        if reserved:
            yield Oddity("reserved", here, at)
            continue
        write = rights[0] and bool(entry & 2)
        user = rights[1] and bool(entry & 4)
        execute = rights[2] and not entry >> 63
        if shift == 12 or large:
            size = 1 << shift
            pa = entry & ADDRESS & ~(size - 1)
            top = entry >> (12 if large else 7) & 1
            pat = top << 2 | bool(entry & PCD) << 1 | bool(entry & PWT)
            yield Leaf(here, size, pa, write, execute, user, pat, at)
            continue
        below = entry & ADDRESS
        if read8(below) is None or read8(below + 4088) is None:
            yield Oddity("outside", here, at)
        if below in path:
            yield Oddity("loop", here, at)
        yield from _table(
            read8, maxphyaddr, shift - 9, va | slot << shift, (*path, below), (write, user, execute)
        )
