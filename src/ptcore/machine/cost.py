"""What a ledger costs, by a named table of constants. Another table needs no new run."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from ptcore.errors import FormatError
from ptcore.machine.events import Event
from ptcore.machine.ledger import Ledger


@dataclass(frozen=True, slots=True)
class Constant:
    """A price: `value` in `unit`, where it comes from, and how far off it may be for another machine."""

    name: str
    value: float
    unit: str
    source: str
    uncertainty: str


def _table(*constants: Constant) -> Mapping[str, Constant]:
    return MappingProxyType({constant.name: constant for constant in constants})


_HANSEN = (
    "Linux commit a5102476a24b 'x86/mm: Set TLB flush tunable to sane value (33)' (D. Hansen, 2014; "
    "lore.kernel.org/all/20140218193017.ECDF1089@viggo.jf.intel.com): mean cycles of "
    "flush_tlb_mm_range() during a kernel compile"
)
_GENERIC_PT = (
    "J. Gunthorpe, 'Consolidate iommu page table implementations' v4 and v7, 2025 "
    "(patch.msgid.link/r/0-v7-ab019a8791e2+175b8-iommu_pt_jgg@nvidia.com): AMDv2 (x86-64) map"
)
_BROADCAST = (
    "R. van Riel, 'AMD broadcast TLB invalidation', 2024 (lkml.iu.edu/2412.2/08821): will-it-scale "
    "tlb_flush2, 1157 thousand loops a second: a whole loop takes 864 ns"
)
_MOLNAR = (
    "I. Molnar, 8 June 2015 (lore.kernel.org/lkml/20150608195237.GA15429@gmail.com), on flushing while "
    "batching: a full CR3 flush takes 96 cycles"
)
_INSTLATX64 = "InstLatx64, GenuineIntel0050654_SkylakeX2_NewMemLat.txt"
_SUBMIT = (
    "Linux's own histogram of commands and waits (/sys/kernel/debug/iommu/intel/dmar_perf_latency, "
    "qi_submit_sync()), whole us cut off"
)
_SAPPHIRE_RAPIDS = "QEMU docs/devel/migration/qpl-compression.rst, 'The Best Practices'"
_KABY_LAKE = "Linux Documentation/ABI/testing/debugfs-intel-iommu"
_TO_ANOTHER_CPU = "github.com/nviennot/core-to-core-latency, README.md"

DEFAULT_CONSTANTS = _table(
    Constant("invalidate_all", 2283, "cycles", f"{_HANSEN}, global", "x2"),
    Constant("invalidate_call", 1050, "cycles", f"{_HANSEN}, line through 1 to 33 pages", "x2"),
    Constant("invalidate_page", 227, "cycles", f"{_HANSEN}, its slope", "x2"),
    Constant(
        "interrupt",
        1000,
        "ns",
        "N. Amit, 'Optimizing the TLB Shootdown Algorithm with Page Access Tracking', USENIX ATC 2017: "
        "a shootdown takes microseconds; taken as 1000 ns per interrupted CPU",
        "x4: an order of magnitude, not a measurement",
    ),
    Constant("broadcast", 864, "ns", f"{_BROADCAST}; taken for one broadcast", "an upper bound"),
    Constant("switch", 96, "cycles", f"{_MOLNAR}; taken for a switch of roots", "x2"),
    Constant(
        "edit_call", 54.6, "ns", f"{_GENERIC_PT} of one 4 KiB page, 56 ns less one entry", "x1.5"
    ),
    Constant(
        "entry",
        1.37,
        "ns",
        f"{_GENERIC_PT} of 256 4 KiB pages: (405 - 56) / 255 ns an entry",
        "x1.5",
    ),
    Constant(
        "table",
        256,
        "cycles",
        f"{_INSTLATX64}: first-level cache, 4 cycles, for each of the 64 lines of a cleared frame",
        "x2",
    ),
    Constant(
        "tlb_hit_lower", 9, "cycles", f"{_INSTLATX64}: second-level TLB hit, +9 cycles", "x1.5"
    ),
    Constant("walk_reference", 14, "cycles", f"{_INSTLATX64}: second-level cache, 14 cycles", "x3"),
    Constant(
        "line",
        190,
        "ns",
        "J. Gunthorpe, 24 January 2026 (lore.kernel.org/dri-devel/20260124002610.GC1641016@ziepe.ca), on "
        "a map for a walker that does not snoop: 60 ns become 250 with cache flushing (map_pages of "
        "2^12: 249 ns, 331 with newer code); taken for the one line that a page's map flushes. "
        "How long a line takes from "
        f"one CPU to another, medians of servers: 44 to 115 ns within a socket, 108 to 197 ns between two "
        f"of x86 ({_TO_ANOTHER_CPU})",
        "x4: what lines take within a socket; lines of one run overlap, and are priced one by one",
    ),
    Constant(
        "device_invalidate",
        1000,
        "ns",
        f"{_SUBMIT}: on Kaby Lake 18 of 18 took 2 us and some ({_KABY_LAKE}); on Sapphire Rapids, inv_iotlb, "
        f"286 of 409 took 0.1 to 1 us and 123 more, less than 1 us on average ({_SAPPHIRE_RAPIDS}); taken as "
        "1000 ns, the middle of averages from 0.37 to 3 us",
        "x3: one command, no queue before it; a guest's goes through its host, and takes 7 us and more",
    ),
    Constant(
        "device_tlb_invalidate",
        630,
        "ns",
        f"{_SUBMIT}: on Sapphire Rapids, inv_devtlb, 276 of 409 took 0.1 to 1 us and 133 more, none 3 us, "
        f"less than 1 us on average ({_SAPPHIRE_RAPIDS}); taken as the middle of averages from 0.39 to 1 us",
        "x3: an accelerator on the CPU's die; a device behind a link answers later",
    ),
    Constant(
        "clock", 3.0, "GHz", "chosen, to turn ns into cycles; a parameter of this table", "x1.7"
    ),
)


def read_constants(path: str | os.PathLike[str]) -> Mapping[str, Constant]:
    """Return the default constants with those of a TOML file in their places.

    A table per constant, named as the default is: `value`, `unit` ("cycles", "ns"; "GHz" of the clock),
    `source` and `uncertainty` ("x2"). Raises FormatError, with the name, for a constant that is none, a field
    that is missing or of another type, a unit that it cannot have, or a file that is no TOML.
    """
    try:
        with open(path, "rb") as file:
            tables = tomllib.load(file)
    except tomllib.TOMLDecodeError as error:
        raise FormatError(f"{os.fspath(path)}: {error}") from None
    found = dict(DEFAULT_CONSTANTS)
    for name, fields in tables.items():
        found[name] = _constant(name, fields)
    return MappingProxyType(found)


def _constant(name: str, fields: Any) -> Constant:
    if name not in DEFAULT_CONSTANTS:
        raise FormatError(
            f"no constant is called {name!r}; there are {', '.join(DEFAULT_CONSTANTS)}"
        )
    kinds: dict[str, Any] = {
        "value": (int, float),
        "unit": str,
        "source": str,
        "uncertainty": str,
    }
    if not isinstance(fields, dict) or set(fields) != set(kinds):
        raise FormatError(f"constant {name}: a table of {', '.join(kinds)}, and of nothing else")
    for key, kind in kinds.items():
        if not isinstance(fields[key], kind) or isinstance(fields[key], bool):
            raise FormatError(f"constant {name}: {key} cannot be {fields[key]!r}")
    units = ("GHz",) if DEFAULT_CONSTANTS[name].unit == "GHz" else ("cycles", "ns")
    if fields["unit"] not in units or fields["value"] < 0:
        raise FormatError(f"constant {name}: at least 0 {' or '.join(units)}")
    return Constant(name, **fields)


@dataclass(frozen=True, slots=True)
class Line:
    """One kind of work: how often it was done, cycles each, and in all."""

    name: str
    count: int
    cycles_each: float
    cycles: float


@dataclass(frozen=True, slots=True)
class Price:
    """A ledger's price: lines, their sum, and what an operation (an acquire or a release) costs."""

    lines: tuple[Line, ...]
    cycles: float
    operations: int
    constants: tuple[Constant, ...]

    @property
    def per_operation(self) -> float:
        """Cycles per acquire or release; 0 when there was none."""
        return self.cycles / self.operations if self.operations else 0.0


def price(
    ledger: Ledger,
    constants: Mapping[str, Constant] = DEFAULT_CONSTANTS,
    *,
    first_row: int = 0,
) -> Price:
    """Return what the events of `ledger` cost the CPUs, from `first_row` on. Pure; O(rows).

    A CPU waits for what it invalidates for a device. What a device does itself, its walks and what it finds
    in its own TLB, costs no CPU anything.
    """
    totals = ledger.totals(first_row)
    executed = _executed(ledger, first_row)
    edits = totals[Event.MAPPED][0] + totals[Event.UNMAPPED][0]
    work = (
        *executed.items(),
        ("interrupt", totals[Event.INTERRUPTED][1]),
        ("broadcast", totals[Event.BROADCAST][0]),
        ("switch", totals[Event.SWITCHED][0]),
        ("edit_call", edits),
        ("entry", totals[Event.ENTRIES_WRITTEN][1]),
        ("table", totals[Event.TABLES_ALLOCATED][1] >> 12),
        ("tlb_hit_lower", totals[Event.TLB_HITS][1]),
        ("walk_reference", totals[Event.WALK_REFERENCES][1]),
        ("line", totals[Event.LINES_FLUSHED][1]),
        ("device_invalidate", totals[Event.DEVICE_INVALIDATED][0]),
        ("device_tlb_invalidate", totals[Event.DEVICE_TLB_INVALIDATED][0]),
    )
    lines = []
    for name, count in work:
        each = _cycles(constants[name], constants)
        lines.append(Line(name, count, each, each * count))
    operations = totals[Event.ACQUIRED][0] + totals[Event.RELEASED][0]
    return Price(
        tuple(lines), sum(line.cycles for line in lines), operations, tuple(constants.values())
    )


def _executed(ledger: Ledger, first_row: int) -> dict[str, int]:
    """Return how often CPUs executed invalidations: of a broadcast, which follows it, only one did."""
    found = {"invalidate_all": 0, "invalidate_call": 0, "invalidate_page": 0}
    sizes = np.zeros(0, dtype=np.int64)
    last: tuple[npt.NDArray[Any], npt.NDArray[np.int64]] | None = None

    def count(rows: npt.NDArray[Any], times: npt.NDArray[np.int64], broadcast: bool) -> None:
        at = np.flatnonzero(rows["event"] == Event.INVALIDATED)
        followed = np.append(rows["event"][1:] == Event.BROADCAST, broadcast)[at]
        cpus = np.where(followed, 1, sizes[rows["cpus"][at]]) * times[at]
        pages = rows["count"][at]
        found["invalidate_all"] += int(cpus[pages == 0].sum())
        found["invalidate_call"] += int(cpus[pages != 0].sum())
        found["invalidate_page"] += int((cpus * pages).sum())

    for rows, times in ledger.weighted(first_row):
        highest = int(rows["cpus"].max(initial=0))
        if highest >= len(sizes):
            sizes = np.array([len(ledger.cpu_set(n)) for n in range(highest + 1)], dtype=np.int64)
        if last is not None:
            count(*last, bool(rows["event"][0] == Event.BROADCAST))
        last = rows, times
    if last is not None:
        count(*last, False)
    return found


def _cycles(constant: Constant, constants: Mapping[str, Constant]) -> float:
    if constant.unit == "cycles":
        return constant.value
    if constant.unit == "ns":
        return constant.value * constants["clock"].value
    raise ValueError(f"{constant.name}: a price is in cycles or ns, not {constant.unit!r}")
