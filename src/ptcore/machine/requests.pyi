"""What a strategy is asked for and gives out, and the book that it keeps of that."""

from dataclasses import dataclass
from typing import final

from ptcore.machine.verbs import Verbs
from ptcore.units import Span

@final
@dataclass(frozen=True)
class Request:
    """Pages that somebody wants to reach.

    `cpu` asks; `pages` of the machine's page size; `align` in bytes, of the virtual address;
    `purpose` is free text for reports; `device` names a device that will reach them too, if any;
    `memory_type` is what their mappings get, as for Machine.map (None: the format's usual one);
    `sensitive`: what they hold must not be reachable once they are given back. Raises AddressError for
    less than a page and for an alignment that is no power of two.
    """

    cpu: int
    pages: int
    align: int = 1
    purpose: str = ""
    device: str | None = None
    memory_type: str | None = None
    sensitive: bool = False

    def __post_init__(self) -> None: ...

@final
@dataclass(frozen=True)
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

@final
class Book:
    """Handles that were given out and not yet taken back, numbered from 1. All verbs are O(1)."""

    def __init__(self, machine: Verbs) -> None: ...
    def __contains__(self, handle: Handle, /) -> bool: ...
    def __len__(self) -> int: ...
    def give(self, request: Request, pa: int, span: Span | None = None) -> Handle:
        """Make a handle for a request, write it down, and note ACQUIRED."""

    def check(self, handle: Handle, span: Span | None = None) -> None:
        """Raise NotAllocated unless it is live, and OutOfRange unless the bytes `span` are its own."""

    def take_back(self, handle: Handle, cpu: int) -> None:
        """Strike the handle out. Raises NotAllocated unless it is live, OutOfRange for an unknown CPU."""

    def free_frames(self, handle: Handle, cpu: int, pages: int | None = None) -> None:
        """Give its frames back (`pages`: more of them than it said), and note RELEASED."""
