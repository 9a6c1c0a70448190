"""Two stages of translation: a first stage whose tables and pages lie behind a second one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ptcore.errors import BusError, Fault, Status, fault_class
from ptcore.memory import PhysicalMemory
from ptcore.table.listing import Listing, listing
from ptcore.table.owed import Owed
from ptcore.table.page_table import PageTable
from ptcore.table.path import Step, Walk
from ptcore.table.rows import ROW_DTYPE, Flag, Right, RowKind, Stats
from ptcore.units import ALL_ONES

_USER = "u"


def guest_memory(
    stage2: PageTable, *, frames: tuple[int, int | str] | None = None
) -> PhysicalMemory:
    """Return the memory that a first stage sees through `stage2`: its intermediate addresses.

    The bytes are those of `stage2.memory`, not a copy; which of them are seen is decided now, from what
    `stage2` maps with the rights that reads of tables need there. `frames`: (start, size) of a region,
    in one piece behind `stage2` too, where first-stage tables may be allocated. Raises OutOfRange when
    nothing is mapped. Cost: one listing of `stage2`.
    """
    need = Right.READ | (Right.WRITE if "w" in stage2.format.table_access else Right(0))
    rows = stage2.mappings(repeats=False)
    usable = (rows["rights"] & need == need) & (rows["flags"] & Flag.UNACCESSED == 0)
    rows = rows[(rows["kind"] == RowKind.LEAF) & usable]
    joined: list[tuple[int, int, int]] = []
    for row in rows:
        first, pa = int(row["first"]), int(row["pa"])
        size = int(row["last"]) - first + 1
        if joined:
            before, at, length = joined[-1]
            if before + length == first and at + length == pa:
                joined[-1] = (before, at, length + size)
                continue
        joined.append((first, pa, size))
    return PhysicalMemory.view(stage2.memory, joined, frames=frames)


@dataclass(frozen=True, slots=True)
class NestedStep:
    """One item that a nested walk read, of stage 1 or 2. `ipa`: what stage 2 was asked for, or where a
    stage 1 item lies."""

    stage: int
    ipa: int
    step: Step

    def __repr__(self) -> str:
        return f"S{self.stage}:{self.step!r}"


@dataclass(frozen=True, slots=True)
class NestedWalk:
    """Both stages of one walk, in the order in which items are read.

    `ipa` is what stage 1 gave, `pa` what stage 2 made of it; None unless `status` is OK. `page_size`
    is the smaller of both stages' pages. `references` counts the items read. `stage` is the stage of
    the fault, None without one.
    """

    va: int
    status: Status
    path: tuple[NestedStep, ...]
    ipa: int | None = None
    pa: int | None = None
    page_size: int | None = None
    stage1: Walk | None = field(default=None, repr=False)
    stage2: Walk | None = field(default=None, repr=False)
    stage: int | None = None
    fault: Fault | None = field(default=None, compare=False)

    @property
    def references(self) -> int:
        """How many items were read, of both stages."""
        return len(self.path)


@dataclass(frozen=True, slots=True)
class NestedStats:
    """How the tables of both stages are filled."""

    stage1: Stats
    stage2: Stats


class Nested:
    """Translation through two stages, with the verbs of PageTable.

    `stage1` is a PageTable whose memory is addressed as stage 2 sees it (`guest_memory(stage2)`, or a
    memory of its own with the same content); `stage2` turns those addresses into physical ones.
    Listings and edits of pages are those of stage 1: `pa` of an edit is an intermediate address.
    """

    def __init__(self, stage1: PageTable, stage2: PageTable) -> None:
        self.stage1 = stage1
        self.stage2 = stage2
        access = stage2.format.table_access
        self._table_access = access.replace(_USER, "")
        self._always_user = _USER in access

    def _user(self, user: bool) -> bool:
        return user or self._always_user

    # -- translation -------------------------------------------------------------------------

    def walk(self, va: int) -> NestedWalk:
        """Return both stages' items in reading order, and where they lead. Never raises for a fault."""
        return self._walk(va, "r", False)

    def _walk(self, va: int, access: str, user: bool) -> NestedWalk:
        first = self.stage1.walk(va)
        path: list[NestedStep] = []
        places = [step.entry_address for step in first.path]
        outside = first.status is Status.BUS and first.fault is not None
        if outside and first.fault is not None and first.fault.entry_address is not None:
            places.append(first.fault.entry_address)
        for n, place in enumerate(places):
            fault = self._second(place, self._table_access, False, va, path)[1]
            if fault is not None:
                return self._failed(va, path, fault, 2, first)
            if n < len(first.path):
                path.append(NestedStep(1, place, first.path[n]))
        if first.status is not Status.OK or first.pa is None:
            return self._failed(va, path, first.fault, 1, first)
        second, fault = self._second(first.pa, access, user, va, path)
        if fault is not None:
            return self._failed(va, path, fault, 2, first)
        return NestedWalk(
            va=va,
            status=Status.OK,
            path=tuple(path),
            ipa=first.pa,
            pa=second.pa,
            page_size=min(first.page_size or 0, second.page_size or 0),
            stage1=first,
            stage2=second,
        )

    def _second(
        self, ipa: int, access: str, user: bool, va: int, path: list[NestedStep]
    ) -> tuple[Walk, Fault | None]:
        """Walk stage 2 for `ipa`, note what was read, and say what is wrong with the access."""
        walk = self.stage2.walk(ipa)
        path.extend(NestedStep(2, ipa, step) for step in walk.path)
        fault = walk.fault
        if fault is None:
            try:
                self.stage2.translate(ipa, access, self._user(user))
            except Fault as denied:
                fault = denied
        return walk, None if fault is None else _of_stage_2(fault, va, ipa)

    def _failed(
        self, va: int, path: list[NestedStep], fault: Fault | None, stage: int, first: Walk
    ) -> NestedWalk:
        status = Status.BUS if fault is None else fault.status
        return NestedWalk(
            va=va,
            status=status,
            path=tuple(path),
            ipa=first.pa,
            stage=stage,
            stage1=first,
            fault=fault,
        )

    def translate(self, va: int, access: str = "r", user: bool = False) -> int:
        """Return the physical address of `va`. Raises the Fault of the stage that refuses; its `stage`,
        `ipa` (stage 2) and `va` say which and where."""
        try:
            ipa = self.stage1.translate(va, access, user)
        except BusError:
            walk = self._walk(va, access, user)
            if walk.fault is None:
                raise
            raise walk.fault from None
        try:
            return self.stage2.translate(ipa, access, self._user(user))
        except Fault as fault:
            raise _of_stage_2(fault, va, ipa) from None

    def translate_many(
        self, vas: npt.ArrayLike, access: str = "r", user: bool = False
    ) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint8]]:
        """Return (physical addresses uint64[n], statuses uint8[n]); failed outputs are all-ones."""
        ipas, statuses = self.stage1.translate_many(vas, access, user)
        fine = statuses == Status.OK
        pas = np.full(ipas.shape, ALL_ONES, dtype=np.uint64)
        pas[fine], statuses[fine] = self.stage2.translate_many(ipas[fine], access, self._user(user))
        addresses = np.asarray(vas, dtype=np.uint64)
        for n in np.argwhere(~fine & (statuses == Status.BUS)):
            # Stage 1 could not read a table: stage 2 knows why.
            statuses[tuple(n)] = self._walk(int(addresses[tuple(n)]), access, user).status
        return pas, statuses

    # -- listings ----------------------------------------------------------------------------

    def mappings(self, first: int = 0, last: int | None = None) -> Listing:
        """Return what both stages together map, as rows of ROW_DTYPE with physical addresses.

        `rights`: what both grant; `page_size`: the smaller one; attributes are stage 1's. Pages that
        stage 2 does not map are left out; other rows (repeats, reserved items) are stage 1's.
        """
        rows = self.stage1.mappings(first, last)
        behind = self.stage2.mappings(repeats=False)
        behind = behind[behind["kind"] == RowKind.LEAF]
        found = []
        for row in rows:
            found += [row] if row["kind"] != RowKind.LEAF else _composed(row, behind)
        return listing(np.array(found, dtype=ROW_DTYPE))

    def reverse(self, pa: int) -> npt.NDArray[np.uint64]:
        """Return the addresses that lead to `pa` through both stages, ascending."""
        found = [
            va for ipa in self.stage2.reverse(pa) for va in self.stage1.reverse(int(ipa)).tolist()
        ]
        return np.array(sorted(found), dtype=np.uint64)

    def stats(self) -> NestedStats:
        """Return how both stages' tables are filled."""
        return NestedStats(self.stage1.stats(), self.stage2.stats())

    def harvest(
        self, what: Literal["dirty", "accessed"], *, clear: bool = True
    ) -> tuple[npt.NDArray[Any], Owed]:
        """List the marked leaves of stage 1, as PageTable.harvest."""
        return self.stage1.harvest(what, clear=clear)

    def shadow(self, memory: PhysicalMemory) -> PageTable:
        """Return one table in `memory` that maps what both stages map: what a shadow-paging hypervisor
        builds. Pages that fault until software marks them accessed are left out. Raises NoFrame when
        `memory` has too few frames."""
        table = PageTable(self.stage1.format, memory)
        for row in self.mappings():
            if row["kind"] == RowKind.LEAF and not row["flags"] & Flag.UNACCESSED:
                table.map(
                    int(row["first"]),
                    int(row["pa"]),
                    int(row["last"]) - int(row["first"]) + 1,
                    int(row["rights"]) & table.format.rights,
                    None,
                    bool(row["flags"] & Flag.GLOBAL),
                    int(row["memory_type"]),
                    int(row["pkey"]),
                    int(row["software"]),
                )
        return table

    # -- edits of stage 1 --------------------------------------------------------------------

    @property
    def map(self) -> Callable[..., Owed]:
        """PageTable.map of stage 1; `pa` is an intermediate address."""
        return self.stage1.map

    @property
    def unmap(self) -> Callable[..., Owed]:
        """PageTable.unmap of stage 1."""
        return self.stage1.unmap

    @property
    def protect(self) -> Callable[..., Owed]:
        """PageTable.protect of stage 1."""
        return self.stage1.protect

    @property
    def split(self) -> Callable[..., Owed]:
        """PageTable.split of stage 1."""
        return self.stage1.split

    @property
    def collapse(self) -> Callable[..., Owed]:
        """PageTable.collapse of stage 1."""
        return self.stage1.collapse

    def __repr__(self) -> str:
        return f"Nested({self.stage1!r}, {self.stage2!r})"


def _of_stage_2(fault: Fault, va: int, ipa: int) -> Fault:
    """Return the fault as one of stage 2, met on the way of `va`."""
    made = fault_class(fault.status)(
        f"stage 2, ipa {ipa:#x}, on the way of va {va:#x}: {fault}",
        va=va,
        stage=2,
        level=fault.level,
        level_name=fault.level_name,
        entry=fault.entry,
        entry_address=fault.entry_address,
        path=fault.path,
        code=fault.code,
        ipa=ipa,
    )
    assert isinstance(made, Fault)
    return made


def _composed(row: Any, behind: npt.NDArray[Any]) -> list[Any]:
    """Return the parts of a stage 1 row that stage 2 maps, with physical addresses."""
    start, size = int(row["pa"]), int(row["last"]) - int(row["first"])
    low = int(np.searchsorted(behind["last"], np.uint64(start)))
    high = int(np.searchsorted(behind["first"], np.uint64(start + size), side="right"))
    parts = []
    for other in behind[low:high]:
        begin = max(start, int(other["first"]))
        end = min(start + size, int(other["last"]))
        part = row.copy()
        part["first"] = int(row["first"]) + begin - start
        part["last"] = int(row["first"]) + end - start
        part["pa"] = int(other["pa"]) + begin - int(other["first"])
        part["page_size"] = min(int(row["page_size"]), int(other["page_size"]))
        # Who the page is for is stage 1's to say; what may be done, both decide.
        part["rights"] = int(row["rights"]) & (int(other["rights"]) | Right.USER | Right.USER_WRITE)
        part["flags"] = int(row["flags"]) | int(other["flags"]) & Flag.UNACCESSED
        parts.append(part)
    return parts


__all__ = ["Nested", "NestedStats", "NestedStep", "NestedWalk", "guest_memory"]
