"""Memory that is read through a user's own reader: lists of pages, one list per level, nothing twice."""

from __future__ import annotations

import gc
import threading
from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ptcore
from ptcore import Nested, PageTable, PhysicalMemory, Span, Status, guest_memory
from ptcore.errors import BusError, ImageError, MapError, OutOfRange

PAGE = 4096
MIB = 1 << 20


class CountingReader:
    """Reads another memory, and keeps the lists that it was asked for."""

    def __init__(
        self,
        memory: PhysicalMemory,
        spans: Sequence[Span] | None = None,
        page_bytes: int = PAGE,
        absent: Sequence[int] = (),
    ) -> None:
        self.memory = memory
        self.spans = spans if spans is not None else memory.segments
        self.page_bytes = page_bytes
        self.absent = set(absent)
        self.lists: list[list[int]] = []

    def read_pages(self, pas: npt.NDArray[np.uint64]) -> list[bytes | None]:
        assert pas.dtype == np.uint64
        asked = pas.tolist()
        assert asked == sorted(set(asked))
        assert all(pa % self.page_bytes == 0 for pa in asked)
        self.lists.append(asked)
        return [
            None if pa in self.absent else self.memory.read(pa, self.page_bytes) for pa in asked
        ]

    @property
    def pages(self) -> Counter[int]:
        return Counter(pa for asked in self.lists for pa in asked)


def sample(ram: PhysicalMemory | None = None) -> PageTable:
    """A table with pages of every size, a subtree that hangs twice, and a hole."""
    table = PageTable("x86_64_4level", ram or PhysicalMemory("64M"))
    for n in range(300):
        table.map((n << 30) | (n << 12), (n % 7) << 12, PAGE)
    table.map(1 << 46, 0, "2M", page_size="2M")
    table.map(-(1 << 31) & (1 << 64) - 1, 1 << 30, "1G", page_size="1G")
    return table


def lazily(table: PageTable, **options: object) -> tuple[CountingReader, PhysicalMemory, PageTable]:
    reader = CountingReader(table.memory, **options)  # type: ignore[arg-type]
    memory = PhysicalMemory.from_reader(reader)
    return reader, memory, PageTable(table.format, memory, table.root)


# -- one list per level --------------------------------------------------------------------------


def test_making_a_table_reads_nothing_and_a_walk_reads_one_page_per_level() -> None:
    table = sample()
    reader, memory, lazy = lazily(table)
    assert reader.lists == []
    assert memory.fetched_bytes == 0
    assert lazy.walk(5 << 30 | 5 << 12) == table.walk(5 << 30 | 5 << 12)
    assert [len(asked) for asked in reader.lists] == [1, 1, 1, 1]
    assert lazy.translate(5 << 30 | 5 << 12) == 5 << 12
    assert len(reader.lists) == 4
    assert memory.fetched_bytes == 4 * PAGE


def test_a_batch_costs_one_list_per_level_however_many_addresses() -> None:
    table = sample()
    reader, _, lazy = lazily(table)
    vas = np.array([(n << 30) | (n << 12) | 7 for n in range(300)] * 40, dtype=np.uint64)
    pas, statuses = lazy.translate_many(vas)
    expected = table.translate_many(vas)
    assert (pas == expected[0]).all()
    assert (statuses == expected[1]).all()
    assert len(reader.lists) == 4
    assert max(reader.pages.values()) == 1
    assert len(reader.lists[-1]) == 300


@pytest.mark.parametrize("verb", ["mappings", "stats", "reverse", "harvest", "diff"])
def test_a_listing_costs_one_list_per_level(verb: str) -> None:
    table = sample()
    reader, _, lazy = lazily(table)
    if verb == "mappings":
        assert (lazy.mappings() == table.mappings()).all()
        assert len(table.mappings()) > 300
    elif verb == "stats":
        assert lazy.stats() == table.stats()
    elif verb == "reverse":
        assert (lazy.reverse(0x3000) == table.reverse(0x3000)).all()
        assert len(table.reverse(0x3000)) > 40
    elif verb == "harvest":
        found, owed = lazy.harvest("accessed", clear=False)
        assert (found == table.harvest("accessed", clear=False)[0]).all()
        assert not owed.spans
    else:
        assert len(ptcore.diff(table, lazy)) == 0
    assert 1 <= len(reader.lists) <= 4
    assert max(reader.pages.values()) == 1
    assert len(reader.pages) == sum(table.stats().tables)


@pytest.mark.parametrize("page_bytes", [256, 4096, 65536])
def test_pages_of_any_size_and_spans_that_begin_anywhere(page_bytes: int) -> None:
    segments = [(0x10000, "1M"), (0x40000000, "1M")]
    ram = PhysicalMemory(segments=segments, frames=(0x20000, "64K"))
    table = PageTable("x86_64_4level", ram)
    table.map(0, 0x3000, "64K")
    spans = [Span(0x10000 + 8, 0x10000 + MIB - 9), Span(0x40000010, 0x4000001F)]
    reader = CountingReader(ram, spans, page_bytes)
    memory = PhysicalMemory.from_reader(reader)
    assert memory.segments == tuple(spans)
    assert memory.read(0x40000010, 16) == bytes(16)
    with pytest.raises(OutOfRange, match="no segment"):
        memory.read(0x10000, 8)
    lazy = PageTable("x86_64_4level", memory, table.root)
    assert lazy.translate(0x5123) == 0x8123
    assert max(reader.pages.values()) == 1


# -- pages that are not there --------------------------------------------------------------------


def test_pages_that_the_reader_lacks_are_bus_and_are_asked_for_once() -> None:
    table = sample()
    lost = table.walk(7 << 30 | 7 << 12).path[-1].table
    reader, memory, lazy = lazily(table, absent=[lost])
    vas = np.array([n << 30 | n << 12 for n in range(300)], dtype=np.uint64)
    _, statuses = lazy.translate_many(vas)
    assert Counter(statuses.tolist()) == {Status.OK: 299, Status.BUS: 1}
    assert statuses[7] == Status.BUS
    with pytest.raises(BusError):
        lazy.translate(int(vas[7]))
    assert lazy.walk(int(vas[7])).status is Status.BUS
    assert lazy.stats().outside[0] == 512
    assert len(lazy.mappings()) == len(table.mappings())  # an OUTSIDE row for the page that is lost
    assert reader.pages[lost] == 1
    assert lost not in memory
    assert lost + PAGE in memory
    with pytest.raises(OutOfRange, match="lacks pages"):
        memory.read(lost - 4, 8)


def test_a_root_that_is_outside_is_refused_and_one_that_is_lost_is_bus() -> None:
    table = sample()
    _, memory, lazy = lazily(table, absent=[table.root])
    assert lazy.walk(0).status is Status.BUS
    with pytest.raises(OutOfRange):
        PageTable("x86_64_4level", memory, 1 << 40)


def test_a_reader_that_fails_is_asked_again() -> None:
    class Failing(CountingReader):
        broken = True

        def read_pages(self, pas: npt.NDArray[np.uint64]) -> list[bytes | None]:
            found = super().read_pages(pas)
            if self.broken:
                raise ConnectionError("the machine is gone")
            return found

    table = sample()
    reader = Failing(table.memory)
    lazy = PageTable(table.format, PhysicalMemory.from_reader(reader), table.root)
    for _ in range(2):
        with pytest.raises(ConnectionError):
            lazy.translate(0)
    reader.broken = False
    assert lazy.translate(0) == 0
    assert reader.pages[table.root] == 3


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda pas: [], "0 pages for 1"),
        (lambda pas: [b"short"] * len(pas), "5 bytes for a page of 4096"),
    ],
)
def test_a_reader_that_answers_wrongly_is_told_so(answer: object, words: str) -> None:
    reader = CountingReader(PhysicalMemory("1M"))
    reader.read_pages = answer  # type: ignore[assignment]
    memory = PhysicalMemory.from_reader(reader)
    with pytest.raises(ImageError, match=words):
        memory.read(0, 8)


def test_an_array_is_an_answer_too() -> None:
    reader = CountingReader(PhysicalMemory("1M"))
    reader.read_pages = lambda pas: np.repeat(  # type: ignore[assignment, method-assign]
        (pas // PAGE).astype(np.uint8)[:, None], PAGE, axis=1
    )
    memory = PhysicalMemory.from_reader(reader)
    assert memory.read(0x3FFE, 4) == b"\3\3\4\4"


@pytest.mark.parametrize("page_bytes", [0, 3, 8, 1 << 31])
def test_a_page_size_is_a_power_of_two(page_bytes: int) -> None:
    with pytest.raises(OutOfRange, match="power of two"):
        PhysicalMemory.from_reader(CountingReader(PhysicalMemory("1M"), page_bytes=page_bytes))


def test_lazy_memory_is_read_only() -> None:
    table = sample()
    _, memory, lazy = lazily(table)
    assert not memory.writable
    with pytest.raises(MapError, match="read-only"):
        lazy.map(0x123000, 0, PAGE)
    with pytest.raises(MapError, match="read-only"):
        lazy.harvest("dirty")
    with pytest.raises(MapError, match="read-only"):
        memory.write(0, b"x")


# -- snapshot and refresh ------------------------------------------------------------------------


def test_what_was_read_stays_until_it_is_refreshed() -> None:
    table = sample()
    reader, memory, lazy = lazily(table)
    assert lazy.translate(0x40001000) == 0x1000
    table.protect(0x40001000, PAGE, access="r")
    table.unmap(0x80002000, PAGE)
    assert lazy.walk(0x40001000).rights != table.walk(0x40001000).rights
    assert lazy.walk(0x80002000).status is Status.NOT_PRESENT  # its page was not read before
    memory.refresh()
    assert memory.fetched_bytes == 0
    assert lazy.walk(0x40001000) == table.walk(0x40001000)
    assert reader.pages[table.root] == 2


def test_a_snapshot_is_of_what_was_read_and_asks_for_nothing() -> None:
    table = sample()
    reader, memory, lazy = lazily(table)
    lazy.mappings()
    asked = len(reader.lists)
    before = memory.snapshot()
    assert before.fetched_bytes == memory.fetched_bytes == PAGE * len(reader.pages)
    table.unmap(0x40001000, PAGE)
    memory.refresh()
    then = PageTable(table.format, before, table.root)
    changed = ptcore.diff(then, lazy)
    assert [(row["first"], row["last"]) for row in changed] == [(0x40001000, 0x40001FFF)]
    assert (64 * MIB - PAGE) not in before
    before.refresh()
    assert then.translate(0x40001000) == 0x1000
    assert len(reader.lists) == asked + 4


def test_only_memory_that_does_not_change_is_its_own_snapshot() -> None:
    ram = PhysicalMemory("1M")
    with pytest.raises(TypeError, match="snapshots"):
        ram.snapshot()
    fixed = PhysicalMemory.from_buffer(bytes(PAGE))
    assert fixed.snapshot() is fixed
    fixed.refresh()
    assert fixed.fetched_bytes == 0


def test_a_long_read_asks_in_lists_of_16_mib() -> None:
    reader = CountingReader(PhysicalMemory("64M"))
    memory = PhysicalMemory.from_reader(reader)
    assert memory.read(PAGE - 8, 40 << 20) == bytes(40 << 20)
    assert [len(asked) for asked in reader.lists] == [4097, 4096, 2048]


def test_a_list_can_be_fetched_ahead() -> None:
    reader = CountingReader(PhysicalMemory("1M"))
    memory = PhysicalMemory.from_reader(reader)
    memory.fetch([0x5000, 0x5008, 0x7FFF, 1 << 50])
    assert reader.lists == [[0x5000, 0x7000]]
    memory.read(0x5000, PAGE)
    memory.fetch([0x5000])
    assert len(reader.lists) == 1


# -- views, two stages, caches -------------------------------------------------------------------


def two_stages() -> tuple[PhysicalMemory, PageTable, int]:
    host = PhysicalMemory("64M", frames=(0, "16M"))
    stage2 = PageTable("ept_4level", host)
    stage2.map(0, 32 * MIB, "16M", access="rwx", page_size="4K")
    guest = guest_memory(stage2, frames=(MIB, "4M"))
    stage1 = PageTable("x86_64_4level", guest)
    for n in range(64):
        stage1.map(n << 30, n << 12, PAGE)
    return host, stage2, stage1.root


def test_two_stages_over_lazy_memory() -> None:
    host, stage2, root = two_stages()
    reader = CountingReader(host)
    live = PhysicalMemory.from_reader(reader)
    lazy2 = PageTable(stage2.format, live, stage2.root)
    guest = guest_memory(lazy2)
    assert not guest.writable
    lists = len(reader.lists)
    assert lists == 4
    both = Nested(PageTable("x86_64_4level", guest, root), lazy2)
    vas = np.array([n << 30 | 0x123 for n in range(70)], dtype=np.uint64)
    pas, statuses = both.translate_many(vas)
    assert len(reader.lists) == lists + 4
    assert pas[:64].tolist() == [32 * MIB + (n << 12 | 0x123) for n in range(64)]
    assert Counter(statuses.tolist()) == {Status.OK: 64, Status.NOT_PRESENT: 6}
    assert both.walk(5 << 30).references == 24
    assert len(both.mappings()) == 64
    live.refresh()
    assert both.translate(3 << 30) == 32 * MIB + 0x3000


def test_an_mmu_reads_all_tables_when_it_takes_up_a_space() -> None:
    table = sample()
    reader, _, lazy = lazily(table)
    mmu = ptcore.Mmu(lazy, ptcore.Tlb.preset("zen4"))
    lists = len(reader.lists)
    assert 1 <= lists <= 4
    vas = np.array([n << 30 | n << 12 for n in range(300)], dtype=np.uint64)
    assert mmu.access_many(vas).tolist() == [ptcore.caches.mmu.WALK] * 300
    assert len(reader.lists) == lists


# -- against memory that is simply here ----------------------------------------------------------


def test_lazy_and_plain_memory_agree_on_arbitrary_bytes() -> None:
    """Random items: every address ends alike, whichever pages the reader lacks."""
    ends = Counter[int]()

    @settings(max_examples=40, deadline=None, database=None)
    @given(st.integers(0, 2**32 - 1), st.sets(st.integers(0, 31), max_size=6))
    def compare(seed: int, lost: set[int]) -> None:
        random = np.random.default_rng(seed)
        items = (random.integers(0, 40, 32 * 512, dtype=np.uint64) << np.uint64(12)) | np.uint64(3)
        items |= random.choice(np.array([0, 0, 0, 1 << 7], dtype=np.uint64), 32 * 512)
        items[random.random(32 * 512) < 0.2] = 0
        content = items.tobytes()
        here = [(n * PAGE, content[n * PAGE : (n + 1) * PAGE]) for n in range(32) if n not in lost]
        plain = PhysicalMemory.from_buffers([*here, (1 << 30, bytes(PAGE))])
        source = PhysicalMemory.from_buffers([(0, content), (1 << 30, bytes(PAGE))])
        reader = CountingReader(source, absent=[n * PAGE for n in lost])
        lazy = PageTable("x86_64_4level", PhysicalMemory.from_reader(reader), 0)
        if 0 in lost:
            assert lazy.walk(0).status is Status.BUS
            return
        table = PageTable("x86_64_4level", plain, 0)
        vas = random.integers(0, 1 << 47, 500, dtype=np.uint64)
        expected, found = table.translate_many(vas), lazy.translate_many(vas)
        assert (expected[0] == found[0]).all()
        assert (expected[1] == found[1]).all()
        assert len(reader.lists) <= 4
        ends.update(found[1].tolist())
        assert lazy.stats() == table.stats()

    compare()
    assert min(ends[status] for status in (0, Status.NOT_PRESENT, Status.BUS)) > 100


def test_threads_share_what_is_fetched() -> None:
    table = sample()
    reader, memory, lazy = lazily(table)
    vas = np.array([n << 30 | n << 12 for n in range(300)] * 100, dtype=np.uint64)
    expected = table.translate_many(vas)
    wrong: list[object] = []

    def run() -> None:
        for _ in range(5):
            found = lazy.translate_many(vas)
            if not ((found[0] == expected[0]).all() and (found[1] == expected[1]).all()):
                wrong.append(found)

    threads = [threading.Thread(target=run) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert max(reader.pages.values()) == 1
    assert memory.fetched_bytes == PAGE * len(reader.pages)


def test_views_keep_the_pages_alive() -> None:
    ram = PhysicalMemory("1M")
    ram.write(0x5000, b"here")
    view = PhysicalMemory.view(PhysicalMemory.from_reader(CountingReader(ram)), [(0, 0x5000, PAGE)])
    gc.collect()
    assert view.read(0, 4) == b"here"
