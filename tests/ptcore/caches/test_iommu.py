"""Devices behind an IOMMU: what is read to learn their tables, what caches save, and who must be told."""

from __future__ import annotations

import numpy as np
import pytest

import ptcore
from ptcore.caches import DEVICE, FAULT, WALK, Iommu, Oracle, Tlb, TlbArray, TlbLevel, WalkCache
from ptcore.caches import invalidation as inv
from ptcore.caches.iommu import context_tables, context_tables_names
from ptcore.errors import FormatError, OutOfRange
from ptcore.table.nested import guest_memory

LEVELS = (TlbLevel("IOTLB", (TlbArray(64, 64, ("4K", "2M", "1G")),)),)
OWN = (TlbLevel("ATC", (TlbArray(16, 16, ("4K", "2M")),)),)


def domain(fmt: str = "vtd_ss_4level", pages: int = 16) -> ptcore.PageTable:
    table = ptcore.PageTable(fmt, ptcore.PhysicalMemory("8M"))
    table.map(0, 0x10_0000, pages << 12, "rw", page_size="4K")
    return table


def behind() -> ptcore.Nested:
    memory = ptcore.PhysicalMemory("64M")
    stage2 = ptcore.PageTable("sv39x4", memory)
    stage2.map(0, 32 << 20, 8 << 20, access="rwx", page_size="4K")
    stage1 = ptcore.PageTable("sv39", guest_memory(stage2, frames=(4 << 20, "4M")))
    stage1.map(0, 0, 1 << 20, access="rw", page_size="4K", user=True)
    return ptcore.Nested(stage1, stage2)


@pytest.mark.parametrize(
    ("tables", "references"),
    [
        ("vtd_legacy", 2),
        ("vtd_scalable", 4),
        ("amd", 3),
        ("smmuv3", 2),
        ("smmuv3_two_level", 4),
        ("riscv", 6),
    ],
)
def test_a_first_access_reads_the_way_to_its_tables(tables: str, references: int) -> None:
    iommu = Iommu(Tlb(LEVELS), tables=tables, context_entries=4)
    iommu.attach(0x0510, domain(), domain=7)
    assert iommu.access(0x0510, 0x1000).code == WALK
    assert iommu.counts.context_references == references
    assert iommu.counts.references == references + 4
    assert iommu.access(0x0510, 0x2000).code == WALK
    assert iommu.counts.context_hits == 1
    assert iommu.counts.references == references + 8
    assert iommu.access(0x0510, 0x2000).code == 0


def test_every_kind_of_table_is_declared_with_a_source() -> None:
    assert len(context_tables_names()) == 6
    for name in context_tables_names():
        found = context_tables(name)
        assert found.source
        assert found.title
        assert found.device
    with pytest.raises(FormatError, match="nearest: vtd_scalable"):
        context_tables("vtd_scalabel")


def test_tables_of_processes_behind_a_second_stage_take_its_walks() -> None:
    iommu = Iommu(Tlb(LEVELS), tables="riscv")
    iommu.attach(1, behind(), process=3, process_table=0x10_0000)
    assert iommu.access(1, 0x1000, process=3, user=True).code == WALK
    # Three items of the device, three of the process with a second-stage walk each, and a nested walk.
    assert iommu.counts.references == 3 + 3 * (1 + 3) + 15
    # A process table that the second stage does not map: its fault.
    iommu.attach(2, behind(), process=3, process_table=1 << 30)
    outcome = iommu.access(2, 0x1000, process=3, user=True)
    assert (outcome.code, outcome.stage) == (FAULT, 2)


def test_devices_of_one_domain_share_and_others_do_not() -> None:
    shared, alone = domain(), domain()
    iommu = Iommu(Tlb(LEVELS), WalkCache({1: 4}))
    for device, table, number in ((1, shared, 5), (2, shared, 5), (3, alone, 6)):
        iommu.attach(device, table, domain=number)
    assert iommu.access(1, 0x1000).code == WALK
    assert iommu.access(2, 0x1000).code == 0
    assert iommu.access(3, 0x1000).code == WALK
    assert inv.apply(inv.command("vtd", "iotlb_domain"), iommu.context(1)) == 2
    assert [iommu.access(n, 0x1000).code for n in (2, 3)] == [WALK, 0]


def test_a_devices_own_tlb_serves_without_the_iommu_and_needs_its_own_invalidation() -> None:
    table = domain()
    iommu = Iommu(Tlb(LEVELS), context_entries=4)
    iommu.attach(1, table, domain=5, device_tlb=OWN)
    assert [iommu.access(1, 0x1000).code for _ in range(3)] == [WALK, DEVICE, DEVICE]
    assert iommu.counts.device_hits == 2
    owed = table.unmap(0x1000, "4K")
    context = iommu.context(1)
    oracle = Oracle(iommu.contexts)
    assert {found.cache for found in oracle.look("unmapped")} == {"tlb", "device_tlb"}
    # Only the IOTLB: the device goes on.
    inv.apply(inv.command("vtd", "iotlb_domain"), context)
    (left,) = oracle.look("later")
    assert (left.cache, left.va, left.pa, left.since) == (
        "device_tlb",
        0x1000,
        0x10_1000,
        "unmapped",
    )
    assert iommu.access(1, 0x1000).code == DEVICE
    issued = inv.pay(owed, iommu.contexts, "vtd")
    assert {issue.command.name for issue in issued} == {"iotlb_pages_leaf", "device_tlb_pages"}
    assert oracle.look() == []
    assert iommu.access(1, 0x1000).code == FAULT


@pytest.mark.parametrize("vendor", ["vtd", "amd_iommu", "smmuv3", "riscv_iommu"])
def test_each_command_that_pays_for_a_domain_is_needed(vendor: str) -> None:
    formats = {"amd_iommu": "amd_iommu_v1", "smmuv3": "aarch64_4k_48", "riscv_iommu": "sv39"}
    left_out = 0
    number = 0
    while True:
        table = domain(formats.get(vendor, "vtd_ss_4level"))
        iommu = Iommu(Tlb(LEVELS), WalkCache({1: 4}), context_entries=4)
        iommu.attach(1, table, domain=5, device_tlb=OWN)
        iommu.attach(2, table, domain=5)
        iommu.access_many([1, 2] * 7, np.arange(14) << 12)
        iommu.access_many(1, np.arange(14) << 12)
        owed = table.unmap(0x1000, "12K")
        issued = inv.payment(owed, iommu.context(1), vendor)
        if number == len(issued):
            break
        for n, issue in enumerate(issued):
            for context in iommu.contexts:
                if n != number:
                    inv.apply(issue.command, context, issue.first, issue.last)
        assert Oracle(iommu.contexts).look(), issued[number]
        left_out += 1
        number += 1
    assert left_out >= 2
    inv.pay(owed, iommu.contexts, vendor)
    assert Oracle(iommu.contexts).look() == []


def test_a_replaced_context_goes_on_until_it_is_invalidated() -> None:
    old, new = domain(), domain()
    new.map(1 << 20, 0, "4K", "rw")
    iommu = Iommu(Tlb(LEVELS), context_entries=4)
    iommu.attach(1, old, domain=5)
    iommu.access(1, 0x1000)
    iommu.attach(1, new, domain=6)
    oracle = Oracle(iommu.contexts)
    assert [found.cache for found in oracle.look()] == ["context_cache"]
    assert iommu.access(1, 1 << 20).code == FAULT
    inv.apply(inv.command("vtd", "context_device"), iommu.context(1))
    assert oracle.look() == []
    assert iommu.access(1, 1 << 20).code == WALK
    assert iommu.context(1).space is new
    assert iommu.context(1).vmid == 6


def test_batches_and_single_accesses_agree() -> None:
    def made() -> Iommu:
        iommu = Iommu(Tlb(LEVELS), WalkCache({1: 2}), context_entries=1)
        for device in (1, 2):
            for process in (0, 4):
                table = domain(pages=8 + device)
                iommu.attach(device, table, domain=device, process=process, device_tlb=OWN)
        return iommu

    rng = np.random.default_rng(5)
    devices, vas = rng.integers(1, 3, 800), rng.integers(0, 12, 800) << 12
    processes = rng.integers(0, 2, 800) * 4
    one, many = made(), made()
    codes = many.access_many(devices, vas, processes=processes)
    asked = zip(devices.tolist(), vas.tolist(), processes.tolist(), strict=True)
    assert codes.tolist() == [one.access(d, va, process=p).code for d, va, p in asked]
    assert one.counts == many.counts
    assert np.bincount(codes, minlength=256)[[DEVICE, WALK, FAULT]].min() > 5


def test_devices_without_a_context_are_refused_before_any_access() -> None:
    iommu = Iommu(Tlb(LEVELS))
    iommu.attach(1, domain())
    with pytest.raises(OutOfRange, match="device 0x2 has no context for process 0"):
        iommu.access_many([1, 2], [0x1000, 0x1000])
    assert iommu.counts.accesses == 0
    with pytest.raises(OutOfRange, match="24 and 20 bits"):
        iommu.attach(1 << 24, domain())
