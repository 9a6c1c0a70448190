"""drmemtrace's records and the view tool's text: the same made-up trace in both, read alike."""

from __future__ import annotations

import gzip
import struct
import zipfile
from pathlib import Path

import pytest

from ptcore.errors import TraceError
from ptcore.workloads.accesses import Accesses, AccessKind, open_accesses

LOAD, STORE, FETCH = (int(kind) for kind in AccessKind)
EPOCH_US = 11_644_473_600_000_000  # 1970, counted from 1601
Row = tuple[int, int, int, int, int]


def us(microseconds: int) -> int:
    return EPOCH_US + microseconds


def packed(records: list[tuple[int, int, int]], width: int = 8) -> bytes:
    layout = "<HHQ" if width == 8 else "<HHI"
    return b"".join(struct.pack(layout, *record) for record in records)


def head(thread: int = 77) -> list[tuple[int, int, int]]:
    return [
        (25, 0, 5),
        (28, 12, 5),
        (28, 9, 0xE40),
        (22, 4, thread),
        (24, 4, thread),
        (28, 10, 64),
        (28, 20, 10_000_000),
        (28, 18, 4096),
    ]


BODY = [
    (28, 2, us(1000)),
    (28, 3, 3),
    (47, 4, 0x90C35D58),  # an encoding: its address is no address
    (10, 4, 0x401000),
    (0, 8, 0x7FFF0000),
    (47, 2, 0x0F05),
    (14, 2, 0x401004),
    (1, 4, 0x7FFF0008),
    (29, 2, 0x401004),  # not fetched
    (3, 64, 0x5000),  # a prefetch
    (18, 64, 0x401000),  # a flush
    (28, 2, us(2000)),
    (28, 3, 5),
    (48, 2, 0x401006),
    (49, 2, 0x401008),
    (28, 3, 2**64 - 1),  # the recorder did not know the CPU
    (31, 2, 0x40100A),
    (23, 0, 77),
    (26, 0, 0),
]
WANTED: list[Row] = [
    (0x401000, FETCH, 4, 3, 1_000_000),
    (0x7FFF0000, LOAD, 8, 3, 1_000_000),
    (0x401004, FETCH, 2, 3, 1_000_000),
    (0x7FFF0008, STORE, 4, 3, 1_000_000),
    (0x401006, FETCH, 2, 5, 2_000_000),
    (0x401008, FETCH, 2, 5, 2_000_000),
    (0x40100A, FETCH, 2, 0, 2_000_000),
]
VIEW = f"""\
Output format:
<--record#-> <--instr#->: <---tid---> <record details>
------------------------------------------------------------
           1           0:          77 <marker: version 5>
           2           0:          77 <marker: page size 4096>
           3           0:          77 <marker: timestamp {us(1000)}>
           4           0:          77 <marker: tid 77 on core 3>
           5           1:          77 ifetch       4 byte(s) @ 0x0000000000401000 90 c3 5d 58 nop
           6           1:          77 read         8 byte(s) @ 0x000000007fff0000 by PC 0x0000000000401000
           7           2:          77 ifetch       2 byte(s) @ 0x0000000000401004 48 8d 34 25 00 20 40 lea
           7           2:          77                                             00
           8           2:          77 write        4 byte(s) @ 0x000000007fff0008 by PC 0x0000000000401004
           9           2:          77 ifetch       2 byte(s) @ 0x0000000000401004 non-fetched instruction
          10           2:          77 pref-r-L2   64 byte(s) @ 0x0000000000005000 by PC 0x0000000000401004
          11           2:          77 iflush      64 byte(s) @ 0x0000000000401000 by PC 0x0000000000401004
------------------------------------------------------------
          12           2:          77 <marker: timestamp {us(2000)}>
          13           2:          77 <marker: tid 77 on core 5>
          14           3:          77 ifetch       2 byte(s) @ 0x0000000000401006 jump
          15           4:          77 ifetch       2 byte(s) @ 0x0000000000401008 jump
          16           4:          77 <marker: tid 77 on core {2**64 - 1}>
          17           5:          77 ifetch       2 byte(s) @ 0x000000000040100a sysenter
          18           5:          77 <thread 77 exited>
View tool results:
              5 : total instructions
"""


def rows(chunks) -> list[Row]:
    found: list[Row] = []
    for chunk in chunks:
        assert isinstance(chunk, Accesses)
        assert chunk.time_ns is not None
        columns = (chunk.va, chunk.kind, chunk.size, chunk.cpu, chunk.time_ns)
        found += zip(*(column.tolist() for column in columns), strict=True)
    return found


def zipped(path: Path, *chunks: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for number, chunk in enumerate(chunks):
            archive.writestr(f"chunk.{number:04}", chunk)
    return path


@pytest.mark.parametrize("cut", [3, 10, 15])
def test_a_thread_is_read_across_its_chunks(tmp_path: Path, cut: int) -> None:
    path = zipped(tmp_path / "a.trace.zip", packed(head() + BODY[:cut]), packed(BODY[cut:]))
    reader = open_accesses(path)
    assert rows(reader) == WANTED
    assert reader.form == "drmemtrace"


def test_addresses_may_have_four_bytes(tmp_path: Path) -> None:
    body = [(10, 4, 0x401000), (28, 3, 2**32 - 1), (0, 8, 0x7FFF0000), (28, 3, 3), (1, 4, 0x8000)]
    path = zipped(tmp_path / "a.trace.zip", packed(head() + body, width=4))
    wanted = [(0x401000, FETCH, 4, 0, 0), (0x7FFF0000, LOAD, 8, 0, 0), (0x8000, STORE, 4, 3, 0)]
    assert rows(open_accesses(path)) == wanted


def test_a_thread_may_be_gzip_or_plain(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "a.trace.gz", "wb") as file:
        file.write(packed(head() + BODY))
    (tmp_path / "a.trace").write_bytes(packed(head() + BODY))
    assert rows(open_accesses(tmp_path / "a.trace.gz")) == WANTED
    assert rows(open_accesses(tmp_path / "a.trace")) == WANTED


def test_the_threads_of_a_folder_are_merged_by_time(tmp_path: Path) -> None:
    folder = tmp_path / "app.dir"
    one = [(28, 2, us(1)), (28, 3, 0), (10, 1, 0x1000), (28, 2, us(4)), (10, 1, 0x1001)]
    two = [(28, 2, us(2)), (28, 3, 1), (10, 1, 0x2000), (10, 1, 0x2001), (28, 2, us(5))]
    three = [(28, 2, us(3)), (28, 3, 2), (10, 1, 0x3000), (28, 2, us(6)), (10, 1, 0x3001)]
    for name, body in (("a", one), ("b", [*two, (10, 1, 0x2002)]), ("c", three), ("d", [])):
        zipped(folder / f"trace/{name}.trace.zip", packed(head() + body))
    found = rows(open_accesses(folder))
    assert [row[0] for row in found] == [
        *(0x1000, 0x2000, 0x2001, 0x3000, 0x1001, 0x2002, 0x3001),
    ]
    assert [row[3] for row in found] == [0, 1, 1, 2, 0, 1, 2]
    assert [row[4] for row in found] == sorted(row[4] for row in found)
    assert found == rows(open_accesses(folder / "trace"))


def test_a_folder_without_threads_says_so(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw/x.raw.lz4").write_bytes(b"x")
    with pytest.raises(TraceError, match=r"no \*\.trace\.zip .* holds raw files"):
        open_accesses(tmp_path)


@pytest.mark.parametrize(
    "bad",
    [(17, 3, 0x10203), (30, 2, 0x1000), (50, 1, 0x1000), (28, 2, 5), (28, 3, 65536)],
    ids=["a bundle", "maybe a fetch", "a later version's type", "a time before 1970", "a CPU"],
)
def test_a_record_that_cannot_be_read_is_named_by_its_offset_or_counted(
    tmp_path: Path, bad: tuple[int, int, int]
) -> None:
    path = zipped(tmp_path / "a.trace.zip", packed(head() + BODY[:4] + [bad] + BODY[4:]))
    with pytest.raises(TraceError, match=r"a\.trace\.zip, chunk\.0000: .*type") as caught:
        rows(open_accesses(path))
    assert caught.value.offset == 12 * (len(head()) + 4)
    reader = open_accesses(path, skip_bad=True)
    assert (rows(reader), reader.skipped) == (WANTED, 1)


def test_an_archive_that_is_cut_or_damaged_is_no_python_error(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.trace.zip", packed(head() + BODY), packed(BODY * 50))
    content = path.read_bytes()
    path.write_bytes(content[: len(content) - 30])
    with pytest.raises(TraceError, match="cut short or damaged"):
        open_accesses(path)
    first = content.index(b"chunk.0001") + 20
    path.write_bytes(content[:first] + b"\xff" * 8 + content[first + 8 :])
    with pytest.raises(TraceError, match=r"chunk\.0001: the archive is damaged"):
        rows(open_accesses(path))
    reader = open_accesses(path, skip_bad=True)
    found = rows(reader)
    assert (found[: len(WANTED)], reader.skipped) == (WANTED, 1)


def test_half_a_record_is_damage(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.trace.zip", packed(head() + BODY)[:-5])
    with pytest.raises(TraceError, match="ends within this record, after 7 bytes"):
        rows(open_accesses(path))


@pytest.mark.parametrize("ends", ["\n", "\r\n"])
def test_the_view_tool_prints_the_same_trace(tmp_path: Path, ends: str) -> None:
    path = tmp_path / "view.txt"
    path.write_text(VIEW, newline=ends)
    reader = open_accesses(path)
    assert rows(reader) == WANTED
    assert reader.form == "drmemtrace-view"


@pytest.mark.parametrize(
    "line",
    [
        "Hello from the program",
        "1 1: 77",
        "1 1: 77 ifetch 4 byte(s) @ 401000 nop",
        "1 1: 77 ifetch byte(s) @ 0x401000 nop",
        "1 1: 77 read 8 byte(s) @ 0x401000",
        "1 1: 77 read 8 byte(s) @ 0x401000 by PC 0x",
        "1 1: 77 write 8 byte(s) @ 0x11112222333344445 by PC 0x1",
        "1 1: 77 write 4294967296 byte(s) @ 0x1111 by PC 0x1",
        "1 1: 77 jump 4 byte(s) @ 0x401000",
        "1 1: 77 <marker: timestamp 12>",
        "1 1: 77 <marker: tid 77 on core 65536>",
        "1 1: 77 <marker: tid 77 on co",
        "1: 77 ifetch 4 byte(s) @ 0x401000 nop",
    ],
)
def test_any_other_line_of_view_is_damaged_and_named_or_counted(tmp_path: Path, line: str) -> None:
    path = tmp_path / "view.txt"
    path.write_text(VIEW + line + "\n")
    with pytest.raises(TraceError, match="no line of drmemtrace's view tool") as caught:
        rows(open_accesses(path))
    assert caught.value.line == VIEW.count("\n") + 1
    reader = open_accesses(path, skip_bad=True)
    assert (rows(reader), reader.skipped) == (WANTED, 1)
