"""What a strategy is asked, and what it must answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from ptcore.errors import AddressError, OutOfRange
from ptcore.units import Span


@dataclass(frozen=True, slots=True)
class Request:
    """Pages that somebody wants to reach.

    `cpu` asks; `pages` of the machine's page size; `align` in bytes, of the virtual address;
    `purpose` is free text for reports; `device` names a device that will reach them too, if any;
    `memory_type` is what their mappings get, as for Machine.map (None: the format's usual one);
    `sensitive`: what they hold must not be reachable once they are given back.
    """

    cpu: int
    pages: int
    align: int = 1
    purpose: str = ""
    device: str | None = None
    memory_type: str | None = None
    sensitive: bool = False

    def __post_init__(self) -> None:
        if self.pages < 1:
            raise AddressError(f"a request is for at least one page, not {self.pages}")
        if self.align < 1 or self.align & (self.align - 1):
            raise AddressError(f"an alignment is a power of two, not {self.align}")


@dataclass(frozen=True, slots=True)
class Handle:
    """What a request got: a number of the strategy's own, frames from `pa` on, and where they are
    reachable (`span`), or None where the strategy makes pages reachable only while they are used;
    `memory_type` as the request has it."""

    number: int
    pages: int
    pa: int
    span: Span | None
    memory_type: str | None = None

    def check_offsets(self, span: Span, page_bytes: int) -> None:
        """Raise OutOfRange unless the bytes `span`, counted from the handle's first, are its own."""
        if span.last >= self.pages * page_bytes:
            raise OutOfRange(f"{span} goes beyond the {self.pages} pages of handle {self.number}")


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
