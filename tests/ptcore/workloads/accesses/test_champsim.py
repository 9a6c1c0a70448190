"""ChampSim's records, packed here with struct as its header file declares them."""

from __future__ import annotations

import gzip
import lzma
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptcore.errors import TraceError
from ptcore.workloads.accesses import (
    Accesses,
    AccessKind,
    champsim,
    convert,
    open_accesses,
    write_accesses,
)

LOAD, STORE, FETCH = (int(kind) for kind in AccessKind)
SHORT, LONG = "<QBB2B4B2Q4Q", "<QBB4B4B6x4Q4Q2B6x"
FORMS = {"champsim": SHORT, "champsim-cloudsuite": LONG}


def record(layout: str, ip: int, stores: list[int], loads: list[int], branch: int = 0) -> bytes:
    """One record with these addresses in its first slots."""
    width = 2 if layout == SHORT else 4
    registers = [1] * (6 if layout == SHORT else 8)
    slots = stores + [0] * (width - len(stores)) + loads + [0] * (4 - len(loads))
    asid = [] if layout == SHORT else [0, 0]
    return struct.pack(layout, ip, branch, branch, *registers, *slots, *asid)


def test_the_layouts_have_the_sizes_that_champsim_has() -> None:
    assert (struct.calcsize(SHORT), struct.calcsize(LONG)) == (64, 96)


def rows(chunks) -> list[tuple[int, int]]:
    return [row for c in chunks for row in zip(c.va.tolist(), c.kind.tolist(), strict=True)]


@pytest.mark.parametrize("form", FORMS)
def test_a_record_is_its_fetch_its_loads_and_its_stores(tmp_path: Path, form: str) -> None:
    layout = FORMS[form]
    many = [0x7000, 0x7008, 0x7010, 0x7018][: 2 if layout == SHORT else 4]
    content = record(layout, 0x400000, many, [0x5000, 0x5008, 0x5010, 0x5018], 1)
    content += record(layout, 0x400004, [], []) + record(layout, 0x400008, [0x9000], [])
    path = tmp_path / "trace"
    path.write_bytes(content)
    reader = open_accesses(path)
    assert rows(reader) == [
        (0x400000, FETCH),
        *((va, LOAD) for va in (0x5000, 0x5008, 0x5010, 0x5018)),
        *((va, STORE) for va in many),
        (0x400004, FETCH),
        (0x400008, FETCH),
        (0x9000, STORE),
    ]
    assert reader.form == form


def test_a_slot_may_be_empty_before_one_that_is_used(tmp_path: Path) -> None:
    path = tmp_path / "trace"
    path.write_bytes(record(SHORT, 0x1000, [0, 0x2000], [0, 0x3000, 0, 0x4000]))
    assert rows(open_accesses(path)) == [
        (0x1000, FETCH),
        (0x3000, LOAD),
        (0x4000, LOAD),
        (0x2000, STORE),
    ]


@pytest.mark.parametrize("form", FORMS)
def test_damaged_records_are_named_by_their_offset_or_counted(tmp_path: Path, form: str) -> None:
    layout = FORMS[form]
    good = record(layout, 0x400000, [], [0x5000])
    bad = bytearray(good)
    bad[9] = 2
    path = tmp_path / "trace"
    path.write_bytes(good * 20_000 + bytes(bad) + good + bytes(bad) * 2 + good + good[:10])
    with pytest.raises(TraceError, match="branch flags") as caught:
        list(open_accesses(path))
    assert caught.value.offset == 20_000 * len(good)
    reader = open_accesses(path, skip_bad=True)
    assert rows(reader) == [(0x400000, FETCH), (0x5000, LOAD)] * 20_002
    assert reader.skipped == 4


def test_half_a_record_at_the_end_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "trace"
    path.write_bytes(record(SHORT, 0x400000, [], []) * 3 + b"\1" * 63)
    with pytest.raises(TraceError, match=r"offset 192: .*ends within this record, after 63 bytes"):
        list(open_accesses(path, "champsim"))


@pytest.mark.parametrize("opener", [gzip.open, lzma.open])
def test_compressed_records_are_read(tmp_path: Path, opener) -> None:
    path = tmp_path / "trace"
    with opener(path, "wb") as file:
        file.write(record(SHORT, 0x400000, [], [0x5000]) * 30_000)
    assert rows(open_accesses(path)) == [(0x400000, FETCH), (0x5000, LOAD)] * 30_000


def test_chunks_do_not_share_their_memory(tmp_path: Path) -> None:
    path = tmp_path / "trace"
    path.write_bytes(b"".join(record(SHORT, ip, [], []) for ip in range(1, 30_001)))
    chunks = list(open_accesses(path, "champsim"))
    assert len(chunks) > 1
    assert np.concatenate([chunk.va for chunk in chunks]).tolist() == list(range(1, 30_001))


ACCESSES = st.lists(st.tuples(st.integers(1, 2**64 - 1), st.sampled_from([LOAD, STORE, FETCH])))


@given(ACCESSES.filter(bool), st.integers(1, 7))
def test_what_is_written_reads_back_as_the_same_accesses_in_order(
    tmp_path_factory: pytest.TempPathFactory, accesses: list[tuple[int, int]], piece: int
) -> None:
    path = tmp_path_factory.mktemp("champsim") / "out.champsim"
    chunks = []
    for at in range(0, len(accesses), piece):
        va, kind = zip(*accesses[at : at + piece], strict=True)
        none = np.zeros(len(va))
        chunks.append(
            Accesses(
                np.array(va, np.uint64),
                np.array(kind, np.uint8),
                none.astype(np.uint32),
                none.astype(np.uint16),
            )
        )
    write_accesses(chunks, path)
    assert rows(open_accesses(path, "champsim")) == accesses


def test_an_instruction_takes_the_loads_and_stores_that_follow_its_fetch(tmp_path: Path) -> None:
    source = tmp_path / "in.lackey"
    source.write_text("I  00400000,4\n M 00005000,8\nI  00400004,4\n S 00006000,8\n L 00007000,8\n")
    convert(source, tmp_path / "out.champsim")
    assert (tmp_path / "out.champsim").read_bytes() == b"".join(
        struct.pack(SHORT, ip, *[0] * 8, *slots)
        for ip, slots in (
            (0x400000, [0x5000, 0, 0x5000, 0, 0, 0]),
            (0x400004, [0x6000, 0, 0, 0, 0, 0]),
            (0, [0, 0, 0x7000, 0, 0, 0]),  # after the store, so it cannot stand before it
        )
    )


def test_address_0_cannot_be_written(tmp_path: Path) -> None:
    source = tmp_path / "in.lackey"
    source.write_text(" L 00000000,4\n")
    with pytest.raises(TraceError, match="address 0"):
        convert(source, tmp_path / "out.champsim")
    assert not list(tmp_path.glob("out*"))


def test_neither_size_fits_what_is_no_trace() -> None:
    random = np.random.default_rng(3).integers(0, 256, 1 << 16, dtype=np.uint8).tobytes()
    assert champsim.record_bytes_of(random) is None
    assert champsim.record_bytes_of(bytes(1 << 12)) is None
    assert champsim.record_bytes_of(b"\1" * 63) is None
