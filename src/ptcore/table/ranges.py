"""What can be read out of a listing: ranges as people look at them, and how addresses are used."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ptcore.formats.access import LETTERS, USER_KIND, need
from ptcore.formats.schema import RIGHT_ROLES, Format
from ptcore.table.listing import Listing, listing
from ptcore.table.rows import RowKind
from ptcore.units import ALL_ONES, Span

Rows = npt.NDArray[Any]

RANGE_DTYPE = np.dtype(
    [
        ("first", "<u8"),
        ("last", "<u8"),
        ("pa", "<u8"),
        ("page_sizes", "<u8"),
        ("repeat_of", "<u8"),
        ("rows", "<u8"),
        ("rights", "u1"),
        ("memory_type", "u1"),
        ("pkey", "u1"),
        ("flags", "u1"),
        ("kind", "u1"),
        ("level", "u1"),
    ]
)
"""As ROW_DTYPE, but for `page_sizes`: all sizes of pages in the range, or-ed (a repeat's period), `rows`:
how many rows of a listing the range is, `level`: the highest one, and `pa`: all-ones where the range has no
single run of physical addresses."""

_SAME = ("rights", "memory_type", "pkey", "flags")


def merged(rows: Rows, over: Literal["sizes", "addresses"] = "sizes") -> Listing:
    """Return the leaves of a listing that adjoin as one range: rows of RANGE_DTYPE, ascending.

    `rows` is what `mappings` returns. Neighbours join when their rights, memory types, keys and flags are
    equal, whatever their page sizes; with "sizes" their physical addresses must follow each other too, with
    "addresses" they need not. Software bits are not looked at. Other rows stay as they are. Cost: O(rows).
    """
    ranges = np.zeros(len(rows), dtype=RANGE_DTYPE)
    for name in ("first", "last", "pa", "repeat_of", "kind", "level", *_SAME):
        ranges[name] = rows[name]
    ranges["page_sizes"] = rows["page_size"]
    ranges["rows"] = 1
    if not len(rows):
        return listing(ranges)
    before, after = ranges[:-1], ranges[1:]
    goes_on = (before["kind"] == RowKind.LEAF) & (after["kind"] == RowKind.LEAF)
    goes_on &= (before["last"] != ALL_ONES) & (before["last"] + np.uint64(1) == after["first"])
    for name in _SAME:
        goes_on &= before[name] == after[name]
    in_line = before["pa"] + (after["first"] - before["first"]) == after["pa"]
    if over == "sizes":
        goes_on &= in_line
    begins = np.flatnonzero(np.append(True, ~goes_on))
    found: Rows = ranges[begins]
    ends = np.append(begins[1:], len(rows))
    found["last"] = ranges["last"][ends - 1]
    found["page_sizes"] = np.bitwise_or.reduceat(ranges["page_sizes"], begins)
    found["level"] = np.maximum.reduceat(ranges["level"], begins)
    found["rows"] = ends - begins
    jumps = np.append(False, goes_on & ~in_line)
    found["pa"][np.logical_or.reduceat(jumps, begins)] = ALL_ONES
    return listing(found)


def may(fmt: Format, rows: Rows, letters: str, user: bool) -> npt.NDArray[np.bool_]:
    """Return which rows of a listing (or ranges) a mode may access in all the ways of `letters` (r, w, x)."""
    kind = sum(1 << LETTERS.index(letter) for letter in set(letters)) | USER_KIND * user
    allowed = need(fmt, kind).allowed
    every = np.array([allowed >> n & 1 for n in range(1 << len(RIGHT_ROLES))], dtype=bool)
    found: npt.NDArray[np.bool_] = every[rows["rights"]]
    return found


@dataclass(frozen=True, slots=True)
class Usage:
    """How the addresses of a listing are used. Sizes in bytes; what repeats is counted where it is listed.

    `by_page_size`: bytes mapped by pages of each size. `holes`: gaps between mapped addresses (not what
    lies before the first and behind the last), `hole_bytes` and `largest_hole` their sizes. `physical_bytes`:
    physical addresses that are mapped; `aliased_bytes`: those of them at more than one address.
    `repeats`: rows that stand for subtrees listed before.
    """

    by_page_size: dict[int, int]
    holes: int
    hole_bytes: int
    largest_hole: int
    physical_bytes: int
    aliased_bytes: int
    repeats: int

    @property
    def mapped_bytes(self) -> int:
        """Bytes mapped, each subtree counted once."""
        return sum(self.by_page_size.values())

    def share_of_pages_above(self, size: int) -> float:
        """Return the share of the mapped bytes that larger pages than `size` map; 0 where nothing is."""
        large = sum(n for page, n in self.by_page_size.items() if page > size)
        return large / self.mapped_bytes if self.mapped_bytes else 0.0


def usage(rows: Rows, spans: tuple[Span, ...] = (Span(0, ALL_ONES),)) -> Usage:
    """Return how the addresses of a listing (`mappings`) are used; holes are those inside one of `spans`
    (`legal_spans()`). Cost: O(rows log rows)."""
    leaves = rows[rows["kind"] == RowKind.LEAF]
    sizes = leaves["last"] - leaves["first"] + np.uint64(1)
    by_size = {
        int(size): int(sizes[leaves["page_size"] == size].sum())
        for size in np.unique(leaves["page_size"])
    }
    mapped = rows[(rows["kind"] == RowKind.LEAF) | (rows["kind"] == RowKind.REPEAT)]
    gaps = mapped["first"][1:] - mapped["last"][:-1] - np.uint64(1)
    edges = np.searchsorted(mapped["first"], np.array([s.start for s in spans], dtype=np.uint64))
    gaps = np.delete(gaps, [n - 1 for n in edges.tolist() if 0 < n < len(mapped)])
    gaps = gaps[gaps > 0]
    physical, aliased = _covered(leaves["pa"], leaves["pa"] + (sizes - np.uint64(1)))
    return Usage(
        by_page_size=by_size,
        holes=len(gaps),
        hole_bytes=sum(gaps.tolist()),
        largest_hole=int(gaps.max(initial=0)),
        physical_bytes=physical,
        aliased_bytes=aliased,
        repeats=int(np.count_nonzero(rows["kind"] == RowKind.REPEAT)),
    )


def _covered(starts: Rows, lasts: Rows) -> tuple[int, int]:
    """Return how many addresses the spans cover, and how many they cover more than once."""
    if not len(starts):
        return 0, 0
    points = np.concatenate([starts, lasts + np.uint64(1)])
    steps = np.concatenate([np.ones(len(starts), np.int64), np.full(len(starts), -1, np.int64)])
    order = np.argsort(points, kind="stable")
    depth = np.cumsum(steps[order])[:-1]
    lengths = np.diff(points[order])
    return int(lengths[depth > 0].sum()), int(lengths[depth > 1].sum())


# -- back from physical addresses ----------------------------------------------------------------

FOUND_DTYPE = np.dtype(
    [
        ("pa", "<u8"),
        ("first", "<u8"),
        ("last", "<u8"),
        ("page_size", "<u8"),
        ("repeat_of", "<u8"),
        ("rights", "u1"),
        ("memory_type", "u1"),
        ("pkey", "u1"),
        ("flags", "u1"),
        ("kind", "u1"),
        ("level", "u1"),
    ]
)
"""Where a physical address is mapped. LEAF: at `first` (= `last`), by a page of `page_size`. REPEAT: from
`first` to `last` wherever [repeat_of, repeat_of + page_size) has it, over and over with that period."""


def reverse_many(rows: Rows, pas: npt.ArrayLike) -> Listing:
    """Return every address that translates to one of `pas`: rows of FOUND_DTYPE, by pa, then by address.

    `rows` is what `mappings` returns, of any number of tables; `pas`: uint64[n] (bytes). Nothing is left out:
    subtrees that hang in many places are REPEAT rows. Cost: O((rows + n) log rows) + O(results).
    """
    wanted = np.unique(np.asarray(pas, dtype=np.uint64))
    leaves = rows[rows["kind"] == RowKind.LEAF]
    which, row = stabbed(leaves["pa"], leaves["last"] - leaves["first"], wanted)
    found = np.zeros(len(which), dtype=FOUND_DTYPE)
    hit = leaves[row]
    found["pa"] = wanted[which]
    found["first"] = found["last"] = hit["first"] + (found["pa"] - hit["pa"])
    found["repeat_of"] = ALL_ONES
    for name in ("page_size", "kind", "level", *_SAME):
        found[name] = hit[name]
    parts = [found, *_repeated(rows[rows["kind"] == RowKind.REPEAT], found)]
    everything = np.concatenate(parts)
    ordered: Rows = everything[np.lexsort((everything["first"], everything["pa"]))]
    return listing(ordered)


def stabbed(starts: Rows, extents: Rows, points: Rows) -> tuple[Rows, Rows]:
    """Return (point, span) numbers of all points inside spans [start, start + extent].

    Spans are taken by length, doubling: of those that are not longer than L only the ones that begin within
    L before a point can hold it, so what is looked at is a small multiple of what is found.
    """
    found = [(np.empty(0, np.int64), np.empty(0, np.int64))]
    classes = np.frexp(extents.astype(np.float64) + 1)[1]
    for length in np.unique(classes).tolist():
        chosen = np.flatnonzero(classes == length)
        chosen = chosen[np.argsort(starts[chosen], kind="stable")]
        reach = np.uint64(min(1 << length, ALL_ONES))
        earliest = np.where(points > reach, points - reach, np.uint64(0))
        low = np.searchsorted(starts[chosen], earliest)
        counts = np.searchsorted(starts[chosen], points, side="right") - low
        point = np.repeat(np.arange(len(points)), counts)
        offset = np.arange(len(point)) - np.repeat(np.cumsum(counts) - counts, counts)
        span = chosen[np.repeat(low, counts) + offset]
        inside = points[point] - starts[span] <= extents[span]
        found.append((point[inside], span[inside]))
    return np.concatenate([p for p, _ in found]), np.concatenate([s for _, s in found])


def _repeated(repeats: Rows, found: Rows) -> list[Rows]:
    """Return the repeats of places found, and of those repeats, until there are no new ones."""
    parts = []
    known: set[tuple[int, int]] = set()
    while len(found) and len(repeats):
        new = []
        for n, row in enumerate(repeats):
            source = int(row["repeat_of"])
            last = np.uint64(source + int(row["page_size"]) - 1)
            inside = (found["first"] <= last) & (found["last"] >= np.uint64(source))
            for pa in np.unique(found["pa"][inside]).tolist():
                if (n, pa) not in known:
                    known.add((n, pa))
                    new.append((n, pa))
        found = np.zeros(len(new), dtype=FOUND_DTYPE)
        for name in ("first", "last", "page_size", "repeat_of", "kind", "level", *_SAME):
            found[name] = repeats[name][[n for n, _ in new]]
        found["pa"] = [pa for _, pa in new]
        if len(found):
            parts.append(found)
    return parts
