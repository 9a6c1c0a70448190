"""`ptcore translate`: millions of addresses through a pipe, in batches."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

import click
import numpy as np
import numpy.typing as npt

from ptcore.cli.address_lines import lines, parse
from ptcore.cli.ends import FOUND, says_errors
from ptcore.cli.group import ptcore
from ptcore.cli.image_commands import ACCESS, USER
from ptcore.cli.image_options import IMAGE, Space, choose, image_options
from ptcore.cli.listings import arrow, check_output
from ptcore.cli.progress import progress_bar
from ptcore.errors import AddressError, Status
from ptcore.table.listing import Columns

Addresses = npt.NDArray[np.uint64]
Writer = Callable[[Addresses, Addresses, npt.NDArray[np.uint8]], None]
PIECE_BYTES = 1 << 20
ITEM = 8
TRANSLATED_DTYPE = np.dtype([("va", "<u8"), ("pa", "<u8"), ("status", "u1")])
"""What binary output is made of: 17 bytes each; `pa` all-ones unless `status` (ptcore.Status) is 0."""

NAMES = [status.name.encode() for status in sorted(Status)]
# before, between, none, quote, then, after: see address_lines.lines.
MARKS = {
    "csv": (b"", b",", b"", b"", b",", b"\n"),
    "jsonl": (b'{"va": "', b'", "pa": ', b"null", b'"', b', "status": "', b'"}\n'),
}
_DENIALS = (Status.PERMISSION, Status.PROTECTION_KEY)
FORMS = {".csv": "csv", ".jsonl": "jsonl", ".bin": "binary"}


@ptcore.command("translate")
@IMAGE
@image_options
@click.option(
    "--input", "input_", type=click.Path(exists=True, dir_okay=False), help="Not standard input."
)
@click.option(
    "--from", "from_", type=click.Choice(["text", "binary"]), default="text", show_default=True,
    help="Lines that begin with an address, or 8-byte little-endian numbers.",
)  # fmt: skip
@click.option(
    "--to", type=click.Choice(["csv", "jsonl", "binary"]), default="csv", show_default=True,
    help="Lines va,pa,status; JSON lines; or records of 17 bytes: va, pa (little-endian), status.",
)  # fmt: skip
@ACCESS
@USER
@click.option(
    "--output",
    type=click.Path(dir_okay=False),
    help="Write to a file instead; its ending says how: .csv, .jsonl, .bin or .parquet.",
)
@says_errors
def translate_command(
    image: str,
    input_: str | None,
    from_: str,
    to: str,
    access: str,
    user: bool,
    output: str | None,
    **given: Any,
) -> None:
    """Translate the addresses on standard input, one a line, as they come.

    A line of output for each: address, physical address, status (OK, NOT_PRESENT, ...). Exit 1 if any faults.
    """
    if output is not None and Path(output).suffix not in FORMS:
        check_output(output)
    chosen = choose(image, given)
    space = chosen.only("translate")
    chosen.tell()
    began = time.perf_counter()
    count = faults = 0
    with ExitStack() as stack:
        source = stack.enter_context(open(input_, "rb")) if input_ else sys.stdin.buffer
        total = Path(input_).stat().st_size if input_ else 0
        write = stack.enter_context(_writer(output, to))
        move = stack.enter_context(progress_bar("translating"))
        for vas, done in _batches(source, from_ == "binary"):
            pas, statuses = _translated(space, vas, access, user)
            write(vas, pas, statuses)
            count += len(vas)
            faults += int(np.count_nonzero(statuses))
            move(f"{count:,} addresses", done, total or done)
    took = time.perf_counter() - began
    click.echo(
        f"ptcore: {count:,} addresses, {faults:,} faults, {count / took:,.0f} a second", err=True
    )
    if faults:
        sys.exit(FOUND)


def _translated(
    space: Space, vas: Addresses, access: str, user: bool
) -> tuple[Addresses, npt.NDArray[np.uint8]]:
    """Translate a batch for an access, or, without one, for whoever may use the pages at all."""
    if access:
        return space.translate_many(vas, access, user)
    pas, statuses = space.translate_many(vas)
    for other in (("r", True), ("x", False), ("x", True)):
        denied = np.flatnonzero(np.isin(statuses, _DENIALS))
        if not len(denied):
            break
        again, how = space.translate_many(vas[denied], *other)
        better = how == Status.OK
        pas[denied[better]], statuses[denied[better]] = again[better], Status.OK
    return pas, statuses


def _batches(source: IO[bytes], binary: bool) -> Iterator[tuple[Addresses, int]]:
    """Yield (addresses, bytes read so far)."""
    left, line, done = b"", 1, 0
    # What is there is taken: someone may be typing.
    while piece := source.read1(PIECE_BYTES):  # type: ignore[attr-defined]
        done += len(piece)
        piece = left + piece
        whole = len(piece) // ITEM * ITEM if binary else piece.rfind(b"\n") + 1
        whole_part, left = piece[:whole], piece[whole:]
        if whole_part:
            yield _addresses(whole_part, binary, line), done
            line += whole_part.count(b"\n") if not binary else 0
    if left and binary:
        raise AddressError(f"the input ends with {len(left)} bytes; an address has {ITEM}")
    if left:
        yield _addresses(left, binary, line), done


def _addresses(piece: bytes, binary: bool, line: int) -> Addresses:
    return np.frombuffer(piece, dtype="<u8") if binary else parse(piece, line)


@contextmanager
def _writer(output: str | None, to: str) -> Iterator[Writer]:
    """Yield what writes a batch: to standard output, or to a file that is there when all went well."""
    if output is None:
        with _stream(sys.stdout.buffer, to) as write:
            yield write
            sys.stdout.buffer.flush()
        return
    from ptcore.machine.ledger_files import whole_file  # imported when it is needed

    form = FORMS.get(Path(output).suffix)
    with whole_file(output) as part:
        if form is None:
            with _parquet(part) as write:
                yield write
        else:
            with _stream(part, form) as write:
                yield write


@contextmanager
def _stream(file: IO[bytes], form: str) -> Iterator[Writer]:
    if form == "csv":
        file.write(b"va,pa,status\n")

    def write(vas: Addresses, pas: Addresses, statuses: npt.NDArray[np.uint8]) -> None:
        if form == "binary":
            file.write(_rows(vas, pas, statuses).tobytes())
        else:
            file.write(lines(vas, pas, statuses, NAMES, MARKS[form]))
        file.flush()

    yield write


@contextmanager
def _parquet(out: IO[bytes]) -> Iterator[Writer]:
    empty = arrow().table(Columns(np.empty(0, dtype=TRANSLATED_DTYPE)))
    with arrow("pyarrow.parquet").ParquetWriter(out, empty.schema) as file:
        yield lambda vas, pas, statuses: file.write_table(
            arrow().table(Columns(_rows(vas, pas, statuses)))
        )


def _rows(vas: Addresses, pas: Addresses, statuses: npt.NDArray[np.uint8]) -> npt.NDArray[np.void]:
    rows = np.empty(len(vas), dtype=TRANSLATED_DTYPE)
    rows["va"], rows["pa"], rows["status"] = vas, pas, statuses
    return rows
