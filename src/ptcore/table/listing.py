"""Listings: structured arrays that other tools take as columns (the Arrow C data interface)."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ptcore.table.arrow import stream_of


class Columns:
    """The columns of a structured array, for tools that would take an array for something else (DuckDB)."""

    def __init__(self, rows: npt.NDArray[Any]) -> None:
        self.rows = rows

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        """Return the rows as a capsule "arrow_array_stream"; `requested_schema` is not followed."""
        return stream_of(self.rows)

    def __len__(self) -> int:
        return len(self.rows)


class Listing(np.ndarray[Any, np.dtype[Any]]):
    """A NumPy array that exports the Arrow C data interface.

    pyarrow, polars and pandas take a listing as it is (`pyarrow.table(rows)`, `polars.DataFrame(rows)`);
    DuckDB takes `rows.columns`. Each column is copied once, in batches, since fields of a structured array
    do not lie side by side. In all else a listing is the array that it is.
    """

    @property
    def columns(self) -> Columns:
        """The rows as columns only, for tools that would take the array for something else."""
        return Columns(self)

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        """Return the rows as a capsule "arrow_array_stream"; `requested_schema` is not followed."""
        return stream_of(self)


def listing(rows: npt.NDArray[Any]) -> Listing:
    """Return an array, not copied, as a Listing."""
    return rows.view(Listing)
