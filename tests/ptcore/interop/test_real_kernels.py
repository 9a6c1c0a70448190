"""volatility3's layers and drgn on the page tables of real kernels (tests/golden/guests)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import drgn
import numpy as np
import pytest
from volatility3.framework import contexts, exceptions
from volatility3.framework.layers import elf, intel, physical

from guests import snapshots
from guests.snapshots import Guest
from ptcore.interop import volatility_layers as ours
from ptcore.interop.drgn import add_memory
from ptcore.interop.volatility_stackers import in_place_of, maps_its_own_root

ALL_ONES = (1 << 64) - 1
PAGE = 4096


@pytest.fixture
def over(tmp_path: Path) -> Iterator[Callable[[Guest, str], Any]]:
    """Makes a context with a layer "memory" over a guest, as a raw image or an ELF core."""
    opened: list[Any] = []

    def make(guest: Guest, form: str) -> Any:
        path = tmp_path / f"{guest.name}.{form}"
        if not path.exists():
            write = snapshots.write_raw if form == "raw" else snapshots.write_elf
            write(guest, path)
        context = contexts.Context()
        opened.append(context)
        name = "memory" if form == "raw" else "file"
        context.config[f"{name}.location"] = path.as_uri()
        context.add_layer(physical.FileLayer(context, name, name))
        if form == "elf":
            context.config["memory.base_layer"] = "file"
            context.add_layer(elf.Elf64Layer(context, "memory", "memory"))
        return context

    yield make
    for context in opened:
        for layer in context.layers.values():
            layer.destroy()


def layer_on(context: Any, kind: type, root: int) -> Any:
    context.config["layer.memory_layer"] = "memory"
    context.config["layer.page_map_offset"] = root
    layer = kind(context, "layer", "layer", metadata={"os": "Linux"})
    context.add_layer(layer)
    return layer


def root_of(guest: Guest, cpu: int) -> int:
    return guest.registers[cpu]["cr3"] & ~(PAGE - 1)


def answer(layer: Any, va: int) -> object:
    try:
        return layer.translate(va)
    except exceptions.InvalidAddressException as error:
        return type(error), str(error), sorted(vars(error).items())


@pytest.mark.parametrize(
    ("name", "kind", "stock"),
    [
        ("x86_64-4level", ours.LinuxIntel32e, intel.LinuxIntel32e),
        ("x86_64-4level", ours.Intel32e, intel.Intel32e),
        ("x86_64-5level-pti", ours.LinuxIntel5Level, ours.LinuxFiveLevels),
    ],
    ids=lambda it: getattr(it, "__name__", it),
)
@pytest.mark.parametrize("form", ["raw", "elf"])
def test_a_layer_over_a_real_kernel_answers_as_volatilitys_walk_does(
    name: str, kind: type, stock: type, form: str, over: Callable[[Guest, str], Any]
) -> None:
    guest = snapshots.load(name)
    cpu = 0 if form == "raw" else 2
    layers = [layer_on(over(guest, form), it, root_of(guest, cpu)) for it in (stock, kind)]
    rows = [
        list(islice(it.mapping(0, it.maximum_address, ignore_errors=True), 4000)) for it in layers
    ]
    assert rows[1] == rows[0]
    assert len(rows[0]) > (50 if form == "raw" else 2)
    vas = guest.arrays[f"gva_{cpu}"].tolist()
    asked = np.random.default_rng(cpu).choice(len(vas), 400, replace=False)
    answers = [[answer(it, vas[n]) for n in asked] for it in layers]
    assert answers[1] == answers[0]


@pytest.mark.parametrize("name", ["x86_64-4level", "x86_64-5level-pti"])
def test_what_qemu_translates_the_layer_translates(
    name: str, over: Callable[[Guest, str], Any]
) -> None:
    guest = snapshots.load(name)
    kind = ours.LinuxIntel32e if name == "x86_64-4level" else ours.LinuxIntel5Level
    layer = layer_on(over(guest, "raw"), kind, root_of(guest, 0))
    found = missed = 0
    below = layer.context.layers["memory"]
    for va, pa in zip(guest.arrays["gva_0"].tolist(), guest.arrays["gpa_0"].tolist(), strict=True):
        if pa != ALL_ONES and below.is_valid(pa):
            assert layer.translate(va) == (pa, "memory"), hex(va)
            found += 1
        elif pa == ALL_ONES and layer.canonicalize(va & (1 << layer._maxvirtaddr) - 1) == va:
            # PROT_NONE pages are pages to the layer, so not all are missed.
            missed += not layer.is_valid(va)
    assert found > 400
    assert missed > 100


@pytest.mark.parametrize(
    ("name", "expected"),
    [("x86_64-4level", ours.LinuxIntel32e), ("x86_64-5level-pti", ours.LinuxIntel5Level)],
)
def test_the_number_of_levels_is_told_from_the_kernels_own_tables(
    name: str, expected: type, over: Callable[[Guest, str], Any], tmp_path: Path
) -> None:
    guest = snapshots.load(name)
    deep = layer_on(over(guest, "raw"), expected, root_of(guest, 2))
    # The stacker is given init_top_pgt, a page of the kernel's image, which no CPU had loaded: the kernel's
    # half of the idle CPU's root, put into a page of the image that the snapshot did not keep.
    image = deep.mapping(-(1 << 31) % (1 << 64), 1 << 30, ignore_errors=True)
    inside = (pa + n for _, _, pa, size, _ in image for n in range(0, size, PAGE))
    root = next(pa for pa in inside if pa not in guest.memory)
    half = guest.memory.read(root_of(guest, 2) + PAGE // 2, PAGE // 2)
    with (tmp_path / f"{name}.raw").open("r+b") as file:
        file.seek(root)
        file.write(bytes(PAGE // 2) + half)
    context = over(guest, "raw")
    context.config["primary.memory_layer"] = "memory"
    context.config["primary.page_map_offset"] = root
    stock = intel.LinuxIntel32e(context, "primary", "primary", metadata={"os": "Linux"})
    layer = in_place_of(stock, is_linux=True)
    assert type(layer) is expected
    assert maps_its_own_root(layer)


@pytest.mark.parametrize("name", snapshots.names())
def test_drgn_reads_what_qemu_says_is_there(name: str) -> None:
    guest = snapshots.load(name)
    architecture = {
        "x86_64": drgn.Architecture.X86_64,
        "aarch64": drgn.Architecture.AARCH64,
        "riscv64": drgn.Architecture.RISCV64,
    }[guest.architecture]
    prog = drgn.Program(drgn.Platform(architecture))
    space = guest.space(0)
    assert add_memory(prog, space) > 10
    read = faults = absent = 0
    for va, pa in zip(guest.arrays["gva_0"].tolist(), guest.arrays["gpa_0"].tolist(), strict=True):
        if pa != ALL_ONES and pa in guest.memory:
            assert prog.read(va, 1) == guest.memory.read(pa, 1)
            read += 1
        elif guest.architecture == "aarch64" and va >> 55 not in (0, 0x1FF):
            continue  # drgn takes the top byte for a tag
        elif pa != ALL_ONES or space.walk(va).pa is None:
            with pytest.raises(drgn.FaultError) as caught:
                prog.read(va, 1)
            assert caught.value.address == va
            absent += pa != ALL_ONES  # a frame that the snapshot did not keep
            faults += pa == ALL_ONES
    assert faults > 100
    assert absent > 100
    assert read > 0, (read, faults, absent)
