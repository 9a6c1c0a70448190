"""The Mmu over real tables: a table with losses, exact hit rates, marks, and what the door refuses."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

import ptcore
from oracles import lru, streams
from ptcore.caches import FAULT, WALK, Mmu, Tlb, TlbArray, TlbLevel, WalkCache
from ptcore.errors import Fault, MapError, OutOfRange, Status

BASE = 0x1000_0000_0000
MIB2 = 1 << 21
SMALL = (
    TlbLevel("L1", (TlbArray(4, 2), TlbArray(1, 1, ("2M",)))),
    TlbLevel("L2", (TlbArray(12, 4, ("4K", "2M")),)),
)
SEEN: Counter[str] = Counter()


def expected_of(
    table: ptcore.PageTable, va: int, kind: str, user: bool
) -> tuple[Status, int | None]:
    try:
        return Status.OK, table.translate(va, kind, user)
    except Fault as fault:
        return fault.status, None


class LossyTable(RuleBasedStateMachine):
    """Two address spaces behind one Tlb; edits owe invalidations, which come at some later time.

    In between an answer may be the old one; before and after, every answer is the tables' own.
    """

    @initialize(levels=st.sampled_from([4, 5]), marks=st.booleans())
    def make(self, levels: int, marks: bool) -> None:
        self.memory = ptcore.PhysicalMemory("1M")
        tlb = Tlb(SMALL)
        self.tables = [ptcore.PageTable(f"x86_64_{levels}level", self.memory) for _ in range(2)]
        self.mmus = [
            Mmu(table, tlb, WalkCache({3: 1, 2: 2, 1: 2}), asid=n, marks=marks)
            for n, table in enumerate(self.tables)
        ]
        self.owed: list[tuple[int, object]] = []

    def edit(self, n: int, verb: str, *arguments, **named) -> None:
        try:
            owed = getattr(self.tables[n], verb)(*arguments, **named)
        except (MapError, ValueError):
            SEEN[f"{verb} refused"] += 1
            return
        SEEN[verb] += 1
        if owed:
            self.owed.append((n, owed))

    space = st.integers(0, 1)
    page = st.integers(0, 5).map(lambda n: BASE + (n % 3) * MIB2 + (n // 3) * 0x1000)
    access = st.sampled_from(["r", "rw", "rx", "rwx"])

    @rule(n=space, va=page, frame=st.integers(1, 9), access=access, user=st.booleans())
    def map_page(self, n: int, va: int, frame: int, access: str, user: bool) -> None:
        self.edit(n, "map", va, frame << 12, "4K", access, user)

    @rule(n=space, va=page, frame=st.integers(1, 3), access=access)
    def map_large(self, n: int, va: int, frame: int, access: str) -> None:
        self.edit(n, "map", va & -MIB2, frame << 21, "2M", access)

    @rule(n=space, va=page, large=st.booleans(), free=st.booleans())
    def unmap(self, n: int, va: int, large: bool, free: bool) -> None:
        size = "2M" if large else "4K"
        va = va & -MIB2 if large else va
        self.edit(n, "unmap", va, size, missing_ok=True, free_tables=free)

    @rule(n=space, va=page, access=access)
    def protect(self, n: int, va: int, access: str) -> None:
        size = self.tables[n].walk(va).page_size or 0x1000
        self.edit(n, "protect", va & -size, size, access)

    @rule(n=space, va=page)
    def split(self, n: int, va: int) -> None:
        self.edit(n, "split", va, "4K")

    @rule(n=space, va=page)
    def collapse(self, n: int, va: int) -> None:
        self.edit(n, "collapse", va & -MIB2, "2M", "2M")

    @precondition(lambda self: self.owed)
    @rule()
    def pay(self) -> None:
        for n, owed in self.owed:
            for span in owed.spans:
                self.mmus[n].invalidate(span.start, span.last, structures=owed.structures)
            owed.discharge()
            SEEN["paid"] += 1
        self.owed.clear()

    @rule(n=space, kind=st.sampled_from("rwx"), user=st.booleans())
    def access_every_page(self, n: int, kind: str, user: bool) -> None:
        """Before the invalidation any answer goes; and none of them crashes or stays."""
        self.check(n, kind, user, exact=not self.owed)

    def check(self, n: int, kind: str, user: bool, *, exact: bool) -> None:
        for page in range(6):
            va = BASE + (page % 3) * MIB2 + (page // 3) * 0x1000 + 8 * page
            outcome = self.mmus[n].access(va, kind, user)
            assert (outcome.pa is None) == (outcome.code == FAULT) == (outcome.status != Status.OK)
            if exact:
                assert (outcome.status, outcome.pa) == expected_of(self.tables[n], va, kind, user)
            name = {WALK: "walked", FAULT: outcome.status.name}
            SEEN[name.get(outcome.code, f"hit {outcome.code}")] += 1
            if outcome.code != FAULT and kind == "w" and exact and self.mmus[n].marks:
                assert self.tables[n].walk(va).dirty

    def teardown(self) -> None:
        if not hasattr(self, "mmus"):
            return
        self.pay()
        for n in range(2):
            for kind in "rwx":
                self.check(n, kind, False, exact=True)


def test_it_never_answers_wrongly_once_the_invalidations_owed_are_paid() -> None:
    SEEN.clear()
    run_state_machine_as_test(
        LossyTable,
        settings=settings(
            max_examples=120, stateful_step_count=40, deadline=None, derandomize=True
        ),
    )
    for edit in ("map", "unmap", "protect", "split", "collapse", "paid"):
        assert SEEN[edit] >= 20, SEEN
    for outcome in ("hit 0", "hit 1", "walked", "NOT_PRESENT", "PERMISSION"):
        assert SEEN[outcome] >= 100, SEEN


def test_an_invalidation_that_is_not_sent_leaves_the_old_answer() -> None:
    """The machine above would notice: what it relies on does happen."""
    table = ptcore.PageTable("x86_64_4level", ptcore.PhysicalMemory("1M"))
    mmu = Mmu(table, Tlb(SMALL))
    table.map(BASE, 0x1000, "4K")
    mmu.access(BASE)
    owed = table.unmap(BASE, "4K")
    assert mmu.access(BASE).pa == 0x1000
    for span in owed.spans:
        mmu.invalidate(span.start, span.last)
    assert mmu.access(BASE).status == Status.NOT_PRESENT


LINEAR = (TlbLevel("L1", (TlbArray(64, 4),)), TlbLevel("L2", (TlbArray(1536, 12),)))

# Shares of 2,000,000 accesses: first level, second level, walks.
RATES = {
    "uniform_32p": ("0.99998", "0.00000", "0.00002"),
    "uniform_1024p": ("0.06286", "0.93663", "0.00051"),
    "uniform_256Kp": ("0.00024", "0.00561", "0.99415"),
    "zipf099_256Kp": ("0.19905", "0.27369", "0.52726"),
    "sequential_64B": ("0.98438", "0.00000", "0.01562"),
    "stride_128p": ("0.00000", "0.00000", "1.00000"),
}


@pytest.fixture(scope="module")
def gigabyte() -> ptcore.PageTable:
    table = ptcore.PageTable("x86_64_4level", ptcore.PhysicalMemory("16M"))
    table.map(int(streams.BASE), 0, "1G", page_size="4K")
    return table


@pytest.mark.parametrize("walk_cache", [None, {3: 2, 2: 4, 1: 32}], ids=["bare", "walk_cache"])
def test_the_rates_of_two_million_accesses_are_exact(gigabyte, walk_cache) -> None:
    n = 2_000_000
    for name, vas in streams.streams(n):
        mmu = Mmu(gigabyte, Tlb(LINEAR), walk_cache and WalkCache(walk_cache))
        outcomes = mmu.access_many(vas)
        counts = mmu.counts
        assert (counts.accesses, counts.faults) == (n, 0)
        shares = tuple(f"{count / n:.5f}" for count in (*counts.hits, counts.walks))
        assert shares == RATES[name], name
        assert np.bincount(outcomes, minlength=256)[[0, 1, WALK]].tolist() == [
            *counts.hits,
            counts.walks,
        ]
        if walk_cache is None:
            assert counts.references == 4 * counts.walks


def test_every_outcome_of_a_batch_is_that_of_a_naive_lru(gigabyte) -> None:
    seen: Counter[int] = Counter()
    for _, vas in streams.streams(20_000):
        naive = lru.Tlb([[lru.Array(16, 4, [12])], [lru.Array(128, 12, [12])]])
        expected = []
        for va in vas.tolist():
            hit = naive.lookup(va, 0)
            expected.append(WALK if hit is None else hit[0])
            if hit is None:
                naive.insert(12, va >> 12, 0, None)
        assert Mmu(gigabyte, Tlb(LINEAR)).access_many(vas).tolist() == expected
        seen.update(expected)
    assert min(seen[0], seen[1], seen[WALK]) > 10_000


def test_a_span_of_accesses_counts_as_the_same_accesses_one_by_one(gigabyte) -> None:
    one, many = (Mmu(gigabyte, Tlb.preset("zen4")) for _ in range(2))
    first = int(streams.BASE) + (1 << 30) - 0x8000
    outcomes = one.access_many([first + n * 0x1000 for n in range(12)])
    assert many.access_span(first, 12, 0x1000) == 4 == (outcomes == FAULT).sum()
    assert one.counts == many.counts


# --- marks ---------------------------------------------------------------------------------------


def marked(table: ptcore.PageTable, va: int) -> list[bool]:
    return [bool(step.entry & 1 << 5) for step in table.walk(va).path]


@pytest.fixture
def table() -> ptcore.PageTable:
    made = ptcore.PageTable("x86_64_4level", ptcore.PhysicalMemory("1M"))
    made.map(BASE, 0x1000, "8K", "rw")
    return made


@pytest.mark.parametrize("walk_cache", [None, {3: 2, 2: 4, 1: 32}], ids=["bare", "walk_cache"])
def test_a_read_marks_the_whole_path_accessed_and_a_write_the_leaf_dirty(table, walk_cache) -> None:
    mmu = Mmu(table, Tlb(SMALL), walk_cache and WalkCache(walk_cache))
    mmu.access(BASE)
    assert marked(table, BASE) == [True] * 4
    assert not table.walk(BASE).dirty
    assert mmu.access(BASE, "w").code == WALK  # the dirty mark must be written
    assert table.walk(BASE).dirty
    assert mmu.access(BASE, "w").code == 0
    assert not table.walk(BASE + 0x1000).accessed


@pytest.mark.parametrize("walk_cache", [None, {3: 2, 2: 4, 1: 32}], ids=["bare", "walk_cache"])
def test_a_walk_that_faults_marks_what_it_went_through(table, walk_cache) -> None:
    """So no paging-structure cache holds an item that is not marked accessed (Intel SDM vol. 3A,
    "Caches for Paging Structures": the processor does not create an entry unless it is)."""
    mmu = Mmu(table, Tlb(SMALL), walk_cache and WalkCache(walk_cache))
    assert mmu.access(BASE + 0x2000).status == Status.NOT_PRESENT
    assert mmu.access(BASE, "r", user=True).status == Status.PERMISSION
    assert marked(table, BASE) == [True, True, True, False]
    mmu.access(BASE)
    assert marked(table, BASE) == [True] * 4


def test_nothing_is_marked_when_it_was_not_asked_for_or_cannot_be(table) -> None:
    before = bytes(table.memory.read(0, 1 << 20))
    off = Mmu(table, Tlb(SMALL), marks=False)
    assert [off.access(BASE, "w").code for _ in range(2)] == [WALK, 0]
    image = ptcore.PhysicalMemory.from_buffer(before)
    same = ptcore.PageTable("x86_64_4level", image, root=table.root)
    mmu = Mmu(same, Tlb(SMALL))
    assert mmu.access(BASE, "w").pa == 0x1000
    assert bytes(table.memory.read(0, 1 << 20)) == before == bytes(image.read(0, 1 << 20))


# --- rights, tags, and the door ------------------------------------------------------------------


def test_rights_come_from_the_tlb_and_a_denied_access_asks_the_tables(table) -> None:
    mmu = Mmu(table, Tlb(SMALL))
    table.protect(BASE, "4K", "r")
    mmu.access(BASE)
    assert mmu.access(BASE, "w").status == Status.PERMISSION
    assert mmu.counts.walks == 2
    table.protect(BASE, "4K", "rw")  # more rights: the stale entry heals by itself
    assert mmu.access(BASE, "w").status == Status.OK


def test_faults_are_never_cached(table) -> None:
    mmu = Mmu(table, Tlb(SMALL), WalkCache({1: 4}))
    va = BASE + 0x5000
    assert [mmu.access(va).status for _ in range(2)] == [Status.NOT_PRESENT] * 2
    table.map(va, 0x9000, "4K")
    assert mmu.access(va).pa == 0x9000


def test_a_global_page_serves_every_tag() -> None:
    memory = ptcore.PhysicalMemory("1M")
    table = ptcore.PageTable("x86_64_4level", memory)
    table.map(BASE, 0x1000, "4K", global_=True)
    table.map(BASE + 0x1000, 0x2000, "4K")
    tlb = Tlb(SMALL)
    first, second = Mmu(table, tlb, asid=1), Mmu(table, tlb, asid=2)
    for va in (BASE, BASE + 0x1000):
        first.access(va)
    assert [second.access(va).code for va in (BASE, BASE + 0x1000)] == [0, WALK]
    assert first.invalidate_all(keep_global=True) > 0
    assert first.access(BASE).code == 0


@pytest.mark.parametrize("status", ["NOT_CANONICAL", "BUS", "RESERVED_BITS"])
def test_what_a_walk_can_end_with_is_the_outcome(table, status: str) -> None:
    va = BASE
    path = table.walk(BASE).path
    if status == "NOT_CANONICAL":
        va = 1 << 63
    elif status == "BUS":
        table.memory.write_word(path[1].entry_address, 0x7FFF_FFFF_F003)
    else:
        table.memory.write_word(path[0].entry_address, path[0].entry | 1 << 7)
    mmu = Mmu(table, Tlb(SMALL), WalkCache({3: 1, 1: 1}))
    for _ in range(2):
        outcome = mmu.access(va)
        assert (outcome.status.name, outcome.code, outcome.pa) == (status, FAULT, None)
    assert len(mmu.tlb) == 0


@pytest.mark.parametrize(
    ("vas", "kinds", "error"),
    [
        ([-1], None, OutOfRange),
        ([1 << 64], None, OutOfRange),
        ([1.5], None, TypeError),
        (["x"], None, TypeError),
        ([0], "rw", ValueError),
        ([0], "", ValueError),
        ([0, 1], ["r"], ValueError),
        ([0, 1], ["r", "q"], ValueError),
    ],
)
def test_a_batch_that_makes_no_sense_is_refused_and_nothing_is_counted(
    table, vas, kinds, error
) -> None:
    mmu = Mmu(table, Tlb(SMALL))
    with pytest.raises(error):
        mmu.access_many(vas, kinds)
    assert mmu.counts.accesses == 0


def test_a_batch_takes_any_shape_and_any_integers(table) -> None:
    mmu = Mmu(table, Tlb(SMALL))
    assert mmu.access_many(BASE).shape == ()
    assert mmu.access_many(np.full((2, 3), BASE, dtype=np.int64)).tolist() == [[0] * 3] * 2
    assert mmu.access_many(np.array([BASE] * 4, dtype=">u8")[::2]).tolist() == [0, 0]
    assert mmu.access_many([]).tolist() == []
    top = [(1 << 64) - 1, BASE]
    assert mmu.access_many(top, ["r", "r"]).tolist() == [FAULT, 0]
    assert mmu.access_many(np.array(top, dtype=object), "r").tolist() == [FAULT, 0]


def test_accesses_that_leave_64_bits_are_refused(table) -> None:
    mmu = Mmu(table, Tlb(SMALL))
    for first, count, stride in ((1 << 64, 1, 0), (0, 2, 1 << 64), (0, -1, 1), (0, 1, -1)):
        with pytest.raises(OutOfRange):
            mmu.access_span(first, count, stride)
    with pytest.raises(OutOfRange, match="asid"):
        Mmu(table, Tlb(SMALL), asid=1 << 20)
    with pytest.raises(ValueError, match="'rw'"):
        mmu.access(BASE, "rw")


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_a_batch_with_runs_within_pages_is_its_accesses_one_by_one(data) -> None:
    """Across batches the tables change, paid for or not; within one, pages come again and again."""
    memory = ptcore.PhysicalMemory("1M")
    table = ptcore.PageTable("x86_64_4level", memory)
    table.map(BASE, 0x40_0000, 6 * 0x1000, "rw", page_size="4K")
    table.map(BASE + MIB2, 0, "2M", "rw", page_size="2M")
    twins = [Mmu(table, Tlb(SMALL), WalkCache({3: 1, 2: 2, 1: 2})) for _ in range(2)]
    runs = st.lists(st.tuples(st.integers(0, 9), st.integers(1, 4)), min_size=1, max_size=20)
    repeated = 0
    for _ in range(data.draw(st.integers(1, 4))):
        pages = [page for page, times in data.draw(runs) for _ in range(times)]
        vas = [BASE + p * 0x1000 if p < 7 else BASE + MIB2 + p * 0x3000 for p in pages]
        whole = twins[0].access_many(np.array(vas, dtype=np.uint64))
        assert whole.tolist() == [twins[1].access(va).code for va in vas]
        assert twins[0].counts == twins[1].counts
        repeated += len(vas) - len(set(vas))
        page = BASE + data.draw(st.integers(0, 5)) * 0x1000
        if table.walk(page).pa is not None and data.draw(st.booleans()):
            owed = table.unmap(page, "4K")
            if data.draw(st.booleans()):
                for mmu in twins:
                    mmu.invalidate(page, page + 0xFFF)
            owed.discharge()
    SEEN["pages of a batch that came again"] += repeated


def test_batches_did_come_back_to_pages() -> None:
    assert SEEN["pages of a batch that came again"] > 100
