"""What an edit leaves to be done: invalidations, and the frames that must not be reused before."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from ptcore.units import Span


@dataclass(slots=True)
class Owed:
    """The result of an edit: what it wrote, and which cached translations it made stale.

    `spans`: input addresses whose cached translations must be invalidated (none for a map of empty
    items). `tables`: (address, size) of the table frames that the edit took out; a paging-structure
    cache may still point to them, so they stay allocated until `discharge`.
    `table_spans`: where tables were taken out, `spans` grown to all that the items over them are over:
    some caches of items drop what is wholly within the addresses of a command, and nothing larger.
    `entries_written`: items stored. `tables_allocated_bytes`: new tables.
    An Owed is true while something is owed.
    """

    spans: tuple[Span, ...] = ()
    tables: tuple[tuple[int, int], ...] = ()
    table_spans: tuple[Span, ...] = ()
    entries_written: int = 0
    tables_allocated_bytes: int = 0
    _release: Callable[[int, int], None] | None = field(default=None, repr=False, compare=False)
    discharged: bool = False

    def __bool__(self) -> bool:
        return not self.discharged and bool(self.spans or self.tables)

    @property
    def structures(self) -> bool:
        """Whether caches of table items (paging-structure caches) are stale too, not only leaves."""
        return bool(self.tables)

    def discharge(self) -> None:
        """Say that the invalidations were done: the held frames go back to their allocator.

        A second call does nothing.
        """
        if self.discharged:
            return
        self.discharged = True
        if self._release is not None:
            for address, size in self.tables:
                self._release(address, size)
