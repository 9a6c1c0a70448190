"""`ptcore tlb`: footprints become tables, traces become hit rates, numbers of a geometry are swept."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from oracles import streams
from ptcore import formats
from ptcore.caches import Preset, TlbArray, TlbLevel, preset
from ptcore.errors import FormatError, NotCanonical, OutOfRange, TraceError
from ptcore.memory import PhysicalMemory
from ptcore.study import translation
from ptcore.study.translation import Source, Sweep, map_footprint, simulate, sweep
from ptcore.table import PageTable

M = 1 << 20
SMALL = Preset(
    "small",
    "two levels",
    (
        TlbLevel("L1", (TlbArray(64, 4),)),
        TlbLevel("L2", (TlbArray(1536, 12),), cycles=9.0),
    ),
    {},
    {},
    (),
    {"cycles": 30.0},
)


def written(path: Path, vas: np.ndarray, kinds: np.ndarray | None = None) -> Source:
    kind = np.zeros(len(vas), np.uint8) if kinds is None else kinds
    np.savez(path, va=vas.astype(np.uint64), kind=kind)
    return Source(path)


def test_a_footprint_is_the_pages_touched_and_the_accesses_made(tmp_path: Path) -> None:
    vas = np.array([0x5000, 0x5FFF, 0x9000, 0x5008], dtype=np.uint64)
    found = translation.footprint(written(tmp_path / "t.npz", vas), 12)
    assert (found.pages.tolist(), found.accesses) == ([5, 9], 4)


def test_pages_of_one_size_and_mixed_ones() -> None:
    fmt = formats.get("x86_64_4level")
    # A region touched in 100 pages, one in 10, and one page far away.
    pages = np.concatenate([512 + np.arange(100), 1024 + np.arange(10), [1 << 24]])
    touched = translation.Footprint(pages.astype(np.uint64), 0)
    sizes = {
        policy: {
            size: len(numbers)
            for size, numbers in map_footprint(touched, policy, fmt).regions.items()
        }
        for policy in ("4k", "2m", "1g", "thp", "thp:5", "thp:101")
    }
    assert sizes["4k"] == {4096: 111}
    assert sizes["2m"] == {2 * M: 3}
    assert sizes["1g"] == {1024 * M: 2}
    assert sizes["thp"] == {4096: 11, 2 * M: 1}
    assert sizes["thp:5"] == {4096: 1, 2 * M: 2}
    assert sizes["thp:101"] == {4096: 111, 2 * M: 0}
    mapping = map_footprint(touched, "thp", fmt)
    where = np.array([512 * 4096 + 7, 1024 * 4096, (1 << 24) * 4096], dtype=np.uint64)
    assert mapping.sizes_of(where).tolist() == [1, 0, 0]
    assert [mapping.space.walk(int(va)).page_size for va in where] == [2 * M, 4096, 4096]


def test_hit_rates_of_a_published_stream(tmp_path: Path) -> None:
    vas = dict(streams.streams(2_000_000))["zipf099_256Kp"]
    source = written(tmp_path / "zipf.npz", vas)
    told: list[tuple[str, int, int]] = []
    (found,) = simulate(source, [SMALL], pages="4k", phases=5, progress=lambda *a: told.append(a))
    whole = found.whole
    assert whole.accesses == 2_000_000
    assert [round(n / whole.accesses, 5) for n in (*whole.hits, whole.walks)] == [
        0.19905,
        0.27369,
        0.52726,
    ]
    assert whole.faults == 0
    assert [phase.accesses for phase in found.phases] == [400_000] * 5
    assert sum(phase.walks for phase in found.phases) == whole.walks
    assert tuple(map(sum, zip(*(phase.hits for phase in found.phases), strict=True))) == whole.hits
    assert found.by_size == ((4096, whole.hits, whole.walks),)
    assert found.cycles == pytest.approx(9 * 0.27369 + 30 * 0.52726, rel=1e-4)
    assert found.reach_bytes == (64 * 4096, 1536 * 4096)
    assert told[-1][1:] == (2_000_000, 2_000_000)


def test_larger_pages_walk_less_and_read_fewer_items(tmp_path: Path) -> None:
    vas = np.random.default_rng(1).integers(0, 64 * M, 20_000)
    source = written(tmp_path / "t.npz", vas)
    both = replace(SMALL, levels=(TlbLevel("L1", (TlbArray(64, 4, ("4K", "2M")),)),))
    small, large = (simulate(source, [both], pages=p, phases=1)[0] for p in ("4k", "2m"))
    assert small.whole.walks > 20 * large.whole.walks
    assert small.whole.references == 4 * small.whole.walks
    assert large.whole.references == 3 * large.whole.walks


def test_stores_and_fetches_use_their_own_sides(tmp_path: Path) -> None:
    sided = Preset(
        "sided",
        "",
        (
            TlbLevel(
                "L1", (TlbArray(4, 4, sides=("load",)), TlbArray(4, 4, sides=("store", "fetch")))
            ),
        ),
        {},
        {},
        (),
    )
    vas = np.zeros(6, dtype=np.uint64) + np.uint64(0x1000)
    source = written(tmp_path / "t.npz", vas, np.array([0, 0, 1, 1, 2, 2], np.uint8))
    (found,) = simulate(source, [sided], pages="4k", phases=3)
    assert [(phase.hits[0], phase.walks) for phase in found.phases] == [(1, 1), (1, 1), (2, 0)]
    assert found.cycles is None
    data = Source(source.path, data_only=True)
    assert simulate(data, [sided], pages="4k", phases=1)[0].whole.accesses == 4


def test_a_sweep_is_a_curve_on_all_cores(tmp_path: Path) -> None:
    vas = np.random.default_rng(2).integers(0, 1024, 30_000) * 4096
    source = written(tmp_path / "t.npz", vas)
    told: list[int] = []
    found = sweep(
        source,
        [SMALL],
        Sweep.parse("l2.entries=192..1536"),
        pages="4k",
        workers=2,
        progress=lambda what, done, of: told.append(done),
    )
    assert [f.cpu for f in found] == [f"small L2.entries={n}" for n in (192, 384, 768, 1536)]
    walks = [f.whole.walks for f in found]
    assert walks == sorted(walks, reverse=True)
    assert walks[0] > 3 * walks[-1]
    assert sorted(told) == [1, 2, 3, 4]
    # One point of the curve is what a run of that geometry gives.
    alone = simulate(source, [Sweep.parse("l2.entries=384..384").apply(SMALL, 384)], pages="4k")
    assert alone[0].whole == found[1].whole


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("l2.entries", "is not LEVEL.entries"),
        ("l2.sets=1..2", "is not LEVEL.entries"),
        ("l2.entries=9..3", "no ascending range"),
        ("l2.entries=0..3", "no ascending range"),
    ],
)
def test_a_sweep_that_cannot_be_is_refused(text: str, words: str) -> None:
    with pytest.raises(FormatError, match=words):
        Sweep.parse(text)


def test_values_of_a_sweep() -> None:
    assert Sweep.parse("L2.ways=2..7:2").values == (2, 4, 6)
    assert Sweep.parse("L2.entries=512..4096").values == (512, 1024, 2048, 4096)
    twelve = preset("skylake_sp")
    assert Sweep.parse("l2.entries=512..4096").values_of(twelve) == (768, 1536, 3072)
    assert Sweep.parse("l2.entries=384..3072").values_of(twelve) == (384, 768, 1536, 3072)
    assert [p.levels[1].arrays[0].entries for p in Sweep.parse("l2.entries=512..4096").points(twelve)] == [
        768, 1536, 3072,
    ]  # fmt: skip
    for text in (
        "l2.entries=500..600",
        "l2.entries=512..1024:512",
    ):  # no whole set; just what is asked
        with pytest.raises(FormatError, match="do not make whole sets of 12 ways"):
            Sweep.parse(text).points(twelve)
    with pytest.raises(FormatError, match="no level L4; it has L1, L2"):
        Sweep.parse("l4.ways=1..2").apply(SMALL, 1)
    with pytest.raises(FormatError, match="do not make whole sets"):
        Sweep.parse("l2.ways=5..5").apply(SMALL, 5)


def test_what_is_wrong_is_said(tmp_path: Path) -> None:
    source = written(tmp_path / "t.npz", np.array([1 << 60], dtype=np.uint64))
    with pytest.raises(NotCanonical):
        simulate(source, [SMALL])
    with pytest.raises(OutOfRange, match="at least one phase"):
        simulate(source, [SMALL], phases=0)
    fine = written(tmp_path / "u.npz", np.array([0], dtype=np.uint64))
    with pytest.raises(FormatError, match="no 16K page"):
        simulate(fine, [SMALL], pages="16k")
    empty = tmp_path / "empty.log"
    empty.write_text("nothing of a trace\n")
    with pytest.raises(TraceError):
        simulate(Source(empty, "lackey"), [SMALL])
    with pytest.raises(FormatError, match="nearest: skylake_sp"):
        preset("skylake")


def test_a_preset_of_ones_own_is_a_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(
        'title = "mine"\nnotes = []\n[[levels]]\nname = "L1"\n'
        'arrays = [{ entries = 8, ways = 8, page_sizes = ["4K"], policy = "plru" }]\n[sources]\n'
    )
    found = preset(str(path))
    assert (found.name, found.levels[0].arrays[0].policy) == ("mine", "plru")
    path.write_text('title = "mine"\n')
    with pytest.raises(FormatError, match="preset mine: 'levels'"):
        preset(str(path))


@pytest.mark.parametrize("pages", ["thp", "smallest"])
@pytest.mark.parametrize("name", formats.names())
def test_what_a_program_touches_never_faults_in_any_format(
    tmp_path: Path, name: str, pages: str
) -> None:
    fmt = formats.get(name)
    span = PageTable(fmt, PhysicalMemory("64M")).legal_spans()[0]
    vas = np.arange(600, dtype=np.uint64) * np.uint64(4096) + np.uint64(span.start + (1 << 22))
    kinds = np.arange(600, dtype=np.uint8) % 3
    np.savez(tmp_path / "t.npz", va=vas, kind=kinds)
    policy = pages if pages == "thp" else str(fmt.page_sizes[0])
    source = translation.Source(tmp_path / "t.npz")
    (found,) = translation.simulate(source, [preset("zen4")], pages=policy, form=name)
    assert found.whole.faults == 0
    assert found.whole.accesses == 600
    assert found.whole.walks > 0
