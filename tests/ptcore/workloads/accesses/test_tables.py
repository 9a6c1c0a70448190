"""NumPy's files, Parquet and Arrow: read in chunks, with every row checked."""

from __future__ import annotations

import io
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from ptcore.errors import TraceError
from ptcore.workloads.accesses import Accesses, open_accesses, write_accesses

pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
parquet = pytest.importorskip("pyarrow.parquet")

COUNT = 200_001  # several chunks, the last one short
FORMS = ["npz", "parquet"]


def columns(count: int = COUNT, timed: bool = True) -> dict[str, np.ndarray]:
    random = np.random.default_rng(9)
    made = {
        "va": random.integers(0, 2**64, count, dtype=np.uint64),
        "kind": random.integers(0, 3, count, dtype=np.uint8),
        "size": random.integers(0, 2**32, count, dtype=np.uint32),
        "cpu": random.integers(0, 2**16, count, dtype=np.uint16),
    }
    times = {"time_ns": random.integers(-(2**63), 2**63, count, dtype=np.int64)}
    return made | (times if timed else {})


def assert_holds(path: Path, wanted: dict[str, np.ndarray]) -> None:
    chunks = list(open_accesses(path))
    assert {name for chunk in chunks for name in chunk.columns()} == set(wanted)
    for name, column in wanted.items():
        found = np.concatenate([getattr(chunk, name) for chunk in chunks])
        assert found.dtype == column.dtype
        assert np.array_equal(found, column), name


def arrow_file(path: Path, table: pa.Table, stream: bool = False) -> Path:
    new = pa.ipc.new_stream if stream else pa.ipc.new_file
    with new(str(path), table.schema) as writer:
        writer.write_table(table, max_chunksize=70_000)
    return path


@pytest.mark.parametrize("timed", [True, False])
@pytest.mark.parametrize("form", FORMS)
def test_what_is_written_reads_back(tmp_path: Path, form: str, timed: bool) -> None:
    wanted = columns(timed=timed)
    chunks = [
        Accesses(**{name: column[at : at + 60_000] for name, column in wanted.items()})
        for at in range(0, COUNT, 60_000)
    ]
    path = tmp_path / f"out.{form}"
    done = write_accesses(chunks, path)
    assert (done.accesses, done.lost) == (COUNT, ())
    assert_holds(path, wanted)
    if form == "npz":
        with np.load(path) as loaded:
            assert all(np.array_equal(loaded[name], column) for name, column in wanted.items())
    else:
        assert parquet.read_table(path).num_rows == COUNT


def test_what_numpy_saves_is_read(tmp_path: Path) -> None:
    wanted = columns()
    np.savez_compressed(tmp_path / "a.npz", **wanted)
    assert_holds(tmp_path / "a.npz", wanted)
    rows = np.zeros(COUNT, [(name, column.dtype) for name, column in wanted.items()])
    for name, column in wanted.items():
        rows[name] = column
    np.save(tmp_path / "rows.npy", rows)
    assert_holds(tmp_path / "rows.npy", wanted)
    np.save(tmp_path / "va.npy", wanted["va"])
    (chunk, *_) = open_accesses(tmp_path / "va.npy")
    assert np.array_equal(chunk.va, wanted["va"][: len(chunk)])
    assert not chunk.kind.any()
    assert chunk.time_ns is None


@pytest.mark.parametrize("stream", [False, True])
def test_arrow_files_and_streams_are_read(tmp_path: Path, stream: bool) -> None:
    wanted = columns()
    assert_holds(arrow_file(tmp_path / "a", pa.table(wanted), stream), wanted)


def test_wider_columns_big_endian_ones_and_others_are_accepted(tmp_path: Path) -> None:
    va = np.array([1, 2, 3])
    np.savez(tmp_path / "a.npz", va=va.astype(">i4"), cpu=va.astype(np.int64), note=va)
    wanted = {
        "va": va.astype(np.uint64),
        "cpu": va.astype(np.uint16),
        "kind": np.zeros(3, np.uint8),
        "size": np.zeros(3, np.uint32),
    }
    assert_holds(tmp_path / "a.npz", wanted)
    times = pa.array(va * 1000, pa.timestamp("us"))
    parquet.write_table(pa.table({"va": va, "time_ns": times}), tmp_path / "a.parquet")
    (chunk,) = open_accesses(tmp_path / "a.parquet")
    assert chunk.time_ns is not None
    assert chunk.time_ns.tolist() == [1_000_000, 2_000_000, 3_000_000]


@pytest.mark.parametrize("form", [*FORMS, "arrow"])
@pytest.mark.parametrize(
    ("name", "value"), [("va", -1), ("kind", 3), ("size", 2**32), ("cpu", 65536), ("kind", -1)]
)
def test_a_number_that_does_not_fit_damages_its_row(
    tmp_path: Path, form: str, name: str, value: int
) -> None:
    wide = {key: np.ones(100_000, np.int64) for key in ("va", "kind", "size", "cpu")}
    wide[name][[70_000, 70_005]] = value
    path = tmp_path / f"a.{form}"
    if form == "npz":
        np.savez(path, **wide)
    elif form == "parquet":
        parquet.write_table(pa.table(wide), path)
    else:
        arrow_file(path, pa.table(wide))
    with pytest.raises(TraceError, match=rf"row 70000: {name} = {value} is not from"):
        list(open_accesses(path))
    reader = open_accesses(path, skip_bad=True)
    assert (sum(map(len, reader)), reader.skipped) == (99_998, 2)


def test_a_missing_value_damages_its_row(tmp_path: Path) -> None:
    table = pa.table({"va": pa.array([1, None, 3], pa.uint64()), "cpu": pa.array([0, 1, None])})
    parquet.write_table(table, tmp_path / "a")
    with pytest.raises(TraceError, match="row 1: a value is missing"):
        list(open_accesses(tmp_path / "a"))
    reader = open_accesses(tmp_path / "a", skip_bad=True)
    assert ([chunk.va.tolist() for chunk in reader], reader.skipped) == ([[1]], 2)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (np.zeros(3), "float64, not whole numbers"),
        (np.zeros((3, 2), np.uint64), "no single column"),
        (np.zeros(3, [("address", "u8")]), "no column is called va; there is address"),
        (np.array([{}]), "no single column"),
    ],
)
def test_an_array_of_something_else_says_so(tmp_path: Path, content, message: str) -> None:
    np.save(tmp_path / "a.npy", content, allow_pickle=True)
    with pytest.raises(TraceError, match=message):
        list(open_accesses(tmp_path / "a.npy"))


def test_columns_of_different_lengths_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", va=np.arange(3), cpu=np.arange(2))
    with pytest.raises(TraceError, match="not of one length: va 3, cpu 2"):
        list(open_accesses(tmp_path / "a.npz"))


def test_strings_and_tables_without_addresses_are_refused(tmp_path: Path) -> None:
    parquet.write_table(pa.table({"va": ["1"]}), tmp_path / "a")
    with pytest.raises(TraceError, match="the column va is string"):
        list(open_accesses(tmp_path / "a"))
    arrow_file(tmp_path / "b", pa.table({"address": [1]}))
    with pytest.raises(TraceError, match="no column is called va; there is address"):
        list(open_accesses(tmp_path / "b"))


def test_an_array_that_was_cut_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    held = io.BytesIO()
    np.save(held, np.arange(100_000, dtype=np.uint64))
    path = tmp_path / "a.npy"
    path.write_bytes(held.getvalue()[:-804])
    with pytest.raises(TraceError, match="the array ends at row 99899 of 100000") as caught:
        list(open_accesses(path))
    assert caught.value.offset == 128 + 8 * 99_899
    reader = open_accesses(path, skip_bad=True)
    assert (sum(map(len, reader)), reader.skipped) == (99_899, 1)


@pytest.mark.parametrize("at", [6, 8, 20, 60])
def test_a_damaged_header_is_no_python_error(tmp_path: Path, at: int) -> None:
    held = io.BytesIO()
    np.save(held, np.arange(10, dtype=np.uint64))
    content = bytearray(held.getvalue())
    content[at] ^= 0x55
    (tmp_path / "a.npy").write_bytes(content)
    with pytest.raises(TraceError):
        list(open_accesses(tmp_path / "a.npy"))


def test_a_damaged_member_of_an_npz_is_damage(tmp_path: Path) -> None:
    wanted = columns(100_000)
    np.savez_compressed(tmp_path / "a.npz", **wanted)
    content = bytearray((tmp_path / "a.npz").read_bytes())
    with zipfile.ZipFile(tmp_path / "a.npz") as archive:
        place = archive.getinfo("cpu.npy").header_offset + 60_000
    content[place : place + 64] = b"\xff" * 64
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(TraceError, match="the archive is damaged"):
        list(open_accesses(tmp_path / "a.npz"))


@pytest.mark.parametrize("kind", ["parquet", "file", "stream"])
def test_what_pyarrow_cannot_read_is_damage(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a"
    table = pa.table(columns(100_000))
    if kind == "parquet":
        parquet.write_table(table, path, row_group_size=30_000)
    else:
        arrow_file(path, table, kind == "stream")
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(TraceError):
        list(open_accesses(path))


def test_a_damaged_row_group_costs_its_own_rows(tmp_path: Path) -> None:
    path = tmp_path / "a"
    wanted = columns(90_000)
    parquet.write_table(
        pa.table(wanted), path, row_group_size=30_000, compression="zstd", use_dictionary=False
    )
    with parquet.ParquetFile(path) as file:
        place = file.metadata.row_group(1).column(0).data_page_offset
    content = bytearray(path.read_bytes())
    content[place : place + 200] = b"\xff" * 200
    path.write_bytes(content)
    with pytest.raises(TraceError, match="row group 1, row 30000"):
        list(open_accesses(path))
    reader = open_accesses(path, skip_bad=True)
    found = np.concatenate([chunk.va for chunk in reader])
    assert np.array_equal(found, np.concatenate([wanted["va"][:30_000], wanted["va"][60_000:]]))
    assert reader.skipped == 30_000


def test_without_pyarrow_the_message_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parquet.write_table(pa.table({"va": [1]}), tmp_path / "a")
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(TraceError, match=r"pip install 'ptcore\[parquet\]'"):
        list(open_accesses(tmp_path / "a"))


def test_parquet_is_read_out_of_core(tmp_path: Path) -> None:
    rows = 4_000_000
    table = pa.table({"va": np.arange(rows, dtype=np.uint64)})
    parquet.write_table(table, tmp_path / "a", row_group_size=rows // 16, compression="none")
    del table
    before = pa.total_allocated_bytes()
    most = 0
    for chunk in open_accesses(tmp_path / "a"):
        most = max(most, pa.total_allocated_bytes() - before)
        assert len(chunk) <= 1 << 16
    assert 0 < most < 8 * rows // 4


def test_whatever_byte_of_an_archives_directory_is_damaged_it_is_no_python_error(
    tmp_path: Path,
) -> None:
    held = io.BytesIO()
    np.savez(held, va=np.arange(4, dtype=np.uint64))
    content = held.getvalue()
    path = tmp_path / "a.npz"
    outcomes = {"read": 0, "refused": 0}
    for at in range(content.index(b"PK\1\2"), len(content)):
        path.write_bytes(content[:at] + bytes([content[at] ^ 0xFF]) + content[at + 1 :])
        try:
            assert [chunk.va.tolist() for chunk in open_accesses(path, "npz")] == [[0, 1, 2, 3]]
            outcomes["read"] += 1
        except TraceError:
            outcomes["refused"] += 1
    assert min(outcomes.values()) > 5, outcomes
