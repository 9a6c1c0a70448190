"""What a reader of somebody else's memory has to be able to do: lists of pages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from ptcore.units import Span

if TYPE_CHECKING:
    from typing_extensions import Buffer


class PageReader(Protocol):
    """Memory that is read page by page, many pages in one call: a compressed file, a machine that runs.

    `page_bytes`: bytes of a page, a power of two. `spans`: the physical addresses that exist, disjoint;
    single pages in them may still turn out not to.
    """

    @property
    def page_bytes(self) -> int:
        """Bytes of a page, a power of two from 16 to 2**30."""

    @property
    def spans(self) -> Sequence[Span]:
        """The physical addresses that exist, disjoint. Looked at once."""

    def read_pages(self, pas: npt.NDArray[np.uint64]) -> Sequence[Buffer | None]:
        """Return the `page_bytes` bytes at each address, or None for a page that does not exist.

        `pas`: uint64[n], multiples of `page_bytes`, ascending, none twice; each page touches a span. The
        answer is in the order of the question. An array uint8[n, page_bytes] is such an answer, too.
        What is raised here comes out of the verb that wanted the pages; it may ask again.
        """
