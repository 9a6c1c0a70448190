"""Structured arrays as streams of the Arrow C data interface, without Arrow."""

from typing import Any

import numpy.typing as npt

BATCH_ROWS: int
"""The most rows of one batch of a stream."""

def stream_of(rows: npt.NDArray[Any]) -> object:
    """Return a capsule "arrow_array_stream" over a structured array: a struct with a column per field.

    An array without fields is a stream of one column. The fields of a structured array do not lie side by
    side, so each batch (at most 2**20 rows) copies its columns once when it is asked for; nothing else is
    copied, and nulls there are none. Raises TypeError for an array that has not one dimension, and for
    fields that are no native integers or floats.
    """
