"""Strategies: how a kernel manages mappings, in pure Python, imported as `ptcore.strategies`.

Each module lists its strategies in `STRATEGIES`: functions of a Machine, by name. Modules are found,
not registered.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from types import ModuleType

from ptcore.errors import PtcoreError
from ptcore.machine import Machine, Strategy

Maker = Callable[[Machine], Strategy]


class UnknownStrategy(PtcoreError, LookupError):
    """No strategy has this name (the message lists the nearest ones), or one's own cannot be had."""


@dataclass(frozen=True, slots=True)
class Known:
    """A strategy's name, one sentence, whose policy it is, and the function that makes it.

    `addresses`: what it gives out has an address of its own; else it is reachable only while it is touched.
    """

    name: str
    sentence: str
    provenance: str
    make: Maker
    addresses: bool = True


Front = Callable[[Known], Known]


def fronts() -> dict[str, Front]:
    """Return what can stand in front of any strategy, by name: "FRONT+NAME" names the two together."""
    found: dict[str, Front] = {}
    for module in _modules():
        found.update(getattr(module, "FRONTS", {}))
    return found


def _modules() -> list[ModuleType]:
    names_ = sorted(module.name for module in pkgutil.iter_modules(__path__))
    return [importlib.import_module(f"{__name__}.{name}") for name in names_]


def known() -> tuple[Known, ...]:
    """Return all strategies, the baseline first, then by module."""
    found: list[Known] = []
    for module in _modules():
        found.extend(getattr(module, "STRATEGIES", ()))
    return tuple(sorted(found, key=lambda strategy: (strategy.name != "direct_map", strategy.name)))


def names() -> tuple[str, ...]:
    """Return the names of all strategies."""
    return tuple(strategy.name for strategy in known())


def get(name: str) -> Known:
    """Return the strategy `name`, or "FRONT+NAME": one with something in front. Raises UnknownStrategy."""
    front, _, behind = name.partition("+")
    found = {strategy.name: strategy for strategy in known()}
    if name not in found and behind and front in fronts():
        return fronts()[front](find(behind))
    if name not in found:
        near = get_close_matches(name, found, n=3, cutoff=0.3) or list(found)
        raise UnknownStrategy(f"no strategy is called {name!r}; nearest: {', '.join(near)}")
    return found[name]


def find(what: str | Maker) -> Known:
    """Return a strategy by name, by "package.module:maker", or of a function of a Machine.

    "FRONT+NAME" is a strategy with something in front of it ("page_table_cache+vmalloc_lazy").
    A maker is a class or function that takes a Machine and returns a Strategy. Raises UnknownStrategy
    for an unknown name, a module that cannot be imported, and a maker that is not there or not one.
    """
    if not isinstance(what, str):
        return _own(what, getattr(what, "__name__", type(what).__name__))
    if ":" not in what or what.partition("+")[0] in fronts():
        return get(what)
    path, _, name = what.partition(":")
    try:
        return _own(getattr(importlib.import_module(path), name), what)
    except (ImportError, SyntaxError, ValueError) as error:
        raise UnknownStrategy(f"strategy {what!r}: {path!r} cannot be imported: {error}") from error
    except AttributeError as error:
        raise UnknownStrategy(f"strategy {what!r}: {path!r} has no {name!r}") from error


def _own(make: Maker, name: str) -> Known:
    if not callable(make):
        raise UnknownStrategy(f"strategy {name!r} is no function of a Machine: {make!r}")
    sentence = (getattr(make, "__doc__", None) or "").partition("\n")[0]
    return Known(name, sentence, "one's own", make)
