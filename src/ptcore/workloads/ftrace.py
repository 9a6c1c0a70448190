"""Read ftrace text: what a kernel said of its vmalloc areas, TLB invalidations and interrupts.

The line is ``TASK-PID [CPU] FLAGS SECONDS.MICROSECONDS: EVENT: FIELDS``; TASK may hold spaces.
Event formats: Linux include/trace/events/vmalloc.h (alloc_vmap_area, purge_vmap_area_lazy,
free_vmap_area_noflush), tlb.h (tlb_flush), ipi.h (ipi_send_cpu, ipi_send_cpumask), dma.h (mappings
and allocations for devices), and the iommu group's map and unmap (iommu.h). Which events are
understood, and how, is the table `EVENTS`.

No line is dropped silently: a line that is no event line, whose fields are not those of its event,
whose numbers do not fit, or within which the file ends, is kept in `FtraceLog.damaged` with its
number and the reason. One damaged line never costs another.
"""

from __future__ import annotations

import gzip
import lzma
import os
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import IntEnum
from importlib.resources import as_file, files
from itertools import chain, pairwise
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from ptcore.errors import TraceError

PAGE_LG2 = 12  # the traces read here come from kernels with 4 KiB pages
SAMPLE = "vmalloc-linux-6.18-2cpu"
SAMPLES_IOMMU = tuple(f"iommu-vtd-linux-6.12-nvme-{mode}" for mode in ("strict", "deferred"))


class EventKind(IntEnum):
    """What a line of a trace says."""

    ALLOC = 1
    """An area was allocated: va, pages (with the guard page), align, range_start, range_end."""
    FREE = 2
    """An area was freed, its translations left: va, count = nr_lazy, limit = nr_lazy_max."""
    PURGE = 3
    """The lazily freed areas were purged after one invalidation: va, end, count = areas purged."""
    IPI = 4
    """A function-call interrupt was sent to CPU `count`."""
    TLB_FLUSH = 5
    """User translations were invalidated: pages, or all where pages is all-ones; count = reason."""
    LOST = 6
    """The ring buffer of a CPU overflowed: count events are missing here."""
    OTHER = 7
    """An event that is not read here (reschedule interrupts among them)."""
    MAP = 8
    """The IOMMU maps va..end (exclusive); count = the physical address."""
    UNMAP = 9
    """The IOMMU unmaps va..end (exclusive)."""
    DMA_MAP = 10
    """Memory was mapped or allocated for a device at va..end (exclusive)."""
    DMA_UNMAP = 11
    """It was unmapped or freed."""


EVENT_DTYPE = np.dtype(
    [
        ("line", "<i4"),
        ("time_ns", "<i8"),
        ("cpu", "<i2"),
        ("pid", "<i4"),
        ("kind", "u1"),
        ("va", "<u8"),
        ("end", "<u8"),
        ("pages", "<u8"),
        ("count", "<i8"),
        ("limit", "<i8"),
        ("align", "<u8"),
        ("range_start", "<u8"),
        ("range_end", "<u8"),
    ]
)
"""One event: 1-based line, time in ns, CPU and process, addresses in bytes (`end` exclusive as the
kernel prints it), `pages` of 4 KiB; fields that an event does not have are 0, and -1 in count and
limit."""

AREA_DTYPE = np.dtype(
    [("alloc", "<i4"), ("free", "<i4"), ("va", "<u8"), ("pages", "<u8"), ("cpu", "<i2")]
)
"""One allocation: indexes of its events (free -1: never freed), address, pages, allocating CPU."""

ALL_PAGES = (1 << 64) - 1
Values = dict[str, int]
# Bounded, so that no line makes a number that is slow to convert.
_HEX = r"(?:0x)?[0-9a-fA-F]{1,16}"
_DEC = r"\d{1,20}"
_MASK = r"[0-9a-fA-F,-]{1,4096}"
_SYMBOL = r"\S+(?: \[\w+\])?"  # %pS: name+offset/size, and the module where there is one
_LARGEST = {name: int(np.iinfo(EVENT_DTYPE[name]).max) for name in EVENT_DTYPE.names or ()}


@dataclass(frozen=True)
class EventFormat:
    """How the fields of one event are read."""

    kind: EventKind
    fields: re.Pattern[str]
    values: Callable[[re.Match[str]], Values]


def _alloc(found: re.Match[str]) -> Values:
    return {
        # A failed allocation prints an error value for its address.
        "va": 0 if found["failed"] == "1" else int(found["va"]),
        "pages": int(found["size"]) >> PAGE_LG2,
        "align": int(found["align"]),
        "range_start": int(found["vstart"], 16),
        "range_end": int(found["vend"], 16),
    }


def _free(found: re.Match[str]) -> Values:
    if found["only"] is not None:
        return {"va": int(found["only"], 16)}
    return {
        "va": int(found["va"], 16),
        "count": int(found["lazy"]),
        "limit": int(found["limit"]),
    }


def _purge(found: re.Match[str]) -> Values:
    return {"va": int(found["va"], 16), "end": int(found["end"], 16), "count": int(found["count"])}


def _ipi(found: re.Match[str]) -> Values:
    return {"count": int(found["cpu"])}


def _tlb(found: re.Match[str]) -> Values:
    pages = int(found["pages"])
    return {"pages": ALL_PAGES if pages < 0 else pages, "count": int(found["reason"])}


def _iommu(found: re.Match[str]) -> Values:
    start, end = int(found["va"], 16), int(found["end"], 16)
    if end <= start:
        raise ValueError(f"no addresses run from {start:#x} to {end:#x} (exclusive)")
    values = {"va": start, "end": end, "pages": (end - start) >> PAGE_LG2}
    paddr = found.groupdict().get("paddr")
    return values | ({"count": int(paddr, 16)} if paddr else {})


def _dma(found: re.Match[str]) -> Values:
    start, size = int(found["va"], 16), int(found["size"])
    if not size:
        raise ValueError("a mapping of no bytes")
    end = start + size
    return {"va": start, "end": end, "pages": (end - start) >> PAGE_LG2}


_DMA = re.compile(
    rf"(?P<device>\S+)(?: dir=\w+)? dma_addr=(?P<va>{_HEX}) size=(?P<size>{_DEC})(?: .*)?"
)

EVENTS: dict[str, EventFormat] = {
    "alloc_vmap_area": EventFormat(
        EventKind.ALLOC,
        re.compile(
            rf"va_start: (?P<va>{_DEC}) size=(?P<size>{_DEC}) align=(?P<align>{_DEC}) "
            rf"vstart=(?P<vstart>{_HEX}) vend=(?P<vend>{_HEX}) failed=(?P<failed>[01])"
        ),
        _alloc,
    ),
    "free_vmap_area_noflush": EventFormat(
        EventKind.FREE,
        # Where the counters were taken out, only all 16 digits show that the address is whole.
        re.compile(
            rf"va_start=(?:(?P<va>{_HEX}) nr_lazy=(?P<lazy>{_DEC}) nr_lazy_max=(?P<limit>{_DEC})"
            r"|(?P<only>(?:0x)?[0-9a-fA-F]{16}))"
        ),
        _free,
    ),
    "purge_vmap_area_lazy": EventFormat(
        EventKind.PURGE,
        re.compile(rf"start=(?P<va>{_HEX}) end=(?P<end>{_HEX}) num_purged=(?P<count>{_DEC})"),
        _purge,
    ),
    "ipi_send_cpu": EventFormat(
        EventKind.IPI,
        re.compile(
            rf"cpu=(?P<cpu>{_DEC})(?: callsite={_SYMBOL})? callback=(?P<callback>{_SYMBOL})"
        ),
        _ipi,
    ),
    "ipi_send_cpumask": EventFormat(
        EventKind.IPI,
        re.compile(
            rf"cpumask=(?P<mask>{_MASK})(?: callsite={_SYMBOL})? callback=(?P<callback>{_SYMBOL})"
        ),
        lambda found: {},
    ),
    "tlb_flush": EventFormat(
        EventKind.TLB_FLUSH,
        re.compile(rf"pages: ?(?P<pages>-?{_DEC}) reason: ?[^()]*\((?P<reason>{_DEC})\)"),
        _tlb,
    ),
    "map": EventFormat(
        EventKind.MAP,
        re.compile(
            rf"IOMMU: iova=(?P<va>{_HEX}) - (?P<end>{_HEX}) paddr=(?P<paddr>{_HEX}) size={_DEC}"
        ),
        _iommu,
    ),
    "unmap": EventFormat(
        EventKind.UNMAP,
        re.compile(
            rf"IOMMU: iova=(?P<va>{_HEX}) - (?P<end>{_HEX}) size={_DEC} unmapped_size={_DEC}"
        ),
        _iommu,
    ),
    # Linux include/trace/events/dma.h: the same fields for pages, for what has no page, and for what is
    # allocated for a device. A scatter list's end does not say its addresses: it is not read.
    **{
        f"dma_{name}": EventFormat(EventKind.DMA_MAP, _DMA, _dma)
        for name in ("map_page", "map_phys", "map_resource", "alloc", "alloc_pages")
    },
    **{
        f"dma_{name}": EventFormat(EventKind.DMA_UNMAP, _DMA, _dma)
        for name in ("unmap_page", "unmap_phys", "unmap_resource", "free", "free_pages")
    },
}

# The leftmost place that reads as a line's head counts: the text of a marker may quote a whole
# line, while the name of a task is too short for it: 15 characters (Linux
# include/linux/sched.h, TASK_COMM_LEN).
_LINE = re.compile(
    r"(?P<task>.*?)-(?P<pid>\d{1,10})\s+(?:\(\s*[-\d]{1,10}\)\s+)?\[(?P<cpu>\d{1,5})\]\s+"
    r"(?:\S+\s+)?(?P<seconds>\d{1,10})\.(?P<fraction>\d{6}): (?P<event>\w+): (?P<fields>.*)"
)
_LOST = re.compile(r"CPU:\s*(?P<cpu>\d{1,5}) \[LOST (?P<count>\d{1,20}) EVENTS\]")
_HEADER_CPUS = re.compile(r"#P:(\d{1,5})\b")
_FUNCTION_CALL = "call_function"


@dataclass(frozen=True)
class Damaged:
    """A line that could not be read: its 1-based number, its text, and why."""

    line: int
    text: str
    reason: str


@dataclass(frozen=True)
class FtraceLog:
    """A trace that was read.

    `events`: array of EVENT_DTYPE in the order of the file. `damaged`: the lines that could not be
    read. `cpus`: how many CPUs the kernel had online, from the header, else 1 + the highest seen.
    `out_of_order`: events whose time is before that of an event above them.
    """

    events: NDArray[Any]
    damaged: tuple[Damaged, ...]
    cpus: int
    out_of_order: int
    name: str = ""

    def of(self, *kinds: EventKind) -> NDArray[Any]:
        """Return the events of `kinds`, in order."""
        return self.events[np.isin(self.events["kind"], [int(kind) for kind in kinds])]

    def count(self, kind: EventKind) -> int:
        """Return how many events are of `kind`."""
        return int((self.events["kind"] == int(kind)).sum())


_AT = ("line", "time_ns", "cpu", "pid")


@dataclass
class _Reading:
    """What has been read so far."""

    rows: list[tuple[int, ...]] = field(default_factory=list)
    damaged: list[Damaged] = field(default_factory=list)
    header_cpus: int | None = None
    recognised: int = 0

    def add(self, at: tuple[int, int, int, int], kind: EventKind, values: Values) -> None:
        """Add an event; `at` is its line, time, CPU and process.

        Raises ValueError, and adds nothing, when a number does not fit its field.
        """
        for name, value in (*zip(_AT, at, strict=True), *values.items()):
            if value > _LARGEST[name]:
                raise ValueError(f"{name} = {value} is above {_LARGEST[name]}")
        self.rows.append(
            (
                *at,
                int(kind),
                values.get("va", 0),
                values.get("end", 0),
                values.get("pages", 0),
                values.get("count", -1),
                values.get("limit", -1),
                values.get("align", 0),
                values.get("range_start", 0),
                values.get("range_end", 0),
            )
        )


def cpu_list(mask: str) -> tuple[int, ...]:
    """Return the CPUs of a cpumask as the kernel prints it: a list (0,2-5) or hex words (0000000f).

    Hexadecimal words have eight digits when there are several; a single short word without a dash
    is hexadecimal, as ``%*pb`` prints it, unless it has a comma or dash, as ``%*pbl`` would.
    Raises ValueError when it is neither, or when a CPU's number does not fit the events' field.
    """
    words = mask.split(",")
    if "-" not in mask and all(len(word) == 8 for word in words[1:]):
        bits = int("".join(words), 16)
        return tuple(n for n in range(bits.bit_length()) if bits >> n & 1)
    cpus: list[int] = []
    for word in words:
        first, _, last = word.partition("-")
        numbered = first.isdecimal() and (last or first).isdecimal()
        low, high = (int(first), int(last or first)) if numbered else (1, 0)
        if not low <= high <= _LARGEST["cpu"]:
            raise ValueError(f"no CPUs are numbered {word!r}")
        cpus.extend(range(low, high + 1))
    return tuple(cpus)


def _read_event(reading: _Reading, number: int, found: re.Match[str]) -> None:
    time_ns = int(found["seconds"]) * 1_000_000_000 + int(found["fraction"]) * 1000
    at = (number, time_ns, int(found["cpu"]), int(found["pid"]))
    known = EVENTS.get(found["event"])
    if known is None:
        reading.add(at, EventKind.OTHER, {})
        return
    fields = known.fields.fullmatch(found["fields"].rstrip())
    if fields is None:
        raise ValueError(f"the fields are not those of {found['event']}")
    values = known.values(fields)
    if known.kind is not EventKind.IPI:
        reading.add(at, known.kind, values)
    elif _FUNCTION_CALL not in fields["callback"]:
        reading.add(at, EventKind.OTHER, {})
    else:
        mask = fields.groupdict().get("mask")
        for target in cpu_list(mask) if mask is not None else (values["count"],):
            reading.add(at, EventKind.IPI, {"count": target})
    reading.recognised += 1


def _read_line(reading: _Reading, number: int, text: str) -> None:
    """Add the line's events. Raises ValueError with the reason when it cannot be read."""
    found = _LINE.fullmatch(text)
    if found is not None:
        _read_event(reading, number, found)
        return
    if text.startswith("#"):
        cpus = _HEADER_CPUS.search(text)
        if cpus is not None:
            reading.header_cpus = int(cpus[1])
        return
    lost = _LOST.fullmatch(text)
    if lost is not None:
        last = reading.rows[-1][1] if reading.rows else 0
        at = (number, last, int(lost["cpu"]), 0)
        reading.add(at, EventKind.LOST, {"count": int(lost["count"])})
    elif text:
        raise ValueError("this is no line of ftrace")


def _read_lines(reading: _Reading, lines: Iterable[str], ended: bool) -> None:
    """Read all lines; `ended`: they have their newlines, so that a last one without was cut."""
    for number, (line, after) in enumerate(pairwise(chain(lines, (None,))), 1):
        assert line is not None  # None follows the last line
        try:
            if line.endswith("\n"):
                ended = True
            elif ended and after is None:
                raise ValueError("the trace ends within this line: it has no newline")
            _read_line(reading, number, line.strip())
        except ValueError as error:
            reading.damaged.append(Damaged(number, line.rstrip("\n"), str(error)))


_OPENERS: dict[str, Callable[..., IO[str]]] = {".gz": gzip.open, ".xz": lzma.open}


@contextmanager
def _lines(source: str | os.PathLike[str] | Iterable[str]) -> Iterator[Iterable[str]]:
    if not isinstance(source, str | os.PathLike):
        yield source
        return
    path = Path(source)
    opener = _OPENERS.get(path.suffix, open)
    try:
        with opener(path, "rt", encoding="utf-8", errors="replace") as lines:
            yield lines
    except (EOFError, lzma.LZMAError, gzip.BadGzipFile, zlib.error) as error:
        raise TraceError(f"{path}: the compressed file is truncated or damaged ({error})") from None


def read_ftrace(source: str | os.PathLike[str] | Iterable[str]) -> FtraceLog:
    """Read a trace from a file (plain, .gz or .xz) or from lines, with their newlines or without.

    A last line without a newline, in a file or after lines that have theirs, is damaged: a number
    at its end may lack digits. Raises TraceError when no line holds an event that is understood,
    or when a compressed file is cut short; OSError when the file cannot be opened. Cost: O(lines),
    about 6 us a line.
    """
    reading = _Reading()
    from_file = isinstance(source, str | os.PathLike)
    with _lines(source) as lines:
        _read_lines(reading, lines, ended=from_file)
    name = Path(source).name if isinstance(source, str | os.PathLike) else ""
    if not reading.recognised:
        raise TraceError(
            f"{name or 'the trace'} holds none of the events {', '.join(EVENTS)}; expected ftrace "
            f"text ('cat trace'), {len(reading.damaged)} lines could not be read"
        )
    events = np.array(reading.rows, dtype=EVENT_DTYPE)
    times = events["time_ns"][events["kind"] != EventKind.LOST]  # a LOST line has no time
    highest = np.maximum.accumulate(times)
    cpus = reading.header_cpus or int(events["cpu"].max(initial=0)) + 1
    return FtraceLog(
        events, tuple(reading.damaged), cpus, int((times[1:] < highest[:-1]).sum()), name
    )


@dataclass(frozen=True)
class Areas:
    """Allocations joined with their frees.

    `areas` is an array of AREA_DTYPE, in order of allocation; `unmatched_frees` are indexes of
    frees without an allocation (areas from before the trace).
    """

    areas: NDArray[Any]
    unmatched_frees: NDArray[np.int64]


def join_areas(log: FtraceLog) -> Areas:
    """Join frees to allocations by address: a free line has no size.

    Lines of different CPUs may stand out of order by a few; a free that stands above its allocation
    is unmatched, and the allocation then counts as never freed.
    """
    events = log.events
    live: dict[int, int] = {}
    rows: list[list[int]] = []
    unmatched: list[int] = []
    for index in np.flatnonzero(
        np.isin(events["kind"], (EventKind.ALLOC, EventKind.FREE))
    ).tolist():
        va = int(events["va"][index])
        if events["kind"][index] == EventKind.ALLOC:
            if va:
                live[va] = len(rows)
                rows.append([index, -1, va, int(events["pages"][index]), int(events["cpu"][index])])
        elif va in live:
            rows[live.pop(va)][1] = index
        else:
            unmatched.append(index)
    areas = np.array([tuple(row) for row in rows], dtype=AREA_DTYPE)
    return Areas(areas, np.array(unmatched, dtype=np.int64))


@contextmanager
def sample_path(name: str = SAMPLE) -> Iterator[Path]:
    """Yield the path of a bundled trace; TraceError names those there are."""
    folder = files("ptcore.workloads.samples")
    entry = folder / f"{name}.ftrace.txt.xz"
    if not entry.is_file():
        known = [e.name.removesuffix(".ftrace.txt.xz") for e in folder.iterdir()]
        names = ", ".join(sorted(n for n in known if not n.startswith("_")))
        raise TraceError(f"no bundled trace is called {name!r}; there is {names}")
    with as_file(entry) as path:
        yield path


def read_sample(name: str = SAMPLE) -> FtraceLog:
    """Read a bundled trace."""
    with sample_path(name) as path:
        return read_ftrace(path)
