"""Edits of one run of smallest leaves in a table that exists: what most edits of a running machine are."""

from typing import final

from ptcore.table import PageTable

@final
class LeafRuns:
    """For compiled rooms above: `map`, `unmap` and `mapped` of leaf_run.pxd, over `table`.

    Each does what PageTable's verb does, when the pages are a run of smallest leaves of one table that
    exists, and else nothing.
    """

    table: PageTable

    def __init__(self, table: PageTable) -> None: ...
