"""A running machine as memory: pages are fetched when something first wants them, and kept."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Self

from ptcore.errors import ImageError
from ptcore.live.gdbstub import GdbStub
from ptcore.live.links import PAGE_BYTES, GdbLink, Link, LivePages, QmpLink, SharedLink
from ptcore.live.memory_map import memory_spans
from ptcore.live.qmp import Qmp
from ptcore.live.sockets import Place
from ptcore.memory import Image
from ptcore.table import AddressSpace
from ptcore.units import Span

FORM = "qemu"


class LiveMachine(Image):
    """The memory and the CPUs of a machine that runs; see `qemu`.

    What was fetched stays as it was until `refresh`: a cache, whose age is the caller's to know.
    """

    _link: Link | None = None
    _pages: LivePages

    @property
    def pages(self) -> LivePages:
        """Where pages come from; counts the lists that were asked for (`calls`) and their pages."""
        return self._pages

    def _asked(self) -> Link:
        if self._link is None:
            raise ImageError(f"{self.path}: this is a snapshot, no machine is behind it")
        return self._link

    # -- what is known of it -----------------------------------------------------------------

    @property
    def round_trips(self) -> int:
        """How often an answer of the machine was waited for."""
        return self._asked().round_trips

    def space(self, cpu: int = 0) -> AddressSpace:
        """Return the address space of a CPU, as its registers were at the last refresh.

        Raises ImageError if the link does not tell the registers, FormatError as
        AddressSpace.from_registers does (paging is off, for one).
        """
        if not 0 <= cpu < len(self.cpus):
            raise ImageError(f"{self.path}: no CPU {cpu}; there are {len(self.cpus)}")
        found = self.cpus[cpu]
        if not found.registers:
            raise ImageError(
                f"{self.path}: the registers of CPU {cpu} are not told "
                f"({found.architecture or 'an unknown architecture'}): give gdb="
            )
        return AddressSpace.from_registers(found.architecture, self, **found.registers)

    # -- the cache ---------------------------------------------------------------------------

    def refresh(self) -> None:
        """Forget all pages, and read the registers again. Raises ImageError if the machine is gone."""
        cpus = self._asked().cpus()
        super().refresh()
        self._cpus = cpus

    def snapshot(self) -> Self:
        """Return the pages that were read so far, with the registers: it stays as it is.

        All other pages do not exist there: list what is to be kept before. Cost: a copy of them.
        """
        taken = super().snapshot()
        taken._link = None
        return taken

    # -- running -----------------------------------------------------------------------------

    @property
    def running(self) -> bool:
        """Whether the machine runs now."""
        return self._asked().runs()

    def stop(self) -> None:
        """Stop the machine."""
        self._asked().stop()

    def resume(self) -> None:
        """Let the machine run."""
        self._asked().resume()

    @contextmanager
    def paused(self) -> Iterator[Self]:
        """Stop the machine for a while: everything that is fetched meanwhile is of one moment.

        Refreshes at the start. A machine that was stopped before stays so.
        """
        ran = self.running
        if ran:
            self.stop()
        try:
            self.refresh()
            yield self
        finally:
            if ran:
                self.resume()

    # -- the end -----------------------------------------------------------------------------

    def close(self) -> None:
        """Close the connections. The machine stays as it is; pages that are here stay readable."""
        if self._link is not None:
            self._link.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"LiveMachine({self.path!r}, {len(self.cpus)} CPUs)"


def qemu(
    qmp: Place | None = None,
    *,
    gdb: Place | None = None,
    memory: Iterable[tuple[int, int]] | None = None,
    timeout: float = 10.0,
) -> LiveMachine:
    """Return a running QEMU machine as memory, through its gdbstub, through QMP, or both.

    `qmp`, `gdb`: "unix:PATH", a path, or "HOST:PORT", as given to QEMU's -qmp and -gdb. Through `gdb`
    come memory and the registers of every architecture, over a network too. Through `qmp` QEMU writes
    memory to files in the folder of temporary files, which it must share (needs qemu.qmp:
    `ptcore[live]`): far faster for many pages side by side; the registers are then those that the
    monitor prints, enough on x86 and RISC-V, not on AArch64. With both, registers come through the
    gdbstub, and memory through QMP if QEMU shares the folder. A gdbstub stops the machine when
    something connects; a machine that ran goes on running if `qmp` is given too, otherwise `resume()`
    it. `memory`: (start, bytes) of what exists, if QEMU's own map is not to be believed. `timeout`:
    seconds to wait for an answer.

    Raises TypeError without a place; OSError and ImageError when nothing answers there.
    """
    if qmp is None and gdb is None:
        raise TypeError("qemu() wants qmp=, gdb=, or both")
    with ExitStack() as opened:
        client = stub = None
        ran = False
        if qmp is not None:
            client = Qmp(qmp, timeout=timeout)
            opened.callback(client.close)
            ran = bool(client.execute("query-status")["running"])
        if gdb is not None:
            stub = GdbStub(gdb, timeout=timeout)
            opened.callback(stub.close)
        link, spans = _linked(client, stub, memory)
        pages = LivePages(link, spans)
        machine = LiveMachine.from_reader(pages)
        machine.describe(FORM, str(qmp if qmp is not None else gdb), link.cpus())
        machine._link, machine._pages = link, pages
        if ran and stub is not None:
            link.resume()
        opened.pop_all()
        return machine


PREFIX = "qemu:"


def is_named(name: str) -> bool:
    """Whether a text names a machine, as `named` takes it, and not a file."""
    return name.startswith(PREFIX)


def named(name: str, *, timeout: float = 10.0) -> LiveMachine:
    """Return the machine of a text: "qemu:qmp=PLACE", "qemu:gdb=PLACE", "qemu:qmp=PLACE,gdb=PLACE".

    Raises ImageError for a text that is none, and what `qemu` raises.
    """
    places: dict[str, str] = {}
    for part in name.removeprefix(PREFIX).split(","):
        key, _, place = part.partition("=")
        if not is_named(name) or key not in ("qmp", "gdb") or not place or key in places:
            raise ImageError(f"{name!r} names no machine: qemu:qmp=PLACE, qemu:gdb=PLACE, or both")
        places[key] = place
    return qemu(places.get("qmp"), gdb=places.get("gdb"), timeout=timeout)


def _linked(
    client: Qmp | None, stub: GdbStub | None, memory: Iterable[tuple[int, int]] | None
) -> tuple[Link, tuple[Span, ...]]:
    """Return the best link that works, and what memory there is."""
    link: Link
    if client is None:
        assert stub is not None
        link = GdbLink(stub)
    else:
        link = QmpLink(client)
    if memory is None:
        spans = memory_spans(link.ask_monitor("info mtree -f"), PAGE_BYTES)
    else:
        spans = tuple(Span.of(start, size) for start, size in memory)
    if isinstance(link, QmpLink) and stub is not None:
        first = Span.of(spans[0].start, PAGE_BYTES)
        link = SharedLink(GdbLink(stub), link) if link.shares_files(first) else GdbLink(stub, link)
    return link, spans
