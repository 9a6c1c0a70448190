"""The oracle of invalidations: which cached translation is stale, where, since when, and what need not go.

It compares what every cache of some CPUs or devices holds with what the tables in memory say, entry by entry.
It shares no code with TLBs or commands: the tables are listed, not walked by an Mmu. For tests, not for runs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ptcore.caches.mmu import Mmu
from ptcore.caches.tlb import Tlb
from ptcore.caches.walk_cache import WalkCache
from ptcore.errors import Fault
from ptcore.table import PageTable, RowKind
from ptcore.table.address_space import AddressSpace, Table
from ptcore.table.nested import Nested
from ptcore.table.rows import ROW_DTYPE

Space = PageTable | Nested | AddressSpace
UNMAPPED = "not all of it is mapped any more"
ELSEWHERE = "it is mapped elsewhere now"
RIGHTS = "it has rights that were taken away"
STRUCTURE = "the item over it does not point to that table any more"
CONTEXT = "memory says that the device translates by other tables"


@dataclass(frozen=True, slots=True)
class Stale:
    """A cached translation that the tables do not make any more: an invalidation is missing.

    `cache`: tlb, ipa_tlb, device_tlb, walk_cache, guest_cache, host_cache or context_cache; `level` that of
    the TLB, None for items and contexts. `va` and `page_size`: what it is about; `pa`: the frame that is
    still reachable by it (of an item, the table). `agents`: the CPUs (or device contexts), by their number,
    that use this cache. `since`: the first look that saw it, by the number or name that was given then.
    """

    level: int | None
    va: int
    page_size: int
    pa: int
    rule: str
    cache: str = "tlb"
    asid: int = 0
    vmid: int = 0
    agents: tuple[int, ...] = (0,)
    since: int | str | None = None

    @property
    def cpu(self) -> int:
        """The first CPU that uses the cache."""
        return self.agents[0]


@dataclass(frozen=True, slots=True)
class Dropped:
    """A cached translation that went though the tables still make it: more than had to go."""

    cache: str
    agents: tuple[int, ...]
    va: int
    page_size: int
    pa: int


@dataclass(frozen=True, slots=True)
class _Entry:
    """One entry of one cache: what it says, and the spaces that it may speak for."""

    cache: str
    agents: tuple[int, ...]
    level: int | None
    asid: int
    vmid: int
    global_: bool
    va: int
    page_size: int
    pa: int
    rights: int


class Oracle:
    """Looks at all caches of some CPUs, or of the contexts of some devices, over and over.

    Cost of a look: one listing of the tables per cached entry.
    """

    def __init__(self, agents: Mmu | Iterable[Mmu]) -> None:
        self.agents = (agents,) if isinstance(agents, Mmu) else tuple(agents)
        self._since: dict[_Entry, int | str | None] = {}

    def look(self, when: int | str | None = None) -> list[Stale]:
        """Return what is stale now. What was not so at the look before is stale since `when`."""
        found = []
        since = {}
        for entry in self.entries():
            rule = self._contradiction(entry)
            if rule:
                since[entry] = self._since.get(entry, when)
                found.append(_stale(entry, rule, since[entry]))
        self._since = since
        return found

    def entries(self) -> list[_Entry]:
        """Return all that is cached now: what `dropped_for_nothing` is compared with."""
        return [entry for cache in self._caches() for entry in cache]

    def dropped_for_nothing(self, before: Iterable[_Entry]) -> list[Dropped]:
        """Return what of `before` (`entries()`) is gone though the tables still make it."""
        now = set(self.entries())
        return [
            Dropped(e.cache, e.agents, e.va, e.page_size, e.pa)
            for e in before
            if e not in now and not self._contradiction(e)
        ]

    # -- what is cached ----------------------------------------------------------------------

    def _caches(self) -> Iterator[Iterator[_Entry]]:
        users: dict[int, tuple[str, Any, list[int]]] = {}
        for number, agent in enumerate(self.agents):
            for name in ("tlb", "ipa_tlb", "device_tlb", "context_cache"):
                tlb: Tlb | None = getattr(agent, name)
                if tlb is not None:
                    users.setdefault(id(tlb), (name, tlb, []))[2].append(number)
            for name in ("walk_cache", "guest_cache", "host_cache"):
                items: WalkCache | None = getattr(agent, name)
                if items is not None:
                    users.setdefault(id(items), (name, items, []))[2].append(number)
        for name, cache, numbers in users.values():
            if isinstance(cache, Tlb):
                yield _of_tlb(name, cache, tuple(numbers))
            else:
                yield self._of_items(name, cache, tuple(numbers))

    def _of_items(self, name: str, cache: WalkCache, numbers: tuple[int, ...]) -> Iterator[_Entry]:
        agent = self.agents[numbers[0]]
        table = agent.second_stage if name == "host_cache" else agent.table
        for row in cache.entries():
            level = int(row["level"])
            size = 1 << table.format.levels[level].shift if table is not None else 0
            tag = int(row["asid"]), int(row["vmid"])
            at = int(row["va"]), size, int(row["table"])
            yield _Entry(name, numbers, level, *tag, False, *at, 0)

    # -- what the tables say -----------------------------------------------------------------

    def _contradiction(self, entry: _Entry) -> str:
        users = [self.agents[n] for n in entry.agents]
        if entry.cache == "context_cache":
            return self._replaced(entry, users)
        for space in self._spaces(entry, users):
            if entry.cache.endswith("tlb"):
                rule = _contradicted(space, entry)
            else:
                rule = "" if _leads_there(space, entry) else STRUCTURE
            if rule:
                return rule
        return ""

    @staticmethod
    def _replaced(entry: _Entry, users: list[Mmu]) -> str:
        keys = {user.context_key for user in users if user.awaited is not None}
        return CONTEXT if entry.va in keys else ""

    @staticmethod
    def _spaces(entry: _Entry, users: list[Mmu]) -> Iterator[Table | AddressSpace]:
        """Yield what an entry may be asked for: the space of its tag, by whoever uses the cache."""
        for user in users:
            if entry.cache == "device_tlb":
                if entry.asid == user.device_asid:
                    yield user.awaited or user.space
            elif entry.cache in ("ipa_tlb", "host_cache"):
                if entry.vmid == user.vmid and user.second_stage is not None:
                    yield user.second_stage
            elif entry.global_:
                if entry.vmid == user.vmid:
                    yield user.space
            elif (entry.asid, entry.vmid) in user.spaces:
                yield user.spaces[entry.asid, entry.vmid]


def _of_tlb(name: str, cache: Tlb, numbers: tuple[int, ...]) -> Iterator[_Entry]:
    for row in cache.entries():
        tag = int(row["asid"]), int(row["vmid"]), bool(row["global_"])
        at = int(row["va"]), 1 << int(row["page_lg2"]), int(row["pa"])
        yield _Entry(name, numbers, int(row["level"]), *tag, *at, int(row["rights"]))


def _stale(e: _Entry, rule: str, since: int | str | None) -> Stale:
    level = e.level if e.cache.endswith("tlb") else None
    return Stale(level, e.va, e.page_size, e.pa, rule, e.cache, e.asid, e.vmid, e.agents, since)


def _rows(space: Space, first: int, last: int) -> Iterable[Mapping[str, Any]]:
    """Return the rows of what `space` maps from `first` to `last`, without repeats."""
    if isinstance(space, AddressSpace):
        space = _part(space, first)
    if isinstance(space, Nested):
        rows = space.mappings(first, last)
    else:
        rows = space.mappings(first, last, repeats=False)
    assert rows.dtype == ROW_DTYPE
    found: Iterable[Mapping[str, Any]] = rows
    return found


def _part(space: AddressSpace, va: int) -> Table:
    return space.table_of(va)


def _untagged(space: Space, va: int) -> int:
    if isinstance(space, AddressSpace):
        space = _part(space, va)
    table = space.stage1 if isinstance(space, Nested) else space
    return table.untagged(va)


def _contradicted(space: Space, entry: _Entry) -> str:
    first = _untagged(space, entry.va)
    last = first + entry.page_size - 1
    reached = first
    for now in _rows(space, first, last):
        if int(now["first"]) != reached or now["kind"] != RowKind.LEAF:
            return UNMAPPED
        if int(now["pa"]) - int(now["first"]) != entry.pa - first:
            return ELSEWHERE
        if entry.rights & ~int(now["rights"]):
            return RIGHTS
        reached = int(now["last"]) + 1
    return "" if reached == last + 1 else UNMAPPED


def _leads_there(space: Space, entry: _Entry) -> bool:
    """Whether the tables over the entry's address still lead to the table that it names."""
    part = _part(space, entry.va) if isinstance(space, AddressSpace) else space
    table = part.stage1 if isinstance(part, Nested) else part
    below = (entry.level or 0) - 1
    size = table.format.table_bytes(below)
    path = table.walk(table.untagged(entry.va)).path
    bases = {step.entry_address - step.entry_address % size for step in path if step.level == below}
    if isinstance(part, Nested) and entry.cache == "walk_cache":
        bases = {at for base in bases for at in _through(part.stage2, base)}
    return entry.pa in bases


def _through(stage2: PageTable, ipa: int) -> Iterator[int]:
    try:
        yield stage2.translate(ipa)
    except Fault:
        return


def stale(mmu: Mmu) -> list[Stale]:
    """Return the cached translations of one CPU that its tables contradict; see Oracle."""
    return Oracle(mmu).look()


__all__ = ["Dropped", "Oracle", "Stale", "stale"]
