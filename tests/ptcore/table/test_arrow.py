"""Listings as Arrow streams: what pyarrow, polars and DuckDB read is what the array holds."""

from __future__ import annotations

import gc
import weakref
from collections import Counter
from typing import Any

import duckdb
import numpy as np
import polars
import pyarrow
import pytest

from ptcore import AddressSpace, Columns, PageTable, PhysicalMemory, diff
from ptcore.table import ROW_DTYPE, Listing, arrow
from ptcore.table.listing import listing

EVERY_TYPE = np.dtype(
    [(name, name) for name in ("u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f4", "f8")]
)


def random_rows(count: int) -> Any:
    rng = np.random.default_rng(count)
    rows = np.zeros(count, dtype=EVERY_TYPE)
    for name in EVERY_TYPE.names or ():
        number = rng.integers(0, 100, count) - (50 if name[0] != "u" else 0)
        rows[name] = number / 3 if name[0] == "f" else number
    return rows


@pytest.mark.parametrize("count", [0, 1, 7, 1000])
def test_pyarrow_and_polars_read_what_the_array_holds(count: int) -> None:
    rows = random_rows(count)
    for found in (pyarrow.table(listing(rows)), pyarrow.table(Columns(rows))):
        assert found.column_names == list(EVERY_TYPE.names or ())
        assert [str(f.type) for f in found.schema] == [
            *("uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64"),
            *("float", "double"),
        ]
        for name in found.column_names:
            assert found[name].to_numpy().tolist() == rows[name].tolist()
    frame = polars.DataFrame(Columns(rows))
    assert frame.shape == (count, len(EVERY_TYPE))
    for name in frame.columns:
        assert frame[name].to_list() == rows[name].tolist()


def test_batches_are_cut_and_nothing_is_lost_between_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrow, "BATCH_ROWS", 300)
    rows = random_rows(1000)
    reader = pyarrow.RecordBatchReader.from_stream(listing(rows))
    batches = list(reader)
    assert [batch.num_rows for batch in batches] == [300, 300, 300, 100]
    assert pyarrow.Table.from_batches(batches)["i4"].to_pylist() == rows["i4"].tolist()


def test_duckdb_asks_a_listing_of_its_columns() -> None:
    table = PageTable("x86_64_4level", PhysicalMemory("4M"))
    table.map(0x1000, 0x20_0000, "8K")
    table.map(0x40_0000, 0x40_0000, "2M")
    columns = table.mappings().columns
    found = duckdb.sql("select first, pa, page_size from columns order by first").fetchall()
    assert found == [(0x1000, 0x20_0000, 4096), (0x40_0000, 0x40_0000, 1 << 21)]
    assert len(columns) == 2


def test_every_listing_is_one() -> None:
    ram = PhysicalMemory("8M")
    table, other = PageTable("x86_64_4level", ram), PageTable("x86_64_4level", ram)
    table.map(0x1000, 0x20_0000, "8K")
    kinds = Counter[str]()
    for rows in (
        table.mappings(),
        AddressSpace([table]).mappings(),
        diff(table, other),
        table.mappings()[:0],
    ):
        assert isinstance(rows, Listing)
        assert pyarrow.table(rows).num_rows == len(rows)
        kinds[str(len(rows))] += 1
    assert kinds == {"1": 3, "0": 1}
    assert pyarrow.chunked_array(table.mappings()["pa"]).to_pylist() == [0x20_0000]


def test_rows_live_as_long_as_what_was_made_of_them_and_no_longer() -> None:
    rows = listing(np.zeros(10, dtype=ROW_DTYPE))
    alive = weakref.ref(rows)
    capsule = rows.__arrow_c_stream__()
    table = pyarrow.table(rows)
    del rows
    gc.collect()
    assert alive() is None or capsule is not None
    del capsule
    gc.collect()
    assert table["first"].to_pylist() == [0] * 10
    del table
    gc.collect()
    assert alive() is None


def test_a_column_taken_out_of_a_batch_outlives_it() -> None:
    rows = random_rows(50)
    column = pyarrow.table(listing(rows)).column("u8").chunk(0)
    gc.collect()
    np.zeros(1 << 16)
    assert column.to_pylist() == rows["u8"].tolist()


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (np.zeros(2, dtype=[("a", ">u8")]), "no Arrow column is made of >u8"),
        (np.zeros(2, dtype=[("a", "S4")]), "no Arrow column is made of"),
        (np.zeros((2, 2), dtype="u8"), "one dimension, not 2"),
    ],
)
def test_what_cannot_be_a_column_is_refused(rows: Any, said: str) -> None:
    with pytest.raises(TypeError, match=said):
        Columns(rows).__arrow_c_stream__()
