"""Names of the front door that stand above floor 3, or that few need: imported when first named."""

from __future__ import annotations

import importlib

_ROOMS = {
    "ptcore.table.check": ("check",),
    "ptcore.table.ranges": ("reverse_many",),
    "ptcore.table.roots": ("find_roots",),
    "ptcore.allocators": ("AddressTree",),
    "ptcore.caches": ("Mmu", "PageTableCache", "Tlb", "TlbArray", "TlbLevel", "WalkCache"),
    "ptcore.live": (),
    "ptcore.machine": ("Event", "Handle", "Ledger", "Machine", "Request", "Strategy"),
    "ptcore.strategies": (),
    "ptcore.study": (),
    "ptcore.workloads": (),
}
_FOUND_IN = {name: room for room, names in _ROOMS.items() for name in names}


def __getattr__(name: str) -> object:
    """Return a name of the package `ptcore` that was not imported with it."""
    package = importlib.import_module("ptcore")
    if f"ptcore.{name}" in _ROOMS:
        return importlib.import_module(f"ptcore.{name}")
    if name not in _FOUND_IN:
        raise AttributeError(f"module 'ptcore' has no attribute {name!r}")
    found: object = getattr(importlib.import_module(_FOUND_IN[name]), name)
    setattr(package, name, found)
    return found


def __dir__() -> list[str]:
    """Return the names of the package `ptcore`, imported or not."""
    package = importlib.import_module("ptcore")
    return sorted({*vars(package), *_FOUND_IN, *(room.split(".")[1] for room in _ROOMS)})
