"""The naive oracle of EPT is itself judged, by examples worked out by hand and by random tables."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from oracles import ept
from oracles.sparse_memory import ADDRESS, ROOT, WALKS, Words, memory, patched, random_memory

EPT_4K = {0x1008: 0x2007, 0x2010: 0x3007, 0x3018: 0x4007, 0x4020: 0xABCD_E037}


def ept_walk(changes: Words, address: int = ADDRESS, **config: int) -> ept.Result:
    return ept.walk(memory(EPT_4K | changes), ROOT, address, **config)


def test_ept_reads_four_entries_and_maps_4_kib() -> None:
    result = ept_walk({})
    assert result.outcome == "ok"
    assert result.path == (
        ("PML4E", 0x1008, 0x2007),
        ("PDPTE", 0x2010, 0x3007),
        ("PDE", 0x3018, 0x4007),
        ("PTE", 0x4020, 0xABCD_E037),
    )
    assert (result.pa, result.page_size) == (0xABCD_E567, 0x1000)
    assert (result.memory_type, result.ignore_pat) == ("WB", False)
    assert (result.accessed, result.dirty) == (None, None)


def test_ept_maps_2_mib_and_1_gib() -> None:
    small = ept_walk({0x3018: 0x1_4020_00B7})
    assert (small.pa, small.page_size) == (0x1_4020_4567, 2 << 20)
    large = ept_walk({0x2010: 0x1_4000_00B7})
    assert (large.pa, large.page_size) == (0x1_4060_4567, 1 << 30)


def test_ept_of_five_levels_begins_with_bits_56_48() -> None:
    words = {0x5018: 0x1007}
    result = ept_walk(words, (3 << 48) + ADDRESS)
    assert result.outcome == "not_canonical"
    assert ept.exit_reason(result, "r") == "violation"
    deep = ept.walk(memory(EPT_4K | words), 0x501E, (3 << 48) + ADDRESS, levels=5)
    assert deep.path[0] == ("PML5E", 0x5018, 0x1007)
    assert deep.pa == 0xABCD_E567
    wide = ept.walk(memory(EPT_4K | words), 0x501E, 1 << 57, levels=5)
    assert wide.outcome == "not_canonical"


def test_ept_presence_is_any_of_bits_2_0_and_with_mbec_also_bit_10() -> None:
    assert ept_walk({0x3018: 0xFFF0_0000_0000_4BF8}).outcome == "not_present"
    user_only = {0x4020: 0xABCD_E430}
    assert ept_walk(user_only).outcome == "not_present"
    assert ept_walk(user_only, execute_only=False).outcome == "not_present"
    assert ept_walk({0x4020: 0xABCD_E031}).outcome == "ok"
    assert ept_walk(user_only, mbec=True).outcome == "ok"
    no_execute_only = ept_walk(user_only, mbec=True, execute_only=False)
    assert no_execute_only.rules == (ept.RULE_EXECUTE_ONLY,)


@pytest.mark.parametrize(
    ("where", "value", "config", "rule"),
    [
        (0x4020, 0xABCD_E032, {}, ept.RULE_WRITE_WITHOUT_READ),
        (0x1008, 0x2006, {}, ept.RULE_WRITE_WITHOUT_READ),
        (0x4020, 0xABCD_E034, {"execute_only": False}, ept.RULE_EXECUTE_ONLY),
        (0x3018, 0x4004, {"execute_only": False}, ept.RULE_EXECUTE_ONLY),
        (0x4020, 0xABCD_E017, {}, ept.RULE_TYPE),
        (0x4020, 0xABCD_E01F, {}, ept.RULE_TYPE),
        (0x4020, 0xABCD_E03F, {}, ept.RULE_TYPE),
        (0x2010, 0x1_4000_0097, {}, ept.RULE_TYPE),
        (0x4020, 0x80_ABCD_E037, {"maxphyaddr": 39}, ept.RULE_ADDRESS),
        (0x1008, 1 << 51 | 0x2007, {"maxphyaddr": 51}, ept.RULE_ADDRESS),
        (0x1008, 0x2087, {}, ept.RULE_LOW_BITS),
        (0x1008, 0x200F, {}, ept.RULE_LOW_BITS),
        (0x2010, 0x3047, {}, ept.RULE_LOW_BITS),
        (0x3018, 0x4037, {}, ept.RULE_LOW_BITS),
        (0x3018, 0x400F, {}, ept.RULE_LOW_BITS),
        (0x2010, 0x1_4000_00B7, {"page1g": False}, ept.RULE_PAGE_SIZE),
        (0x3018, 0x1_4020_00B7, {"page2m": False}, ept.RULE_PAGE_SIZE),
        (0x2010, 0x1_6000_00B7, {}, ept.RULE_PAGE_BITS),
        (0x2010, 0x1_4000_10B7, {}, ept.RULE_PAGE_BITS),
        (0x3018, 0x1_4020_10B7, {}, ept.RULE_PAGE_BITS),
        (0x3018, 0x1_4030_00B7, {}, ept.RULE_PAGE_BITS),
    ],
)
def test_ept_misconfigurations(where: int, value: int, config: dict[str, int], rule: str) -> None:
    result = ept_walk({where: value}, **config)
    assert result.rules == (rule,)
    reserved = rule in ept.RULES_ON_RESERVED_BITS
    assert result.outcome == ("reserved_bits" if reserved else "misconfigured")
    assert ept.exit_reason(result, "r") == "misconfiguration"
    assert result.path[-1][1] == where


def test_ept_ignores_what_is_ignored() -> None:
    # 63:52 and 11:8 everywhere, and bit 7 of a PTE.
    ignored = 0xFFF0_0000_0000_0F00
    changes = {where: value | ignored for where, value in EPT_4K.items()}
    changes[0x4020] |= 1 << 7
    assert ept_walk(changes).pa == 0xABCD_E567


def test_ept_rights_are_those_of_every_entry() -> None:
    assert ept.allowed(ept_walk({}), "w")
    read_only = ept_walk({0x2010: 0x3005})
    assert [ept.allowed(read_only, access) for access in "rwx"] == [True, False, True]
    assert ept.exit_reason(read_only, "w") == "violation"
    assert ept.exit_reason(read_only, "r") is None
    execute_only = ept_walk({0x4020: 0xABCD_E034})
    assert [ept.allowed(execute_only, access) for access in "rwx"] == [False, False, True]
    disjoint = ept_walk({0x4020: 0xABCD_E034, 0x3018: 0x4003})
    assert disjoint.outcome == "ok"
    assert not any(ept.allowed(disjoint, access) for access in "rwx")


def test_ept_mode_based_execute_control_asks_bit_10_for_users() -> None:
    supervisor = ept_walk({}, mbec=True)
    assert ept.allowed(supervisor, "x", user=False)
    assert not ept.allowed(supervisor, "x", user=True)
    assert ept.allowed(ept_walk({}), "x", user=True)
    users = {where: (value | 1 << 10) & ~4 for where, value in EPT_4K.items()}
    result = ept_walk(users, mbec=True)
    assert ept.allowed(result, "x", user=True)
    assert not ept.allowed(result, "x", user=False)
    assert not ept.allowed(ept_walk(users), "x", user=True)


def test_ept_accessed_and_dirty_turn_guest_walks_into_writes() -> None:
    flags = ept_walk({0x4020: 0xABCD_E135}, ad=True)
    assert (flags.accessed, flags.dirty) == (True, False)
    assert ept.allowed(flags, "r")
    assert not ept.allowed(flags, "r", guest_paging=True)
    dirty = ept_walk({0x4020: 0xABCD_E237}, ad=True)
    assert (dirty.accessed, dirty.dirty) == (False, True)
    assert ept.allowed(dirty, "r", guest_paging=True)
    plain = ept_walk({0x4020: 0xABCD_E135})
    assert ept.allowed(plain, "r", guest_paging=True)


def test_ept_tables_outside_memory_are_named() -> None:
    result = ept_walk({0x3018: 0x40_0007})
    assert (result.outcome, result.bus_address) == ("bus", 0x40_0020)
    assert ept.exit_reason(result, "r") is None


@pytest.mark.parametrize("shift", [12, 21, 30])
def test_ept_takes_every_bit_from_its_place(shift: int) -> None:
    flags = 0x87 if shift > 12 else 7
    tables = {0x1000: 0x2007, 0x2000: 0x3007, 0x3000: 0x4007, 0x4000: 0x5007}
    tables |= {where + 0xFF8: value for where, value in tables.items()}
    leaf = {30: 0x3000, 21: 0x4000, 12: 0x5000}[shift]
    high = (1 << 52) - (1 << shift)
    first = ept.walk(memory(tables | {leaf: high | flags}), 0x1000, 0, levels=5)
    assert first.pa == high
    last_words = tables | {leaf + 0xFF8: flags}
    last = ept.walk(memory(last_words), 0x1000, (1 << 57) - 1, levels=5)
    assert (last.pa, last.page_size, last.memory_type) == ((1 << shift) - 1, 1 << shift, "UC")


@pytest.mark.parametrize("number", range(8))
def test_ept_memory_types(number: int) -> None:
    names = {0: "UC", 1: "WC", 4: "WT", 5: "WP", 6: "WB"}
    result = ept_walk({0x4020: 0xABCD_E047 | number << 3})
    assert result.memory_type == names.get(number)
    assert result.ignore_pat is (True if number in names else None)


def ept_entry(rng: random.Random) -> int:
    value = rng.choice((1, 3, 3, 5, 7, 7, 7, 7, 7, 7, 0, 2, 4))
    value |= rng.randrange(17) << 12 | rng.choice((0, 0, 1)) << 10 | rng.choice((0, 1)) << 8
    if rng.random() < 0.3:
        value |= rng.choice((0x80, 0x30, 0xB0, 0xB0, 0x90, 1 << 45, 1 << 63))
    return value & ~0x1FF000 if value & 0x80 else value


def test_ept_random_tables() -> None:
    rng, seen = random.Random(1), Counter[str]()
    for number in range(WALKS):
        config = {"levels": rng.choice((4, 5)), "mbec": rng.random() < 0.5, "maxphyaddr": 45}
        config["execute_only"] = rng.random() < 0.5
        read = random_memory(number, ept_entry)
        gpa = rng.randrange(1 << (48 if config["levels"] == 4 else 57))
        result = ept.walk(read, 0x1000, gpa if number % 20 else gpa | 1 << 60, **config)
        seen[result.outcome] += 1
        if result.outcome != "ok":
            continue
        assert result.pa is not None
        assert result.page_size is not None
        assert (result.pa - gpa) % result.page_size == 0
        for _, where, value in result.path:
            less = ept.walk(patched(read, where, value & ~0x406), 0x1000, gpa, **config)
            if less.outcome == "ok":
                assert less.pa == result.pa
                assert not ept.allowed(less, "w")
                assert not ept.allowed(less, "x", user=True)
    assert all(seen[outcome] > 60 for outcome in ept.OUTCOMES), seen
