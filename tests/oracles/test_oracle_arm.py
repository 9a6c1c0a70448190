"""The naive oracle of AArch64 is itself judged: against examples that were worked by hand."""

from __future__ import annotations

import itertools
from dataclasses import astuple
from typing import Any

import pytest

from oracles import arm64

K4, K16, K64 = 4096, 16384, 65536
ROOT, T1, T2, T3 = 0x4000_0000, 0x4001_0000, 0x4002_0000, 0x4003_0000
TABLE, PAGE, BLOCK = 0b11, 0b11, 0b01
AF = 1 << 10
TOP = 1 << 48  # memory has 48 bits in these tests; the rest is outside it


class Memory(dict[int, int]):
    """Entries by address; what nobody wrote is zero."""

    def read(self, address: int, size: int) -> int | None:
        return self.get(address, 0) if address < TOP else None


def walk64(entries: dict[int, int], va: int, root: int = ROOT, **config: Any) -> arm64.Result:
    return arm64.walk(Memory(entries).read, root, va, **config)


# Index 1 of L0, 2 of L1, 3 of L2, 4 of L3 and byte 5: 1 << 39 | 2 << 30 | 3 << 21 | 4 << 12 | 5.
VA_12345 = 0x80_8060_4005
CHAIN = {ROOT + 8: T1 | TABLE, T1 + 16: T2 | TABLE, T2 + 24: T3 | TABLE}


def leaf64(attributes: int, **config: Any) -> arm64.Result:
    """Walk to a page with these attributes through three tables without any."""
    return walk64({**CHAIN, T3 + 32: 0x1234_5000 | PAGE | AF | attributes}, VA_12345, **config)


def test_four_levels_of_4_kib_are_walked_as_by_hand() -> None:
    result = leaf64(0)
    assert result == arm64.Result(
        "ok",
        (
            ("L0", 0x4000_0008, 0x4001_0003),
            ("L1", 0x4001_0010, 0x4002_0003),
            ("L2", 0x4002_0018, 0x4003_0003),
            ("L3", 0x4003_0020, 0x1234_5403),
        ),
        pa=0x1234_5005,
        page_size=K4,
        entry_size=K4,
        rights=arm64.Rights(True, True, True, False, False, True),
    )
    assert result.references == 4


def test_the_upper_half_is_walked_from_its_first_index() -> None:
    entries = {ROOT: T1 | TABLE, T1: 0xC000_0000 | BLOCK | AF}
    assert walk64(entries, 0xFFFF_0000_0000_0123, upper=True).pa == 0xC000_0123
    assert walk64(entries, 0x123, upper=True).outcome == "not_canonical"
    assert walk64(entries, 0xFFFE_0000_0000_0123, upper=True).outcome == "not_canonical"
    assert walk64(entries, 0x5500_0000_0000_0123).outcome == "not_canonical"
    assert walk64(entries, 0x5500_0000_0000_0123, tbi=True).pa == 0xC000_0123
    assert walk64(entries, 0x5580_0000_0000_0123, tbi=True).outcome == "not_canonical"


@pytest.mark.parametrize(
    ("granule", "t0sz", "ds", "level", "descriptors"),
    [
        (K4, 12, True, -1, 16),  # 52 = 4 + 9 + 9 + 9 + 9 + 12
        (K4, 16, False, 0, 512),
        (K4, 24, False, 0, 2),
        (K4, 25, False, 1, 512),
        (K4, 33, False, 1, 2),
        (K4, 34, False, 2, 512),
        (K4, 42, False, 2, 2),
        (K4, 43, False, 3, 512),
        (K4, 48, False, 3, 16),
        (K16, 12, True, 0, 32),  # 52 = 5 + 11 + 11 + 11 + 14
        (K16, 16, False, 0, 2),
        (K16, 17, False, 1, 2048),
        (K16, 28, False, 2, 2048),
        (K16, 39, False, 3, 2048),
        (K64, 12, False, 1, 1024),  # 52 = 10 + 13 + 13 + 16
        (K64, 16, False, 1, 64),
        (K64, 22, False, 2, 8192),
        (K64, 35, False, 3, 8192),
        (K64, 47, False, 3, 2),
    ],
)
def test_the_first_level_and_its_size_follow_from_t0sz(
    granule: int, t0sz: int, ds: bool, level: int, descriptors: int
) -> None:
    last = (1 << (64 - t0sz)) - 1
    result = walk64({}, last, granule=granule, t0sz=t0sz, ds=ds)
    assert [step[:2] for step in result.path] == [(f"L{level}", ROOT + 8 * (descriptors - 1))]
    assert walk64({}, last + 1, granule=granule, t0sz=t0sz, ds=ds).outcome == "not_canonical"


@pytest.mark.parametrize(
    ("granule", "level", "lpa", "ds", "size", "group"),
    [
        (K4, 0, False, True, 1 << 39, 1),
        (K4, 1, False, False, 1 << 30, 16),
        (K4, 2, False, False, 2 << 20, 16),
        (K4, 3, False, False, K4, 16),
        (K16, 1, False, True, 64 << 30, 1),
        (K16, 2, False, False, 32 << 20, 32),
        (K16, 3, False, False, K16, 128),
        (K64, 1, True, False, 4 << 40, 1),
        (K64, 2, False, False, 512 << 20, 32),
        (K64, 3, False, False, K64, 32),
    ],
)
def test_every_granule_has_its_blocks_and_contiguous_groups(
    granule: int, level: int, lpa: bool, ds: bool, size: int, group: int
) -> None:
    config = {"granule": granule, "lpa": lpa, "ds": ds}
    tables = (ROOT, T1, T2, T3)
    first = 1 if granule == K64 else 0
    depth = level - first
    entries = {tables[i]: tables[i + 1] | TABLE for i in range(depth)}
    kind = PAGE if level == 3 else BLOCK
    entries[tables[depth]] = 5 * size | kind | AF
    result = walk64(entries, size - 3, **config)
    assert (result.pa, result.page_size, result.entry_size) == (6 * size - 3, size, size)
    entries[tables[depth]] |= 1 << 52
    assert walk64(entries, size - 3, **config).entry_size == group * size
    # Bits of a block below its output address are RES0, or nT: they change nothing.
    entries[tables[depth]] |= 1 << 16 if level < 3 else 0
    assert walk64(entries, size - 3, **config).pa == 6 * size - 3


@pytest.mark.parametrize(
    ("granule", "level"), [(K4, 0), (K16, 0), (K16, 1), (K64, 1), (K4, 3), (K16, 3), (K64, 3)]
)
def test_a_block_where_none_is_supported_is_as_an_invalid_descriptor(
    granule: int, level: int
) -> None:
    tables = (ROOT, T1, T2, T3)
    depth = level - (1 if granule == K64 else 0)
    entries = {tables[i]: tables[i + 1] | TABLE for i in range(depth)}
    entries[tables[depth]] = BLOCK | AF
    result = walk64(entries, 0, granule=granule)
    assert (result.outcome, result.references) == ("not_present", depth + 1)
    assert result.reason == ("reserved at level 3" if level == 3 else "no blocks at this level")


def test_lpa_puts_address_bits_51_48_into_bits_15_12() -> None:
    config: dict[str, Any] = {"granule": K64, "t0sz": 22}
    entries = {ROOT: T1 | TABLE, T1 + 8: 0x1234_0000 | 0xA000 | PAGE | AF}
    assert walk64(entries, 0x1_0007, lpa=True, **config).pa == 0xA_0000_1234_0007
    assert walk64(entries, 0x1_0007, **config).pa == 0x1234_0007
    narrow = walk64(entries, 0x1_0007, lpa=True, oa_bits=48, **config)
    assert (narrow.outcome, narrow.reason) == ("address_size", "output address")
    # A table at an address of 52 bits lies outside this memory.
    entries = {ROOT: T1 | 0x1000 | TABLE}
    result = walk64(entries, 0x1_0007, lpa=True, **config)
    assert (result.outcome, result.bus_address) == ("bus", 0x1_0000_4001_0008)


def test_lpa2_puts_address_bits_51_50_into_bits_9_8() -> None:
    leaf = 0x1234_5000 | 1 << 49 | 0b01 << 8 | PAGE | AF
    entries = {ROOT + 8: 0x5000_0000 | TABLE, 0x5000_0008: T1 | TABLE}
    entries |= {T1 + 16: T2 | TABLE, T2 + 24: T3 | TABLE, T3 + 32: leaf}
    va = 1 << 48 | VA_12345
    result = walk64(entries, va, t0sz=12, ds=True)
    assert [step[0] for step in result.path] == ["L-1", "L0", "L1", "L2", "L3"]
    assert result.pa == 0x6_0000_1234_5005
    assert walk64(entries, va, t0sz=12, ds=True, oa_bits=50).outcome == "address_size"
    # Without DS the same bits are RES0 and SH[1:0].
    assert leaf64(1 << 49 | 1 << 8).pa == 0x1234_5005


def test_addresses_beyond_the_output_size_fault_before_the_access_flag() -> None:
    entries = {**CHAIN, T3 + 32: 1 << 40 | PAGE}
    assert walk64(entries, VA_12345, oa_bits=40).outcome == "address_size"
    assert walk64(entries, VA_12345, oa_bits=48).outcome == "access_flag"
    assert walk64(entries, VA_12345, ha=True).pa == 0x100_0000_0005
    entries = {ROOT + 8: 1 << 40 | TABLE}
    result = walk64(entries, VA_12345, oa_bits=40)
    assert (result.outcome, result.reason) == ("address_size", "next-level table")
    result = walk64({}, VA_12345, root=1 << 40, oa_bits=40)
    assert (result.outcome, result.references) == ("address_size", 0)


# (attributes of the leaf, attributes of the L1 table, the rights), two Exception levels:
# privileged r w x, user r w x.
AP_USER, AP_RO, PXN, UXN = 1 << 6, 1 << 7, 1 << 53, 1 << 54
PXN_TABLE, UXN_TABLE, NO_USER, NO_WRITE = 1 << 59, 1 << 60, 1 << 61, 1 << 62


@pytest.mark.parametrize(
    ("leaf", "table", "rights"),
    [
        (0, 0, "rwx --x"),
        (AP_USER, 0, "rw- rwx"),  # writable at EL0: PXN
        (AP_RO, 0, "r-x --x"),
        (AP_RO | AP_USER, 0, "r-x r-x"),
        (AP_RO | AP_USER | PXN, 0, "r-- r-x"),
        (AP_RO | AP_USER | UXN, 0, "r-x r--"),
        (UXN | PXN, 0, "rw- ---"),
        (AP_USER, NO_WRITE, "r-x r-x"),
        (AP_USER, NO_USER, "rwx --x"),
        (AP_USER, NO_USER | NO_WRITE, "r-x --x"),
        (0, PXN_TABLE, "rw- --x"),
        (0, UXN_TABLE, "rwx ---"),
    ],
)
def test_rights_of_leaf_and_tables_combine(leaf: int, table: int, rights: str) -> None:
    def letters(result: arm64.Result) -> str:
        assert result.rights is not None
        named = zip(astuple(result.rights), "rwxrwx", strict=True)
        flags = [name if on else "-" for on, name in named]
        return "".join(flags[:3]) + " " + "".join(flags[3:])

    entries = {**CHAIN, T3 + 32: 0x1234_5000 | PAGE | AF | leaf}
    entries[T1 + 16] |= table
    result = walk64(entries, VA_12345)
    assert letters(result) == rights
    assert (letters(walk64(entries, VA_12345, hpd=True)) == rights) == (table == 0)
    for user, access in itertools.product((False, True), "rwx"):
        half = rights[4:] if user else rights[:3]
        assert arm64.allowed(result, access, user) == (access in half)


def test_a_regime_of_one_level_knows_neither_users_nor_pxn() -> None:
    result = leaf64(AP_USER | PXN, two_levels=False)
    assert result.rights == arm64.Rights(True, True, True, False, False, False)
    result = leaf64(AP_RO | UXN, two_levels=False)
    assert result.rights == arm64.Rights(True, False, False, False, False, False)
    entries = {**CHAIN, T3 + 32: PAGE | AF}
    entries[ROOT + 8] |= PXN_TABLE | NO_USER
    result = walk64(entries, VA_12345, two_levels=False)
    assert result.rights == arm64.Rights(True, True, True, False, False, False)
    entries[ROOT + 8] |= UXN_TABLE | NO_WRITE
    result = walk64(entries, VA_12345, two_levels=False)
    assert result.rights == arm64.Rights(True, False, False, False, False, False)


def test_wxn_and_pan_take_rights_away() -> None:
    kernel, user_ro, user_x = leaf64(0), leaf64(AP_USER | AP_RO), leaf64(AP_RO)
    assert arm64.allowed(kernel, "x", user=False)
    assert not arm64.allowed(kernel, "x", user=False, wxn=True)
    assert arm64.allowed(kernel, "x", user=True, wxn=True)
    assert not arm64.allowed(leaf64(AP_USER), "x", user=True, wxn=True)
    assert arm64.allowed(user_ro, "x", user=True, wxn=True)
    assert not arm64.allowed(user_ro, "r", user=False, pan=True)
    assert arm64.allowed(user_ro, "r", user=True, pan=True)
    assert arm64.allowed(user_ro, "x", user=False, pan=True)
    assert arm64.allowed(user_x, "r", user=False, pan=True)
    assert not arm64.allowed(user_x, "r", user=False, pan=True, epan=True)


def test_dirty_state_by_hardware_makes_read_only_writable() -> None:
    dbm = AP_RO | 1 << 51
    assert not arm64.allowed(leaf64(dbm), "w", user=False)
    assert not arm64.allowed(leaf64(dbm, ha=True), "w", user=False)
    assert arm64.allowed(leaf64(dbm, ha=True, hd=True), "w", user=False)


def test_stage_2_concatenates_tables_at_its_start_level() -> None:
    # 40 bits from level 1: two tables of 512 descriptors, the second one page after the first.
    config: dict[str, Any] = {"stage": 2, "t0sz": 24, "start_level": 1}
    entries = {ROOT + K4 + 8: 0x1_4000_0000 | BLOCK | AF | 0b11 << 6}
    result = walk64(entries, 1 << 39 | 1 << 30 | 0x77, **config)
    assert [step[:2] for step in result.path] == [("L1", ROOT + K4 + 8)]
    assert (result.pa, result.page_size) == (0x1_4000_0077, 1 << 30)
    assert walk64(entries, 1 << 40, **config).outcome == "not_canonical"
    # The same input size from level 0 has one table with two descriptors.
    result = walk64({}, 1 << 39, stage=2, t0sz=24, start_level=0)
    assert result.path == (("L0", ROOT + 8, 0),)
    # Sixteen tables of 16 KiB at level 2: 40 = 15 + 11 + 14.
    result = walk64({}, (1 << 40) - 1, stage=2, granule=K16, t0sz=24, start_level=2)
    assert result.path == (("L2", ROOT + 16 * K16 - 8, 0),)
    for start_level in (-1, 2, 3):
        with pytest.raises(ValueError, match="start level"):
            walk64({}, 0, stage=2, t0sz=24, start_level=start_level)
    # Sixteen tables at level 2: 34 = 13 + 21. There are no thirty-two.
    assert walk64({}, 0, stage=2, t0sz=30, start_level=2).references == 1
    with pytest.raises(ValueError, match="start level"):
        walk64({}, 0, stage=2, t0sz=29, start_level=2)


@pytest.mark.parametrize(
    ("attributes", "rights", "without_xnx"),
    [
        (0b00 << 6 | 0b00 << 53, "--x --x", "--x --x"),
        (0b01 << 6 | 0b01 << 53, "r-- r-x", "r-x r-x"),
        (0b10 << 6 | 0b10 << 53, "-w- -w-", "-w- -w-"),
        (0b11 << 6 | 0b11 << 53, "rwx rw-", "rw- rw-"),
    ],
)
def test_stage_2_reads_s2ap_and_xn(attributes: int, rights: str, without_xnx: str) -> None:
    config: dict[str, Any] = {"stage": 2, "t0sz": 25, "start_level": 1}
    entries = {ROOT: BLOCK | AF | attributes}
    for xnx, expected in ((True, rights), (False, without_xnx)):
        result = walk64(entries, 0, xnx=xnx, **config)
        for user, access in itertools.product((False, True), "rwx"):
            half = expected[4:] if user else expected[:3]
            assert arm64.allowed(result, access, user) == (access in half)


def test_registers_that_nobody_may_write_are_refused() -> None:
    for config in (
        {"t0sz": 15},
        {"t0sz": 49},
        {"granule": K64, "t0sz": 48},
        {"granule": K64, "ds": True},
        {"lpa": True},
        {"start_level": 1},
        {"stage": 2},
    ):
        with pytest.raises(ValueError, match=r"level|T0SZ"):
            walk64({}, 0, **config)


def test_tables_of_52_bits_lead_to_high_addresses() -> None:
    # 16 KiB, DS = 1: a 64 GiB block of level 1 with bits 49:48 in place, bits 51:50 in bits 9:8.
    config: dict[str, Any] = {"granule": K16, "ds": True, "t0sz": 12}
    va = 17 << 47 | 3 << 36 | 0x9_8765_4321
    block = 0x7F_0000_0000_0000 & 3 << 48 | 0x50_0000_0000 | 0b10 << 8 | BLOCK | AF
    result = walk64({ROOT + 8 * 17: T1 | TABLE, T1 + 8 * 3: block}, va, **config)
    assert [step[0] for step in result.path] == ["L0", "L1"]
    assert result.pa == 2 << 50 | 3 << 48 | 0x50_0000_0000 | 0x9_8765_4321
    # 4 KiB, DS = 1: tables have the same fields.
    entries = {ROOT: 0x2000_0000 | 1 << 48 | 0b11 << 8 | TABLE}
    result = walk64(entries, 7 << 39, ds=True, t0sz=12)
    assert (result.outcome, result.bus_address) == ("bus", 0xD_0000_2000_0038)
    assert walk64(entries, 7 << 39, ds=True, t0sz=12, oa_bits=51).outcome == "address_size"


def test_stage_2_of_52_bits_starts_at_minus_one_or_concatenates_at_zero() -> None:
    ipa = (1 << 52) - 1
    config: dict[str, Any] = {"stage": 2, "t0sz": 12, "ds": True}
    assert walk64({}, ipa, start_level=-1, **config).path == (("L-1", ROOT + 8 * 15, 0),)
    # Sixteen tables at level 0: 52 = 13 + 39.
    assert walk64({}, ipa, start_level=0, **config).path == (("L0", ROOT + 8 * 8191, 0),)
    # 64 KiB with 52 bits: 52 = 10 + 42 at level 1.
    config = {"stage": 2, "t0sz": 12, "granule": K64, "lpa": True}
    block = 3 << 42 | 0b101 << 12 | BLOCK | AF | 0b01 << 6
    result = walk64({ROOT + 8 * 1023: block}, ipa, start_level=1, **config)
    assert result.pa == 5 << 48 | 3 << 42 | (1 << 42) - 1
    with pytest.raises(ValueError, match="start level"):
        walk64({}, ipa, start_level=0, **config)


def test_the_first_table_is_aligned_to_its_size() -> None:
    # Sixteen descriptors: 128 bytes. Sixteen concatenated tables: 64 KiB.
    assert walk64({}, 0, root=ROOT + 127, t0sz=48).path[0][1] == ROOT
    assert walk64({}, 0, root=ROOT + 128, t0sz=48).path[0][1] == ROOT + 128
    low = walk64({}, 0, root=ROOT + 0xF000, stage=2, t0sz=21, start_level=1)
    assert low.path[0][1] == ROOT
    # Two descriptors: 16 bytes; but no base of 52 bits is aligned to less than 64.
    config: dict[str, Any] = {"granule": K64, "t0sz": 21}
    assert walk64({}, 0, root=ROOT + 48, **config).path[0][1] == ROOT + 48
    assert walk64({}, 0, root=ROOT + 48, lpa=True, **config).path[0][1] == ROOT
