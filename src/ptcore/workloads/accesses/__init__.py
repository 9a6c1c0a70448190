"""Recorded accesses, read in chunks from the formats of other tools and written to some of them.

`open_accesses` guesses the form of a file by its content and yields `Accesses`; `convert` writes them
elsewhere. One module per format; docs/recording-accesses.md says how to record each.
"""

from __future__ import annotations

from ptcore.workloads.accesses.chunks import Accesses, AccessKind
from ptcore.workloads.accesses.conversion import (
    TARGETS,
    Converted,
    Target,
    convert,
    write_accesses,
)
from ptcore.workloads.accesses.forms import (
    FORMS,
    AccessReader,
    Form,
    guess_form,
    open_accesses,
)

__all__ = [
    "FORMS",
    "TARGETS",
    "AccessKind",
    "AccessReader",
    "Accesses",
    "Converted",
    "Form",
    "Target",
    "convert",
    "guess_form",
    "open_accesses",
    "write_accesses",
]
