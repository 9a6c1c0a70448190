"""Invalidation commands as data, what they drop, and the oracle: which cached translation is stale.

A command says which addresses it is about, which address spaces, whether global entries go, and what becomes
of the paging-structure caches. What it says is what it must drop: hardware may always drop more. The vendors'
tables, with their sources, are the files in `commands/`.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np
import numpy.typing as npt

from ptcore.caches.mmu import Mmu
from ptcore.errors import FormatError, OutOfRange
from ptcore.table import PageTable, RowKind
from ptcore.table.owed import Owed
from ptcore.units import ALL_ONES, Span


@dataclass(frozen=True, slots=True)
class Command:
    """What one command drops.

    `scope`: page (the entries that hold one address), range, or all. `every_space`: whatever the tag;
    else that of one address space. `globals_`: global entries too. `structures`: what becomes of
    paging-structure caches: none (they stay), covering (those over the addresses), every. `rule`: where it
    stands.
    """

    name: str
    scope: str
    every_space: bool
    globals_: bool
    structures: str
    rule: str


@dataclass(frozen=True, slots=True)
class Vendor:
    """The commands of one vendor, and which of them pay for an edit.

    `payment`: `whole` for everything; `page` or `range` (with `range_of_leaves` where no table was taken out)
    for up to `most_pages` pages; `rule` says why so.
    """

    name: str
    title: str
    commands: dict[str, Command]
    payment: dict[str, Any]


def vendors() -> tuple[str, ...]:
    """Return the names of the vendors whose commands are known."""
    folder = files("ptcore.caches.commands")
    return tuple(
        sorted(e.name.removesuffix(".toml") for e in folder.iterdir() if e.name.endswith(".toml"))
    )


@cache
def vendor(name: str) -> Vendor:
    """Return a vendor's commands; FormatError lists those there are."""
    if name not in vendors():
        raise FormatError(f"no commands of {name!r} are known; {', '.join(vendors())} are")
    text = (files("ptcore.caches.commands") / f"{name}.toml").read_text(encoding="utf-8")
    declared = tomllib.loads(text)
    commands = {one["name"]: Command(**one) for one in declared["commands"]}
    return Vendor(name, declared["title"], commands, declared["payment"])


def command(vendor_name: str, name: str) -> Command:
    """Return a command; FormatError lists the nearest names."""
    known = vendor(vendor_name).commands
    if name not in known:
        near = get_close_matches(name, known, n=3, cutoff=0.3) or list(known)
        raise FormatError(f"{vendor_name} has no command {name!r}; nearest: {', '.join(near)}")
    return known[name]


def apply(wanted: Command, mmu: Mmu, first: int = 0, last: int | None = None) -> int:
    """Carry a command out on one CPU; return how many entries it dropped.

    `first`: the address of a page command; `first` to `last` of a range. The address space is that of
    `mmu`. Raises OutOfRange for a range without an end.
    """
    if wanted.scope == "range" and last is None:
        raise OutOfRange(f"{wanted.name} is about a range: it needs its last address")
    low = 0 if wanted.scope == "all" else first
    high = {"page": first, "range": last, "all": ALL_ONES}[wanted.scope] or 0
    dropped = _drop(mmu, wanted, low, high)
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


def range_parts(pages: int) -> Iterator[tuple[int, int, int]]:
    """Yield (scale, num, pages) of the range commands that cover `pages` granules, largest first.

    One covers (NUM + 1) * 2**(5 * SCALE + 1) granules, NUM up to 31 and SCALE up to 3 (DDI 0487, "TLB range
    maintenance instructions"); a last odd granule is (0, -1, 1): a command for one address.
    """
    most = 32 << 16
    while pages > 1:
        scale = next(s for s in (3, 2, 1, 0) if pages >> (5 * s + 1))
        unit = 1 << (5 * scale + 1)
        num = min(min(pages, most) // unit, 32) - 1
        yield scale, num, (num + 1) * unit
        pages -= (num + 1) * unit
    if pages:
        yield 0, -1, 1


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
    granule = 1 << table.format.granule_lg2
    pages = range(span.start, span.last + 1, granule)
    few = len(pages) <= pays["most_pages"]
    page = chosen.commands.get(pays.get("page", ""))
    if few and "range" in pays:
        name = pays["range" if structures else "range_of_leaves"]
        yield chosen.commands[name], span.start, span.last
    elif few and page is not None and (page.structures != "none" or not structures):
        for at in pages:
            yield page, at, at
    else:
        yield chosen.commands[pays["whole"]], span.start, span.last


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
    "range_parts",
    "stale",
    "vendor",
    "vendors",
]
