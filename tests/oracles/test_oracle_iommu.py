"""The naive oracles of VT-d, AMD IOMMU and DART tables are themselves judged, by worked examples.

There is no machine to ask, so every format has examples that were worked out by hand, and random
tables, in which a right that one entry loses is lost to the translation.
"""

from __future__ import annotations

import random
from collections import Counter

import pytest

from oracles import amd_iommu, dart, vtd
from oracles.sparse_memory import ADDRESS, ROOT, WALKS, Words, memory, patched, random_memory

RW = 3 << 61  # AMD: IR and IW

# VT-d ---------------------------------------------------------------------------------------------

VTD_4K = {0x1008: 0x2003, 0x2010: 0x3003, 0x3018: 0x4003, 0x4020: 0xABCD_E003}


def vtd_walk(changes: Words, address: int = ADDRESS, **config: int) -> vtd.Result:
    return vtd.walk(memory(VTD_4K | changes), ROOT, address, **config)


def test_vtd_walks_three_four_and_five_levels() -> None:
    result = vtd_walk({})
    assert [name for name, _, _ in result.path] == ["SS-PML4E", "SS-PDPE", "SS-PDE", "SS-PTE"]
    assert [address for _, address, _ in result.path] == [0x1008, 0x2010, 0x3018, 0x4020]
    assert (result.pa, result.page_size) == (0xABCD_E567, 0x1000)
    three = vtd.walk(memory(VTD_4K), 0x2000, 0x8060_4567, levels=3)
    assert three.path == result.path[1:]
    assert three.pa == result.pa
    wide = vtd.walk(memory(VTD_4K), 0x2000, ADDRESS, levels=3)
    assert wide.outcome == "not_canonical"
    deep = vtd.walk(memory(VTD_4K | {0x5018: 0x1003}), 0x5000, (3 << 48) + ADDRESS, levels=5)
    assert deep.path == (("SS-PML5E", 0x5018, 0x1003), *result.path)
    assert vtd_walk({}, 1 << 48).outcome == "not_canonical"


def test_vtd_super_pages() -> None:
    assert vtd_walk({0x3018: 0x1_4020_0083}).pa == 0x1_4020_4567
    assert vtd_walk({0x2010: 0x1_4000_0083}).pa == 0x1_4060_4567
    assert vtd_walk({0x4020: 0xABCD_E083}).pa == 0xABCD_E567


def test_vtd_presence_is_r_or_w_and_rights_are_those_of_every_entry() -> None:
    assert vtd_walk({0x3018: 0x4FFC | 0xFFF << 52}).outcome == "not_present"
    assert vtd_walk({0x4020: 0xABCD_E004}).outcome == "not_present"
    write_only = vtd_walk({0x4020: 0xABCD_E002})
    assert [vtd.allowed(write_only, access) for access in "rw"] == [False, True]
    read_only = vtd_walk({0x1008: 0x2001})
    assert [vtd.allowed(read_only, access) for access in "rw"] == [True, False]
    neither = vtd_walk({0x1008: 0x2001, 0x4020: 0xABCD_E002})
    assert [vtd.allowed(neither, access) for access in "rw"] == [False, False]


@pytest.mark.parametrize(
    ("where", "value", "config", "rule"),
    [
        (0x1008, 0x2083, {}, vtd.RULE_PS),
        (0x1008, 0x2803, {}, vtd.RULE_SNP),
        (0x3018, 0x4803, {}, vtd.RULE_SNP),
        (0x4020, 0xABCD_E803, {"snoop_control": False}, vtd.RULE_SNP),
        (0x4020, 1 << 62 | 0xABCD_E003, {}, vtd.RULE_TM),
        (0x2010, 1 << 62 | 0x3003, {"transient_mapping": True}, vtd.RULE_TM),
        (0x2010, 0x1_4000_0083, {"page1g": False}, vtd.RULE_PAGE_SIZE),
        (0x3018, 0x1_4020_0083, {"page2m": False}, vtd.RULE_PAGE_SIZE),
        (0x2010, 0x1_4020_0083, {}, vtd.RULE_PAGE_BITS),
        (0x3018, 0x1_4020_1083, {}, vtd.RULE_PAGE_BITS),
        (0x2010, 0x1_4000_1083, {}, vtd.RULE_PAGE_BITS),
        (0x4020, 1 << 51 | 0xABCD_E003, {"haw": 51}, vtd.RULE_ADDRESS),
        (0x4020, 0x80_ABCD_E003, {"haw": 39}, vtd.RULE_ADDRESS),
        (0x1008, 1 << 39 | 0x2003, {"haw": 39}, vtd.RULE_ADDRESS),
    ],
)
def test_vtd_reserved_bits(where: int, value: int, config: dict[str, int], rule: str) -> None:
    result = vtd_walk({where: value}, **config)
    assert (result.outcome, result.rules) == ("reserved_bits", (rule,))
    assert result.path[-1][1] == where


def test_vtd_ignores_what_is_ignored() -> None:
    # 63, 61:52, 10:8 and 6:2 everywhere; A and D where they are not enabled.
    ignored = 0xBFF0_0000_0000_077C
    assert vtd_walk({where: value | ignored for where, value in VTD_4K.items()}).pa == 0xABCD_E567
    assert vtd_walk({0x4020: 0xABCD_EB03}).accessed is None
    flags = vtd_walk({0x4020: 0xABCD_E903}, ad=True)
    assert (flags.accessed, flags.dirty, flags.snoop) == (True, False, True)
    assert vtd_walk({0x4020: 0xABCD_E203}, ad=True).dirty is True
    assert vtd_walk({0x4020: 1 << 62 | 0xABCD_E003}, transient_mapping=True).outcome == "ok"


@pytest.mark.parametrize("shift", [12, 21, 30])
def test_vtd_takes_every_bit_from_its_place(shift: int) -> None:
    flags = 0x83 if shift > 12 else 3
    tables = {0x1000: 0x2003, 0x2000: 0x3003, 0x3000: 0x4003, 0x4000: 0x5003}
    tables |= {where + 0xFF8: value for where, value in tables.items()}
    leaf = {30: 0x3000, 21: 0x4000, 12: 0x5000}[shift]
    high = (1 << 52) - (1 << shift)
    first = vtd.walk(memory(tables | {leaf: high | flags}), 0x1000, 0, levels=5)
    assert first.pa == high
    last_words = tables | {leaf + 0xFF8: flags}
    last = vtd.walk(memory(last_words), 0x1000, (1 << 57) - 1, levels=5)
    assert (last.pa, last.page_size) == ((1 << shift) - 1, 1 << shift)


def vtd_entry(rng: random.Random) -> int:
    value = rng.choice((0, 1, 2, 3, 3, 3, 3, 3, 3, 3)) | rng.randrange(17) << 12
    if rng.random() < 0.3:
        value |= rng.choice((0x80, 0x80, 0x80, 0x800, 1 << 45, 1 << 62, 1 << 63))
    return value & ~0x1FF000 if value & 0x80 else value


def test_vtd_random_tables() -> None:
    rng, seen = random.Random(2), Counter[str]()
    for number in range(WALKS):
        levels = rng.choice((3, 4, 5))
        read = random_memory(number, vtd_entry)
        iova = rng.randrange(1 << (12 + 9 * levels + (number % 8 == 0)))
        result = vtd.walk(read, 0x1000, iova, levels=levels, haw=45)
        seen[result.outcome] += 1
        if result.outcome != "ok":
            continue
        assert result.pa is not None
        assert result.page_size is not None
        assert (result.pa - iova) % result.page_size == 0
        for _, where, value in result.path:
            less = vtd.walk(patched(read, where, value & ~1), 0x1000, iova, levels=levels, haw=45)
            assert less.outcome == ("ok" if value & 2 else "not_present")
            assert less.outcome != "ok" or not vtd.allowed(less, "r")
    assert all(seen[outcome] > 60 for outcome in vtd.OUTCOMES), seen


# AMD ----------------------------------------------------------------------------------------------

AMD_4K = {
    0x1008: RW | 0x2601,
    0x2010: RW | 0x3401,
    0x3018: RW | 0x4201,
    0x4020: RW | 0x5_0008_3001,
}


def amd_walk(changes: Words, address: int = ADDRESS, **config: int) -> amd_iommu.Result:
    return amd_iommu.walk(memory(AMD_4K | changes), ROOT, address, **config)


def test_amd_next_level_0_maps_the_default_size_of_the_level() -> None:
    result = amd_walk({})
    assert [name for name, _, _ in result.path] == ["L4", "L3", "L2", "L1"]
    assert [address for _, address, _ in result.path] == [0x1008, 0x2010, 0x3018, 0x4020]
    assert (result.pa, result.page_size, result.entry_size) == (0x5_0008_3567, 0x1000, 0x1000)
    assert amd_walk({0x3018: RW | 0x1_4020_0001}).pa == 0x1_4020_4567
    assert amd_walk({0x2010: RW | 0x1_4000_0001}).pa == 0x1_4060_4567
    top = amd_walk({0x1008: RW | 3 << 39 | 1})
    assert (top.pa, top.page_size) == (0x180_8060_4567, 1 << 39)


@pytest.mark.parametrize(
    ("where", "field", "size", "pa"),
    [
        (0x4020, 0x5_0008_4000, 8 << 10, 0x5_0008_4567),
        (0x4020, 0x5_0008_1000, 16 << 10, 0x5_0008_0567),
        (0x4020, 0x5_0008_3000, 32 << 10, 0x5_0008_4567),
        (0x4020, 0x5_0007_F000, 1 << 20, 0x5_0000_4567),
        (0x3018, 0x5_001F_F000, 4 << 20, 0x5_0020_4567),
        (0x3018, 0x5_0FFF_F000, 512 << 20, 0x5_0060_4567),
        (0x2010, 0x7_3FFF_F000, 2 << 30, 0x7_0060_4567),
        (0x2010, 0x7_7FFF_F000, 4 << 30, 0x7_8060_4567),
    ],
)
def test_amd_next_level_7_reads_the_size_from_the_ones(
    where: int, field: int, size: int, pa: int
) -> None:
    result = amd_walk({where: RW | field | 0xE01})
    assert (result.outcome, result.entry_size, result.pa) == ("ok", size, pa)
    assert result.page_size == {0x4020: 4 << 10, 0x3018: 2 << 20, 0x2010: 1 << 30}[where]


@pytest.mark.parametrize(
    ("where", "field"),
    [
        (0x4020, 0x5_000F_F000),  # 2 MiB is no size of level 1
        (0x3018, 0x5_000F_F000),  # 2 MiB is the default size of level 2
        (0x3018, 0x5_0000_0000),  # 8 KiB is less than it
        (0x3018, 0x5_1FFF_F000),  # 1 GiB is the default size of level 3
    ],
)
def test_amd_sizes_of_other_levels_are_refused(where: int, field: int) -> None:
    result = amd_walk({where: RW | field | 0xE01})
    assert (result.outcome, result.rule) == ("misconfigured", amd_iommu.RULE_SIZE)


def test_amd_skips_levels_if_the_skipped_bits_are_zero() -> None:
    skip = {0x1008: RW | 0x3401}
    result = amd_walk(skip, 0x80_0060_4567)
    assert [name for name, _, _ in result.path] == ["L4", "L2", "L1"]
    assert result.pa == 0x5_0008_3567
    assert result.page_size == 0x1000
    refused = amd_walk(skip)
    assert (refused.outcome, refused.rule) == ("not_present", amd_iommu.RULE_SKIPPED)
    assert len(refused.path) == 1


def test_amd_starting_levels_1_to_6() -> None:
    read = memory(AMD_4K | {0x5008: RW | 0x4201})
    one = amd_iommu.walk(read, 0x4000, 0x4567, levels=1)
    assert (one.pa, one.path) == (0x5_0008_3567, (("L1", 0x4020, RW | 0x5_0008_3001),))
    assert amd_iommu.walk(read, 0x4000, 0x20_4567, levels=1).outcome == "not_canonical"
    assert amd_iommu.walk(read, 0x3000, 0x60_4567, levels=2).pa == 0x5_0008_3567
    assert amd_iommu.walk(read, 0x2000, 0x8060_4567, levels=3).pa == 0x5_0008_3567
    six = amd_iommu.walk(read, 0x5000, (1 << 57) + 0x4567, levels=6)
    assert [name for name, _, _ in six.path] == ["L6", "L1"]
    assert six.pa == 0x5_0008_3567
    skipped = amd_iommu.walk(read, 0x5000, (1 << 57) + (1 << 48) + 0x4567, levels=6)
    assert skipped.rule == amd_iommu.RULE_SKIPPED
    last = amd_iommu.walk(read, 0x5000, (1 << 64) - 1, levels=6)
    assert last.path == (("L6", 0x5000 + 127 * 8, 0),)


def test_amd_illegal_next_levels_and_reserved_bits() -> None:
    same = amd_walk({0x3018: RW | 0x4401})
    assert (same.outcome, same.rule) == ("misconfigured", amd_iommu.RULE_NEXT_LEVEL)
    assert amd_walk({0x4020: RW | 0x5201}).rule == amd_iommu.RULE_NEXT_LEVEL
    for levels_field in (0x0, 0xE00):
        six = amd_iommu.walk(memory({0x5000: RW | levels_field | 1}), 0x5000, 0, levels=6)
        assert (six.outcome, six.rule) == ("misconfigured", amd_iommu.RULE_LEVEL_6)
    for position in range(52, 61):
        pde = amd_walk({0x2010: 1 << position | AMD_4K[0x2010]})
        assert (pde.outcome, pde.rule) == ("reserved_bits", amd_iommu.RULE_PDE_BITS)
        pte = amd_walk({0x4020: 1 << position | AMD_4K[0x4020]})
        assert pte.outcome == ("ok" if position >= 59 else "reserved_bits")


def test_amd_flags_rights_and_what_is_ignored() -> None:
    ignored = 1 << 63 | 0x19E
    changes = {where: value | ignored for where, value in AMD_4K.items()}
    assert amd_walk(changes).outcome == "ok"
    assert amd_walk({0x2010: AMD_4K[0x2010] & ~1}).outcome == "not_present"
    flags = amd_walk({0x4020: AMD_4K[0x4020] | 1 << 60 | 1 << 6})
    assert (flags.force_coherent, flags.untranslated) == (True, False)
    assert (flags.accessed, flags.dirty) == (False, True)
    others = amd_walk({0x4020: AMD_4K[0x4020] | 1 << 59 | 1 << 5})
    assert (others.force_coherent, others.untranslated) == (False, True)
    assert (others.accessed, others.dirty) == (True, False)
    read_only = amd_walk({0x2010: AMD_4K[0x2010] & ~(1 << 62)})
    assert [amd_iommu.allowed(read_only, access) for access in "rw"] == [True, False]
    write_only = amd_walk({0x4020: AMD_4K[0x4020] & ~(1 << 61)})
    assert [amd_iommu.allowed(write_only, access) for access in "rw"] == [False, True]
    device = amd_walk({}, iw=False)
    assert [amd_iommu.allowed(device, access) for access in "rw"] == [True, False]


@pytest.mark.parametrize("level", [1, 2, 3, 4, 5])
def test_amd_takes_every_bit_from_its_place(level: int) -> None:
    tables = {(7 - here) << 12: RW | (8 - here) << 12 | (here - 1) << 9 | 1 for here in range(2, 7)}
    tables |= {where + (0x3F8 if where == 0x1000 else 0xFF8): tables[where] for where in tables}
    leaf, shift = (7 - level) << 12, 3 + 9 * level
    high = (1 << 52) - (1 << shift)
    first = amd_iommu.walk(memory(tables | {leaf: RW | high | 1}), 0x1000, 0, levels=6)
    assert first.pa == high
    last_words = tables | {leaf + 0xFF8: RW | 1}
    last = amd_iommu.walk(memory(last_words), 0x1000, (1 << 64) - 1, levels=6)
    assert (last.pa, last.page_size) == ((1 << shift) - 1, 1 << shift)


def amd_entry(rng: random.Random) -> int:
    table = rng.randrange(17) << 12
    kind = rng.choice((0, 0, 7, 1, 1, 2, 2, 3, 3, 4, 5, 6))
    if kind == 7:
        table = (1 << rng.randrange(12, 50)) - 0x1000
    value = RW | table | kind << 9 | (rng.random() < 0.9)
    return value | 1 << rng.choice((55, 60)) if rng.random() < 0.05 else value


def test_amd_random_tables() -> None:
    rng, seen = random.Random(3), Counter[str]()
    for number in range(WALKS):
        levels = rng.randrange(1, 7)
        read = random_memory(number, amd_entry)
        iova = rng.randrange(1 << min(64, 12 + 9 * levels))
        for level in range(1, 7):
            if rng.random() < 0.5:
                high, low = amd_iommu.INDEX_BITS[level]
                iova &= ~(((1 << (high - low + 1)) - 1) << low)
        if levels < 6 and number % 15 == 0:
            iova |= 1 << 63
        result = amd_iommu.walk(read, 0x1000, iova, levels=levels)
        seen[result.rule or result.outcome] += 1
        if result.outcome != "ok":
            continue
        assert result.pa is not None
        assert result.page_size is not None
        assert result.entry_size is not None
        assert (result.pa - iova) % result.entry_size == 0
        assert result.entry_size % result.page_size == 0
        for _, where, value in result.path:
            less = amd_iommu.walk(
                patched(read, where, value & ~(1 << 62)), 0x1000, iova, levels=levels
            )
            assert less.pa == result.pa
            assert not amd_iommu.allowed(less, "w")
    rules = [value for name, value in vars(amd_iommu).items() if name.startswith("RULE_")]
    wanted = {*rules, "ok", "not_present", "not_canonical", "bus"}
    assert wanted == set(seen)
    assert all(count > 20 for count in seen.values()), seen


# DART ---------------------------------------------------------------------------------------------

# Indexes 1 and 2 of tables at 0x1_0000 and 0x1_4000, and the offset 0x1234.
DART_ADDRESS = 0x200_9234
DART_1 = {0x1_0008: 0x1_4001, 0x1_4010: 0x8_0001_8003}
DART_2 = {0x1_0008: 0x1401, 0x1_4010: 0x000F_FF00_8000_1801}
FULL = 0xFFF << 40


def dart_walk(words: Words, address: int = DART_ADDRESS, **config: int) -> dart.Result:
    return dart.walk(memory(words), 0x1_0000, address, **config)


def test_dart_1_with_16_kib_has_the_address_in_place() -> None:
    result = dart_walk(DART_1)
    assert result.path == (("L1", 0x1_0008, 0x1_4001), ("L2", 0x1_4010, 0x8_0001_8003))
    assert (result.pa, result.page_size) == (0x8_0001_9234, 0x4000)
    assert result.cacheable is None
    assert dart_walk(DART_1, 1 << 36).outcome == "not_canonical"


def test_dart_2_has_the_address_four_bits_lower() -> None:
    result = dart_walk(DART_2, version=2)
    assert result.path == (("L1", 0x1_0008, 0x1401), ("L2", 0x1_4010, 0x000F_FF00_8000_1801))
    assert (result.pa, result.cacheable) == (0x8_0001_9234, True)
    far = dart_walk(DART_2 | {0x1_4010: FULL | 1 << 37 | 3}, version=2)
    assert (far.pa, far.cacheable) == ((1 << 41) + 0x1234, False)


def test_dart_2_of_three_levels_begins_with_bits_46_36() -> None:
    words = DART_2 | {0x1_8018: 0x1001}
    result = dart.walk(memory(words), 0x1_8000, (3 << 36) + DART_ADDRESS, version=2, levels=3)
    assert result.path[0] == ("L0", 0x1_8018, 0x1001)
    assert result.pa == 0x8_0001_9234


def test_dart_with_4_kib_has_up_to_four_ttbrs() -> None:
    words = {0x2_0018: 0x3001, 0x3020: 0x8_0001_8003}
    config = {"page_size": 4096}
    result = dart.walk(memory(words), (0x1_0000, 0x2_0000), 0x4060_4567, **config)
    assert result.path == (("L1", 0x2_0018, 0x3001), ("L2", 0x3020, 0x8_0001_8003))
    assert (result.pa, result.page_size) == (0x8_0001_8567, 0x1000)
    absent = dart.walk(memory(words), (0x1_0000, None), 0x4060_4567, **config)
    assert (absent.outcome, absent.path) == ("not_present", ())
    beyond = dart.walk(memory(words), (0x1_0000, 0x2_0000), 0x8060_4567, **config)
    assert beyond.outcome == "not_canonical"


@pytest.mark.parametrize(
    ("version", "words", "no_read", "no_write"), [(1, DART_1, 8, 7), (2, DART_2, 3, 2)]
)
def test_dart_bits_deny(version: int, words: Words, no_read: int, no_write: int) -> None:
    leaf = words[0x1_4010]
    for denied, expected in (
        (0, [True, True]),
        (1 << no_read, [False, True]),
        (1 << no_write, [True, False]),
        (1 << no_read | 1 << no_write, [False, False]),
    ):
        result = dart_walk(words | {0x1_4010: leaf | denied}, version=version)
        assert [dart.allowed(result, access) for access in "rw"] == expected


@pytest.mark.parametrize(("version", "words"), [(1, DART_1), (2, DART_2)])
def test_dart_subpage_is_from_start_to_end_inclusive(version: int, words: Words) -> None:
    # Units of 4 bytes: 0x101 to 0x1ff is 0x404 to 0x7ff.
    plain = (words[0x1_4010] & ~FULL & ~2) | 0x101 << 52 | 0x1FF << 40
    base = DART_ADDRESS - 0x1234
    for offset, inside in (
        (0, False),
        (0x403, False),
        (0x404, True),
        (0x7FF, True),
        (0x800, False),
    ):
        result = dart_walk(words | {0x1_4010: plain}, base + offset, version=version)
        assert (result.outcome, result.subpage) == ("ok", (0x404, 0x7FF))
        assert result.in_subpage is inside
        assert dart.allowed(result, "r") is inside
    # Bit 1 lifts the protection in format 1; in format 2 it is about caches.
    lifted = dart_walk(words | {0x1_4010: plain | 2}, base, version=version)
    assert dart.allowed(lifted, "w") is (version == 1)
    assert lifted.subpage == ((0, 0x3FFF) if version == 1 else (0x404, 0x7FF))


@pytest.mark.parametrize(
    ("version", "page_size", "table", "leaf", "pa"),
    [
        (1, 16384, 0x4001, 0xFF_FFFF_FE7F, 0xF_FFFF_C000),
        (1, 4096, 0x4001, 0xFF_FFFF_FE7F, 0xF_FFFF_F000),
        (2, 16384, 0x401, 0xFF_FFFF_FFF3, 0x3FF_FFFF_C000),
        (2, 4096, 0x401, 0xFF_FFFF_FFF3, 0x3FF_FFFF_C000),
    ],
)
def test_dart_takes_every_bit_from_its_place(
    version: int, page_size: int, table: int, leaf: int, pa: int
) -> None:
    config = {"version": version, "page_size": page_size}
    first = dart.walk(memory({0: table, 0x4000: leaf}), 0, 0, **config)
    assert first.pa == pa
    end = page_size - 8
    words = {end: table, 0x4000 + end: FULL | 1}
    iova = (1 << {4096: 30, 16384: 36}[page_size]) - 1
    last = dart.walk(memory(words), 0, iova, **config)
    assert (last.pa, last.in_subpage) == (page_size - 1, True)


def test_dart_valid_is_bit_0_and_memory_ends() -> None:
    for where in DART_1:
        result = dart_walk(DART_1 | {where: DART_1[where] & ~1})
        assert (result.outcome, result.path[-1][1]) == ("not_present", where)
    gone = dart_walk(DART_1 | {0x1_0008: 0x40_0001})
    assert (gone.outcome, gone.bus_address) == ("bus", 0x40_0010)


def test_dart_random_tables() -> None:
    rng, seen = random.Random(4), Counter[str]()
    for number in range(WALKS):
        config = {"version": rng.choice((1, 2)), "page_size": rng.choice((4096, 16384))}
        shift = 12 if config["version"] == 1 else 10

        def entry(rng: random.Random, shift: int = shift) -> int:
            flags = rng.choice((1, 1, 1, 3, 2)) | rng.choice((0, FULL)) | rng.randrange(4) << 7
            return flags | rng.randrange(20 if shift == 12 else 5) << shift

        read = random_memory(number, entry)
        iova = rng.randrange(1 << (30 if config["page_size"] == 4096 else 36))
        result = dart.walk(read, 0, iova | (number % 15 == 0) << 40, **config)
        seen[result.outcome] += 1
        if result.outcome == "ok":
            assert result.pa is not None
            assert (result.pa - iova) % config["page_size"] == 0
            assert result.subpage is not None
            first, last = result.subpage
            assert result.in_subpage == (first <= result.pa % config["page_size"] <= last)
            seen["refused"] += not dart.allowed(result, "r")
    assert all(seen[outcome] > 60 for outcome in (*dart.OUTCOMES, "refused")), seen
