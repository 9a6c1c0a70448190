"""Addresses in text, and translations as text, at the speed of a pipe."""

import numpy as np
import numpy.typing as npt

def parse(text: bytes, line: int) -> npt.NDArray[np.uint64]:
    """Return the address that each line begins with: decimal or 0x-hexadecimal, up to a comma or a blank.

    Empty lines and those that begin with # say nothing. `line` is the number of the first one. Raises
    AddressError, with the line's number, for a line that begins with no 64-bit address.
    """

def lines(
    vas: npt.NDArray[np.uint64],
    pas: npt.NDArray[np.uint64],
    statuses: npt.NDArray[np.uint8],
    names: list[bytes],
    marks: tuple[bytes, bytes, bytes, bytes, bytes, bytes],
) -> bytes:
    """Return one line per translation: before, va, between, pa (in quotes) or none, then, status, after.

    `names`: the text of each status; `marks`: before, between, none, quote, then, after.
    """
