"""An IOMMU: devices and their processes share its caches; each has tables, and perhaps a TLB of its own.

What says by which tables a device translates are tables too (device, context, process tables): their items
are read on the way, and cached. Which items those are is data: `context_tables.toml`.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from difflib import get_close_matches
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np
import numpy.typing as npt

from ptcore.caches.geometry import TlbArray, TlbLevel
from ptcore.caches.mmu import Counts, Mmu, Outcome, access_on
from ptcore.caches.tlb import Tlb
from ptcore.caches.walk_cache import WalkCache
from ptcore.errors import FormatError, OutOfRange
from ptcore.table.address_space import AddressSpace
from ptcore.table.nested import Nested
from ptcore.table.page_table import PageTable
from ptcore.units import Span

# A context's key is device, process, and 4 bits below, since a TLB holds nothing smaller than 16 bytes.
PROCESS_LG2 = 20
KEY_LG2 = 4


def context_key(device: int, process: int = 0) -> int:
    """Return the key of a device's process in the cache of contexts."""
    return (device << PROCESS_LG2 | process) << KEY_LG2


def keys_of_device(key: int) -> Span:
    """Return the keys of all processes of the device that `key` is of."""
    room = 1 << (PROCESS_LG2 + KEY_LG2)
    return Span(key // room * room, key // room * room + room - 1)


@dataclass(frozen=True, slots=True)
class ContextTable:
    """One table on the way to a context: its item is `item_bytes` long, its index the number of the device
    or the process from bit `shift` up."""

    name: str
    item_bytes: int
    shift: int


@dataclass(frozen=True, slots=True)
class ContextTables:
    """What an IOMMU reads to learn by which tables a device, and a process of it, translates.

    `device`: at physical addresses; so is `process`, unless `process_behind`: behind the second stage, where
    there is one. `source`: where that stands.
    """

    name: str
    title: str
    device: tuple[ContextTable, ...]
    process: tuple[ContextTable, ...]
    process_behind: bool
    source: str


@cache
def _declared() -> Mapping[str, ContextTables]:
    text = (files("ptcore.caches") / "context_tables.toml").read_text(encoding="utf-8")
    found = {}
    for name, one in tomllib.loads(text).items():
        device, process = (
            tuple(ContextTable(**table) for table in one.get(part, ()))
            for part in ("device", "process")
        )
        behind = one.get("process_behind", False)
        found[name] = ContextTables(name, one["title"], device, process, behind, one["source"])
    return found


def context_tables(name: str) -> ContextTables:
    """Return the tables of one kind of IOMMU; FormatError lists the nearest names."""
    known = _declared()
    if name not in known:
        near = get_close_matches(name, known, n=3, cutoff=0.3) or list(known)
        raise FormatError(f"no context tables are called {name!r}; nearest: {', '.join(near)}")
    return known[name]


def context_tables_names() -> tuple[str, ...]:
    """Return the names of the kinds of IOMMUs whose context tables are known."""
    return tuple(_declared())


class Iommu:
    """One IOMMU: IOTLB, paging-structure caches and a cache of contexts that all its devices share.

    `tables`: a name of `context_tables_names()`; `context_entries`: how many contexts are cached, 0 for none.
    `device_table`: the physical address of the first table; the tables of each level are taken to lie in a
    row. The caches are as in Mmu; what has no cache here is walked each time.
    """

    def __init__(
        self,
        tlb: Tlb,
        walk_cache: WalkCache | None = None,
        *,
        guest_cache: WalkCache | None = None,
        host_cache: WalkCache | None = None,
        ipa_tlb: Tlb | None = None,
        line_cache: Tlb | None = None,
        memory_cycles: int = 0,
        tables: str = "vtd_scalable",
        context_entries: int = 0,
        device_table: int = 0,
    ) -> None:
        self.tlb = tlb
        self.tables = context_tables(tables)
        self.device_table = device_table
        self.context_cache = None
        if context_entries:
            array = TlbArray(context_entries, context_entries, (str(1 << KEY_LG2),))
            self.context_cache = Tlb((TlbLevel("contexts", (array,)),))
        self._caches: dict[str, Any] = {
            "walk_cache": walk_cache,
            "guest_cache": guest_cache,
            "host_cache": host_cache,
            "ipa_tlb": ipa_tlb,
            "line_cache": line_cache,
        }
        self._memory_cycles = memory_cycles
        self._contexts: dict[tuple[int, int], Mmu] = {}
        self._device_tlbs: dict[int, Tlb] = {}

    # -- contexts ----------------------------------------------------------------------------

    def attach(
        self,
        device: int,
        space: PageTable | Nested | AddressSpace,
        *,
        domain: int = 0,
        process: int = 0,
        process_table: int = 0,
        device_tlb: Sequence[TlbLevel] | str | None = None,
    ) -> Mmu:
        """Say in memory that `device` (or its `process`, by PASID) translates by `space`; return its context.

        What is cached of an earlier context is used until it is invalidated. `domain` tags what is
        cached, beside the process. `process_table`: the address of its first process table, behind the
        second stage if there is one. `device_tlb`: what the device has of its own (ATS), given with the
        first of its contexts. Raises OutOfRange for numbers, and what Mmu raises for a space.
        """
        if not 0 <= device < 1 << 24 or not 0 <= process < 1 << PROCESS_LG2:
            raise OutOfRange(
                f"device {device} or process {process} is out of range: 24 and 20 bits"
            )
        known = self._contexts.get((device, process))
        if known is not None:
            known.replace(space, process, vmid=domain)
            return known
        made = Mmu(
            space,
            self.tlb,
            asid=process,
            vmid=domain,
            memory_cycles=self._memory_cycles,
            **self._caches,
        )
        if device_tlb is not None:
            self._device_tlbs.setdefault(device, Tlb(device_tlb))
        items = _items(self.tables.device, self.device_table, device)
        of_process = _items(self.tables.process, process_table, process)
        behind = self.tables.process_behind
        made.put_behind(
            self.context_cache,
            context_key(device, process),
            items if behind else [*items, *of_process],
            of_process if behind else (),
            device_tlb=self._device_tlbs.get(device),
            device_asid=process,
        )
        self._contexts[device, process] = made
        return made

    def context(self, device: int, process: int = 0) -> Mmu:
        """Return the context of a device or of its process. OutOfRange if none was attached."""
        found = self._contexts.get((device, process))
        if found is None:
            raise OutOfRange(f"device {device:#x} has no context for process {process}")
        return found

    @property
    def contexts(self) -> tuple[Mmu, ...]:
        """All contexts, in the order in which they were attached."""
        return tuple(self._contexts.values())

    def device_tlb(self, device: int) -> Tlb | None:
        """Return the device's own TLB, None without one."""
        return self._device_tlbs.get(device)

    # -- accesses ----------------------------------------------------------------------------

    def access(
        self, device: int, va: int, kind: str = "r", process: int = 0, user: bool = False
    ) -> Outcome:
        """Make one access of a device; as Mmu.access."""
        return self.context(device, process).access(va, kind, user)

    def access_many(
        self,
        devices: npt.ArrayLike,
        vas: npt.ArrayLike,
        kinds: npt.ArrayLike | str | None = None,
        processes: npt.ArrayLike | None = None,
        user: bool = False,
    ) -> npt.NDArray[np.uint8]:
        """Make an access per address, in order; return the outcome codes, uint8 shaped as `vas`.

        `devices`, `processes`: one for all or one each. DEVICE is the code of what a device's own TLB
        served. Raises OutOfRange for a device without a context, and as Mmu.access_many, before any access.
        """
        shape = np.shape(vas)
        which = np.broadcast_to(np.asarray(devices), shape).astype(np.int64)
        of = np.broadcast_to(np.asarray(0 if processes is None else processes), shape)
        pairs = which << PROCESS_LG2 | of.astype(np.int64)
        found, inverse = np.unique(pairs.reshape(-1), return_inverse=True)
        agents = [self.context(int(p) >> PROCESS_LG2, int(p) % (1 << PROCESS_LG2)) for p in found]
        if not agents:
            return np.empty(shape, dtype=np.uint8)
        return access_on(agents, vas, kinds, inverse.reshape(shape), user)

    @property
    def counts(self) -> Counts:
        """The totals of all contexts; `cycles` are those of the busiest one."""
        return _sum([context.counts for context in self.contexts])


def _items(tables: Iterable[ContextTable], at: int, number: int) -> list[int]:
    """Return the addresses of the items that are read for `number`, one table after the other."""
    found = []
    for table in tables:
        found.append(at + (number >> table.shift) * table.item_bytes)
        at += table.item_bytes << max(PROCESS_LG2 - table.shift, 0)
    return found


def _sum(counts: Sequence[Counts]) -> Counts:
    if not counts:
        return Counts(0, (), 0, 0, 0)
    totals: dict[str, Any] = {}
    for field in fields(Counts):
        values = [getattr(one, field.name) for one in counts]
        if isinstance(values[0], tuple):
            totals[field.name] = tuple(map(sum, zip(*values, strict=True)))
        else:
            totals[field.name] = max(values) if field.name == "cycles" else sum(values)
    return Counts(**totals)


__all__ = [
    "ContextTable",
    "ContextTables",
    "Iommu",
    "context_key",
    "context_tables",
    "context_tables_names",
    "keys_of_device",
]
