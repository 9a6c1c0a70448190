from __future__ import annotations

import numpy as np
import pytest

import ptcore
from ptcore.caches import Tlb, TlbArray, TlbLevel, WalkCache, preset, preset_names
from ptcore.caches.tlb import MISS
from ptcore.errors import FormatError

CONFIDENCES = ("measured", "manual", "cpuid", "source", "recalled", "modelled")


@pytest.mark.parametrize("name", preset_names())
def test_a_preset_makes_a_tlb_and_says_where_every_level_comes_from(name: str) -> None:
    found = preset(name)
    assert Tlb.preset(name).levels == found.levels
    assert WalkCache(found.walk_cache).sizes == found.walk_cache
    parts = [level.name for level in found.levels]
    parts += ["walk_cache"] * bool(found.walk_cache) + ["walk"] * bool(found.walk)
    parts += ["L2"] * any(level.cycles is not None for level in found.levels)
    for part in parts:
        about = [text for key, text in found.sources.items() if key.split(".")[0] == part]
        assert about, f"{part} has no source"
        for text in about:
            confidence, _, source = text.partition(": ")
            assert confidence in CONFIDENCES
            assert len(source) > 10


def test_skylake_has_the_geometry_that_was_measured() -> None:
    first, second = preset("skylake_sp").levels
    data = ("load", "store")
    assert first.arrays[0] == TlbArray(64, 4, ("4K",), data, policy="plru")
    assert second.arrays[0] == TlbArray(1536, 12, ("4K", "2M"), index_xor=7, policy="mru_plru4")
    # T14: a hit in the second level costs nine cycles more.
    assert second.cycles == 9.0


def test_ice_lake_reaches_2048_small_pages_and_1024_large_ones() -> None:
    # T15, from one pass that brings the pages in and one that finds them all below the first level.
    for size, lg2, reach in (("4K", 12, 2048), ("2M", 21, 1024)):
        pages = np.arange(reach, dtype=np.uint64) << np.uint64(lg2)
        tlb = Tlb.preset("icelake_sp")
        tlb.access_many(pages, page_size=size)
        assert set(tlb.access_many(pages, page_size=size).tolist()) == {1}
        tlb = Tlb.preset("icelake_sp")
        more = np.arange(2 * reach, dtype=np.uint64) << np.uint64(lg2)
        tlb.access_many(more, page_size=size)
        assert set(tlb.access_many(more, page_size=size).tolist()) == {MISS}


def test_an_unknown_preset_lists_the_nearest_names() -> None:
    with pytest.raises(FormatError, match=r"'skylake'.*skylake_sp"):
        preset("skylake")
    with pytest.raises(FormatError, match="zen4"):
        ptcore.Tlb.preset("zen40")


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (TlbArray(0, 1), "entries 0"),
        (TlbArray(8, 0), "ways 0"),
        (TlbArray(-4, 4), "entries -4"),
        (TlbArray(10, 4), "10 entries do not make whole sets of 4 ways"),
        (TlbArray(4, 8), "4 entries do not make whole sets of 8 ways"),
        (TlbArray(64.0, 4), "entries 64.0"),
        (TlbArray(64, "4"), "ways '4'"),
        (TlbArray(True, 1), "entries True"),
        (TlbArray(1 << 40, 1), "entries 1099511627776"),
        (TlbArray(64, 4, ()), "page_sizes"),
        (TlbArray(64, 4, ("3K",)), "'3K' is no page size"),
        (TlbArray(64, 4, (8,)), "8 is no page size"),
        (TlbArray(64, 4, ("16E",)), "'16E' is no page size"),
        (TlbArray(64, 4, ("4K", 4096)), "names a size twice"),
        (TlbArray(64, 4, sides=()), "sides"),
        (TlbArray(64, 4, sides=("loads",)), "sides"),
        (TlbArray(48, 4, index_xor=7), "index_xor 7 needs .* a power of two, not 12"),
        (TlbArray(64, 4, index_xor=64), "index_xor 64"),
        (TlbArray(64, 4, policy="mru"), "no policy is called 'mru'"),
        (TlbArray(48, 48, policy="plru"), "a power of two up to 32, not 48"),
        (TlbArray(64, 64, policy="srrip"), "32 at most"),
        (TlbArray(60, 6, policy="mru_plru4"), "a multiple of 4"),
    ],
)
def test_an_impossible_array_is_refused_by_the_field_that_makes_it_so(array, words) -> None:
    with pytest.raises(FormatError, match=words):
        Tlb((TlbLevel("L1", (array,)),))


def test_impossible_levels_are_refused() -> None:
    array = TlbArray(4, 4)
    for levels, words in [
        ((), "1 to 4 levels"),
        ((TlbLevel("L", (array,)),) * 5, "1 to 4 levels"),
        ((TlbLevel("L1", ()),), "L1: arrays"),
        ((TlbLevel("L1", (array,), "everything"),), "inclusion 'everything' is none of"),
        ((TlbLevel("L1", (array,), "victim"),), "nothing is above the first level"),
        ((TlbLevel("L1", (array,), live_asids=17),), "live_asids 17"),
    ]:
        with pytest.raises(FormatError, match=words):
            Tlb(levels)


@pytest.mark.parametrize("entries", [{0: 4}, {6: 4}, {1: 0}, {1: -1}, {1: 1 << 40}], ids=str)
def test_an_impossible_walk_cache_is_refused(entries) -> None:
    with pytest.raises(FormatError, match=r"level|entries"):
        WalkCache(entries)


@pytest.mark.parametrize("name", preset_names())
def test_every_size_is_held_as_its_level_says(name: str) -> None:
    for level in preset(name).levels:
        for array in level.arrays:
            each = level.held_as_each(array)
            rivals = [other for other in level.arrays if set(other.sides) & set(array.sides)]
            sizes = {lg2 for other in rivals for lg2 in other.page_lg2s()}
            for lg2 in range(64):
                largest = max((size for size in sizes if size <= lg2), default=0)
                expected = largest if largest in array.page_lg2s() else 0
                assert each[lg2] == level.held_as(array, lg2) == expected
            assert {each[lg2] for lg2 in array.page_lg2s()} == {*array.page_lg2s()}
            assert level.held_as(array, 200) == each[63]
