"""Commands drop what they must and keep what they may; what edits owe is enough, and an oracle says so."""

from __future__ import annotations

import random
from collections import Counter

import numpy as np
import pytest

from ptcore import PageTable, PhysicalMemory
from ptcore.caches import Mmu, Tlb, TlbArray, TlbLevel, WalkCache
from ptcore.caches import invalidation as inv
from ptcore.caches.oracle import Oracle, stale
from ptcore.errors import FormatError, MapError, OutOfRange
from ptcore.table.owed import Owed

M = 1 << 20
VENDORS = {"x86": "x86_64_4level", "arm": "aarch64_4k_48", "riscv": "sv39"}


def cpu(fmt: str, asid: int = 3) -> Mmu:
    levels = (
        TlbLevel("L1", (TlbArray(16, 4, ("4K", "2M")),)),
        TlbLevel("L2", (TlbArray(64, 4, ("4K", "2M", "1G")),)),
    )
    table = PageTable(fmt, PhysicalMemory("4M"))
    return Mmu(table, Tlb(levels), WalkCache({1: 8, 2: 4}), asid)


def filled() -> Mmu:
    """Pages 1 and 2 of this space (page 2 global), page 1 of another, and structures over them."""
    mmu = cpu("x86_64_4level")
    mmu.table.map(0x1000, 0x5000, "4K", "rw")
    mmu.table.map(0x2000, 0x6000, "4K", "rw", global_=True)
    mmu.access_many([0x1000, 0x2000])
    mmu.tlb.insert(0x1000, 0x9000, "4K", asid=4)
    return mmu


def kept(mmu: Mmu) -> set[tuple[int, str]]:
    """(page, tag) of what the second level still holds."""
    rows = mmu.tlb.entries()
    return {
        (int(r["va"]) >> 12, "global" if r["global_"] else str(r["asid"]))
        for r in rows[rows["level"] == 1]
    }


OWN, OTHER, GLOBAL = (1, "3"), (1, "4"), (2, "global")


@pytest.mark.parametrize(
    ("vendor", "name", "address", "left", "structures_left"),
    [
        ("x86", "invlpg", 0x1008, {OTHER, GLOBAL}, False),
        ("x86", "invlpg", 0x2008, {OWN, OTHER}, False),
        ("x86", "invpcid_address", 0x2008, {OWN, OTHER, GLOBAL}, False),
        ("x86", "invpcid_context", 0, {OTHER, GLOBAL}, False),
        ("x86", "invpcid_all_globals", 0, set(), False),
        ("x86", "invpcid_all", 0, {GLOBAL}, False),
        ("x86", "mov_cr3", 0, {OTHER, GLOBAL}, False),
        ("x86", "cr4_pge", 0, set(), False),
        ("arm", "vae1", 0x1000, {OTHER, GLOBAL}, False),
        ("arm", "vale1", 0x1000, {OTHER, GLOBAL}, True),
        ("arm", "vaae1", 0x1000, {GLOBAL}, False),
        ("arm", "vaale1", 0x1000, {GLOBAL}, True),
        ("arm", "aside1", 0, {OTHER, GLOBAL}, False),
        ("arm", "vmalle1", 0, set(), False),
        ("riscv", "sfence_vma", 0, set(), False),
        ("riscv", "sfence_vma_asid", 0, {OTHER, GLOBAL}, False),
        ("riscv", "sfence_vma_address", 0x2000, {OWN, OTHER}, True),
        ("riscv", "sfence_vma_both", 0x2000, {OWN, OTHER, GLOBAL}, True),
    ],
)
def test_a_command_drops_what_its_manual_says(
    vendor: str, name: str, address: int, left: set[tuple[int, str]], structures_left: bool
) -> None:
    mmu = filled()
    assert kept(mmu) == {OWN, OTHER, GLOBAL}
    inv.apply(inv.command(vendor, name), mmu, address)
    assert kept(mmu) == left
    assert bool(len(mmu.walk_cache)) == structures_left


def test_a_range_drops_what_meets_it() -> None:
    mmu = filled()
    inv.apply(inv.command("arm", "rvale1"), mmu, 0x1000, 0x1FFF)
    assert kept(mmu) == {OTHER, GLOBAL}
    assert len(mmu.walk_cache) > 0
    inv.apply(inv.command("arm", "rvae1"), mmu, 0x1000, 0x2FFF)
    assert kept(mmu) == {OTHER}
    assert len(mmu.walk_cache) == 0
    with pytest.raises(OutOfRange, match="needs its last address"):
        inv.apply(inv.command("arm", "rvae1"), mmu, 0)


def test_unknown_names_are_told_the_nearest() -> None:
    with pytest.raises(FormatError, match="nearest: invlpg"):
        inv.command("x86", "invlp")
    with pytest.raises(FormatError, match=r"arm, .*riscv, .*x86 are"):
        inv.command("mips", "tlbwr")
    with pytest.raises(FormatError, match=r"arm, .*riscv, .*x86 are"):
        inv.pay(Owed(), filled(), "mips")


@pytest.mark.parametrize(
    "pages", [1, 2, 3, 31, 64, 65, 127, 2048, 2049, 1 << 16, (1 << 21) - 1, 1 << 22]
)
def test_range_parts_cover_every_page_once(pages: int) -> None:
    parts = list(inv.range_parts(pages))
    assert sum(covered for _, _, covered in parts) == pages
    for scale, num, covered in parts:
        single = num == -1
        assert covered == (1 if single else (num + 1) << (5 * scale + 1))
        assert single or (0 <= num <= 31 and 0 <= scale <= 3)
    assert len(parts) <= 8 or pages > 1 << 21


def edit(rng: random.Random, mmu: Mmu) -> Owed | None:
    """One random edit among few pages; None where the tables refuse it."""
    table = mmu.table
    page = rng.randrange(4) * 512 + rng.randrange(4)
    verb = rng.choice(("map", "map", "map large", "unmap", "protect", "split", "collapse"))
    large = page // 512 * 2 * M
    try:
        if verb == "map":
            return table.map(
                page << 12, rng.randrange(1 << 10) << 12, "4K", rng.choice(("r", "rw"))
            )
        if verb == "map large":
            return table.map(large, rng.randrange(8) * 2 * M, "2M", "rw", page_size="2M")
        if verb == "unmap":
            length = rng.choice(("4K", "16K", "2M"))
            at = large if length == "2M" else page << 12
            return table.unmap(at, length, missing_ok=True)
        if verb == "protect":
            return table.protect(page << 12, "4K", rng.choice(("r", "rw")))
        if verb == "split":
            return table.split(large, "2M")
        return table.collapse(large, "2M", "2M")
    except (MapError, FormatError):
        return None


@pytest.mark.parametrize("vendor", VENDORS)
@pytest.mark.parametrize("seed", range(4))
def test_what_an_edit_owes_is_enough_and_all_of_it_is_needed(vendor: str, seed: int) -> None:
    rng = random.Random(f"{vendor} {seed}")
    mmu = cpu(VENDORS[vendor])
    oracle = Oracle(mmu)
    seen = Counter[str]()
    for _ in range(400):
        pages = [rng.randrange(4) * 512 + rng.randrange(4) for _ in range(12)]
        mmu.access_many([page << 12 for page in pages], rng.choice("rw"))
        assert stale(mmu) == []
        owed = edit(rng, mmu)
        if owed is None:
            seen["refused"] += 1
            assert stale(mmu) == []
            continue
        found = stale(mmu)
        # Every stale translation lies in what is owed: nothing was forgotten.
        for entry in found:
            last = entry.va + entry.page_size - 1
            met = any(entry.va <= span.last and last >= span.start for span in owed.spans)
            assert met or (entry.level is None and owed.tables), (entry, owed)
        seen["stale before payment"] += bool(found)
        seen["a table taken out"] += any(entry.level is None for entry in found)
        before = oracle.entries()
        seen["commands"] += len(inv.pay(owed, mmu, vendor))
        assert stale(mmu) == [], (vendor, found, owed)
        seen["dropped for nothing"] += len(oracle.dropped_for_nothing(before))
    # Unpaid, these would have been wrong: the oracle sees a missing invalidation.
    assert seen["stale before payment"] > 30, seen
    assert seen["a table taken out"] > 2, seen
    assert seen["refused"] > 20, seen


def test_an_invalidation_that_is_left_out_is_caught_with_its_rule() -> None:
    mmu = cpu("x86_64_4level")
    mmu.table.map(0, 0, "4M", "rw", page_size="2M")
    mmu.access_many(np.array([0, 2 * M], dtype=np.uint64))
    mmu.table.protect(0, "2M", "r")
    mmu.table.unmap(2 * M, "2M")
    rules = {entry.va: entry.rule for entry in stale(mmu) if entry.level == 1}
    assert rules == {
        0: "it has rights that were taken away",
        2 * M: "not all of it is mapped any more",
    }
    mmu.table.map(2 * M, 8 * M, "2M", "rw")
    assert {e.rule for e in stale(mmu) if e.va == 2 * M} == {"it is mapped elsewhere now"}
    inv.apply(inv.command("x86", "invlpg"), mmu, 0)
    assert {entry.va for entry in stale(mmu)} == {2 * M}


def test_what_is_dropped_for_nothing_is_counted() -> None:
    mmu = filled()
    oracle = Oracle(mmu)
    before = [entry for entry in oracle.entries() if entry.asid != 4]
    inv.apply(inv.command("x86", "cr4_pge"), mmu)
    lost = oracle.dropped_for_nothing(before)
    assert {entry.va for entry in lost if entry.cache == "tlb"} == {0x1000, 0x2000}
    assert {entry.cache for entry in lost} == {"tlb", "walk_cache"}
