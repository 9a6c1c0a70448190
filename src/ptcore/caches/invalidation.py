"""Invalidation commands as data, what they drop, and the oracle: which cached translation is stale.

A command says which addresses it is about, which address spaces, whether global entries go, and what becomes
of the paging-structure caches. What it says is what it must drop: hardware may always drop more. The vendors'
tables, with their sources, are the files in `commands/`. Carried out here is what concerns one stage;
an entry that is larger than the range goes too, also where the vendor would keep it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

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
from ptcore.caches.mmu import Mmu
from ptcore.errors import OutOfRange
from ptcore.table import PageTable, RowKind
from ptcore.table.owed import Owed
from ptcore.units import ALL_ONES, Span


def apply(wanted: Command, mmu: Mmu, first: int = 0, last: int | None = None) -> int:
    """Carry a command out on one CPU; return how many entries it dropped.

    `first`: the address of a page command; `first` to `last` of a range. The address space is that of
    `mmu`, whose entries are those of one stage: a command that drops none of that kind drops nothing. Raises
    OutOfRange for a range without an end.
    """
    if "combined" not in wanted.drops:
        return 0
    if wanted.scope == "range" and last is None:
        raise OutOfRange(f"{wanted.name} is about a range: it needs its last address")
    low = 0 if wanted.scope in ("all", "none") else first
    high = {"page": first, "range": last}.get(wanted.scope, ALL_ONES) or 0
    dropped = 0 if wanted.scope == "none" else _drop(mmu, wanted, low, high)
    if mmu.walk_cache is None or wanted.structures == "none":
        return dropped
    if wanted.structures == "every":
        return dropped + mmu.walk_cache.invalidate_all()
    return dropped + mmu.walk_cache.invalidate(low, high)


def _drop(mmu: Mmu, wanted: Command, low: int, high: int) -> int:
    if wanted.every_space and wanted.globals_:
        return mmu.tlb.invalidate(low, high)
    if wanted.scope == "all":
        space = None if wanted.every_space else mmu.asid
        return mmu.tlb.invalidate_all(space, keep_global=not wanted.globals_)
    return mmu.tlb.invalidate(low, high, mmu.asid, with_global=wanted.globals_)


def pay(owed: Owed, mmu: Mmu, vendor_name: str) -> list[Command]:
    """Carry out on one CPU, the only one, what an edit owes, and discharge it; return the commands.

    Which commands those are is data of the vendor: page by page, by ranges, or all at once. Where tables were
    taken out, commands that reach paging-structure caches are used. Raises FormatError for an unknown
    vendor.
    """
    chosen = vendor(vendor_name)
    issued = [
        issue
        for span in _spans(owed)
        for issue in _commands_for(span, chosen, owed.structures, mmu.table)
    ]
    for wanted, first, last in issued:
        apply(wanted, mmu, first, last)
    owed.discharge()
    return [wanted for wanted, _, _ in issued]


def _spans(owed: Owed) -> Iterable[Span]:
    # Tables without spans: empty ones that were replaced; a cache of items may still point to them.
    return owed.spans or ((Span(0, ALL_ONES),) if owed.tables else ())


def _commands_for(
    span: Span, chosen: Vendor, structures: bool, table: PageTable
) -> Iterator[tuple[Command, int, int]]:
    pays = chosen.payment
    granule_lg2 = table.format.granule_lg2
    granule = 1 << granule_lg2
    pages = range(span.start, span.last + 1, granule)
    few = len(pages) <= pays["most_pages"]
    page = chosen.commands.get(pays.get("page", ""))
    if few and "range" in pays:
        wanted = chosen.commands[pays["range" if structures else "range_of_leaves"]]
        for start, count in _ranges(wanted, span.start >> granule_lg2, len(pages)):
            first = start << granule_lg2
            yield wanted, first, first + (count << granule_lg2) - 1
    elif few and page is not None and (page.structures != "none" or not structures):
        for at in pages:
            yield page, at, at
    else:
        yield chosen.commands[pays["whole"]], span.start, span.last


def _ranges(wanted: Command, first: int, pages: int) -> Iterator[tuple[int, int]]:
    """Yield (first page, pages) of the commands that a range takes: by its alignment and its limit."""
    if wanted.alignment:
        for start, lg2 in power_of_two_parts(first, pages):
            yield start, 1 << lg2
        return
    most = wanted.most_pages or pages
    for start in range(first, first + pages, most):
        yield start, min(most, first + pages - start)


@dataclass(frozen=True, slots=True)
class Stale:
    """A cached translation that the tables do not make any more: an invalidation is missing.

    `level` is that of the TLB, or None for a paging-structure entry; `va` and `page_size` what it is about;
    `pa` what is still reachable by it (of a paging-structure entry, the table).
    """

    level: int | None
    va: int
    page_size: int
    pa: int
    rule: str


def stale(mmu: Mmu) -> list[Stale]:
    """Return the cached translations of the CPU's own address space that its tables contradict.

    An entry is fine while every byte of it leads where the tables lead, with no right that they withhold.
    Cost: one listing per entry: an oracle for tests, not for runs.
    """
    found = []
    for row in mmu.tlb.entries():
        if row["global_"] or row["asid"] == mmu.asid:
            rule = _contradicted(mmu.table, row)
            if rule:
                size = 1 << int(row["page_lg2"])
                found.append(Stale(int(row["level"]), int(row["va"]), size, int(row["pa"]), rule))
    for row in mmu.walk_cache.entries() if mmu.walk_cache is not None else ():
        if not _leads_there(mmu.table, row):
            size = 1 << mmu.table.format.levels[int(row["level"])].shift
            rule = "the item over it does not point to that table any more"
            found.append(Stale(None, int(row["va"]), size, int(row["table"]), rule))
    return found


def _contradicted(table: PageTable, row: Any) -> str:
    first = int(row["va"])
    last = first + (1 << int(row["page_lg2"])) - 1
    reached = first
    for now in table.mappings(first, last, repeats=False):
        if int(now["first"]) != reached or now["kind"] != RowKind.LEAF:
            return "not all of it is mapped any more"
        if int(now["pa"]) - int(now["first"]) != int(row["pa"]) - first:
            return "it is mapped elsewhere now"
        if int(row["rights"]) & ~int(now["rights"]):
            return "it has rights that were taken away"
        reached = int(now["last"]) + 1
    return "" if reached == last + 1 else "not all of it is mapped any more"


def _leads_there(table: PageTable, row: Any) -> bool:
    below = int(row["level"]) - 1
    size = table.format.table_bytes(below)
    path = table.walk(table.untagged(int(row["va"]))).path
    bases = {step.entry_address - step.entry_address % size for step in path if step.level == below}
    return int(row["table"]) in bases


def dropped_for_nothing(before: npt.NDArray[Any], mmu: Mmu) -> npt.NDArray[Any]:
    """Return the entries of `before` (Tlb.entries()) that are gone though the tables still make them."""
    now = {entry.tobytes() for entry in mmu.tlb.entries()}
    keep = [entry.tobytes() not in now and not _contradicted(mmu.table, entry) for entry in before]
    return before[np.array(keep, dtype=bool)] if len(before) else before


__all__ = [
    "Command",
    "Stale",
    "Vendor",
    "apply",
    "command",
    "dropped_for_nothing",
    "pay",
    "power_of_two_parts",
    "range_parts",
    "smmu_range_parts",
    "stale",
    "vendor",
    "vendors",
    "vendors_of",
]
