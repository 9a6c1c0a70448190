"""What is shown of each strategy, in groups: for tables in a terminal, in a report, and in Parquet."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ptcore.machine.exposure import Exposure
from ptcore.study.compare import Row

Measured = int | float | str | None
Measure = Callable[[Row], Measured]


@dataclass(frozen=True, slots=True)
class Group:
    """Measures that are read together: (name, short name, measure)."""

    title: str
    measures: tuple[tuple[str, str, Measure], ...]


def _exposed(figure: Callable[[Exposure], int | float]) -> Measure:
    """Return a measure of a row's exposure; None where freed memory is reachable by design."""
    return lambda row: None if row.exposure_by_design is not None else figure(row.exposure)


def _cached(figure: Callable[[Row], int]) -> Measure:
    return lambda row: figure(row) if row.cache_hits + row.cache_misses else None


def _pooled(figure: Callable[[Row], int]) -> Measure:
    return lambda row: figure(row) if row.pool_hits + row.pool_misses else None


def _device(figure: Callable[[Row], int]) -> Measure:
    return lambda row: figure(row) if row.device_accesses + row.device_invalidations else None


def _large(row: Row) -> float | None:
    return None if row.large_share is None else 100 * row.large_share


GROUPS = (
    Group(
        "Work on tables",
        (
            ("mappings made", "made", lambda r: r.mappings_made),
            ("mappings ended", "ended", lambda r: r.mappings_ended),
            ("entries written", "entries", lambda r: r.entries_written),
            ("tables allocated (bytes)", "tables (B)", lambda r: r.tables_allocated_bytes),
            ("mapped by large leaves at the end (%)", "large (%)", _large),
            ("fallbacks", "fallbacks", lambda r: r.fallbacks),
        ),
    ),
    Group(
        "Invalidations and cost",
        (
            ("invalidations, local", "local", lambda r: r.local_invalidations),
            ("invalidations, remote", "remote", lambda r: r.remote_invalidations),
            ("CPUs interrupted", "interrupts", lambda r: r.cpus_interrupted),
            ("cycles per operation", "cycles/op", lambda r: round(r.price.per_operation)),
        ),
    ),
    Group(
        "Translation",
        (
            ("pages touched", "touched", lambda r: r.accesses),
            ("TLB misses (modelled)", "misses", lambda r: r.tlb_misses),
            ("walk references (modelled)", "walk refs", lambda r: r.walk_references),
            ("page-table cache hits", "cache hits", _cached(lambda r: r.cache_hits)),
            ("page-table cache misses", "cache misses", _cached(lambda r: r.cache_misses)),
        ),
    ),
    Group(
        "Requests served by what was ready: pools of areas and of pages, magazines of I/O addresses",
        (
            ("pool hits", "served", _pooled(lambda r: r.pool_hits)),
            ("pool misses", "not served", _pooled(lambda r: r.pool_misses)),
        ),
    ),
    Group(
        "Device",
        (
            ("pages that the device touched", "touched", _device(lambda r: r.device_accesses)),
            ("IOTLB invalidations", "invalidations", _device(lambda r: r.device_invalidations)),
            ("IOTLB walks (modelled)", "walks", _device(lambda r: r.device_walks)),
            ("IOTLB walk references (modelled)", "refs", _device(lambda r: r.device_references)),
        ),
    ),
    Group(
        "Exposure of freed memory",
        (
            (
                "exposure windows",
                "windows",
                lambda r: r.exposure_by_design or r.exposure.windows,
            ),
            ("  open at the end", "open", _exposed(lambda e: e.still_open)),
            ("  pages", "pages", _exposed(lambda e: e.pages)),
            ("  most pages at once", "at once", _exposed(lambda e: e.peak_pages)),
            ("  longest (ms)", "longest ms", _exposed(lambda e: e.longest_ns / 1e6)),
            ("  99 in 100 within (ms)", "99 % ms", _exposed(lambda e: e.percentile_99_ns / 1e6)),
            ("  half within (ms)", "half ms", _exposed(lambda e: e.median_ns / 1e6)),
            ("  frames reused meanwhile", "reused", _exposed(lambda e: e.reused_windows)),
            ("  held in a TLB (modelled)", "in a TLB", _exposed(lambda e: e.held_windows)),
        ),
    ),
)

COST_GROUPS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("invalidating", ("invalidate_all", "invalidate_call", "invalidate_page")),
    ("invalidating for devices", ("device_invalidate", "device_tlb_invalidate")),
    ("reaching other CPUs", ("interrupt", "broadcast")),
    ("editing tables", ("edit_call", "entry", "line")),
    ("new tables", ("table",)),
    ("TLB misses", ("tlb_hit_lower", "walk_reference")),
)
OTHER = "other"


def cost_parts(row: Row) -> dict[str, float]:
    """Return the cycles of each group of constants, in order; what is in none is 'other'."""
    group_of = {name: title for title, names in COST_GROUPS for name in names}
    parts = dict.fromkeys((*(title for title, _ in COST_GROUPS), OTHER), 0.0)
    for line in row.price.lines:
        parts[group_of.get(line.name, OTHER)] += line.cycles
    return parts


__all__ = ["COST_GROUPS", "GROUPS", "OTHER", "Group", "Measured", "cost_parts"]
