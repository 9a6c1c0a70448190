"""EPT, VT-d, AMD IOMMU and DART against oracles that were written from the manuals, on random tables.

No machine to ask is at hand for these. The same random pages are read by both: outcomes, entries read,
addresses, page sizes and rights must be the same.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

from oracles import amd_iommu, dart, ept, vtd
from ptcore import PageTable, PhysicalMemory, formats
from ptcore.errors import Fault
from ptcore.formats import Format

BASE = 0x10_0000
FRAMES = 24
IMAGES = 60
ADDRESSES = 150
Entry = Callable[[random.Random], int]


def frame(rng: random.Random, frame_lg2: int = 12, beyond: int = 1) -> int:
    """An address of the image, now and then of the frame after it."""
    return BASE + (rng.randrange(FRAMES + beyond) << frame_lg2)


def flipped(rng: random.Random, value: int, share: float) -> int:
    """The value with random bits flipped, in a share of the cases."""
    while rng.random() < share:
        value ^= 1 << rng.randrange(64)
    return value


def ept_entry(rng: random.Random) -> int:
    value = rng.choice((0, 1, 2, 3, 4, 5, 6, 7, 7, 7, 7, 7, 7, 7)) | frame(rng)
    value |= rng.choice((0, 0, 0, 0x80, 0x80 | 6 << 3, 6 << 3)) | rng.choice((0, 1 << 10))
    value = value & ~0x3FFFF000 if value & 0x80 and rng.random() < 0.5 else value
    return flipped(rng, value, 0.15)


def vtd_entry(rng: random.Random) -> int:
    value = rng.choice((0, 1, 2, 3, 3, 3, 3, 3, 3, 3)) | frame(rng) | rng.choice((0, 0, 0, 0x80))
    value = value & ~0x3FFFF000 if value & 0x80 and rng.random() < 0.7 else value
    return flipped(rng, value, 0.15)


def amd_entry(rng: random.Random) -> int:
    address = frame(rng)
    kind = rng.choice((0, 0, 7, 7, 1, 1, 1, 2, 2, 3, 3, 4, 5, 6))
    if kind == 7:
        size = rng.randrange(13, 53)
        address = rng.getrandbits(52) >> size << size | ((1 << size - 13) - 1) << 12
    value = (
        rng.choice((0, 1, 2, 3, 3, 3, 3, 3, 3, 3)) << 61
        | address
        | kind << 9
        | (rng.random() < 0.9)
    )
    return flipped(rng, value, 0.2)


def dart_entry(version: int, page_lg2: int) -> Entry:
    whole = 0xFFF << 40

    def entry(rng: random.Random) -> int:
        address = frame(rng, page_lg2)
        value = (address >> 4 if version == 2 else address) | (rng.random() < 0.9)
        value |= rng.choice((whole, whole, whole, 0xFFE << 40, 1 << 52 | whole))
        if version == 1:
            value |= rng.choice((0, 2)) | rng.choice((0, 1 << 7, 1 << 8))
        else:
            value |= rng.choice((0, 1 << 2, 1 << 3))
        return value

    return entry


def image(rng: random.Random, entry: Entry, frame_lg2: int) -> tuple[bytes, list[int]]:
    """Frames that have entries at a few indices, and those indices."""
    count = (1 << frame_lg2) // 8
    indices = sorted({0, 1, 2, 5, count - 1, rng.randrange(count)})
    data = bytearray(FRAMES << frame_lg2)
    for number in range(FRAMES):
        for index in indices:
            at = (number << frame_lg2) + 8 * index
            data[at : at + 8] = entry(rng).to_bytes(8, "little")
    return bytes(data), indices


def address(rng: random.Random, fmt: Format, indices: list[int]) -> int:
    found = rng.randrange(1 << fmt.granule_lg2)
    for level in fmt.levels:
        index = rng.choice((0, *indices)) & ((1 << level.bits) - 1)
        found |= index << level.shift
    return found ^ (rng.random() < 0.02 and fmt.input_bits < 64) << fmt.input_bits


def rights_of(oracle: ModuleType, result: Any) -> dict[tuple[str, bool], bool]:
    return {
        (access, user): oracle.allowed(result, access, user)
        for access in "rwx"
        for user in (False, True)
    }


def translates(table: PageTable, va: int, access: str, user: bool) -> bool:
    try:
        table.translate(va, access, user)
    except Fault:
        return False
    return True


def check(
    oracle: ModuleType,
    fmt: Format,
    entry: Entry,
    outcome: Callable[[Any], str],
    seen: Counter[str],
    physical_bits: int | None = None,
    **config: Any,
) -> None:
    rng = random.Random(f"{fmt.name} {fmt.parameters}")
    frame_lg2 = fmt.table_bytes(0).bit_length() - 1
    for _ in range(IMAGES):
        data, indices = image(rng, entry, frame_lg2)
        table = PageTable(
            fmt, PhysicalMemory.from_buffer(data, start=BASE), BASE, physical_bits=physical_bits
        )

        def read(at: int, size: int, data: bytes = data) -> int | None:
            if not 0 <= at - BASE <= len(data) - size:
                return None
            return int.from_bytes(data[at - BASE : at - BASE + size], "little")

        for _ in range(ADDRESSES):
            va = address(rng, fmt, indices)
            theirs = oracle.walk(read, BASE, va, **config)
            ours = table.walk(va)
            expected = outcome(theirs)
            assert ours.status.name.lower() == expected, (hex(va), theirs, ours)
            entries = [(step.entry_address, step.entry) for step in ours.path]
            assert entries == [(at, value) for _, at, value in theirs.path]
            seen[expected] += 1
            if expected != "ok":
                continue
            size = getattr(theirs, "entry_size", None) or theirs.page_size
            assert (ours.pa, ours.page_size) == (theirs.pa, size), (hex(va), theirs, ours)
            for (access, user), fine in rights_of(oracle, theirs).items():
                assert translates(table, va, access, user) == fine, (hex(va), access, theirs)
                seen[f"{access}{fine}"] += 1


def assert_seen(seen: Counter[str], *names: str) -> None:
    assert all(seen[name] > 30 for name in names), seen


@pytest.mark.parametrize("levels", [4, 5])
@pytest.mark.parametrize("mbec", [False, True])
@pytest.mark.parametrize("execute_only", [False, True])
def test_ept_agrees_with_the_manual(levels: int, mbec: bool, execute_only: bool) -> None:
    seen = Counter[str]()
    for page1g in (False, True):
        fmt = formats.get(
            f"ept_{levels}level", mbec=mbec, execute_only=execute_only, pages_1g=page1g
        )
        config = {"levels": levels, "mbec": mbec, "execute_only": execute_only, "page1g": page1g}

        def outcome(result: Any) -> str:
            # To ptcore both are misconfigurations: the exit is the same.
            broken = result.outcome in ("reserved_bits", "misconfigured")
            return "misconfigured" if broken else str(result.outcome)

        check(ept, fmt, ept_entry, outcome, seen, 46, maxphyaddr=46, **config)
    assert_seen(seen, "ok", "not_present", "misconfigured", "not_canonical", "bus")
    assert_seen(seen, *(f"{access}True" for access in "rwx"), "wFalse", "xFalse")
    assert (seen["rFalse"] > 30) == execute_only, seen


@pytest.mark.parametrize("levels", [3, 4, 5])
def test_vtd_agrees_with_the_manual(levels: int) -> None:
    seen = Counter[str]()
    for page1g in (False, True):
        fmt = formats.get(f"vtd_ss_{levels}level", pages_1g=page1g)
        config = {"levels": levels, "page1g": page1g, "haw": 46}
        check(vtd, fmt, vtd_entry, lambda result: str(result.outcome), seen, 46, **config)
    assert_seen(seen, "ok", "not_present", "reserved_bits", "not_canonical", "bus")
    assert_seen(seen, *(f"{access}{fine}" for access in "rw" for fine in (True, False)))


@pytest.mark.parametrize("levels", [1, 2, 3, 4, 5, 6])
def test_amd_iommu_agrees_with_the_manual(levels: int) -> None:
    def outcome(result: Any) -> str:
        # Illegal levels and sizes: an item that is neither table nor leaf.
        return "reserved_bits" if result.outcome == "misconfigured" else str(result.outcome)

    seen = Counter[str]()
    fmt = formats.get("amd_iommu_v1", levels=levels, hole_512g=False)
    check(amd_iommu, fmt, amd_entry, outcome, seen, levels=levels)
    assert_seen(seen, "ok", "not_present", "reserved_bits")
    assert levels == 1 or seen["bus"] > 30, seen
    assert levels == 6 or seen["not_canonical"] > 30, seen
    assert_seen(seen, *(f"{access}{fine}" for access in "rw" for fine in (True, False)))


@pytest.mark.parametrize(
    ("version", "granule", "levels"), [(1, "4K", 2), (1, "4K", 3), (1, "16K", 2), (2, "16K", 3)]
)
def test_dart_agrees_with_the_drivers(version: int, granule: str, levels: int) -> None:
    def outcome(result: Any) -> str:
        # ptcore reads leaves that grant the whole page; one that grants a part of it is no leaf there.
        part = result.outcome == "ok" and result.subpage != (0, result.page_size - 1)
        return "reserved_bits" if part else str(result.outcome)

    seen = Counter[str]()
    fmt = formats.get(f"dart_v{version}", granule=granule, levels=levels)
    page_size = 1 << fmt.granule_lg2
    entry = dart_entry(version, fmt.granule_lg2)
    config = {"version": version, "page_size": page_size, "levels": levels}
    check(dart, fmt, entry, outcome, seen, **config)
    assert_seen(seen, "ok", "not_present", "reserved_bits", "not_canonical", "bus")
    assert_seen(seen, *(f"{access}{fine}" for access in "rw" for fine in (True, False)))
