"""The book that strategies keep of what they gave out."""

from __future__ import annotations

from ptcore.errors import NotAllocated
from ptcore.machine import Handle
from ptcore.units import Span


class Live:
    """Handles that were given out and not yet given back, numbered from 1."""

    def __init__(self) -> None:
        self._handles: dict[int, Handle] = {}
        self._numbers = 0

    def __contains__(self, handle: Handle) -> bool:
        return handle.number in self._handles

    def add(self, pages: int, pa: int, span: Span | None, memory_type: str | None = None) -> Handle:
        """Make a handle and write it down."""
        self._numbers += 1
        handle = Handle(self._numbers, pages, pa, span, memory_type)
        self._handles[handle.number] = handle
        return handle

    def check(self, handle: Handle) -> None:
        """Raise NotAllocated unless the handle is live."""
        if handle.number not in self._handles:
            raise NotAllocated(f"handle {handle.number} is not live")

    def end(self, handle: Handle) -> None:
        """Strike the handle out. Raises NotAllocated unless it is live."""
        self.check(handle)
        del self._handles[handle.number]
