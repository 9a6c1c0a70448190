"""Files that appear under their names when they are whole, and packages that only an output needs."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ptcore.errors import PtcoreError


class NeedsPackage(PtcoreError, ImportError):
    """An output needs a package that is not installed; the message says which extra brings it."""


def need(module: str, what: str, extra: str) -> Any:
    """Import a module. Raises NeedsPackage, which says what to install for `what`."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError:
        package = module.partition(".")[0]
        raise NeedsPackage(f"{what} needs {package}: pip install 'ptcore[{extra}]'") from None


@contextmanager
def whole_file(target: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a path to write to; it gets the name `target` at the end, and goes when anything is raised.

    What was there under that name stays until then. Raises OSError.
    """
    path = Path(target)
    part = path.with_name(f".{path.name}.part{path.suffix}")
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


__all__ = ["NeedsPackage", "need", "whole_file"]
