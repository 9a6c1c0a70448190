"""The laws that every strategy obeys, on real tables and real TLB contents, in every format it claims."""

from __future__ import annotations

from collections import Counter
from itertools import count, pairwise

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ptcore import strategies
from ptcore.errors import MapError, NoAddressSpace, NoFrame, NotAllocated
from ptcore.machine import Event, Handle, Machine, Request, Strategy
from ptcore.memory import PhysicalMemory
from ptcore.strategies import UnknownStrategy
from ptcore.strategies.iommu import Iommu
from ptcore.strategies.vm_map_ram import VmMapRam
from ptcore.strategies.vmalloc import Vmalloc
from ptcore.table import Owed, PageTable
from ptcore.units import Span

CPUS = 2
PAGE = 4096
NAMES = strategies.names()
FORMATS = ("x86_64_4level", "x86_64_5level", "aarch64_4k_48", "sv39", "sv48")
EXAMPLES = 25  # in the first format; a few in the others
EXAMPLES_ELSEWHERE = 4
LAZY = (
    "vmalloc_lazy",
    "page_table_cache+vmalloc_lazy",
    "ephemeral_map",
    "unmapped_pool",
    "iommu_deferred",
    "hybrid",
    "iommu_single_queue",
    "vm_map_ram",
    "vmalloc_huge",
    "vmalloc_prebuilt",
    "page_table_cache+unmapped_pool",
)
# In these, freed memory is never reachable, at any time.
EAGER = (
    *("vmalloc_eager", "ephemeral_map_eager", "naive_unmap", "kmap_local"),
    *("iommu_strict", "iommu_ats", "iommu_nested", "iommu_incoherent"),
)
# In these, what is allocated is mapped nowhere but while it is touched.
UNMAPPED = ("naive_unmap", "kmap_local", "unmapped_pool")
MOST_PAGES = {"naive_unmap": 40, "kmap_local": 40}  # they work page by page, and say so
NEEDS_TABLES = ("vmalloc_lazy", "vmalloc_eager", "vmalloc_huge", "vm_map_ram", "iommu_strict")
NESTED = ("iommu_nested",)  # its tables lie in a guest's memory
UNTRANSLATED = ("iommu_passthrough",)
OUTCOMES: Counter[str] = Counter()

Script = list[tuple[str, int, int, int]]
steps = st.lists(
    st.tuples(
        st.sampled_from(["acquire", "acquire", "access", "access", "release", "release", "idle"]),
        st.integers(0, CPUS - 1),
        st.sampled_from([1, 2, 3, 40, 300, 1500]),
        st.integers(0, 1000),
    ),
    min_size=20,
    max_size=50,
)
MIX: Script = [
    (("acquire", "access", "release", "acquire")[n % 4], n % CPUS, (1, 70, 3, 600, 9)[n % 5], n)
    for n in range(90)
]


def examples_of(format: str) -> int:
    """Examples of laws about what is left at the end, beside MIX."""
    return 4 if format == FORMATS[0] else 1


class Untouched(Machine):
    """A machine on which accesses leave no marks in the tables."""

    def access(self, span: Span, cpu: int, kind: str = "r") -> None:
        """Do nothing."""


def made(name: str, format: str = FORMATS[0], ram: str = "1G") -> tuple[Machine, Strategy]:
    platform = Machine(CPUS, format, ram=ram)
    return platform, strategies.find(name).make(platform)


def run(platform: Machine, strategy: Strategy, script: Script, seen: bool = True) -> list[Handle]:
    live: list[Handle] = []
    for number, (verb, cpu, pages, pick) in enumerate(script):
        platform.advance(number * 1000)
        if verb == "acquire":
            device = "nic" if pick % 3 == 0 else None
            pages = min(pages, MOST_PAGES.get(strategy.name, pages))
            sensitive = pick % 4 == 1
            live.append(strategy.acquire(Request(cpu, pages, device=device, sensitive=sensitive)))
        elif verb == "idle":
            strategy.idle()
        elif live and verb == "release":
            strategy.release(live.pop(pick % len(live)), cpu)
        elif live:
            handle = live[pick % len(live)]
            strategy.access(handle, Span.of(0, handle.pages * PAGE), cpu, "w")
        else:
            continue
        OUTCOMES[verb] += 1
        if seen:
            check(platform, strategy, live)
    return live


# -- what is looked at after every step ------------------------------------------------------------


def check(platform: Machine, strategy: Strategy, live: list[Handle]) -> None:
    frames = sorted((h.pa, h.pa + h.pages * PAGE) for h in live)
    assert all(a[1] <= b[0] for a, b in pairwise(frames))
    by_device = [
        h for h in live if h.span is not None and table_of(platform, h) is not platform.table
    ]
    by_cpu = [h for h in live if h.span is not None and table_of(platform, h) is platform.table]
    for of_one in (by_device, by_cpu):
        spans = sorted((h.span.start, h.span.last) for h in of_one)
        assert all(a[1] < b[0] for a, b in pairwise(spans))
    for handle in (*by_device, *by_cpu):
        reaches_its_own(platform, handle)
    held = [(s.start, s.last) for s in platform.stale()]
    for cpu in range(CPUS):
        check_held(platform.mmu(cpu).tlb.entries(), platform.table, held, strategy, frames)
    for device in platform.devices:
        stale = [(s.start, s.last) for s in device.stale()]
        for tlb in (device.mmu.tlb, device.mmu.device_tlb):
            if tlb is not None:
                check_held(tlb.entries(), device.table, stale, strategy, frames)
    if strategy.name in UNMAPPED:
        mapped_nowhere(platform, frames)
    owned = (sum(h.pages for h in live) + kept(strategy)) * PAGE
    assert platform.free_frame_bytes == platform.data_bytes - PAGE - owned


def table_of(platform: Machine, handle: Handle) -> PageTable:
    """The table that a handle's address is of: the device's where that leads to its memory."""
    assert handle.span is not None
    for device in platform.devices:
        pas, status = device.table.translate_many([handle.span.start])
        if not status[0] and int(pas[0]) == handle.pa:
            return device.table
    return platform.table


def reaches_its_own(platform: Machine, handle: Handle) -> None:
    assert handle.span is not None
    offsets = np.arange(handle.pages, dtype=np.uint64) * np.uint64(PAGE)
    pas, status = table_of(platform, handle).translate_many(np.uint64(handle.span.start) + offsets)
    assert not status.any()
    assert np.array_equal(pas, np.uint64(handle.pa) + offsets)


def check_held(entries, table: PageTable, held, strategy: Strategy, frames) -> None:
    """What the tables no longer have may be cached only inside an open window."""
    if not len(entries):
        return
    vas = entries["va"].astype(np.uint64)
    lasts = vas + (np.uint64(1) << entries["page_lg2"].astype(np.uint64)) - np.uint64(1)
    pas, status = table.translate_many(vas)
    lawful = (status == 0) & (pas == entries["pa"].astype(np.uint64))
    OUTCOMES["held, lawful"] += int(lawful.sum())
    OUTCOMES["held, stale"] += int((~lawful).sum())
    for va, last in zip(vas[~lawful].tolist(), lasts[~lawful].tolist(), strict=True):
        assert any(first <= va and last <= end for first, end in held)
    if strategy.name not in EAGER:
        return
    served = np.array(frames, dtype=np.uint64).reshape(-1, 2)
    for pa in entries["pa"][~lawful].tolist():
        assert ((served[:, 0] <= pa) & (pa < served[:, 1])).any(), "freed memory can be reached"


def mapped_nowhere(platform: Machine, frames: list[tuple[int, int]]) -> None:
    rows = platform.table.mappings()
    first = rows["pa"].astype(np.uint64)
    last = first + (rows["last"] - rows["first"]).astype(np.uint64)
    for start, end in frames:
        assert not ((first < end) & (start <= last)).any()


def kept(strategy: Strategy) -> int:
    """Pages that a strategy keeps for later, by its own account."""
    return getattr(strategy, "stranded_pages", 0)


# -- the laws --------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("name", NAMES)
def test_a_released_page_is_unreachable_once_its_window_closes(name: str, format: str) -> None:
    OUTCOMES.clear()
    examples = EXAMPLES if format == FORMATS[0] else EXAMPLES_ELSEWHERE

    @settings(max_examples=examples, deadline=None, derandomize=True)
    @given(steps)
    def follow(script: Script) -> None:
        platform, strategy = made(name, format)
        live = run(platform, strategy, script)
        totals = platform.ledger.totals()
        taken = totals[Event.FRAMES_ALLOCATED][1] - totals[Event.FRAMES_FREED][1]
        assert taken == sum(h.pages for h in live) + kept(strategy)
        tables = totals[Event.TABLES_ALLOCATED][1] - totals[Event.TABLES_FREED][1]
        assert table_frames(platform) == tables
        platform.invalidate(None, 0)
        for device in platform.devices:
            device.invalidate(None, 0)
        assert platform.stale() == ()
        check(platform, strategy, live)

    follow()
    few = 20 if format == FORMATS[0] else 3
    for outcome in ("acquire", "release", "access", "idle"):
        assert OUTCOMES[outcome] > few, OUTCOMES
    reached = OUTCOMES["held, lawful"] + OUTCOMES["held, stale"]
    assert reached > few or name in (*UNTRANSLATED, "naive_unmap", "kmap_local"), OUTCOMES
    if name in LAZY:
        assert OUTCOMES["held, stale"] > few, OUTCOMES


def table_frames(platform: Machine) -> int:
    """The bytes of all tables but roots, of which no row says when they were made."""
    found = platform.memory.frames.allocated_bytes
    tables = [platform.table, *(device.table for device in platform.devices)]
    for device in platform.devices:
        if device.table.memory is not platform.memory:
            room = device.table.memory.frames  # a guest's, taken as a whole
            found += room.allocated_bytes - (room.end - room.start)
            assert device.mmu.second_stage is not None
            tables.append(device.mmu.second_stage)
    return found - sum(table.format.table_bytes(table.format.top_level) for table in tables)


@pytest.mark.parametrize("name", NAMES)
def test_the_same_steps_give_the_same_ledger_bit_for_bit(name: str) -> None:
    ledgers = []
    for _ in range(2):
        platform, strategy = made(name)
        run(platform, strategy, MIX, seen=False)
        ledgers.append(platform.ledger.rows())
    assert len(ledgers[0]) > 90
    assert np.array_equal(ledgers[0], ledgers[1])


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("name", NAMES)
def test_replaying_a_ledger_gives_the_same_tables_bit_for_bit(name: str, format: str) -> None:
    @settings(max_examples=examples_of(format), deadline=None, derandomize=True)
    @example(MIX)
    @given(steps)
    def follow(script: Script) -> None:
        same_tables(name, format, script)

    follow()


def same_tables(name: str, format: str, script: Script) -> None:
    platform = Untouched(CPUS, format, ram="1G")
    strategy = strategies.find(name).make(platform)
    # What a device touches leaves marks: its accesses are left out.
    by_device = bool(platform.devices)
    script = [step for step in script if step[0] != "access"] if by_device else script
    run(platform, strategy, script, seen=False)
    again = replayed_after_boot(platform) if name in NESTED else replayed(platform)
    size = platform.memory.size - platform.data_bytes
    found = platform.memory.read(platform.data_bytes, size)
    assert found.count(0) < size - 4 or strategy.name in UNTRANSLATED
    OUTCOMES["replayed"] += 1
    same = again.read(platform.data_bytes, size) == found  # outside of assert: no diff of megabytes
    assert same


def replayed(platform: Machine) -> PhysicalMemory:
    """Carry out the edits that a ledger has, on tables of the same kinds in a memory of the same size."""
    size = platform.memory.size
    memory = PhysicalMemory(size, frames=(platform.data_bytes, size - platform.data_bytes))
    tables = {frozenset(): PageTable(platform.table.format, memory)}
    follow_ledger(platform, memory, tables, first_row=0)
    return memory


def replayed_after_boot(platform: Machine) -> PhysicalMemory:
    """The same from where the strategy begins, for tables that no row says the place of: a guest's."""
    booted = Untouched(CPUS, platform.table.format, ram=platform.memory.size)
    strategies.find(NESTED[0]).make(booted)
    tables = {frozenset(): booted.table}
    tables |= {frozenset({device.number}): device.table for device in booted.devices}
    assert len(platform.ledger) > len(booted.ledger)
    follow_ledger(platform, booted.memory, tables, first_row=len(booted.ledger))
    return booted.memory


def follow_ledger(
    platform: Machine,
    memory: PhysicalMemory,
    tables: dict[frozenset[int], PageTable],
    first_row: int,
) -> None:
    pending: list[Owed] = []
    rows = platform.ledger.rows(first_row)
    for number, row in enumerate(rows):
        for device in platform.devices:  # no row says when its root was made: after what lies below
            named = frozenset({device.number})
            below = device.table.root - platform.data_bytes
            if named not in tables and memory.frames.allocated_bytes == below:
                tables[named] = PageTable(device.table.format, memory)
        event, first, length = (
            int(row["event"]),
            int(row["first"]),
            int(row["last"] - row["first"]) + 1,
        )
        table = tables.get(platform.ledger.cpu_set(int(row["cpus"])), tables[frozenset()])
        page_size = 1 << int(row["page_lg2"]) if row["page_lg2"] else None
        if event == Event.TABLES_ALLOCATED and rows["event"][number + 1] != Event.ENTRIES_WRITTEN:
            for _ in range(int(row["count"]) // PAGE):  # tables that no item points to: contexts
                memory.frames.allocate()
        elif event == Event.MAPPED:
            pending.append(table.map(first, int(row["pa"]), length, page_size=page_size))
        elif event == Event.UNMAPPED:
            pending.append(table.unmap(first, length, free_tables=False))
        elif event == Event.SPLIT:
            assert page_size is not None
            pending.append(table.split(first, length, page_size))
        elif event == Event.TABLES_FREED and row["count"]:
            done = next(o for o in pending if sum(s for _, s in o.tables) == row["count"])
            pending.remove(done)
            done.discharge()


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("name", NAMES)
def test_idle_at_any_time_changes_cost_and_never_correctness(name: str, format: str) -> None:
    @settings(max_examples=examples_of(format), deadline=None, derandomize=True)
    @example(MIX, frozenset(range(0, len(MIX), 3)))
    @given(steps, st.frozensets(st.integers(0, 49)))
    def follow(script: Script, places: frozenset[int]) -> None:
        script = [step for step in script if step[0] != "idle"]
        seen = format == FORMATS[0] and len(script) > 50  # MIX is looked at after every step
        found = [
            at_the_end(name, format, with_idle(script, at), seen)
            for at in (frozenset(), places, frozenset(range(len(script))))
        ]
        assert found[0] == found[1] == found[2]
        OUTCOMES["idle among"] += len(places & set(range(len(script))))

    OUTCOMES.clear()
    follow()
    assert OUTCOMES["idle among"] >= 30
    assert OUTCOMES["release"] > 60


def with_idle(script: Script, places: frozenset[int]) -> Script:
    idle: Script = [("idle", 0, 1, 0)]
    return [s for n, step in enumerate(script) for s in ((step, *idle) if n in places else (step,))]


def at_the_end(name: str, format: str, script: Script, seen: bool) -> tuple[object, ...]:
    """Run, release all, let time pass: what is reachable, kept and free then."""
    platform, strategy = made(name, format)
    for handle in run(platform, strategy, script, seen):
        strategy.release(handle, 0)
    strategy.idle()
    platform.advance(10**11)
    platform.invalidate(None, 0)
    check(platform, strategy, [])
    return reachable(platform.table), kept(strategy), platform.free_frame_bytes


def reachable(table: PageTable) -> list[tuple[int, int, int]]:
    """What translates, whatever the leaves: (first, last, pa), merged."""
    found: list[tuple[int, int, int]] = []
    for row in table.mappings():
        first, last, pa = int(row["first"]), int(row["last"]), int(row["pa"])
        if found and found[-1][1] + 1 == first and found[-1][2] + first - found[-1][0] == pa:
            found[-1] = (found[-1][0], last, found[-1][2])
        else:
            found.append((first, last, pa))
    return found


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("name", NAMES)
def test_a_strategy_never_touches_what_it_does_not_own(name: str, format: str) -> None:
    platform, strategy = made(name, format)
    frames = platform.allocate_frames(64, 0)
    # Somebody else's: above the kernel's ranges of every strategy, and its own frames behind it.
    own = platform.table.legal_spans()[-1].last + 1 - (64 << 20)
    platform.map(own, frames, 64 * PAGE, 0, page_size=PAGE)
    platform.access(Span.of(own, 64 * PAGE), 1, "w")
    tables = platform.memory.frames.allocated_bytes
    live: list[Handle] = []
    for number in range(40):
        live.append(strategy.acquire(Request(number % CPUS, 1 + number % 40)))
        strategy.access(live[-1], Span.of(0, PAGE), 0, "w")
        if number % 3:
            strategy.release(live.pop(number % len(live)), 1)
    assert all(h.pa + h.pages * PAGE <= frames or frames + 64 * PAGE <= h.pa for h in live)
    for handle in live:
        strategy.release(handle, 0)
    strategy.idle()
    pas, status = platform.table.translate_many(
        own + np.arange(64, dtype=np.uint64) * np.uint64(PAGE)
    )
    assert not status.any()
    assert pas.tolist() == list(range(frames, frames + 64 * PAGE, PAGE))
    assert platform.memory.frames.allocated_bytes >= tables
    platform.unmap(own, 64 * PAGE, 0)
    platform.invalidate(Span.of(own, 64 * PAGE), 0)
    platform.free_frames(frames, 64, 0)
    assert platform.free_frame_bytes == platform.data_bytes - PAGE - kept(strategy) * PAGE


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("name", NAMES)
def test_running_out_of_frames_is_said_and_leaks_nothing(name: str, format: str) -> None:
    platform, strategy = made(name, format, ram="256M")
    free = platform.free_frame_bytes
    with pytest.raises(NoFrame):
        strategy.acquire(Request(0, free // PAGE + 1))
    assert platform.free_frame_bytes == free
    handle = strategy.acquire(Request(0, 64))
    strategy.release(handle, 1)
    strategy.idle()
    assert platform.free_frame_bytes == free


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("name", NAMES)
def test_running_out_of_tables_is_said_and_leaks_nothing(name: str, format: str) -> None:
    platform, strategy = made(name, format, ram="256M")
    free = platform.free_frame_bytes
    tables = platform.memory.frames
    others = []
    while tables.allocated_bytes < tables.end - tables.start:
        others.append(tables.allocate())
    refused = 0
    for pages in (1, 300, 1500, 4000):
        try:
            handle = strategy.acquire(
                Request(0, min(pages, MOST_PAGES.get(name, pages)), device="nic")
            )
        except MapError:
            refused += 1
        else:
            strategy.release(handle, 0)
    strategy.idle()
    platform.invalidate(None, 0)
    assert platform.free_frame_bytes == free - kept(strategy) * PAGE
    for other in others:
        tables.free(other)
    handle = strategy.acquire(Request(0, 64, device="nic"))
    strategy.access(handle, Span.of(0, 64 * PAGE), 0, "w")
    check(platform, strategy, [handle])
    if strategy.name in NEEDS_TABLES:
        assert refused
    elif strategy.name == "vmalloc_prebuilt":
        assert not refused, "its tables were built before"


def filled(
    strategy: Strategy, live: list[Handle], pages: int, free_every: int = 0
) -> type[MapError]:
    """Acquire until it is refused, and give some back in between; return what was raised."""
    for number in count():
        try:
            live.append(strategy.acquire(Request(number % CPUS, pages, device="nic")))
        except MapError as error:
            return type(error)
        if free_every and number % free_every == 0:
            strategy.release(live.pop(0), 0)
    raise AssertionError


@pytest.mark.parametrize("maker", [Vmalloc, VmMapRam])
def test_running_out_of_addresses_is_said_and_leaks_nothing(maker: type[Vmalloc]) -> None:
    platform = Machine(CPUS, ram="1G")
    options = {} if maker is VmMapRam else {"lazy": True}
    room = Span.of(0xFFFF_C900_0000_0000, 16 << 20)
    strategy = maker(platform, span=room, **options)
    free = platform.free_frame_bytes
    live: list[Handle] = []
    assert filled(strategy, live, pages=50, free_every=3) is NoAddressSpace
    assert len(live) > 20
    check(platform, strategy, live)
    for handle in live:
        strategy.release(handle, 1)
    assert platform.free_frame_bytes == free
    drains = platform.ledger.totals()[Event.DRAINED][0]
    # What is lazy or fragmented is drained before an error is raised.
    strategy.acquire(Request(0, 3000))
    assert platform.ledger.totals()[Event.DRAINED][0] == drains + 1


def test_a_full_space_of_io_addresses_is_said_and_leaks_nothing() -> None:
    platform = Machine(CPUS, ram="4G")
    strategy = Iommu(platform, deferred=False, last_page=1023)
    free = platform.free_frame_bytes
    live: list[Handle] = []
    assert filled(strategy, live, pages=24) is NoAddressSpace
    assert len(live) == 31  # of 32 pages each; page 0 is nobody's
    assert platform.free_frame_bytes == free - len(live) * 24 * PAGE
    for handle in live:
        strategy.release(handle, 0)
    assert platform.free_frame_bytes == free


@pytest.mark.parametrize("name", [name for name in NAMES if name != "direct_map"])
def test_what_was_released_cannot_be_used_or_released_again(name: str) -> None:
    platform, strategy = made(name)
    handle = strategy.acquire(Request(0, 2))
    strategy.release(handle, 0)
    rows = len(platform.ledger)
    with pytest.raises(NotAllocated):
        strategy.release(handle, 0)
    with pytest.raises(NotAllocated):
        strategy.access(handle, Span.of(0, PAGE), 0, "r")
    assert len(platform.ledger) == rows


def test_hot_pages_find_their_slot_again() -> None:
    platform, strategy = made("page_table_cache+vmalloc_lazy")
    handle = strategy.acquire(Request(0, 4))
    for _ in range(3):
        strategy.access(handle, Span.of(0, 4 * PAGE), 0, "r")
    totals = platform.ledger.totals()
    assert totals[Event.CACHE_MISS][1] == 4
    assert totals[Event.CACHE_HIT][1] == 8


def test_an_unknown_strategy_lists_the_nearest() -> None:
    with pytest.raises(UnknownStrategy, match="vmalloc_lazy"):
        strategies.get("vmaloc_lazy")
