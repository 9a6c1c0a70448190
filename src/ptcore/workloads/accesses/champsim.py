"""Read and write ChampSim's records: one instruction each, with the addresses that it touches.

Little-endian, back to back, no header. 64 bytes: u64 ip, u8 is_branch, u8 branch_taken, u8[2] and
u8[4] registers, u64[2] stores at 16, u64[4] loads at 32. 96 bytes (Cloudsuite, ChampSim's option
-c): u64 ip, the flags, u8[4] and u8[4] registers, u64[4] stores at 24, u64[4] loads at 56, u8[2]
asid. An address of 0 is an unused slot. No size, no CPU, no time. Nothing in a record is redundant
but that its flags are 0 or 1; a record in which they are not is damaged, and so is half a record.
Source: ChampSim inc/trace_instruction.h, struct input_instr and cloudsuite_instr.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ptcore.errors import TraceError
from ptcore.workloads.accesses.champsim_records import Packer, unpack
from ptcore.workloads.accesses.chunks import CHUNK, Accesses, Damage, empty_chunk
from ptcore.workloads.accesses.source import HEAD_BYTES, Source

SHORT_BYTES = 64
LONG_BYTES = 96
_LONG_PADDING = [*range(18, 24), *range(90, 96)]
_SLOTS = 9  # what one record holds at most
_BLOCK_RECORDS = CHUNK // 8


def read(path: Path, damage: Damage, record_bytes: int = SHORT_BYTES) -> Iterator[Accesses]:
    """Yield the accesses of a file, plain or compressed: per record its fetch, loads, stores."""
    block = np.empty(_BLOCK_RECORDS * record_bytes, np.uint8)
    rows = empty_chunk(_BLOCK_RECORDS * _SLOTS, timed=False)  # nine times what is mostly used
    with Source(path, damage) as source:
        while True:
            offset = source.offset
            got = source.fill(block)
            whole = got - got % record_bytes
            made = at = 0
            while at < whole:
                records, made = unpack(block[at:whole], record_bytes, rows, made)
                at += records * record_bytes
                if at < whole:
                    damage.found(
                        "the branch flags of this record are not 0 or 1", offset=offset + at
                    )
                    at += record_bytes
            if made:
                none = np.zeros(made, np.uint32)
                yield Accesses(
                    rows.va[:made].copy(), rows.kind[:made].copy(), none, none.astype(np.uint16)
                )
            if got > whole and not source.broken:
                reason = f"the trace ends within this record, after {got - whole} bytes"
                damage.found(reason, offset=offset + whole)
            if got < len(block):
                break


def record_bytes_of(head: bytes) -> int | None:
    """Return the size of the records that a file begins with, or None when these are no records.

    Records taken for the other size mostly show addresses where the flags or the padding are. Where
    both fit, a short file is whole in one size; else the nearer one ip is to the next, the better.
    """
    fitting: dict[int, float] = {}
    for size in (SHORT_BYTES, LONG_BYTES):
        count = len(head) // size
        records = np.frombuffer(head, np.uint8, count * size).reshape(count, size)
        padding = records[:, _LONG_PADDING] if size == LONG_BYTES else records[:, :0]
        if count and (records[:, 8:10] <= 1).all() and records[:, :8].any() and not padding.any():
            ips = np.ascontiguousarray(records[:, :8]).view("<u8")[:, 0].astype(np.float64)
            fitting[size] = float(np.log2(1 + np.abs(np.diff(ips))).mean()) if count > 1 else 0.0
    whole = [size for size in fitting if len(head) % size == 0]
    if len(head) < HEAD_BYTES and len(whole) == 1:
        return whole[0]
    return min(fitting, key=lambda size: fitting[size], default=None)


def write(chunks: Iterable[Accesses], file: Any) -> None:
    """Write records of 64 bytes that read back as the same accesses, in order.

    A fetch begins a record; so does an access without room in the last one, with ip 0. Registers
    and branches are not known. Sizes, CPUs and times are not written, ChampSim has none. Raises
    TraceError for an access to address 0, which says "unused" here.
    """
    packer = Packer()
    records = np.empty(CHUNK * SHORT_BYTES, np.uint8)
    for chunk in chunks:
        if not chunk.va.all():
            raise TraceError("an access to address 0 cannot be written as a record of ChampSim")
        for first in range(0, len(chunk), CHUNK):
            part = chunk[first : first + CHUNK]
            file.write(records[: packer.pack(part.va, part.kind, records)])
    file.write(packer.last())
