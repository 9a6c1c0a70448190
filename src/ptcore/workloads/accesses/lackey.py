"""Read and write what valgrind's lackey prints with --trace-mem=yes.

A line is ``I  ADDRESS,SIZE`` (fetch), `` L ADDRESS,SIZE`` (load), `` S`` (store) or `` M`` (modify: one
load and one store of the same bytes); addresses are hexadecimal with at least 8 digits, sizes
decimal. Lines ``==PID== ...`` are valgrind's remarks. No CPU, no time: one stream of addresses.
Source: valgrind lackey/lk_main.c, trace_instr() and its neighbours; run with valgrind 3.19.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ptcore.workloads.accesses.chunks import CHUNK, Accesses, Damage
from ptcore.workloads.accesses.lackey_lines import LackeyLines, format_lines
from ptcore.workloads.accesses.lines import LineReader

LINE = re.compile(rb"^(?:I  | [LSM] )[0-9a-f]{8,16},\d{1,10}$", re.MULTILINE)
_LONGEST = 32


def read(path: Path, damage: Damage) -> Iterator[Accesses]:
    """Yield the accesses of a file, plain or compressed. A line that is none of these is damaged."""
    yield from LineReader(path, LackeyLines(), damage, "lackey", timed=False)


def write(chunks: Iterable[Accesses], file: Any) -> None:
    """Write one line per access; CPUs and times are not written, lackey has none."""
    text = np.empty(CHUNK * _LONGEST, np.uint8)
    for chunk in chunks:
        for first in range(0, len(chunk), CHUNK):
            part = chunk[first : first + CHUNK]
            file.write(text[: format_lines(part.va, part.kind, part.size, text)])
