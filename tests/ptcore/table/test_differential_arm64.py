"""AArch64 stage 1, stage 2 and both against QEMU's MMU: addresses, faults, their levels and their stages."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest

from oracles.arm64_tables import Image, random_image
from oracles.unicorn_arm64 import HCR_RW, HCR_VM, SCTLR_M, Cpu, Mmu, Par, translation_control
from ptcore import Nested, PageTable, PhysicalMemory, formats, guest_memory
from ptcore.errors import Fault
from ptcore.formats import Format

BASE = 0x4000_0000
BYTES = {"4K": 4096, "16K": 16384, "64K": 65536}
NAMES = {"4K": "aarch64_4k_48", "16K": "aarch64_16k_48", "64K": "aarch64_64k_48"}
LEVEL_NAMES = {"L0": 0, "L1": 1, "L2": 2, "L3": 3}
READS_AND_WRITES = (
    ("s1e1r", "r", False),
    ("s1e1w", "w", False),
    ("s1e0r", "r", True),
    ("s1e0w", "w", True),
)


def tcr(granule: str, va_bits: int, **config: Any) -> int:
    return translation_control({"granule": BYTES[granule], "t0sz": 64 - va_bits, **config})


def judged(table: PageTable | Nested, va: int, access: str, user: bool) -> tuple[Par, str]:
    """Return ptcore's answer in QEMU's words, and ptcore's own word for it."""
    try:
        return Par("ok", pa=table.translate(va, access, user)), "OK"
    except Fault as fault:
        name = fault.status.name
        if name == "NOT_CANONICAL":
            return Par("not_present", level=0, stage=fault.stage), name
        level = LEVEL_NAMES[fault.level_name]
        return Par(name.lower(), level=level, stage=fault.stage), name


def hold(
    table: PageTable | Nested,
    cpu: Cpu,
    vas: list[int],
    kinds: tuple[tuple[str, str, bool], ...],
    seen: Counter[str],
    pan: bool = False,
) -> None:
    for instruction, access, user in kinds:
        for va, theirs in zip(vas, cpu.translate_many(instruction, vas, pan), strict=True):
            ours, status = judged(table, va, access, user)
            told = Par(theirs.outcome, theirs.pa, theirs.level, theirs.stage)
            assert ours == told, (instruction, hex(va), table.walk(va))
            seen[status] += 1


def attach(fmt: Format, image: Image) -> PageTable:
    return PageTable(fmt, PhysicalMemory.from_buffer(image.data, start=image.base), image.root)


STAGE_1 = [
    (granule, va_bits, upper)
    for granule, sizes in (
        ("4K", (48, 44, 40, 39, 36, 31, 30, 25)),
        ("16K", (48, 47, 42, 36, 30, 25)),
        ("64K", (48, 44, 42, 40, 29, 25)),
    )
    for va_bits in sizes
    for upper in (False, True)
]


@pytest.mark.parametrize(("granule", "va_bits", "upper"), STAGE_1)
def test_data_accesses_agree_with_qemu(granule: str, va_bits: int, upper: bool) -> None:
    rng = random.Random(f"{granule} {va_bits} {upper}")
    cpu = Cpu()
    seen = Counter[str]()
    for hpd in (False, True):
        fmt = formats.get(NAMES[granule], va_bits=va_bits, upper=upper, hpd=hpd)
        strict = formats.get(NAMES[granule], va_bits=va_bits, upper=upper, hpd=hpd, pan=True)
        for _ in range(4):
            image = random_image(rng, granule, va_bits, base=BASE)
            cpu.load(image.data, BASE)
            cpu.set(
                tcr_el1=tcr(granule, va_bits, hpd=hpd),
                sctlr_el1=SCTLR_M,
                **{f"ttbr{int(upper)}_el1": image.root},
            )
            ones = -1 << va_bits & (1 << 64) - 1 if upper else 0
            vas = [va ^ ones for va in image.addresses]
            hold(attach(fmt, image), cpu, vas, READS_AND_WRITES, seen)
            denied = (("s1e1rp", "r", False), ("s1e1wp", "w", False))
            hold(attach(strict, image), cpu, vas, denied, seen, pan=True)
    least = {"OK": 500, "NOT_PRESENT": 300, "PERMISSION": 300, "ACCESS_FLAG": 100}
    least |= {"NOT_CANONICAL": 50}
    assert all(seen[name] > count for name, count in least.items()), seen


@pytest.mark.parametrize("granule", ["4K", "16K", "64K"])
@pytest.mark.parametrize("wxn", [False, True])
@pytest.mark.parametrize("user", [False, True])
def test_instruction_fetches_agree_with_qemu(granule: str, wxn: bool, user: bool) -> None:
    rng = random.Random(f"{granule} {wxn} {user}")
    seen = Counter[bool]()
    for hpd in (False, True):
        table_format = formats.get(NAMES[granule], va_bits=39, hpd=hpd, wxn=wxn)
        for _ in range(8):
            image = random_image(rng, granule, 39, base=BASE, wild=0.02)
            size = len(image.data)
            mmu = Mmu(BASE, size, granule=BYTES[granule], t0sz=64 - 39, hpd=hpd)
            mmu.fill({}, image.root)
            mmu.load(image.data, BASE)
            table = attach(table_format, image)
            for va in image.addresses:
                ours, _ = judged(table, va, "x", user)
                theirs = mmu.translate(va, "x", user, wxn)
                assert ours.pa == theirs, (hex(va), table.walk(va))
                seen[theirs is None] += 1
    assert min(seen[False], seen[True]) > 100, seen


@pytest.mark.parametrize("granule", ["4K", "16K", "64K"])
def test_the_regime_of_el2_has_one_privilege_level_as_in_qemu(granule: str) -> None:
    rng = random.Random(granule)
    cpu = Cpu()
    seen = Counter[str]()
    for hpd in (False, True):
        fmt = formats.get(NAMES[granule], va_bits=42, regime="el2", hpd=hpd)
        for _ in range(6):
            image = random_image(rng, granule, 42, base=BASE)
            cpu.load(image.data, BASE)
            control = tcr(granule, 42, hpd=hpd, two_levels=False)
            cpu.set(tcr_el2=control, sctlr_el2=SCTLR_M, ttbr0_el2=image.root)
            kinds = (("s1e2r", "r", False), ("s1e2w", "w", False))
            hold(attach(fmt, image), cpu, list(image.addresses), kinds, seen)
    assert all(seen[name] > 100 for name in ("OK", "NOT_PRESENT", "PERMISSION", "ACCESS_FLAG"))


def vtcr(granule: str, ipa_bits: int, start_level: int) -> int:
    return tcr(granule, ipa_bits, stage=2, start_level=start_level)


# With this many bits, the walk starts at this level: some with concatenated tables.
STAGE_2 = (
    ("4K", 44, 0),
    ("4K", 43, 1),
    ("4K", 40, 1),
    ("4K", 39, 1),
    ("4K", 32, 1),
    ("4K", 34, 2),
    ("4K", 30, 2),
    ("16K", 40, 1),
    ("16K", 40, 2),
    ("16K", 36, 2),
    ("64K", 44, 1),
    ("64K", 44, 2),
    ("64K", 42, 2),
    ("64K", 33, 2),
)
BOTH_STAGES_E1 = (("s12e1r", "r", False), ("s12e1w", "w", False))


@pytest.mark.parametrize(("granule", "ipa_bits", "start"), STAGE_2)
def test_stage_2_agrees_with_qemu(granule: str, ipa_bits: int, start: int) -> None:
    rng = random.Random(f"{granule} {ipa_bits} {start}")
    cpu = Cpu()
    fmt = formats.get(f"aarch64_s2_{granule.lower()}", ipa_bits=ipa_bits, start_level=start)
    seen = Counter[str]()
    for _ in range(8):
        image = random_image(rng, granule, ipa_bits, base=BASE, levels=4 - start)
        cpu.load(image.data, BASE)
        cpu.set(
            vttbr_el2=image.root,
            vtcr_el2=vtcr(granule, ipa_bits, start),
            hcr_el2=HCR_RW | HCR_VM,
            sctlr_el1=0,
        )
        table = attach(fmt, image)
        vas = [va for va in image.addresses if va < 1 << min(44, ipa_bits)]
        for instruction, access, _ in BOTH_STAGES_E1:
            for va, theirs in zip(vas, cpu.translate_many(instruction, vas), strict=True):
                # As a second stage alone ptcore knows no first one: its rights are those of its own.
                ours, status = judged(table, va, access, False)
                told = Par(theirs.outcome, theirs.pa, theirs.level, theirs.stage and 1)
                assert ours == told, (hex(va), table.walk(va))
                seen[status] += 1
    least = {"OK": 200, "NOT_PRESENT": 100, "PERMISSION": 100, "ACCESS_FLAG": 50}
    assert all(seen[name] > count for name, count in least.items()), seen


def test_both_stages_agree_with_qemu() -> None:
    rng = random.Random("both")
    cpu = Cpu()
    seen = Counter[tuple[str, int | None, bool]]()
    ipa_base, pages = 0x2000_0000, 64
    for _ in range(40):
        outputs = tuple(ipa_base + n * 4096 for n in range(pages))
        first = random_image(rng, "4K", 39, base=ipa_base, outputs=outputs, wild=0.05)
        content, root = second_stage(rng, first, ipa_base, pages)
        cpu.load(content, BASE)
        cpu.set(
            vttbr_el2=root,
            vtcr_el2=vtcr("4K", 39, 1),
            hcr_el2=HCR_RW | HCR_VM,
            sctlr_el1=SCTLR_M,
            tcr_el1=tcr("4K", 39),
            ttbr0_el1=first.root,
        )
        ram = PhysicalMemory.from_buffer(content, start=BASE)
        stage2 = PageTable(formats.get("aarch64_s2_4k", ipa_bits=39, start_level=1), ram, root)
        first_format = formats.get("aarch64_4k_48", va_bits=39)
        nested = Nested(PageTable(first_format, guest_memory(stage2), first.root), stage2)
        kinds = tuple(("s12" + name[2:], *rest) for name, *rest in READS_AND_WRITES)
        for instruction, access, user in kinds:
            pars = cpu.translate_many(instruction, list(first.addresses))
            for va, theirs in zip(first.addresses, pars, strict=True):
                ours, _ = judged(nested, va, access, user)
                told = Par(theirs.outcome, theirs.pa, theirs.level, theirs.stage)
                if theirs.walk:  # QEMU says of these only that they are; the rest is the walk's
                    assert (ours.stage, nested.walk(va).stage) == (2, 2), (hex(va), theirs)
                    assert nested.walk(va).stage1.status.name != "OK" or ours.outcome != "ok"
                else:
                    assert ours == told, (instruction, hex(va), theirs, nested.walk(va))
                seen[ours.outcome, ours.stage, theirs.walk] += 1
    for outcome in ("not_present", "permission", "access_flag"):
        for stage, walk in ((1, False), (2, False), (2, True)):
            assert seen[outcome, stage, walk] > 50, seen
    assert seen["ok", None, False] > 1000


def second_stage(rng: random.Random, first: Image, ipa_base: int, pages: int) -> tuple[bytes, int]:
    """Return memory at BASE: three second-stage tables, then guest pages in an order of their own."""
    order = list(range(pages))
    rng.shuffle(order)
    content = bytearray((3 + pages) * 4096)
    tables = [BASE, BASE + 4096, BASE + 8192]
    for level, below in ((0, tables[1]), (1, tables[2])):
        index = ipa_base >> (30, 21)[level] & 511
        content[level * 4096 + 8 * index : level * 4096 + 8 * index + 8] = (below | 3).to_bytes(
            8, "little"
        )
    for n, place in enumerate(order):
        entry = BASE + (3 + place) * 4096 | 3 | 1 << 10 | 3 << 6
        if n and rng.random() < 0.15:  # the root stays readable
            entry ^= rng.choice((1, 1 << 10, 1 << 6, 1 << 7))
        content[8192 + 8 * n : 8192 + 8 * n + 8] = entry.to_bytes(8, "little")
        page = first.data[n * 4096 : (n + 1) * 4096]
        content[(3 + place) * 4096 : (3 + place) * 4096 + len(page)] = page
    return bytes(content), BASE
