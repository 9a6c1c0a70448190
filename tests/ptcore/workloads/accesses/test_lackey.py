"""The lackey reader against a naive one, on valgrind's own output and on lines made up here."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptcore.errors import TraceError
from ptcore.workloads.accesses import Accesses, AccessKind, open_accesses, write_accesses
from ptcore.workloads.accesses import lines as lines_module

LOAD, STORE, FETCH = (int(kind) for kind in AccessKind)
KINDS = {"I ": [FETCH], " L": [LOAD], " S": [STORE], " M": [LOAD, STORE]}
HEADER = "==7== Lackey, an example Valgrind tool\n==7== \n"


def naive(text: str) -> list[tuple[int, int, int]]:
    """Every access of a text, by the words of valgrind's manual."""
    found = []
    for line in text.splitlines():
        record = re.fullmatch(r"(I | L| S| M) ([0-9a-f]{8,16}),([0-9]+)", line)
        if record:
            found += [(int(record[2], 16), kind, int(record[3])) for kind in KINDS[record[1]]]
    return found


def rows(chunks: list[Accesses]) -> list[tuple[int, int, int]]:
    return [
        row
        for chunk in chunks
        for row in zip(chunk.va.tolist(), chunk.kind.tolist(), chunk.size.tolist(), strict=True)
    ]


def read(path: Path, skip_bad: bool = False) -> list[tuple[int, int, int]]:
    return rows(list(open_accesses(path, "lackey", skip_bad)))


def saved(folder: Path, text: str) -> Path:
    path = folder / "trace"
    path.write_text(text)
    return path


def test_what_valgrind_records_here_is_read_as_a_naive_reader_does(tmp_path: Path) -> None:
    valgrind = shutil.which("valgrind")
    if valgrind is None:
        pytest.skip("valgrind is not installed")
    log = tmp_path / "lackey.log"
    program = shutil.which("true") or sys.executable
    command = [valgrind, "--tool=lackey", "--trace-mem=yes", "--basic-counts=no"]
    subprocess.run([*command, f"--log-file={log}", program], check=True)
    wanted = naive(log.read_text())
    assert len(wanted) > 10_000
    assert {kind for _, kind, _ in wanted} == {LOAD, STORE, FETCH}
    reader = open_accesses(log)
    assert rows(list(reader)) == wanted
    assert (reader.form, reader.skipped, reader.accesses) == ("lackey", 0, len(wanted))


def test_a_modify_is_a_load_and_then_a_store_of_the_same_bytes(tmp_path: Path) -> None:
    path = saved(tmp_path, HEADER + "I  0401ab70,3\n M 1fff000768,8\n")
    assert read(path) == [
        (0x401AB70, FETCH, 3),
        (0x1FFF000768, LOAD, 8),
        (0x1FFF000768, STORE, 8),
    ]


def test_there_is_no_time_and_no_cpu(tmp_path: Path) -> None:
    (chunk,) = open_accesses(saved(tmp_path, " L 00001000,4\n"))
    assert chunk.time_ns is None
    assert chunk.cpu.tolist() == [0]


@pytest.mark.parametrize(
    "remark", ["", "==12== Command: x", "--12-- reading syms", "**12** note", "==12== "]
)
def test_what_valgrind_itself_says_is_passed_over(tmp_path: Path, remark: str) -> None:
    assert read(saved(tmp_path, f" L 00001000,4\n{remark}\n S 00002000,4\n")) == [
        (0x1000, LOAD, 4),
        (0x2000, STORE, 4),
    ]


@pytest.mark.parametrize(
    "line",
    [
        " L 0001000,4",  # seven digits: lackey pads to eight
        " L 00000000000001000,4",
        " L 00001000,",
        " L 00001000",
        " L 00001000,4 ",
        " L 00001000,4294967296",
        " L 00001000,12345678901",
        " L 0000g000,4",
        " X 00001000,4",
        "L  00001000,4",
        "I 00001000,4",
        " L  00001000,4",
        "== 12 == x",
        "hello",
        " ",
        "\0",
    ],
)
def test_any_other_line_is_damaged_and_named_or_counted(tmp_path: Path, line: str) -> None:
    path = saved(tmp_path, f"{HEADER} L 00001000,4\n{line}\n S 00002000,4\n")
    with pytest.raises(TraceError, match=r"line 4: .*no line of lackey") as caught:
        read(path)
    assert caught.value.line == 4
    reader = open_accesses(path, skip_bad=True)
    assert rows(list(reader)) == [(0x1000, LOAD, 4), (0x2000, STORE, 4)]
    assert reader.skipped == 1


def test_a_last_line_without_a_newline_was_cut(tmp_path: Path) -> None:
    path = saved(tmp_path, " L 00001000,4\n S 00002000,1")
    with pytest.raises(TraceError, match=r"line 2: .*no newline"):
        read(path)
    reader = open_accesses(path, skip_bad=True)
    assert (rows(list(reader)), reader.skipped) == ([(0x1000, LOAD, 4)], 1)


def test_lines_with_carriage_returns_are_read(tmp_path: Path) -> None:
    assert read(saved(tmp_path, "==1== x\r\n\r\n L 00001000,4\r\n")) == [(0x1000, LOAD, 4)]


def test_a_file_of_remarks_alone_holds_no_accesses(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="holds no accesses"):
        read(saved(tmp_path, HEADER))


def test_a_line_longer_than_the_buffer_is_one_damaged_line(tmp_path: Path) -> None:
    long = "x" * (3 * lines_module.TEXT_BYTES + 5)
    path = saved(tmp_path, f" L 00001000,4\n{long}\n S 00002000,4\n")
    with pytest.raises(TraceError, match=r"line 2: .*longer than"):
        read(path)
    reader = open_accesses(path, skip_bad=True)
    assert (rows(list(reader)), reader.skipped) == ([(0x1000, LOAD, 4), (0x2000, STORE, 4)], 1)
    bad = saved(tmp_path, f" L 00001000,4\n{long}\n S 00002000,4\nbad\n")
    skipping = open_accesses(bad, skip_bad=True)
    assert (len(rows(list(skipping))), skipping.skipped) == (2, 2)


LINES = st.one_of(
    st.tuples(
        st.sampled_from(sorted(KINDS)),
        st.integers(0, 2**64 - 1) | st.integers(0, 2**40),
        st.integers(0, 2**32 - 1) | st.integers(1, 64),
    ).map(lambda made: f"{made[0]} {made[1]:08x},{made[2]}"),
    st.sampled_from(["==3== x", "", "damaged", " L 12"]),
)


@given(st.lists(LINES, max_size=80), st.integers(40, 90))
def test_lines_are_read_the_same_wherever_a_block_ends(
    tmp_path_factory: pytest.TempPathFactory, made: list[str], block: int
) -> None:
    text = " L 00000001,1\n" + "".join(f"{line}\n" for line in made)
    path = tmp_path_factory.mktemp("lackey") / "trace"
    path.write_text(text)
    whole = lines_module.TEXT_BYTES
    lines_module.TEXT_BYTES = block
    try:
        reader = open_accesses(path, "lackey", skip_bad=True)
        assert rows(list(reader)) == naive(text)
    finally:
        lines_module.TEXT_BYTES = whole
    assert reader.skipped == sum(line in ("damaged", " L 12") for line in made)


@pytest.mark.parametrize("room", [2, 3, 5])
def test_chunks_that_fill_up_lose_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    monkeypatch.setattr(lines_module, "CHUNK", room)
    text = " M 00001000,4\nI  00002000,3\n L 00003000,1\n M 00004000,2\n" * 9
    chunks = list(open_accesses(saved(tmp_path, text)))
    assert rows(chunks) == naive(text)
    assert max(map(len, chunks)) <= room


RANDOM_LINES = "".join(
    f" L {va:08x},8\n" for va in np.random.default_rng(5).integers(0, 2**47, 60_000)
)


@pytest.mark.parametrize("opener", [gzip.open, lzma.open, bz2.open])
def test_compressed_files_are_told_by_content_and_cut_ones_are_damage(tmp_path, opener) -> None:
    path = tmp_path / "no-suffix"
    with opener(path, "wt") as file:
        file.write(RANDOM_LINES)
    assert read(path) == naive(RANDOM_LINES)
    os.truncate(path, path.stat().st_size * 3 // 4)
    with pytest.raises(TraceError, match=r"offset .*compressed file is truncated"):
        read(path)


@pytest.mark.parametrize("opener", [gzip.open, lzma.open])
def test_of_a_compressed_file_that_was_cut_the_rest_is_read(tmp_path, opener) -> None:
    path = tmp_path / "trace"
    with opener(path, "wt") as file:
        file.write(RANDOM_LINES)
    os.truncate(path, path.stat().st_size * 3 // 4)
    reader = open_accesses(path, skip_bad=True)
    left = rows(list(reader))
    assert left == naive(RANDOM_LINES)[: len(left)]
    assert (len(left) > 20_000, reader.skipped) == (True, 1)


def test_what_is_written_is_what_lackey_prints(tmp_path: Path) -> None:
    chunk = Accesses(
        np.array([0x401AB70, 0x1FFF000768, 2**64 - 1, 0], np.uint64),
        np.array([FETCH, LOAD, STORE, LOAD], np.uint8),
        np.array([3, 8, 2**32 - 1, 0], np.uint32),
        np.zeros(4, np.uint16),
    )
    write_accesses([chunk], tmp_path / "out.lackey")
    assert (tmp_path / "out.lackey").read_text() == (
        "I  0401ab70,3\n L 1fff000768,8\n S ffffffffffffffff,4294967295\n L 00000000,0\n"
    )
