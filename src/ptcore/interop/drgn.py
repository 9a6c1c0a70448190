"""An address space of ptcore's as the memory of a drgn program.

drgn walks the tables of some architectures itself; with this it reads those of every format: RISC-V, five
levels, both stages of a guest. drgn is imported when it is used. drgn 0.3: Program.add_memory_segment.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ptcore.errors import AddressError, Fault, NotCanonical, PtcoreError, Status
from ptcore.memory import PhysicalMemory
from ptcore.table import AddressSpace, Nested, PageTable, RowKind
from ptcore.units import ALL_ONES

STEP_LG2 = (
    12  # no page is smaller in any format that drgn may meet, and a larger one is many of them
)
READABLE = (RowKind.LEAF, RowKind.REPEAT)


class Space(Protocol):
    """What is read: PageTable, AddressSpace and Nested are such spaces."""

    def translate(self, va: int) -> int:
        """Return a physical address, or raise a Fault."""

    def translate_many(
        self, vas: npt.ArrayLike
    ) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint8]]:
        """Return physical addresses and statuses."""

    def walk(self, va: int) -> Any:
        """Return something with a `pa`, None for none."""

    def mappings(self) -> npt.NDArray[Any]:
        """Return rows of ROW_DTYPE."""


def _host() -> Any:
    try:
        import drgn
    except ModuleNotFoundError:
        raise PtcoreError("drgn is not installed here: pip install drgn") from None
    return drgn


def memory_of(space: object) -> PhysicalMemory:
    """Return the physical memory that a space leads to: behind the second stage, where there is one."""
    if isinstance(space, AddressSpace):
        return memory_of(space.tables[0])
    if isinstance(space, Nested):
        return space.stage2.memory
    if isinstance(space, PageTable):
        return space.memory
    raise TypeError(
        f"{type(space).__name__} is no address space whose memory is known: pass memory="
    )


def mapped_spans(space: Space) -> list[tuple[int, int]]:
    """Return (first, last) of the addresses that are mapped, in order, neighbours as one."""
    rows = space.mappings()
    rows = rows[np.isin(rows["kind"], READABLE)]
    if not len(rows):
        return []
    apart = rows["first"][1:] != rows["last"][:-1] + np.uint64(1)
    starts = rows["first"][np.concatenate(([True], apart))]
    lasts = rows["last"][np.concatenate((apart, [True]))]
    return list(zip(starts.tolist(), lasts.tolist(), strict=True))


class SpaceReader:
    """Reads bytes of a space for drgn. Translates at every read, so edits and live tables are seen.

    The right to read is not asked for: a debugger may look at what only runs.
    """

    def __init__(self, space: Space, memory: PhysicalMemory) -> None:
        self.space = space
        self.memory = memory
        self.fault_error = _host().FaultError

    def virtual(self, address: int, count: int, offset: int, physical: bool) -> bytes:
        """Return `count` bytes at a virtual address; drgn.FaultError names the first that is not there."""
        if (address & (1 << STEP_LG2) - 1) + count <= 1 << STEP_LG2:
            return self._piece(address, self._translated(address), count)
        return b"".join(self._piece(*piece) for piece in self._pieces(address, count))

    def physical(self, address: int, count: int, offset: int, physical: bool) -> bytes:
        """Return `count` bytes at a physical address."""
        return self._piece(address, address, count)

    def _translated(self, va: int) -> int:
        try:
            return self.space.translate(va)
        except NotCanonical as fault:
            raise self.fault_error(str(fault), va) from fault
        except Fault as fault:
            pa: int | None = self.space.walk(va).pa
            if pa is None:
                raise self.fault_error(str(fault), va) from fault
            return pa

    def _pieces(self, address: int, count: int) -> Iterator[tuple[int, int, int]]:
        """Yield (va, pa, bytes) from `address` on, neighbours below as one."""
        step = 1 << STEP_LG2
        bases = range(address & ~(step - 1), address + count, step)
        vas = np.array([address, *bases[1:]], dtype=np.uint64)
        pas, statuses = self.space.translate_many(vas)
        for n in np.flatnonzero(statuses != Status.OK).tolist():
            pas[n] = self._translated(int(vas[n]))
        ends = np.append(vas[1:], np.uint64((address + count) & ALL_ONES))
        sizes = ends - vas
        apart = np.flatnonzero(pas[1:] != pas[:-1] + sizes[:-1]) + 1
        for first, last in zip([0, *apart.tolist()], [*apart.tolist(), len(vas)], strict=True):
            yield int(vas[first]), int(pas[first]), int(sizes[first:last].sum())

    def _piece(self, address: int, pa: int, count: int) -> bytes:
        try:
            return self.memory.read(pa, count)
        except AddressError as error:
            raise self.fault_error(str(error), address) from error


def add_memory(
    prog: Any,
    space: Space,
    *,
    memory: PhysicalMemory | None = None,
    physical: bool = True,
) -> int:
    """Let the drgn program `prog` read `space`, and return how many segments it got for that.

    Each run of mapped addresses becomes a segment of virtual memory, so that drgn searches what is mapped
    and nothing else; what is mapped later is not seen until this is called again, but where a page lies is
    looked up at every read. `physical` adds the memory itself, for `prog.read(..., physical=True)`.
    `memory`: where `space` leads to, where it is none of ptcore's own. A read of what is not there raises
    drgn.FaultError. Raises PtcoreError without drgn, TypeError for a space whose memory is not known.
    The program's platform is the caller's: drgn.Program(drgn.Platform(drgn.Architecture.RISCV64)).
    """
    reader = SpaceReader(space, memory or memory_of(space))
    spans = mapped_spans(space)
    for first, last in spans:
        prog.add_memory_segment(first, last - first + 1, reader.virtual)
    if physical:
        for span in reader.memory.segments:
            prog.add_memory_segment(span.start, span.size, reader.physical, True)
    return len(spans)
