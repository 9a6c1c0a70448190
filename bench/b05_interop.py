"""ptcore inside volatility3, against volatility3's own layer over the same file."""

from __future__ import annotations

import mmap
import tempfile
from collections import deque
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from side_by_side import Result, measure
from volatility3.framework import contexts
from volatility3.framework.layers import intel, physical

import ptcore
from ptcore.interop import volatility_layers

SMALL, MIDDLE, LARGE = 200_000, 256, 2  # pages of 4K, 2M and 1G
MEMORY = 6 << 30  # a file with holes: the tables alone are in it
LOOKUPS = 500  # fewer than volatility3 keeps translations of


def write_image(path: Path) -> int:
    """Write the tables, all small pages in frames apart, and return the root."""
    with path.open("w+b") as file:
        file.truncate(MEMORY)
        view = mmap.mmap(file.fileno(), 0)
    ram = ptcore.PhysicalMemory.from_buffer(view, frames=(1 << 20, "64M"))
    table = ptcore.PageTable("x86_64_4level", ram)
    frames = np.random.default_rng(1).permutation(1_000_000)[:SMALL].tolist()
    for n, frame in enumerate(frames):
        table.map(0x7F00_0000_0000 + (n << 12), 0x1000_0000 + (frame << 12), "4K")
    for n in range(MIDDLE):
        table.map(0xFFFF_8880_0000_0000 + (n << 21), 0x4000_0000 + (37 * n % MIDDLE << 21), "2M")
    for n in range(LARGE):
        table.map(0xFFFF_9880_0000_0000 + (n << 30), LARGE - n << 30, "1G")
    return table.root


def layer_over(path: Path, root: int, kind: Any) -> Any:
    context = contexts.Context()
    context.config["memory.location"] = path.as_uri()
    context.add_layer(physical.FileLayer(context, "memory", "memory"))
    context.config["layer.memory_layer"] = "memory"
    context.config["layer.page_map_offset"] = root
    return kind(context, "layer", "layer")


def rows(layer: Any) -> Iterator[Any]:
    return iter(layer.mapping(0, layer.maximum_address, ignore_errors=True))


def enumerate_all(layer: Any) -> None:
    deque(rows(layer), maxlen=0)


def translate_all(layer: Any, vas: list[int]) -> None:
    for va in vas:
        layer.translate(va)


def results() -> Iterator[Result]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "memory.raw"
        root = write_image(path)
        ours = layer_over(path, root, volatility_layers.Intel32e)
        stock = layer_over(path, root, intel.Intel32e)
        for layer in (ours, stock):
            # The layers below ask the context for the layer; it is in none of these listings.
            layer.context.add_layer(layer)
        found = list(rows(ours))
        assert found == list(rows(stock))
        assert len(found) == SMALL + MIDDLE + LARGE
        yield measure(
            "volatility_mapping",
            lambda: enumerate_all(ours),
            lambda: enumerate_all(stock),
            len(found),
            rounds=5,
            note="one row at a time",
        )
        vas = [row[0] + 8 for row in islice(found, 0, None, len(found) // LOOKUPS)][:LOOKUPS]
        yield measure(
            "volatility_translate",
            lambda: translate_all(ours, vas),
            lambda: translate_all(stock, vas),
            LOOKUPS,
            note="addresses that both have met before",
        )
