"""Invalidation commands carried out, and what edits owe paid with them.

A command says which addresses it is about, which address spaces, whether global entries go, and what becomes
of the paging-structure caches. What it says is what it must drop: hardware may always drop more. The vendors'
tables, with their sources, are the files in `commands/`; `oracle` says whether enough was dropped.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ptcore.caches.commands import (
    Command,
    Vendor,
    command,
    power_of_two_parts,
    range_parts,
    smmu_range_parts,
    vendor,
    vendors,
    vendors_of,
)
from ptcore.caches.iommu import keys_of_device
from ptcore.caches.mmu import Mmu
from ptcore.errors import FormatError, OutOfRange
from ptcore.table import PageTable
from ptcore.table.owed import Owed
from ptcore.units import ALL_ONES, Span

STAGES = ("first", "second", "process")


@dataclass(frozen=True, slots=True)
class Issue:
    """One command with its addresses, `first` to `last` inclusive (all of them where it takes none)."""

    command: Command
    first: int
    last: int


# -- one command --------------------------------------------------------------------------------


def apply(wanted: Command, mmu: Mmu, first: int = 0, last: int | None = None) -> int:
    """Carry a command out on one CPU, or for one context of an IOMMU; return how many entries it dropped.

    `first`: the address of a page command; `first` to `last` of a range. The address space, the guest or
    domain, the device and its process are those of `mmu`. Behind two stages nothing says which address a
    combined entry has between them, so a command by such an address drops all of the guest's. Raises
    OutOfRange for a range without an end.
    """
    if wanted.scope == "range" and last is None:
        raise OutOfRange(f"{wanted.name} is about a range: it needs its last address")
    low = 0 if wanted.scope in ("all", "none") else first
    high = {"page": first, "range": last}.get(wanted.scope, ALL_ONES) or 0
    if wanted.scope == "page" and wanted.larger == "keep":  # what is no larger than a page goes
        granule = 1 << _edited(mmu, "second" if wanted.stage == 2 else "first").format.granule_lg2
        low, high = first // granule * granule, first // granule * granule + granule - 1
    kinds = {
        "combined": _drop_combined,
        "guest_physical": _drop_second_stage,
        "device": _drop_of_device,
        "config": _drop_contexts,
    }
    return sum(kinds[kind](wanted, mmu, Span(low, high)) for kind in wanted.drops)


def _drop_combined(wanted: Command, mmu: Mmu, where: Span) -> int:
    vmid = None if wanted.every_guest else mmu.vmid
    if wanted.stage == 2 and mmu.second_stage is not None:
        dropped = mmu.tlb.invalidate_all(vmid=vmid)
        return dropped + (mmu.walk_cache.invalidate_all(vmid=vmid) if mmu.walk_cache else 0)
    asid = None if wanted.every_space else mmu.asid
    dropped = 0
    if wanted.scope != "none":
        dropped = mmu.tlb.invalidate(
            where.start,
            where.last,
            asid,
            with_global=wanted.globals_,
            vmid=vmid,
            tagged=wanted.tagged,
            larger_stay=wanted.larger == "keep",
        )
    whole = Span(0, ALL_ONES) if wanted.structures == "every" else where
    for cache in (mmu.walk_cache, mmu.guest_cache):
        if cache is not None and wanted.structures != "none":
            dropped += cache.invalidate(
                whole.start, whole.last, asid, vmid=vmid, larger_stay=wanted.structures == "within"
            )
    return dropped


def _drop_second_stage(wanted: Command, mmu: Mmu, where: Span) -> int:
    vmid = None if wanted.every_guest else mmu.vmid
    asked = where if wanted.stage == 2 else Span(0, ALL_ONES)
    dropped = 0
    if mmu.ipa_tlb is not None and wanted.scope != "none":
        dropped += mmu.ipa_tlb.invalidate(
            asked.start, asked.last, vmid=vmid, larger_stay=wanted.larger == "keep"
        )
    if mmu.host_cache is not None and wanted.structures != "none":
        whole = Span(0, ALL_ONES) if wanted.structures == "every" else asked
        dropped += mmu.host_cache.invalidate(
            whole.start, whole.last, vmid=vmid, larger_stay=wanted.structures == "within"
        )
    return dropped


def _drop_of_device(wanted: Command, mmu: Mmu, where: Span) -> int:
    if mmu.device_tlb is None:
        return 0
    asid = None if wanted.every_space else mmu.device_asid
    return mmu.device_tlb.invalidate(
        where.start, where.last, asid, with_global=True, larger_stay=wanted.larger == "keep"
    )


def _drop_contexts(wanted: Command, mmu: Mmu, where: Span) -> int:
    if mmu.context_cache is None:
        return 0
    key = mmu.context_key
    keys = {"process": Span(key, key), "device": keys_of_device(key)}.get(
        wanted.config, Span(0, ALL_ONES)
    )
    vmid = mmu.vmid if wanted.config == "domain" else None
    return mmu.context_cache.invalidate(keys.start, keys.last, vmid=vmid)


# -- what pays for an edit ----------------------------------------------------------------------


def payment(owed: Owed, mmu: Mmu, vendor_name: str, stage: str = "first") -> list[Issue]:
    """Return the commands that pay for an edit, in order; nothing is carried out.

    `stage`: whose tables were edited: the first stage's (or the only one's), the second's, or those of one
    process of a device. Which commands those are is data of the vendor: page by page, by ranges, or all at
    once; where tables were taken out, commands that reach paging-structure caches, with addresses that reach
    as far as those tables did if such a command leaves what is larger than its range. Raises FormatError for
    an unknown vendor or stage, and where the vendor has no commands for it.
    """
    chosen = vendor(vendor_name)
    plans = [_plan(chosen, stage)]
    whole = plans[0]["whole"]
    last = chosen.commands[whole if isinstance(whole, str) else whole[-1]]
    if mmu.device_tlb is not None and "device" in chosen.payment and "device" not in last.drops:
        plans.append(chosen.payment["device"])
    table = _edited(mmu, stage)
    return [
        issue
        for plan in plans
        for span in _spans(owed, chosen, plan)
        for issue in _issues(span, chosen, plan, owed.structures, table)
    ]


def _edited(mmu: Mmu, stage: str) -> PageTable:
    second = mmu.second_stage
    return mmu.table if stage != "second" or second is None else second


def pay(
    owed: Owed, agents: Mmu | Iterable[Mmu], vendor_name: str, stage: str = "first"
) -> list[Issue]:
    """Carry out what an edit owes, on every CPU (or context) that may cache it, and discharge it.

    Returns the commands, those of `payment`. Each is carried out on all of `agents`, as a broadcast or an
    interrupt would have it. Raises as `payment`, before anything was dropped.
    """
    everyone = (agents,) if isinstance(agents, Mmu) else tuple(agents)
    if not everyone:
        raise OutOfRange("nobody is there to carry a command out")
    issued = payment(owed, _representative(everyone), vendor_name, stage)
    for issue in issued:
        for mmu in everyone:
            apply(issue.command, mmu, issue.first, issue.last)
    owed.discharge()
    return issued


def _representative(agents: Sequence[Mmu]) -> Mmu:
    """Return one that has a TLB of its own behind an IOMMU, if any: then commands for those are needed."""
    return next((agent for agent in agents if agent.device_tlb is not None), agents[0])


def _plan(chosen: Vendor, stage: str) -> Mapping[str, Any]:
    if stage not in STAGES:
        raise FormatError(f"stage {stage!r} is none of {', '.join(STAGES)}")
    if stage == "first":
        return chosen.payment
    name = "second_stage" if stage == "second" else stage
    if name not in chosen.payment:
        raise FormatError(f"{chosen.name} has no commands that pay for edits of its {stage} stage")
    plan: Mapping[str, Any] = chosen.payment[name]
    return plan


def _named(chosen: Vendor, plan: Mapping[str, Any], key: str) -> list[Command]:
    names = plan.get(key, [])
    return [chosen.commands[n] for n in ([names] if isinstance(names, str) else names)]


def _spans(owed: Owed, chosen: Vendor, plan: Mapping[str, Any]) -> Iterable[Span]:
    """Return the addresses to command: those of the tables too where an item must be wholly among them."""
    within = any(wanted.structures == "within" for wanted in _named(chosen, plan, "range"))
    spans = owed.table_spans if within and owed.table_spans else owed.spans
    # Tables without spans: empty ones that were replaced; a cache of items may still point to them.
    return spans or ((Span(0, ALL_ONES),) if owed.tables else ())


def _issues(
    span: Span, chosen: Vendor, plan: Mapping[str, Any], structures: bool, table: PageTable
) -> Iterator[Issue]:
    """Yield the commands for one span: those of a list after the first take no addresses."""

    def named(key: str) -> list[Command]:
        return _named(chosen, plan, key)

    granule_lg2 = table.format.granule_lg2
    pages = (span.size + (1 << granule_lg2) - 1) >> granule_lg2
    few = pages <= plan["most_pages"]
    paged = named("page")
    ranged = named("range" if structures else "range_of_leaves")
    if few and ranged:
        for start, count in _ranges(ranged[0], span.start >> granule_lg2, pages):
            first = start << granule_lg2
            yield Issue(ranged[0], first, first + (count << granule_lg2) - 1)
        rest = ranged[1:]
    elif few and paged and _reaches(paged[0], span, structures, table):
        for at in range(span.start, span.last + 1, 1 << granule_lg2):
            yield Issue(paged[0], at, at)
        rest = paged[1:]
    else:
        rest = named("whole")
    for wanted in rest:
        yield Issue(wanted, 0, ALL_ONES)


def _reaches(wanted: Command, span: Span, structures: bool, table: PageTable) -> bool:
    """Whether commands page by page drop all that a span may have cached: tables, and larger pages."""
    if structures and wanted.structures == "none":
        return False
    larger = [size for size in table.format.page_sizes if size >> table.format.granule_lg2 > 1]
    held = any(-(-span.start // size) * size + size - 1 <= span.last for size in larger)
    return wanted.larger != "keep" or not held


def _ranges(wanted: Command, first: int, pages: int) -> Iterator[tuple[int, int]]:
    """Yield (first page, pages) of the commands that a range takes: by its alignment and its limit."""
    if wanted.alignment:
        for start, lg2 in power_of_two_parts(first, pages):
            yield start, 1 << lg2
        return
    most = wanted.most_pages or pages
    for start in range(first, first + pages, most):
        yield start, min(most, first + pages - start)


__all__ = [
    "STAGES",
    "Command",
    "Issue",
    "Vendor",
    "apply",
    "command",
    "pay",
    "payment",
    "power_of_two_parts",
    "range_parts",
    "smmu_range_parts",
    "vendor",
    "vendors",
    "vendors_of",
]
