"""Pages that are fetched when something first wants them."""

from collections.abc import Sequence
from typing import Self, final

from ptcore.memory.reader import PageReader
from ptcore.units import Span

@final
class LazyPages:
    """The pages behind a memory made by `PhysicalMemory.from_reader`.

    A page is here, absent, or not asked for yet. What is fetched stays as it was until `refresh`.
    """

    def __init__(self, reader: PageReader | None, spans: Sequence[Span], page_bytes: int) -> None:
        """Reserve address space for `spans`. Without a reader nothing is ever fetched.

        Raises OutOfRange for a page size that is no power of two from 16 to 2**30; MemoryError when
        this process cannot reserve that much address space.
        """

    @property
    def reader(self) -> PageReader | None:
        """Where pages come from."""

    @property
    def page_bytes(self) -> int:
        """Bytes of a page."""

    @property
    def fetched_bytes(self) -> int:
        """Bytes of the pages that are here."""

    def copy(self) -> Self:
        """Return the pages that are here, on their own: nothing is fetched there. Cost: their bytes."""

    def refresh(self) -> None:
        """Forget all pages. Not to be called while another thread reads. Cost: O(pages fetched)."""
