"""Files that appear under their names when they are whole, and packages that only an output needs."""

from __future__ import annotations

import importlib
import os
from errno import ENOENT
from pathlib import Path
from typing import Any

from ptcore.errors import PtcoreError
from ptcore.machine.ledger_files import whole_file


class NeedsPackage(PtcoreError, ImportError):
    """An output needs a package that is not installed; the message says which extra brings it."""


def need(module: str, what: str, extra: str) -> Any:
    """Import a module. Raises NeedsPackage, which says what to install for `what`."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError:
        package = module.partition(".")[0]
        raise NeedsPackage(f"{what} needs {package}: pip install 'ptcore[{extra}]'") from None


def expect_folder(file: str | os.PathLike[str]) -> None:
    """Raise FileNotFoundError where the folder that `file` is to stand in is not there."""
    folder = Path(file).absolute().parent
    if not folder.is_dir():
        raise FileNotFoundError(ENOENT, os.strerror(ENOENT), str(folder))


__all__ = ["NeedsPackage", "expect_folder", "need", "whole_file"]
