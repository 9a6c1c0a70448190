"""Write accesses to a file in another form, and say what that form does not keep."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ptcore.errors import TraceError
from ptcore.workloads.accesses import arrays, champsim, columnar, lackey
from ptcore.workloads.accesses.chunks import Accesses
from ptcore.workloads.accesses.forms import open_accesses
from ptcore.workloads.accesses.source import COMPRESSIONS, open_target


class Writer(Protocol):
    """Writes chunks to an open file; `keeps` are the columns that its form holds."""

    keeps: tuple[str, ...]

    def write(self, chunk: Accesses) -> None:
        """Write a chunk, after those before it."""
        ...

    def close(self) -> None:
        """Write what is left; the file itself stays open."""
        ...


TARGETS: dict[str, Callable[[Any], Writer]] = {
    "npz": arrays.Writer,
    "parquet": columnar.Writer,
    "lackey": lackey.Writer,
    "champsim": champsim.Writer,
}
"""What can be written, by form."""

_SUFFIXES = {
    ".npz": "npz",
    ".parquet": "parquet",
    ".lackey": "lackey",
    ".champsim": "champsim",
    ".champsimtrace": "champsim",
}
_COMPRESSIBLE = ("lackey", "champsim")


@dataclass(frozen=True)
class Converted:
    """What was written: the accesses, the damaged records skipped, and the columns lost.

    A column is lost where the source says something that the target's form has no place for.
    """

    accesses: int
    skipped: int
    lost: tuple[str, ...]


def target_form(target: str | os.PathLike[str], form: str | None = None) -> str:
    """Return the form that a file is written in: `form`, or what its name ends with.

    Raises TraceError when neither says it, or when the form cannot be compressed as the name says.
    """
    name = Path(target).name
    suffix = Path(name).suffix
    compressed = suffix in COMPRESSIONS
    if form is None:
        form = _SUFFIXES.get(Path(name).with_suffix("").suffix if compressed else suffix)
    if form is None:
        raise TraceError(f"{name!r} ends in none of {', '.join(_SUFFIXES)}: say the form to write")
    if form not in TARGETS:
        raise TraceError(f"{form!r} cannot be written; {', '.join(TARGETS)} can")
    if compressed and form not in _COMPRESSIBLE:
        raise TraceError(f"{name!r}: {form} is not written with {suffix} around it")
    return form


def _lost(chunk: Accesses, keeps: tuple[str, ...]) -> set[str]:
    return {
        name
        for name, column in chunk.columns().items()
        if name not in keeps and (name == "time_ns" or column.any())
    }


def write_accesses(
    chunks: Iterable[Accesses], target: str | os.PathLike[str], form: str | None = None
) -> Converted:
    """Write chunks to a file: npz, parquet, lackey or champsim, by `form` or by the name's end.

    Names of lackey and ChampSim may end in .gz, .xz or .bz2 after that. The file appears under its
    name when it is whole; when anything is raised, there is none. Raises TraceError as
    `target_form` does, and for what the form cannot say; OSError when it cannot be written.
    """
    path = Path(target)
    make = TARGETS[target_form(path, form)]
    part = path.with_name(path.name + ".part")
    lost: set[str] = set()
    count = 0
    try:
        with open_target(part, path.name) as file:
            writer = make(file)
            for chunk in chunks:
                writer.write(chunk)
                count += len(chunk)
                lost |= _lost(chunk, writer.keeps)
            writer.close()
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return Converted(count, 0, tuple(sorted(lost)))


def convert(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    source_form: str | None = None,
    to: str | None = None,
    skip_bad: bool = False,
) -> Converted:
    """Read a trace as `open_accesses` does and write it as `write_accesses` does.

    Memory: a few chunks. Raises what those raise; a source that cannot be read to its end leaves no
    target behind.
    """
    to = target_form(target, to)
    with open_accesses(source, source_form, skip_bad) as reader:
        written = write_accesses(reader, target, to)
        return Converted(written.accesses, reader.skipped, written.lost)
