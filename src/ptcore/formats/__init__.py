"""Floor 1: an MMU as data.

One file per family in this folder; each lists its formats in `FORMATS` (functions of parameters that
return a Format) and what the conformance suite runs in `TEST_CONFIGURATIONS`. The files are found,
not registered: adding a family adds one file. A family may have `PRESETS`: how other tools read it.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from difflib import get_close_matches
from typing import Any

from ptcore.errors import FormatError
from ptcore.formats.schema import (
    AddressRule,
    Bits,
    Citation,
    Denial,
    Format,
    KeyRule,
    Level,
    Lookup,
    Mark,
    Match,
    Refusal,
    Role,
    Shape,
    Waiver,
    Word,
)

Preset = tuple[str, dict[str, object], dict[str, object]]
"""The name of a format, its parameters, and options of PageTable."""

_ROOMS = (
    "schema",
    "lower",
    "encode",
    "access",
    "explain",
    "debuggers",
    "notes",
    "registers",
)  # rooms of this folder that are no families


def _families() -> list[str]:
    found = (module.name for module in pkgutil.iter_modules(__path__))
    return sorted(name for name in found if name not in _ROOMS)


def _makers() -> dict[str, Callable[..., Format]]:
    makers: dict[str, Callable[..., Format]] = {}
    for family in _families():
        for maker in importlib.import_module(f"{__name__}.{family}").FORMATS:
            makers[maker.__name__] = maker
    return makers


def names() -> tuple[str, ...]:
    """Return the names of all formats, family by family."""
    return tuple(_makers())


def get(name: str, **parameters: object) -> Format:
    """Return the format `name`, made with `parameters` (those of its function; all have defaults).

    Raises FormatError for an unknown name (with the nearest known ones) or an unknown parameter.
    """
    makers = _makers()
    if name not in makers:
        near = get_close_matches(str(name), makers, n=3, cutoff=0.4) or list(makers)
        raise FormatError(f"no format is called {name!r}; nearest: {', '.join(near)}")
    try:
        return makers[name](**parameters)
    except TypeError as error:
        raise FormatError(f"{name}: {error}") from None


def _presets() -> dict[str, Preset]:
    found: dict[str, Preset] = {}
    for family in _families():
        found |= getattr(importlib.import_module(f"{__name__}.{family}"), "PRESETS", {})
    return found


def presets() -> tuple[str, ...]:
    """Return the names of the presets: how other tools read tables."""
    return tuple(_presets())


def preset(name: str) -> tuple[Format, dict[str, Any]]:
    """Return a format and the options of `PageTable` with which tables are read as another tool does.

    `PageTable(format, memory, root, **options)`. Raises FormatError for an unknown name, with the
    nearest ones.
    """
    known = _presets()
    if name not in known:
        near = get_close_matches(str(name), known, n=3, cutoff=0.3) or list(known)
        raise FormatError(f"no preset is called {name!r}; nearest: {', '.join(near)}")
    form, parameters, options = known[name]
    return get(form, **parameters), dict(options)


def configurations() -> tuple[tuple[str, dict[str, object]], ...]:
    """Return (name, parameters) of every configuration that each family asks to be tested with."""
    return tuple(
        (name, dict(parameters))
        for family in _families()
        for name, parameters in importlib.import_module(f"{__name__}.{family}").TEST_CONFIGURATIONS
    )


__all__ = [
    "AddressRule",
    "Bits",
    "Citation",
    "Denial",
    "Format",
    "KeyRule",
    "Level",
    "Lookup",
    "Mark",
    "Match",
    "Refusal",
    "Role",
    "Shape",
    "Waiver",
    "Word",
    "configurations",
    "get",
    "names",
    "preset",
    "presets",
]
