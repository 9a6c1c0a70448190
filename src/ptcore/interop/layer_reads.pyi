"""Tables read as volatility3's layers read them, for ptcore.interop.volatility_layers.

What a table item means is the format's; what is volatility3's own is here (volatility3 2.28,
framework/layers/intel.py): a table of equal items does not exist, bits between a large page's address and
the smallest page's are kept, memory below the layer has a say, and a listing merges neighbours whatever
their size.
"""

from collections.abc import Iterator, Sequence
from typing import Any, final

from ptcore.formats.schema import Format
from ptcore.memory.physical import PhysicalMemory

@final
class LayerReads:
    """The walks and listings of one layer. Holds pointers into `memory`: neither copied nor pickled.

    Single-threaded as Python is: the GIL is held throughout.
    """

    def __init__(
        self,
        format: Format,
        layer: Any,
        rules: Any,
        memory: PhysicalMemory | None = None,
        spans: Sequence[tuple[int, int]] = (),
    ) -> None:
        """Read the tables of `format` in `memory`, and those that it lacks with `layer._read_table(pa)`.

        `rules` has the fields of volatility_layers.LayerRules.

        `spans`: (first, end) of the addresses below that are valid, in order, neighbours joined; without
        any, `layer._is_below_valid(name, pa, size)` is asked each time. `layer._has_swap()`,
        `layer._translate(va)` and `layer._refuse(name, pa)` are asked about pages that are not there.
        """

    @property
    def layer(self) -> Any:
        """The layer that this reads for."""

    @property
    def memory(self) -> PhysicalMemory | None:
        """The mapped file, if there is one."""

    def find(self, va: int) -> int | None:
        """Return the address below; None where there is none, or for a number without 64 bits."""

    def page(self, va: int) -> tuple[int, int] | None:
        """Return the address and the size of the page, whether or not the layer below has it."""

    def entry(self, va: int) -> tuple[int, int, int | None]:
        """Return (item, bits, place): the last item read, the address bits that it does not decide.

        `place` is None when the walk came to the end, whatever the item is; else the number from the root
        of the table that would have been next.
        """

    def is_valid(self, va: int, length: int) -> bool | None:
        """Whether all bytes from `va` on are mapped to valid ones; None: it takes more to say."""

    def mapping(self, va: int, length: int, ignore_errors: bool) -> Mapping | None:
        """Return an iterator of what `length` bytes from `va` on map to; None: not said for these."""

@final
class Mapping(Iterator[tuple[int, int, int, int, str]]):
    """The rows (va, bytes, address below, bytes, layer's name), in order, neighbours merged."""

    def __iter__(self) -> Mapping: ...
    def __next__(self) -> tuple[int, int, int, int, str]: ...
