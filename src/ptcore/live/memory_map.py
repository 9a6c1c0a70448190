"""Which physical addresses of a QEMU machine are memory: the monitor's `info mtree -f`, read.

QEMU docs/devel/memory.rst ("Example memory map"), softmmu/memory.c (mtree_print_flatview): one flat view for
each set of address spaces, a line per range with its kind in brackets.
"""

from __future__ import annotations

import re

from ptcore.errors import ImageError
from ptcore.units import Span

_VIEW = re.compile(r"^FlatView #\d+\n(.*?)(?=^FlatView #|\Z)", re.MULTILINE | re.DOTALL)
_RANGE = re.compile(
    r"^\s*([0-9a-f]+)-([0-9a-f]+) \(prio -?\d+, (ram|rom|nv-ram|romd|ramd)\)", re.MULTILINE
)


def memory_spans(text: str, page_bytes: int) -> tuple[Span, ...]:
    """Return the RAM and ROM that the first CPU sees, whole pages, neighbours as one, in order.

    Raises ImageError if `text` has no such view or no memory in it.
    """
    views = [match[1] for match in _VIEW.finditer(text) if 'AS "cpu-memory-0"' in match[1]]
    if not views:
        raise ImageError("QEMU's memory map (info mtree -f) shows no view of CPU 0")
    found: list[Span] = []
    for first, last, _ in _RANGE.findall(views[0]):
        start = -(-int(first, 16) // page_bytes) * page_bytes
        end = (int(last, 16) + 1) // page_bytes * page_bytes
        if start >= end:
            continue
        if found and found[-1].last + 1 == start:
            start = found.pop().start
        found.append(Span(start, end - 1))
    if not found:
        raise ImageError("QEMU's memory map (info mtree -f) shows no memory")
    return tuple(found)
