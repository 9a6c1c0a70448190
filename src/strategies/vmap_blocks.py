"""Where vm_map_ram() puts small mappings: blocks of one area each, of which a CPU uses up its own.

The policy is the kernel's: Linux mm/vmalloc.c (v6.18), vb_alloc(), vb_free(), purge_fragmented_block(),
_vm_unmap_aliases(). No tables, no cost. In short:

- A request of up to MOST_PAGES pages, rounded up to a power of two, takes the next pages of the first
  block on its CPU's list that has enough left; without one, a new block: an area aligned to its size.
- Pages of a block are handed out once. Freed ones are *dirty*; they are not used again. A block that is
  all dirty goes the way of a freed area: lazily, until a drain has invalidated it.
- A block of which nothing is in use, but not all was handed out, is *fragmented*. It is given up when
  addresses have run out, and at `unmap_aliases` if less than a quarter of it is left.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ptcore.errors import NotAllocated, OutOfRange
from ptcore.strategies.vmap_areas import VmapAreas

MOST_PAGES = 64
"""Linux mm/vmalloc.c, VMAP_MAX_ALLOC: BITS_PER_LONG."""

LARGEST_BLOCK, SMALLEST_BLOCK = 1024, 2 * MOST_PAGES
"""Pages. Linux mm/vmalloc.c, VMAP_BBMAP_BITS_MAX, VMAP_BBMAP_BITS_MIN."""

SPACE_GUESS = 128 << 30
"""Bytes. Linux mm/vmalloc.c, VMALLOC_SPACE: a rough idea of the range, for machines of 64 bits."""

PURGE_SHARE = 4
"""Linux mm/vmalloc.c, VMAP_PURGE_THRESHOLD: VMAP_BBMAP_BITS / 4."""


def block_pages(built_for: int, page_bytes: int = 4096) -> int:
    """Return a block's pages in a kernel that is built for so many CPUs (NR_CPUS).

    Linux mm/vmalloc.c, VMAP_BBMAP_BITS (v6.18).
    """
    cpus = 1 << (built_for - 1).bit_length()
    share = SPACE_GUESS // page_bytes // cpus // 16
    return min(LARGEST_BLOCK, max(SMALLEST_BLOCK, share))


@dataclass(slots=True)
class Block:
    """An area of one CPU's. `free` pages were never handed out, `dirty` ones are used up; `used` has a
    bit for each page in use; from `dirty_first` to `dirty_end` an invalidation is owed."""

    start: int
    cpu: int
    free: int
    dirty: int = 0
    used: int = 0
    dirty_first: int = 0
    dirty_end: int = 0


@dataclass(slots=True)
class VmapBlocks:
    """The blocks over `areas`, of `pages` pages each. Starts are bytes; O(blocks of the CPU) to allocate."""

    areas: VmapAreas
    pages: int
    page_bytes: int
    _blocks: dict[int, Block] = field(default_factory=dict)
    _lists: dict[int, list[Block]] = field(default_factory=dict)

    @property
    def block_bytes(self) -> int:
        """A block's size, and what it is aligned to."""
        return self.pages * self.page_bytes

    def __contains__(self, start: int) -> bool:
        return start & -self.block_bytes in self._blocks

    def blocks(self) -> tuple[Block, ...]:
        """Return all blocks that are not given up, by age."""
        return tuple(self._blocks.values())

    def allocate(self, cpu: int, pages: int) -> tuple[int, bool]:
        """Return the first address of `pages` pages, and whether a block had them ready.

        Raises OutOfRange for more than MOST_PAGES, NoAddressSpace when no block can be had.
        """
        if not 1 <= pages <= MOST_PAGES:
            raise OutOfRange(f"blocks serve 1 to {MOST_PAGES} pages, not {pages}")
        count = 1 << (pages - 1).bit_length()
        mine = self._lists.setdefault(cpu, [])
        block = next((block for block in mine if block.free >= count), None)
        ready = block is not None
        if block is None:
            start = self.areas.allocate(cpu, self.block_bytes, self.block_bytes)
            block = Block(start, cpu, self.pages)
            self._blocks[start] = block
            mine.append(block)
        at = self.pages - block.free
        block.free -= count
        block.used |= (1 << count) - 1 << at
        if not block.free:
            mine.remove(block)
        return block.start + at * self.page_bytes, ready

    def free(self, start: int, pages: int) -> bool:
        """Make what `allocate` returned dirty; return whether a drain is due. Raises NotAllocated."""
        count = 1 << (pages - 1).bit_length()
        block = self._blocks.get(start & -self.block_bytes)
        at = (start % self.block_bytes) // self.page_bytes
        mask = (1 << count) - 1 << at
        if block is None or block.used & mask != mask:
            raise NotAllocated(f"no block has {count} pages in use at {start:#x}")
        block.used &= ~mask
        if block.dirty_end:
            block.dirty_first = min(block.dirty_first, at)
            block.dirty_end = max(block.dirty_end, at + count)
        else:
            block.dirty_first, block.dirty_end = at, at + count
        block.dirty += count
        return block.dirty == self.pages and self._give_up(block)

    def _give_up(self, block: Block) -> bool:
        del self._blocks[block.start]
        if block.free:
            self._lists[block.cpu].remove(block)
        return self.areas.free(block.start)

    def purge(self, *, force: bool) -> int:
        """Give fragmented blocks up, all of them or those nearly used up; return how many."""
        found = [
            block
            for block in self._blocks.values()
            if block.free + block.dirty == self.pages
            and (force or block.free < self.pages // PURGE_SHARE)
        ]
        for block in found:
            self._give_up(block)
        return len(found)

    def take_dirty(self) -> tuple[int, int] | None:
        """Return the first and last address that blocks owe an invalidation for, which is now paid."""
        owing = [block for block in self._blocks.values() if block.dirty_end]
        if not owing:
            return None
        page = self.page_bytes
        first = min(block.start + block.dirty_first * page for block in owing)
        end = max(block.start + block.dirty_end * page for block in owing)
        for block in owing:
            block.dirty_first = block.dirty_end = 0
        return first, end - 1
