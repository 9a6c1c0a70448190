"""Every combination of leaf bits, table bits, control bits and kinds of access on x86, against QEMU's MMU.

In the spirit of the access test of kvm-unit-tests: one image holds all the entries, each state of the control
registers is tried on all of it, at CPL 0 and 3, and address and error code must be the same bit for bit.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from oracles.unicorn_mmu import MAXPHYADDR, Answer, Mmu, Registers
from oracles.unicorn_x86_32 import Mmu32, Registers32
from ptcore import PageTable, PhysicalMemory, formats
from ptcore.errors import Fault, NotCanonical

BASE = 0x10_0000
OUT = 0x7F_5000
LARGE_OUT = 0xC0_0000
KEY = 1
P, W, U, PS, NX = 1 << 0, 1 << 1, 1 << 2, 1 << 7, 1 << 63
KEYED = KEY << 59
# PKRU: AD and WD of the key.
AD, WD = 1 << 2 * KEY, 1 << 2 * KEY + 1


@dataclass(frozen=True)
class Control:
    """The control bits that access rights depend on."""

    nxe: bool
    wp: bool
    smep: bool
    smap: bool
    ac: bool
    pkru: int | None = None


def controls(keys: tuple[int | None, ...], nxe: tuple[bool, ...]) -> Iterator[Control]:
    bools = (False, True)
    for nx, wp, smep, pkru in itertools.product(nxe, bools, bools, keys):
        for smap, ac in ((False, False), (True, False), (True, True)):
            yield Control(nx, wp, smep, smap, ac, pkru)


def subsets(bits: tuple[int, ...]) -> list[int]:
    """Every OR of some of the bits."""
    return [sum(chosen) for chosen in itertools.product(*((0, bit) for bit in bits))]


def write_tables(
    ram: PhysicalMemory, above: int, tables: list[int], leaves: list[int], at: int, entry_bytes: int
) -> None:
    """For each of `tables` (attributes) write an item at `above`, and below it all `leaves`."""
    for n, upper in enumerate(tables):
        below = at + n * 4096
        ram.write_word(above + entry_bytes * n, below | upper, entry_bytes)
        for index, leaf in enumerate(leaves):
            ram.write_word(below + entry_bytes * index, leaf, entry_bytes)


def judged(table: PageTable, va: int, access: str, user: bool) -> Answer:
    try:
        return Answer(table.translate(va, access, user), None)
    except NotCanonical:
        return Answer(None, None)
    except Fault as fault:
        return Answer(None, fault.code)


def hold(table: PageTable, mmu: Mmu | Mmu32, vas: list[int], seen: Counter[str]) -> None:
    mmu.load(table.memory.read(BASE, table.memory.segments[0].size), BASE, table.root)
    for user, access in itertools.product((False, True), "rwx"):
        for va, theirs in zip(vas, mmu.translate_many(vas, access, user), strict=True):
            ours = judged(table, va, access, user)
            assert ours == theirs, (hex(va), access, user, table.walk(va), table.format.parameters)
            seen[theirs.outcome] += 1


def test_every_access_in_four_level_paging() -> None:
    reserved = 1 << MAXPHYADDR
    uppers = subsets((P, W, U, NX, reserved))
    leaves = [OUT | bits for bits in subsets((P, W, U, NX, reserved, KEYED))]
    large = [LARGE_OUT | PS | bits for bits in subsets((P, W, U, NX, 1 << 13, KEYED))]
    ram = PhysicalMemory(segments=[(BASE, (3 + 2 * len(uppers)) * 4096)])
    pdpt, directory, tables = (BASE + n * 4096 for n in (1, 2, 3))
    ram.write_word(BASE, pdpt | P | W | U)
    ram.write_word(pdpt, directory | P | W | U)
    write_tables(ram, directory, uppers, leaves, tables, 8)
    # From the second item of the PDPT on: page directories whose items are leaves.
    write_tables(ram, pdpt + 8, uppers, large, tables + len(uppers) * 4096, 8)
    vas = [n << 21 | m << 12 | 0x18 for n in range(len(uppers)) for m in range(len(leaves))]
    vas += [(n + 1) << 30 | m << 21 | 0x1018 for n in range(len(uppers)) for m in range(len(large))]
    seen = Counter[str]()
    for control in controls((None, AD, WD), (False, True)):
        fmt = formats.get(
            "x86_64_4level",
            nx=control.nxe,
            wp=control.wp,
            smep=control.smep,
            smap=control.smap and not control.ac,
            pkru=control.pkru,
        )
        table = PageTable(fmt, ram, BASE, physical_bits=MAXPHYADDR)
        registers = Registers(
            nxe=control.nxe,
            wp=control.wp,
            smep=control.smep,
            smap=control.smap,
            ac=control.ac,
            pke=control.pkru is not None,
            pkru=control.pkru or 0,
        )
        hold(table, Mmu(registers), vas, seen)
    least = {"ok": 10_000, "not_present": 10**6, "reserved_bits": 10**5}
    least |= {"permission": 10_000, "protection_key": 1000}
    assert all(seen[outcome] > count for outcome, count in least.items()), seen


@pytest.mark.parametrize("nxe", [False, True])
def test_every_access_in_pae_paging(nxe: bool) -> None:
    reserved = 1 << MAXPHYADDR
    uppers = subsets((P, W, U, NX, reserved))
    leaves = [OUT | bits for bits in subsets((P, W, U, NX, 1 << 52))]
    large = [LARGE_OUT | PS | bits for bits in subsets((P, W, U, NX, 1 << 13))]
    ram = PhysicalMemory(segments=[(BASE, (2 + len(uppers)) * 4096)])
    directory, tables = BASE + 4096, BASE + 8192
    ram.write_word(BASE, directory | P)
    write_tables(ram, directory, uppers, leaves, tables, 8)
    for n, leaf in enumerate(large):
        ram.write_word(directory + 8 * (len(uppers) + n), leaf)
    vas = [n << 21 | m << 12 | 0x18 for n in range(len(uppers)) for m in range(len(leaves))]
    vas += [(len(uppers) + n) << 21 | 0x1018 for n in range(len(large))]
    seen = Counter[str]()
    for control in controls((None,), (nxe,)):
        table = attached("x86_pae", ram, control, nx=nxe)
        hold(table, Mmu32(registers_32(control, pae=True)), vas, seen)
    least = {"ok": 500, "not_present": 10_000, "reserved_bits": 10_000, "permission": 500}
    assert all(seen[outcome] > count for outcome, count in least.items()), seen


def test_every_access_in_32_bit_paging() -> None:
    uppers = subsets((P, W, U))
    leaves = [OUT | bits for bits in subsets((P, W, U, PS))]
    large = [LARGE_OUT | PS | bits for bits in subsets((P, W, U, 1 << 12, 1 << 13, 1 << 21))]
    ram = PhysicalMemory(segments=[(BASE, (1 + len(uppers)) * 4096)])
    write_tables(ram, BASE, uppers, leaves, BASE + 4096, 4)
    for n, leaf in enumerate(large):
        ram.write_word(BASE + 4 * (len(uppers) + n), leaf, 4)
    vas = [n << 22 | m << 12 | 0x18 for n in range(len(uppers)) for m in range(len(leaves))]
    vas += [(len(uppers) + n) << 22 | 0x1018 for n in range(len(large))]
    seen = Counter[str]()
    for control in controls((None,), (False,)):
        table = attached("x86_32", ram, control)
        hold(table, Mmu32(registers_32(control, pae=False)), vas, seen)
    least = {"ok": 1000, "not_present": 1000, "reserved_bits": 1000, "permission": 500}
    assert all(seen[outcome] > count for outcome, count in least.items()), seen


def attached(name: str, ram: PhysicalMemory, control: Control, **parameters: object) -> PageTable:
    fmt = formats.get(
        name,
        wp=control.wp,
        smep=control.smep,
        smap=control.smap and not control.ac,
        **parameters,
    )
    return PageTable(fmt, ram, BASE, physical_bits=min(MAXPHYADDR, fmt.physical_bits))


def registers_32(control: Control, pae: bool) -> Registers32:
    return Registers32(
        pae=pae,
        nxe=control.nxe,
        wp=control.wp,
        smep=control.smep,
        smap=control.smap,
        ac=control.ac,
    )
