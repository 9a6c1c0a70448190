"""find_roots(): real roots among junk, their lower tables and texts; judged by who made the memory."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow
import pytest

from ptcore import PageTable, PhysicalMemory, find_roots, formats, open_image
from ptcore.errors import FormatError, PtcoreError
from ptcore.table import plausible, roots
from ptcore.units import Span

M = 1 << 20
PAGE = 4096
KERNEL = 0xFFFF_8880_0000_0000
TEXT = 0xFFFF_FFFF_8100_0000
BANNER = b"Linux version 6.12.99-made-up (builder@host)\n\0"


def junk(size: int, seed: int) -> np.ndarray:
    """Random words, small numbers, text and zeros: what pages hold that are no tables."""
    rng = np.random.default_rng(seed)
    parts = []
    for _ in range(size // (64 * PAGE)):
        count = 64 * PAGE // 8
        parts.append(
            [
                rng.integers(0, 1 << 63, count, dtype=np.uint64),
                rng.integers(0, 64, count).astype(np.uint64),
                rng.integers(0x20, 0x7F, count * 8, dtype=np.uint8).view(np.uint64),
                np.zeros(count, dtype=np.uint64),
                (rng.integers(0, 1 << 16, count, dtype=np.uint64) << np.uint64(3)),
            ][rng.integers(0, 5)]
        )
    return np.concatenate(parts)


def guest(processes: int = 6, seed: int = 1) -> tuple[PhysicalMemory, int, list[int]]:
    """A kernel root and one root per process that shares its upper half, among junk."""
    rng = random.Random(seed)
    content = np.zeros(32 * M, dtype=np.uint8)
    content[8 * M :] = junk(24 * M, seed).view(np.uint8)
    at = 16 * M + 0x12_3000
    content[at : at + len(BANNER)] = np.frombuffer(BANNER, dtype=np.uint8)
    memory = PhysicalMemory.from_buffer(content, frames=(M, 7 * M))
    kernel = PageTable("x86_64_4level", memory)
    kernel.map(KERNEL, 0, 32 * M, "rw")
    kernel.map(TEXT, 16 * M, 2 * M, "rx", page_size="4K")
    found = []
    for _ in range(processes):
        table = PageTable("x86_64_4level", memory)
        memory.write(table.root + 2048, memory.read(kernel.root + 2048, 2048))
        for _ in range(rng.randrange(5, 20)):
            va, pa = rng.randrange(1 << 34) * PAGE, rng.randrange(2048, 7000) * PAGE
            table.map(va, pa, rng.randrange(1, 20) * PAGE, rng.choice(["r", "rw", "rx"]), user=True)
        found.append(table.root)
    return memory, kernel.root, found


def test_every_root_is_found_before_anything_else_with_its_evidence() -> None:
    memory, kernel, processes = guest()
    found = find_roots(memory, "x86_64_4level")
    count = 1 + len(processes)
    assert set(found.rows["root"][:count].tolist()) == {kernel, *processes}
    assert found.looked_at == 32 * M // PAGE
    assert found.implausible > 10
    # What else was found is somebody's lower table, and says so.
    assert (found.rows["below"][count:] != 0).all()
    assert (found.rows["below"][:count] == 0).all()
    words = {root.root: " | ".join(root.evidence) for root in found}
    for root in (kernel, *processes):
        assert "PML4 100%, PDPT 100%, PD 100%" in words[root]
        assert f"its upper half is that of {len(processes)} other candidates" in words[root]
        text = "Linux version 6.12.99-made-up (builder@host)"
        assert f"maps the text {text!r} at {TEXT + 0x12_3000:#x}" in words[root]
        assert "maps 2M that the kernel executes and cannot write" in words[root]
        mine = PageTable("x86_64_4level", memory, root)
        assert mine.translate(TEXT + 0x12_3000, "x") == 16 * M + 0x12_3000
    assert "maps nothing for user mode" in words[kernel]
    row = found.rows[found.rows["root"] == processes[0]][0]
    rows = PageTable("x86_64_4level", memory, processes[0]).mappings()
    sizes = rows["last"] - rows["first"] + np.uint64(1)
    assert row["mapped_bytes"] == sizes.sum()
    assert row["user_bytes"] == sizes[rows["rights"] & 8 != 0].sum() > 0
    assert pyarrow.table(found)["root"].to_pylist() == found.rows["root"].tolist()


def test_the_score_is_the_share_of_good_items_level_by_level() -> None:
    memory = PhysicalMemory("4M")
    table = PageTable("x86_64_4level", memory)
    table.map(0x1000, 0x20_0000, 10 * PAGE)
    at = table.walk(0x1000).path[-1].entry_address - 8
    memory.write_word(at, 1 << 40 | 1)  # points outside: one of eleven
    memory.write_word(table.walk(0x1000).path[1].entry_address + 8, 2)  # empty, but not zero
    (root, *_) = find_roots(memory, "x86_64_4level", least=0.1)
    assert root.root == table.root
    assert root.score == pytest.approx(10 / 11 * 1 / 2)
    assert not find_roots(memory, "x86_64_4level", least=0.6)
    assert find_roots(memory, "x86_64_4level", least=0.6).implausible >= 1


def test_windows_and_segments_hide_no_root(monkeypatch: pytest.MonkeyPatch) -> None:
    memory, kernel, processes = guest(3)
    whole = find_roots(memory, "x86_64_4level")
    monkeypatch.setattr(roots, "WINDOW", 3 * PAGE)
    steps: list[tuple[str, int, int]] = []
    cut = find_roots(memory, "x86_64_4level", progress=lambda *step: steps.append(step))
    assert cut.rows.tolist() == whole.rows.tolist()
    assert cut.evidence == whole.evidence
    assert len(steps) > 1000
    assert {(what, done <= total) for what, done, total in steps} == {
        ("pages", True),
        ("landmarks", True),
    }
    parts = [
        (start, memory.read(start, 11 * PAGE)) for start in range(0, 32 * M - 11 * PAGE, 11 * PAGE)
    ]
    pieces = PhysicalMemory.from_buffers(parts)
    found = find_roots(pieces, "x86_64_4level")
    assert {kernel, *processes} <= set(found.rows["root"].tolist())


def sparse(path: Path, content: bytes, size: int) -> None:
    """Write a raw image whose zero pages are holes of the file."""
    with open(path, "wb") as stream:
        for at in range(0, len(content), PAGE):
            page = content[at : at + PAGE]
            if any(page):
                stream.seek(at)
                stream.write(page)
        stream.truncate(size)


@pytest.mark.parametrize("name", ["x86_64_4level", "arm_short", "x86_pae"])
def test_holes_of_a_file_hide_no_root_and_no_text(name: str, tmp_path: Path) -> None:
    memory, kernel, processes = guest(3)
    content = bytearray(memory.read(0, 32 * M)) + bytes(32 * M)
    begins = [at for at in range(8 * M, 32 * M, PAGE) if any(content[at : at + PAGE])]
    edge = next(at for at in begins if not any(content[at - PAGE : at]))
    content[edge : edge + len(BANNER)] = BANNER
    items = {
        "x86_64_4level": {},
        # The root begins in a hole, three pages before the page of its only item, which points to 48M.
        "arm_short": {48 * M + 7 * PAGE: 48 * M | 1, 48 * M: M | 0x12},
        "x86_pae": {48 * M + 0x60: 49 * M | 1, 49 * M: 16 * M | 0x83},
    }[name]
    roots_made = {kernel, *processes}
    if name != "x86_64_4level":
        roots_made = {48 * M + (4 * PAGE if name == "arm_short" else 0x60)}
    for at, item in items.items():
        content[at : at + 4] = item.to_bytes(4, "little")
    texts = (BANNER[:14], b"\0\0" + BANNER[:14])
    path = tmp_path / "sparse.raw"
    sparse(path, bytes(content), len(content))
    image = open_image(path)
    whole = PhysicalMemory.from_buffer(bytes(content))
    found = find_roots(image, name, landmarks=texts)
    expected = find_roots(whole, name, landmarks=texts)
    assert roots_made <= set(found.rows["root"].tolist())
    assert found.rows.tolist() == expected.rows.tolist()
    assert found.evidence == expected.evidence
    assert (found.looked_at, found.implausible) == (expected.looked_at, expected.implausible)


def test_holes_cost_nothing(tmp_path: Path) -> None:
    memory, kernel, processes = guest(3)
    path = tmp_path / "sparse.raw"
    sparse(path, memory.read(0, 32 * M), 1 << 42)
    steps: list[tuple[str, int, int]] = []
    image = open_image(path)
    if image.stored_spans() == image.segments:
        pytest.skip("this file system knows no holes")
    found = find_roots(image, "x86_64_4level", progress=lambda *step: steps.append(step))
    assert {kernel, *processes} <= set(found.rows["root"].tolist())
    assert found.looked_at == (1 << 42) // PAGE
    assert len(steps) < 2 * len(image.stored_spans()) + 4
    assert steps[-1] == ("landmarks", 1 << 42, 1 << 42)


def test_pages_that_a_reader_lacks_are_passed_over() -> None:
    memory, kernel, processes = guest(3)
    content = memory.read(0, 32 * M)
    missing = {16 * M + PAGE, 20 * M}

    class Reader:
        page_bytes = PAGE
        spans = (Span(0, 32 * M - 1),)

        def read_pages(self, pas: np.ndarray) -> list[bytes | None]:
            return [None if at in missing else content[at : at + PAGE] for at in pas.tolist()]

    found = find_roots(PhysicalMemory.from_reader(Reader()), "x86_64_4level")
    assert {kernel, *processes} <= set(found.rows["root"].tolist())
    assert all("maps the text" in " | ".join(root.evidence) for root in list(found)[:4])


def test_texts_are_found_across_pages_and_to_the_last_byte() -> None:
    rng = random.Random(5)
    content = bytearray(rng.choices(b"ab", k=5 * PAGE))
    memory = PhysicalMemory.from_buffer(content, start=PAGE)
    for text in (
        b"a",
        b"abba",
        b"ab" * 6,
        bytes(content[PAGE - 9 : PAGE + 9]),
        bytes(content[-20:]),
    ):
        expected = [n + PAGE for n in range(len(content)) if content.startswith(text, n)]
        assert plausible.places_of(memory, text, PAGE, 6 * PAGE - 1) == expected != []
    assert plausible.places_of(memory, bytes(content[-20:]), PAGE, 6 * PAGE - 2) == []


def test_a_self_map_is_evidence() -> None:
    memory, _, processes = guest(2)
    memory.write_word(processes[0] + 8 * 0x1ED, processes[0] | 3)
    words = {root.root: root.evidence for root in find_roots(memory, "x86_64_4level")}
    assert "item 493 points back to the root (a self-map)" in words[processes[0]]
    assert not any("self-map" in said for said in words[processes[1]])


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("x86_64_5level", {}),
        ("sv39", {}),
        ("sv48", {}),
        ("sv39x4", {}),
        ("aarch64_4k_48", {"upper": True}),
        ("aarch64_16k_48", {"upper": False}),
        ("ept_4level", {}),
        ("x86_pae", {}),
    ],
)
def test_roots_of_other_formats_are_found(name: str, parameters: dict[str, object]) -> None:
    content = np.zeros(16 * M, dtype=np.uint8)
    content[8 * M :] = junk(8 * M, 3).view(np.uint8)
    memory = PhysicalMemory.from_buffer(content, frames=(M, 7 * M))
    fmt = formats.get(name, **parameters)
    made = []
    rng = random.Random(4)
    for _ in range(4):
        table = PageTable(fmt, memory)
        span: Span = table.legal_spans()[0]
        for _ in range(30):
            va = span.start + rng.randrange(span.size >> 16) * (1 << 16)
            try:
                table.map(va, rng.randrange(64, 200) << 16, 1 << 16, "rw")
            except PtcoreError:
                continue
        made.append(table.root)
    found = find_roots(memory, fmt)
    assert set(found.rows["root"][:4].tolist()) == set(made)


def test_nothing_is_found_where_nothing_is() -> None:
    outcomes = Counter[str]()
    for seed in range(4):
        memory = PhysicalMemory.from_buffer(junk(8 * M, seed))
        for name in ("x86_64_4level", "sv39", "aarch64_4k_48", "ept_4level"):
            found = find_roots(memory, name)
            outcomes["found" if len(found) else "nothing"] += 1
            assert found.looked_at == 2048
    assert outcomes["nothing"] >= 14, outcomes
    tiny = find_roots(PhysicalMemory("1K"), "x86_64_4level")
    assert (len(tiny), tiny.looked_at, tiny.implausible) == (0, 0, 0)
    with pytest.raises(FormatError, match="nearest"):
        find_roots(PhysicalMemory("1M"), "x86_64_4levels")


def test_candidates_are_where_their_bytes_are() -> None:
    memory, kernel, processes = guest(2)
    carrier = PageTable("x86_64_4level", memory, kernel)
    places = plausible.candidates(carrier, 0, 32 * M - 1, PAGE)
    assert {kernel, *processes} <= set(places.tolist())
    assert plausible.candidates(carrier, kernel, kernel + PAGE - 1, PAGE).tolist() == [kernel]
    assert plausible.candidates(carrier, kernel, kernel + PAGE - 2, PAGE).tolist() == []
