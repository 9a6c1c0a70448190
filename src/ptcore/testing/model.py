"""A page table as a dict of spans: what PageTable should do, worked out without any bytes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from ptcore import errors
from ptcore.formats.encode import wanted_rights
from ptcore.formats.schema import Format, Role
from ptcore.testing.strategies import LeafAttributes, is_legal
from ptcore.units import Span


@dataclass(frozen=True, slots=True)
class Leaf:
    """One page: where it is, how large, what it maps to, with which attributes."""

    va: int
    size: int
    pa: int
    attributes: LeafAttributes

    @property
    def last(self) -> int:
        """The last address of the page."""
        return self.va + self.size - 1


@dataclass
class SpanModel:
    """The pages that are mapped, by address, and which tables exist to hold them.

    `tables` holds (level, number) for each table but the root; the number is that of the region
    that the table maps, counted from address 0. Every verb returns the tables that it takes out, or
    raises the exception class that PageTable raises, before it changes anything. `tables_left` says
    how many more tables there is room for.
    """

    format: Format
    leaves: dict[int, Leaf] = field(default_factory=dict)
    tables: set[tuple[int, int]] = field(default_factory=set)

    # -- questions ---------------------------------------------------------------------------

    def leaf_at(self, va: int) -> Leaf | None:
        """Return the leaf that maps `va`, if any."""
        for size in self.format.page_sizes:
            found = self.leaves.get(va & ~(size - 1))
            if found is not None and found.size == size:
                return found
        return None

    def pa_of(self, va: int) -> int | None:
        """Return what `va` translates to, if anything."""
        leaf = self.leaf_at(va)
        return None if leaf is None else leaf.pa + va - leaf.va

    def status_of(self, va: int) -> errors.Status:
        """Return how a walk for `va` ends."""
        if not is_legal(self.format, va):
            return errors.Status.NOT_CANONICAL
        return errors.Status.NOT_PRESENT if self.leaf_at(va) is None else errors.Status.OK

    def merged(self) -> list[Leaf]:
        """Return the leaves as a listing shows them: neighbours that go on in every way are one."""
        rows: list[tuple[Leaf, int]] = []  # a first leaf, and the size of its pages
        for leaf in (self.leaves[va] for va in sorted(self.leaves)):
            if rows:
                before, size = rows[-1]
                goes_on = before.last + 1 == leaf.va and before.pa + before.size == leaf.pa
                alike = self._shown(before.attributes) == self._shown(leaf.attributes)
                if goes_on and size == leaf.size and alike:
                    rows[-1] = (replace(before, size=before.size + leaf.size), size)
                    continue
            rows.append((leaf, leaf.size))
        return [row for row, _ in rows]

    def _shown(self, attributes: LeafAttributes) -> tuple[int, LeafAttributes]:
        """Return what a listing can show of attributes: not what the format has no bits for."""
        asked, granted = wanted_rights(self.format, attributes.access, attributes.user)
        rights = self.format.rights & ~asked | granted
        return rights, replace(attributes, access="", user=False)

    def tables_by_level(self) -> tuple[int, ...]:
        """Return how many tables there are at each level, with the root."""
        counts = [0] * len(self.format.levels)
        counts[-1] = 1
        for level, _ in self.tables:
            counts[level] += 1
        return tuple(counts)

    def addresses_of_interest(self) -> list[int]:
        """Return the addresses at the ends of every leaf, just outside them, and in the middle."""
        found = set()
        for leaf in self.leaves.values():
            found |= {leaf.va, leaf.va + 1, leaf.va + leaf.size // 2, leaf.last}
            found |= {leaf.va - 1, leaf.last + 1}
        return sorted(va for va in found if 0 <= va < 1 << 64)

    # -- verbs -------------------------------------------------------------------------------

    def map(
        self, span: Span, pa: int, wanted: LeafAttributes, page_size: int | None, tables_left: int
    ) -> set[tuple[int, int]]:
        """Map `span` to `pa` and what follows; the largest pages that fit unless a size is given."""
        new = []
        for leaf in self._pages_for(span, pa, wanted, page_size):
            if self._overlaps(leaf):
                raise errors.AlreadyMapped("")
            new.append(leaf)
        wanted_tables = {table for leaf in new for table in self._tables_above(leaf)} - self.tables
        if len(wanted_tables) > tables_left:
            raise errors.NoFrame("")
        gone = {table for leaf in new for table in self._tables_inside(leaf)}
        self.tables = (self.tables | wanted_tables) - gone
        self.leaves |= {leaf.va: leaf for leaf in new}
        return gone

    def unmap(self, span: Span, missing_ok: bool, free_tables: bool) -> set[tuple[int, int]]:
        """Take the leaves of `span` out, and the tables there that hold nothing afterwards."""
        touched = self._touched(span, missing_ok)
        for leaf in touched:
            del self.leaves[leaf.va]
        gone: set[tuple[int, int]] = set()
        for level in range(len(self.format.levels) - 1 if free_tables else 0):
            for table in [t for t in self.tables if t[0] == level and self._meets(t, span)]:
                if not self._holds_anything(table):
                    self.tables.remove(table)
                    gone.add(table)
        return gone

    def protect(self, span: Span, wanted: LeafAttributes, missing_ok: bool) -> None:
        """Give the leaves of `span` other attributes."""
        for leaf in self._touched(span, missing_ok):
            self.leaves[leaf.va] = replace(leaf, attributes=wanted)

    def split(self, span: Span, page_size: int, missing_ok: bool, tables_left: int) -> None:
        """Cut larger leaves that `span` touches until its pages have `page_size`."""
        large: list[Leaf] = []
        for leaf in self._items(span, page_size, missing_ok):
            if leaf.size > page_size and leaf not in large:
                self._must_be_divisible(leaf, page_size)
                large.append(leaf)
        leaves = dict(self.leaves)
        tables = set(self.tables)
        for leaf in large:
            del leaves[leaf.va]
            for piece in self._cut(leaf, span, page_size):
                leaves[piece.va] = piece
                tables |= self._tables_above(piece)
        if len(tables - self.tables) > tables_left:
            raise errors.NoFrame("")
        self.leaves, self.tables = leaves, tables

    def collapse(self, span: Span, page_size: int, missing_ok: bool) -> set[tuple[int, int]]:
        """Replace smaller leaves by leaves of `page_size` in all of `span`."""
        new = []
        for va, leaf in self._slots(span, page_size, missing_ok):
            if leaf is None:
                new.append(self._one_leaf(va, page_size))
        gone = set()
        for leaf in new:
            gone |= self._tables_inside(leaf)
            self.leaves = {va: x for va, x in self.leaves.items() if not leaf.va <= va <= leaf.last}
            self.leaves[leaf.va] = leaf
        self.tables -= gone
        return gone

    # -- how tables lie ----------------------------------------------------------------------

    def _region(self, level: int) -> int:
        """How many bytes a table at `level` maps, as a power of two."""
        return self.format.levels[level].shift + self.format.levels[level].bits

    def _number(self, va: int, level: int) -> int:
        return va >> self._region(level)

    def _tables_above(self, leaf: Leaf) -> set[tuple[int, int]]:
        lowest = self.format.level_of(leaf.size)
        return {(n, self._number(leaf.va, n)) for n in range(lowest, len(self.format.levels) - 1)}

    def _tables_inside(self, leaf: Leaf) -> set[tuple[int, int]]:
        span = Span(leaf.va, leaf.last)
        level = self.format.level_of(leaf.size)
        return {t for t in self.tables if t[0] < level and self._meets(t, span)}

    def _table_at(self, va: int, size: int, level: int) -> bool:
        """Whether any item of `level` in the `size` bytes at `va` is a table."""
        span = Span.of(va, size)
        return any(n == level - 1 and self._meets((n, m), span) for n, m in self.tables)

    def _meets(self, table: tuple[int, int], span: Span) -> bool:
        level, number = table
        return self._number(span.start, level) <= number <= self._number(span.last, level)

    def _holds_anything(self, table: tuple[int, int]) -> bool:
        level, number = table
        below = any(
            n == level - 1 and m >> self.format.levels[level].bits == number for n, m in self.tables
        )
        return below or any(self._number(va, level) == number for va in self.leaves)

    # -- parts of the verbs ------------------------------------------------------------------

    def _overlaps(self, new: Leaf) -> bool:
        if self.leaf_at(new.va) is not None:
            return True
        return any(new.va <= va <= new.last for va in self.leaves)

    def _pages_for(
        self, span: Span, pa: int, wanted: LeafAttributes, page_size: int | None
    ) -> Iterator[Leaf]:
        va = span.start
        sizes = self.format.page_sizes[::-1] if page_size is None else (page_size,)
        while va <= span.last:
            for size in sizes:
                fits = not (va | pa) & (size - 1) and va + size - 1 <= span.last
                fits = fits and self._has_room_for(size, pa)
                level = self.format.level_of(size)
                if fits and (page_size is not None or not self._table_at(va, size, level)):
                    break
            else:
                mapped = self.leaf_at(va) is not None
                raise errors.AlreadyMapped("") if mapped else errors.OutOfRange("")
            yield Leaf(va, size, pa, wanted)
            va, pa = va + size, pa + size

    def _has_room_for(self, size: int, pa: int) -> bool:
        level, shape = self.format.shape_of(size)
        word = self.format.levels[level].leaves[shape - 1].word
        outputs = [bits for bits in word if bits.role is Role.OUTPUT]
        return not pa & ~sum(((1 << bits.width) - 1) << bits.target for bits in outputs)

    def _touched(self, span: Span, missing_ok: bool) -> list[Leaf]:
        """Return the leaves in `span`, all of them inside it; the first trouble in order raises."""
        found = []
        va = span.start
        while va <= span.last:
            leaf = self.leaf_at(va)
            if leaf is None:
                if not missing_ok:
                    raise errors.NotMapped("")
                va = min((x for x in self.leaves if x > va), default=span.last + 1)
                continue
            if leaf.va < span.start or leaf.last > span.last:
                raise errors.InsideLargerLeaf("")
            found.append(leaf)
            va = leaf.last + 1
        return found

    def _slots(self, span: Span, size: int, missing_ok: bool) -> Iterator[tuple[int, Leaf | None]]:
        """Yield (address, leaf) of each slot of `size` bytes; no leaf where smaller pages are or may
        be. Holes raise."""
        for va in range(span.start, span.last + 1, size):
            leaf = self.leaf_at(va)
            level = self.format.level_of(size)
            if leaf is not None and leaf.size >= size:
                yield va, leaf
            elif self._table_at(va, size, level) or self._overlaps(
                Leaf(va, size, 0, LeafAttributes())
            ):
                yield va, None
            elif not missing_ok:
                raise errors.NotMapped("")

    def _items(self, span: Span, size: int, missing_ok: bool) -> Iterator[Leaf]:
        """Yield the leaves that a split to `size` meets, item by item. Holes raise."""
        level = self.format.level_of(size)
        item = 1 << self.format.levels[level].shift
        for va in range(span.start, span.last + 1, item):
            leaf = self.leaf_at(va)
            if leaf is not None:
                yield leaf
            elif not missing_ok and not self._table_at(va, item, level):
                raise errors.NotMapped("")

    def _must_be_divisible(self, leaf: Leaf, page_size: int) -> None:
        sizes = self.format.page_sizes
        shapes = self.format.page_shapes
        for n in range(sizes.index(leaf.size), sizes.index(page_size), -1):
            (level, _), (below, _) = shapes[sizes[n]], shapes[sizes[n - 1]]
            plain = sizes[n] == 1 << self.format.levels[level].shift
            steps = plain and level - 1 == below and self.format.levels[below].leaf is not None
            if level != below and not steps:
                raise errors.FormatError("")
        for size in sizes[sizes.index(page_size) : sizes.index(leaf.size)]:
            if not self._has_room_for(size, leaf.pa):
                raise errors.OutOfRange("")

    def _cut(self, leaf: Leaf, span: Span, page_size: int) -> Iterator[Leaf]:
        meets = leaf.va <= span.last and leaf.last >= span.start
        if leaf.size == page_size or not meets:
            yield leaf
            return
        size = self.format.page_sizes[self.format.page_sizes.index(leaf.size) - 1]
        for offset in range(0, leaf.size, size):
            piece = Leaf(leaf.va + offset, size, leaf.pa + offset, leaf.attributes)
            yield from self._cut(piece, span, page_size)

    def _one_leaf(self, va: int, size: int) -> Leaf:
        inside = sorted(
            (leaf for leaf in self.leaves.values() if va <= leaf.va < va + size),
            key=lambda leaf: leaf.va,
        )
        uniform = bool(inside) and sum(leaf.size for leaf in inside) == size
        first = inside[0] if inside else None
        if first is None or not uniform or first.pa & (size - 1):
            raise errors.NotUniform("")
        level = self.format.level_of(size)
        if self.format.levels[level].leaf is None and self._table_at(va, size, level):
            raise errors.NotUniform("")  # a table must become a plain leaf first
        for leaf in inside:
            same = leaf.attributes == first.attributes
            if not same or leaf.pa - first.pa != leaf.va - first.va:
                raise errors.NotUniform("")
        return Leaf(va, size, first.pa, first.attributes)
