"""ephemeral_map: pages that are mapped nowhere, reached through a window of the CPU for as long as
a touch takes.

The mechanism and the policy are a proposal's: the ephemeral map of the __GFP_UNMAPPED series of
2026 (windows.py has it). Where the proposal takes pages out of the direct map first
(`unmapped_pool` does), here they never were in one: what is priced is the reaching alone.

Each address space has regions of its own, with tables for every CPU, from its begin to its end
(`window.enter`, `window.end`); a CPU uses those of the one that it is in. Workloads do not say which that is:
they run in the first one.

A translation stays on the CPU until its region wraps, also when the page has been freed meanwhile:
that is the proposal's open question, and the exposure windows show it. `eager` is ours: a release
invalidates first.
"""

from __future__ import annotations

from functools import partial

from ptcore.machine import Handle, Machine, Request
from ptcore.machine.requests import Book
from ptcore.strategies import Known
from ptcore.strategies.windows import EphemeralWindow
from ptcore.units import Span

MOST_PAGES = 16  # mapped at a time: ours; the proposal maps a folio


class EphemeralMap:
    """Frames without an address. `eager`: no translation outlives the memory. `window`: one that is there
    already (default: its own)."""

    exposure_by_design: str | None = None

    def __init__(
        self, machine: Machine, *, eager: bool = False, window: EphemeralWindow | None = None
    ) -> None:
        self.machine = machine
        self.name = "ephemeral_map_eager" if eager else "ephemeral_map"
        self._eager = eager
        self.window = EphemeralWindow(machine) if window is None else window
        self._book = Book(machine)

    def acquire(self, request: Request) -> Handle:
        """Take frames; they are reachable only while they are touched."""
        pa = self.machine.allocate_frames(request.pages, request.cpu)
        return self._book.give(request, pa)

    def access(self, handle: Handle, span: Span, cpu: int, kind: str = "r") -> None:
        """Map, touch and unmap, some pages at a time."""
        self._book.check(handle, span)
        self.machine.mmu(cpu)
        self.window.reach(cpu, handle.pa, span, kind, MOST_PAGES, handle.memory_type)

    def release(self, handle: Handle, cpu: int) -> None:
        """Give the frames back; CPUs that touched them may hold translations until their regions wrap."""
        self._book.take_back(handle, cpu)
        if self._eager and self.machine.stale_count:
            self.machine.invalidate(None, cpu)
        self._book.free_frames(handle, cpu)

    def idle(self) -> None:
        """Nothing is due by time: regions are cleaned when they wrap."""


STRATEGIES = (
    Known(
        "ephemeral_map",
        "Pages without an address; a window per CPU, invalidated there alone when it is used up.",
        "a proposal's (mermap, 2026)",
        EphemeralMap,
        addresses=False,
    ),
    Known(
        "ephemeral_map_eager",
        "The same, but every release invalidates before the frames go back.",
        "ours, over the proposal's mechanism",
        partial(EphemeralMap, eager=True),
        addresses=False,
    ),
)
