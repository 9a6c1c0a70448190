"""Table images that look like page tables, and addresses that reach into them.

Uniformly random words translate almost nothing: the first entry is absent half of the time, breaks
a reserved-bit rule nearly always, and points outside memory otherwise. Here most entries are sound
(a table of the next level, or a leaf), some are corrupted in one way each, and addresses follow
present entries. `histogram` says what a set of images reaches, so that a test can refuse to pass
vacuously.

Bit positions follow the Intel SDM, volume 3A, chapter "Paging", as in x86_64.py beside this file.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from hypothesis import strategies as st

from oracles import x86_64

FRAME = 4096
SLOTS = 512
TOP_OF_64_BITS = (1 << 64) - 1

# Slots where off-by-one and sign mistakes show: both ends and both sides of the canonical hole.
CORNER_SLOTS = (0, 1, 255, 256, 510, 511)

ADDRESS_BITS = ((1 << 52) - 1) - (FRAME - 1)
P, R_W, U_S, A, D, PS, G = (1 << position for position in (0, 1, 2, 5, 6, 7, 8))
XD = 1 << 63


@dataclass(frozen=True)
class Image:
    """Memory that holds tables: `data` lies at physical address `base`, `root` is inside it.

    The frames of `data` whose numbers are in `missing` are holes.
    """

    levels: int
    maxphyaddr: int
    nxe: bool
    encryption_mask: int
    base: int
    data: bytes
    root: int
    addresses: tuple[int, ...]
    missing: frozenset[int] = frozenset()

    def read8(self, pa: int) -> int | None:
        """Return the entry at pa, or None outside memory."""
        start = pa - self.base
        if start < 0 or start + 8 > len(self.data) or start // FRAME in self.missing:
            return None
        return int.from_bytes(self.data[start : start + 8], "little")

    def walk(self, va: int) -> x86_64.Result:
        """Walk with the naive oracle under this image's parameters."""
        return x86_64.walk(
            self.read8,
            self.root,
            va,
            self.levels,
            self.maxphyaddr,
            self.nxe,
            self.encryption_mask,
        )


@dataclass(frozen=True)
class Shape:
    """What an image should be like; the defaults suit walks, `SMALL` suits full listings."""

    levels: int = 4
    maxphyaddr: int = 40
    nxe: bool = True
    encryption_mask: int = 0
    frames: int = 48
    slots: int = 12
    addresses: int = 64
    corruption: float = 0.16


def small(levels: int = 4, maxphyaddr: int = 40, nxe: bool = True) -> Shape:
    """Return a shape whose every leaf a brute listing can visit."""
    return Shape(levels, maxphyaddr, nxe, frames=12, slots=4, addresses=16)


class _Builder:
    """Fills the frames of one image; `depth` counts paging structures from the root (0)."""

    def __init__(self, rng: random.Random, shape: Shape) -> None:
        self.rng = rng
        self.shape = shape
        size = shape.frames * FRAME
        choices = [0, FRAME, 0x10_0000, 0x1_0000_0000, (1 << shape.maxphyaddr) - size]
        # Memory itself never has the encryption bit in its addresses.
        fits = [base & ~shape.encryption_mask for base in choices]
        self.base = rng.choice([base for base in fits if base + size <= 1 << shape.maxphyaddr])
        self.words: dict[tuple[int, int], int] = {}
        self.depth_of_frame = [0] + [
            rng.randrange(1, shape.levels) for _ in range(shape.frames - 1)
        ]
        # Every depth has at least one frame of its own, whatever the dice said.
        for depth in range(1, shape.levels):
            self.depth_of_frame[depth] = depth

    def frame_address(self, frame: int) -> int:
        return self.base + frame * FRAME

    def frames_at(self, depth: int) -> list[int]:
        return [frame for frame, at in enumerate(self.depth_of_frame) if at == depth]

    def flags(self, leaf: bool) -> int:
        rng = self.rng
        value = P
        value |= R_W if rng.random() < 0.88 else 0
        value |= U_S if rng.random() < 0.88 else 0
        if self.shape.nxe:
            value |= XD if rng.random() < (0.2 if leaf else 0.05) else 0
        elif rng.random() < 0.02:
            value |= XD
        # Cache, accessed, software and ignored bits: none of them may change a walk.
        value |= rng.getrandbits(2) << 3 | rng.getrandbits(1) * A | rng.getrandbits(3) << 9
        value |= rng.getrandbits(11) << 52
        if leaf:
            value |= rng.getrandbits(1) * D | rng.getrandbits(1) * G
        value &= ~self.shape.encryption_mask
        if rng.random() < 0.5:
            value |= self.shape.encryption_mask
        return value

    def table(self, depth: int) -> int:
        """Point at a frame of the next depth (shared freely), seldom at any frame (self-maps)."""
        rng = self.rng
        if rng.random() < 0.06:
            frame = rng.randrange(self.shape.frames)
        else:
            frame = rng.choice(self.frames_at(depth + 1))
        return self.frame_address(frame) | self.flags(leaf=False)

    def leaf(self, depth: int) -> int:
        """Map a page of the size that this depth can map."""
        rng = self.rng
        low = x86_64.STRUCTURES[self.shape.levels][depth][2]
        frames = 1 << (self.shape.maxphyaddr - low)
        number = rng.choice([0, frames - 1, rng.randrange(frames), rng.randrange(min(frames, 64))])
        address = (number << low) & ~self.shape.encryption_mask
        value = address | self.flags(leaf=True)
        if low == 12:
            return value | rng.getrandbits(1) << x86_64.PAT_OF_4K_PAGE
        return value | PS | rng.getrandbits(1) << x86_64.PAT_OF_LARGE_PAGE

    def may_be_leaf(self, depth: int) -> bool:
        name = x86_64.STRUCTURES[self.shape.levels][depth][0]
        return name in ("PDPTE", "PDE", "PTE")

    def sound(self, depth: int) -> int:
        last = depth == self.shape.levels - 1
        if last or (self.may_be_leaf(depth) and self.rng.random() < 0.25):
            return self.leaf(depth)
        return self.table(depth)

    def corrupt(self, depth: int) -> int:
        """Break one thing."""
        rng = self.rng
        entry = self.sound(depth)
        kind = rng.choice(("absent", "reserved", "outside", "page_size", "absent", "reserved"))
        if kind == "absent":
            # A swapped-out page keeps its other bits, reserved or not.
            return (entry | rng.getrandbits(64)) & ~P
        if kind == "outside" and depth < self.shape.levels - 1:
            frames = 1 << (self.shape.maxphyaddr - 12)
            address = rng.choice(
                [self.frame_address(self.shape.frames), rng.randrange(frames) << 12]
            )
            address &= ((1 << self.shape.maxphyaddr) - FRAME) & ~self.shape.encryption_mask
            return (entry & ~(ADDRESS_BITS | PS)) | address
        if kind == "page_size":
            return entry ^ PS
        return entry | 1 << rng.choice(self.reserved_positions(depth, entry))

    def reserved_positions(self, depth: int, entry: int) -> list[int]:
        """Return the bits that this entry must not set (or bit 51, which may be an address bit)."""
        name, _, low = x86_64.STRUCTURES[self.shape.levels][depth]
        positions = list(range(self.shape.maxphyaddr, 52)) or [51]
        if name in ("PDPTE", "PDE") and entry & PS:
            positions += [13, low - 1, self.rng.randrange(13, low)]
        if name in ("PML5E", "PML4E"):
            positions += [7]
        if not self.shape.nxe:
            positions += [63]
        return positions

    def fill(self) -> None:
        rng = self.rng
        for frame, depth in enumerate(self.depth_of_frame):
            slots = set(rng.sample(CORNER_SLOTS, min(3, self.shape.slots)))
            while len(slots) < self.shape.slots:
                slots.add(rng.randrange(SLOTS))
            # The root is mostly sound, or every address would end there.
            chance = self.shape.corruption * (0.5 if depth == 0 else 1.0)
            for slot in slots:
                broken = rng.random() < chance
                self.words[frame, slot] = self.corrupt(depth) if broken else self.sound(depth)
            self.continue_a_run(frame, depth, max(slots))

    def continue_a_run(self, frame: int, depth: int, slot: int) -> None:
        """Repeat a leaf in the next slots with the next addresses, so that listings can merge."""
        low = x86_64.STRUCTURES[self.shape.levels][depth][2]
        entry = self.words[frame, slot]
        is_leaf = depth == self.shape.levels - 1 or (self.may_be_leaf(depth) and entry & PS)
        if not is_leaf or not entry & P:
            return
        for step in range(1, self.rng.randrange(1, 5)):
            if slot + step < SLOTS:
                address = ((entry & ADDRESS_BITS) + (step << low)) & ADDRESS_BITS
                self.words[frame, slot + step] = (entry & ~ADDRESS_BITS) | address

    def data(self) -> bytes:
        image = bytearray(self.shape.frames * FRAME)
        for (frame, slot), word in self.words.items():
            start = frame * FRAME + slot * 8
            image[start : start + 8] = word.to_bytes(8, "little")
        return bytes(image)

    def slots_of_frames(self) -> list[list[int]]:
        filled: list[list[int]] = [[] for _ in self.depth_of_frame]
        for frame, slot in self.words:
            filled[frame].append(slot)
        return filled

    def address(self, slots_of_frame: list[list[int]]) -> int:
        """Follow filled slots down, then pick an offset; sometimes step out or off the map."""
        rng = self.rng
        va, frame, low = 0, 0, 12
        structures = x86_64.STRUCTURES[self.shape.levels]
        for depth, (_, _, low) in enumerate(structures):
            inside = 0 <= frame < self.shape.frames
            filled = slots_of_frame[frame] if inside else []
            stray = not filled or rng.random() < 0.03
            slot = rng.randrange(SLOTS) if stray else rng.choice(filled)
            va += slot << low
            entry = self.words.get((frame, slot), 0)
            if depth == len(structures) - 1 or entry & PS or not entry & P:
                break
            address = entry & ADDRESS_BITS & ~self.shape.encryption_mask
            frame = (address - self.base) >> 12
        size = 1 << low
        va += rng.choice([0, 1, size - 1, size - 8, rng.randrange(size), rng.randrange(size)])
        va = x86_64.sign_extend(va, self.shape.levels)
        if rng.random() < 0.08:
            # The last byte before and the first byte after the leaf.
            va = ((va & ~(size - 1)) + rng.choice([-1, size])) & TOP_OF_64_BITS
        if rng.random() < 0.06:
            highest = structures[0][1]
            va ^= 1 << rng.randrange(highest, 64)
        return va


def image(rng: random.Random, shape: Shape | None = None) -> Image:
    """Build one plausible image from a seeded generator."""
    builder = _Builder(rng, shape or Shape())
    builder.fill()
    slots_of_frame = builder.slots_of_frames()
    addresses = [builder.address(slots_of_frame) for _ in range(builder.shape.addresses)]
    return Image(
        levels=builder.shape.levels,
        maxphyaddr=builder.shape.maxphyaddr,
        nxe=builder.shape.nxe,
        encryption_mask=builder.shape.encryption_mask,
        base=builder.base,
        data=builder.data(),
        root=builder.base,
        addresses=(*addresses, 0, TOP_OF_64_BITS),
    )


def noise(rng: random.Random, frames: int = 16, steer: float = 0.9) -> bytes:
    """Return frames of uniformly random words, most of them steered to point at these frames.

    With base 0, `steer` is the share of words whose address bits are cut to the image, so that
    walks meet loops, self-maps and every bit pattern instead of leaving memory at once.
    """
    data = bytearray(rng.randbytes(frames * FRAME))
    keep = FRAME - 1 | ((1 << 12) - 1) << 52
    for start in range(0, len(data), 8):
        if rng.random() < steer:
            word = int.from_bytes(data[start : start + 8], "little") & keep
            word |= rng.randrange(frames) << 12 | P
            data[start : start + 8] = word.to_bytes(8, "little")
    return bytes(data)


def histogram(images: Iterable[Image]) -> Counter[str]:
    """Count the naive oracle's outcomes over all addresses of all images."""
    counts: Counter[str] = Counter()
    for one in images:
        counts.update(one.walk(va).outcome for va in one.addresses)
    return counts


def assert_spread(counts: Counter[str], least: float, names: Iterable[str]) -> None:
    """Print the shares and insist that every named outcome has at least `least` of the total."""
    total = sum(counts.values())
    print("  ".join(f"{name} {counts[name] / total:.1%}" for name in sorted(counts)), f"of {total}")
    for name in names:
        assert counts[name] >= least * total, f"{name}: {counts[name]} of {total}: {dict(counts)}"


def images(shape: Shape | None = None) -> st.SearchStrategy[Image]:
    """Hypothesis strategy of images; it shrinks towards small seeds, not towards small tables."""
    return st.integers(0, (1 << 32) - 1).map(lambda seed: image(random.Random(seed), shape))
