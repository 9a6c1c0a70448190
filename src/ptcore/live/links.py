"""The two ways to a running QEMU: its gdbstub, and QMP with files that QEMU writes."""

from __future__ import annotations

import itertools
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ptcore.errors import ImageError
from ptcore.formats import debuggers
from ptcore.formats.debuggers import Debugged
from ptcore.live.gdbstub import GdbStub
from ptcore.live.qmp import Qmp
from ptcore.memory import Cpu
from ptcore.units import Span

PAGE_BYTES = 4096
Addresses = npt.NDArray[np.uint64]


class RunReader(Protocol):
    """What reads runs of bytes. Those at most `gap_pages` apart are best read as one."""

    gap_pages: int

    def read(self, runs: Sequence[Span]) -> list[bytes | None]:
        """Return the bytes of each run, None for one that cannot be read."""


class Link(RunReader, Protocol):
    """What a machine is read through."""

    @property
    def round_trips(self) -> int:
        """How often an answer was waited for."""

    def ask_monitor(self, line: str) -> str:
        """Return what the monitor prints."""

    def cpus(self) -> tuple[Cpu, ...]:
        """Return the CPUs with their registers."""

    def runs(self) -> bool:
        """Whether the machine runs."""

    def stop(self) -> None:
        """Stop the machine."""

    def resume(self) -> None:
        """Let the machine run."""

    def close(self) -> None:
        """Close the connection; the machine stays as it is."""


class GdbLink:
    """Memory and registers through a gdbstub: some 0.2 ms per page, wherever it lies."""

    gap_pages = 0

    def __init__(self, stub: GdbStub, monitor: QmpLink | None = None) -> None:
        """Read through `stub`; `monitor` is closed with it. The machine is stopped."""
        self._stub = stub
        self._monitor = monitor
        self._resumed = False

    @contextmanager
    def _held(self) -> Iterator[GdbStub]:
        """Stop a machine that was let run for as long as it is asked: QEMU answers no sooner."""
        if self._resumed:
            self._stub.interrupt()
        try:
            yield self._stub
        finally:
            if self._resumed:
                self._stub.ask_monitor("cont")

    @property
    def round_trips(self) -> int:
        """How often an answer was waited for."""
        return self._stub.round_trips

    def ask_monitor(self, line: str) -> str:
        """Return what the monitor prints."""
        with self._held() as stub:
            return stub.ask_monitor(line)

    def cpus(self) -> tuple[Cpu, ...]:
        """Return the CPUs in the stub's order; without registers if the architecture is not known."""
        with self._held() as stub:
            debugged = debuggers.of_description(stub.architecture())
            found = [stub.registers(thread) for thread in stub.threads()]
        return tuple(_cpu(debugged, registers) for registers in found)

    def read(self, runs: Sequence[Span]) -> list[bytes | None]:
        """Return the bytes of each run, None for one that cannot be read."""
        with self._held() as stub:
            return stub.read_physical([(run.start, run.size) for run in runs])

    def runs(self) -> bool:
        """Whether the machine runs, as far as it was not stopped or started by others."""
        return self._resumed

    def stop(self) -> None:
        """Stop the machine."""
        if self._resumed:
            self._resumed = False
            self._stub.interrupt()

    def resume(self) -> None:
        """Let the machine run; whenever it is asked something, it stops for that long."""
        if not self._resumed:
            self._stub.ask_monitor("cont")
            self._resumed = True

    def close(self) -> None:
        """Close the connection; the machine stays as it is."""
        if self._resumed:
            self._stub.interrupt()
            self._resumed = False
            self._stub.resume()
        self._stub.close()
        if self._monitor is not None:
            self._monitor.close()


class QmpLink:
    """Memory and registers through QMP: QEMU saves memory to files, so it must share our file system.

    A file costs some 2 ms, a page in it 10 us: `python tests/guests/measure.py`.
    """

    gap_pages = 64

    def __init__(self, qmp: Qmp) -> None:
        self._qmp = qmp
        self._folder = tempfile.TemporaryDirectory(prefix="ptcore-live-")
        self.ask_monitor = qmp.ask_monitor

    @property
    def round_trips(self) -> int:
        """How often an answer was waited for."""
        return self._qmp.round_trips

    def cpus(self) -> tuple[Cpu, ...]:
        """Return the CPUs; without registers where the monitor prints none that say enough."""
        debugged = debuggers.of_target(self._qmp.execute("query-target")["arch"])
        count = len(self._qmp.execute("query-cpus-fast"))
        texts = (self._qmp.ask_monitor("info registers", cpu) for cpu in range(count))
        return tuple(_cpu(debugged, debugged.read(text) if debugged else {}) for text in texts)

    def read(self, runs: Sequence[Span]) -> list[bytes | None]:
        """Return the bytes of each run. Raises ImageError if QEMU's files are not seen here."""
        paths = [Path(self._folder.name) / str(n) for n in range(len(runs))]
        try:
            self._qmp.execute_all(
                ("pmemsave", {"val": run.start, "size": run.size, "filename": os.fspath(path)})
                for run, path in zip(runs, paths, strict=True)
            )
            found: list[bytes | None] = [path.read_bytes() for path in paths]
        except (ImageError, OSError) as error:
            raise ImageError(
                f"{error}: QEMU must be able to write files into {self._folder.name}; or give gdb="
            ) from None
        for path in paths:
            path.unlink()
        return found

    def runs(self) -> bool:
        """Whether the machine runs."""
        return bool(self._qmp.execute("query-status")["running"])

    def stop(self) -> None:
        """Stop the machine."""
        self._qmp.execute("stop")

    def resume(self) -> None:
        """Let the machine run."""
        self._qmp.execute("cont")

    def shares_files(self, run: Span) -> bool:
        """Whether what QEMU saves can be read here."""
        try:
            (text,) = self.read([run])
        except ImageError:
            return False
        return text is not None and len(text) == run.size

    def close(self) -> None:
        """Close the connection; the machine stays as it is."""
        self._qmp.close()
        self._folder.cleanup()


class SharedLink:
    """Registers through a gdbstub, everything else through QMP, which is faster where a list is long."""

    gap_pages = QmpLink.gap_pages

    def __init__(self, gdb: GdbLink, qmp: QmpLink) -> None:
        self._gdb = gdb
        self._qmp = qmp
        self.ask_monitor = qmp.ask_monitor
        self.read = qmp.read
        self.runs, self.stop, self.resume = qmp.runs, qmp.stop, qmp.resume

    @property
    def round_trips(self) -> int:
        """How often an answer was waited for."""
        return self._gdb.round_trips + self._qmp.round_trips

    def cpus(self) -> tuple[Cpu, ...]:
        """Return the CPUs in the stub's order. A machine that runs is stopped for that long."""
        ran = self.runs()
        if ran:
            self.stop()
        found = self._gdb.cpus()
        if ran:
            self.resume()
        return found

    def close(self) -> None:
        """Close both connections; the machine stays as it is."""
        self._gdb.close()
        self._qmp.close()


def _cpu(debugged: Debugged | None, registers: dict[str, int]) -> Cpu:
    if debugged is None:
        return Cpu("", {}, registers)
    return Cpu(debugged.name, debugged.settle(registers), registers)


class LivePages:
    """A PageReader over a link: lists of pages, those that lie next to each other in one request.

    `calls` counts the lists that were asked for, `pages` the pages in them.
    """

    page_bytes = PAGE_BYTES

    def __init__(self, link: RunReader, spans: Sequence[Span]) -> None:
        """Read through `link` the memory in `spans`."""
        self.link = link
        self.spans = tuple(spans)
        self.calls = 0
        self.pages = 0

    def read_pages(self, pas: Addresses) -> list[bytes | memoryview | None]:
        """Return the bytes of each page; see PageReader."""
        self.calls += 1
        self.pages += len(pas)
        runs = list(self._runs(pas))
        found: list[bytes | memoryview | None] = [None] * len(pas)
        texts = self.link.read([run for run, _ in runs])
        for (run, members), text in zip(runs, texts, strict=True):
            if text is not None:
                view = memoryview(text)
                for n in members:
                    at = int(pas[n]) - run.start
                    found[n] = view[at : at + PAGE_BYTES]
        return found

    def _runs(self, pas: Addresses) -> Iterator[tuple[Span, range]]:
        """Yield runs of pages and which of `pas` are in them. No run leaves its span of memory."""
        if not len(pas):
            return
        ends = np.array([span.last for span in self.spans], dtype=np.uint64)
        home = np.searchsorted(ends, pas)
        near = (self.link.gap_pages + 1) * PAGE_BYTES
        (breaks,) = np.nonzero((np.diff(pas) > near) | (np.diff(home) != 0))
        edges = [0, *(breaks + 1).tolist(), len(pas)]
        for first, end in itertools.pairwise(edges):
            yield Span(int(pas[first]), int(pas[end - 1]) + PAGE_BYTES - 1), range(first, end)
