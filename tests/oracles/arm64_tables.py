"""Random VMSAv8-64 tables for differential tests: plausible enough that walks go deep, wild enough to fault.

Each level has a few tables of its own; each table has random descriptors at the same few indices, so that
addresses made of those indices meet them. Arm ARM (DDI 0487), "Translation table descriptor formats".
"""

from __future__ import annotations

import random
from dataclasses import dataclass

GRANULE_LG2 = {"4K": 12, "16K": 14, "64K": 16}
TABLES_PER_LEVEL = 2
# Descriptor types, bits 1:0.
INVALID, BLOCK, TABLE_OR_PAGE = (0b00, 0b10), 0b01, 0b11
ADDRESS_BITS = 48
# Where bits 51:48 of an address are, with FEAT_LPA and with FEAT_LPA2.
HIGH_ADDRESS_BITS = {"": 0, "lpa": 0xF << 12, "lpa2": 0b11 << 48 | 0b11 << 8}
# "Block descriptor" levels, counted from the last level, with 48-bit addresses.
BLOCK_LEVELS = {"4K": (1, 2), "16K": (1,), "64K": (1,)}
AF = 1 << 10


@dataclass(frozen=True)
class Image:
    """Bytes at physical address `base`; `root` of the tables; addresses that meet their descriptors."""

    data: bytes
    base: int
    root: int
    addresses: tuple[int, ...]

    def read(self, address: int, size: int) -> int | None:
        """Return a little-endian word, None outside the image."""
        offset = address - self.base
        if not 0 <= offset <= len(self.data) - size:
            return None
        return int.from_bytes(self.data[offset : offset + size], "little")


def levels_of(granule: str, input_bits: int) -> int:
    """How many levels a walk of so many bits has without concatenation."""
    page = GRANULE_LG2[granule]
    return -(-(input_bits - page) // (page - 3))


def random_image(
    rng: random.Random,
    granule: str,
    input_bits: int,
    *,
    base: int,
    levels: int | None = None,
    outputs: tuple[int, ...] = (),
    wild: float = 0.15,
    blocks_anywhere: bool = False,
    wide: str = "",
) -> Image:
    """Return tables of `levels` levels (None: as many as the input needs), the root first.

    `outputs`: page addresses that leaves of the last level point to (none: any); `wild`: the share of
    descriptors that are invalid or have no Access flag; `blocks_anywhere`: also where no level can have any;
    `wide`: "lpa" or "lpa2", where other bits are address bits too.
    """
    page = GRANULE_LG2[granule]
    count = levels or levels_of(granule, input_bits)
    widths = [page - 3] * (count - 1) + [input_bits - page - (count - 1) * (page - 3)]
    top_tables = max(1, 8 << widths[-1] >> page)  # concatenated, where the top index is wide
    sizes = [TABLES_PER_LEVEL] * (count - 1) + [top_tables]
    first = [sum(sizes[n + 1 :]) for n in range(count)]  # the number of each level's first table
    data = bytearray(sum(sizes) << page)
    indices = [_indices(width) for width in widths]
    for level in range(count):
        tables = 1 if level == count - 1 else sizes[level]
        for table in range(tables):
            start = (first[level] + table) << page
            for index in indices[level]:
                below = base + (first[level - 1] + rng.randrange(2) << page) if level else None
                block = blocks_anywhere or level in (0, *BLOCK_LEVELS[granule])
                value = _descriptor(
                    rng, below, page + level * (page - 3), outputs, wild, block, wide
                )
                data[start + 8 * index : start + 8 * index + 8] = value.to_bytes(8, "little")
    root = base + (first[count - 1] << page)
    addresses = tuple(_address(rng, page, indices, input_bits) for _ in range(120))
    return Image(bytes(data), base, root, addresses)


def _indices(width: int) -> list[int]:
    most = (1 << width) - 1
    return sorted(
        {0, 1, 2, 3, most, most // 2, most // 3 & ~1, most // 3 | 1} & set(range(most + 1))
    )


def _address(rng: random.Random, page: int, indices: list[list[int]], input_bits: int) -> int:
    found = rng.randrange(1 << page) & ~7
    for level, known in enumerate(indices):
        found |= rng.choice(known) << page + level * (page - 3)
    if rng.random() < 0.05:
        found ^= 1 << rng.randrange(input_bits - 1, 55)
    return found


def _descriptor(
    rng: random.Random,
    below: int | None,
    shift: int,
    outputs: tuple[int, ...],
    wild: float,
    block: bool,
    wide: str = "",
) -> int:
    attributes = rng.getrandbits(64) & ~((1 << ADDRESS_BITS) - 1 & ~0xFFF) & ~0b11 | AF
    # Bits 50:48 are RES0: an MMU with wider addresses would read them as address.
    attributes &= ~(0b111 << ADDRESS_BITS)
    if rng.random() < 0.6:
        attributes &= ~(0xF8 << 56)  # the tables' own limits: rarely, or nothing is left of a right
    if rng.random() < wild:
        attributes &= ~AF
    kind = rng.choices(
        (rng.choice(INVALID), BLOCK, TABLE_OR_PAGE), weights=(wild, 0.15 * block, 1 - wild)
    )[0]
    anywhere = rng.getrandbits(ADDRESS_BITS) >> shift << shift
    address = rng.choice(outputs) if outputs and below is None else anywhere
    high = HIGH_ADDRESS_BITS[wide]
    attributes = attributes & ~high | rng.getrandbits(64) & high
    if below is not None and kind == TABLE_OR_PAGE:
        address = below
        attributes &= ~high if rng.random() < 0.97 else -1  # the tables lie low
    return attributes | address | kind
