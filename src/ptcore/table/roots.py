"""`find_roots`: where the tables of a memory begin, when nothing says so."""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ptcore import formats
from ptcore.formats.schema import AddressRule, Format
from ptcore.memory import PhysicalMemory
from ptcore.table.listing import Listing, listing
from ptcore.table.page_table import PageTable
from ptcore.table.plausible import Judge, candidates, places_of
from ptcore.table.ranges import may, reverse_many
from ptcore.table.rows import RowKind
from ptcore.units import Span, format_size

Rows = npt.NDArray[Any]
Progress = Callable[[str, int, int], None]

WINDOW = 1 << 26
SHOWN = 48
LANDMARKS = (b"Linux version ",)
"""Texts that kernels keep in pages which every address space of theirs maps (Linux init/version.c,
linux_banner)."""

ROOT_DTYPE = np.dtype(
    [
        ("root", "<u8"),
        ("score", "<f8"),
        ("tables", "<u8"),
        ("mapped_bytes", "<u8"),
        ("user_bytes", "<u8"),
        ("text_bytes", "<u8"),
        ("alike", "<u8"),
        ("landmarks", "<u8"),
        ("below", "<u8"),
    ]
)
"""`score`: the share of items that are as those of tables should be, multiplied over the levels;
`tables`: those reached, by every way; sizes in bytes, of what is listed: mapped, for user mode, executable
but not writable by the kernel; `alike`: other candidates with the same upper half; `landmarks`: texts that
it maps; `below`: a candidate's table that points here as to a lower table, else 0."""


@dataclass(frozen=True, slots=True)
class Root:
    """A candidate: its address, its score (0 to 1), and the evidence in sentences."""

    root: int
    score: float
    evidence: tuple[str, ...]


@dataclass(frozen=True)
class Roots:
    """What `find_roots` found, best first: `rows` (of ROOT_DTYPE), and each in words by iterating.

    `looked_at`: places where a root could lie; `implausible`: those that looked like one at first, but whose
    tables did not (a score below `least`, or nothing mapped).
    """

    rows: Listing
    looked_at: int
    implausible: int
    evidence: tuple[tuple[str, ...], ...] = field(repr=False)

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Root]:
        for row, words in zip(self.rows, self.evidence, strict=True):
            yield Root(int(row["root"]), float(row["score"]), words)

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        """Return the rows as a capsule "arrow_array_stream"; `requested_schema` is not followed."""
        return self.rows.__arrow_c_stream__(requested_schema)


def find_roots(
    memory: PhysicalMemory,
    format: str | Format,
    *,
    physical_bits: int | None = None,
    least: float = 0.5,
    landmarks: Sequence[bytes] = LANDMARKS,
    progress: Progress | None = None,
) -> Roots:
    """Return the places in `memory` that could be root tables of `format`, ranked, with the evidence.

    Every place that a root could have is looked at: its items, then the tables that they point to, down to
    the pages. Candidates that score less than `least`, or map nothing, are counted but not returned. A
    candidate that another one's table points to is ranked behind the others: it is likely that one's lower
    table. `progress` is called with (what, done, total bytes). Raises FormatError for an unknown format.
    Cost: one pass over the memory without the holes of its file, another one for the texts if there are
    candidates, then O(tables) of what looks like tables.
    """
    search = _Search(memory, format, physical_bits)
    looked_at, found = search.scan(progress)
    if search.carrier is None or not len(found):
        return Roots(listing(np.empty(0, dtype=ROOT_DTYPE)), looked_at, 0, ())
    texts = search.landmarks(landmarks, progress)
    judged = [search.judge(root) for root in found.tolist()]
    kept = [candidate for candidate in judged if candidate.score >= least]
    rows, words = search.describe(kept, texts)
    order = np.lexsort((rows["root"], -rows["tables"].astype(np.int64), -rows["score"].round(3)))
    order = order[np.argsort(rows["below"][order] != 0, kind="stable")]
    return Roots(
        listing(rows[order]), looked_at, len(found) - len(rows), tuple(words[n] for n in order)
    )


class _Judged(NamedTuple):
    """What the tables look like: `shares` of good items per level; not `maps`: nothing is mapped."""

    root: int
    score: float
    shares: list[float]
    tables: int
    maps: bool


class _Search:
    """One search: the memory, the format, and what was learned of pages on the way."""

    def __init__(
        self, memory: PhysicalMemory, format: str | Format, physical_bits: int | None
    ) -> None:
        self.memory = memory
        self.format = formats.get(format) if isinstance(format, str) else format
        self.physical_bits = physical_bits
        self.size = self.format.table_bytes(self.format.top_level)
        self.step = self.format.root_align or self.size
        first = self._first_place()
        self.carrier = None if first is None else self._table(first)
        self.judging = None if self.carrier is None else Judge(self.carrier)

    def _first_place(self) -> int | None:
        for segment in self.memory.segments:
            first = -(-segment.start // self.step) * self.step
            if first + self.size - 1 <= segment.last:
                return first
        return None

    def _table(self, root: int) -> PageTable:
        return PageTable(self.format, self.memory, root, physical_bits=self.physical_bits)

    def scan(self, progress: Progress | None) -> tuple[int, npt.NDArray[np.uint64]]:
        """Return how many places there are, and those whose bytes could be a root."""
        found = [np.empty(0, dtype=np.uint64)]
        looked_at = 0
        if self.carrier is None:
            return looked_at, found[0]
        for segment, stored, done in self._parts(zeros=not self.format.empty(0)):
            first = -(-segment.start // self.step) * self.step
            looked_at += max(0, (segment.last + 1 - first - self.size) // self.step + 1)
            for span in stored:
                # A root may reach into a span from the hole before it, or out of a window's end.
                begin = max(first, -(-(span.start + 1 - self.size) // self.step) * self.step)
                for start in range(begin, span.last + 1, WINDOW):
                    last = min(start + WINDOW - 1, span.last)
                    reach = min(last + self.size - 1, segment.last)
                    found.append(candidates(self.carrier, start, reach, self.step))
                    if progress is not None:
                        progress("pages", done + last + 1 - segment.start, self.memory.size)
            if progress is not None:
                progress("pages", done + segment.size, self.memory.size)
        return looked_at, np.unique(np.concatenate(found))

    def _parts(self, zeros: bool) -> Iterator[tuple[Span, list[Span], int]]:
        """Yield each segment, its stored spans (or all of it, if `zeros` matter), and the bytes before it."""
        segments = self.memory.segments
        stored = deque(segments if zeros else self.memory.stored_spans())
        done = 0
        for segment in segments:
            own = []
            while stored and stored[0].start <= segment.last:
                own.append(stored.popleft())
            yield segment, own, done
            done += segment.size

    def judge(self, root: int) -> _Judged:
        """Return what a candidate's tables look like."""
        assert self.judging is not None
        good, bad, tables, maps = self.judging.verdict(root)
        shares = [g / (g + b) if g + b else 1.0 for g, b in zip(good, bad, strict=True)]
        return _Judged(root, math.prod(shares), shares, int(sum(tables)), maps)

    def landmarks(self, texts: Sequence[bytes], progress: Progress | None) -> dict[int, str]:
        """Return where the texts stand in the memory: address -> the text and what follows it."""
        found: dict[int, str] = {}
        reach = max((len(text) for text in texts), default=1) - 1
        zeros = not all(map(any, texts))
        for segment, stored, done in self._parts(zeros) if texts else ():
            for span in stored:
                begin = max(segment.start, span.start - reach)
                for start in range(begin, span.last + 1, WINDOW):
                    last = min(min(start + WINDOW - 1, span.last) + reach, segment.last)
                    for text in texts:
                        for at in places_of(self.memory, text, start, last):
                            found[at] = self._shown(at, len(text), segment.last)
                    if progress is not None:
                        progress("landmarks", done + last + 1 - segment.start, self.memory.size)
            if progress is not None:
                progress("landmarks", done + segment.size, self.memory.size)
        return found

    def _shown(self, at: int, length: int, last: int) -> str:
        """Return a landmark and what follows it, if that exists, as it is shown."""
        end = min(at + SHOWN, last + 1)
        if end - 1 not in self.memory:
            end = at + length
        text = self.memory.read(at, end - at).split(b"\0")[0]
        return text.decode("ascii", "replace").split("\n")[0]

    # -- evidence --------------------------------------------------------------------------------

    def describe(
        self, kept: list[_Judged], texts: dict[int, str]
    ) -> tuple[Rows, list[tuple[str, ...]]]:
        """Return rows of ROOT_DTYPE and the sentences of the candidates that map something."""
        halves = {candidate.root: self._upper_half(candidate.root) for candidate in kept}
        groups: dict[bytes, _Kernel] = {}
        alike = Counter(halves.values())
        rows, words = [], []
        for root, score, shares, tables, maps in kept:
            if not maps:
                continue
            half = halves[root] or self.memory.read(root, self.size)
            if half not in groups:
                groups[half] = _kernel_of(self._table(root), texts)
            kernel = groups[half]
            own = self._lower_half(root) if halves[root] else kernel.rows
            mapped = kernel.upper_bytes + _bytes(own) if halves[root] else kernel.bytes
            if not mapped:
                continue
            user = _bytes(own[may(self.format, own, "r", True)])
            others = alike[halves[root]] - 1 if halves[root] else 0
            below = self._parent(root, halves.keys())
            facts = (root, score, tables, mapped, user, kernel.text_bytes, others)
            rows.append((*facts, len(kernel.landmarks), below))
            words.append(self._sentences(facts, shares, kernel, below))
        return np.array(rows, dtype=ROOT_DTYPE), words

    def _sentences(
        self, facts: tuple[Any, ...], shares: list[float], kernel: _Kernel, below: int
    ) -> tuple[str, ...]:
        root, _, tables, mapped, user, text, others = facts
        names = [level.name for level in self.format.levels]
        per_level = ", ".join(
            f"{name} {share:.4g}%"
            for name, share in reversed(list(zip(names, (100 * s for s in shares), strict=True)))
        )
        said = [
            f"items that are lawful and point into the memory: {per_level}",
            f"reaches {tables:,} tables and maps {_size(mapped)}",
        ]
        if others:
            said.append(f"its upper half is that of {others:,} other candidates")
        assert self.judging is not None
        index = self.judging.self_map(root)
        if index is not None:
            said.append(f"item {index} points back to the root (a self-map)")
        said += [f"maps the text {text!r} at {va:#x}" for va, text in kernel.landmarks]
        if text:
            said.append(f"maps {_size(text)} that the kernel executes and cannot write")
        said.append(f"maps {_size(user)} for user mode" if user else "maps nothing for user mode")
        if below:
            said.append(f"the table at {below:#x} points to it as to a lower table")
        return tuple(said)

    def _parent(self, root: int, roots: Set[int]) -> int:
        assert self.judging is not None
        parent = self.judging.parent(root)
        if parent is None or parent[1] == self.format.top_level:
            return 0
        return parent[0] if parent[0] in roots or self._leads_up(parent[0], roots) else 0

    def _leads_up(self, table: int, roots: Set[int]) -> bool:
        """Whether a candidate is above a table, however many levels."""
        assert self.judging is not None
        seen: set[int] = set()
        while table not in roots:
            above = self.judging.parent(table)
            if above is None or table in seen:
                return False
            seen.add(table)
            table = above[0]
        return True

    def _upper_half(self, root: int) -> bytes:
        """Return the bytes of the upper half of a root; nothing where it is empty or there are no halves."""
        if self.format.address_rule is not AddressRule.SIGN_EXTENDED:
            return b""
        half = self.memory.read(root + self.size // 2, self.size // 2)
        return half if any(half) else b""

    def _lower_half(self, root: int) -> Rows:
        table = self._table(root)
        rows: Rows = table.mappings(0, table.legal_spans()[0].last)
        leaves: Rows = rows[rows["kind"] == RowKind.LEAF]
        return leaves


@dataclass(frozen=True)
class _Kernel:
    """What the candidates of one upper half have in common."""

    rows: Rows
    bytes: int
    upper_bytes: int
    text_bytes: int
    landmarks: list[tuple[int, str]]


def _kernel_of(table: PageTable, texts: dict[int, str]) -> _Kernel:
    listed = table.mappings()
    rows = listed[listed["kind"] == RowKind.LEAF]
    upper = rows[rows["first"] >= np.uint64(table.legal_spans()[-1].start)]
    fmt = table.format
    runs = may(fmt, rows, "x", False) & ~may(fmt, rows, "w", False) & ~may(fmt, rows, "x", True)
    found = reverse_many(rows, list(texts)) if texts else rows[:0]
    marks = [(int(row["first"]), texts[int(row["pa"])]) for row in found]
    return _Kernel(rows, _bytes(rows), _bytes(upper), _bytes(rows[runs]), marks)


def _bytes(rows: Rows) -> int:
    return int((rows["last"] - rows["first"] + np.uint64(1)).sum())


def _size(size: int) -> str:
    """Return a size as people read it."""
    for shift, letter in ((40, "T"), (30, "G"), (20, "M"), (10, "K")):
        if size >> shift:
            return f"{size / (1 << shift):.4g}{letter}"
    return format_size(size)
