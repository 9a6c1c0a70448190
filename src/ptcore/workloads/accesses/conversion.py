"""Write accesses to a file in another form, and say what that form does not keep."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ptcore.errors import TraceError
from ptcore.workloads.accesses import arrays, champsim, columnar, lackey
from ptcore.workloads.accesses.chunks import COLUMNS, Accesses
from ptcore.workloads.accesses.forms import open_accesses
from ptcore.workloads.accesses.source import COMPRESSIONS, open_target


@dataclass(frozen=True)
class Target:
    """A form that can be written: how, and the columns that it keeps."""

    write: Callable[[Iterable[Accesses], Any], None]
    keeps: tuple[str, ...]
    compressible: bool = False


TARGETS: dict[str, Target] = {
    "npz": Target(arrays.write_npz, tuple(COLUMNS)),
    "parquet": Target(columnar.write_parquet, tuple(COLUMNS)),
    "lackey": Target(lackey.write, ("va", "kind", "size"), compressible=True),
    "champsim": Target(champsim.write, ("va", "kind"), compressible=True),
}
"""What can be written, by form."""

_SUFFIXES = {
    ".npz": "npz",
    ".parquet": "parquet",
    ".lackey": "lackey",
    ".champsim": "champsim",
    ".champsimtrace": "champsim",
}


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
    if compressed and not TARGETS[form].compressible:
        raise TraceError(f"{name!r}: {form} is not written with {suffix} around it")
    return form


class _Counted:
    """Chunks on their way to a target: how many accesses, and which columns it does not keep."""

    def __init__(self, chunks: Iterable[Accesses], keeps: tuple[str, ...]) -> None:
        self._chunks = chunks
        self._keeps = keeps
        self.accesses = 0
        self.lost: set[str] = set()

    def __iter__(self) -> Iterator[Accesses]:
        for chunk in self._chunks:
            self.accesses += len(chunk)
            self.lost |= {
                name
                for name, column in chunk.columns().items()
                if name not in self._keeps and (name == "time_ns" or column.any())
            }
            yield chunk


def write_accesses(
    chunks: Iterable[Accesses], target: str | os.PathLike[str], form: str | None = None
) -> Converted:
    """Write chunks to a file: npz, parquet, lackey or champsim, by `form` or by the name's end.

    Names of lackey and ChampSim may end in .gz, .xz or .bz2 after that. The file appears under its
    name when it is whole; when anything is raised, there is none. Raises TraceError as
    `target_form` does, and for what the form cannot say; OSError when it cannot be written.
    """
    path = Path(target)
    made = TARGETS[target_form(path, form)]
    part = path.with_name(path.name + ".part")
    counted = _Counted(chunks, made.keeps)
    try:
        with open_target(part, path.name) as file:
            made.write(counted, file)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return Converted(counted.accesses, 0, tuple(sorted(counted.lost)))


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
