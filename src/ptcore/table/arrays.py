"""Arrays of addresses that come in, and arrays that results go to."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ptcore.errors import OutOfRange
from ptcore.units import ALL_ONES

Addresses = npt.NDArray[np.uint64]


def as_addresses(vas: npt.ArrayLike) -> Addresses:
    """Return addresses as a contiguous uint64 array of their shape.

    Raises OutOfRange for a number that is no 64-bit address, TypeError for what is no integer.
    """
    source: npt.NDArray[Any] = np.asarray(vas)
    if source.dtype.kind == "f" and source.size and not isinstance(vas, np.ndarray):
        source = np.asarray(vas, dtype=object)  # NumPy makes floats of [1, 2**63]
    if source.dtype != np.uint64:
        source = _converted(source)
    return np.ascontiguousarray(source).reshape(source.shape)


def _converted(source: npt.NDArray[Any]) -> Addresses:
    if source.size == 0:
        return source.astype(np.uint64)
    if source.dtype.kind == "O":
        numbers = [_as_address(va) for va in source.ravel()]
        return np.array(numbers, dtype=np.uint64).reshape(source.shape)
    if source.dtype.kind not in "iu":
        raise TypeError(f"addresses are integers, not {source.dtype}")
    if source.dtype.kind == "i" and source.min() < 0:
        raise OutOfRange(f"{int(source.min())} is no 64-bit address")
    return source.astype(np.uint64)


def _as_address(va: Any) -> int:
    number = va.__index__() if hasattr(va, "__index__") else None
    if number is None:
        raise TypeError(f"addresses are integers, not {type(va).__name__}")
    if not 0 <= number <= ALL_ONES:
        raise OutOfRange(f"{number:#x} is no 64-bit address")
    return int(number)


def outputs_for(
    source: Addresses, out: tuple[Addresses, npt.NDArray[np.uint8]] | None
) -> tuple[Addresses, npt.NDArray[np.uint8]]:
    """Return (addresses, statuses) to write to: new arrays, or `out` if it fits; TypeError if not."""
    if out is None:
        return np.empty(source.shape, dtype=np.uint64), np.empty(source.shape, dtype=np.uint8)
    pas, statuses = out
    _check("pas", pas, np.dtype(np.uint64), source.shape)
    _check("statuses", statuses, np.dtype(np.uint8), source.shape)
    if np.shares_memory(pas, source) or np.shares_memory(statuses, source):
        raise TypeError("out: the arrays share no memory with the addresses")
    return pas, statuses


def _check(name: str, array: Any, dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
    if not isinstance(array, np.ndarray) or array.dtype != dtype or array.shape != shape:
        raise TypeError(f"out: {name} is an array of {dtype.name} of shape {shape}")
    if not (array.flags.c_contiguous and array.flags.writeable):
        raise TypeError(f"out: {name} is contiguous and writable")
