"""Read what perf script prints of page faults and of memory samples.

``COMMAND TID [CPU] TIME: PERIOD EVENT: ADDRESS IP``, where [CPU] and PERIOD may be missing, with the
fields that ``perf script -F comm,tid,cpu,time,event,addr,ip`` chooses; and with data_src in the fields,
``ADDRESS DATA_SRC |OP LOAD|...`` of perf mem. A page fault does not say what it was: it is a fetch where
its address is its ip, else it counts as a load. The tracepoint page_fault_user does say it (x86).
Other events, samples without an address and prefetches are no accesses; sizes are not known.
Source: Linux tools/perf/builtin-script.c, process_event(); run with perf 6.1.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from ptcore.workloads.accesses.chunks import Accesses, Damage
from ptcore.workloads.accesses.lines import LineReader
from ptcore.workloads.accesses.perf_lines import PerfLines

FTRACE_LINE = re.compile(
    rb"-\d+ +(?:\( *[-\d]+\) +)?\[\d+\] +(?:\S+ +)?\d+\.\d{6,9}: page_fault_(?:user|kernel): "
)
LINE = re.compile(
    rb"^\s*\S.*?\s-?\d+(?:/-?\d+)?\s+(?:\[\d+\]\s+)?\d+\.\d{1,9}:\s+(?:\d+\s+)?\S+:\s", re.MULTILINE
)
_FTRACE_FIELDS = "an event of ftrace: COMMAND-TID [CPU] FLAGS TIME: EVENT: ..."
_FIELDS = "a sample of perf script -F comm,tid,cpu,time,event,addr,ip"


def read(path: Path, damage: Damage) -> Iterator[Accesses]:
    """Yield the accesses of a file, plain or compressed, with times."""
    yield from LineReader(path, PerfLines(), damage, _FIELDS, timed=True)


def read_ftrace(path: Path, damage: Damage) -> Iterator[Accesses]:
    """Yield the page faults in the text of tracefs or of trace-cmd report, with times and CPUs.

    ``COMMAND-TID [CPU] FLAGS TIME: page_fault_user: address=... ip=... error_code=...``; flags may be
    missing, a (TGID) be there. Other events are no accesses. Source: Linux Documentation/trace/ftrace.rst,
    "Output format"; arch/x86/include/asm/trace/exceptions.h.
    """
    yield from LineReader(path, PerfLines(), damage, _FTRACE_FIELDS, timed=True)
