"""The naive oracle of RISC-V is itself judged: against worked examples and against QEMU's MMU."""

from __future__ import annotations

import itertools
import random
from collections import Counter

import pytest

from oracles import riscv, unicorn_riscv
from oracles.riscv import A, D, G, R, U, V, W, X
from oracles.riscv_tables import BASE, FLAGS, Image, chain, image, pte, random_image

STATES = list(itertools.product((False, True), repeat=3))
IMAGES = 120

# Rules that this QEMU does not know: see unicorn_riscv.
UNKNOWN_TO_QEMU = {
    riscv.RULE_HIGH_BITS,
    riscv.RULE_N,
    riscv.RULE_PBMT,
    riscv.RULE_PBMT_POINTER,
    riscv.RULE_POINTER_DAU,
}


def seen_by_qemu(tables: Image, va: int) -> riscv.Result:
    """Walk as this QEMU does: the differences that unicorn_riscv lists, and no other."""
    scheme = tables.scheme

    def view(address: int, size: int) -> int | None:
        value = tables.read(address, size)
        if value is None:
            return None
        if size == 8:
            # A pointer with one of these bits leads out of memory.
            if riscv.is_pointer(value) and riscv.bits(value, 61, 54):
                return 0
            value = riscv.bits(value, 53, 0)
        return value & ~(1 << D | 1 << A | 1 << U) if riscv.is_pointer(value) else value

    if scheme.g_stage and scheme.ptesize == 8 and riscv.bit(va, scheme.va_bits - 1):
        return riscv.Result("not_canonical", ())
    if scheme.ptesize == 4:
        va %= 1 << 32
    return riscv.walk(view, BASE, va, tables.mode)


def address_in_qemu(tables: Image, va: int, seen: riscv.Result) -> int:
    """Return the physical address with the bits that QEMU adds and without those that it cuts."""
    scheme, pa = tables.scheme, seen.pa
    assert pa is not None
    if scheme.g_stage and seen.references == 1:
        low = scheme.va_bits - 2 - scheme.index_bits
        pa |= riscv.bits(va, low + 1, low) << low
    if scheme.ptesize == 4:
        return pa % (1 << 32)
    leaf = tables.read(seen.path[-1][1], 8)
    assert leaf is not None
    return pa + (riscv.bits(leaf, 61, 54) << 56)


def name_of_difference(tables: Image, va: int, result: riscv.Result, seen: riscv.Result) -> str:
    """Name the known difference between two walks that do not agree."""
    scheme = tables.scheme
    if scheme.g_stage and va >> (32 if scheme.ptesize == 4 else scheme.va_bits - 1):
        return "upper half of a G-stage"
    assert result.rule in UNKNOWN_TO_QEMU, (tables.mode, hex(va), result, seen)
    return str(result.rule)


def permitted(tables: Image, result: riscv.Result, access: str, state: tuple[bool, ...]) -> bool:
    user, sum_, mxr = state
    # MXR does not reach this QEMU's G-stage.
    mxr = mxr and not tables.scheme.g_stage
    return result.outcome == "ok" and riscv.allowed(result, access, user, sum_, mxr)


@pytest.mark.parametrize("mode", riscv.MODES)
def test_the_naive_oracle_and_qemu_give_the_same_address_or_both_a_fault(mode: str) -> None:
    mmu = unicorn_riscv.Mmu(mode)
    counts: Counter[str] = Counter()
    differences: Counter[str] = Counter()
    for seed in range(IMAGES):
        tables = random_image(random.Random(f"{mode} {seed}"), mode)
        mmu.load(bytes(tables.data), BASE, BASE)
        pairs = [(va, tables.walk(va), seen_by_qemu(tables, va)) for va in tables.addresses]
        for va, result, seen in pairs:
            counts[result.outcome] += 1
            counts[f"rule: {result.rule}"] += 1
            counts[f"size {result.page_size}"] += 1
            if (result.outcome, result.pa) != (seen.outcome, seen.pa):
                differences[name_of_difference(tables, va, result, seen)] += 1
        after = Image(mode, bytearray(tables.data))
        for state, (va, _, seen) in itertools.product(STATES, pairs):
            for access in "rwx":
                expected = None
                if permitted(tables, seen, access, state):
                    expected = address_in_qemu(tables, va, seen)
                    address = seen.path[-1][1]
                    before = after.read(address, after.scheme.ptesize) or 0
                    after.write(address, before | riscv.leaf_after(seen, access) & 0xFF)
                    counts[f"{access} allowed"] += 1
                elif seen.outcome == "ok":
                    counts[f"{access} denied"] += 1
                got = mmu.translate(va, access, *state)
                assert got == expected, (seed, hex(va), access, state, seen)
        # Only the leaf that the oracle names has got its accessed and dirty flags.
        assert mmu.read(BASE, len(after.data)) == after.data
    assert_all_seen(mode, counts, differences)


def assert_all_seen(mode: str, counts: Counter[str], differences: Counter[str]) -> None:
    scheme = riscv.MODES[mode]
    wide = scheme.ptesize == 8
    outcomes = {"ok": 1500, "not_present": 500, "reserved_bits": 1200, "bus": 120}
    outcomes["not_canonical"] = 200 if wide else 0
    assert all(counts[name] >= least for name, least in outcomes.items()), counts
    rules = [riscv.RULE_WRITE_ONLY, riscv.RULE_LAST_POINTER, riscv.RULE_MISALIGNED]
    assert all(counts[f"rule: {rule}"] >= 30 for rule in rules), counts
    sizes = [1 << (12 + i * scheme.index_bits) for i in range(scheme.levels)]
    assert all(counts[f"size {size}"] >= 100 for size in sizes), counts
    verdicts = [f"{access} {ending}" for access in "rwx" for ending in ("allowed", "denied")]
    assert all(counts[verdict] >= 2000 for verdict in verdicts), counts
    expected = {riscv.RULE_POINTER_DAU}
    if wide:
        expected |= {riscv.RULE_HIGH_BITS, riscv.RULE_N, riscv.RULE_PBMT}
    if scheme.g_stage:
        expected.add("upper half of a G-stage")
    assert set(differences) == expected, differences


def table_of_every_flags(mode: str, level: int) -> Image:
    """Return a chain whose last table, of `level`, has an entry for each value of bits 7:0."""
    tables = chain(mode, 0, level)
    scheme = tables.scheme
    page = 1 << max(12 + level * scheme.index_bits, 31 if scheme.ptesize == 4 else 40)
    for flags in range(256):
        tables.write(tables.table(level) + flags * scheme.ptesize, pte(page, flags))
    return tables


@pytest.mark.parametrize("mode", riscv.MODES)
def test_every_combination_of_the_low_bits_gives_the_same_verdict_and_the_same_flags(
    mode: str,
) -> None:
    """Svade is judged too: it refuses exactly the accesses for which QEMU changes the leaf."""
    mmu = unicorn_riscv.Mmu(mode)
    scheme = riscv.MODES[mode]
    counts: Counter[str] = Counter()
    for level in (0, scheme.levels - 1):
        tables = table_of_every_flags(mode, level)
        mmu.load(bytes(tables.data), BASE, BASE)
        for flags, state, access in itertools.product(range(256), STATES, "rwx"):
            va = flags << (12 + level * scheme.index_bits) | 0x123
            at = tables.table(level) + flags * scheme.ptesize
            before = tables.read(at, scheme.ptesize)
            assert before is not None
            result = tables.walk(va)
            may = permitted(tables, result, access, state)
            expected = address_in_qemu(tables, va, result) if may else None
            where = (flags, state, access, result)
            assert mmu.translate(va, access, *state) == expected, where
            leaf = int.from_bytes(mmu.read(at, scheme.ptesize), "little")
            assert leaf == (riscv.leaf_after(result, access) if may else before), where
            if may:
                strict = tables.walk(va, svade=True, store=access == "w")
                assert strict.outcome == ("ok" if leaf == before else "access_flag"), where
                assert riscv.allowed(result, access, *state, svade=True) == (leaf == before)
                counts[strict.outcome] += 1
                mmu.write(at, before.to_bytes(scheme.ptesize, "little"))
            counts[f"{access} {may}"] += 1
    assert all(counts[f"{access} True"] >= 256 for access in "rwx"), counts
    assert min(counts["ok"], counts["access_flag"]) > 500, counts


WIDE = [mode for mode, scheme in riscv.MODES.items() if scheme.ptesize == 8]


@pytest.mark.parametrize("mode", WIDE)
@pytest.mark.parametrize("bit", range(54, 64))
def test_a_difference_bits_63_to_54_are_reserved_but_qemu_ignores_or_uses_them(
    mode: str, bit: int
) -> None:
    """The manual, "Sv39": "a page-fault exception is raised" if any of them is set."""
    mmu = unicorn_riscv.Mmu(mode)
    tables = chain(mode, pte(1 << 40) | 1 << bit)
    mmu.load(bytes(tables.data), BASE, BASE)
    assert tables.walk(0).outcome == "reserved_bits"
    assert mmu.translate(0, "r", user=True) == (1 << 40) + (1 << (bit + 2)) % (1 << 64)
    tables = chain(mode, pte(1 << 40), pointer_flags=1 << V | 1 << bit)
    mmu.load(bytes(tables.data), BASE, BASE)
    assert tables.walk(0).outcome == "reserved_bits"
    assert mmu.translate(0, "r", user=True) == (1 << 40 if bit > 61 else None)


@pytest.mark.parametrize("mode", riscv.MODES)
@pytest.mark.parametrize("bit", [D, A, U])
def test_a_difference_d_a_and_u_of_a_pointer_are_reserved_but_qemu_ignores_them(
    mode: str, bit: int
) -> None:
    """The manual, "Sv32": for non-leaf PTEs, "the D, A, and U bits are reserved for future standard
    use".
    """
    mmu = unicorn_riscv.Mmu(mode)
    tables = chain(mode, pte(1 << 30), pointer_flags=1 << V | 1 << bit)
    mmu.load(bytes(tables.data), BASE, BASE)
    result = tables.walk(0)
    assert (result.outcome, result.rule) == ("reserved_bits", riscv.RULE_POINTER_DAU)
    assert mmu.translate(0, "r", user=True) == 1 << 30


def test_a_difference_sv32_has_22_bits_of_ppn_but_unicorn_cuts_the_address() -> None:
    """The manual, "Sv32": the VPN is translated "into a 22-bit physical page number (PPN)"."""
    mmu = unicorn_riscv.Mmu("Sv32")
    tables = chain("Sv32", pte(0x3_8765_4000))
    mmu.load(bytes(tables.data), BASE, BASE)
    assert tables.walk(0xABC).pa == 0x3_8765_4ABC
    assert mmu.translate(0xABC, "r", user=True) == 0x8765_4ABC


@pytest.mark.parametrize("mode", [mode for mode in WIDE if mode.endswith("x4")])
def test_a_difference_a_g_stage_is_zero_extended_but_qemu_sign_extends_it(mode: str) -> None:
    """The manual, H: "Address bits 63:41 must all be zeros, or else a guest-page-fault exception
    occurs."
    """
    mmu = unicorn_riscv.Mmu(mode)
    tables = image(mode)
    top = riscv.MODES[mode].va_bits - 1
    tables.write(BASE + 4 * 4096 - 8, pte(1 << 50))
    mmu.load(bytes(tables.data), BASE, BASE)
    last = (1 << (top + 1)) - 1
    page = 1 << (top - 10)
    assert tables.walk(last).pa == (1 << 50) + page - 1
    assert mmu.translate(last, "r", user=True) is None
    extended = (1 << 64) - page
    assert tables.walk(extended).outcome == "not_canonical"
    # And "pa.ppn[LEVELS-1:i] = pte.ppn[LEVELS-1:i]", but QEMU adds 2 bits of the index.
    assert mmu.translate(extended, "r", user=True) == (1 << 50) + 3 * page


def test_a_difference_mxr_of_the_hypervisor_overrides_a_g_stage_but_not_in_qemu() -> None:
    """The manual, H: "Setting MXR at HS-level, however, overrides both VS-stage and G-stage
    execute-only permissions."
    """
    mmu = unicorn_riscv.Mmu("Sv39x4")
    tables = chain("Sv39x4", pte(1 << 30, 1 << V | 1 << X | 1 << U))
    mmu.load(bytes(tables.data), BASE, BASE)
    assert riscv.allowed(tables.walk(0), "r", user=False, mxr=True)
    assert mmu.translate(0, "r", user=False, mxr=True) is None


def test_a_4_kib_page_is_described_as_the_manual_draws_it() -> None:
    leaf = pte(0xAB_CDEF_0000, 1 << V | 1 << R | 1 << W | 1 << A)
    tables = chain("Sv39", leaf)
    result = tables.walk(0x123)
    assert (result.outcome, result.pa) == ("ok", 0xAB_CDEF_0123)
    assert (result.page_size, result.entry_size) == (4096, 4096)
    assert result.path == (
        ("PTE2", BASE, pte(BASE + 0x1000, 1)),
        ("PTE1", BASE + 0x1000, pte(BASE + 0x3000, 1)),
        ("PTE0", BASE + 0x3000, leaf),
    )
    assert result.references == 3
    assert result.rights == riscv.Rights(True, True, False, False, False)
    assert (result.accessed, result.dirty, result.pbmt) == (True, False, 0)
    assert riscv.leaf_after(result, "x") == leaf
    assert riscv.leaf_after(result, "w") == leaf | 1 << D


@pytest.mark.parametrize("mode", riscv.MODES)
def test_the_whole_page_number_reaches_the_physical_address(mode: str) -> None:
    pa_bits = 34 if mode.startswith("Sv32") else 56
    assert chain(mode, pte((1 << pa_bits) - 4096)).walk(4095).pa == (1 << pa_bits) - 1


@pytest.mark.parametrize("mode", riscv.MODES)
def test_every_level_maps_superpages_and_refuses_misaligned_ones(mode: str) -> None:
    scheme = riscv.MODES[mode]
    for level in range(1, scheme.levels):
        size = 1 << (12 + level * scheme.index_bits)
        result = chain(mode, pte(3 * size), level).walk(size - 1)
        assert (result.pa, result.page_size, result.entry_size) == (4 * size - 1, size, size)
        assert result.references == scheme.levels - level
        for bit in (12, 11 + level * scheme.index_bits):
            assert (
                chain(mode, pte(3 * size + (1 << bit)), level).walk(0).rule
                == "misaligned superpage"
            )


@pytest.mark.parametrize(
    ("mode", "va", "indices"),
    [
        ("Sv32", 0x3FE << 22 | 0x201 << 12, [0x3FE, 0x201]),
        ("Sv39", 0x0FE << 30 | 0x101 << 21 | 0x033 << 12, [0x0FE, 0x101, 0x033]),
        ("Sv39", 0x3FF_FFFF << 38 | 0x002 << 30, [0x102, 0, 0]),
        ("Sv48", 0x001 << 39 | 0x002 << 30 | 0x1FD << 21 | 0x0FB << 12, [1, 2, 0x1FD, 0x0FB]),
        ("Sv57", 0xFF << 56 | 0x1FF << 39 | 4 << 21 | 0xFFF, [0x100, 0x1FF, 0, 4, 0]),
        ("Sv32x4", 0xBFE << 22 | 0x201 << 12, [0xBFE, 0x201]),
        ("Sv39x4", 0x7FE << 30 | 0x101 << 21 | 0x033 << 12, [0x7FE, 0x101, 0x033]),
    ],
)
def test_every_part_of_an_address_selects_an_entry_of_its_level(
    mode: str, va: int, indices: list[int]
) -> None:
    seen: list[int] = []
    size = riscv.MODES[mode].ptesize

    def read(address: int, asked: int) -> int:
        assert asked == size
        seen.append(address % (1 << 20) // size)
        return pte(1 << 20, 1 << V)

    riscv.walk(read, 1 << 20, va, mode)
    assert seen == indices


@pytest.mark.parametrize(("mode", "va_bits"), [("Sv39", 39), ("Sv48", 48), ("Sv57", 57)])
def test_upper_bits_that_do_not_equal_the_sign_are_refused_before_any_read(
    mode: str, va_bits: int
) -> None:
    def never(address: int, size: int) -> int | None:
        raise AssertionError(hex(address))

    sign = 1 << (va_bits - 1)
    for va in (sign, 1 << va_bits, 1 << 63, (1 << 64) - 1 - (1 << va_bits), 1 << 64):
        assert riscv.walk(never, 0, va, mode).outcome == "not_canonical"
    for va in (0, sign - 1, (1 << 64) - sign, (1 << 64) - 1):
        assert riscv.walk(lambda *_: None, 0, va, mode).outcome == "bus"


@pytest.mark.parametrize(
    ("mode", "bits"), [("Sv32x4", 34), ("Sv39x4", 41), ("Sv48x4", 50), ("Sv57x4", 59)]
)
def test_a_g_stage_has_a_root_of_16_kib_and_addresses_without_a_sign(mode: str, bits: int) -> None:
    tables = image(mode)
    size = tables.scheme.ptesize
    tables.write(BASE + 0x4000 - size, pte(1 << 33 if size == 4 else 1 << 50))
    last = (1 << bits) - 1
    result = tables.walk(last)
    assert result.path[0][:2] == (f"PTE{tables.scheme.levels - 1}", BASE + 0x4000 - size)
    assert result.outcome == "ok"
    assert tables.walk(last + 1).outcome == "not_canonical"
    # The root is where hgatp says, whose lowest two bits of PPN read as zeros.
    assert riscv.walk(tables.read, BASE + 0x3000, last, mode) == result


def test_a_g_stage_asks_for_u_whoever_asks_and_ignores_g() -> None:
    for flags, may in ((FLAGS, True), (FLAGS & ~(1 << U), False)):
        result = chain("Sv39x4", pte(1 << 30, flags | 1 << G)).walk(0)
        assert result.rights is not None
        assert not result.rights.global_
        for user, sum_ in itertools.product((False, True), repeat=2):
            assert all(riscv.allowed(result, access, user, sum_) == may for access in "rwx")


def test_a_global_pointer_makes_everything_below_it_global() -> None:
    for leaf, pointer in itertools.product((0, 1 << G), repeat=2):
        result = chain("Sv48", pte(1 << 30, FLAGS | leaf), 0, 1 << V | pointer).walk(0)
        assert result.rights is not None
        assert result.rights.global_ == bool(leaf | pointer)


def test_a_napot_entry_takes_four_bits_of_the_page_number_from_the_address() -> None:
    napot = 1 << 63 | pte(0x1234_5000_8000)
    for page in range(16):
        tables = chain("Sv39", 0)
        tables.write(tables.table(0) + 8 * (0x20 + page), napot)
        result = tables.walk(0x20000 + 4096 * page + 5, svnapot=True)
        assert result.pa == 0x1234_5000_0000 + 4096 * page + 5
        assert (result.page_size, result.entry_size) == (4096, 65536)


@pytest.mark.parametrize("mode", WIDE)
def test_only_64_kib_is_a_napot_size_and_only_level_0_has_it(mode: str) -> None:
    for low in range(16):
        result = chain(mode, 1 << 63 | pte(1 << 40 | low << 12)).walk(0, svnapot=True)
        assert result.rule == (None if low == 0b1000 else riscv.RULE_NAPOT)
    assert chain(mode, 1 << 63 | pte(1 << 40 | 8 << 12)).walk(0).rule == riscv.RULE_N
    superpage = chain(mode, 1 << 63 | pte(1 << 40), 1)
    assert superpage.walk(0, svnapot=True).rule == riscv.RULE_NAPOT
    pointer = chain(mode, 1 << 63 | pte(1 << 40 | 8 << 12, 1 << V), 1)
    assert pointer.walk(0, svnapot=True).rule == riscv.RULE_NAPOT


@pytest.mark.parametrize("mode", WIDE)
def test_a_memory_type_needs_svpbmt_a_leaf_and_a_value_below_3(mode: str) -> None:
    for pbmt in range(4):
        tables = chain(mode, pbmt << 61 | pte(1 << 40))
        assert tables.walk(0).rule == (riscv.RULE_PBMT if pbmt else None)
        result = tables.walk(0, svpbmt=True)
        assert (result.pbmt, result.rule) == (
            (None, riscv.RULE_PBMT_3) if pbmt == 3 else (pbmt, None)
        )
        pointer = chain(mode, pte(1 << 40), 0, pbmt << 61 | 1 << V)
        assert pointer.walk(0, svpbmt=True).rule == (riscv.RULE_PBMT_POINTER if pbmt else None)


@pytest.mark.parametrize(("mode", "pa_bits"), [("Sv32", 32), ("Sv39", 40), ("Sv48x4", 46)])
def test_an_entry_beyond_the_physical_address_is_refused_pointer_or_leaf(
    mode: str, pa_bits: int
) -> None:
    for tables in (
        chain(mode, pte(1 << pa_bits)),
        chain(mode, pte(0), 0, 1 << V | 1 << (pa_bits - 2)),
    ):
        assert tables.walk(0, pa_bits=pa_bits).rule == riscv.RULE_PA_BITS
        assert tables.walk(0, pa_bits=pa_bits + 1).outcome in ("ok", "bus")
    assert chain(mode, pte((1 << pa_bits) - 4096)).walk(0, pa_bits=pa_bits).outcome == "ok"


def test_what_svade_refuses_has_an_address_but_is_not_allowed() -> None:
    clean = 1 << V | 1 << R | 1 << W
    for flags, load, store in (
        (clean, "access_flag", "access_flag"),
        (clean | 1 << D, "access_flag", "access_flag"),
        (clean | 1 << A, "ok", "access_flag"),
        (clean | 1 << A | 1 << D, "ok", "ok"),
    ):
        tables = chain("Sv39", pte(1 << 30, flags))
        for is_store, outcome in ((False, load), (True, store)):
            result = tables.walk(0, svade=True, store=is_store)
            assert (result.outcome, result.pa) == (outcome, 1 << 30)
            access = "w" if is_store else "r"
            assert riscv.allowed(result, access, user=False) == (outcome == "ok")
            assert riscv.allowed(tables.walk(0), access, user=False)


def test_an_invalid_entry_is_not_present_whatever_else_it_holds() -> None:
    assert chain("Sv39", (1 << 64) - 2).walk(0).outcome == "not_present"
    assert chain("Sv32", (1 << 32) - 2).walk(0).outcome == "not_present"


def test_a_table_outside_memory_is_named_and_a_pointer_at_the_end_leads_nowhere() -> None:
    outside = chain("Sv39", pte(0x80_0000, 1), 1).walk(0x5000)
    assert (outside.outcome, outside.bus_address, outside.references) == ("bus", 0x80_0028, 2)
    assert chain("Sv39", pte(BASE, 1)).walk(0).rule == riscv.RULE_LAST_POINTER


@pytest.mark.parametrize("rights", [2, 6])
def test_w_without_r_is_reserved_at_every_level(rights: int) -> None:
    for level in range(3):
        leaf = pte(1 << 40, 1 << V | rights << R)
        assert chain("Sv39", leaf, level).walk(0).rule == riscv.RULE_WRITE_ONLY
