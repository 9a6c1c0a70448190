"""A workload of one's own: a function without arguments that returns a Workload, by its name."""

from __future__ import annotations

import importlib

from ptcore.errors import TraceError
from ptcore.workloads.steps import StepKind, Workload


def own_workload(name: str) -> Workload:
    """Return what "package.module:function" makes.

    Raises TraceError for a module that cannot be imported, a name that is none of it, what is no function of
    nothing, and what it returns if that is no Workload whose steps go forward in time, begin with an
    acquisition each, and end what they began once.
    """
    path, _, function = name.partition(":")
    try:
        made = getattr(importlib.import_module(path), function)()
    except (ImportError, SyntaxError, ValueError) as error:
        raise TraceError(f"workload {name!r}: {path!r} cannot be imported: {error}") from error
    except AttributeError as error:
        raise TraceError(f"workload {name!r}: {error}") from error
    except TypeError as error:
        raise TraceError(f"workload {name!r} is no function of nothing: {error}") from error
    if not isinstance(made, Workload):
        raise TraceError(f"workload {name!r} made {made!r}, which is no Workload")
    _check(name, made)
    return made


def _check(name: str, made: Workload) -> None:
    live: set[int] = set()
    before = 0
    for number, step in enumerate(made.steps):
        kind, area = int(step["kind"]), int(step["area"])
        if step["time_ns"] < before:
            raise TraceError(f"workload {name!r}: step {number} goes back in time")
        before = int(step["time_ns"])
        if kind != StepKind.FLUSH and (area in live) == (kind == StepKind.ACQUIRE):
            said = "is live already" if area in live else "is not live"
            raise TraceError(f"workload {name!r}: step {number}: allocation {area} {said}")
        if kind == StepKind.ACQUIRE:
            live.add(area)
        elif kind == StepKind.RELEASE:
            live.discard(area)


__all__ = ["own_workload"]
