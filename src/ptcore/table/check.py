"""`check`: what a kernel developer would not want to find in page tables."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from ptcore.formats.access import decided_rights, permits
from ptcore.formats.encode import rights_names
from ptcore.formats.schema import RIGHT_ROLES, AddressRule, Format, Role
from ptcore.table.address_space import AddressSpace
from ptcore.table.inspection import Inspection
from ptcore.table.listing import Columns, Listing, listing
from ptcore.table.nested import Nested
from ptcore.table.page_table import PageTable
from ptcore.table.path import Step
from ptcore.table.ranges import RANGE_DTYPE, may, merged, stabbed
from ptcore.table.rows import FINDING_DTYPE, RowKind, Rule

Rows = npt.NDArray[Any]
_EXECUTE = (Role.EXECUTE, Role.USER_EXECUTE)
_MODES = ((False, "the kernel"), (True, "user mode"))


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding in words: the rule, the addresses concerned, the item behind it, and the sentence."""

    rule: Rule
    first: int
    last: int
    level: int
    level_name: str
    entry: int
    entry_address: int
    items: int
    other: int
    text: str


class Findings:
    """What `check` found: `rows` (of FINDING_DTYPE, ascending by address within a rule), and each in words.

    Iterating gives `Finding`s. Exports the Arrow C data interface. An empty one is false.
    """

    def __init__(self, parts: list[tuple[PageTable, Rows]]) -> None:
        self._parts = parts

    @cached_property
    def rows(self) -> Listing:
        """All findings as one array."""
        found = [rows for _, rows in self._parts]
        return listing(np.concatenate(found) if found else np.empty(0, dtype=FINDING_DTYPE))

    def without(self, *rules: Rule) -> Findings:
        """Return the findings but those of some rules."""
        kept = [
            (t, rows[~np.isin(rows["rule"], [int(r) for r in rules])]) for t, rows in self._parts
        ]
        return Findings(kept)

    def __len__(self) -> int:
        return sum(len(rows) for _, rows in self._parts)

    def __iter__(self) -> Iterator[Finding]:
        for table, rows in self._parts:
            for row in rows:
                yield _in_words(table, row)

    @property
    def columns(self) -> Columns:
        """The rows as columns only."""
        return Columns(self.rows)

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        """Return the rows as a capsule "arrow_array_stream"; `requested_schema` is not followed."""
        return self.rows.__arrow_c_stream__(requested_schema)


def check(space: PageTable | Nested | AddressSpace) -> Findings:
    """Return what is wrong, or unwise, in the tables of `space`; see Rule for what is looked for.

    Both stages of a nested translation are looked at, each by itself. Pages that adjoin and break the same
    rule are one finding; nothing is left out. Raises nothing. Cost: O(tables) + O(rows log rows) of the
    listing.
    """
    tables = _single_stages(space)
    parts = []
    shared = [table.mappings() for table in tables]
    for table, rows in zip(tables, shared, strict=True):
        found, all_tables = Inspection(table).run()
        leaves = rows[rows["kind"] == RowKind.LEAF]
        pages = [
            _writable_executable(table, leaves),
            _user_in_kernel_half(table),
            _user_writable_tables(table, leaves, all_tables),
        ]
        parts.append((table, np.concatenate([found, *pages])))
    for group in _groups(space):
        parts += _aliases([(table, shared[tables.index(table)]) for table in group])
    return Findings([(table, rows) for table, rows in parts if len(rows)])


def _groups(space: PageTable | Nested | AddressSpace) -> list[list[PageTable]]:
    """Return the tables whose output addresses are the same memory: all first stages, each second one."""
    if isinstance(space, PageTable):
        return [[space]]
    if isinstance(space, Nested):
        return [[space.stage1], [space.stage2]]
    plain = [table for table in space.tables if isinstance(table, PageTable)]
    nested = [table for table in space.tables if isinstance(table, Nested)]
    seconds = list({id(table.stage2): table.stage2 for table in nested}.values())
    first = [table.stage1 for table in nested]
    return [group for group in (plain, first, *([s] for s in seconds)) if group]


def _single_stages(space: PageTable | Nested | AddressSpace) -> list[PageTable]:
    return [table for group in _groups(space) for table in group]


# -- what pages may not be -----------------------------------------------------------------------


def _findings(table: PageTable, rule: Rule, ranges: Rows, other: Any = 0) -> Rows:
    """Return findings about ranges, each with the item that maps its first address."""
    found = np.zeros(len(ranges), dtype=FINDING_DTYPE)
    found["first"], found["last"], found["rule"] = ranges["first"], ranges["last"], rule
    found["other"] = other
    for row, span in zip(found, ranges, strict=True):
        step = _leaf(table, int(row["first"]))
        row["level"], row["entry_address"] = step.level, step.entry_address
        smallest = int(span["page_sizes"]) & -int(span["page_sizes"])
        row["items"] = -(-(int(row["last"]) - int(row["first"]) + 1) // smallest)
    return found


def _leaf(table: PageTable, va: int) -> Step:
    return table.walk(va).path[-1]


def _withholds_execution(fmt: Format) -> bool:
    """Whether pages of the format can be made not to be executed: else there is nothing to find."""
    return any(bool(decided_rights(fmt) >> RIGHT_ROLES.index(role) & 1) for role in _EXECUTE)


def _writable_executable(table: PageTable, leaves: Rows) -> Rows:
    if not _withholds_execution(table.format):
        return np.empty(0, dtype=FINDING_DTYPE)
    modes = [may(table.format, leaves, "wx", user) for user, _ in _MODES]
    both = leaves[modes[0] | modes[1]]
    return _findings(table, Rule.WRITABLE_EXECUTABLE, merged(both, "addresses"))


def _user_in_kernel_half(table: PageTable) -> Rows:
    rule = table.format.address_rule
    spans = table.legal_spans()
    upper = spans[1:] if rule is AddressRule.SIGN_EXTENDED else spans
    if rule is AddressRule.ZERO_EXTENDED or not upper:
        return np.empty(0, dtype=FINDING_DTYPE)
    # Listed by itself: what hangs in both halves would be a repeat here.
    rows = table.mappings(upper[0].start, upper[-1].last)
    leaves = rows[rows["kind"] == RowKind.LEAF]
    reached = np.zeros(len(leaves), dtype=bool)
    for letter in "rwx":
        reached |= may(table.format, leaves, letter, True)
    ranges = merged(leaves[reached], "addresses")
    return _findings(table, Rule.USER_IN_KERNEL_HALF, ranges)


def _user_writable_tables(table: PageTable, leaves: Rows, tables: Rows) -> Rows:
    chosen = leaves[may(table.format, leaves, "w", True)]
    addresses, owners = _pages_of(table.format, tables)
    which, row = stabbed(chosen["pa"], chosen["last"] - chosen["first"], addresses)
    granule = np.uint64((1 << table.format.granule_lg2) - 1)
    ranges = np.zeros(len(row), dtype=RANGE_DTYPE)
    start = chosen["first"][row] + (addresses[which] - chosen["pa"][row])
    ranges["first"], ranges["last"] = start & ~granule, start | granule
    ranges["page_sizes"] = granule + np.uint64(1)
    order = np.argsort(ranges["first"], kind="stable")
    return _findings(table, Rule.USER_WRITABLE_TABLE, ranges[order], owners[which][order])


def _pages_of(fmt: Format, tables: Rows) -> tuple[Rows, Rows]:
    """Return the address of each page that a table has bytes in, ascending, and the table's own.

    `tables` is (address, level) of each. Most tables are in one page; some roots are larger.
    """
    if not len(tables):
        return np.empty(0, np.uint64), np.empty(0, np.uint64)
    pages, owners = [], []
    for level in np.unique(tables[:, 1]).tolist():
        at = np.unique(tables[tables[:, 1] == level, 0])
        steps = np.arange(0, fmt.table_bytes(level), 1 << fmt.granule_lg2, dtype=np.uint64)
        pages.append((at[:, None] + steps).ravel())
        owners.append(np.repeat(at, len(steps)))
    found, first = np.unique(np.concatenate(pages), return_index=True)
    return found, np.concatenate(owners)[first]


# -- one frame at several addresses --------------------------------------------------------------


def _aliases(listed: list[tuple[PageTable, Rows]]) -> list[tuple[PageTable, Rows]]:
    leaves = [rows[rows["kind"] == RowKind.LEAF] for _, rows in listed]
    owner = np.concatenate([np.full(len(rows), n) for n, rows in enumerate(leaves)])
    rows = np.concatenate(leaves)
    pairs = [(Rule.MEMORY_TYPE_ALIAS, a, b) for a, b in _type_pairs(listed[0][0].format, rows)]
    if any(_withholds_execution(table.format) for table, _ in listed):
        pairs += [(Rule.WRITABLE_ALIAS, a, b) for a, b in _write_pairs(listed, leaves)]
    found = []
    for rule, a, b in pairs:
        place, other, starts, lasts = _overlaps(rows, a, b)
        for n, (table, _) in enumerate(listed):
            mine = owner[place] == n
            if mine.any():
                spans = np.zeros(int(mine.sum()), dtype=RANGE_DTYPE)
                row, mate = rows[place[mine]], rows[other[mine]]
                spans["first"] = row["first"] + (starts[mine] - row["pa"])
                spans["last"] = row["first"] + (lasts[mine] - row["pa"])
                spans["page_sizes"] = row["page_size"]
                others = mate["first"] + (starts[mine] - mate["pa"])
                found.append((table, _findings(table, rule, spans, others)))
    return found


def _type_pairs(fmt: Format, rows: Rows) -> list[tuple[Rows, Rows]]:
    """Return (rows of one memory type, rows of all earlier ones), so that each overlap is met once.

    Numbers that mean the same type are one type.
    """
    names = fmt.memory_types
    meant = np.array([names.index(names[n]) if n < len(names) else n for n in range(256)])
    kind = meant[rows["memory_type"]]
    return [(kind == t, kind < t) for t in np.unique(kind).tolist()[1:]]


def _write_pairs(
    listed: list[tuple[PageTable, Rows]], leaves: list[Rows]
) -> list[tuple[Rows, Rows]]:
    """Return (rows that are executed, rows that are written): the kernel's, and those of user mode."""
    can = {
        (letter, user): np.concatenate(
            [may(t.format, rows, letter, user) for (t, _), rows in zip(listed, leaves, strict=True)]
        )
        for letter in "wx"
        for user, _ in _MODES
    }
    kernel_executes = can["x", False] & ~can["w", False] & ~can["x", True]
    kernel_writes = can["w", False] & ~can["w", True] & ~can["x", False]
    executes = (can["x", False] | can["x", True]) & ~can["w", True]
    user_writes = can["w", True] & ~can["x", True]
    return [(kernel_executes, kernel_writes), (executes, user_writes)]


def _overlaps(rows: Rows, a: Rows, b: Rows) -> tuple[Rows, Rows, Rows, Rows]:
    """Return where rows of `a` and of `b` have physical addresses in common: row of a, of b, start, last."""
    ends = rows["pa"] + (rows["last"] - rows["first"])
    chosen, others = np.flatnonzero(a), np.flatnonzero(b)
    if not len(chosen) or not len(others):
        nothing = np.empty(0, np.int64)
        return nothing, nothing, nothing.astype(np.uint64), nothing.astype(np.uint64)
    # Between two edges nothing changes: ask both sides at every edge who covers it.
    edges = np.unique(np.concatenate([rows["pa"][a | b], ends[a | b] + np.uint64(1)]))
    row_a, has_a = _cover(rows["pa"], ends, chosen, edges[:-1])
    row_b, has_b = _cover(rows["pa"], ends, others, edges[:-1])
    both = np.flatnonzero(has_a & has_b)
    starts, lasts = edges[both], edges[both + 1] - np.uint64(1)
    place, other = row_a[both], row_b[both]
    if not len(both):
        return place, other, starts, lasts
    goes_on = (
        (place[1:] == place[:-1])
        & (other[1:] == other[:-1])
        & (lasts[:-1] + np.uint64(1) == starts[1:])
    )
    begins = np.flatnonzero(np.append(True, ~goes_on))
    last = np.append(begins[1:], len(both)) - 1
    return place[begins], other[begins], starts[begins], lasts[last]


def _cover(pas: Rows, ends: Rows, chosen: Rows, points: Rows) -> tuple[Rows, Rows]:
    """Return, for each point, a row among `chosen` that covers it, and whether there is one.

    Of the rows that begin at or before a point, the one that reaches furthest covers it if any does.
    """
    order = chosen[np.argsort(pas[chosen], kind="stable")]
    furthest = np.maximum.accumulate(ends[order])
    fresh = np.append(True, furthest[1:] != furthest[:-1])
    reaches = order[np.maximum.accumulate(np.where(fresh, np.arange(len(order)), 0))]
    at = np.searchsorted(pas[order], points, side="right") - 1
    row = reaches[np.maximum(at, 0)]
    return row, (at >= 0) & (ends[row] >= points)


# -- in words ------------------------------------------------------------------------------------


def _in_words(table: PageTable, row: Any) -> Finding:
    rule, first, last = Rule(int(row["rule"])), int(row["first"]), int(row["last"])
    path = table.walk(first)
    at = int(row["entry_address"])
    step = next((s for s in path.path if s.entry_address == at), path.path[-1])
    what = _sentence(table, rule, row, step)
    where = f"{step.name} (level {step.level}), entry {step.entry:#x} at {at:#x}"
    more = f", {int(row['items']):,} items alike" if int(row["items"]) > 1 else ""
    return Finding(
        rule=rule,
        first=first,
        last=last,
        level=step.level,
        level_name=step.name,
        entry=step.entry,
        entry_address=at,
        items=int(row["items"]),
        other=int(row["other"]),
        text=f"{first:#x}..{last:#x}: {what}; {where}{more}",
    )


def _sentence(table: PageTable, rule: Rule, row: Any, step: Step) -> str:
    first, other = int(row["first"]), int(row["other"])
    walk = table.walk(first)
    if rule is Rule.RESERVED_ITEM:
        said = str(walk.fault).partition(f"va {first:#x}: ")[2]
        return said or "an item that no walk may use"
    if rule is Rule.OUTSIDE_MEMORY:
        return f"the table at {other:#x} is not wholly inside the memory"
    if rule is Rule.LOOP:
        mine = "its own table" if other == step.table else "a table above it"
        return f"the item points back to {mine}, {other:#x}"
    rights = walk.rights or ""
    if rule is Rule.WRITABLE_EXECUTABLE:
        return f"writable and executable at once ({rights}) for {_who(table, rights)}"
    if rule is Rule.USER_IN_KERNEL_HALF:
        return f"user mode reaches the kernel's half ({rights})"
    if rule is Rule.USER_WRITABLE_TABLE:
        return f"user mode may write the table at {other:#x} ({rights})"
    if rule is Rule.MEMORY_TYPE_ALIAS:
        mine, theirs = (_type_name(table, va) for va in (first, other))
        return f"mapped {mine} here and {theirs} at {other:#x}"
    return f"executable here ({rights}) and written at {other:#x}"


def _who(table: PageTable, rights: str) -> str:
    for mask in range(1 << len(RIGHT_ROLES)):
        if rights_names(mask, table.format.rights) == rights:
            who = [
                n for user, n in _MODES if all(permits(table.format, c, user, mask) for c in "wx")
            ]
            return " and ".join(who)
    return "the kernel"


def _type_name(table: PageTable, va: int) -> str:
    number = table.walk(va).memory_type
    names = table.format.memory_types
    if number is None:
        return "otherwise"
    return names[number] if number < len(names) else f"type {number}"
