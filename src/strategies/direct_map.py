"""The baseline: all memory is mapped once, at boot, with the largest leaves.

The mechanism and the policy are the kernel's: Linux arch/x86/mm/init.c, init_memory_mapping(), maps
physical memory in a row with the largest page sizes that alignment allows; an allocation is
reachable there before, during and after its life. Where that row begins: `layouts`.

`DirectMap.set_memory` is the kernel's set_memory_ro() and its like (arch/x86/mm/pat/set_memory.c): a
leaf that the span has only a part of is split, a level at a time, 1G into 512 of 2M, 2M into 512 of
4K, a table each; then the rights change, with one invalidation. It does not heal: in Linux a split
leaf is made whole again by set_memory_rox() alone, since 6.15 (commit 41d88484c71c, CPA_COLLAPSE); so
it is here, by `set_memory_rox`. No policy calls either.

Formats with `break_before_make` do not let a leaf in use be replaced by smaller ones: it must be empty and
invalidated in between. Linux does not do that to its own linear map: without FEAT_BBM level 2 it maps
all of it by pages if rights are to change (arch/arm64/mm/mmu.c, force_pte_mapping()). So do strategies here
that take pages out (`map_all` with `changes`); `set_memory` on large leaves does break first, and
the memory of the leaf is unreachable for that long.
"""

from __future__ import annotations

from ptcore.errors import MapError, NotUniform
from ptcore.machine import Handle, Machine, Request
from ptcore.machine.requests import Book
from ptcore.strategies import Known
from ptcore.strategies.layouts import block_bytes, layout_of
from ptcore.units import Span


def map_all(machine: Machine, *, changes: bool = False) -> int:
    """Map all memory with the largest leaves; return where. `changes`: parts of it will be taken out,
    so that formats that cannot split a leaf in use get the smallest ones."""
    start = layout_of(machine).direct_map.start
    pages = changes and machine.table.format.break_before_make
    page_size = machine.page_bytes if pages else None
    machine.map(start, 0, machine.data_bytes, cpu=0, page_size=page_size)
    return start


def split(machine: Machine, span: Span, page_size: int, cpu: int) -> None:
    """Have no leaf larger than `page_size` in `span`; break-before-make where the format needs it."""
    if not machine.table.format.break_before_make:
        machine.split(span.start, span.size, page_size, cpu)
        return
    for leaf in _larger(machine, span, page_size):
        _break(machine, leaf, span, page_size, cpu)


def _larger(machine: Machine, span: Span, page_size: int) -> list[Span]:
    """Return the leaves of `span` that are larger than `page_size`."""
    found: list[Span] = []
    at = span.start
    while at <= span.last:
        walk = machine.table.walk(at)
        size = walk.page_size or page_size
        start = at & -size
        if walk.pa is not None and size > page_size:
            found.append(Span.of(start, size))
        at = start + size
    return found


def _break(machine: Machine, leaf: Span, span: Span, page_size: int, cpu: int) -> None:
    """Empty a leaf, invalidate it, and map what it had: its part in `span` by `page_size`."""
    walk = machine.table.walk(leaf.start)
    pa = machine.table.translate(leaf.start)
    access = "".join(letter for letter in walk.rights or "" if letter in "rwx")
    names = machine.table.format.memory_types
    memory_type = names[walk.memory_type] if names and walk.memory_type is not None else None

    def make(start: int, end: int, size: int | None) -> None:
        to = pa + start - leaf.start
        machine.map(start, to, end - start, cpu, access, page_size=size, memory_type=memory_type)

    machine.unmap(leaf.start, leaf.size, cpu)
    machine.invalidate(leaf, cpu)
    low = max(leaf.start, span.start) & -page_size
    end = (min(leaf.last, span.last) | (page_size - 1)) + 1
    try:
        make(low, end, page_size)
    except MapError:  # no frame for a table: as it was
        make(leaf.start, leaf.last + 1, leaf.size)
        raise
    # What lies beside the span keeps the largest leaves that fit, in the tables made just now.
    for start, stop in ((leaf.start, low), (end, leaf.last + 1)):
        if start < stop:
            make(start, stop, None)


class DirectMap:
    """A page's address is the map's start + its physical address, always."""

    name = "direct_map"
    exposure_by_design: str | None = "reachable by design"

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self._book = Book(machine)
        self.start = map_all(machine)

    def acquire(self, request: Request) -> Handle:
        """Take frames; they are reachable already."""
        size = request.pages * self.machine.page_bytes
        align = max(request.align, self.machine.page_bytes)
        pa = self.machine.allocate_frames(request.pages, request.cpu, align=align)
        return self._book.give(request, pa, Span.of(self.start + pa, size))

    def access(self, handle: Handle, span: Span, cpu: int, kind: str = "r") -> None:
        """Touch pages where they always are."""
        self._book.check(handle, span)
        self.machine.access_at(self.start + handle.pa, span, cpu, kind)

    def set_memory(self, handle: Handle, access: str, cpu: int) -> None:
        """Change the rights of a handle's pages; leaves that it has only a part of are split."""
        self._book.check(handle)
        assert handle.span is not None
        span = handle.span
        block = block_bytes(self.machine)
        for size in reversed(self.machine.table.format.page_sizes):
            if size >= block:
                self._split_ends(span, size, cpu)
        self._split_ends(span, self.machine.page_bytes, cpu)
        owed = self.machine.table.protect(span.start, span.size, access)
        self.machine.account(owed, cpu)
        self.machine.invalidate(span, cpu)
        owed.discharge()

    def _split_ends(self, span: Span, size: int, cpu: int) -> None:
        """Split the leaves at both ends that are larger than `size`, unless all of one is the span's."""
        for at in (span.start, span.last & -self.machine.page_bytes):
            found = self._leaf_bytes(at)
            whole = span.start <= at & -found and at | (found - 1) <= span.last
            if found > size and not whole:
                split(self.machine, Span.of(at & -size, size), size, cpu)

    def _leaf_bytes(self, va: int) -> int:
        return self.machine.table.walk(va).page_size or self.machine.page_bytes

    def set_memory_rox(self, handle: Handle, cpu: int) -> None:
        """Make a handle's pages read-only and executable, and leaves of blocks that now agree whole."""
        self.set_memory(handle, "rx", cpu)
        block = block_bytes(self.machine)
        assert handle.span is not None
        start = handle.span.start & -block
        for at in range(start, handle.span.last + 1, block):
            if self._leaf_bytes(at) < block:
                try:
                    self.machine.collapse(at, block, block, cpu)
                except NotUniform:
                    continue  # others of the block have other rights: it stays in pages

    def release(self, handle: Handle, cpu: int) -> None:
        """Give the frames back. They stay reachable: that is the design."""
        self._book.take_back(handle, cpu)
        self._book.free_frames(handle, cpu)

    def idle(self) -> None:
        """Nothing is ever put off."""


STRATEGIES = (
    Known(
        "direct_map",
        "All memory mapped at boot with large leaves; nothing is ever unmapped.",
        "the kernel's",
        DirectMap,
    ),
)
