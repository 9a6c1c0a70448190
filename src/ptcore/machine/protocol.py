"""What a strategy must answer."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from ptcore.machine.requests import Handle, Request
from ptcore.units import Span


@runtime_checkable
class Strategy(Protocol):
    """Decides where a page is reachable and when that stops; never what it costs.

    It acts only through one Machine. `exposure_by_design` is a sentence where freed memory stays
    reachable because that is what the strategy is, else None.
    """

    name: str
    exposure_by_design: str | None

    def acquire(self, request: Request) -> Handle:
        """Make memory exist; reachable or not, as the policy says."""

    def access(self, handle: Handle, span: Span, cpu: int, kind: str) -> None:
        """Make the bytes `span` of the handle (offsets from 0) reachable on `cpu`, and touch each page."""

    def release(self, handle: Handle, cpu: int) -> None:
        """Give the memory back; it must stop being reachable when the policy says."""

    def idle(self) -> None:
        """Timers, drains, give-back: what happens when nobody asks for anything."""
