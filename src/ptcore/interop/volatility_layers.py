"""volatility3's Intel layers with ptcore's walk, and layers of five levels, which volatility3 lacks.

Each class is volatility3's of the same name, and answers as that does on the same image: translate,
mapping, is_valid and is_dirty, rows, faults and exceptions alike. A layer compiles nothing, holds no
memory and can be copied and pickled; what is compiled is made at the first question.

volatility3 2.28, framework/layers/intel.py (the walk), linear.py and segmented.py (what lies below).
"""

from __future__ import annotations

import io
import mmap
import urllib.response
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

from volatility3.framework import exceptions
from volatility3.framework.layers import intel, linear, physical, segmented

from ptcore import formats
from ptcore.errors import AddressError
from ptcore.interop.layer_reads import LayerReads
from ptcore.memory.physical import PhysicalMemory
from ptcore.units import ALL_ONES

Row = tuple[int, int, int, int, str]
Spans = Sequence[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class LayerRules:
    """What a layer's class and configuration say of its walk.

    `root`, `root_entry`: the top table, and the item that would point to it; `layer_below`: the name of
    the layer that pages are in; `page_keep`: the bits that the address of a page, not of a table, can have;
    `large_mark`: the bit that makes a large page at one of `large_levels`; `large_ignored`: the bit of
    such an item that is in the address's place and no part of it.
    """

    root: int
    root_entry: int
    physical_bits: int
    layer_below: str
    page_keep: int
    large_levels: Sequence[int]
    large_mark: int
    large_ignored: int


def rules_of(layer: Any) -> LayerRules:
    """Return how volatility3's own code would walk the tables of `layer`."""
    structure = layer.structure
    top = len(structure) - 1
    return LayerRules(
        root=layer._mask(
            layer._initial_entry, layer._maxphyaddr - 1, structure[0][1] + layer._index_shift
        ),
        root_entry=layer._initial_entry,
        physical_bits=layer._maxphyaddr,
        layer_below=layer._base_layer,
        # LinuxMixin masks page addresses by the register's width: in LinuxIntelPAE 32 bits, not 40.
        page_keep=layer._pte_pfn_mask if isinstance(layer, intel.LinuxMixin) else ALL_ONES,
        large_levels=[top - n for n, (_, _, large) in enumerate(structure) if large],
        large_mark=layer._PAGE_PSE,
        large_ignored=layer._PAGE_PAT_LARGE,
    )


def plain_file(layer: Any) -> io.BufferedReader | None:
    """Return the file under a layer whose bytes are the file's, if it is one on this machine."""
    if type(layer) is not physical.FileLayer:
        return None
    file = layer._file
    if type(file) is urllib.response.addinfourl:
        file = file.file
    on_disk = type(file) is io.BufferedReader and type(file.raw) is io.FileIO
    return file if on_disk else None


def runs_of(context: Any, layer: Any) -> tuple[str, list[tuple[int, int, int]]] | None:
    """Return a file layer's name and the (address, offset in the file, bytes) of `layer` in it.

    None for a layer that decodes, overlaps, or is put together in another way than segmented.py's.
    """
    if type(layer) is physical.FileLayer:
        return layer.name, [(0, 0, layer.maximum_address + 1)]
    kind = type(layer)
    as_known = (
        issubclass(kind, segmented.SegmentedLayer)
        and kind.mapping is segmented.SegmentedLayer.mapping
        and kind.is_valid is segmented.NonLinearlySegmentedLayer.is_valid
        and kind._find_segment is segmented.NonLinearlySegmentedLayer._find_segment
        and kind.read is linear.LinearlyMappedLayer.read
    )
    below: Any = context.layers[layer._base_layer] if as_known else None
    if type(below) is not physical.FileLayer:
        return None
    runs = [(first, offset, size) for first, offset, size, _ in layer._segments]
    in_order = all(a[0] + a[2] <= b[0] for a, b in pairwise(runs))
    end = below.maximum_address + 1
    if not in_order or any(size <= 0 or offset + size > end for _, offset, size in runs):
        return None
    return below.name, runs


def joined(runs: Iterable[tuple[int, int, int]]) -> list[tuple[int, int]]:
    """Return the (first, end) of runs that lie in order, neighbours as one."""
    spans: list[tuple[int, int]] = []
    for first, _, size in runs:
        if spans and spans[-1][1] == first:
            spans[-1] = (spans[-1][0], first + size)
        else:
            spans.append((first, first + size))
    return spans


def memory_below(context: Any, name: str) -> tuple[PhysicalMemory | None, Spans]:
    """Return the layer below as a mapped file, nothing copied, and the spans that are valid in it.

    (None, ()) for a layer that must be read through volatility3 and asked page by page.
    """
    found = runs_of(context, context.layers[name])
    if found is None:
        return None, ()
    file = plain_file(context.layers[found[0]])
    if file is None:
        return None, joined(found[1])
    try:
        view = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        pieces = [(first, view[offset : offset + size]) for first, offset, size in found[1]]
        return PhysicalMemory.from_buffers(pieces), joined(found[1])
    except (OSError, ValueError, AddressError):  # a file that cannot be mapped, an odd address
        return None, joined(found[1])


class CompiledWalk:
    """The methods of an Intel layer that ptcore answers; what is rare is left to the layer's own code."""

    INVALID = exceptions.InvalidAddressException

    @cached_property
    def _reads(self) -> LayerReads:
        layer: Any = self
        memory, spans = memory_below(layer._context, layer._base_layer)
        # The preset has the name of the class here, whatever others made of it.
        own = next(kind for kind in type(self).__mro__ if kind.__module__ == __name__)
        fmt, _ = formats.preset(f"volatility3.{own.__name__}")
        return LayerReads(fmt, self, rules_of(layer), memory, spans)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what is compiled: it is made again where it is needed."""
        return {key: value for key, value in self.__dict__.items() if key != "_reads"}

    # -- what LayerReads asks ----------------------------------------------------------------

    def _read_table(self: Any, pa: int) -> bytes | None:
        try:
            found = self._context.layers.read(self._base_layer, pa, self.page_size)
        except exceptions.InvalidAddressException:
            return None
        return bytes(found) if len(found) == self.page_size else None

    def _is_below_valid(self: Any, name: str, pa: int, size: int) -> bool:
        return bool(self._context.layers[name].is_valid(pa, size))

    def _has_swap(self: Any) -> bool:
        return isinstance(self, intel.WindowsMixin) and bool(self.config.get("swap_layers", False))

    def _refuse(self, name: str, pa: int) -> None:
        raise exceptions.InvalidAddressException(layer_name=name, invalid_address=pa)

    # -- what volatility3 asks ---------------------------------------------------------------

    def translate(
        self: Any, offset: int, ignore_errors: bool = False
    ) -> tuple[int | None, str | None]:
        """Return the address below and the layer that it is in."""
        found = self._reads.find(offset)
        if found is not None:
            return found, self._base_layer
        above: Any = super()
        stock: tuple[int | None, str | None] = above.translate(offset, ignore_errors)
        return stock

    def mapping(self: Any, offset: int, length: int, ignore_errors: bool = False) -> Iterable[Row]:
        """Iterate over (offset, length, address below, length, layer) in order."""
        rows: Iterable[Row] | None = self._reads.mapping(offset, length, ignore_errors)
        if rows is None:
            above: Any = super()
            rows = above.mapping(offset, length, ignore_errors)
        return rows

    def is_valid(self: Any, offset: int, length: int = 1) -> bool:
        """Whether all of the bytes are mapped to bytes that exist."""
        found: bool | None = self._reads.is_valid(offset, length)
        if found is None:
            above: Any = super()
            found = above.is_valid(offset, length)
        return found

    def _translate(self: Any, offset: int) -> tuple[int, int, str]:
        page = self._reads.page(offset)
        if page is not None:
            return *page, self._base_layer
        # The layer's own code raises, on top of _translate_entry, or looks into swap.
        above: Any = super()
        stock: tuple[int, int, str] = above._translate(offset)
        return stock

    def _translate_entry(self: Any, page_address: int) -> tuple[int, int]:
        item, bits, place = self._reads.entry(page_address & self._address_bits)
        if place is None:
            return item, bits - 1
        raise exceptions.PagedInvalidAddressException(
            self.name,
            page_address,
            bits,
            item,
            f"Page Fault at entry {item:#x} in table {self.structure[place][0]}",
        )

    @cached_property
    def _address_bits(self) -> int:
        layer: Any = self
        bits: int = layer._bits_per_register
        return (1 << bits) - 1


class FiveLevels(intel.Intel32e):  # type: ignore[misc]
    """Five levels by volatility3's own walk: 57-bit addresses (Intel SDM vol. 3A, "5-Level Paging")."""

    _maxvirtaddr = 57
    _structure = (("page map layer 5", 9, False), *intel.Intel32e._structure)


class LinuxFiveLevels(intel.LinuxMixin, FiveLevels):  # type: ignore[misc]
    """Physical addresses of 52 bits, as Linux has them with five levels (__PHYSICAL_MASK_SHIFT), not 46."""


class WindowsFiveLevels(intel.WindowsIntel32e):  # type: ignore[misc]
    """As WindowsIntel32e, one level more."""

    _maxvirtaddr = FiveLevels._maxvirtaddr
    _structure = FiveLevels._structure


# One class each, so that a saved configuration finds it by name.


class Intel(CompiledWalk, intel.Intel):  # type: ignore[misc]
    """32-bit paging."""


class IntelPAE(CompiledWalk, intel.IntelPAE):  # type: ignore[misc]
    """32-bit addresses, 64-bit items."""


class Intel32e(CompiledWalk, intel.Intel32e):  # type: ignore[misc]
    """Four levels."""


class Intel5Level(CompiledWalk, FiveLevels):
    """Five levels."""


class LinuxIntel(CompiledWalk, intel.LinuxIntel):  # type: ignore[misc]
    """32-bit paging, PROT_NONE pages included."""


class LinuxIntelPAE(CompiledWalk, intel.LinuxIntelPAE):  # type: ignore[misc]
    """32-bit addresses, 64-bit items, PROT_NONE pages included."""


class LinuxIntel32e(CompiledWalk, intel.LinuxIntel32e):  # type: ignore[misc]
    """Four levels, PROT_NONE pages included."""


class LinuxIntel5Level(CompiledWalk, LinuxFiveLevels):
    """Five levels, PROT_NONE pages included."""


class WindowsIntel(CompiledWalk, intel.WindowsIntel):  # type: ignore[misc]
    """32-bit paging, pages in transition included."""


class WindowsIntelPAE(CompiledWalk, intel.WindowsIntelPAE):  # type: ignore[misc]
    """32-bit addresses, 64-bit items, pages in transition included."""


class WindowsIntel32e(CompiledWalk, intel.WindowsIntel32e):  # type: ignore[misc]
    """Four levels, pages in transition included."""


class WindowsIntel5Level(CompiledWalk, WindowsFiveLevels):
    """Five levels, pages in transition included."""


STOCK: dict[type, type] = {
    getattr(intel, layer.__name__): layer
    for layer in (
        *(Intel, IntelPAE, Intel32e),
        *(LinuxIntel, LinuxIntelPAE, LinuxIntel32e),
        *(WindowsIntel, WindowsIntelPAE, WindowsIntel32e),
    )
}
"""volatility3's classes, and ours in their places."""

FIVE_LEVELS: dict[type, type] = {
    Intel32e: Intel5Level,
    LinuxIntel32e: LinuxIntel5Level,
    WindowsIntel32e: WindowsIntel5Level,
}
"""Our classes of four levels, and those of five."""
