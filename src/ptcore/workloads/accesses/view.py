"""Read what drmemtrace's view tool prints: one line per record of a trace.

``RECORD INSTRUCTION: THREAD ifetch|read|write SIZE byte(s) @ 0xADDRESS ...``; markers say the time (in
microseconds since 1601) and the CPU for the lines that follow; prefetches and cache flushes are no
accesses here. The tool's own headings are passed over; other text, such as the program's output, is
damage: the tool prints its records to standard error.
Source: DynamoRIO clients/drcachesim/tools/view.cpp.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from ptcore.workloads.accesses.chunks import Accesses, Damage
from ptcore.workloads.accesses.lines import LineReader
from ptcore.workloads.accesses.view_lines import ViewLines

LINE = re.compile(
    rb"^ *\d+ +\d+: +\S+ (?:<marker: |(?:ifetch|read|write) +\d+ byte\(s\) @ 0x)", re.MULTILINE
)


def read(path: Path, damage: Damage) -> Iterator[Accesses]:
    """Yield the accesses of a file, plain or compressed, with times."""
    yield from LineReader(path, ViewLines(), damage, "drmemtrace's view tool", timed=True)
