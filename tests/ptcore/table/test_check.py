"""check(): each rule against a naive listing of the same bytes, and the words of each finding."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pyarrow
import pytest

import ptcore
from oracles.x86_64_tables import Leaf, Oddity, everything
from ptcore import AddressSpace, Nested, PageTable, PhysicalMemory, check, guest_memory
from ptcore.table.check import Findings
from ptcore.table.rows import Rule

FRAME = 4096
FRAMES = 48
PHYSICAL_BITS = 40
WIDE = 1 << 45
XD = 1 << 63


def plausible(seed: int) -> tuple[PhysicalMemory, int]:
    """Tables of every level in random frames, few items each; some pages alias, some items are wrong."""
    rng = random.Random(seed)
    ram = PhysicalMemory(FRAMES * FRAME)
    frames = rng.sample(range(1, FRAMES), 16)
    tables = {3: frames[:1], 2: frames[1:4], 1: frames[4:8], 0: frames[8:16]}
    pages = [frame << 12 for frame in range(1, FRAMES)]
    for level, members in tables.items():
        for frame in members:
            for slot in rng.sample(range(512), rng.randint(1, 5)):
                flags = (
                    rng.choice([1, 3, 5, 7]) | rng.choice([0, XD]) | rng.choice([0, 0, 8, 16, 24])
                )
                if level == 0:
                    entry = rng.choice(pages) | flags | rng.choice([0, 1 << 7])
                elif level < 3 and rng.random() < 0.2:
                    entry = flags | 1 << 7 | rng.choice([0, 0, 1 << 12])
                else:
                    entry = rng.choice(tables[level - 1]) << 12 | flags & ~24
                odd = rng.random()
                if odd < 0.06:
                    entry |= WIDE
                elif odd < 0.1 and level:
                    entry = FRAMES << 12 | 3
                elif odd < 0.14 and level:
                    entry = rng.choice([frames[0], frame]) << 12 | 3
                elif odd < 0.18:
                    entry &= ~1
                ram.write_word((frame << 12) + 8 * slot, entry)
    return ram, frames[0] << 12


def reader(ram: PhysicalMemory) -> Any:
    return lambda pa: ram.read_word(pa) if pa in ram and pa + 7 in ram else None


def inside(found: Findings, rule: Rule, va: int) -> bool:
    rows = found.rows[found.rows["rule"] == rule]
    return bool(((rows["first"] <= va) & (va <= rows["last"])).any())


def test_every_rule_finds_what_a_naive_listing_finds_and_nothing_else() -> None:
    met = Counter[str]()
    for seed in range(60):
        ram, root = plausible(seed)
        found = check(PageTable("x86_64_4level", ram, root, physical_bits=PHYSICAL_BITS))
        listed = list(everything(reader(ram), root, PHYSICAL_BITS))
        leaves = [item for item in listed if isinstance(item, Leaf)]
        # Items: each is found once, wherever else its table hangs.
        for rule, what in (
            (Rule.RESERVED_ITEM, "reserved"),
            (Rule.OUTSIDE_MEMORY, "outside"),
            (Rule.LOOP, "loop"),
        ):
            expected = {
                item.at for item in listed if isinstance(item, Oddity) and item.what == what
            }
            rows = found.rows[found.rows["rule"] == rule]
            got = {
                int(row["entry_address"]) + 8 * n for row in rows for n in range(int(row["items"]))
            }
            assert got == expected, (seed, rule)
            met[what] += len(expected)
        # Pages: by the items that map them, since a subtree is listed once for each set of rights.
        for rule, wrong in (
            (Rule.WRITABLE_EXECUTABLE, lambda leaf: leaf.write and leaf.execute),
            (Rule.USER_IN_KERNEL_HALF, lambda leaf: leaf.user and leaf.va >> 63),
        ):
            expected = {leaf.at for leaf in leaves if wrong(leaf)}
            covered = [leaf for leaf in leaves if inside(found, rule, leaf.va)]
            assert {leaf.at for leaf in covered} == expected, (seed, rule)
            assert all(wrong(leaf) for leaf in covered)
            met[rule.name] += len(expected)
        check_aliases((ram, root), found, leaves, met, seed)
    for what in ("reserved", "outside", "loop", *(rule.name for rule in Rule if rule > 3)):
        assert met[what] >= 20, met


def check_aliases(
    tables: tuple[PhysicalMemory, int],
    found: Findings,
    leaves: list[Leaf],
    met: Counter[str],
    seed: int,
) -> None:
    """Frame by frame: who maps it how, and does check say so of that frame."""
    ram, root = tables
    frames = [frame << 12 for frame in range(FRAMES)]
    over = {pa: [leaf for leaf in leaves if leaf.pa <= pa < leaf.pa + leaf.size] for pa in frames}
    # PAT after reset: indices 4 to 7 are 0 to 3 again.
    expected = {pa for pa in frames if len({leaf.pat % 4 for leaf in over[pa]}) > 1}
    assert flagged(found, Rule.MEMORY_TYPE_ALIAS, leaves) & set(frames) == expected, seed
    met[Rule.MEMORY_TYPE_ALIAS.name] += len(expected)

    def pages(pa: int, write: bool, execute: bool, user: bool) -> bool:
        return any(
            (leaf.write, leaf.execute, leaf.user) == (write, execute, user) for leaf in over[pa]
        )

    # The kernel writes what only it executes, or user mode writes what anyone executes but does not write.
    expected = {
        pa
        for pa in frames
        if (pages(pa, False, True, False) and pages(pa, True, False, False))
        or (
            any(leaf.execute and not (leaf.write and leaf.user) for leaf in over[pa])
            and pages(pa, True, False, True)
        )
    }
    assert flagged(found, Rule.WRITABLE_ALIAS, leaves) & set(frames) == expected, seed
    met[Rule.WRITABLE_ALIAS.name] += len(expected)
    hold_tables = {root} | {item_target(ram, at) for at in reachable(ram, root)}
    writers = [leaf for leaf in leaves if leaf.write and leaf.user]
    expected = {pa for pa in hold_tables if any(w.pa <= pa < w.pa + w.size for w in writers)}
    rows = found.rows[found.rows["rule"] == Rule.USER_WRITABLE_TABLE]
    assert {int(pa) for pa in rows["other"]} == expected, seed
    met[Rule.USER_WRITABLE_TABLE.name] += len(expected)


def reachable(ram: PhysicalMemory, root: int) -> set[int]:
    """The addresses of all items that point to tables, read naively."""
    found: set[int] = set()

    def visit(table: int, shift: int) -> None:
        for slot in range(512 if shift > 12 else 0):
            at = table + 8 * slot
            entry = reader(ram)(at)
            if entry is None or not entry & 1 or entry & 1 << 7 or entry & WIDE:
                continue
            found.add(at)
            visit(entry & ((1 << 52) - 1) & ~0xFFF, shift - 9)

    visit(root, 39)
    return found


def item_target(ram: PhysicalMemory, at: int) -> int:
    return ram.read_word(at) & ((1 << 52) - 1) & ~0xFFF


def flagged(found: Findings, rule: Rule, leaves: list[Leaf]) -> set[int]:
    """The frames that findings of a rule are about, by the naive listing's addresses."""
    pas: set[int] = set()
    for row in found.rows[found.rows["rule"] == rule]:
        first, last = int(row["first"]), int(row["last"])
        for leaf in leaves:
            low, high = max(first, leaf.va), min(last, leaf.last)
            if low <= high:
                start = leaf.pa + (low - leaf.va)
                pas |= set(range(start, min(start + (high - low) + 1, FRAMES << 12), FRAME))
    return pas


def test_a_finding_says_address_level_entry_and_rule() -> None:
    ram = PhysicalMemory("4M")
    table = PageTable("x86_64_4level", ram, physical_bits=40)
    table.map(0x1000, 0x20_0000, "8K", "rwx")
    at = table.walk(0x1000).path[-1].entry_address
    (found,) = check(table)
    assert (found.rule, found.first, found.last) == (Rule.WRITABLE_EXECUTABLE, 0x1000, 0x2FFF)
    assert (found.level, found.level_name, found.items) == (0, "PT", 2)
    assert (found.entry_address, found.entry) == (at, ram.read_word(at))
    assert "writable and executable at once (rwx-) for the kernel" in found.text
    assert f"PT (level 0), entry {found.entry:#x} at {at:#x}, 2 items alike" in found.text
    table.protect(0x1000, "8K", "rx")
    assert not check(table)
    ram.write_word(at + 16, 1 << 45 | 3)
    ram.write_word(at + 24, 1 << 45 | 3)
    (found,) = check(table)
    assert (found.rule, found.entry_address, found.items) == (Rule.RESERVED_ITEM, at + 16, 2)
    assert "beyond the output address width" in found.text
    ram.write_word(table.root + 8 * 0x1ED, table.root | 1)
    assert (
        "points back to its own table" in next(f for f in check(table) if f.rule == Rule.LOOP).text
    )


def test_findings_can_be_left_out_and_are_columns() -> None:
    table = PageTable("x86_64_4level", PhysicalMemory("4M"))
    table.map(0xFFFF_8000_0000_0000, 0x20_0000, "4K", "rwx", user=True)
    found = check(table)
    assert [f.rule for f in found] == [Rule.WRITABLE_EXECUTABLE, Rule.USER_IN_KERNEL_HALF]
    assert [f.rule for f in found.without(Rule.WRITABLE_EXECUTABLE)] == [Rule.USER_IN_KERNEL_HALF]
    columns = pyarrow.table(found)
    assert columns["rule"].to_pylist() == [4, 5]
    assert columns["first"].to_pylist() == [0xFFFF_8000_0000_0000] * 2
    assert pyarrow.table(found.columns) == columns
    assert pyarrow.table(check(PageTable("x86_64_4level", PhysicalMemory("1M")))).num_rows == 0


def test_halves_of_one_space_alias_each_other() -> None:
    ram = PhysicalMemory("4M")
    lower = PageTable(ptcore.formats.get("aarch64_4k_48", upper=False), ram)
    upper = PageTable(ptcore.formats.get("aarch64_4k_48", upper=True), ram)
    lower.map(0x1000, 0x5000, "4K", "rx", user=True)
    upper.map(0xFFFF_0000_0000_0000, 0x5000, "4K", "rw", user=False)
    assert not check(
        AddressSpace([lower, upper])
    )  # the kernel may write what only user mode executes
    upper.protect(0xFFFF_0000_0000_0000, "4K", "rw", user=True)
    found = check(AddressSpace([lower, upper]))
    assert [f.rule for f in found] == [Rule.USER_IN_KERNEL_HALF, Rule.WRITABLE_ALIAS]
    alias = list(found)[1]
    assert (alias.first, alias.other) == (0x1000, 0xFFFF_0000_0000_0000)


def test_both_stages_are_looked_at() -> None:
    host = PhysicalMemory("16M")
    stage2 = PageTable("ept_4level", host)
    stage2.map(0, 0x40_0000, "4M", "rwx")
    seen = guest_memory(stage2, frames=(0x10_0000, "1M"))
    stage1 = PageTable("x86_64_4level", seen)
    stage1.map(0x1000, 0x3000, "4K", "rwx")
    found = check(Nested(stage1, stage2))
    assert [(f.rule, f.first, f.level_name) for f in found] == [
        (Rule.WRITABLE_EXECUTABLE, 0x1000, "PT"),
        (Rule.WRITABLE_EXECUTABLE, 0x0, "EPT PD"),
    ]


@pytest.mark.parametrize(
    "name", ["sv39", "sv48", "aarch64_16k_48", "x86_pae", "x86_32", "vtd_ss_4level"]
)
def test_other_formats_are_clean_when_mapped_cleanly(name: str) -> None:
    table = PageTable(name, PhysicalMemory("4M"))
    start = table.legal_spans()[0].start
    table.map(start + 0x10_0000, 0x20_0000, "64K", "rw")
    assert not check(table)
    assert isinstance(check(AddressSpace([table])).rows, ptcore.table.Listing)
