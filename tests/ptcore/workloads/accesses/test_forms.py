"""Which form a file is in, and what becomes of the accesses when they are written in another."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from ptcore.errors import TraceError
from ptcore.workloads import sample_path
from ptcore.workloads.accesses import (
    TARGETS,
    Accesses,
    AccessKind,
    convert,
    guess_form,
    open_accesses,
    write_accesses,
)

LACKEY = "I  00401000,4\n L 7fff00001000,8\n M 7fff00002000,4\n S 00005000,2\n"
PERF = "x 7 [003] 1.5: page-faults: 1000 2000\ny 8 [001] 1.6: page-faults: 3000 3000\n"


def chunk_of(path: Path, form: str | None = None) -> Accesses:
    (chunk,) = open_accesses(path, form)
    return chunk


@pytest.mark.parametrize(
    "target", ["a.npz", "a.parquet", "a.lackey", "a.lackey.gz", "a.lackey.bz2"]
)
def test_lackey_survives_every_form_that_keeps_sizes(tmp_path: Path, target: str) -> None:
    source = tmp_path / "in"
    source.write_text(LACKEY)
    done = convert(source, tmp_path / target)
    assert (done.accesses, done.skipped, done.lost) == (5, 0, ())
    before, after = chunk_of(source), chunk_of(tmp_path / target)
    for name, column in before.columns().items():
        assert np.array_equal(column, after.columns()[name])
    assert guess_form(tmp_path / target) == target.split(".")[1]


def test_what_a_form_does_not_keep_is_said(tmp_path: Path) -> None:
    (tmp_path / "perf").write_text(PERF)
    (tmp_path / "lackey").write_text(LACKEY)
    assert convert(tmp_path / "perf", tmp_path / "a.npz").lost == ()
    assert convert(tmp_path / "perf", tmp_path / "a.lackey").lost == ("cpu", "time_ns")
    assert convert(tmp_path / "lackey", tmp_path / "a.champsim.xz").lost == ("size",)


@pytest.mark.parametrize("target", ["a.champsim", "a.champsimtrace.xz"])
def test_champsim_keeps_addresses_kinds_and_their_order(tmp_path: Path, target: str) -> None:
    (tmp_path / "in").write_text(LACKEY)
    convert(tmp_path / "in", tmp_path / target)
    before, after = chunk_of(tmp_path / "in"), chunk_of(tmp_path / target, "champsim")
    assert np.array_equal(before.va, after.va)
    assert np.array_equal(before.kind, after.kind)


def test_skipped_records_are_counted_through_a_conversion(tmp_path: Path) -> None:
    (tmp_path / "in").write_text(LACKEY + "x\n" + LACKEY)
    with pytest.raises(TraceError, match="line 5"):
        convert(tmp_path / "in", tmp_path / "a.npz")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in"]
    done = convert(tmp_path / "in", tmp_path / "a.npz", skip_bad=True)
    assert (done.accesses, done.skipped) == (10, 1)


def test_a_target_that_was_there_stays_when_the_source_is_damaged(tmp_path: Path) -> None:
    (tmp_path / "in").write_text(LACKEY + "x\n")
    (tmp_path / "a.lackey").write_text("before")
    with pytest.raises(TraceError):
        convert(tmp_path / "in", tmp_path / "a.lackey")
    assert (tmp_path / "a.lackey").read_text() == "before"


def test_a_trace_may_be_converted_onto_itself(tmp_path: Path) -> None:
    path = tmp_path / "a.lackey"
    path.write_text("==1== x\n" + LACKEY)
    convert(path, path)
    assert path.read_text() == LACKEY.replace(
        " M 7fff00002000,4", " L 7fff00002000,4\n S 7fff00002000,4"
    )


@pytest.mark.parametrize(
    ("name", "form", "message"),
    [
        ("a.txt", None, "ends in none of .npz, .parquet, .lackey"),
        ("a.npz.gz", None, "npz is not written with .gz around it"),
        ("a.npz", "perf", "'perf' cannot be written; npz, parquet, lackey, champsim can"),
    ],
)
def test_a_target_that_cannot_be_written_is_refused_at_once(
    tmp_path: Path, name: str, form: str | None, message: str
) -> None:
    with pytest.raises(TraceError, match=message):
        convert(tmp_path / "is not looked at", tmp_path / name, to=form)


@pytest.mark.parametrize("form", sorted(TARGETS))
def test_the_form_to_write_may_be_named(tmp_path: Path, form: str) -> None:
    (tmp_path / "in").write_text(LACKEY * 9)
    convert(tmp_path / "in", tmp_path / "out", to=form)
    assert guess_form(tmp_path / "out") == form


def test_times_in_a_part_of_the_chunks_are_refused(tmp_path: Path) -> None:
    column = np.zeros(1, np.uint64)
    rest = (column.astype(np.uint8), column.astype(np.uint32), column.astype(np.uint16))
    chunks = [Accesses(column, *rest), Accesses(column, *rest, column.astype(np.int64))]
    for name in ("a.npz", "a.parquet"):
        with pytest.raises(TraceError, match="only a part of the trace has times"):
            write_accesses(chunks, tmp_path / name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"hello\n", "in none of the forms lackey, champsim"),
        (b"PK\x03\x04rubbish", "cut short or damaged"),
        (bytes(range(256)) * 9, "in none of the forms"),
        (gzip.compress(b"hello\n"), "in none of the forms"),
    ],
)
def test_a_file_of_no_known_form_says_so(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "x"
    path.write_bytes(content)
    with pytest.raises(TraceError, match=message):
        open_accesses(path)


def test_a_kernel_log_is_called_by_its_name() -> None:
    with (
        sample_path() as path,
        pytest.raises(TraceError, match="it looks like ftrace without page faults"),
    ):
        open_accesses(path)


def test_an_unknown_form_and_a_missing_file_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="no form is called 'dinero'; there is lackey"):
        open_accesses(tmp_path / "x", "dinero")
    with pytest.raises(FileNotFoundError):
        open_accesses(tmp_path / "x")


def test_a_reader_is_a_context_and_may_stop_early(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_text(LACKEY * 30_000)
    with open_accesses(path) as reader:
        assert len(next(reader)) == reader.accesses
    with pytest.raises(StopIteration):
        next(reader)


def test_a_chunk_checks_its_columns_and_picks_rows(tmp_path: Path) -> None:
    (tmp_path / "x").write_text(LACKEY)
    chunk = chunk_of(tmp_path / "x")
    assert chunk.of(AccessKind.STORE).va.tolist() == [0x7FFF00002000, 0x5000]
    assert chunk[1:3].size.tolist() == [8, 4]
    with pytest.raises(ValueError, match="kind is uint64"):
        Accesses(chunk.va, chunk.va, chunk.size, chunk.cpu)
    with pytest.raises(ValueError, match="not uint32"):
        Accesses(chunk.va, chunk.kind, chunk.size[:2], chunk.cpu)
