"""The forms that traces of accesses have: which are known, and which one a file is in."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ptcore.errors import TraceError
from ptcore.workloads.accesses import (
    archives,
    arrays,
    champsim,
    columnar,
    drmemtrace,
    lackey,
    perf,
    view,
)
from ptcore.workloads.accesses.chunks import Accesses, Damage
from ptcore.workloads.accesses.source import head_of

Reader = Callable[[Path, Damage], Iterator[Accesses]]


@dataclass(frozen=True)
class Form:
    """A form of trace: its name, what it is, and how it is read."""

    name: str
    what: str
    read: Reader


FORMS: dict[str, Form] = {
    form.name: form
    for form in (
        Form("lackey", "text of valgrind --tool=lackey --trace-mem=yes", lackey.read),
        Form("champsim", "ChampSim's records of 64 bytes", champsim.read),
        Form(
            "champsim-cloudsuite",
            "ChampSim's records of 96 bytes",
            partial(champsim.read, record_bytes=champsim.LONG_BYTES),
        ),
        Form("drmemtrace", "DynamoRIO's drmemtrace: a thread's zip, or a folder", drmemtrace.read),
        Form("drmemtrace-view", "text of drmemtrace's view tool", view.read),
        Form("perf", "text of perf script: page faults or memory samples", perf.read),
        Form("ftrace", "text of ftrace: the events page_fault_user and _kernel", perf.read_ftrace),
        Form("npy", "a NumPy array of addresses or of rows", arrays.read_npy),
        Form("npz", "NumPy arrays, one per column", arrays.read_npz),
        Form("parquet", "Parquet with the columns of accesses", columnar.read_parquet),
        Form("arrow", "an Arrow file or stream with the columns of accesses", columnar.read_arrow),
    )
}
"""All forms by name."""

_TEXTS = {
    "lackey": lackey.LINE,
    "drmemtrace-view": view.LINE,
    "perf": perf.LINE,
    "ftrace": perf.FTRACE_LINE,
}
_MAGICS = {
    arrays.NPY_MAGIC: "npy",
    columnar.PARQUET_MAGIC: "parquet",
    columnar.ARROW_MAGIC: "arrow",
    columnar.STREAM_MAGIC: "arrow",
}
_FTRACE = re.compile(rb"-\d+ +(?:\( *[-\d]+\) +)?\[\d+\] +(?:\S+ +)?\d+\.\d{6}: \w+: ")


def _form_of_zip(path: Path) -> str | None:
    with archives.open_archive(path) as archive:
        names = archive.namelist()
    if any(name.startswith(drmemtrace.MEMBERS) for name in names):
        return "drmemtrace"
    return "npz" if "va.npy" in names or all(name.endswith(".npy") for name in names) else None


def _form_of_text(head: bytes) -> str | None:
    counts = {name: len(pattern.findall(head)) for name, pattern in _TEXTS.items()}
    best = max(counts, key=lambda name: counts[name])
    return best if counts[best] else None


def _form_of_records(head: bytes) -> str | None:
    if drmemtrace.begins_thread(head):
        return "drmemtrace"
    size = champsim.record_bytes_of(head)
    forms = {champsim.SHORT_BYTES: "champsim", champsim.LONG_BYTES: "champsim-cloudsuite"}
    return None if size is None else forms[size]


def guess_form(path: str | os.PathLike[str]) -> str:
    """Return the name of the form that a file's content has; its own name does not count.

    Raises TraceError when it has none of them, naming those there are; OSError when it cannot be
    opened. Cost: the first 64 KiB, or the directory of a zip.
    """
    path = Path(path)
    if path.is_dir():
        drmemtrace.threads_in(path)
        return "drmemtrace"
    head = head_of(path)
    if not head:
        raise TraceError(f"{path.name} is empty")
    found = next((name for magic, name in _MAGICS.items() if head.startswith(magic)), None)
    if found is None and head.startswith(archives.MAGIC):
        found = _form_of_zip(path)
    elif found is None:
        found = _form_of_text(head) or _form_of_records(head)
    if found is None:
        hint = "; it looks like ftrace without page faults" * bool(_FTRACE.search(head))
        raise TraceError(
            f"{path.name} is in none of the forms {', '.join(FORMS)}: say which it is{hint}"
        )
    return found


class AccessReader(Iterator[Accesses]):
    """The accesses of one trace, in chunks: iterate it once, or take it as a context.

    `form`: the name of its form. `skipped`: damaged records so far; `accesses`: those yielded so far.
    """

    def __init__(self, path: Path, form: Form, skip_bad: bool) -> None:
        self.path = path
        self.form = form.name
        self.accesses = 0
        self._damage = Damage(path.name, skip_bad)
        self._chunks = form.read(path, self._damage)

    def __next__(self) -> Accesses:
        for chunk in self._chunks:
            if len(chunk):
                self.accesses += len(chunk)
                return chunk
        if not self.accesses:
            also = f" ({self.skipped} damaged records were skipped)" if self.skipped else ""
            raise TraceError(f"{self.path.name}, read as {self.form}, holds no accesses{also}")
        raise StopIteration

    @property
    def skipped(self) -> int:
        """How many damaged records were skipped so far."""
        return self._damage.count

    def close(self) -> None:
        """Close the files; what is left is not read."""
        close = getattr(self._chunks, "close", None)
        if close is not None:
            close()

    def __enter__(self) -> AccessReader:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()


def open_accesses(
    path: str | os.PathLike[str], form: str | None = None, skip_bad: bool = False
) -> AccessReader:
    """Open a trace of accesses, in one of `FORMS` or in that which its content shows.

    Text and ChampSim may be compressed with gzip, xz or bzip2. A damaged record raises TraceError
    with its line or offset when it is reached; with `skip_bad` it is counted in `skipped`. Raises
    TraceError for an unknown form, and at its end for a trace without accesses; OSError when the
    file cannot be opened. Memory: a few chunks, whatever the size of the trace.
    """
    if form is not None and form not in FORMS:
        raise TraceError(f"no form is called {form!r}; there is {', '.join(FORMS)}")
    return AccessReader(Path(path), FORMS[form or guess_form(path)], skip_bad)
