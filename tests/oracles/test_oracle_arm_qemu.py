"""The naive oracles of Arm are themselves judged: against QEMU's MMU, over random tables."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from typing import Any

import pytest

from oracles import arm32, arm64, unicorn_arm32, unicorn_arm64

K4, K16, K64 = 4096, 16384, 65536
BASE, SIZE = 0x4000_0000, 0x20_0000
ROOT = BASE + 0x10_0000  # a start table may have 16 * 64 KiB
SLOTS = 8
IMAGES, ADDRESSES = 40, 50
AF = 1 << 10

CONFIGS: list[dict[str, Any]] = [
    {},
    {"upper": True},
    {"t0sz": 25},
    {"t0sz": 39, "upper": True},
    {"t0sz": 33, "tbi": True},
    {"tbi": True, "upper": True, "hpd": True},
    {"two_levels": False},
    {"two_levels": False, "t0sz": 30, "hpd": True},
    {"granule": K16},
    {"granule": K16, "t0sz": 17, "upper": True},
    {"granule": K16, "t0sz": 28},
    {"granule": K16, "t0sz": 39},
    {"granule": K64},
    {"granule": K64, "t0sz": 22, "upper": True},
    {"granule": K64, "t0sz": 35},
    {"granule": K64, "two_levels": False, "t0sz": 20},
    {"stage": 2, "t0sz": 24, "start_level": 1, "xnx": False},
    {"stage": 2, "t0sz": 25, "start_level": 1, "xnx": False},
    {"stage": 2, "t0sz": 30, "start_level": 2, "xnx": False},
    {"stage": 2, "t0sz": 20, "start_level": 0, "xnx": False},
    {"stage": 2, "granule": K16, "t0sz": 24, "start_level": 2, "xnx": False},
    {"stage": 2, "granule": K16, "t0sz": 24, "start_level": 1, "xnx": False},
    {"stage": 2, "granule": K64, "t0sz": 31, "start_level": 3, "xnx": False},
    {"stage": 2, "granule": K64, "t0sz": 24, "start_level": 2, "xnx": False},
]


def random_descriptor(rng: random.Random, granule: int) -> int:
    """Return a descriptor that leads to some table often, and permits much often."""
    kind = rng.choice((0b11, 0b11, 0b11, 0b11, 0b11, 0b11, 0b01, 0b01, 0b10, 0b00))
    table = BASE + rng.randrange(SLOTS) * K64 + rng.randrange(K64 // granule) * granule
    address = table if rng.random() < 0.85 else rng.getrandbits(48)
    high = rng.getrandbits(12) << 51
    if rng.random() < 0.7:
        high &= ~(0b11 << 53)
    if rng.random() < 0.15:
        high |= 1 << rng.randrange(59, 64)
    low = rng.getrandbits(10) << 2 | (AF if rng.random() < 0.9 else 0)
    return (address & ~0xFFF) | high | low | kind


class Image:
    """Tables that grow where a walk looks."""

    def __init__(self, rng: random.Random, config: dict[str, Any]) -> None:
        self.rng = rng
        self.config = config
        self.entries: dict[int, int] = {}

    def read(self, address: int, size: int) -> int | None:
        assert (size, address % 8) == (8, 0)
        if not BASE <= address < BASE + SIZE:
            return None
        granule = self.config.get("granule", K4)
        return self.entries.setdefault(address, random_descriptor(self.rng, granule))

    def address(self) -> int:
        """Return an address that the tables translate, or hardly ever another."""
        size = 64 - self.config.get("t0sz", 16)
        va = self.rng.getrandbits(size)
        if self.config.get("upper"):
            va |= (1 << 64) - (1 << size)
        if self.rng.random() < 0.1:
            va ^= 1 << self.rng.randrange(size, 48 if self.config.get("stage") == 2 else 64)
        return va


def address_in_qemu(result: arm64.Result, granule: int) -> int:
    """Return the address with the bits that QEMU leaves of a block's descriptor below its size."""
    assert result.pa is not None
    assert result.page_size is not None
    below = result.path[-1][2] % result.page_size
    return result.pa | below // granule * granule


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_the_naive_oracle_and_qemu_give_the_same_address_or_both_a_fault(
    config: dict[str, Any],
) -> None:
    mmu = unicorn_arm64.Mmu(BASE, SIZE, **config)
    counts: Counter[str] = Counter()
    stage2, single = config.get("stage") == 2, not config.get("two_levels", True)
    users = (False,) if single else (False, True)
    flags = (False,) if stage2 else (False, True)
    for seed in range(IMAGES):
        image = Image(random.Random(f"{config} {seed}"), config)
        walks = [
            (va, arm64.walk(image.read, ROOT, va, **config))
            for va in (image.address() for _ in range(ADDRESSES))
        ]
        mmu.fill(image.entries, ROOT)
        counts.update(result.outcome for _, result in walks)
        counts.update(str(result.page_size) for _, result in walks)
        counts.update(str(result.reason) for _, result in walks)
        # QEMU takes a block at any level: there is nothing to compare.
        judged = [pair for pair in walks if pair[1].reason != "no blocks at this level"]
        for user, wxn, pan in itertools.product(users, flags, flags):
            for (va, result), access in itertools.product(judged, "rwx"):
                expected = None
                if result.outcome == "ok" and arm64.allowed(result, access, user, wxn, pan):
                    expected = address_in_qemu(result, config.get("granule", K4))
                got = mmu.translate(va, access, user, wxn, pan)
                assert got == expected, (seed, hex(va), access, user, wxn, pan, result)
                if result.outcome == "ok":
                    counts[f"{access} {expected is not None}"] += 1
    assert_all_seen(config, counts)


def assert_all_seen(config: dict[str, Any], counts: Counter[str]) -> None:
    """Assert that no outcome, no size and no verdict was missing."""
    least = {"ok": 150, "not_present": 150, "not_canonical": 30, "access_flag": 5, "invalid": 100}
    least |= {f"{access} {verdict}": 50 for access in "rwx" for verdict in (True, False)}
    if not config.get("two_levels", True):
        least["r False"] = 0
    granule = config.get("granule", K4)
    size = 64 - config.get("t0sz", 16)
    bits, stride = arm64.GRANULE_BITS[granule], arm64.STRIDE[granule]
    least[str(granule)] = 50
    start = config.get("start_level", 0)
    if size > bits + stride and start < 3:
        least |= {str(granule << stride): 25, "bus": 30}
    if granule == K4 and size > bits + 2 * stride and start < 2:
        least[str(1 << 30)] = 25
    assert all(counts[name] >= number for name, number in least.items()), (least, counts)


CONFIGS_32: list[dict[str, Any]] = [
    {"descriptors": "short"},
    {"descriptors": "short", "afe": True},
    {"descriptors": "short", "n": 3},
    {"descriptors": "short", "n": 7, "afe": True},
    {"descriptors": "short", "n": 2, "upper": True},
    {"descriptors": "long", "armv8": False},
    {"descriptors": "long", "armv8": False, "tsz": 1},
    {"descriptors": "long", "armv8": False, "tsz": 3},
    {"descriptors": "long", "armv8": False, "tsz": 7, "hpd": True},
    {"descriptors": "long", "armv8": False, "tsz": 1, "upper": True},
    {"descriptors": "long", "armv8": False, "tsz": 4, "upper": True},
]


def random_short(rng: random.Random) -> int:
    """Return a first-level or second-level descriptor: what is a table to one is a page to other."""
    address = BASE + rng.randrange(1 << 7) * 0x400 if rng.random() < 0.8 else rng.getrandbits(32)
    return (address & ~0x3FF) | rng.getrandbits(8) << 2 | rng.choice((1, 1, 1, 2, 2, 3, 0))


class Image32(Image):
    """Tables of AArch32 that grow where a walk looks."""

    def read(self, address: int, size: int) -> int | None:
        assert address % size == 0
        if not BASE <= address < BASE + SIZE:
            return None
        if size == 4:
            return self.entries.setdefault(address, random_short(self.rng))
        return self.entries.setdefault(address, random_descriptor(self.rng, K4))

    def address(self) -> int:
        bits = self.config.get("n", self.config.get("tsz", 0))
        va = self.rng.getrandbits(32 - bits)
        if self.config.get("upper"):
            va |= (1 << 32) - (1 << 32 - bits)
        if bits and self.rng.random() < 0.1:
            va ^= 1 << self.rng.randrange(32 - bits, 32)
        return va

    def content(self) -> bytes:
        size = 4 if self.config["descriptors"] == "short" else 8
        content = bytearray(SIZE)
        for address, value in self.entries.items():
            content[address - BASE : address - BASE + size] = value.to_bytes(size, "little")
        return bytes(content)


@pytest.mark.parametrize("config", CONFIGS_32, ids=str)
def test_the_naive_oracle_and_qemu_agree_on_aarch32(config: dict[str, Any]) -> None:
    counts: Counter[str] = Counter()
    long = config["descriptors"] == "long"
    for seed in range(IMAGES):
        rng = random.Random(f"{config} {seed}")
        image = Image32(rng, config)
        walks = [
            (va, arm32.walk(image.read, ROOT, va, **config))
            for va in (image.address() for _ in range(ADDRESSES))
        ]
        dacr, wxn, uwxn = rng.getrandbits(32), long and seed % 2 > 0, long and seed % 4 > 1
        # QEMU does not look at the Access flag in a manager's domain: there is none then.
        dacr &= arm32.ALL_CLIENTS if config.get("afe") else dacr
        mmu = unicorn_arm32.Mmu((BASE, image.content()), ROOT, config, dacr, wxn, uwxn)
        counts.update(result.outcome for _, result in walks)
        counts.update(str(result.page_size) for _, result in walks)
        for user, (va, result), access in itertools.product((False, True), walks, "rwx"):
            expected = None
            if result.outcome == "ok" and arm32.allowed(result, access, user, dacr, wxn, uwxn):
                pa = address_in_qemu(result, K4) if long else result.pa
                assert pa is not None
                expected = pa % (1 << 32)
            got = mmu.translate(va, access, user)
            assert got == expected, (seed, hex(va), access, user, dacr, wxn, uwxn, result)
            if result.outcome == "ok":
                counts[f"{access} {user} {expected is not None}"] += 1
    assert_all_seen_32(config, counts)


def assert_all_seen_32(config: dict[str, Any], counts: Counter[str]) -> None:
    """Assert that no outcome, no size and no verdict was missing."""
    long = config["descriptors"] == "long"
    least = {"ok": 500, "not_present": 300, "bus": 100, "access_flag": 0, "not_canonical": 0}
    verdicts = itertools.product("rwx", (True, False), (True, False))
    least |= {f"{access} {user} {verdict}": 50 for access, user, verdict in verdicts}
    if long:
        # PL1 reads whatever there is.
        least["r False False"] = 0
    if long or config.get("afe"):
        least["access_flag"] = 30
    # With N = 2 and high ones, no single bit makes an address that of TTBR0.
    if not config.get("upper") and config.get("n", config.get("tsz", 0)):
        least["not_canonical"] = 150
    sizes = [4 << 10, 2 << 20] if long else [4 << 10, 64 << 10, 1 << 20, 16 << 20]
    if long and config.get("tsz", 0) < 2:
        sizes.append(1 << 30)
    least |= {str(size): 20 for size in sizes}
    assert all(counts[name] >= number for name, number in least.items()), (least, counts)
