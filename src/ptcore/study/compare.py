"""Compare strategies on one workload: each on a fresh machine, all under the same steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np

from ptcore import strategies as known_strategies
from ptcore.caches import preset
from ptcore.errors import AddressError, MapError, OutOfRange
from ptcore.machine import Event, Ledger, Machine, Strategy
from ptcore.machine import cost as costs
from ptcore.machine import exposure as exposures
from ptcore.machine.cost import Constant, Price
from ptcore.machine.exposure import Exposure
from ptcore.machine.machine import DEFAULT_PRESET
from ptcore.strategies import Known, Maker, UnknownStrategy
from ptcore.study.timeline import exposed_over_time
from ptcore.workloads.replay import replay
from ptcore.workloads.steps import Touch, Workload

MakeMachine = Callable[[int], Machine]
MakeLedger = Callable[[str], Ledger]
Progress = Callable[[str, int, int], None]
DEFAULT_RAM = "64G"
ROWS_IN_MEMORY = 1 << 20  # 48 MiB
AS_SAID = "as the workload says"


@dataclass(frozen=True)
class Row:
    """What one strategy did on the workload. Counts are of the workload alone: what was built at boot
    is in `boot_entries` and `boot_table_bytes`. TLB figures follow from the touch model: *modelled*.
    `large_share`: of what the CPUs' table maps at the end, the part in leaves larger than a page.
    `exposed`: the most freed pages that could still be reached at one time, in equal parts of the run."""

    strategy: str
    provenance: str
    mappings_made: int
    mappings_ended: int
    entries_written: int
    tables_allocated_bytes: int
    local_invalidations: int
    remote_invalidations: int
    cpus_interrupted: int
    tlb_hits: int
    tlb_misses: int
    walk_references: int
    cache_hits: int
    cache_misses: int
    pool_hits: int
    pool_misses: int
    boot_entries: int
    boot_table_bytes: int
    accesses: int
    device_accesses: int
    fallbacks: int
    splits: int
    split_table_bytes: int
    large_share: float | None
    stranded_pages: int
    device_invalidations: int
    device_walks: int
    device_references: int
    price: Price
    exposure: Exposure
    exposure_by_design: str | None
    exposed: tuple[int, ...]


@dataclass(frozen=True)
class Comparison:
    """Rows, one per strategy, and what they rest on. `cpu`: whose translation hardware is modelled.
    `format`: of the CPUs' tables; `shootdown`: how a CPU reaches the others.
    `unserved`: strategies that ran out of memory or addresses, which have no row, and why."""

    workload: str
    steps: int
    cpus: int
    cpu: str
    duration_ns: int
    touch: str
    unmatched_frees: int
    never_freed: int
    damaged_lines: int
    rows: tuple[Row, ...]
    constants: tuple[Constant, ...]
    unserved: tuple[tuple[str, str], ...]
    format: str
    shootdown: str

    def to_dict(self) -> dict[str, object]:
        """Return everything as plain values, for JSON."""
        found = asdict(self)
        found["touch_is"] = "modelled"
        for row in found["rows"]:
            row["cycles_per_operation"] = row["price"].pop("cycles") / max(
                row["price"]["operations"], 1
            )
            row["price"].pop("constants")
            if row["exposure_by_design"] is not None:
                row["exposure"] = row["exposure_by_design"]
        return found


def compare(
    workload: Workload,
    strategies: Sequence[str | Maker] | None = None,
    *,
    touch: Touch | str | int | None = None,
    cpus: int | None = None,
    cpu: str = DEFAULT_PRESET,
    format: str | None = None,
    shootdown: str | None = None,
    machine: MakeMachine | None = None,
    constants: Mapping[str, Constant] = costs.DEFAULT_CONSTANTS,
    progress: Progress | None = None,
    keep: Callable[[str, Ledger], None] | None = None,
    ledger: MakeLedger | None = None,
) -> Comparison:
    """Run each strategy over `workload` on a machine of its own, and price what it did.

    `strategies`: names, "package.module:maker" texts, or functions that take a Machine and return a
    Strategy, a class say (default: all); `cpus`: by default those of the trace; `cpu`: the preset of their
    translation hardware (caches.preset_names(), or a TOML file); `format` of their tables and `shootdown`,
    how they reach each other: by default Machine's;
    `machine`: makes a machine for a number of CPUs, in place of that; `touch`: the declared access model,
    in place of the workload's own accesses (default: those, or every page once where it has none);
    `ledger`: makes the ledger of a strategy by its name, for machines that are not given (default: one that
    keeps ROWS_IN_MEMORY rows and streams what is beyond to disk); `keep` is given each ledger, also that of
    a run which is interrupted; `progress` is told (strategy, steps done, steps of all strategies), and
    (figures of the strategy, ...) when its ledger is read.
    Raises UnknownStrategy for a name that is none or a maker that cannot be imported, FormatError for an
    unknown preset, and OutOfRange for fewer CPUs than the workload uses, before anything is run;
    UnknownStrategy too when what a maker returns is no Strategy.
    """
    modelled = Touch.of(touch, workload)
    asked = [strategies] if isinstance(strategies, str) else strategies
    chosen = [known_strategies.find(what) for what in asked or known_strategies.names()]
    count = workload.cpus if cpus is None else cpus
    _check_cpus(workload, count)
    make = _given(machine) if machine else machines_of(cpu, format, shootdown, ledger)
    rows: list[Row] = []
    unserved: list[tuple[str, str]] = []
    for number, known in enumerate(chosen):
        platform = make(known.name, count)
        try:
            strategy = _made(known, platform)
        except (AddressError, MapError) as error:  # the format has no room for what it keeps
            unserved.append((known.name, f"{platform.table.format.name}: {error}"))
            continue
        boot = len(platform.ledger)
        told = None if progress is None else part_of(progress, known.name, number, len(chosen))
        try:
            replay(workload, strategy, platform, modelled, told)
        except MapError as error:
            unserved.append((strategy.name, str(error)))
            continue
        finally:
            if keep is not None:
                keep(strategy.name, platform.ledger)
        if progress is not None:
            steps = len(workload.steps)
            part_of(progress, f"figures of {known.name}", number, len(chosen))(steps, steps)
        rows.append(_row(strategy, known.provenance, platform, boot, constants))
    return Comparison(
        **_facts(workload, platform),
        cpus=count,
        cpu=cpu if machine is None else "of a machine given",
        touch=AS_SAID if modelled is None else str(modelled),
        rows=tuple(rows),
        constants=tuple(constants.values()),
        unserved=tuple(unserved),
    )


def _facts(workload: Workload, machine: Machine) -> dict[str, Any]:
    """Return what a comparison says of its workload and of its machines."""
    return {
        "workload": workload.name,
        "steps": len(workload.steps),
        "duration_ns": int(workload.steps["time_ns"].max(initial=0)),
        "unmatched_frees": workload.unmatched_frees,
        "never_freed": workload.never_freed,
        "damaged_lines": workload.damaged_lines,
        "format": machine.table.format.name,
        "shootdown": machine.shootdown.name,
    }


def _given(machine: MakeMachine) -> Callable[[str, int], Machine]:
    return lambda name, cpus: machine(cpus)


def _check_cpus(workload: Workload, count: int) -> None:
    highest = int(workload.steps["cpu"].max())
    if count <= highest:
        raise OutOfRange(
            f"the workload runs on CPU {highest}: a machine of {count} CPUs has none such"
        )


def _streamed(name: str) -> Ledger:
    return Ledger(limit_rows=ROWS_IN_MEMORY)


def machines_of(
    cpu: str = DEFAULT_PRESET,
    format: str | None = None,
    shootdown: str | None = None,
    ledger: MakeLedger | None = None,
) -> Callable[[str, int], Machine]:
    """Return what makes the machines of `compare`, of a strategy's name and a number of CPUs."""
    found = preset(cpu)
    make = _streamed if ledger is None else ledger
    said = {"format": format, "shootdown": shootdown}
    chosen: dict[str, Any] = {what: name for what, name in said.items() if name is not None}
    return lambda name, cpus: Machine(
        cpus,
        ram=DEFAULT_RAM,
        tlb=found.levels,
        walk_cache=found.walk_cache,
        ledger=make(name),
        **chosen,
    )


def _made(known: Known, machine: Machine) -> Strategy:
    strategy = known.make(machine)
    if not isinstance(strategy, Strategy):
        raise UnknownStrategy(f"{known.name} made {strategy!r}, which is no Strategy")
    return strategy


def part_of(progress: Progress, name: str, number: int, of: int) -> Callable[[int, int], None]:
    """Return what tells `progress` of the run `number` of so many, each of as many steps."""
    return lambda done, total: progress(name, number * total + done, of * total)


def compare_all(
    workloads: Sequence[Workload],
    strategies: Sequence[str | Maker] | None = None,
    *,
    progress: Progress | None = None,
    keep: Callable[[str, str, Ledger], None] | None = None,
    ledger: Callable[[str, str], Ledger] | None = None,
    **options: Any,
) -> tuple[Comparison, ...]:
    """Compare on each of several workloads; the same `options` as `compare`, which says what it raises.

    `progress` is told (workload and strategy, steps done, steps of all workloads); `keep` and `ledger` are
    given the workload's name as well, first.
    """
    whole = sum(len(workload.steps) for workload in workloads)
    found: list[Comparison] = []
    before = 0
    for workload in workloads:
        told = None if progress is None else _among(progress, workload, before, whole)
        named: dict[str, Any] = {
            key: partial(of, workload.name)
            for key, of in (("keep", keep), ("ledger", ledger))
            if of is not None
        }
        found.append(compare(workload, strategies, progress=told, **named, **options))
        before += len(workload.steps)
    return tuple(found)


def _among(progress: Progress, workload: Workload, before: int, whole: int) -> Progress:
    def told(name: str, done: int, total: int) -> None:
        of = total // max(len(workload.steps), 1)
        what = f"{workload.name.partition(',')[0]}, {name}"
        progress(what, before * of + done, whole * of)

    return told


def _invalidated(ledger: Ledger, boot: int) -> tuple[int, int]:
    """Return how many CPUs invalidated because they asked for it themselves, and how many in all."""
    local = everywhere = 0
    for rows, times in ledger.weighted(boot):
        chosen = rows["event"] == Event.INVALIDATED
        numbers, askers = (rows[name][chosen].astype(np.int64) for name in ("cpus", "cpu"))
        # Pairs of a set and a CPU are few: each becomes a number that is counted, and no row is sorted.
        lowest = int(askers.min(initial=0))
        width = int(askers.max(initial=0)) - lowest + 1
        counts = np.bincount(numbers * width + askers - lowest, times[chosen])
        for pair in np.flatnonzero(counts).tolist():
            number, cpu = divmod(pair, width)
            targets, count = ledger.cpu_set(number), int(counts[pair])
            local += count * (cpu + lowest in targets)
            everywhere += count * len(targets)
    return local, everywhere


def _large_share(machine: Machine) -> float | None:
    """Return the part of what is mapped that is so by leaves above the lowest level; None without any."""
    found = machine.table.stats()
    by_page = found.leaves[0] * machine.page_bytes
    return 1 - by_page / found.mapped_bytes if found.mapped_bytes else None


def _row(
    strategy: Strategy,
    provenance: str,
    machine: Machine,
    boot: int,
    constants: Mapping[str, Constant],
) -> Row:
    """Read a row out of the ledger; the first `boot` rows are of what was built beforehand."""
    totals = machine.ledger.totals(boot)
    whole = machine.ledger.totals()
    found = exposures.windows(machine.ledger, machine.cpus)
    local, everywhere = _invalidated(machine.ledger, boot)
    return Row(
        strategy=strategy.name,
        provenance=provenance,
        mappings_made=totals[Event.MAPPED][0],
        mappings_ended=totals[Event.UNMAPPED][0],
        entries_written=totals[Event.ENTRIES_WRITTEN][1],
        tables_allocated_bytes=totals[Event.TABLES_ALLOCATED][1],
        local_invalidations=local,
        remote_invalidations=everywhere - local,
        cpus_interrupted=totals[Event.INTERRUPTED][1],
        tlb_hits=totals[Event.TLB_HITS][1],
        tlb_misses=totals[Event.WALKS][1],
        walk_references=totals[Event.WALK_REFERENCES][1],
        cache_hits=totals[Event.CACHE_HIT][1],
        cache_misses=totals[Event.CACHE_MISS][1],
        pool_hits=totals[Event.POOL_HIT][0],
        pool_misses=totals[Event.POOL_MISS][0],
        boot_entries=whole[Event.ENTRIES_WRITTEN][1] - totals[Event.ENTRIES_WRITTEN][1],
        boot_table_bytes=whole[Event.TABLES_ALLOCATED][1] - totals[Event.TABLES_ALLOCATED][1],
        accesses=totals[Event.ACCESSED][1] + totals[Event.DEVICE_ACCESSED][1],
        device_accesses=totals[Event.DEVICE_ACCESSED][1],
        fallbacks=totals[Event.FALLBACK][1],
        splits=totals[Event.SPLIT][0],
        split_table_bytes=totals[Event.SPLIT][1],
        large_share=_large_share(machine),
        stranded_pages=int(getattr(strategy, "stranded_pages", 0)),
        device_invalidations=totals[Event.DEVICE_INVALIDATED][0],
        device_walks=totals[Event.DEVICE_WALKS][1],
        device_references=totals[Event.DEVICE_REFERENCES][1],
        price=costs.price(machine.ledger, constants, first_row=boot),
        exposure=exposures.summary(found),
        exposure_by_design=strategy.exposure_by_design,
        exposed=exposed_over_time(found, 0, machine.now_ns),
    )
