"""The presets that read as volatility3 does, against volatility3 itself."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from volatility3.framework import contexts, exceptions, interfaces
from volatility3.framework.layers import intel, physical

from ptcore import PageTable, PhysicalMemory, formats
from ptcore.errors import Fault, FormatError, Status
from ptcore.formats import Format
from ptcore.interop import volatility_layers

BASE = 0x10_0000
FRAMES_PER_LEVEL = 4
# volatility3's own walk, given a fifth level: it has no such layers.
FIVE_LEVELS = {
    "Intel5Level": volatility_layers.FiveLevels,
    "LinuxIntel5Level": volatility_layers.LinuxFiveLevels,
    "WindowsIntel5Level": volatility_layers.WindowsFiveLevels,
}
LAYERS = [name.removeprefix("volatility3.") for name in formats.presets()]
P, PS, PROT_NONE, TRANSITION = 1, 1 << 7, 1 << 8, 1 << 11


def test_an_unknown_preset_is_told_the_nearest() -> None:
    with pytest.raises(FormatError, match=r"volatility3\.Intel32e"):
        formats.preset("volatility3.Intel64")


def entry(rng: random.Random, layer: str, fmt: Format, level: int) -> int:
    """An item of a level, as Linux or Windows may have written it."""
    kind = rng.random()
    flags = rng.getrandbits(6) << 1
    below = BASE + 4096 * (FRAMES_PER_LEVEL * (fmt.top_level - level + 1) + rng.randrange(4))
    anywhere = BASE + 4096 * rng.randrange(FRAMES_PER_LEVEL * len(fmt.levels))
    address = below if level else anywhere
    if "Linux" in layer and kind < 0.15 and not level:
        # Not present, and everything in the address field inverted ("pte_needs_invert").
        bits = 52 if "5Level" in layer else 32 if layer == "LinuxIntel" else 46
        return ~address & (1 << bits) - 1 & ~0xFFF | PROT_NONE | flags
    if "Linux" in layer and kind < 0.15:
        return address | PROT_NONE | flags  # a table, to volatility3 alone
    if "Windows" in layer and kind < 0.15:
        return address | TRANSITION | flags
    if level and fmt.levels[level].leaf is not None and kind < 0.3:
        # No bits below a large page's address: the preset does not copy what becomes of them.
        return rng.randrange(4) << fmt.levels[level].shift | PS | P | flags
    return address | flags | (P if kind < 0.9 else 0)


def image(rng: random.Random, layer: str, fmt: Format) -> bytes:
    """Four frames for each level from the root's downwards; no table is made of equal items."""
    size = fmt.entry_bytes
    content = b""
    for level in reversed(range(len(fmt.levels))):
        items = [entry(rng, layer, fmt, level) for _ in range(FRAMES_PER_LEVEL * 4096 // size)]
        wide = size == 8 and fmt.input_bits > 32
        items = [item | (wide and rng.choice((0, 1 << 63, 1 << 52))) for item in items]
        content += b"".join((i & (1 << 8 * size) - 1).to_bytes(size, "little") for i in items)
    return content


def volatility(layer: str, data: bytes) -> intel.Intel:
    context = contexts.Context()
    # Memory from 0 on: volatility3 has no layer that begins elsewhere.
    memory = physical.BufferDataLayer(context, "memory", "memory", bytes(BASE) + data)
    context.layers.add_layer(memory)
    path = interfaces.configuration.path_join("layer")
    context.config[f"{path}.memory_layer"] = "memory"
    context.config[f"{path}.page_map_offset"] = BASE
    made = (FIVE_LEVELS.get(layer) or getattr(intel, layer))(context, path, "layer")
    context.layers.add_layer(made)
    return made


@pytest.mark.parametrize("layer", LAYERS)
def test_a_preset_translates_as_the_layer_does(layer: str) -> None:
    rng = random.Random(layer)
    fmt, options = formats.preset(f"volatility3.{layer}")
    seen = Counter[str]()
    for _ in range(6):
        data = image(rng, layer, fmt)
        theirs = volatility(layer, data)
        ram = PhysicalMemory.from_buffer(bytes(BASE) + data)
        table = PageTable(fmt, ram, BASE, **options)
        for _ in range(400):
            va = rng.getrandbits(fmt.input_bits - 1)
            try:
                expected: tuple[int, int] | None = theirs._translate(va)[:2]
            except exceptions.InvalidAddressException:
                expected = None
            try:
                pa = table.translate(va)
                found: tuple[int, int] | None = (pa, table.walk(va).page_size or 0)
            except Fault:
                found = None
            walk = table.walk(va)
            assert found == expected, (hex(va), walk)
            assert walk.status in (Status.OK, Status.NOT_PRESENT, Status.BUS), walk
            seen["mapped" if expected else "not mapped"] += 1
    assert min(seen["mapped"], seen["not mapped"]) > 100, seen
