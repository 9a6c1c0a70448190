"""Translations that the tables no longer have and some CPUs may still hold, found by address and by frame."""

from collections.abc import Iterable
from typing import final

from ptcore.units import Span

@final
class CpuSet:
    """Numbers of CPUs, and of devices after them, as bits. Made once for each set that a machine names."""

    members: frozenset[int]

    def __init__(self, members: Iterable[int]) -> None:
        """Raises OutOfRange for a negative number."""

@final
class StaleSpans:
    """Spans of stale translations, each with the frames that it led to and the CPUs that may hold it.

    Two trees find them: by address and by frame. All verbs cost O(log spans + spans found).
    """

    def __init__(self) -> None: ...
    def add(self, span: Span, pa: int, holders: Iterable[int]) -> None:
        """`holders` may hold `span`, which led to `pa` and on, though no table has it."""

    def invalidated(self, span: Span, targets: Iterable[int]) -> None:
        """`targets` hold nothing that lies wholly inside `span`; what nobody holds is forgotten."""

    def holding(self, span: Span, cpus: Iterable[int]) -> tuple[Span, int, frozenset[int]] | None:
        """Return the oldest one that meets `span` and that one of `cpus` may hold: (span, pa, holders)."""

    def of_frames(self, pa: int, size: int) -> list[tuple[Span, int, frozenset[int]]]:
        """Return those that led to any of `size` bytes at `pa` and that a TLB may have, the oldest first."""

    def rows(self) -> list[tuple[Span, int, frozenset[int]]]:
        """Return all, the oldest first."""

    def __len__(self) -> int:
        """How many there are."""
