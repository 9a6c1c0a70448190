"""Edits of tables: map, unmap, protect, split, collapse. Nothing for Python: see PageTable."""

from typing import final

@final
class Edit:
    """One edit under way; made by PageTable, without a method for Python."""
