"""32-bit and PAE paging against QEMU's MMU: every combination of leaf bits and table bits, CPL 0."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest

from oracles.unicorn_x86_32 import Context32, Registers32
from ptcore import PageTable, PhysicalMemory, formats
from ptcore.errors import Fault

BASE = 0x10_0000
OUT = 0x55_5000
LARGE = 0xC0_0000
SIZE = 0x6000


def judge(table: PageTable, context: Context32, vas: list[int], seen: Counter[str]) -> None:
    content = table.memory.read(BASE, SIZE)
    context.load(content, BASE, table.root)
    for va, access in itertools.product(vas, "rwx"):
        theirs = context.probe(va, access)
        try:
            ours: int | None = table.translate(va, access)
            seen["ok"] += 1
        except Fault as fault:
            ours = None
            seen[fault.status.name] += 1
        assert ours == theirs, (hex(va), access, table.walk(va))


@pytest.mark.parametrize("wp", [True, False])
def test_32_bit_paging_agrees_with_qemu(wp: bool) -> None:
    context = Context32(Registers32(pae=False, wp=wp))
    ram = PhysicalMemory(segments=[(BASE, SIZE)])
    # PSE-36 of this machine reaches as far as its 40 physical bits.
    table = PageTable(formats.get("x86_32", wp=wp), ram, BASE)
    seen = Counter[str]()
    small_bits = [0, 1, 2, 5, 6, 7, 8]
    for upper in range(8):
        entry = BASE + 0x1000 | upper | 0x20
        ram.write_word(BASE + 4, entry, 4)
        for index, chosen in enumerate(itertools.product((0, 1), repeat=len(small_bits))):
            leaf = OUT | sum(bit << at for bit, at in zip(chosen, small_bits, strict=True))
            ram.write_word(BASE + 0x1000 + 4 * index, leaf, 4)
        for n, chosen in enumerate(itertools.product((0, 1), repeat=5)):
            p, w, bit_12, high, reserved = chosen
            leaf = LARGE | p | w << 1 | 0x80 | bit_12 << 12 | high << 13 | reserved << 21
            ram.write_word(BASE + 4 * (16 + n), leaf, 4)
        vas = [0x40_0000 + 4096 * n + 8 for n in range(128)]
        vas += [(16 + n << 22) + 0x1234 for n in range(32)]
        judge(table, context, vas, seen)
    assert seen["ok"] > 500
    assert seen["NOT_PRESENT"] > 500
    assert seen["RESERVED_BITS"] > 50
    assert (seen["PERMISSION"] > 50) == wp


@pytest.mark.parametrize(("wp", "nxe"), [(True, True), (False, True), (True, False)])
def test_pae_paging_agrees_with_qemu(wp: bool, nxe: bool) -> None:
    context = Context32(Registers32(pae=True, nxe=nxe, wp=wp))
    ram = PhysicalMemory(segments=[(BASE, SIZE)])
    table = PageTable(formats.get("x86_pae", wp=wp, nx=nxe), ram, BASE, physical_bits=40)
    seen = Counter[str]()
    ram.write_word(BASE, BASE + 0x1000 | 1)
    ram.write_word(BASE + 8, BASE + 0x1000 | 0)
    at = [0, 1, 7, 41, 55, 63]
    for upper in itertools.product((0, 1), repeat=3):
        p, w, nx = upper
        ram.write_word(BASE + 0x1000 + 8, BASE + 0x2000 | p | w << 1 | nx << 63)
        for index, chosen in enumerate(itertools.product((0, 1), repeat=len(at))):
            leaf = OUT | sum(bit << place for bit, place in zip(chosen, at, strict=True))
            ram.write_word(BASE + 0x2000 + 8 * index, leaf)
            large = (
                LARGE
                | 0x80
                | sum(
                    bit << place for bit, place in zip(chosen, [0, 1, 12, 13, 52, 63], strict=True)
                )
            )
            ram.write_word(BASE + 0x1000 + 8 * (16 + index), large)
        vas = [0x20_0000 + 4096 * n + 8 for n in range(64)]
        vas += [(16 + n << 21) + 0x1234 for n in range(64)] + [0x4020_0000]
        judge(table, context, vas, seen)
    assert seen["ok"] > 50
    assert seen["NOT_PRESENT"] > 500
    assert seen["RESERVED_BITS"] > 500
    assert (seen["PERMISSION"] > 10) == (wp or nxe)
