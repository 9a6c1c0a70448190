"""The same memory in every form of file: all verbs answer as over plain buffers of the same pieces.

A hole may be anywhere, in tables too; what is left out of the file is left out of the buffers.
"""

from __future__ import annotations

import itertools
import random
import struct
import tempfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ptcore
from oracles import memory_files as files
from ptcore import PageTable, PhysicalMemory
from ptcore.errors import OutOfRange

PAGE = 4096
FRAMES = 96
START = 16 * PAGE  # where memory begins
PAGED = ["avml", "avml, odd chunks", "kdump", "windows", "bitmap"]
OUTCOMES = Counter[str]()

Pieces = list[tuple[int, bytes]]


def memory_with_tables(rng: random.Random) -> tuple[bytes, int]:
    """Memory full of tables of four levels: pages of three sizes, aliased tables, and nonsense items."""
    ram = PhysicalMemory(FRAMES * PAGE, start=START, frames=(START, FRAMES * PAGE // 2))
    table = PageTable("x86_64_4level", ram)
    halves = (0, 0x7F00_0000_0000, 0xFFFF_8000_0000_0000)
    taken: set[int] = set()
    for _ in range(12):
        va = rng.choice(halves) + rng.randrange(4) * (1 << 30) + rng.randrange(3) * (1 << 21)
        count = rng.choice((1, 3, 40))
        if va not in taken:
            taken.add(va)
            pa = START + rng.randrange(FRAMES) * PAGE
            table.map(va, pa, count * PAGE, access=rng.choice(("r", "rw", "rwx")), page_size="4K")
    table.map(halves[0] + (1 << 35), rng.randrange(4) << 30, "1G")
    table.map(halves[2] + (1 << 36), rng.randrange(4) << 21, "4M", page_size="2M")
    known = [step.table for va in taken for step in table.walk(va).path]
    for _ in range(6):  # items that point to tables seen elsewhere, or anywhere
        at = rng.choice(known) + 8 * rng.randrange(512)
        to = rng.choice((*known, START + rng.randrange(FRAMES) * PAGE, 1 << 40))
        ram.write_word(at, to | rng.choice((0x27, 0x63, 1 << 7 | 3, 1 << 51 | 3)))
    return ram.read(START, FRAMES * PAGE), table.root


def cut(rng: random.Random, memory: bytes, root: int, grain: int) -> Pieces:
    """Pieces of memory with some left out, cut at multiples of `grain`; the root stays whole."""
    cuts = {0, len(memory), root - START, root - START + PAGE}
    cuts |= {rng.randrange(len(memory) // grain) * grain for _ in range(rng.choice((2, 12, 40)))}
    ends = [n for n in sorted(cuts) if not root - START < n < root - START + PAGE]
    found = []
    for first, end in itertools.pairwise(ends):
        if first == root - START or rng.random() < 0.8:
            found.append((START + first, memory[first:end]))
    return found


def joined(pieces: Pieces) -> Pieces:
    found: Pieces = []
    for start, text in pieces:
        if found and found[-1][0] + len(found[-1][1]) == start:
            found[-1] = (found[-1][0], found[-1][1] + text)
        else:
            found.append((start, text))
    return found


def pages_of(pieces: Pieces) -> dict[int, bytes]:
    return {
        (start + at) // PAGE: text[at : at + PAGE]
        for start, text in pieces
        for at in range(0, len(text), PAGE)
    }


def elf_core(pieces: Pieces) -> bytes:
    """A 64-bit core file, its program headers in the order given (System V ABI)."""
    head, size = 64, 56
    at = head + size * len(pieces)
    programs = b""
    for start, text in pieces:
        programs += struct.pack("<IIQQQQQQ", 1, 6, at, 0, start, len(text), len(text), 1)
        at += len(text)
    fields = (4, 62, 1, 0, head, 0, 0, head, size, len(pieces), 0, 0, 0)
    identification = b"\x7fELF" + bytes([2, 1, 1]) + bytes(9)
    body = b"".join(text for _, text in pieces)
    return identification + struct.pack("<HHIQQQIHHHHHH", *fields) + programs + body


def written(form: str, pieces: Pieces, rng: random.Random) -> bytes:
    if form not in PAGED:
        shuffled = list(pieces)
        rng.shuffle(shuffled)
        return (files.lime if form == "lime" else elf_core)(shuffled)
    if form.startswith("avml"):
        return files.avml(joined(pieces), 5000 if "odd" in form else 1 << 16)
    if form == "windows":
        return files.windows_full([(start // PAGE, text) for start, text in joined(pieces)])
    if form == "bitmap":
        return files.windows_bitmap(pages_of(pieces))
    memory = range(START // PAGE, START // PAGE + FRAMES)
    return files.kdump(pages_of(pieces), memory, ("zlib", "snappy", "zstd", "plain"))


def some_addresses(rng: random.Random, table: PageTable) -> list[int]:
    rows = table.mappings()
    edges = [int(row[name]) for row in rows for name in ("first", "last")]
    near = [(at + d) % (1 << 64) for at in edges for d in (-1, 0, 1)]
    return near[:600] + [rng.getrandbits(64) for _ in range(20)]


def same_verbs(a: PageTable, b: PageTable, vas: Iterable[int], pas: Iterable[int]) -> None:
    asked = np.array(list(vas), dtype=np.uint64)
    for access, user in (("r", False), ("w", True)):
        for mine, theirs in zip(
            a.translate_many(asked, access, user),
            b.translate_many(asked, access, user),
            strict=True,
        ):
            assert np.array_equal(mine, theirs)
    for va in asked[:60].tolist():
        mine, theirs = a.walk(va), b.walk(va)
        assert mine == theirs
        OUTCOMES[mine.status.name] += 1
    assert np.array_equal(a.mappings(), b.mappings())
    assert a.stats() == b.stats()
    for pa in pas:
        assert np.array_equal(a.reverse(pa), b.reverse(pa))
    marked = [it.harvest("accessed", clear=False)[0] for it in (a, b)]
    assert np.array_equal(*marked)
    assert len(ptcore.diff(a, b)) == 0


@pytest.mark.parametrize("form", ["lime", "elf", *PAGED])
def test_all_verbs_over_a_file_are_those_over_buffers(form: str) -> None:
    @settings(max_examples=12, deadline=None)
    @given(st.integers(0, 1 << 32))
    def check(seed: int) -> None:
        rng = random.Random(seed)
        memory, root = memory_with_tables(rng)
        pieces = cut(rng, memory, root, PAGE if form in PAGED else rng.choice((PAGE, 512, 8)))
        plain = PhysicalMemory.from_buffers(pieces)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "image"
            path.write_bytes(written(form, pieces, rng))
            image = ptcore.open_image(path)
            if form != "kdump":  # whose segments are the machine's memory, stored or not
                assert image.size == plain.size
            tables = [PageTable("x86_64_4level", it, root) for it in (image, plain)]
            vas = some_addresses(rng, tables[1])
            if rng.random() < 0.5:  # single questions first: pages come one by one
                for va in vas[:40]:
                    assert tables[0].walk(va) == tables[1].walk(va)
            pas = [START + rng.randrange(FRAMES * PAGE) for _ in range(4)]
            same_verbs(*tables, vas, pas)
            for _ in range(40):
                pa, size = START + rng.randrange(FRAMES * PAGE), rng.choice((1, 8, PAGE, 3 * PAGE))
                same_bytes(image, pieces, pa, size)

    check()


def same_bytes(image: PhysicalMemory, pieces: Pieces, pa: int, size: int) -> None:
    """A read is what a dict of bytes says, across pieces that adjoin, too."""
    for start, text in joined(pieces):
        if start <= pa and pa + size <= start + len(text):
            assert image.read(pa, size) == text[pa - start : pa - start + size]
            OUTCOMES["read"] += 1
            return
    with pytest.raises(OutOfRange):
        image.read(pa, size)
    OUTCOMES["not read"] += 1


def test_the_questions_above_had_answers_of_every_kind() -> None:
    if not OUTCOMES:
        pytest.skip("run by itself")
    assert min(OUTCOMES[name] for name in ("OK", "NOT_PRESENT", "BUS", "NOT_CANONICAL")) > 20, (
        OUTCOMES
    )
    assert OUTCOMES["RESERVED_BITS"] > 0
    assert min(OUTCOMES["read"], OUTCOMES["not read"]) > 100
