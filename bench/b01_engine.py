"""The engine against plain C over the same tables."""

from __future__ import annotations

from collections.abc import Iterator

import limit
import numpy as np
from side_by_side import Result, measure

import ptcore

FORMAT = "x86_64_4level"
BASE = 0x1_0000_0000
LOOKUPS = 1_000_000


def image(size: str) -> tuple[np.ndarray, ptcore.PhysicalMemory]:
    """Return host bytes and a memory over them, so that C and ptcore read the very same tables."""
    bytes_ = np.zeros(ptcore.units.parse_size(size), dtype=np.uint8)
    memory = ptcore.PhysicalMemory.from_buffer(bytes_, frames=(0, size))
    return bytes_, memory


def translate_many(claim: str, pages: int, size: str) -> Result:
    c = limit.load()
    host, memory = image(size)
    table = ptcore.PageTable(FORMAT, memory)
    table.map(BASE, 0x1000_0000, pages * 4096, page_size="4K")
    rng = np.random.default_rng(1)
    vas = (BASE + rng.integers(0, pages * 4096, LOOKUPS)).astype(np.uint64)
    pas, statuses = table.translate_many(vas)
    expected = np.ones(LOOKUPS, dtype=np.uint64)
    c.walk_many(host, table.root, vas, expected, LOOKUPS)
    assert (pas == expected).all()
    assert not statuses.any()
    mib = table.stats().table_bytes / 2**20
    return measure(
        claim,
        lambda: table.translate_many(vas, out=(pas, statuses)),
        lambda: c.walk_many(host, table.root, vas, expected, LOOKUPS),
        LOOKUPS,
        rounds=25,
        note=f"{mib:.1f} MiB of tables, {LOOKUPS:,} random addresses",
    )


class Bare:
    def method(self, number: int) -> int:
        return number


def translate_scalar() -> Result:
    _, memory = image("1M")
    table = ptcore.PageTable(FORMAT, memory)
    table.map(BASE, 0, "2M", page_size="4K")
    calls = 200_000

    def call(method: object) -> None:
        for _ in range(calls):
            method(BASE)  # type: ignore[operator]

    return measure(
        "translate_scalar",
        lambda: call(table.translate),
        lambda: call(Bare().method),
        calls,
        rounds=25,
        note="against a Python method that returns its argument; both include the loop",
    )


def map_run() -> Result:
    pages = 200_000
    c = limit.load()
    _, memory = image("4M")
    table = ptcore.PageTable(FORMAT, memory)
    other = np.zeros(4 << 20, dtype=np.uint8)

    def clear() -> None:
        table.unmap(BASE, pages * 4096, missing_ok=True).discharge()
        other[:] = 0

    return measure(
        "map_run",
        lambda: table.map(BASE, 0, pages * 4096, page_size="4K"),
        lambda: c.map_run(other, 4096, BASE, 0, pages, 8192),
        pages,
        before=clear,
        note=f"one call maps {pages:,} pages; C maps one page at a time from the root",
    )


def mappings() -> Result:
    pages = 2_000_000
    c = limit.load()
    host, memory = image("64M")
    table = ptcore.PageTable(FORMAT, memory)
    # Pages in pairs that go on and then jump, so that rows are written as well as merged.
    for first in range(0, pages, 512):
        for part in range(0, 512, 128):
            at = (first + part) * 4096
            table.map(BASE + at, 0x10_0000_0000 + 2 * at, 128 * 4096, page_size="4K")
    rows = np.ones(3 * pages, dtype=np.uint64)
    count = c.scan(host, table.root, 39, 0, rows, 0)
    assert count == len(table.mappings())
    return measure(
        "mappings",
        table.mappings,
        lambda: c.scan(host, table.root, 39, 0, rows, 0),
        pages,
        rounds=9,
        note=f"{pages:,} 4 KiB leaves, {count:,} rows",
    )


PAGES, TABLES = 2_000_000, 12_925
LAST_LEVEL = 12_897  # with 26 tables above them, one above those and the root: 12,925


def scattered() -> tuple[np.ndarray, ptcore.PageTable]:
    """Return 2,000,000 pages at random places in 12,897 tables, which lie in random order themselves."""
    host, memory = image("64M")
    rng = np.random.default_rng(2)
    tables = host[: TABLES * 4096].view(np.uint64).reshape(TABLES, 512)
    frames = (rng.permutation(TABLES - 1) + 1).astype(np.uint64) << np.uint64(12)
    last, middle, top = frames[:LAST_LEVEL], frames[LAST_LEVEL:-1], frames[-1]
    slots = np.sort(rng.choice(LAST_LEVEL * 512, PAGES, replace=False))
    pas = rng.integers(1, 1 << 20, PAGES).astype(np.uint64) << np.uint64(12)
    tables[(last >> np.uint64(12))[slots // 512], slots % 512] = pas | np.uint64(0x63)
    for n, frame in enumerate(last):
        tables[middle[n // 512] >> np.uint64(12), n % 512] = frame | np.uint64(0x63)
    tables[top >> np.uint64(12), : len(middle)] = middle | np.uint64(0x63)
    tables[0, 0] = top | np.uint64(0x63)
    return host, ptcore.PageTable(FORMAT, memory, 0)


def mappings_scattered() -> Result:
    c = limit.load()
    host, table = scattered()
    stats = table.stats()
    assert (sum(stats.tables), stats.leaves[0]) == (TABLES, PAGES)
    rows = np.ones(3 * PAGES + 3, dtype=np.uint64)
    count = c.scan(host, 0, 39, 0, rows, 0)
    found = table.mappings()
    assert found["first"].tolist() == rows[: 3 * count : 3].tolist()
    assert found["pa"].tolist() == rows[1 : 3 * count : 3].tolist()
    return measure(
        "mappings_scattered",
        table.mappings,
        lambda: c.scan(host, 0, 39, 0, rows, 0),
        PAGES,
        rounds=9,
        note=f"{PAGES:,} 4 KiB leaves in {TABLES:,} tables, {count:,} rows",
    )


def results() -> Iterator[Result]:
    yield translate_many("translate_many_hot", 1000, "1M")
    yield translate_many("translate_many_cold", 12_000_000, "128M")
    yield translate_scalar()
    yield map_run()
    yield mappings()
    yield mappings_scattered()
