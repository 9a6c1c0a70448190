"""PageTable against the naive oracle and against QEMU's MMU, on plausible and on random tables."""

from __future__ import annotations

import bisect
import ctypes
import itertools
import mmap
import random
from collections import Counter, namedtuple
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ptcore
from oracles import plausible, unicorn_mmu, x86_64
from ptcore.errors import Fault, Status

ACCESSES = [(access, user) for user in (False, True) for access in "rwx"]
ALL_ONES = (1 << 64) - 1

STATUS = {
    "ok": Status.OK,
    "not_present": Status.NOT_PRESENT,
    "reserved_bits": Status.RESERVED_BITS,
    "not_canonical": Status.NOT_CANONICAL,
    "bus": Status.BUS,
    "denied": Status.PERMISSION,
}
OUTCOMES_OF_A_TRANSLATION = tuple(status.name for status in STATUS.values())

# 4 KiB, 2 MiB and 1 GiB pages are mapped by entries of levels 0, 1 and 2 (level 0 = granule).
LEVEL_OF_NAME = {"PTE": 0, "PDE": 1, "PDPTE": 2, "PML4E": 3, "PML5E": 4}


@dataclass(frozen=True)
class Setting:
    """One machine: what the images are made for and what PageTable is told."""

    levels: int
    maxphyaddr: int = 40
    nxe: bool = True
    page1gb: bool = True
    encryption_mask: int = 0

    @property
    def shape(self) -> plausible.Shape:
        return plausible.Shape(self.levels, self.maxphyaddr, self.nxe, self.encryption_mask)

    def table(self, image: plausible.Image, memory: ptcore.PhysicalMemory | None = None):
        format_ = ptcore.formats.get(
            f"x86_64_{self.levels}level", nx=self.nxe, pages_1g=self.page1gb
        )
        if memory is None:
            memory = ptcore.PhysicalMemory.from_buffer(image.data, start=image.base)
        return ptcore.PageTable(
            format_,
            memory,
            root=image.root,
            physical_bits=self.maxphyaddr,
            encryption_mask=self.encryption_mask,
        )

    def walk(self, image: plausible.Image, va: int) -> x86_64.Result:
        return x86_64.walk(
            image.read8,
            image.root,
            va,
            self.levels,
            self.maxphyaddr,
            self.nxe,
            self.encryption_mask,
            self.page1gb,
        )


SETTINGS = {
    f"{levels} levels, {name}": replace(setting, levels=levels)
    for levels in (4, 5)
    for name, setting in {
        "40 bits": Setting(4),
        "36 bits": Setting(4, maxphyaddr=36),
        "46 bits": Setting(4, maxphyaddr=46),
        "52 bits": Setting(4, maxphyaddr=52),
        "no execute-disable": Setting(4, nxe=False),
        "no 1 GiB pages": Setting(4, page1gb=False),
        "an encryption bit above the width": Setting(4, maxphyaddr=43, encryption_mask=1 << 47),
        "an encryption bit inside the width": Setting(4, maxphyaddr=48, encryption_mask=1 << 47),
    }.items()
}

every_setting = pytest.mark.parametrize("setting", SETTINGS.values(), ids=list(SETTINGS))


def images_of(setting: Setting, count: int, shape: plausible.Shape | None = None):
    for seed in range(count):
        yield plausible.image(random.Random(f"{setting} {seed}"), shape or setting.shape)


class Lazy:
    """A message for an assertion, made only when the assertion fails."""

    def __init__(self, make: Callable[[], str]) -> None:
        self._make = make

    def __repr__(self) -> str:
        return self._make()


def outcome_of(result: x86_64.Result, access: str, user: bool) -> str:
    if result.outcome == "ok" and not x86_64.allowed(result, access, user):
        return "denied"
    return result.outcome


def letters(rights: x86_64.Rights) -> str:
    flags = zip("rwxu", (rights.read, rights.write, rights.execute, rights.user), strict=True)
    return "".join(letter if flag else "-" for letter, flag in flags)


def check_walk(setting: Setting, table, image: plausible.Image, va: int) -> str:
    expected = setting.walk(image, va)
    walk = table.walk(va)
    where = Lazy(lambda: f"{va=:#x} {expected} {walk}")
    assert walk.va == va
    assert walk.status == STATUS[expected.outcome], where
    assert walk.references == expected.references, where
    steps = [(step.level, step.entry_address, step.entry) for step in walk.path]
    assert steps == [(LEVEL_OF_NAME[name], at, word) for name, at, word in expected.path], where
    if expected.rights is None:
        assert walk.pa is None, where
        assert walk.page_size is None, where
        check_fault(setting, walk.fault, expected, va, where)
        return expected.outcome
    assert walk.fault is None, where
    assert (walk.pa, walk.page_size) == (expected.pa, expected.page_size), where
    assert walk.rights == letters(expected.rights), where
    assert walk.global_ == expected.global_, where
    assert walk.memory_type == expected.pat_index, where
    assert walk.pkey == expected.pkey, where
    assert (walk.accessed, walk.dirty) == (expected.accessed, expected.dirty), where
    return expected.outcome


def check_fault(
    setting: Setting, fault: Fault, expected: x86_64.Result, va: int, where: object
) -> None:
    """A fault names where the walk ended."""
    assert fault.va == va, where
    if expected.outcome in ("not_present", "reserved_bits"):
        name, address, entry = expected.path[-1]
        seen = (fault.level, fault.entry_address, fault.entry)
        assert seen == (LEVEL_OF_NAME[name], address, entry), where
    if expected.outcome == "bus":
        # The level whose table lies outside is the one after the last that was read.
        assert fault.level == setting.levels - 1 - expected.references, where


def check_translate(setting: Setting, table, image: plausible.Image, va: int) -> Counter[str]:
    expected = setting.walk(image, va)
    counts: Counter[str] = Counter()
    for access, user in ACCESSES:
        outcome = outcome_of(expected, access, user)
        status = STATUS[outcome]
        where = Lazy(partial("{:#x} {} user={} {} {}".format, va, access, user, outcome, expected))
        counts[status.name] += 1
        if outcome == "ok":
            assert table.translate(va, access, user) == expected.pa, where
            continue
        with pytest.raises(Fault) as caught:
            table.translate(va, access, user)
        assert caught.value.status == status, where
        check_fault(setting, caught.value, expected, va, where)
        seen = [(step.entry_address, step.entry) for step in caught.value.path]
        assert seen == [(at, word) for _, at, word in expected.path], where
    return counts


def expected_batch(
    setting: Setting, image: plausible.Image, vas: list[int], access: str, user: bool
) -> tuple[list[int], list[int]]:
    pas, statuses = [], []
    for va in vas:
        result = setting.walk(image, va)
        outcome = outcome_of(result, access, user)
        pas.append(result.pa if outcome == "ok" else ALL_ONES)
        statuses.append(int(STATUS[outcome]))
    return pas, statuses


@every_setting
def test_a_walk_finds_what_the_manual_says(setting: Setting) -> None:
    counts: Counter[str] = Counter()
    for image in images_of(setting, 40):
        table = setting.table(image)
        counts.update(check_walk(setting, table, image, va) for va in image.addresses)
    plausible.assert_spread(counts, 0.02, x86_64.OUTCOMES)


@every_setting
def test_translate_allows_and_denies_what_the_manual_says(setting: Setting) -> None:
    counts: Counter[str] = Counter()
    for image in images_of(setting, 12):
        table = setting.table(image)
        for va in image.addresses:
            counts += check_translate(setting, table, image, va)
    plausible.assert_spread(counts, 0.02, OUTCOMES_OF_A_TRANSLATION)


def batch(rng: random.Random, image: plausible.Image) -> list[int]:
    """Batches longer and shorter than any block that a compiled loop may work in.

    Sorted ones and ones of neighbours let an item start where the item before it ended.
    """
    vas = rng.choices(image.addresses, k=rng.choice([1, 2, 63, 64, 65, 300]))
    order = rng.choice(["any", "sorted", "falling", "neighbours"])
    if order == "neighbours":
        steps = (0, 1, 8, 4096, -4096, 1 << 21, -(1 << 30), 1 << 39)
        return [(va + rng.choice(steps)) & ALL_ONES for va in vas[:50] for _ in range(4)]
    return vas if order == "any" else sorted(vas, reverse=order == "falling")


@every_setting
def test_translate_many_gives_what_the_manual_says_for_every_item_of_every_batch(
    setting: Setting,
) -> None:
    counts: Counter[str] = Counter()
    for number, image in enumerate(images_of(setting, 30)):
        table = setting.table(image)
        rng = random.Random(number)
        vas = batch(rng, image)
        for access, user in ACCESSES:
            pas, statuses = table.translate_many(np.array(vas, dtype=np.uint64), access, user)
            assert (pas.dtype, statuses.dtype) == (np.uint64, np.uint8)
            expected_pas, expected_statuses = expected_batch(setting, image, vas, access, user)
            where = f"{number=} {access=} {user=} {[hex(va) for va in vas]}"
            assert statuses.tolist() == expected_statuses, where
            assert pas.tolist() == expected_pas, where
            counts.update(Status(value).name for value in expected_statuses)
    plausible.assert_spread(counts, 0.02, OUTCOMES_OF_A_TRANSLATION)


def test_a_bus_fault_names_the_address_of_the_entry_that_lies_outside_memory() -> None:
    setting = Setting(4)
    seen = 0
    for image in images_of(setting, 10):
        table = setting.table(image)
        for va in image.addresses:
            expected = setting.walk(image, va)
            if expected.outcome == "bus":
                fault = table.walk(va).fault
                assert (fault.entry_address, fault.entry) == (expected.bus_address, None)
                seen += 1
    assert seen > 10


def test_translate_many_of_nothing_is_nothing() -> None:
    setting = Setting(4)
    image = next(images_of(setting, 1))
    pas, statuses = setting.table(image).translate_many(np.array([], dtype=np.uint64))
    assert (len(pas), len(statuses)) == (0, 0)


@pytest.mark.parametrize("levels", [4, 5])
@pytest.mark.parametrize("nxe", [True, False])
def test_translate_and_qemu_give_the_same_address_or_the_same_fault(levels: int, nxe: bool) -> None:
    setting = Setting(levels, maxphyaddr=unicorn_mmu.MAXPHYADDR, nxe=nxe)
    mmu = unicorn_mmu.Mmu(unicorn_mmu.Registers(levels=levels, nxe=nxe))
    counts: Counter[str] = Counter()
    for image in images_of(setting, 30):
        table = setting.table(image)
        mmu.load(image.data, image.base, image.root)
        vas = np.array(image.addresses, dtype=np.uint64)
        for access, user in ACCESSES:
            pas, statuses = table.translate_many(vas, access, user)
            answers = mmu.translate_many(image.addresses, access, user)
            for va, pa, code, answer in zip(
                image.addresses, pas.tolist(), statuses.tolist(), answers, strict=True
            ):
                status = Status(code)
                # A table outside memory reads as zero there: see unicorn_mmu.
                seen = Status.NOT_PRESENT if status == Status.BUS else status
                where = (hex(va), access, user, status, hex(pa), answer)
                assert seen.name.lower() == answer.outcome, where
                assert pa == (ALL_ONES if answer.pa is None else answer.pa), where
                counts[status.name] += 1
    plausible.assert_spread(counts, 0.02, OUTCOMES_OF_A_TRANSLATION)


def in_segments(
    rng: random.Random, whole: plausible.Image
) -> tuple[plausible.Image, ptcore.PhysicalMemory]:
    """Return the image with frames missing (never the root's) in a memory of one-frame segments."""
    size = plausible.FRAME
    frames = len(whole.data) // size
    missing = frozenset(frame for frame in range(1, frames) if rng.random() < 0.1)
    buffers = [
        (whole.base + frame * size, whole.data[frame * size : (frame + 1) * size])
        for frame in range(frames)
        if frame not in missing
    ]
    return replace(whole, missing=missing), ptcore.PhysicalMemory.from_buffers(buffers)


@every_setting
def test_memory_in_many_segments_with_holes_is_one_memory(setting: Setting) -> None:
    counts: Counter[str] = Counter()
    for number, whole in enumerate(images_of(setting, 8)):
        rng = random.Random(number)
        image, memory = in_segments(rng, whole)
        assert len(memory.segments) > 1
        table = setting.table(image, memory)
        counts.update(check_walk(setting, table, image, va) for va in image.addresses)
        vas = batch(rng, image)
        pas, statuses = table.translate_many(np.array(vas, dtype=np.uint64), "w", True)
        expected = expected_batch(setting, image, vas, "w", True)
        assert (pas.tolist(), statuses.tolist()) == expected
    plausible.assert_spread(counts, 0.02, x86_64.OUTCOMES)


@pytest.mark.parametrize("levels", [4, 5])
@pytest.mark.parametrize("spare", [0, 1, 7, 8, 12, 2048, 4095])
def test_memory_that_ends_inside_a_table_has_the_entries_before_its_end(
    levels: int, spare: int
) -> None:
    """An entry is read if and only if its 8 bytes are there; no byte behind them ever is."""
    setting = Setting(levels)
    beyond = 0
    for image in images_of(setting, 10):
        end = len(image.data) // 2 + spare
        cut = replace(image, data=image.data[:end])
        guarded = GuardedBuffer(cut.data)
        memory = ptcore.PhysicalMemory.from_buffer(guarded.view, start=image.base)
        table = setting.table(cut, memory)
        for va in image.addresses:
            beyond += check_walk(setting, table, cut, va) == "bus"
        vas = list(image.addresses)
        pas, statuses = table.translate_many(np.array(vas, dtype=np.uint64))
        assert (pas.tolist(), statuses.tolist()) == expected_batch(setting, cut, vas, "r", False)
    assert beyond > 20


@settings(deadline=None)
@given(st.sampled_from(list(SETTINGS.values())), st.integers(0, (1 << 32) - 1))
def test_walk_translate_and_translate_many_agree_on_any_image(setting: Setting, seed: int) -> None:
    image = plausible.image(random.Random(seed), setting.shape)
    table = setting.table(image)
    statuses = table.translate_many(np.array(image.addresses, dtype=np.uint64))[1].tolist()
    for va, status in zip(image.addresses, statuses, strict=True):
        outcome = check_walk(setting, table, image, va)
        check_translate(setting, table, image, va)
        # A supervisor may read whatever is mapped.
        assert Status(status) == STATUS[outcome]


# -- listings ----------------------------------------------------------------------------------

KIND_LEAF, KIND_RESERVED, KIND_REPEAT, KIND_OUTSIDE = 2, 3, 4, 5
ROW_READ, ROW_WRITE, ROW_EXECUTE, ROW_USER = 1, 2, 4, 8
ROW_GLOBAL = 1


def plain(rows: np.ndarray) -> list[Any]:
    """Return the rows as named tuples of Python numbers, which are quick to look at one by one."""
    row = namedtuple("row", rows.dtype.names)
    return [row(*values) for values in rows.tolist()]


@dataclass(frozen=True)
class Page:
    """One leaf, as the oracle and a listing both can say it."""

    va: int
    pa: int
    page_size: int
    rights: int
    memory_type: int
    pkey: int
    global_: bool


def pages_by_the_manual(setting: Setting, image: plausible.Image) -> list[Page]:
    pages = []
    for leaf in x86_64.mappings(
        image.read8,
        image.root,
        setting.levels,
        setting.maxphyaddr,
        setting.nxe,
        setting.encryption_mask,
        setting.page1gb,
    ):
        result = leaf.result
        assert result.rights is not None
        rights = ROW_READ * result.rights.read | ROW_WRITE * result.rights.write
        rights |= ROW_EXECUTE * result.rights.execute | ROW_USER * result.rights.user
        assert result.pa is not None
        assert result.page_size is not None
        assert result.pat_index is not None
        assert result.pkey is not None
        pages.append(
            Page(
                leaf.va,
                result.pa,
                result.page_size,
                rights,
                result.pat_index,
                result.pkey,
                bool(result.global_),
            )
        )
    return pages


def pages_of_row(row: Any, first: int, last: int, shift: int) -> list[Page]:
    """Cut the part of a leaf row between first and last into pages, moved by shift."""
    size = row.page_size
    start = row.first
    return [
        Page(
            va + shift,
            row.pa + va - start,
            size,
            row.rights,
            row.memory_type,
            row.pkey,
            bool(row.flags & ROW_GLOBAL),
        )
        for va in range(first, last + 1, size)
    ]


def expand(table_rows: np.ndarray) -> list[Page]:
    """Cut every row into its pages; a repeat has the pages of what it repeats.

    A repeat row says that every `page_size` bytes of it hold what lies at `repeat_of`.
    """

    rows = plain(table_rows)

    def part(first: int, last: int, shift: int, depth: int) -> list[Page]:
        assert depth < 6, "a repeat of a repeat of ..."
        pages = []
        for row in rows:
            low, high = max(first, row.first), min(last, row.last)
            if low > high:
                continue
            if row.kind == KIND_LEAF:
                pages += pages_of_row(row, low, high, shift)
            elif row.kind == KIND_REPEAT:
                period, target = row.page_size, row.repeat_of
                for copy in range(low, high + 1, period):
                    pages += part(target, target + period - 1, shift + copy - target, depth + 1)
        return pages

    return part(0, ALL_ONES, 0, 0)


def assert_same_pages(listed: list[Page], expected: list[Page], where: str) -> None:
    assert [page.va for page in listed] == [page.va for page in expected], where
    for one, other in zip(listed, expected, strict=True):
        assert one == other, where


@every_setting
def test_mappings_list_every_page_that_the_manual_maps_and_no_other(setting: Setting) -> None:
    counts: Counter[str] = Counter()
    small = replace(setting.shape, frames=12, slots=4, addresses=64)
    for number, image in enumerate(images_of(setting, 6, small)):
        expected = pages_by_the_manual(setting, image)
        table = setting.table(image)
        where = f"{number=} {setting}"
        with_repeats = table.mappings()
        assert_same_pages(expand(with_repeats), expected, where)
        without = table.mappings(repeats=False)
        assert not (without["kind"] == KIND_REPEAT).any(), where
        assert_same_pages(expand(without), expected, where)
        counts["pages"] += len(expected)
        counts["repeats"] += int((with_repeats["kind"] == KIND_REPEAT).sum())
        counts["reserved"] += int((without["kind"] == KIND_RESERVED).sum())
        counts["outside"] += int((without["kind"] == KIND_OUTSIDE).sum())
        counts["merged"] += int((without["kind"] == KIND_LEAF).sum()) < len(expected)
    assert all(
        counts[name] > 0 for name in ("pages", "repeats", "reserved", "outside", "merged")
    ), counts


@every_setting
def test_rows_of_a_listing_are_in_order_disjoint_and_merged_as_far_as_they_go(
    setting: Setting,
) -> None:
    small = replace(setting.shape, frames=12, slots=4)
    attributes = ["page_size", "rights", "memory_type", "pkey", "software", "flags"]
    for image in images_of(setting, 12, small):
        for repeats in (True, False):
            rows = setting.table(image).mappings(repeats=repeats)
            assert (rows["first"] <= rows["last"]).all()
            assert (rows["last"][:-1] < rows["first"][1:]).all()
            for row, after in itertools.pairwise(rows):
                if row["kind"] != KIND_LEAF or after["kind"] != KIND_LEAF:
                    continue
                length = int(row["last"]) - int(row["first"]) + 1
                goes_on = int(row["last"]) + 1 == int(after["first"])
                goes_on &= int(row["pa"]) + length == int(after["pa"])
                goes_on &= all(row[name] == after[name] for name in attributes)
                assert not goes_on, (row, after)


@every_setting
def test_rows_for_reserved_and_outside_entries_are_where_walks_end_so(setting: Setting) -> None:
    counts: Counter[str] = Counter()
    small = replace(setting.shape, frames=12, slots=4, addresses=64)
    named = {KIND_LEAF: "ok", KIND_RESERVED: "reserved_bits", KIND_OUTSIDE: "bus"}
    for image in images_of(setting, 12, small):
        rows = plain(setting.table(image).mappings(repeats=False))
        for row in rows:
            for va in (row.first, row.last):
                assert setting.walk(image, va).outcome == named[row.kind], row
        for va in image.addresses:
            kinds = [row.kind for row in rows if row.first <= va <= row.last]
            outcome = setting.walk(image, va).outcome
            listed = [named[kind] for kind in kinds]
            expected = [outcome] if outcome in named.values() else []
            assert listed == expected, hex(va)
            counts[outcome] += 1
    plausible.assert_spread(counts, 0.02, x86_64.OUTCOMES)


@pytest.mark.parametrize("levels", [4, 5])
def test_a_window_of_a_listing_lists_what_the_whole_lists_there(levels: int) -> None:
    setting = Setting(levels)
    small = replace(setting.shape, frames=12, slots=4, addresses=32)
    rng = random.Random(levels)
    nonempty = 0
    for image in images_of(setting, 12, small):
        table = setting.table(image)
        whole = expand(table.mappings(repeats=False))
        canonical = [va for va in image.addresses if x86_64.is_canonical(va, levels)]
        for _ in range(10):
            first, last = sorted(rng.sample(canonical, 2))
            rows = plain(table.mappings(first, last, repeats=False))
            nonempty += len(rows) > 0
            listed = {
                (page.va, page.pa, page.page_size)
                for row in rows
                if row.kind == KIND_LEAF
                for page in cut_to_pages(row)
            }
            inside = {
                (page.va, page.pa, page.page_size)
                for page in whole
                if first <= page.va and page.va + page.page_size - 1 <= last
            }
            touching = {
                (page.va, page.pa, page.page_size)
                for page in whole
                if page.va <= last and first <= page.va + page.page_size - 1
            }
            assert inside <= listed <= touching, (hex(first), hex(last))
    assert nonempty > 30


def cut_to_pages(row: Any) -> list[Page]:
    """Return the whole pages that a row (perhaps cut by a window) touches."""
    low = row.first & ~(row.page_size - 1)
    grown = row._replace(first=low, pa=row.pa - (row.first - low))
    return pages_of_row(grown, low, row.last, 0)


# -- random pages as tables --------------------------------------------------------------------


NOISE_SETTINGS = {
    name: setting
    for name, setting in SETTINGS.items()
    if setting.maxphyaddr in (40, 52) and setting.page1gb
}


class GuardedBuffer:
    """A buffer between two pages that no one may touch: reading past its end kills the test.

    The content ends right before the second guard page; the first one is up to a page before it.
    """

    def __init__(self, content: bytes) -> None:
        page = mmap.PAGESIZE
        room = -(-len(content) // page) * page
        self._map = mmap.mmap(-1, room + 2 * page)
        start, end = page + room - len(content), page + room
        self._map[start:end] = content
        # Guard the pages only after the content is in.
        libc = ctypes.CDLL(None, use_errno=True)
        anchor = ctypes.c_char.from_buffer(self._map)
        address = ctypes.addressof(anchor)
        del anchor
        for guard in (address, address + end):
            assert libc.mprotect(ctypes.c_void_p(guard), ctypes.c_size_t(page), 0) == 0
        self.view = memoryview(self._map)[start:end]


def noise_image(rng: random.Random, setting: Setting, frames: int, steer: float) -> plausible.Image:
    """Random frames at 0, any of them the root."""
    return plausible.Image(
        levels=setting.levels,
        maxphyaddr=setting.maxphyaddr,
        nxe=setting.nxe,
        encryption_mask=setting.encryption_mask,
        base=0,
        data=plausible.noise(rng, frames, steer),
        root=rng.randrange(frames) * plausible.FRAME,
        addresses=tuple(
            x86_64.sign_extend(rng.getrandbits(64), setting.levels) for _ in range(200)
        ),
    )


@pytest.mark.parametrize("setting", NOISE_SETTINGS.values(), ids=list(NOISE_SETTINGS))
@pytest.mark.parametrize("steer", [0.0, 0.9, 1.0])
def test_random_pages_as_tables_never_crash_loop_or_read_outside_memory(
    setting: Setting, steer: float
) -> None:
    counts: Counter[str] = Counter()
    for seed, frames in enumerate([1, 2, 8]):
        rng = random.Random(seed)
        image = noise_image(rng, setting, frames, steer)
        guarded = GuardedBuffer(image.data)
        table = setting.table(image, ptcore.PhysicalMemory.from_buffer(guarded.view))
        counts.update(check_walk(setting, table, image, va) for va in image.addresses)
        for va in image.addresses[:50]:
            check_translate(setting, table, image, va)
        for access, user in ACCESSES:
            vas = list(image.addresses)
            pas, statuses = table.translate_many(np.array(vas, dtype=np.uint64), access, user)
            expected = expected_batch(setting, image, vas, access, user)
            assert (pas.tolist(), statuses.tolist()) == expected
        check_listing_of_noise(setting, table, image)
        assert bytes(guarded.view) == image.data
    wanted = {0.0: ["not_present"], 0.9: ["not_present", "ok"], 1.0: ["reserved_bits", "ok"]}
    plausible.assert_spread(counts, 0.004, wanted[steer])


def check_listing_of_noise(setting: Setting, table, image: plausible.Image) -> None:
    """The listing ends, and its leaf and repeat rows cover what a count by table says is mapped."""
    rows = plain(table.mappings())
    covered = mapped_bytes(rows, [row.last for row in rows], 0, ALL_ONES, {})
    assert covered == bytes_by_the_manual(setting, image, image.root, 0, {})
    for row in random.Random(len(rows)).sample(rows, min(50, len(rows))):
        if row.kind == KIND_LEAF:
            result = setting.walk(image, row.first)
            assert (result.outcome, result.pa) == ("ok", row.pa)


def mapped_bytes(
    rows: list[Any], lasts: list[int], first: int, last: int, seen: dict[tuple[int, int], int]
) -> int:
    """Bytes that leaves map between first and last, with repeats followed to what they repeat."""
    if (first, last) in seen:
        return seen[first, last]
    total = 0
    for index in range(bisect.bisect_left(lasts, first), len(rows)):
        row = rows[index]
        low, high = max(first, row.first), min(last, row.last)
        if low > high:
            break
        if row.kind == KIND_LEAF:
            total += high - low + 1
        elif row.kind == KIND_REPEAT:
            end = row.repeat_of + row.page_size - 1
            copies = (high - low + 1) // row.page_size
            total += copies * mapped_bytes(rows, lasts, row.repeat_of, end, seen)
    seen[first, last] = total
    return total


def bytes_by_the_manual(
    setting: Setting, image: plausible.Image, source: int, depth: int, seen: dict
) -> int:
    """Count mapped bytes below one table, each (table, depth) once, so that loops cost nothing."""
    address = x86_64.bits(source & ~setting.encryption_mask, 51, 12) << 12
    if (address, depth) in seen:
        return seen[address, depth]
    name, _, low = x86_64.STRUCTURES[setting.levels][depth]
    total = 0
    for index in range(plausible.SLOTS):
        entry = image.read8(address + 8 * index)
        if entry is None or not x86_64.bit(entry, x86_64.P):
            continue
        if x86_64.reserved_bits_set(
            name,
            entry,
            setting.maxphyaddr,
            setting.nxe,
            setting.encryption_mask,
            setting.page1gb,
        ):
            continue
        if x86_64.maps_a_page(name, entry):
            total += 1 << low
        else:
            total += bytes_by_the_manual(setting, image, entry, depth + 1, seen)
    seen[address, depth] = total
    return total


# -- tables that map() made --------------------------------------------------------------------


@dataclass(frozen=True)
class Mapping:
    """One call of map()."""

    va: int
    pa: int
    page_size: int
    pages: int
    access: str
    user: bool
    global_: bool
    pkey: int
    memory_type: int


def random_mapping(rng: random.Random, levels: int) -> Mapping:
    page_size = rng.choice([x86_64.PAGE_4K, x86_64.PAGE_2M, x86_64.PAGE_1G])
    bits = {4: 47, 5: 56}[levels]
    va = rng.getrandbits(bits + 1) & ~(page_size - 1)
    return Mapping(
        x86_64.sign_extend(va, levels),
        rng.getrandbits(unicorn_mmu.MAXPHYADDR - 1) & ~(page_size - 1),
        page_size,
        rng.choice([1, 1, 2, 3]),
        rng.choice(["r", "rw", "rx", "rwx"]),
        rng.random() < 0.5,
        rng.random() < 0.5,
        rng.randrange(16),
        rng.randrange(8),
    )


def map_at_random(rng: random.Random, levels: int, table) -> list[Mapping]:
    """Map what fits and return it."""
    done = []
    for _ in range(40):
        one = random_mapping(rng, levels)
        try:
            table.map(
                one.va,
                one.pa,
                one.page_size * one.pages,
                one.access,
                one.user,
                one.global_,
                one.memory_type,
                one.pkey,
                page_size=one.page_size,
            )
        except ptcore.errors.PtcoreError:
            # It ran over another mapping or off the canonical half; the state is unchanged.
            continue
        done.append(one)
    return done


@pytest.mark.parametrize("levels", [4, 5])
def test_tables_that_map_made_mean_to_the_manual_and_to_qemu_what_was_asked_for(
    levels: int,
) -> None:
    mmu = unicorn_mmu.Mmu(unicorn_mmu.Registers(levels=levels))
    counts: Counter[str] = Counter()
    for seed in range(8):
        rng = random.Random(seed)
        memory = ptcore.PhysicalMemory("4M")
        table = ptcore.PageTable(f"x86_64_{levels}level", memory, physical_bits=40)
        done = map_at_random(rng, levels, table)
        content = bytes(memory.read(0, 4 << 20))
        image = plausible.Image(levels, 40, True, 0, 0, content, table.root, ())
        mmu.load(content, 0, table.root)
        for one in done:
            last = one.page_size * one.pages - 1
            for offset in (0, last, rng.randrange(last)):
                check_mapped(image, mmu, one, offset)
                counts[f"{one.page_size:#x}"] += 1
        assert image.walk(rng.getrandbits(40) | 1 << 46).outcome in ("not_present", "ok")
    assert min(counts.values()) > 50, counts
    assert len(counts) == 3


def check_mapped(image: plausible.Image, mmu: unicorn_mmu.Mmu, one: Mapping, offset: int) -> None:
    result = image.walk(one.va + offset)
    where = (one, hex(offset), result)
    assert (result.pa, result.page_size) == (one.pa + offset, one.page_size), where
    rights = x86_64.Rights(True, "w" in one.access, "x" in one.access, one.user)
    assert result.rights == rights, where
    seen = (result.global_, result.pkey, result.pat_index)
    assert seen == (one.global_, one.pkey, one.memory_type), where
    for access, user in ACCESSES:
        answer = mmu.translate(one.va + offset, access, user)
        permitted = x86_64.allowed(result, access, user)
        assert answer.outcome == ("ok" if permitted else "permission"), where
        assert answer.pa in (None, one.pa + offset), where
