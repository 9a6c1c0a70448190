"""A ledger says the same whether rows repeat, and whether it is in memory or in parts on disk."""

from __future__ import annotations

import builtins
import errno
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ptcore import strategies
from ptcore.errors import FormatError, OutOfRange, TraceError
from ptcore.machine import Event, Ledger, Machine, Request, ledger_files
from ptcore.machine.cost import price
from ptcore.machine.exposure import windows
from ptcore.units import Span

PAGE = 4096
FORMS = ("npz", "parquet")


def run(name: str, ledger: Ledger, requests: int = 40) -> Machine:
    """A small life of a strategy, with requests of 1 to 39 pages."""
    machine = Machine(2, ram="1G", ledger=ledger)
    strategy = strategies.get(name).make(machine)
    live = []
    for number in range(requests):
        machine.advance(number * 1000)
        handle = strategy.acquire(Request(number % 2, 1 + number * 7 % 39))
        strategy.access(handle, Span.of(0, handle.pages * PAGE), number % 2, "w")
        live.append(handle)
        if len(live) > 5:
            strategy.release(live.pop(number % 5), number % 2)
    return machine


def same(one: Ledger, other: Ledger) -> None:
    assert np.array_equal(one.rows(), other.rows())
    assert len(one) == len(other) > 0
    assert one.totals() == other.totals()
    assert one.totals(17) == other.totals(17)
    assert price(one).lines == price(other).lines
    assert price(one, first_row=23).lines == price(other, first_row=23).lines
    assert np.array_equal(windows(one, 2), windows(other, 2))
    numbers = np.unique(one.rows()["cpus"]).tolist()
    assert [one.cpu_set(n) for n in numbers] == [other.cpu_set(n) for n in numbers]


def test_a_row_that_comes_again_is_stored_once_and_said_as_often_as_it_came() -> None:
    ledger = Ledger()
    machine = Machine(2, ram="1G", ledger=ledger)
    first = len(ledger)
    va = machine.table.legal_spans()[-1].start
    machine.map(va, 0, "2M", 0, page_size=PAGE)
    machine.unmap(va, "2M", 0)
    machine.invalidate(None, 0)
    before, stored = len(ledger), ledger.rows_in_memory
    machine.touch_by_page(va, 64 * PAGE, 100, 1, "w", cpus=(1,))
    assert len(ledger) - before > 700
    assert ledger.rows_in_memory - stored < 30
    single = Ledger()
    other = Machine(2, ram="1G", ledger=single)
    other.map(va, 0, "2M", 0, page_size=PAGE)
    other.unmap(va, "2M", 0)
    other.invalidate(None, 0)
    for n in range(100):
        other.map(va, (64 + n) * PAGE, PAGE, 1, page_size=PAGE, cpus=(1,))
        other.access(Span.of(va, PAGE), 1, "w")
        other.unmap(va, PAGE, 1, cpus=(1,))
        other.invalidate(Span.of(va, PAGE), 1, (1,))
    assert single.rows_in_memory == len(single)
    assert first == 0
    same(ledger, single)


@pytest.mark.parametrize("name", ["naive_unmap", "vmalloc_lazy", "iommu_strict"])
@pytest.mark.parametrize("form", FORMS)
def test_a_streamed_ledger_says_what_one_in_memory_says(
    name: str, form: str, tmp_path: Path
) -> None:
    whole, streamed = Ledger(), Ledger(limit_rows=50, spill=tmp_path / "parts", form=form)
    run(name, whole)
    run(name, streamed)
    assert streamed.streamed
    assert not whole.streamed
    assert streamed.rows_in_memory <= 50
    same(streamed, whole)
    streamed.close()
    parts = sorted(path.name for path in (tmp_path / "parts").iterdir())
    assert len(parts) > 4
    assert parts[0] == f"part-000000.{form}"
    same(Ledger.load(tmp_path / "parts"), whole)
    Ledger.load(tmp_path / "parts").save(tmp_path / "copy")
    same(Ledger.load(tmp_path / "copy"), whole)


def test_a_saved_ledger_keeps_its_repeats(tmp_path: Path) -> None:
    whole = Ledger()
    run("kmap_local", whole)
    assert whole.rows_in_memory < len(whole) / 2
    whole.save(tmp_path / "one.npz")
    loaded = Ledger.load(tmp_path / "one.npz")
    assert loaded.rows_in_memory == whole.rows_in_memory
    same(loaded, whole)


def test_chunks_pick_events_and_rows() -> None:
    ledger = Ledger()
    run("naive_unmap", ledger)
    rows = ledger.rows()
    for first in (0, 1, 500, len(rows) - 1, len(rows), len(rows) + 5):
        assert np.array_equal(ledger.rows(first), rows[first:])
    chosen = ledger.rows(100, events=(Event.MAPPED, Event.ACCESSED))
    wanted = rows[100:][np.isin(rows["event"][100:], (Event.MAPPED, Event.ACCESSED))]
    assert np.array_equal(chosen, wanted)
    sizes = [len(chunk) for chunk in ledger.chunks(most=64)]
    assert max(sizes) == 64
    assert sum(sizes) == len(rows)


def test_a_full_disk_loses_nothing_that_was_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = Ledger(limit_rows=10, spill=tmp_path, form="npz")
    opened = builtins.open

    class Full:
        def __init__(self, file: Any) -> None:
            self.file = file

        def __enter__(self) -> Any:
            return self

        def __exit__(self, *_: object) -> None:
            self.file.close()

        def read(self, size: int = -1) -> bytes:
            return b""

        def write(self, _: object) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    def open_full(path: Any, mode: str = "r") -> Any:
        file = opened(path, mode)
        return Full(file) if "part-000002" in str(path) else file

    monkeypatch.setattr(ledger_files, "open", open_full, raising=False)
    for n in range(30):
        ledger.append(Event.ACQUIRED, n, 0, n)
    with pytest.raises(OSError, match="No space"):
        ledger.append(Event.ACQUIRED, 30, 0, 30)
    assert len(ledger) == 30
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "part-000000.npz",
        "part-000001.npz",
    ]
    assert Ledger.load(tmp_path).rows()["count"].tolist() == list(range(20))
    monkeypatch.undo()
    ledger.append(Event.ACQUIRED, 100, 0, 30)  # there is room again: it goes on
    ledger.close()
    assert Ledger.load(tmp_path).rows()["count"].tolist() == list(range(31))


def test_what_is_no_ledger_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(OutOfRange):
        Ledger(limit_rows=0)
    with pytest.raises(FormatError, match="csv"):
        Ledger(limit_rows=5, form="csv")
    with pytest.raises(TraceError, match="no part-000000"):
        Ledger.load(tmp_path)
    ledger = Ledger(limit_rows=5, spill=tmp_path / "parts", form="npz")
    for n in range(30):
        ledger.append(Event.ACQUIRED, n, 0)
    ledger.close()
    with pytest.raises(TraceError, match="not empty"):
        Ledger(limit_rows=5, spill=tmp_path / "parts")
    (tmp_path / "parts/part-000002.npz").unlink()
    with pytest.raises(TraceError, match="part 2 of the ledger is missing"):
        Ledger.load(tmp_path / "parts")
    (tmp_path / "parts/part-000002.npz").write_bytes(b"nothing")
    with pytest.raises(TraceError, match="part-000002"):
        Ledger.load(tmp_path / "parts")


def test_parquet_without_pyarrow_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow.parquet", None)
    with pytest.raises(FormatError, match="pip install"):
        Ledger(limit_rows=5, form="parquet")
    assert ledger_files.form_of(None) == "npz"


def test_a_part_in_parquet_says_what_its_rows_stand_for(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    ledger = Ledger(limit_rows=200, spill=tmp_path, form="parquet")
    run("kmap_local", ledger)
    ledger.close()
    tables = [parquet.read_table(path) for path in sorted(tmp_path.iterdir())]
    assert sum(int(table.column("times").to_numpy().sum()) for table in tables) == len(ledger)
    assert set(ledger_files.PARQUET_COLUMNS) < set(tables[0].column_names)


@pytest.mark.parametrize("limit", [None, 60])
def test_weights_count_what_came_from_any_row_on(limit: int | None) -> None:
    ledger = Ledger() if limit is None else Ledger(limit_rows=limit, form="npz")
    run("naive_unmap", ledger, requests=12)
    rows = ledger.rows()
    unfolded = 0
    for first in (*range(0, len(rows), 7), len(rows) - 1, len(rows), len(rows) + 3):
        found = list(ledger.weighted(first))
        counted = np.zeros(256, dtype=np.int64)
        for part, weights in found:
            np.add.at(counted, part["event"], weights)
        assert np.array_equal(counted, np.bincount(rows["event"][first:], minlength=256))
        unfolded = max(unfolded, sum(len(part) for part, _ in found))
    # No more than one repeat is said in full: most rows of this ledger are repeats.
    assert len(rows) > 3 * ledger.rows_in_memory if limit is None else ledger.streamed
    assert unfolded < len(rows) / 2


def test_a_mapping_and_a_split_say_which_leaves_were_asked_for(tmp_path: Path) -> None:
    ledger = Ledger(limit_rows=9, spill=tmp_path)
    machine = Machine(2, ram="1G", ledger=ledger)
    va = machine.table.legal_spans()[-1].start
    machine.map(va, 0, "4M", 0)
    machine.split(va, "2M", PAGE, 0)
    machine.map(va + (4 << 20), 4 << 20, "2M", 0, page_size="2M")
    machine.map(va + (6 << 20), 6 << 20, "64K", 0, page_size=PAGE)
    machine.map(va + (6 << 20) + (1 << 16), 8 << 20, PAGE, 0)
    machine.touch_by_page(va + (7 << 20), 9 << 20, 5, 0, step=PAGE)
    ledger.close()
    rows = Ledger.load(tmp_path).rows(events=[Event.MAPPED, Event.SPLIT])
    assert rows["page_lg2"].tolist() == [0, 12, 21, 12, 0] + [12] * 5
    assert not Ledger.load(tmp_path).rows(events=[Event.UNMAPPED])["page_lg2"].any()
