"""The naive oracle is itself judged: against worked examples and against QEMU's MMU."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import asdict, dataclass, replace
from typing import Any

import pytest
from hypothesis import given, settings

from oracles import plausible, unicorn_mmu, x86_64

ACCESSES = [(access, user) for user in (False, True) for access in "rwx"]
IMAGES_PER_STATE = 30

STATES = {
    "plain": unicorn_mmu.Registers(),
    "no execute-disable": unicorn_mmu.Registers(nxe=False),
    "no execute-disable, SMEP": unicorn_mmu.Registers(nxe=False, smep=True),
    "no write-protect": unicorn_mmu.Registers(wp=False),
    "SMEP": unicorn_mmu.Registers(smep=True),
    "SMAP": unicorn_mmu.Registers(smap=True),
    "SMEP, SMAP, AC": unicorn_mmu.Registers(smep=True, smap=True, ac=True),
    "keys": unicorn_mmu.Registers(pke=True, pkru=0x5A3C_96E1),
    "keys, no write-protect": unicorn_mmu.Registers(wp=False, pke=True, pkru=0x5A3C_96E1),
    "keys, SMEP, SMAP": unicorn_mmu.Registers(smep=True, smap=True, pke=True, pkru=0xE196_3C5A),
    "keys off, PKRU set": unicorn_mmu.Registers(pke=False, pkru=0xFFFF_FFFF),
}


def rights_of(registers: unicorn_mmu.Registers) -> dict[str, Any]:
    """Return the registers that decide rights, as arguments of the naive oracle."""
    values = asdict(registers)
    return {name: values[name] for name in ("wp", "smep", "smap", "ac", "pkru", "pke")}


@dataclass(frozen=True)
class Verdict:
    """The naive oracle's answer in Unicorn's terms."""

    answer: unicorn_mmu.Answer
    outcome: str


def verdict(
    result: x86_64.Result, access: str, user: bool, registers: unicorn_mmu.Registers
) -> Verdict:
    rights = rights_of(registers)
    if result.outcome == "ok" and x86_64.allowed(result, access, user, **rights):
        return Verdict(unicorn_mmu.Answer(result.pa, None), "ok")
    # The documented difference: a table outside memory reads as zero there.
    seen = replace(result, outcome="not_present") if result.outcome == "bus" else result
    code = x86_64.error_code(seen, access, user, nxe=registers.nxe, **rights)
    outcome = "denied" if result.outcome == "ok" else result.outcome
    return Verdict(unicorn_mmu.Answer(None, code), outcome)


@pytest.mark.parametrize("levels", [4, 5])
@pytest.mark.parametrize("state", STATES)
def test_the_naive_oracle_and_qemu_give_the_same_address_or_the_same_error_code(
    levels: int, state: str
) -> None:
    registers = replace(STATES[state], levels=levels)
    mmu = unicorn_mmu.Mmu(registers)
    shape = plausible.Shape(levels=levels, nxe=registers.nxe, maxphyaddr=unicorn_mmu.MAXPHYADDR)
    counts: Counter[str] = Counter()
    answers: Counter[str] = Counter()
    for seed in range(IMAGES_PER_STATE):
        image = plausible.image(random.Random(f"{state} {levels} {seed}"), shape)
        mmu.load(image.data, image.base, image.root)
        for va in image.addresses:
            result = image.walk(va)
            for access, user in ACCESSES:
                expected = verdict(result, access, user, registers)
                got = mmu.translate(va, access, user)
                where = (seed, hex(va), access, user, result)
                assert got == expected.answer, where
                counts[expected.outcome] += 1
                answers[got.outcome] += 1
    plausible.assert_spread(
        counts, 0.02, ["ok", "denied", "not_present", "reserved_bits", "not_canonical", "bus"]
    )
    kinds = ["ok", "permission", "not_present", "reserved_bits", "not_canonical"]
    plausible.assert_spread(answers, 0.02, kinds + ["protection_key"] * registers.pke)


@pytest.mark.parametrize("maxphyaddr", [36, 40, 46, 52])
@pytest.mark.parametrize("levels", [4, 5])
def test_plausible_images_reach_every_outcome_page_size_and_right(
    levels: int, maxphyaddr: int
) -> None:
    shape = plausible.Shape(levels=levels, maxphyaddr=maxphyaddr)
    images = [plausible.image(random.Random(seed), shape) for seed in range(60)]
    plausible.assert_spread(plausible.histogram(images), 0.02, x86_64.OUTCOMES)
    traits: Counter[str] = Counter()
    for image in images:
        for result in map(image.walk, image.addresses):
            if result.rights is not None:
                traits["ok"] += 1
                traits[f"{result.page_size:#x}"] += 1
                traits[f"global {result.global_}"] += 1
                traits[f"dirty {result.dirty}"] += 1
                traits[f"pat {result.pat_index}"] += 1
                for name, value in asdict(result.rights).items():
                    traits[f"{name} {value}"] += 1
    for trait in ("0x1000", "0x200000", "0x40000000"):
        assert traits[trait] > 0.1 * traits["ok"], traits
    for name in ("write", "execute", "user", "global", "dirty"):
        assert min(traits[f"{name} True"], traits[f"{name} False"]) > 0.1 * traits["ok"], traits
    assert all(traits[f"pat {index}"] for index in range(8)), traits


@settings(deadline=None)
@given(plausible.images(plausible.small()))
def test_a_listed_leaf_is_what_a_walk_to_both_of_its_ends_finds(image: plausible.Image) -> None:
    leaves = list(
        x86_64.mappings(image.read8, image.root, image.levels, image.maxphyaddr, image.nxe)
    )
    starts = [leaf.va for leaf in leaves]
    assert starts == sorted(set(starts))
    for leaf in leaves:
        assert leaf.result == image.walk(leaf.va)
        assert leaf.result.page_size is not None
        assert leaf.result.pa is not None
        last = image.walk(leaf.va + leaf.result.page_size - 1)
        assert last.pa == leaf.result.pa + leaf.result.page_size - 1
    covered = [(leaf.va, leaf.va + (leaf.result.page_size or 0)) for leaf in leaves]
    for va in image.addresses:
        inside = any(start <= va < end for start, end in covered)
        assert inside == (image.walk(va).outcome == "ok")


def test_uniformly_random_words_would_judge_almost_nothing() -> None:
    rng = random.Random(1)
    counts: Counter[str] = Counter()
    for _ in range(20):
        noise = plausible.noise(rng, steer=0.0)
        image = plausible.Image(4, 40, True, 0, 0, noise, 0, ())
        counts.update(image.walk(rng.getrandbits(47)).outcome for _ in range(50))
    assert counts["ok"] < 0.01 * sum(counts.values())


def test_qemu_changes_nothing_but_accessed_and_dirty_flags_of_an_image() -> None:
    """SDM, "Accessed and Dirty Flags": a walk sets A in what it uses, a write sets D in a leaf."""
    mmu = unicorn_mmu.Mmu()
    changed: Counter[int] = Counter()
    for seed in range(10):
        image = plausible.image(random.Random(seed))
        mmu.load(image.data, image.base, image.root)
        for va in image.addresses:
            mmu.translate(va, "w", user=False)
        after = mmu.memory(image.base, len(image.data))
        for start in range(0, len(after), 8):
            if after[start : start + 8] != image.data[start : start + 8]:
                before_word = int.from_bytes(image.data[start : start + 8], "little")
                changed[before_word ^ int.from_bytes(after[start : start + 8], "little")] += 1
    accessed, dirty = 1 << x86_64.A, 1 << x86_64.D
    assert set(changed) == {accessed, dirty, accessed + dirty}, changed


class Memory(dict[int, int]):
    """Entries by address, zero elsewhere below 1 MiB."""

    def read8(self, pa: int) -> int | None:
        return self.get(pa, 0) if pa < 1 << 20 else None


def memory_of(pdpte: int = 0, pde: int = 0, pte: int = 0) -> Memory:
    """Return tables for address 0: each entry given replaces a plain pointer to the next table."""
    return Memory(
        {
            0x1000: 0x2007,
            0x2000: pdpte or 0x3007,
            0x3000: pde or 0x4007,
            0x4000: pte,
        }
    )


def test_a_4_kib_page_is_described_as_the_manual_tabulates_it() -> None:
    pte = 1 << 63 | 0b1010 << 59 | 0x0000_00AB_CDEF_0000 | 1 << 8 | 1 << 7 | 1 << 6 | 0b10111
    result = x86_64.walk(memory_of(pte=pte).read8, 0x1000, 0x123)
    assert result.outcome == "ok"
    assert result.pa == 0xAB_CDEF_0123
    assert result.page_size == 4096
    assert result.path == (
        ("PML4E", 0x1000, 0x2007),
        ("PDPTE", 0x2000, 0x3007),
        ("PDE", 0x3000, 0x4007),
        ("PTE", 0x4000, pte),
    )
    assert result.references == 4
    assert result.rights == x86_64.Rights(read=True, write=True, execute=False, user=True)
    assert (result.global_, result.pat_index, result.pkey) == (True, 6, 0b1010)
    assert (result.accessed, result.dirty) == (False, True)


def test_bit_12_of_a_large_page_is_pat_and_bit_13_is_reserved() -> None:
    two_mib = 0x4000_0000 | 1 << 12 | 0x83
    assert x86_64.walk(memory_of(pde=two_mib).read8, 0x1000, 0xFFFFF).pa == 0x400F_FFFF
    assert x86_64.walk(memory_of(pde=two_mib).read8, 0x1000, 0).pat_index == 4
    reserved = two_mib | 1 << 13
    assert x86_64.walk(memory_of(pde=reserved).read8, 0x1000, 0).outcome == "reserved_bits"


def test_a_1_gib_page_needs_the_processor_to_have_it() -> None:
    one_gib = 0x8000_0083
    assert x86_64.walk(memory_of(pdpte=one_gib).read8, 0x1000, 0x3FFF_FFFF).pa == 0xBFFF_FFFF
    without = x86_64.walk(memory_of(pdpte=one_gib).read8, 0x1000, 0, page1gb=False)
    assert without.outcome == "reserved_bits"


def test_an_absent_entry_with_reserved_bits_is_absent() -> None:
    assert x86_64.walk(memory_of(pte=(1 << 64) - 2).read8, 0x1000, 0).outcome == "not_present"


def test_a_table_outside_memory_is_named() -> None:
    result = x86_64.walk(memory_of(pde=0x10_0007).read8, 0x1000, 0x5000)
    assert (result.outcome, result.bus_address, result.references) == ("bus", 0x10_0028, 3)


def test_an_address_that_is_not_canonical_reads_nothing() -> None:
    def never(pa: int) -> int | None:
        raise AssertionError(hex(pa))

    for levels, va in (
        (4, 1 << 47),
        (4, 0xFFFF << 47),
        (5, 1 << 56),
        (5, 0x7F << 56),
        (4, 1 << 63),
    ):
        assert x86_64.walk(never, 0, va, levels).outcome == "not_canonical"


def test_the_encryption_bit_is_no_part_of_an_address() -> None:
    mask = 1 << 47
    tables = Memory({0x1000: mask | 0x2007, 0x2000: mask | 0x8000_0083})
    with_mask = x86_64.walk(tables.read8, mask | 0x1000, 5, maxphyaddr=43, encryption_mask=mask)
    assert (with_mask.outcome, with_mask.pa) == ("ok", 0x8000_0005)
    without = x86_64.walk(tables.read8, 0x1000, 5, maxphyaddr=43)
    assert without.outcome == "reserved_bits"


@pytest.mark.parametrize(
    ("pte", "access", "user", "state", "code"),
    [
        (0x5005, "w", True, {}, 0b000111),
        (0x5005, "w", False, {}, 0b000011),
        (0x5005, "w", False, {"wp": False}, None),
        (0x5005, "w", True, {"wp": False}, 0b000111),
        (0x5003, "r", True, {}, 0b000101),
        (0x5003, "r", False, {"smap": True}, None),
        (0x5007, "r", False, {"smap": True}, 0b000001),
        (0x5007, "w", False, {"smap": True, "ac": True}, None),
        (0x5007, "x", False, {"smap": True}, None),
        (0x5007, "x", False, {"smep": True}, 0b010001),
        (0x5007 | 1 << 63, "x", True, {}, 0b010101),
        (0x5007 | 1 << 63, "x", True, {"nxe": False}, 0b001101),
        (0x5007 | 3 << 59, "r", True, {"pke": True, "pkru": 1 << 6}, 0b100101),
        (0x5007 | 3 << 59, "x", True, {"pke": True, "pkru": 1 << 6}, None),
        (0x5007 | 3 << 59, "r", True, {"pke": True, "pkru": 1 << 7}, None),
        (0x5007 | 3 << 59, "w", True, {"pke": True, "pkru": 1 << 7}, 0b100111),
        (0x5007 | 3 << 59, "w", False, {"pke": True, "pkru": 1 << 7}, 0b100011),
        (0x5007 | 3 << 59, "w", False, {"pke": True, "pkru": 1 << 7, "wp": False}, None),
        (0x5003 | 3 << 59, "w", False, {"pke": True, "pkru": 3 << 6}, None),
        (0x5007 | 3 << 59, "w", True, {"pke": False, "pkru": 3 << 6}, None),
        (0, "x", True, {}, 0b010100),
        (0, "x", False, {"nxe": False}, 0),
        (0, "x", False, {"nxe": False, "smep": True}, 0b010000),
    ],
)
def test_the_error_code_is_what_the_manual_says(
    pte: int, access: str, user: bool, state: dict[str, Any], code: int | None
) -> None:
    nxe = bool(state.get("nxe", True))
    result = x86_64.walk(memory_of(pte=pte).read8, 0x1000, 0, nxe=nxe)
    assert x86_64.error_code(result, access, user, **state) == code
