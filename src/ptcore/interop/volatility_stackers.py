"""Stackers that put ptcore's layers where volatility3's own would stand.

A stacker here asks volatility3's for a layer and returns ours in its place, earlier in the order. Loaded
as a plugin (`ptcore volatility --install DIR`, then `vol --plugin-dirs DIR`): being imported is enough,
volatility3 looks for the subclasses of its stackers (volatility3 2.28, framework/automagic/stacker.py).
"""

from __future__ import annotations

from typing import Any

from volatility3.framework.automagic import linux, mac, windows

from ptcore.interop.volatility_layers import FIVE_LEVELS, STOCK

# Between the stackers of file forms (10 to 20) and volatility3's own of these layers (34 to 40).
EARLIER = 10
# Where x86-64 Linux has its image: Documentation/arch/x86/x86_64/mm.rst, "kernel text mapping, mapped to
# physical address 0", the same with four and five levels: from -2 GiB on, 1 GiB with KASLR.
KERNEL_IMAGE = (-(1 << 31) % (1 << 64), 1 << 30)


def maps_its_own_root(layer: Any) -> bool:
    """Whether the kernel's image holds the top table itself, as Linux's init_top_pgt is a part of it."""
    root = layer.config["page_map_offset"]
    rows = layer.mapping(*KERNEL_IMAGE, ignore_errors=True)
    return any(pa <= root < pa + size for _, _, pa, size, _ in rows)


def rebuilt(layer: Any, kind: type) -> Any:
    """Return a layer of class `kind` with the name, configuration and metadata of `layer`."""
    return kind(layer.context, layer.config_path, layer.name, metadata={"os": layer.metadata["os"]})


def in_place_of(layer: Any, is_linux: bool) -> Any:
    """Return ours for a layer of volatility3's that walks tables; others, and None, as they are.

    volatility3 takes every 64-bit Linux for one of four levels, and a walk of four goes astray at once
    where there are five. So where it does not find the kernel's image, and a walk of five does, the
    tables have five. (Windows with five levels is not found by volatility3 in the first place.)
    """
    if type(layer) not in STOCK:
        return layer
    found = rebuilt(layer, STOCK[type(layer)])
    if is_linux and type(found) in FIVE_LEVELS and not maps_its_own_root(found):
        deeper = rebuilt(layer, FIVE_LEVELS[type(found)])
        if maps_its_own_root(deeper):
            return deeper
    return found


class PtcoreStacker:
    """What all of them do."""

    finds_linux = False

    @classmethod
    def stack(cls, context: Any, layer_name: str, progress_callback: Any = None) -> Any:
        """Return our layer over `layer_name`, or None where volatility3 finds none."""
        above: Any = super()
        return in_place_of(above.stack(context, layer_name, progress_callback), cls.finds_linux)


class PtcoreLinuxVmcoreinfoStacker(PtcoreStacker, linux.LinuxIntelVMCOREINFOStacker):  # type: ignore[misc]
    """Linux, by the note that the kernel leaves for crash dumps."""

    finds_linux = True
    stack_order = linux.LinuxIntelVMCOREINFOStacker.stack_order - EARLIER


class PtcoreLinuxStacker(PtcoreStacker, linux.LinuxIntelStacker):  # type: ignore[misc]
    """Linux, by its banner."""

    finds_linux = True
    stack_order = linux.LinuxIntelStacker.stack_order - EARLIER


class PtcoreMacStacker(PtcoreStacker, mac.MacIntelStacker):  # type: ignore[misc]
    """The Mac's kernel, by its banner."""

    stack_order = mac.MacIntelStacker.stack_order - EARLIER


class PtcoreWindowsStacker(PtcoreStacker, windows.WindowsIntelStacker):  # type: ignore[misc]
    """Windows, by the table that points to itself."""

    stack_order = windows.WindowsIntelStacker.stack_order - EARLIER


STACKERS: tuple[type, ...] = (
    PtcoreLinuxVmcoreinfoStacker,
    PtcoreLinuxStacker,
    PtcoreMacStacker,
    PtcoreWindowsStacker,
)
