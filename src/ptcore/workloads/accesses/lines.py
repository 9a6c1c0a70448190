"""Read a text trace in blocks: compiled code scans the lines, this says where the bad ones are."""

from __future__ import annotations

import os
from collections.abc import Iterator
from enum import IntEnum
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ptcore.workloads.accesses.chunks import CHUNK, Accesses, Damage, empty_chunk
from ptcore.workloads.accesses.source import Source

TEXT_BYTES = 1 << 18
"""Bytes of text held at a time: within a second-level cache. No line may be longer."""
SLACK = 32
"""Bytes after the text that a scanner may read, to look at a line's end without a bounds check."""


class Scanner(Protocol):
    """Compiled code that knows the lines of one format, and what the lines above said."""

    def scan(
        self, text: NDArray[np.uint8], at: int, end: int, chunk: Accesses, made: int
    ) -> tuple[int, int, int, int]:
        """Scan whole lines of text[at:end] into a chunk, from row `made` on.

        Returns where the next line begins, the rows made, the lines passed, and a `Stop`.
        """
        ...


class Stop(IntEnum):
    """Why a scanner stopped."""

    NEEDS_TEXT = 0
    CHUNK_FULL = 1
    BAD_LINE = 2


class LineReader:
    """The lines of one file, scanned block by block; iterate it once."""

    def __init__(
        self, path: str | os.PathLike[str], scanner: Scanner, damage: Damage, what: str, timed: bool
    ) -> None:
        self._path = Path(path)
        self._scanner = scanner
        self._damage = damage
        self._what = what  # what a line that cannot be read is not
        self._timed = timed
        self._text = np.zeros(TEXT_BYTES + SLACK, np.uint8)
        self._line = 0  # lines passed

    def __iter__(self) -> Iterator[Accesses]:
        held = 0
        chunk, made = empty_chunk(CHUNK, self._timed), 0
        with Source(self._path, self._damage) as source:
            ended = False
            while not ended:
                got = source.fill(self._text[held:TEXT_BYTES])
                ended = got < TEXT_BYTES - held
                at, end = 0, held + got
                stop = Stop.CHUNK_FULL
                while stop != Stop.NEEDS_TEXT:
                    at, made, lines, stop = self._scanned(at, end, chunk, made)
                    self._line += lines
                    if stop == Stop.BAD_LINE:
                        at = self._bad(at, end)
                    elif stop == Stop.CHUNK_FULL:
                        yield chunk[:made]
                        chunk, made = empty_chunk(CHUNK, self._timed), 0
                held = self._keep(source, at, end)
            if held and not source.broken:
                self._line += 1
                reason = "the trace ends within this line: it has no newline"
                self._damage.found(reason, line=self._line)
        if made:
            yield chunk[:made]

    def _scanned(self, at: int, end: int, chunk: Accesses, made: int) -> tuple[int, int, int, Stop]:
        at, made, lines, stop = self._scanner.scan(self._text, at, end, chunk, made)
        return at, made, lines, Stop(stop)

    def _bad(self, at: int, end: int) -> int:
        """Report the line that begins at `at`; return where the next one begins."""
        self._line += 1
        after = at + int(np.argmax(self._text[at:end] == ord("\n"))) + 1
        quoted = self._text[at : min(after - 1, at + 80)].tobytes().decode("utf-8", "replace")
        self._damage.found(f"this is no line of {self._what}: {quoted!r}", line=self._line)
        return after

    def _keep(self, source: Source, at: int, end: int) -> int:
        """Move the begun line to the front and return its length; drop one that fills everything."""
        held = end - at
        if held < TEXT_BYTES:
            self._text[:held] = self._text[at:end].copy()
            return held
        self._line += 1
        self._damage.found(f"this line is longer than {TEXT_BYTES} bytes", line=self._line)
        while True:
            got = source.fill(self._text[:TEXT_BYTES])
            ends = np.flatnonzero(self._text[:got] == ord("\n"))
            if len(ends) or not got:
                break
        after = int(ends[0]) + 1 if len(ends) else got
        self._text[: got - after] = self._text[after:got].copy()
        return got - after
