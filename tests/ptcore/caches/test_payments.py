"""What edits owe, paid on every format by every vendor that walks it: enough, and none of it for nothing."""

from __future__ import annotations

import random
from collections import Counter

import pytest

import ptcore
from ptcore import PageTable, PhysicalMemory, formats
from ptcore.caches import Iommu, Mmu, Oracle, Tlb, TlbArray, TlbLevel, WalkCache
from ptcore.caches import invalidation as inv
from ptcore.errors import FormatError, MapError
from ptcore.formats import encode
from ptcore.formats.schema import Format
from ptcore.table.nested import guest_memory
from ptcore.table.owed import Owed

PAIRS = [
    (name, parameters, vendor)
    for name, parameters in formats.configurations()
    for vendor in inv.vendors_of(name)
]


def _name(pair: tuple[str, dict[str, object], str]) -> str:
    name, parameters, vendor = pair
    return "-".join([name, *(f"{key}={value}" for key, value in parameters.items()), vendor])


def levels_for(fmt: Format) -> tuple[TlbLevel, ...]:
    sizes = fmt.page_sizes[:8]
    return (TlbLevel("L1", tuple(TlbArray(64, 64, (str(size),)) for size in sizes)),)


def cpu_of(fmt: Format) -> Mmu:
    table = PageTable(fmt, PhysicalMemory("16M"))
    items = dict.fromkeys(range(1, min(fmt.top_level, 5) + 1), 8)
    return Mmu(table, Tlb(levels_for(fmt)), WalkCache(items) if items else None, 3, vmid=2)


def regions(mmu: Mmu) -> int:
    """How many places apart from each other the addresses have room for, at most three."""
    fmt = mmu.table.format
    room = mmu.table.legal_spans()[0].size // (2 * fmt.page_sizes[min(1, len(fmt.page_sizes) - 1)])
    return max(1, min(3, room))


def edit(rng: random.Random, mmu: Mmu, access: str, start: int) -> Owed | None:
    """One random edit among few pages; None where the tables refuse it."""
    fmt, table = mmu.table.format, mmu.table
    page, large = fmt.page_sizes[0], fmt.page_sizes[min(1, len(fmt.page_sizes) - 1)]
    region = start + rng.randrange(regions(mmu)) * 2 * large
    at = region + rng.randrange(4) * page
    try:
        match rng.choice(("map", "map", "map large", "unmap", "unmap all", "split", "collapse")):
            case "map":
                return table.map(at, rng.randrange(64) * page, page, access, page_size=page)
            case "map large":
                return table.map(region, rng.randrange(4) * large, large, access, page_size=large)
            case "unmap":
                return table.unmap(at, rng.choice((1, 3)) * page, missing_ok=True)
            case "unmap all":
                return table.unmap(region, large, missing_ok=True, free_tables=True)
            case "split":
                return table.split(region, large)
            case _:
                return table.collapse(region, large, large)
    except (MapError, FormatError):
        return None


@pytest.mark.parametrize("pair", PAIRS, ids=_name)
def test_what_an_edit_owes_is_enough_for_every_vendor(
    pair: tuple[str, dict[str, object], str],
) -> None:
    name, parameters, vendor = pair
    rng = random.Random(f"{name} {vendor}")
    fmt = formats.get(name, **parameters)
    mmu = cpu_of(fmt)
    access = "rwx" if encode.decides(fmt, encode.X) else "rw"
    page, large = fmt.page_sizes[0], fmt.page_sizes[min(1, len(fmt.page_sizes) - 1)]
    start = mmu.table.legal_spans()[0].start
    oracle = Oracle(mmu)
    seen = Counter[str]()
    for _ in range(80):
        mmu.access_many(
            [
                start + rng.randrange(regions(mmu)) * 2 * large + rng.randrange(4) * page
                for _ in range(8)
            ]
        )
        assert oracle.look() == []
        owed = edit(rng, mmu, access, start)
        if owed is None:
            continue
        seen["stale"] += bool(oracle.look("edited"))
        inv.pay(owed, mmu, vendor)
        assert oracle.look() == [], (owed, vendor)
    assert seen["stale"] >= 5, seen


@pytest.mark.parametrize("pair", PAIRS, ids=_name)
def test_leaving_any_command_out_is_caught(pair: tuple[str, dict[str, object], str]) -> None:
    name, parameters, vendor = pair
    fmt = formats.get(name, **parameters)
    access = "rwx" if encode.decides(fmt, encode.X) else "rw"
    page = fmt.page_sizes[0]
    left_out = 0
    while True:
        mmu = cpu_of(fmt)
        start = mmu.table.legal_spans()[0].start
        mmu.table.map(start, 0, 8 * page, access, page_size=page)
        mmu.access_many([start + n * page for n in range(8)])
        owed = mmu.table.unmap(start + page, 6 * page)
        issued = inv.payment(owed, mmu, vendor)
        if left_out == len(issued):
            break
        for n, issue in enumerate(issued):
            if n != left_out:
                inv.apply(issue.command, mmu, issue.first, issue.last)
        assert Oracle(mmu).look(), issued[left_out]
        left_out += 1
    assert left_out >= 1


@pytest.mark.parametrize("pair", PAIRS, ids=_name)
def test_leaving_out_any_command_for_tables_that_were_freed_is_caught(
    pair: tuple[str, dict[str, object], str],
) -> None:
    name, parameters, vendor = pair
    fmt = formats.get(name, **parameters)
    if fmt.top_level == 0:
        pytest.skip("no table is ever taken out")
    access = "rwx" if encode.decides(fmt, encode.X) else "rw"
    page, large = fmt.page_sizes[0], 1 << fmt.levels[1].shift
    left_out = 0
    while True:
        mmu = cpu_of(fmt)
        start = mmu.table.legal_spans()[0].start
        # One page below each of three items in a row: two of their tables go, what is above them stays.
        pages = [start + n * large for n in (1, 2, 3)]
        for at in pages:
            mmu.table.map(at, 0, page, access, page_size=page)
        mmu.access_many(pages)
        owed = mmu.table.unmap(pages[0], large + page, missing_ok=True)
        oracle = Oracle(mmu)
        assert {found.cache for found in oracle.look()} == {"tlb", "walk_cache"}
        issued = inv.payment(owed, mmu, vendor)
        if left_out == len(issued):
            break
        for n, issue in enumerate(issued):
            if n != left_out:
                inv.apply(issue.command, mmu, issue.first, issue.last)
        assert oracle.look(), issued[left_out]
        left_out += 1
    inv.pay(owed, mmu, vendor)
    assert oracle.look() == []
    assert left_out >= 1


def test_what_is_larger_than_a_command_stays_so_that_the_whole_table_is_commanded() -> None:
    """AMD's IOMMU, as kunit_iotlb_amd_cmd() of Linux has it: no table item over more than the range goes."""
    fmt = formats.get("amd_iommu_v1")
    pde = inv.command("amd_iommu", "invalidate_iommu_pages_pde")
    shifts = {n: fmt.levels[n].shift for n in range(1, 4)}
    seen = Counter[int]()
    for lg2 in range(12, 50):
        mmu = cpu_of(fmt)
        mmu.table.map(0, 0, "4K")
        mmu.table.map(1 << 40, 0, "4K")  # keeps the tables above level 3
        mmu.access_many([0])
        owed = mmu.table.unmap(0, "4K")
        assert [(issue.first, issue.last) for issue in inv.payment(owed, mmu, "amd_iommu")] == [
            (0, (1 << shifts[3]) - 1)
        ]
        inv.apply(pde, mmu, 0, (1 << lg2) - 1)
        left = {(found.cache, found.page_size) for found in Oracle(mmu).look()}
        assert left == {("walk_cache", 1 << shift) for shift in shifts.values() if shift > lg2}
        seen[len(left)] += 1
    assert seen == {3: 9, 2: 9, 1: 9, 0: 11}


# -- two stages ---------------------------------------------------------------------------------

NESTED = {
    "vmx": ("x86_64_4level", "ept_4level", {}),
    "svm": ("x86_64_4level", "x86_64_4level", {"nested": True}),
    "arm": ("aarch64_4k_48", "aarch64_s2_4k", {}),
    "riscv": ("sv39", "sv39x4", {}),
    "vtd": ("x86_64_4level", "vtd_ss_4level", {}),
    "amd_iommu": ("x86_64_4level", "amd_iommu_v1", {}),
    "smmuv3": ("aarch64_4k_48", "aarch64_s2_4k", {}),
    "riscv_iommu": ("sv39", "sv39x4", {}),
}
SIZES = ("4K", "2M", "1G")
LEVELS = (TlbLevel("L1", tuple(TlbArray(64, 64, (size,)) for size in SIZES)),)
IOMMUS = ("vtd", "amd_iommu", "smmuv3", "riscv_iommu")


def two_stages(vendor: str) -> ptcore.Nested:
    first, second, parameters = NESTED[vendor]
    memory = PhysicalMemory("64M")
    stage2 = PageTable(formats.get(second, **parameters), memory)
    options = {"user": True} if vendor == "svm" else {}
    access = "rwx" if encode.decides(stage2.format, encode.X) else "rw"
    stage2.map(0, 32 << 20, 8 << 20, access, page_size="4K", **options)
    stage1 = PageTable(first, guest_memory(stage2, frames=(4 << 20, "4M")))
    stage1.map(0, 0, 64 << 12, access="rw", page_size="4K")
    return ptcore.Nested(stage1, stage2)


def agents_of(vendor: str) -> tuple[Mmu, ...]:
    """Two CPUs of a guest, or two devices of a domain of which the first has a TLB of its own."""
    space = two_stages(vendor)
    caches = {
        "walk_cache": WalkCache({1: 8, 2: 4}),
        "guest_cache": WalkCache({1: 8}),
        "host_cache": WalkCache({1: 8}),
        "ipa_tlb": Tlb(LEVELS),
    }
    if vendor not in IOMMUS:
        return Mmu(space, Tlb(LEVELS), **caches, asid=3, vmid=2), Mmu(space, Tlb(LEVELS), vmid=2)
    iommu = Iommu(Tlb(LEVELS), **caches, tables="vtd_legacy")
    iommu.attach(1, space, domain=2, process=3, device_tlb=LEVELS)
    iommu.attach(2, space, domain=2, process=3)
    return iommu.contexts


@pytest.mark.parametrize("vendor", NESTED)
@pytest.mark.parametrize("stage", ["first", "second"])
@pytest.mark.parametrize("tables_go", [False, True])
def test_edits_of_either_stage_are_paid_for_and_every_command_is_needed(
    vendor: str, stage: str, tables_go: bool
) -> None:
    left_out = 0
    while True:
        agents = agents_of(vendor)
        space = agents[0].space
        for agent in agents:
            agent.access_many([n << 12 for n in range(8)])
        table = space.stage1 if stage == "first" else space.stage2
        # All pages of a table, and it with them, or some.
        at, pages = (0, {"first": 64, "second": 512}[stage]) if tables_go else (1, 6)
        owed = table.unmap(at << 12, pages << 12)
        assert bool(owed.tables) == tables_go
        whose = "process" if stage == "first" and vendor in ("vtd", "amd_iommu") else stage
        issued = inv.payment(owed, agents[0], vendor, whose)
        oracle = Oracle(agents)
        assert {n for found in oracle.look() for n in found.agents} == {0, 1}
        if left_out == len(issued):
            break
        for n, issue in enumerate(issued):
            for agent in agents:
                if n != left_out:
                    inv.apply(issue.command, agent, issue.first, issue.last)
        assert oracle.look(), issued[left_out]
        left_out += 1
    assert left_out >= 1
    inv.pay(owed, agents, vendor, whose)
    assert oracle.look() == []
    assert not owed


def test_stages_and_vendors_that_do_not_go_together_are_refused() -> None:
    mmu = cpu_of(formats.get("x86_64_4level"))
    owed = mmu.table.map(0, 0, "4K", "rw")
    with pytest.raises(FormatError, match="x86 has no commands that pay for edits of its second"):
        inv.pay(owed, mmu, "x86", "second")
    with pytest.raises(FormatError, match="'third' is none of first, second, process"):
        inv.pay(owed, mmu, "x86", "third")
    with pytest.raises(ptcore.errors.OutOfRange, match="nobody"):
        inv.pay(owed, [], "x86")
