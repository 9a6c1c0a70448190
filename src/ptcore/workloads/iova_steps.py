"""A recording of IOMMU mappings, joined: which range of I/O addresses was handed out, and when it was freed.

A range that is mapped piece by piece (a scatter list) has a `map` line per piece and one `unmap`
line; ranges that are never unmapped are taken from pieces in a row of one process. The allocator
runs just before the first `map` (Linux drivers/iommu/dma-iommu.c, iommu_dma_map_sg(),
__iommu_dma_map()) and is given the range back just after the `unmap` (__iommu_dma_unmap()).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from ptcore.workloads.ftrace import EventKind, FtraceLog

PAGE_LG2 = 12


class IovaStep(NamedTuple):
    """A range is handed out, or given back. `number` is the range's, UNKNOWN if it is from before
    the trace.
    """

    time_ns: int
    cpu: int
    number: int
    page: int
    pages: int
    freed: bool


UNKNOWN = -1


@dataclass(frozen=True, slots=True)
class IovaSteps:
    """Steps in the order of recording, and what was left out of them."""

    cpus: int
    steps: tuple[IovaStep, ...]
    allocations: int
    never_freed: int
    unmatched_frees: int
    overlapping: int
    """Maps of addresses that are mapped already: of another domain, or a line was lost."""


class _Piece(NamedTuple):
    line: int
    time_ns: int
    cpu: int
    pid: int
    start: int
    end: int


def join_iova(log: FtraceLog) -> IovaSteps:
    """Join the map and unmap lines of a trace. O(lines)."""
    live: dict[int, _Piece] = {}
    found: list[tuple[int, IovaStep]] = []
    unmatched = overlapping = number = 0
    events = log.of(EventKind.MAP, EventKind.UNMAP)
    columns = ("line", "time_ns", "cpu", "pid", "va", "end", "kind")
    for *at, kind in zip(*(events[name].tolist() for name in columns), strict=True):
        piece = _Piece(*at)
        if kind == EventKind.MAP:
            overlapping += piece.start in live
            live[piece.start] = piece
            continue
        pieces = _pieces_of(live, piece)
        known = bool(pieces)
        if known:
            found.append((pieces[0].line, _step(pieces[0], piece, number, freed=False)))
        found.append((piece.line, _step(piece, piece, number if known else UNKNOWN, freed=True)))
        number += known
        unmatched += not known
    never = 0
    for pieces in _runs(list(live.values())):
        last = pieces[-1]
        whole = last._replace(start=pieces[0].start)
        found.append((pieces[0].line, _step(pieces[0], whole, number + never, freed=False)))
        never += 1
    found.sort(key=lambda pair: pair[0])
    steps = tuple(step for _, step in found)
    return IovaSteps(log.cpus, steps, number + never, never, unmatched, overlapping)


def _step(at: _Piece, span: _Piece, number: int, *, freed: bool) -> IovaStep:
    page, end = span.start >> PAGE_LG2, -(-span.end >> PAGE_LG2)
    return IovaStep(at.time_ns, at.cpu, number, page, max(end - page, 1), freed)


def _pieces_of(live: dict[int, _Piece], freed: _Piece) -> list[_Piece]:
    """Take the pieces of a freed range out of those that are live; none unless they fill it."""
    pieces: list[_Piece] = []
    start = freed.start
    while start < freed.end and start in live:
        pieces.append(live[start])
        start = live[start].end
    if start != freed.end:
        return []
    for piece in pieces:
        del live[piece.start]
    return pieces


def _runs(pieces: list[_Piece]) -> list[list[_Piece]]:
    """Put pieces that one process mapped at neighbouring addresses, one after the other, together."""
    runs: list[list[_Piece]] = []
    for piece in sorted(pieces):
        last = runs[-1][-1] if runs else None
        if last is not None and (last.pid, last.cpu, last.end) == (
            piece.pid,
            piece.cpu,
            piece.start,
        ):
            runs[-1].append(piece)
        else:
            runs.append([piece])
    return runs


__all__ = ["UNKNOWN", "IovaStep", "IovaSteps", "join_iova"]
