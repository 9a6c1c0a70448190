"""The side of ptcore: `python -m ptcore.interop.gdb.process`, started by `commands.py` in gdb.

Lines of JSON. A request says a verb, its arguments, the registers and the map of memory; the answer is
{"text"} or {"error"}. Before that the process may ask {"read": [[address, bytes], ...]}, one list per level
of the tables, and is told {"bytes": [hexadecimal or null, ...]}.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from typing import Any, TextIO

from ptcore.errors import ImageError, PtcoreError
from ptcore.formats import debuggers
from ptcore.formats.encode import rights_names
from ptcore.live.links import PAGE_BYTES, LivePages
from ptcore.live.memory_map import memory_spans
from ptcore.memory import PhysicalMemory
from ptcore.table import AddressSpace, Nested, Walk
from ptcore.table.rows import RowKind
from ptcore.units import ALL_ONES, Span, format_size

Request = dict[str, Any]


class GdbMemory:
    """Memory that gdb reads for us."""

    gap_pages = 0

    def __init__(self, requests: TextIO, answers: TextIO) -> None:
        self._requests = requests
        self._answers = answers

    def read(self, runs: Sequence[Span]) -> list[bytes | None]:
        """Return the bytes of each run, None for one that cannot be read."""
        say(self._answers, {"read": [[run.start, run.size] for run in runs]})
        told = json.loads(self._requests.readline())["bytes"]
        return [None if text is None else bytes.fromhex(text) for text in told]


def say(answers: TextIO, answer: dict[str, Any]) -> None:
    """Write a line."""
    answers.write(json.dumps(answer) + "\n")
    answers.flush()


def space_of(request: Request, memory: GdbMemory) -> AddressSpace:
    """Return the address space of the CPU that a request is about."""
    known = debuggers.of_description(request["architecture"])
    if known is None:
        raise ImageError(f"gdb's architecture {request['architecture']!r} is not known")
    registers = {name.lower(): value for name, value in request["registers"].items()}
    settled = known.settle(registers)
    if not settled:
        raise ImageError(f"gdb shows no registers of the MMU of {known.name}")
    spans = memory_spans(request["memory_map"].replace("\r", ""), PAGE_BYTES)
    return AddressSpace.from_registers(
        known.name, PhysicalMemory.from_reader(LivePages(memory, spans)), **settled
    )


def walk_lines(space: AddressSpace, arguments: list[int]) -> Iterator[str]:
    """Yield the path of each address, entry by entry, and where it ends."""
    for va in arguments:
        walk = space.walk(va)
        if not isinstance(walk, Walk):
            yield repr(walk)
            continue
        for step in walk.path:
            yield (
                f"{step.name:<6} [{step.index:>4}]  {step.entry_address:#014x}: "
                f"{step.entry:#018x}  {step.kind}"
            )
        if walk.pa is None:
            yield f"{va:#x}: {walk.fault}"
        else:
            size = format_size(walk.page_size or 0)
            yield f"{va:#x} -> {walk.pa:#x}, a page of {size}, {walk.rights}"


def map_lines(space: AddressSpace, arguments: list[int]) -> Iterator[str]:
    """Yield the rows of a listing."""
    first, last = [*arguments, *(0, ALL_ONES)[len(arguments) :]]
    every = 0
    for table in space:
        every |= (table.stage1 if isinstance(table, Nested) else table).format.rights
    for row in space.mappings(first, last):
        kind = RowKind(int(row["kind"]))
        where = f"{int(row['first']):016x}-{int(row['last']):016x}"
        if kind == RowKind.LEAF:
            rights = rights_names(int(row["rights"]), every)
            size = format_size(int(row["page_size"]))
            yield f"{where} {int(row['pa']):#014x} {size:>4} {rights}"
        elif kind == RowKind.REPEAT:
            yield f"{where} as from {int(row['repeat_of']):#x} on"
        else:
            yield f"{where} {kind.name.lower()}"


def translate_lines(space: AddressSpace, arguments: list[int]) -> Iterator[str]:
    """Yield an address, and its physical one or what its walk fails with, per line. Rights are not asked."""
    for va in arguments:
        walk = space.walk(va)
        yield f"{va:#x} {type(walk.fault).__name__ if walk.pa is None else f'{walk.pa:#x}'}"


VERBS = {"walk": (walk_lines, 1, ALL_ONES), "maps": (map_lines, 0, 2)} | {
    "translate": (translate_lines, 1, ALL_ONES)
}


def answer_to(request: Request, memory: GdbMemory) -> dict[str, Any]:
    """Return the answer to a request; what ptcore refuses is an answer as well."""
    lines, least, most = VERBS[request["verb"]]
    arguments = request["arguments"]
    if not least <= len(arguments) <= most:
        few = len(arguments) < least
        return {"error": f"ptcore {request['verb']}: too {'few' if few else 'many'} addresses"}
    try:
        space = space_of(request, memory)
        return {"text": "".join(f"{line}\n" for line in lines(space, arguments))}
    except PtcoreError as error:
        return {"error": f"ptcore {request['verb']}: {error}"}


def serve(requests: TextIO, answers: TextIO) -> None:
    """Answer requests until there are no more."""
    memory = GdbMemory(requests, answers)
    for line in iter(requests.readline, ""):
        say(answers, answer_to(json.loads(line), memory))


if __name__ == "__main__":
    serve(sys.stdin, sys.stdout)
