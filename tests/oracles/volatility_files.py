"""Files of memory as volatility3's own layers read them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from volatility3.framework import contexts, exceptions, interfaces
from volatility3.framework.layers import avml, crash, elf, lime, physical, segmented, vmware

STACKERS = {
    "lime": lime.LimeStacker,
    "avml": avml.AVMLStacker,
    "elf": elf.Elf64Stacker,
    "windows": crash.WindowsCrashDumpStacker,
    "vmem": vmware.VmwareStacker,
}
HAS_SNAPPY = avml.HAS_SNAPPY


def layer_of(form: str, path: Path) -> segmented.SegmentedLayer:
    """The layer that volatility3 stacks on a file of this form."""
    context = contexts.Context()
    context.config[interfaces.configuration.path_join("file", "location")] = path.as_uri()
    if form == "vmem":  # it looks for the file beside it
        context.layers.add_layer(physical.FileLayer(context, "file", "file"))
    else:
        content = path.read_bytes()
        context.layers.add_layer(physical.BufferDataLayer(context, "file", "file", content))
    made: Any = STACKERS[form].stack(context, "file")
    assert made is not None, f"volatility3 does not take {path.name} for {form}"
    layer: segmented.SegmentedLayer = made
    return layer


def close(layer: segmented.SegmentedLayer) -> None:
    """Close the files behind a layer."""
    for name in list(layer.context.layers):
        layer.context.layers[name].destroy()


def spans(layer: segmented.SegmentedLayer) -> list[tuple[int, int]]:
    """(first, last) of what the layer has, neighbours joined."""
    found: list[tuple[int, int]] = []
    for start, _, size, _ in sorted(layer._segments):
        if found and found[-1][1] + 1 == start:
            found[-1] = (found[-1][0], start + size - 1)
        else:
            found.append((start, start + size - 1))
    return found


def read(layer: segmented.SegmentedLayer, pa: int, size: int) -> bytes | None:
    """The bytes, or None where the layer has not all of them."""
    try:
        return bytes(layer.read(pa, size))
    except exceptions.InvalidAddressException:
        return None
