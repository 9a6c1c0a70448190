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
    found: object
    if name == "__version__":
        found = _version()
    elif name in _FOUND_IN:
        found = getattr(importlib.import_module(_FOUND_IN[name]), name)
    else:
        raise AttributeError(f"module 'ptcore' has no attribute {name!r}")
    setattr(package, name, found)
    return found


def _version() -> str:
    """Return the version that was installed. What reads it is imported for it alone."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("ptcore")
    except PackageNotFoundError:
        raise AttributeError("ptcore is not installed here, so it has no version") from None


def __dir__() -> list[str]:
    """Return the names of the package `ptcore`, imported or not."""
    package = importlib.import_module("ptcore")
    return sorted(
        {"__version__", *vars(package), *_FOUND_IN, *(room.split(".")[1] for room in _ROOMS)}
    )
