"""A state machine that holds PageTable against a dict of spans, for any format."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, ClassVar

import numpy as np
from hypothesis import event, note
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ptcore.errors import Fault, PtcoreError, Status, fault_class
from ptcore.formats.access import permits
from ptcore.formats.encode import wanted_rights
from ptcore.formats.schema import Format
from ptcore.memory import PhysicalMemory
from ptcore.table import Owed, PageTable, RowKind
from ptcore.testing import strategies
from ptcore.testing.model import Leaf, SpanModel
from ptcore.testing.strategies import LeafAttributes
from ptcore.units import ALL_ONES, Span

MOST_WALKS = 8  # per step
MOST_ADDRESSES = 200  # per step, of those at the ends of leaves


class PageTableMachine(RuleBasedStateMachine):
    """Maps, unmaps, protects, splits and collapses, and checks every answer after every step.

    Subclass it and set `format` to a name or to a Format of your own; `memory` is how much there is
    for tables (little, so that it runs out). `outcomes` counts (verb, how it ended) over all runs of
    the subclass: assert on it, so that the machine does not pass without having done anything.
    """

    format: ClassVar[str | Format] = "x86_64_4level"
    memory: ClassVar[int | str] = "56K"
    parameters: ClassVar[dict[str, Any]] = {}
    outcomes: ClassVar[Counter[tuple[str, str]]] = Counter()

    def __init_subclass__(cls, **options: Any) -> None:
        """Give each subclass a count of its own."""
        super().__init_subclass__(**options)
        cls.outcomes = Counter()

    @initialize()
    def make_an_empty_table(self) -> None:
        """Begin with a memory that holds a root and nothing else."""
        self.ram = PhysicalMemory(self.memory)
        self.table = PageTable(self.format, self.ram, **self.parameters)
        self.fmt = self.table.format
        self.model = SpanModel(self.fmt)
        self.owed: list[Owed] = []
        self.steps = 0

    # -- drawing -----------------------------------------------------------------------------

    def _draw_span(self, data: st.DataObject, page_size: int | None = None) -> Span:
        return data.draw(strategies.aligned_spans(self.fmt, page_size), label="span")

    def _draw_live_span(self, data: st.DataObject) -> Span:
        """Draw a span that covers some leaves exactly, as far as there are any."""
        if not self.model.leaves:
            return self._draw_span(data)
        starts = sorted(self.model.leaves)
        first = data.draw(st.sampled_from(starts), label="first leaf")
        last = self.model.leaves[first].last
        for _ in range(data.draw(st.integers(0, 3), label="more leaves")):
            following = self.model.leaves.get(last + 1)
            last = following.last if following is not None else last
        return Span(first, last)

    def _draw_some_span(self, data: st.DataObject) -> Span:
        kind = data.draw(st.sampled_from(["leaves", "part of a leaf", "any"]), label="kind of span")
        if kind == "any":
            return self._draw_span(data)
        span = self._draw_live_span(data)
        smallest = self.fmt.page_sizes[0]
        if kind == "leaves" or span.size == smallest:
            return span
        pages = data.draw(st.integers(1, span.size // smallest - 1), label="pages")
        return Span(span.start, span.last - pages * smallest)

    # -- doing -------------------------------------------------------------------------------

    def _tables_left(self) -> int:
        frames = self.ram.frames
        size = max(self._table_bytes(n) for n in range(max(1, len(self.fmt.levels) - 1)))
        root = self._table_bytes(len(self.fmt.levels) - 1)
        # The first frame is never handed out; a root smaller than a table lies in what is left beside it.
        places = frames.end // size - 1 - (root // size)
        return places - (frames.allocated_bytes - root) // size

    def _table_bytes(self, level: int) -> int:
        return max(self.fmt.table_bytes(level), self.ram.frames.frame_bytes)

    def _compare(self, verb: str, ours: Callable[[], Owed], models: Callable[[], object]) -> None:
        """Do the same to the table and to the model; they agree on how it ends, and on what is owed."""
        before = dict(self.model.leaves)
        tables = set(self.model.tables)
        try:
            models()
            expected = "done"
        except PtcoreError as error:
            expected = type(error).__name__
        bytes_before = self.ram.read(self.ram.segments[0].start, self.ram.size)
        held = self.ram.frames.allocated_bytes
        try:
            owed = ours()
            ended = "done"
        except PtcoreError as error:
            ended = type(error).__name__
            note(f"{verb}: {error}")
            assert self.ram.read(self.ram.segments[0].start, self.ram.size) == bytes_before, verb
            assert self.ram.frames.allocated_bytes == held, f"{verb} keeps frames of a failed edit"
        else:
            self._check_owed(owed, before, tables)
        assert ended == expected, f"{verb} ended with {ended}, the model with {expected}"
        event(f"{verb}: {ended}")
        type(self).outcomes[verb, ended] += 1

    def _check_owed(
        self, owed: Owed, before: dict[int, Leaf], tables: set[tuple[int, int]]
    ) -> None:
        for va, leaf in before.items():
            if self.model.leaves.get(va) != leaf:
                covered = any(s.start <= leaf.va and leaf.last <= s.last for s in owed.spans)
                assert covered, f"{leaf} changed, but {owed} owes no invalidation of it"
        gone = sorted(self._table_bytes(level) for level, _ in tables - self.model.tables)
        held = sorted(max(size, self.ram.frames.frame_bytes) for _, size in owed.tables)
        assert held == gone, f"{owed} holds {held} bytes of tables, {gone} went out of use"
        if owed.tables:
            self.owed.append(owed)

    @rule(data=st.data())
    def map(self, data: st.DataObject) -> None:
        """Map a few pages somewhere, with the best page sizes or with one given."""
        unit = data.draw(strategies.page_sizes(self.fmt), label="unit")
        span = self._draw_span(data, unit)
        page_size = data.draw(st.sampled_from([None, unit]), label="page size")
        # A few of the largest pages may be more than there are output addresses.
        span = Span.of(span.start, min(span.size, 1 << self.table.physical_bits))
        pas = strategies.output_addresses(self.fmt, unit, self.table.physical_bits)
        pa = data.draw(pas, label="pa")
        if data.draw(st.booleans(), label="congruent"):  # so that large pages fit
            pa += span.start % self.fmt.page_sizes[-1] if not pa % self.fmt.page_sizes[-1] else 0
        if pa + span.size > 1 << self.table.physical_bits:
            pa = 0
        wanted = data.draw(strategies.attributes(self.fmt), label="attributes")
        left = self._tables_left()
        self._compare(
            "map",
            lambda: self.table.map(
                span.start, pa, span.size, **asdict(wanted), page_size=page_size
            ),
            lambda: self.model.map(span, pa, wanted, page_size, left),
        )

    @rule(data=st.data())
    def map_a_page_of_its_own(self, data: st.DataObject) -> None:
        """Map one page anywhere: it mostly needs a table at every level."""
        size = data.draw(strategies.page_sizes(self.fmt), label="size")
        va = data.draw(strategies.canonical_addresses(self.fmt), label="va") & ~(size - 1)
        wanted = data.draw(strategies.attributes(self.fmt), label="attributes")
        left = self._tables_left()
        self._compare(
            "map",
            lambda: self.table.map(va, 0, size, **asdict(wanted), page_size=size),
            lambda: self.model.map(Span.of(va, size), 0, wanted, size, left),
        )

    @rule(
        data=st.data(), missing_ok=st.booleans(), free_tables=st.sampled_from([True, True, False])
    )
    def unmap(self, data: st.DataObject, missing_ok: bool, free_tables: bool) -> None:
        """Unmap some pages, or a part of a large one, or nothing."""
        span = self._draw_some_span(data)
        self._compare(
            "unmap",
            lambda: self.table.unmap(
                span.start, span.size, missing_ok=missing_ok, free_tables=free_tables
            ),
            lambda: self.model.unmap(span, missing_ok, free_tables),
        )

    @rule(data=st.data(), missing_ok=st.booleans())
    def protect(self, data: st.DataObject, missing_ok: bool) -> None:
        """Change all attributes of some pages."""
        span = self._draw_some_span(data)
        wanted = data.draw(strategies.attributes(self.fmt), label="attributes")
        self._compare(
            "protect",
            lambda: self.table.protect(
                span.start, span.size, **asdict(wanted), missing_ok=missing_ok
            ),
            lambda: self.model.protect(span, wanted, missing_ok),
        )

    @rule(data=st.data(), missing_ok=st.booleans())
    def split(self, data: st.DataObject, missing_ok: bool) -> None:
        """Split large pages down to one of the smaller sizes."""
        size = data.draw(strategies.page_sizes(self.fmt), label="to")
        span = self._draw_span(data, size)
        if bool(self.model.leaves) and data.draw(st.booleans(), label="live"):
            leaf = self.model.leaves[data.draw(st.sampled_from(sorted(self.model.leaves)))]
            size = min(size, leaf.size)
            offset = data.draw(st.integers(0, leaf.size // size - 1), label="offset") * size
            span = Span.of(leaf.va + offset, size)
        left = self._tables_left()
        self._compare(
            "split",
            lambda: self.table.split(span.start, span.size, size, missing_ok=missing_ok),
            lambda: self.model.split(span, size, missing_ok, left),
        )

    @rule(data=st.data(), missing_ok=st.booleans())
    def collapse(self, data: st.DataObject, missing_ok: bool) -> None:
        """Collapse what may have been split, or what never was one page."""
        size = data.draw(strategies.page_sizes(self.fmt), label="to")
        span = self._draw_span(data, size)
        if bool(self.model.leaves) and data.draw(st.booleans(), label="live"):
            va = data.draw(st.sampled_from(sorted(self.model.leaves)), label="leaf")
            span = Span.of(va & ~(size - 1), size)
        self._compare(
            "collapse",
            lambda: self.table.collapse(span.start, span.size, size, missing_ok=missing_ok),
            lambda: self.model.collapse(span, size, missing_ok),
        )

    @rule(data=st.data())
    def refuse_a_span_that_is_not_legal(self, data: st.DataObject) -> None:
        """Ask for an edit across the end of the legal addresses."""
        legal = strategies.legal_spans(self.fmt)
        size = self.fmt.page_sizes[0]
        if legal[0].last == ALL_ONES:
            return
        start = data.draw(st.sampled_from([legal[0].last + 1 - size, legal[0].last + 1]))

        def refuse() -> None:
            raise fault_class(Status.NOT_CANONICAL)("")

        self._compare("illegal span", lambda: self.table.map(start, 0, 2 * size), refuse)

    @precondition(lambda self: self.owed)
    @rule(data=st.data())
    def discharge(self, data: st.DataObject) -> None:
        """Say that some invalidations were done: their tables' frames come back."""
        owed = data.draw(st.sampled_from(self.owed), label="owed")
        self.owed = [other for other in self.owed if other is not owed]
        owed.discharge()
        owed.discharge()  # a second time does nothing

    # -- looking -----------------------------------------------------------------------------

    @invariant()
    def every_address_translates_as_the_model_says(self) -> None:
        """translate_many == translate == walk == model, at the ends of every leaf and outside."""
        self.steps += 1
        limits = [end for s in strategies.legal_spans(self.fmt) for end in (s.start, s.last)]
        outside = [va for end in limits for va in (end - 1, end, end + 1) if 0 <= va <= ALL_ONES]
        ends = self.model.addresses_of_interest()
        stride = max(1, len(ends) // MOST_ADDRESSES)
        vas = [*ends[self.steps % stride :: stride], *outside]
        pas, statuses = self.table.translate_many(np.array(vas, dtype=np.uint64))
        for va, pa, status in zip(vas, pas.tolist(), statuses.tolist(), strict=True):
            expected = self.model.pa_of(va)
            outcome = self.model.status_of(va)
            leaf = self.model.leaf_at(va)
            if outcome is Status.OK and leaf is not None and not self._may(leaf, "r", False):
                expected, outcome = None, Status.PERMISSION
            assert status == outcome, hex(va)
            assert pa == (ALL_ONES if expected is None else expected), hex(va)
            type(self).outcomes["address", Status(status).name] += 1
        stride = max(1, len(vas) // MOST_WALKS)
        for va in vas[self.steps % stride :: stride]:
            self._check_one(va)

    def _check_one(self, va: int) -> None:
        walk = self.table.walk(va)
        leaf = self.model.leaf_at(va)
        assert walk.status is self.model.status_of(va)
        assert walk.pa == self.model.pa_of(va)
        assert (walk.fault is None) == (walk.status is Status.OK)
        try:
            assert self.table.translate(va) == walk.pa
        except Fault as fault:
            readable = leaf is None or self._may(leaf, "r", False)
            assert fault.status is (  # noqa: PT017 - a state machine checks, pytest is not asked for
                walk.status if readable else Status.PERMISSION
            )
        if leaf is None:
            return
        seen = (walk.page_size, walk.memory_type, walk.pkey, walk.software, walk.global_)
        a = leaf.attributes
        assert seen == (leaf.size, a.memory_type, a.pkey, a.software, a.global_), (walk, leaf)
        for access in ("r", "w", "x"):
            for user in (False, True):
                self._check_right(va, leaf, access, user)

    def _may(self, leaf: Leaf, access: str, user: bool) -> bool:
        """Whether a page that was asked for with these attributes may be accessed so."""
        asked, granted = wanted_rights(self.fmt, leaf.attributes.access, leaf.attributes.user)
        rights = self.fmt.rights & ~asked | granted
        return permits(self.fmt, access, user, rights)

    def _check_right(self, va: int, leaf: Leaf, access: str, user: bool) -> None:
        expected = Status.OK if self._may(leaf, access, user) else Status.PERMISSION
        _, statuses = self.table.translate_many([va], access, user)
        assert statuses[0] == expected, f"{va:#x} {access} user={user}"
        type(self).outcomes["access", expected.name] += 1

    @invariant()
    def the_listing_shows_the_models_spans(self) -> None:
        """mappings() equals the model's leaves, merged."""
        rows = self.table.mappings()
        expected = self.model.merged()
        listed = [(int(r["first"]), int(r["last"]), int(r["pa"])) for r in rows]
        assert listed == [(leaf.va, leaf.last, leaf.pa) for leaf in expected]
        for row, leaf in zip(rows, expected, strict=True):
            a: LeafAttributes = leaf.attributes
            seen = (row["memory_type"], row["pkey"], row["software"], row["flags"] & 1)
            assert seen == (a.memory_type, a.pkey, a.software, a.global_)
            assert row["kind"] == RowKind.LEAF
            assert row["page_size"] == self.model.leaves[leaf.va].size

    @invariant()
    def every_frame_is_accounted_for(self) -> None:
        """The frames in use are the root, the tables that stats() counts, and those owed."""
        stats = self.table.stats()
        assert stats.tables == self.model.tables_by_level()
        leaves = Counter[int]()
        for leaf in self.model.leaves.values():
            level = self.fmt.level_of(leaf.size)
            leaves[level] += leaf.size >> self.fmt.levels[level].shift
        assert stats.leaves == tuple(leaves[n] for n in range(len(self.fmt.levels)))
        assert stats.mapped_bytes == sum(leaf.size for leaf in self.model.leaves.values())
        assert sum(stats.reserved) == sum(stats.outside) == stats.shared_tables == 0
        in_tables = sum(count * self._table_bytes(n) for n, count in enumerate(stats.tables))
        owed = sum(
            max(size, self.ram.frames.frame_bytes) for owed in self.owed for _, size in owed.tables
        )
        assert self.ram.frames.allocated_bytes == in_tables + owed
