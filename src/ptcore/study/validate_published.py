"""Published numbers, each held against what the mechanism gives when it is run.

Fifteen targets. A *prediction* runs the mechanism, and nothing in it was fitted to the number; a
*calibration* shows how well a constant of ours fits the measurements that it was taken from; *shape only*
is said where the published figure rests on costs without a citation (interrupts, locks, whole workloads),
with those costs; what no part of the project models is *not modelled*. Where a target is missed, it is
shown as missed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ptcore.allocators import AddressTree
from ptcore.caches import Mmu, Tlb, preset
from ptcore.caches.invalidation import apply, command, pay, power_of_two_parts
from ptcore.machine import Event, Machine, Request
from ptcore.machine.cost import DEFAULT_CONSTANTS, price
from ptcore.machine.device import DEVICE_TLB
from ptcore.memory import PhysicalMemory
from ptcore.strategies import get
from ptcore.strategies.vmap_areas import VmapAreas, VmapOptions, lazy_max_pages
from ptcore.strategies.windows import EphemeralWindow
from ptcore.study.contention import strict_over_deferred, vmalloc_gain
from ptcore.table import Nested, PageTable, guest_memory
from ptcore.units import Span

PAGE = 4096
MIB, GIB = 1 << 20, 1 << 30
Progress = Callable[[str, int, int], None]
TOLERANCE = 0.1
"""A prediction within so much of the published figure is met."""

HANSEN = {
    1: 1276, 2: 1505, 3: 1880, 4: 2447, 5: 2358, 6: 2563, 8: 3542, 10: 3570, 16: 5041, 20: 6749,
    24: 6912, 28: 8253, 32: 9350, 33: 8534,
}  # fmt: skip
"""Mean cycles of flush_tlb_mm_range() by pages: Linux commit 'x86/mm: Set TLB flush tunable to sane value
(33)' (D. Hansen, 2014)."""


@dataclass(frozen=True, slots=True)
class Timed:
    """A figure that was timed, and half the range that four of five repetitions lie in."""

    value: float
    uncertainty: float


@dataclass(frozen=True, slots=True)
class Target:
    """A published figure: its number in the list, what it is of, and where it stands."""

    name: str
    what: str
    published: float
    unit: str
    source: str
    kind: str
    measure: Callable[[], float | Timed] | None
    rests_on: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """A target and what the model gives. `deviation` is relative; None where nothing was run.

    `uncertainty` is that of `model`, in its unit, where it was timed; what is counted has none.
    """

    target: Target
    model: float | None
    uncertainty: float | None = None

    @property
    def deviation(self) -> float | None:
        """(model - published) / published; of a published 0, the model."""
        if self.model is None:
            return None
        if not self.target.published:
            return self.model
        return (self.model - self.target.published) / self.target.published

    @property
    def verdict(self) -> str:
        """met or missed, after the target's kind where that is no prediction."""
        if self.deviation is None:
            return "not modelled"
        met = "met" if abs(self.deviation) <= TOLERANCE else "missed"
        return met if self.target.kind == "prediction" else f"{self.target.kind}, {met}"

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        t = self.target
        return {
            "name": t.name, "what": t.what, "published": t.published, "unit": t.unit,
            "source": t.source, "kind": t.kind, "rests_on": t.rests_on, "model": self.model,
            "uncertainty": self.uncertainty, "deviation": self.deviation, "verdict": self.verdict,
        }  # fmt: skip


def nested_references(levels: int) -> float:
    """Walk a guest's tables through a second stage, 4K leaves on both; count the items that are read."""
    host = PhysicalMemory("256M", frames=(0, "32M"))
    second = PageTable(f"ept_{levels}level", host)
    second.map(0, 64 * MIB, 16 * MIB, "rwx", page_size="4K")
    first = PageTable(f"x86_64_{levels}level", guest_memory(second, frames=(8 * MIB, MIB)))
    first.map(2 * MIB, 2 * MIB, PAGE, "rw")
    return Nested(first, second).walk(2 * MIB).references


def pool_left() -> float:
    """Fill a pool with 100 areas, drain once more: how many are left."""
    areas = VmapAreas(AddressTree(GIB, 2 * GIB - 1), VmapOptions(cpus=2, page_bytes=PAGE))
    node = areas.node_of(0)
    for start in [areas.allocate(0, 2 * PAGE) for _ in range(100)]:
        areas.free(start)
    areas.drain()
    filled = len(areas.pool(node, 2))
    areas.drain()
    return 100 * len(areas.pool(node, 2)) / filled


def maps_per_invalidation() -> float:
    """Get and put single pages of one CPU's ephemeral region until ten invalidations were made."""
    machine = Machine(2, ram="256M")
    window = EphemeralWindow(machine)
    boot = len(machine.ledger)
    maps = 0
    while machine.ledger.totals(boot)[Event.INVALIDATED][0] < 10:
        for _ in range(73):  # looked at now and then: the ledger's sums are not free
            window.put(0, window.get(0, PAGE, 1) or 0)
            maps += 1
    rows = machine.ledger.rows()[boot:]
    at = np.flatnonzero(rows["event"] == Event.INVALIDATED)
    mapped = np.flatnonzero(rows["event"] == Event.MAPPED)
    return float(np.mean(np.diff(np.searchsorted(mapped, at))))


def table_share() -> float:
    """Map 64 GiB with 4K leaves; the bytes of tables in percent of it."""
    memory = PhysicalMemory("80G", frames=(64 * GIB, 16 * GIB))
    owed = PageTable("x86_64_4level", memory).map(0, 0, 64 * GIB, page_size="4K")
    return 100 * owed.tables_allocated_bytes / (64 * GIB)


def worst_fit() -> float:
    """The largest ratio between the priced cycles of an invalidation and the measured ones, 1 to 33 pages."""
    worst = 1.0
    for pages, cycles in HANSEN.items():
        machine = Machine(1, ram="256M")
        machine.invalidate(Span.of(GIB, pages * PAGE), 0)
        priced = price(machine.ledger).cycles
        worst = max(worst, priced / cycles, cycles / priced)
    return worst


def first_whole() -> float:
    """The fewest pages whose invalidation drops everything."""
    for pages in range(1, 100):
        machine = Machine(1, ram="256M")
        machine.invalidate(Span.of(GIB, pages * PAGE), 0)
        if int(machine.ledger.rows()["count"][-1]) == 0:
            return pages - 1
    return float("nan")


POPULATE_NS = 635e6 / (3 * GIB / PAGE)  # 3 GiB of guest_memfd in 635 ms (lkml.iu.edu 2501.1/04717)


def slowdown(strategy: str, cpus: int) -> float:
    """Populate 1024 pages one by one; the time of a page over that of one that stays in the direct map.

    The CPU that populates waits for the others; what they do meanwhile they do at the same time.
    """
    machine = Machine(cpus, ram="1G")
    made = get(strategy).make(machine)
    boot = len(machine.ledger)
    for n in range(1024):
        made.acquire(Request(n % cpus, 1))
    found = price(machine.ledger, first_row=boot)
    everywhere = sum(line.cycles for line in found.lines if line.name.startswith("invalidate"))
    cycles = found.cycles - everywhere * (cpus - 1) / cpus
    return 1 + cycles / 1024 / DEFAULT_CONSTANTS["clock"].value / POPULATE_NS


def iotlb_misses(page_size: int) -> float:
    """Touch a NIC's 64 MiB of buffers at random through the IOMMU's TLB; the share of walks."""
    device = Machine(1, ram="1G").attach()
    size = 64 * MIB
    device.table.map(GIB, 256 * MIB, size, page_size=page_size)
    rng = np.random.default_rng(7)
    vas = GIB + rng.integers(0, size // PAGE, 200_000, dtype=np.uint64) * np.uint64(PAGE)
    device.mmu.access_many(vas)
    warm = device.mmu.counts
    device.mmu.access_many(vas)
    after = device.mmu.counts
    return (after.walks - warm.walks) / (after.accesses - warm.accesses)


def wall_removed() -> float:
    """The part of the walks with 4K pages that 2M pages save, in percent."""
    return 100 * (1 - iotlb_misses(2 * MIB) / iotlb_misses(PAGE))


SLOPE_PAGES = (256, 256 + 32 * 512)
"""Pages of the two maps that are timed by turns; the tables of both are there beforehand."""
SLOPE_ROUNDS, SLOPE_PAIRS = 15, 60


def entry_slope() -> Timed:
    """Nanoseconds that another 4K entry adds to a map: a long map less a short one, timed by turns.

    Both ends of a pair meet the same machine, the long one has entries enough to stand out of what a call
    costs, and the median passes over pairs that were interrupted: another load moves it little.
    """
    table = PageTable("x86_64_4level", PhysicalMemory("4G"))

    def timed(pages: int) -> int:
        begin = time.perf_counter_ns()
        owed = table.map(GIB, GIB, pages * PAGE, page_size="4K")
        took = time.perf_counter_ns() - begin
        owed.discharge()
        table.unmap(GIB, pages * PAGE, free_tables=False).discharge()
        return took

    short, long = SLOPE_PAGES
    timed(long)  # its tables stay
    rounds = np.array(
        [[timed(long) - timed(short) for _ in range(SLOPE_PAIRS)] for _ in range(SLOPE_ROUNDS)]
    ) / (long - short)
    least, most = np.quantile(np.median(rounds, axis=1), (0.1, 0.9))
    return Timed(float(np.median(rounds)), float(most - least) / 2)


def fewer_misses(used: int) -> float:
    """Percent of TLB misses that 2M leaves save in a Zipf mix over `used` bytes, Neoverse N1."""
    rng = np.random.default_rng(3)
    pages = np.minimum(rng.zipf(1.2, 400_000) * 2_654_435_761 % (used // PAGE), used // PAGE - 1)
    vas = pages.astype(np.uint64) * np.uint64(PAGE)
    walks = []
    for size in ("4K", "2M"):
        memory = PhysicalMemory(used + 4 * GIB, frames=(used, 4 * GIB))
        table = PageTable("aarch64_4k_48", memory)
        table.map(0, 0, used, page_size=size)
        mmu = Mmu(table, Tlb.preset("neoverse_n1"))
        mmu.access_many(vas)
        walks.append(mmu.counts.walks)
    return 100 * (1 - walks[1] / walks[0])


def reach(name: str, page_size: str) -> float:
    """The most pages that a second pass over them finds in the TLB, every one."""
    lowest, above = 1, 1 << 14
    step = {"4K": PAGE, "2M": 2 * MIB}[page_size]
    while above - lowest > 1:
        middle = (lowest + above) // 2
        tlb = Tlb.preset(name)
        vas = np.arange(middle, dtype=np.uint64) * np.uint64(step)
        tlb.access_many(vas, page_size=page_size)
        whole = not (tlb.access_many(vas, page_size=page_size) >= len(tlb.levels)).any()
        lowest, above = (middle, above) if whole else (lowest, middle)
    return lowest


GATHER_FORMATS = {"amd_iommu": "amd_iommu_v1", "vtd": "vtd_ss_4level"}
GATHERED = Span.of(GIB + 5 * PAGE, 24 * PAGE)


def _gathered(vendor_name: str) -> Mmu:
    """Cache a page of 2M and 512 of 4K; take 24 of those out, with what the vendor's driver commands."""
    table = PageTable(GATHER_FORMATS[vendor_name], PhysicalMemory("4G", frames=(2 * GIB, 64 * MIB)))
    table.map(GIB, 256 * MIB, 2 * MIB, page_size="4K")
    table.map(GIB + 2 * MIB, 258 * MIB, 2 * MIB, page_size="2M")
    mmu = Mmu(table, Tlb.preset(DEVICE_TLB))
    mmu.access_span(GIB, 513, PAGE)
    owed = table.unmap(GATHERED.start, GATHERED.size, free_tables=False)
    pay(owed, mmu, vendor_name, stage="second")
    return mmu


def stale_survivors(vendor_name: str) -> float:
    """Translations that a gather leaves in the IOTLB though the tables have them no longer."""
    mmu = _gathered(vendor_name)
    vas = mmu.tlb.entries()["va"]
    return float((mmu.table.translate_many(vas)[1] != 0).sum())


def larger_survivors() -> float:
    """Command a gather of 24 pages inside a cached page of 2M: pages left on AMD's less those on VT-d."""
    left = []
    for vendor_name, page_command in (
        ("amd_iommu", "invalidate_iommu_pages"),
        ("vtd", "iotlb_pages"),
    ):
        mmu = _gathered(vendor_name)
        before = len(np.unique(mmu.tlb.entries()["va"]))
        for start, lg2 in power_of_two_parts((GIB + 2 * MIB) // PAGE + 5, 24):
            first = start * PAGE
            apply(command(vendor_name, page_command), mmu, first, first + (PAGE << lg2) - 1)
        left.append(len(np.unique(mmu.tlb.entries()["va"])) - before)
    return left[0] - left[1]


def second_level_cycles() -> float:
    """What the preset says that a hit in the second level takes."""
    return preset("skylake_sp").levels[1].cycles or 0.0


_BHARGAVA = "Bhargava et al., ASPLOS 2008: (g + 1)(h + 1) - 1"
_VMALLOC = "Linux mm/vmalloc.c (v6.18)"
_ROY = "P. Roy, 2025, guest_memfd 'don't flush' patch"
_NO_COST = "1 us per interrupted CPU, one after the other, is an order of magnitude"
_IN_USE = "how much of the linear map is in use, which the source leaves open, in a Zipf mix"
_COMMAND_BUFFER = (
    "Linux drivers/iommu/amd/iommu.c, build_inv_address(), amd_iommu_domain_flush_pages()"
)
_CACHE_TAGS = (
    "Linux drivers/iommu/intel/cache.c, calculate_psi_aligned_address(), cache_tag_flush_range()"
)
_IOTLB_MODEL = (
    "jgunthorpe/linux drivers/iommu/generic_pt/kunit_iommu_iotlb.h, "
    "kunit_iotlb_amd_cmd(), kunit_iotlb_vtd_cmd()"
)

TARGETS = (
    Target("T1", "items read by a nested walk, 4 levels on 4", 24, "", _BHARGAVA, "prediction",
           lambda: nested_references(4)),
    Target("T1", "the same, 5 levels on 5", 35, "", _BHARGAVA, "prediction",
           lambda: nested_references(5)),
    Target("T2", "lazy_max_pages on 1 CPU", 8192, "pages", f"{_VMALLOC}, lazy_max_pages()",
           "prediction", lambda: lazy_max_pages(1)),
    Target("T2", "lazy_max_pages on 64 CPUs", 57344, "pages", f"{_VMALLOC}, lazy_max_pages()",
           "prediction", lambda: lazy_max_pages(64)),
    Target("T2", "lazy_max_pages on 512 CPUs", 81920, "pages", f"{_VMALLOC}, lazy_max_pages()",
           "prediction", lambda: lazy_max_pages(512)),
    Target("T3", "a pool of 100 after a drain", 75, "areas", f"{_VMALLOC}, decay_va_pool_node()",
           "prediction", pool_left),
    Target("T4", "ephemeral maps per local invalidation", 511, "",
           "bjackman/linux mm/mermap.c: 2 MiB less the reserve", "prediction", maps_per_invalidation),
    Target("T5", "tables of a direct map of 4K leaves", 0.195, "% of RAM",
           "Y. Shi, 2024: 500 MB of 256 GB on AmpereOne", "prediction", table_share),
    Target("T6", "worst ratio of priced to measured invalidations", 1, "",
           "D. Hansen, 2014 (the 33-page ceiling)", "calibration", worst_fit),
    Target("T6", "most pages invalidated one by one", 33, "pages",
           "Linux Documentation/arch/x86/tlb.rst", "prediction", first_whole),
    Target("T7", "population, page by page, 8 CPUs", 5, "x", _ROY, "shape only",
           lambda: slowdown("naive_unmap", 8), _NO_COST),
    Target("T7", "a fault, page by page, 64 CPUs", 40, "x", _ROY, "shape only",
           lambda: slowdown("naive_unmap", 64), _NO_COST),
    Target("T7", "a fault with page blocks, 64 CPUs", 1, "x", "the series' aim: no flush per page",
           "shape only", lambda: slowdown("unmapped_pool", 64), _NO_COST),
    Target("T8", "vmalloc of 64 threads, nodes over one lock", 12, "x", "U. Rezki, 2024 (v3)",
           "shape only", vmalloc_gain,
           "14 cycles a visited node; handing a lock over and allocating pages cost nothing"),
    Target("T9", "line rate, strict over deferred", 0.47, "", "43 % and 91 % of 10 GbE, 2.6.36",
           "shape only", strict_over_deferred,
           "a CPU that just keeps up without an IOMMU"),
    Target("T10", "IOTLB walks saved by 2M pages", 100, "%", "Farshin et al., PeerJ CS 2023",
           "prediction", wall_removed),
    Target("T11", "another 4K entry in a map: median of pairs timed by turns", 1.37, "ns",
           "J. Gunthorpe, generic_pt v4, 2025: AMDv2", "shape only", entry_slope,
           "the speed of the machine that this runs on"),
    Target("T12", "stale translations after one gather, AMD", 0, "", _COMMAND_BUFFER, "prediction",
           lambda: stale_survivors("amd_iommu")),
    Target("T12", "the same, VT-d", 0, "", _CACHE_TAGS, "prediction", lambda: stale_survivors("vtd")),
    Target("T12", "a larger page over the range: survivors on AMD less VT-d's", 1, "", _IOTLB_MODEL,
           "prediction", larger_survivors),
    Target("T13", "kernel TLB misses saved by block mappings, 4 GiB in use", 28.5, "%", "Y. Shi, 2024",
           "shape only", lambda: fewer_misses(4 * GIB), _IN_USE),
    Target("T13", "the same, 8 GiB in use", 28.5, "%", "Y. Shi, 2024",
           "shape only", lambda: fewer_misses(8 * GIB), _IN_USE),
    Target("T13", "the same, 16 GiB in use", 28.5, "%", "Y. Shi, 2024",
           "shape only", lambda: fewer_misses(16 * GIB), _IN_USE),
    Target("T14", "a hit in the second-level TLB, Skylake-X", 9, "cycles",
           "InstLatx64, GenuineIntel0050654", "calibration", second_level_cycles),
    Target("T15", "reach with 2M pages, Ice Lake", 1024, "pages", "Intel's TLB description",
           "prediction", lambda: reach("icelake_sp", "2M")),
    Target("T15", "reach with 4K pages, Ice Lake", 2048, "pages", "Intel's TLB description",
           "prediction", lambda: reach("icelake_sp", "4K")),
)  # fmt: skip


def validate_published(progress: Progress | None = None) -> tuple[Outcome, ...]:
    """Run the mechanism behind every target. Takes some seconds; the same figures every time, but T11's."""
    found: list[Outcome] = []
    for done, target in enumerate(TARGETS):
        if progress:
            progress(target.name, done, len(TARGETS))
        model = None if target.measure is None else target.measure()
        if isinstance(model, Timed):
            found.append(Outcome(target, model.value, model.uncertainty))
        else:
            found.append(Outcome(target, model))
    return tuple(found)


__all__ = ["TARGETS", "Outcome", "Target", "Timed", "validate_published"]
