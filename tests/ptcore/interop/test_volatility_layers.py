"""volatility3's layers with ptcore's walk, held against volatility3's own on the same image."""

from __future__ import annotations

import copy
import gzip
import multiprocessing
import pickle
import random
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import pytest
from volatility3.framework import exceptions
from volatility3.framework.layers import intel, physical, scanners

from oracles.volatility_images import (
    FRAMES,
    NAMES,
    PAGE,
    add_layer,
    context_over,
    image,
    lime_image,
    stock_class,
)
from ptcore import PageTable, PhysicalMemory
from ptcore.interop import volatility_layers as ours

MOST_ROWS = 3000


def told(error: exceptions.InvalidAddressException) -> tuple[object, ...]:
    return type(error), str(error), sorted(vars(error).items())


def outcome(question: Callable[[], Any]) -> tuple[Any, ...]:
    try:
        return "answer", question()
    except exceptions.InvalidAddressException as error:
        return "fault", told(error)


def listed(rows: Any) -> tuple[list[Any], Any]:
    """Rows up to the first fault, and the fault; a long listing is cut."""
    found = []
    try:
        for row in islice(rows, MOST_ROWS):
            found.append(row)
    except exceptions.InvalidAddressException as error:
        return found, told(error)
    return found, None


def pieces_of(rng: random.Random) -> list[tuple[int, int]]:
    """Pieces of memory with holes between some, the first one at 0; some ends are inside a page."""
    cuts = sorted(rng.sample(range(20 * PAGE, FRAMES * PAGE, 512), 6))
    ends = [0, *cuts, FRAMES * PAGE]
    pieces = [(a, b) for a, b in pairwise(ends) if b > a]
    return [piece for n, piece in enumerate(pieces) if n == 0 or rng.random() < 0.7]


@pytest.fixture
def close() -> Iterator[Callable[[Any], Any]]:
    """Takes contexts, and closes the files of their layers in the end."""
    contexts: list[Any] = []

    def keep(context: Any) -> Any:
        contexts.append(context)
        return context

    yield keep
    for context in contexts:
        for layer in context.layers.values():
            layer.destroy()


def both(
    name: str, form: str, seed: int, folder: Path, close: Callable[[Any], Any]
) -> tuple[Any, Any, int]:
    """The stock layer and ours over one image, and the root."""
    rng = random.Random(f"{name} {form} {seed}")
    memory, root = image(rng, name)
    path = folder / f"{name}-{form}-{seed}"
    if form != "buffer":
        content = memory if form == "file" else lime_image(memory, pieces_of(rng))
        path.write_bytes(content)
    context = close(context_over(memory, path, form))
    stock = add_layer(context, stock_class(name), "layer", root)
    # Under the same name, so that exceptions are alike to the letter.
    again = close(context_over(memory, path, form))
    return stock, add_layer(again, getattr(ours, name), "layer", root), root


def probes(rng: random.Random, layer: Any) -> list[int]:
    """Addresses in, at the edges of and next to what is mapped, and anywhere."""
    rows = list(islice(layer.mapping(0, layer.maximum_address, ignore_errors=True), 400))
    found = [rng.getrandbits(layer._maxvirtaddr) for _ in range(10)]
    for va, size, *_ in rng.sample(rows, min(len(rows), 20)):
        found += [va, va + rng.randrange(size), va + size - 1, va + size, max(va - 1, 0)]
    # What follows the neighbours that merge is in swap.
    found += [va + size for va, size, *_ in rows if size in (20 * PAGE, 21 * PAGE)][:6]
    if layer._bits_per_register == 64:
        found += [va | 1 << 63 for va in found[:20]]  # volatility3 looks at the index bits alone
    return found


@pytest.mark.parametrize("form", ["file", "lime", "buffer"])
@pytest.mark.parametrize("name", NAMES)
def test_every_answer_is_that_of_volatility3(
    name: str, form: str, tmp_path: Path, close: Callable[[Any], Any]
) -> None:
    seen = Counter[str]()
    for seed in range(2):
        stock, layer, _ = both(name, form, seed, tmp_path, close)
        rng = random.Random(seed)
        for va in probes(rng, stock):
            size = rng.choice((1, 8, PAGE, 3 * PAGE, rng.randrange(1, 1 << 14), 1 << 23))
            questions: tuple[Callable[[Any], Any], ...] = (
                lambda it, va=va: it.translate(va),
                lambda it, va=va: it.translate(va, ignore_errors=True),
                lambda it, va=va: it._translate(va),
                lambda it, va=va: it.is_dirty(va),
                lambda it, va=va: it.is_valid(va),
                lambda it, va=va, n=size: it.is_valid(va, n),
                lambda it, va=va, n=size: it.read(va, min(n, PAGE), pad=True),
            )
            for question in questions:
                expected = outcome(lambda: question(stock))  # noqa: B023
                assert outcome(lambda: question(layer)) == expected, hex(va)  # noqa: B023
                seen[expected[0]] += 1
                if expected[0] == "fault":
                    seen[expected[1][0].__name__] += 1
            for ignore_errors in (False, True):
                rows = listed(stock.mapping(va, size, ignore_errors))
                assert listed(layer.mapping(va, size, ignore_errors)) == rows, (hex(va), size)
                seen["rows" if rows[0] else "no rows"] += 1
                seen["rows that a fault cuts"] += bool(rows[0] and rows[1])
    assert min(seen["answer"], seen["fault"], seen["rows"], seen["no rows"]) > 100, seen
    assert seen["PagedInvalidAddressException"] > 100
    assert seen["InvalidAddressException"] > 0
    assert seen["rows that a fault cuts"] > 0
    swapped = seen["SwappedInvalidAddressException"]
    assert swapped == 0 if "Windows" not in name else swapped > 0 or form == "lime", seen


@pytest.mark.parametrize("name", NAMES)
def test_the_whole_listing_is_that_of_volatility3(
    name: str, tmp_path: Path, close: Callable[[Any], Any]
) -> None:
    seen = Counter[int]()
    for seed, form in enumerate(("file", "lime", "buffer")):
        stock, layer, _ = both(name, form, seed, tmp_path, close)
        rows = listed(stock.mapping(0, stock.maximum_address, ignore_errors=True))
        assert listed(layer.mapping(0, layer.maximum_address, ignore_errors=True)) == rows
        for _, size, *_ in rows[0]:
            seen[size] += 1
    assert seen[PAGE] > 20
    assert any(size > PAGE for size in seen), seen


def test_a_layer_reads_a_mapped_file_and_copies_nothing(
    tmp_path: Path, close: Callable[[Any], Any]
) -> None:
    for form, mapped in (("file", True), ("lime", True), ("buffer", False)):
        _, layer, _ = both("Intel32e", form, 0, tmp_path, close)
        layer.translate(0, ignore_errors=True)
        assert (layer._reads.memory is not None) == mapped


def test_a_file_that_only_a_decompressor_can_read_is_read_through_volatility3(
    tmp_path: Path, close: Callable[[Any], Any]
) -> None:
    memory, root = image(random.Random(3), "Intel32e")
    path = tmp_path / "memory.gz"
    with gzip.open(path, "wb") as file:
        file.write(memory)
    # FileLayer opens the stream inside: the file on disk holds other bytes.
    layers = []
    for kind in (intel.Intel32e, ours.Intel32e):
        context = close(context_over(memory, path, "file"))
        layers.append(add_layer(context, kind, "layer", root))
    if layers[0].context.layers["memory"].maximum_address + 1 != len(memory):
        pytest.skip("this volatility3 does not look into compressed files")
    rows = [listed(layer.mapping(0, layer.maximum_address, True)) for layer in layers]
    assert rows[0] == rows[1]
    assert len(rows[0][0]) > 20
    assert layers[1]._reads.memory is None


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda it: pickle.loads(pickle.dumps(it))])
def test_a_layer_is_copied_and_pickled_before_and_after_it_was_asked(
    copied: Callable[[Any], Any], tmp_path: Path, close: Callable[[Any], Any]
) -> None:
    _, layer, _ = both("LinuxIntel32e", "file", 1, tmp_path, close)
    before = copied(layer)
    rows = list(layer.mapping(0, layer.maximum_address, ignore_errors=True))
    after = copied(layer)
    for other in (before, after):
        close(other.context)
        assert "_reads" not in vars(other)
        assert list(other.mapping(0, other.maximum_address, ignore_errors=True)) == rows
        assert other._reads is not layer._reads
        assert other._reads.layer is other
    close(layer.context.clone())
    assert list(layer.mapping(0, layer.maximum_address, ignore_errors=True)) == rows


def spans_of(layer: Any) -> list[tuple[int, int, int, int, str]]:
    return list(layer.mapping(0, layer.maximum_address, ignore_errors=True))


def test_a_layer_answers_in_another_process(tmp_path: Path, close: Callable[[Any], Any]) -> None:
    _, layer, _ = both("Intel32e", "lime", 2, tmp_path, close)
    rows = spans_of(layer)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(spans_of, (layer,)) == rows


@pytest.mark.parametrize("name", [name for name in NAMES if "Windows" in name])
def test_a_page_in_a_swap_layer_is_found_there(
    name: str, tmp_path: Path, close: Callable[[Any], Any]
) -> None:
    seen = Counter[str]()
    for seed in range(2):
        stock, layer, _ = both(name, "file", seed, tmp_path, close)
        probe = probes(random.Random(seed), stock)
        for it in (stock, layer):
            it.translate(0, ignore_errors=True)  # the compiled part is made before swap is known
            swap = physical.BufferDataLayer(it.context, "swap", "swap", bytes(8 * PAGE))
            it.context.add_layer(swap)
            it.context.config["layer.swap_layers"] = True
            it.context.config["layer.swap_layers.swap_layers0"] = "swap"
        for va in probe:
            for length in (0, 1, 3 * PAGE):
                for ignore_errors in (False, True):
                    expected = listed(stock.mapping(va, length, ignore_errors))
                    assert listed(layer.mapping(va, length, ignore_errors)) == expected
                    seen.update(row[4] for row in expected[0])
            assert layer.is_valid(va, 64) == stock.is_valid(va, 64)
            assert outcome(lambda it=layer, va=va: it.translate(va)) == outcome(
                lambda it=stock, va=va: it.translate(va)
            )
    assert min(seen["memory"], seen["swap"]) > 5, seen


def test_five_levels_read_what_ptcore_mapped(tmp_path: Path, close: Callable[[Any], Any]) -> None:
    memory = bytearray(512 * PAGE)
    ram = PhysicalMemory.from_buffer(memory, frames=(0x10_0000, 64 * PAGE))
    table = PageTable("x86_64_5level", ram)
    high = -(1 << 56) % (1 << 64)  # the lowest address of the upper half of 57 bits
    table.map(high, 0x5000, PAGE)
    table.map(1 << 50, 0x7000, 2 * PAGE)
    context = close(context_over(bytes(memory), None, "buffer"))
    layer = add_layer(context, ours.Intel5Level, "layer", table.root)
    assert layer.translate(high + 9) == (0x5009, "memory")
    # As with four levels, listings run over the index bits alone.
    assert list(layer.mapping(0, layer.maximum_address, ignore_errors=True)) == [
        (1 << 50, 2 * PAGE, 0x7000, 2 * PAGE, "memory"),
        (1 << 56, PAGE, 0x5000, PAGE, "memory"),
    ]
    assert layer.canonicalize(1 << 56) == high
    assert layer.metadata["architecture"] == "Intel64"


def test_a_scanner_finds_the_same_in_both(tmp_path: Path, close: Callable[[Any], Any]) -> None:
    stock, layer, _ = both("Intel32e", "lime", 5, tmp_path, close)
    memory = stock.context.layers["memory"].read(30 * PAGE, 6, pad=True)
    found = [list(it.scan(it.context, scanners.BytesScanner(memory[:3]))) for it in (stock, layer)]
    assert found[0] == found[1]
    assert found[0]


def test_addresses_beyond_64_bits_are_left_to_volatility3(
    tmp_path: Path, close: Callable[[Any], Any]
) -> None:
    stock, layer, _ = both("Intel32e", "file", 1, tmp_path, close)
    for va in (-PAGE, (1 << 64) - 8, (1 << 64) + 16, (1 << 70) + 5):
        for question in (
            lambda it, va=va: it.translate(va),
            lambda it, va=va: it.is_valid(va, 32),
            lambda it, va=va: it.is_dirty(va),
            lambda it, va=va: list(it.mapping(va, 1 << 13, ignore_errors=True)),
        ):
            expected = outcome(lambda: question(stock))  # noqa: B023
            assert outcome(lambda: question(layer)) == expected, hex(va)  # noqa: B023


def test_every_stock_class_has_ours_in_its_place() -> None:
    for stock, layer in ours.STOCK.items():
        assert issubclass(layer, stock)
        assert layer.__name__ == stock.__name__
    known = {name for name, kind in vars(intel).items() if isinstance(kind, type)}
    assert {kind.__name__ for kind in ours.STOCK} == {
        name for name in known if "Intel" in name and "Mixin" not in name
    }
