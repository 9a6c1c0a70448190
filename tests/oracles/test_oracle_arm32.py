"""The naive oracle of AArch32 is itself judged: against examples that were worked by hand."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from oracles import arm32

ROOT, T1, T2 = 0x4000_0000, 0x4001_0000, 0x4002_0000
TABLE, PAGE, BLOCK = 0b11, 0b11, 0b01
K4 = 4096
AF, AP_USER, AP_RO, PXN, UXN = 1 << 10, 1 << 6, 1 << 7, 1 << 53, 1 << 54
PXN_TABLE, UXN_TABLE, NO_USER, NO_WRITE = 1 << 59, 1 << 60, 1 << 61, 1 << 62
TOP = 1 << 40  # memory has 40 bits in these tests, and zeros where nobody wrote


def walk32(entries: dict[int, int], va: int, root: int = ROOT, **config: Any) -> arm32.Result:
    def read(address: int, size: int) -> int | None:
        return entries.get(address, 0) if address < TOP else None

    return arm32.walk(read, root, va, **config)


# Short descriptors. VA 0x1234_5678: section 0x123, page 0x45 of it, byte 0x678.
VA32 = 0x1234_5678
L1_AT, L2_AT = ROOT + 4 * 0x123, 0x4100_0400 + 4 * 0x45
L1_TABLE = 0x4100_0400 | 0b01


def test_short_descriptors_are_walked_as_by_hand() -> None:
    entries = {L1_AT: L1_TABLE | 7 << 5, L2_AT: 0xABCD_E000 | 0b11 << 4 | 0b10}
    assert walk32(entries, VA32) == arm32.Result(
        "ok",
        (("L1", 0x4000_048C, 0x4100_04E1), ("L2", 0x4100_0514, 0xABCD_E032)),
        pa=0xABCD_E678,
        page_size=K4,
        entry_size=K4,
        rights=arm32.Rights(True, True, True, True, True, True),
        domain=7,
    )


def test_short_sections_supersections_and_large_pages() -> None:
    result = walk32({L1_AT: 0xABC0_0000 | 3 << 5 | 0b10}, VA32)
    assert (result.pa, result.page_size, result.domain) == (0xABC4_5678, 1 << 20, 3)
    # Supersection: PA[35:32] = 0xC from bits 23:20, PA[39:36] = 3 from bits 8:5; domain 0.
    entries = {L1_AT: 0xABC0_0000 | 1 << 18 | 3 << 5 | 0b10}
    result = walk32(entries, VA32)
    assert (result.pa, result.page_size, result.domain) == (0x3C_AB34_5678, 16 << 20, 0)
    assert walk32(entries, VA32, extended=False).pa == 0xAB34_5678
    result = walk32({L1_AT: L1_TABLE, L2_AT: 0xABCD_0000 | 0b01}, VA32)
    assert (result.pa, result.page_size) == (0xABCD_5678, 64 << 10)


def test_short_tables_are_chosen_and_shrunk_by_n() -> None:
    # N = 3: TTBR0 has 2^9 descriptors, indexed by VA[28:20], for VA below 0x2000_0000.
    entries = {ROOT + 4 * 0x123: 0xABC0_0000 | 0b10}
    assert walk32(entries, VA32, n=3).pa == 0xABC4_5678
    assert walk32(entries, VA32, root=ROOT + 0x7FF, n=3).pa == 0xABC4_5678
    assert walk32(entries, 0x2000_0000, n=3).outcome == "not_canonical"
    assert walk32(entries, VA32, n=3, upper=True).outcome == "not_canonical"
    assert walk32(entries, 0x9234_5678, n=3, upper=True).path[0][1] == ROOT + 4 * 0x923
    assert walk32(entries, VA32, upper=True).outcome == "not_canonical"


@pytest.mark.parametrize(
    ("ap", "rights", "with_afe"),
    [
        (0b000, "--- ---", None),
        (0b001, "rwx ---", "rwx ---"),
        (0b010, "rwx r-x", None),
        (0b011, "rwx rwx", "rwx rwx"),
        (0b100, "--- ---", None),
        (0b101, "r-x ---", "r-x ---"),
        (0b110, "r-x r-x", None),
        (0b111, "r-x r-x", "r-x r-x"),
    ],
)
def test_ap_of_sections_and_pages(ap: int, rights: str, with_afe: str | None) -> None:
    section = {L1_AT: ap >> 2 << 15 | (ap & 3) << 10 | 0b10}
    small = {L1_AT: L1_TABLE, L2_AT: ap >> 2 << 9 | (ap & 3) << 4 | 0b10}
    large = {L1_AT: L1_TABLE, L2_AT: ap >> 2 << 9 | (ap & 3) << 4 | 0b01}
    for entries in (section, small, large):
        for afe, expected in ((False, rights), (True, with_afe)):
            result = walk32(entries, VA32, afe=afe)
            if expected is None:
                assert (result.outcome, result.rights) == ("access_flag", None)
                continue
            for user, access in itertools.product((False, True), "rwx"):
                half = expected[4:] if user else expected[:3]
                assert arm32.allowed(result, access, user) == (access in half)


def test_xn_and_pxn_stand_where_each_short_format_puts_them() -> None:
    full = 0b11 << 10 | 0b10
    table = {L1_AT: L1_TABLE}
    cases: list[tuple[dict[int, int], bool, bool]] = [
        ({L1_AT: full}, True, True),
        ({L1_AT: full | 1 << 4}, False, False),
        ({L1_AT: full | 1 << 0}, False, True),
        ({**table, L2_AT: 0b11 << 4 | 0b10}, True, True),
        ({**table, L2_AT: 0b11 << 4 | 0b11}, False, False),
        ({**table, L2_AT: 0b11 << 4 | 0b01}, True, True),
        ({**table, L2_AT: 0b11 << 4 | 1 << 15 | 0b01}, False, False),
        ({L1_AT: L1_TABLE | 1 << 2, L2_AT: 0b11 << 4 | 0b10}, False, True),
    ]
    for entries, priv_exec, user_exec in cases:
        rights = walk32(entries, VA32).rights
        assert rights == arm32.Rights(True, True, priv_exec, True, True, user_exec)
    assert walk32({L1_AT: full | 1}, VA32, pxn=False).reason == "reserved"
    assert walk32(cases[-1][0], VA32, pxn=False).rights == arm32.Rights(*[True] * 6)


def test_domains_grant_everything_or_nothing_or_ask_the_descriptor() -> None:
    result = walk32({L1_AT: 0b001 << 10 | 1 << 4 | 5 << 5 | 0b10}, VA32)
    every = list(itertools.product("rwx", (False, True)))
    verdicts = {
        role: [arm32.allowed(result, access, user, dacr=role << 10) for access, user in every]
        for role in range(4)
    }
    assert verdicts[arm32.NO_ACCESS] == verdicts[arm32.RESERVED] == [False] * 6
    assert verdicts[arm32.MANAGER] == [True] * 6
    assert verdicts[arm32.CLIENT] == [True, False, True, False, False, False]


def test_wxn_uwxn_and_pan_of_aarch32() -> None:
    full = walk32({L1_AT: 0b11 << 10 | 0b10}, VA32)
    assert not arm32.allowed(full, "x", user=True, wxn=True)
    assert not arm32.allowed(full, "x", user=False, wxn=True)
    assert arm32.allowed(full, "x", user=True, uwxn=True)
    assert not arm32.allowed(full, "x", user=False, uwxn=True)
    assert not arm32.allowed(full, "w", user=False, pan=True)
    assert arm32.allowed(full, "w", user=True, pan=True)


# Long descriptors. VA 0x5234_5678: 1 of L1, 0x91 of L2, 0x145 of L3, byte 0x678.
VA_LONG = 0x5234_5678


def test_long_descriptors_are_walked_as_by_hand() -> None:
    entries = {ROOT + 8: T1 | TABLE, T1 + 8 * 0x91: T2 | TABLE}
    entries[T2 + 8 * 0x145] = 0xAB_CDEF_0000 | PAGE | AF | 1 << 52
    result = walk32(entries, VA_LONG, descriptors="long")
    assert result == arm32.Result(
        "ok",
        (
            ("L1", 0x4000_0008, 0x4001_0003),
            ("L2", 0x4001_0488, 0x4002_0003),
            ("L3", 0x4002_0A28, 0x10_00AB_CDEF_0403),
        ),
        pa=0xAB_CDEF_0678,
        page_size=K4,
        entry_size=16 * K4,
        rights=arm32.Rights(True, True, True, False, False, False),
    )
    # The root holds four descriptors, so it is aligned to 32 bytes.
    assert walk32(entries, VA_LONG, root=ROOT + 31, descriptors="long") == result
    del entries[T2 + 8 * 0x145]
    assert walk32(entries, VA_LONG, descriptors="long").outcome == "not_present"


def test_long_blocks_and_the_sizes_of_the_two_tables() -> None:
    block = {ROOT + 8: 0xC0_0000_0000 | BLOCK | AF}
    assert walk32(block, VA_LONG, descriptors="long").pa == 0xC0_1234_5678
    assert walk32(block, VA_LONG, descriptors="long", tsz=1).page_size == 1 << 30
    assert walk32(block, VA_LONG, descriptors="long", tsz=2).outcome == "not_canonical"
    # T0SZ = 2: 30 bits, from level 2.
    result = walk32({}, 0x3FFF_FFFF, descriptors="long", tsz=2)
    assert result.path == (("L2", ROOT + 8 * 511, 0),)
    # T1SZ = 3: 29 bits, from level 2, for VA from 0xE000_0000.
    block = {ROOT + 8 * 0x91: 0xC0_0020_0000 | BLOCK | AF}
    result = walk32(block, 0xF234_5678, descriptors="long", tsz=3, upper=True)
    assert (result.path[0][:2], result.pa) == (("L2", ROOT + 0x488), 0xC0_0034_5678)
    block[ROOT + 8 * 0x91] |= 1 << 52
    result = walk32(block, 0xF234_5678, descriptors="long", tsz=3, upper=True)
    assert (result.page_size, result.entry_size) == (2 << 20, 32 << 20)
    below = walk32(block, 0xDFFF_FFFF, descriptors="long", tsz=3, upper=True)
    assert below.outcome == "not_canonical"


def test_long_rights_need_reading_to_execute() -> None:
    def rights(leaf: int, table: int = 0, **config: Any) -> arm32.Rights | None:
        entries = {ROOT + 8: T1 | TABLE | table, T1 + 8 * 0x91: BLOCK | AF | leaf}
        return walk32(entries, VA_LONG, descriptors="long", **config).rights

    every, none = (True, True, True), (False, False, False)
    assert rights(0) == arm32.Rights(*every, *none)
    assert rights(AP_USER) == arm32.Rights(*every, *every)
    assert rights(AP_USER | AP_RO | PXN) == arm32.Rights(True, False, False, True, False, True)
    assert rights(AP_USER | UXN) == arm32.Rights(True, True, False, True, True, False)
    assert rights(AP_USER, NO_USER) == arm32.Rights(*every, *none)
    assert rights(AP_USER, NO_WRITE) == arm32.Rights(True, False, True, True, False, True)
    assert rights(AP_USER, PXN_TABLE) == arm32.Rights(True, True, False, *every)
    assert rights(AP_USER, UXN_TABLE) == arm32.Rights(True, True, False, True, True, False)
    assert rights(AP_USER, NO_USER | UXN_TABLE, hpd=True) == arm32.Rights(*every, *every)
    assert rights(AP_USER | PXN, PXN_TABLE, two_levels=False) == arm32.Rights(*every, *none)


def test_long_addresses_beyond_40_bits_fault_from_armv8_on() -> None:
    entries = {ROOT + 8: 1 << 40 | 0x4000_0000 | BLOCK}
    assert walk32(entries, VA_LONG, descriptors="long").outcome == "address_size"
    assert walk32(entries, VA_LONG, descriptors="long", armv8=False).outcome == "access_flag"
    entries = {ROOT + 8: 1 << 40 | TABLE}
    assert walk32(entries, VA_LONG, descriptors="long").outcome == "address_size"
