"""Verbs over many pages do what single ones do: to tables, to what every CPU caches, and in the ledger."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from ptcore.errors import AddressError, NotAllocated, OutOfRange
from ptcore.machine import Event, Machine, Request
from ptcore.machine.requests import Book
from ptcore.units import ALL_ONES, Span

PAGE = 4096
CPUS = 3
FORMATS = ("x86_64_4level", "aarch64_4k_48", "sv39")


def window(platform: Machine) -> int:
    """An address of the upper half, a few pages before the end of a table of smallest leaves."""
    return (platform.table.legal_spans()[-1].start + (1 << 30)) + (512 - 7) * PAGE


def state(platform: Machine) -> list[object]:
    """All that the verbs may change."""
    ledger = platform.ledger
    sets = [sorted(ledger.cpu_set(int(number))) for number in ledger.rows()["cpus"]]
    found: list[object] = [ledger.rows().tolist(), sets, ledger.totals(), platform.stale()]
    found += [platform.table.mappings().tolist(), platform.free_frame_bytes]
    for mmu in platform.mmus:
        assert mmu.walk_cache is not None
        found += [mmu.tlb.entries().tolist(), mmu.walk_cache.entries().tolist(), mmu.counts]
    return found


def scene(format: str, seed: int, pages: int, frames: str) -> tuple[Machine, int, int]:
    """A machine whose CPUs have cached pages in and around a mapped range; where that is, and its frames."""
    platform = Machine(CPUS, format, ram="1G")
    va, pa = window(platform), platform.allocate_frames(4096, 0, align=1 << 21)
    for around in (va - 8 * PAGE, va + pages * PAGE):
        platform.map(around, pa + 2048 * PAGE, 8 * PAGE, 0, page_size=PAGE)
    for n in range(pages):
        of = {"in a row": n, "all one": 0, "jumping": n + (1024 + n if n % 3 == 0 else 0)}[frames]
        platform.map(va + n * PAGE, pa + of * PAGE, PAGE, 0, page_size=PAGE)
    touch_some(platform, va, pages, seed)
    return platform, va, pa


def touch_some(platform: Machine, va: int, pages: int, seed: int, inside: bool = True) -> None:
    rng = np.random.default_rng(seed)
    for _ in range(40):
        n = int(rng.integers(-8, pages + 8))
        if inside or not 0 <= n < pages:
            platform.access(Span.of(va + n * PAGE, PAGE), int(rng.integers(CPUS)), "w")


CPU_SETS = (None, (0,), (1, 2))
SIZES = (1, 3, 40)


@pytest.mark.parametrize("frames", ["in a row", "all one", "jumping"])
@pytest.mark.parametrize("format", FORMATS)
def test_pages_unmapped_by_turns_are_as_if_unmapped_singly(format: str, frames: str) -> None:
    for seed, (pages, cpus) in enumerate(product(SIZES, CPU_SETS)):
        together, va, _ = scene(format, seed, pages, frames)
        singly, _, _ = scene(format, seed, pages, frames)
        together.unmap_by_page(va, pages, 1, cpus=cpus)
        for at in range(va, va + pages * PAGE, PAGE):
            singly.unmap(at, PAGE, 1, cpus=cpus)
            singly.invalidate(Span.of(at, PAGE), 1, cpus)
        assert state(together) == state(singly), (pages, cpus)


@pytest.mark.parametrize("step", [0, PAGE, 2 * PAGE])
@pytest.mark.parametrize("format", FORMATS)
def test_pages_touched_by_turns_are_as_if_mapped_and_unmapped_singly(
    format: str, step: int
) -> None:
    for seed, (pages, cpus, kind) in enumerate(product(SIZES, CPU_SETS, "rw")):
        machines = []
        for _ in range(2):
            platform, va, pa = scene(format, seed, 2 * pages, "in a row")
            platform.unmap_by_page(va, 2 * pages, 0)
            touch_some(platform, va, 2 * pages, seed, inside=False)
            machines.append(platform)
        together, singly = machines
        together.touch_by_page(va, pa, pages, 1, kind, step=step, cpus=cpus)
        for n in range(pages):
            at = va + n * step
            singly.map(at, pa + n * PAGE, PAGE, 1, page_size=PAGE, cpus=cpus)
            singly.access(Span.of(at, PAGE), 1, kind)
            singly.unmap(at, PAGE, 1, cpus=cpus)
            singly.invalidate(Span.of(at, PAGE), 1, cpus)
        assert state(together) == state(singly), (pages, cpus, kind)


@pytest.mark.parametrize("format", FORMATS)
def test_reaching_frames_is_mapping_touching_and_unmapping_them(format: str) -> None:
    machines = []
    for _ in range(2):
        platform, va, pa = scene(format, 7, 12, frames="in a row")
        platform.unmap_by_page(va, 12, 0)
        machines.append(platform)
    together, singly = machines
    for count, cpus in ((5, (1,)), (1, None)):
        together.reach(va, pa, count, 1, "w", cpus=cpus)
        singly.map(va, pa, count * PAGE, 1, page_size=PAGE, cpus=cpus)
        singly.access(Span.of(va, count * PAGE), 1, "w")
        singly.unmap(va, count * PAGE, 1, cpus=cpus)
        va += count * PAGE
    # Where there is no table yet, it makes one.
    far = va + (1 << 32)
    together.reach(far, pa, 3, 1)
    singly.map(far, pa, 3 * PAGE, 1, page_size=PAGE)
    singly.access(Span.of(far, 3 * PAGE), 1)
    singly.unmap(far, 3 * PAGE, 1)
    assert state(together) == state(singly)
    assert len(together.stale()) == 3


def test_frames_are_reached_some_at_a_time_as_one_call_each() -> None:
    machines = []
    for _ in range(2):
        platform, va, pa = scene(FORMATS[0], 11, 40, "in a row")
        platform.unmap_by_page(va, 40, 0)
        machines.append(platform)
    together, singly = machines
    together.reach(va, pa, 38, 1, "w", at_once=8, cpus=(1,))
    for n in range(0, 38, 8):
        singly.reach(va + n * PAGE, pa + n * PAGE, min(8, 38 - n), 1, "w", cpus=(1,))
    assert state(together) == state(singly)
    assert together.ledger.rows_in_memory < singly.ledger.rows_in_memory


def test_an_access_may_be_told_by_offsets() -> None:
    platform, va, _ = scene(FORMATS[0], 3, 4, frames="in a row")
    other, _, _ = scene(FORMATS[0], 3, 4, frames="in a row")
    platform.access_at(va, Span(PAGE, 3 * PAGE - 1), 2, "w")
    other.access(Span(va + PAGE, va + 3 * PAGE - 1), 2, "w")
    assert state(platform) == state(other)
    with pytest.raises(AddressError):
        platform.access_at(ALL_ONES - PAGE, Span(0, 3 * PAGE), 0)
    assert state(platform) == state(other)


class Deaf(Machine):
    """A machine of another class, which only writes down what it is asked."""

    def access(self, span: Span, cpu: int, kind: str = "r") -> None:
        self.note(Event.CACHE_HIT, cpu, span.size // PAGE, first=span.start)


def test_a_machine_with_an_access_of_its_own_is_asked_through_that() -> None:
    platform = Deaf(CPUS, ram="1G")
    va, pa = window(platform), platform.allocate_frames(8, 0)
    platform.reach(va, pa, 2, 0)
    platform.invalidate(None, 0)
    platform.access_at(va, Span.of(PAGE, PAGE), 0)
    platform.touch_by_page(va, pa, 3, 0, step=PAGE)
    rows = platform.ledger.rows(events=[Event.CACHE_HIT, Event.ACCESSED])
    assert rows["event"].tolist() == [int(Event.CACHE_HIT)] * 5
    assert rows["count"].tolist() == [2, 1, 1, 1, 1]


def test_the_book_names_what_is_not_live_and_notes_what_is_given() -> None:
    platform = Machine(2, ram="1G")
    book = Book(platform)
    pa = platform.allocate_frames(4, 1)
    handle = book.give(Request(1, 4, memory_type="device"), pa, Span.of(PAGE, 4 * PAGE))
    assert handle in book
    assert len(book) == 1
    assert (handle.number, handle.pages, handle.pa, handle.memory_type) == (1, 4, pa, "device")
    book.check(handle, Span(0, 4 * PAGE - 1))
    with pytest.raises(OutOfRange):
        book.check(handle, Span(0, 4 * PAGE))
    with pytest.raises(OutOfRange):
        book.take_back(handle, 2)
    assert handle in book
    book.take_back(handle, 0)
    for verb in (book.check, lambda gone: book.take_back(gone, 0)):
        with pytest.raises(NotAllocated, match="handle 1 is not live"):
            verb(handle)
    book.free_frames(handle, 0)
    rows = platform.ledger.rows(events=[Event.ACQUIRED, Event.FRAMES_FREED, Event.RELEASED])
    assert rows["count"].tolist() == [4, 4, 4]
    assert rows["cpu"].tolist() == [1, 0, 0]
    assert platform.free_frame_bytes == platform.data_bytes - PAGE
