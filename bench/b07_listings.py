"""Listings as a user meets them: a whole command on a guest's memory; a region of one page throughout."""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from side_by_side import Result

import ptcore

FORMAT = "x86_64_4level"
RAM = "256M"
KERNEL = 0xFFFF_8880 << 32  # Linux's direct map: Documentation/arch/x86/x86_64/mm.rst
VMALLOC = 0xFFFF_C900 << 32  # the same table
USER_PAGES, KERNEL_PAGES, LIBRARIES = 16_384, 4_096, 40
ROUNDS = 9


def guest(path: Path) -> int:
    """Write a guest's memory: a process with 64 MiB resident, and its kernel; return its root table."""
    bytes_ = np.zeros(ptcore.units.parse_size(RAM), dtype=np.uint8)
    memory = ptcore.PhysicalMemory.from_buffer(bytes_, frames=(0, "16M"))
    table = ptcore.PageTable(FORMAT, memory)
    rng = np.random.default_rng(7)
    frames = (rng.permutation((240 << 20) // 4096)[: USER_PAGES + KERNEL_PAGES] * 4096) + (16 << 20)
    table.map(KERNEL, 0, RAM, "rw", page_size="2M")
    for n, frame in enumerate(frames[:USER_PAGES].tolist()):
        part, page = divmod(n, USER_PAGES // LIBRARIES)
        va = 0x7F00 << 32 | part << 25 | page << 12
        access = "rx" if page < 32 else "rw"
        table.map(va, frame, 4096, access, page_size="4K", user=True)
    for n, frame in enumerate(frames[USER_PAGES:].tolist()):
        table.map(VMALLOC + (n + n // 4) * 4096, frame, 4096, "rw", page_size="4K")
    bytes_.tofile(path)
    return table.root


def of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def seconds(work: Callable[[], object], rounds: int, clock: Callable[[], float]) -> list[float]:
    found = []
    for _ in range(rounds + 1):  # the first warms caches up
        start = clock()
        work()
        found.append(clock() - start)
    return found[1:]


def result(claim: str, times: list[float], note: str) -> Result:
    """A claim without a baseline, in its own unit."""
    spread = statistics.quantiles(times, n=4)
    middle = statistics.median(times)
    return Result(claim, middle, None, None, spread[2] - spread[0], len(times), note)


def maps_guest() -> Result:
    with tempfile.TemporaryDirectory() as folder:
        image = Path(folder) / "guest.raw"
        root = guest(image)
        command = [
            str(Path(sys.executable).with_name("ptcore")),
            "maps",
            str(image),
            "--form",
            "raw",
        ]
        command += ["--format", FORMAT, "--root", hex(root)]
        # What is installed has its bytecode: it is written by the first run, if it was not before.
        users = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
        said = subprocess.run(command, capture_output=True, text=True, check=True, env=users).stdout
        lines = said.count("\n")
        assert lines > USER_PAGES
        # Processor time: one thread that waits for nothing, and the machine may have others to serve.
        start = time.perf_counter()
        times = seconds(
            lambda: subprocess.run(command, capture_output=True, check=True, env=users),
            ROUNDS,
            of_children,
        )
        wall = (time.perf_counter() - start) / (ROUNDS + 1)
    note = (
        f"{lines:,} lines of a guest of {RAM}, start of Python and all; {wall:.2f} s by the clock"
    )
    return result("maps_guest", times, note)


def aliased_region() -> Result:
    """List 16 TiB of smallest pages that are one page: one table of each level, aliased throughout."""
    ram = ptcore.PhysicalMemory("64K")
    root, top, middle, last, page = (ram.frames.allocate() for _ in range(5))
    ram.write(last, np.full(512, page | 1, dtype=np.uint64))
    ram.write(middle, np.full(512, last | 7, dtype=np.uint64))
    ram.write(top, np.full(512, middle | 7, dtype=np.uint64))
    ram.write(root + 8 * 256, np.full(32, top | 7, dtype=np.uint64))
    table = ptcore.PageTable(FORMAT, ram, root=root)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    rows = table.mappings()
    assert int(rows["last"][-1]) - int(rows["first"][0]) + 1 == 16 << 40
    times = [1e3 * took for took in seconds(table.mappings, 100, time.perf_counter)]
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    note = f"{len(rows):,} rows for {(16 << 40) // 4096:,} leaves; peak memory grew by {grown} KiB"
    return result("aliased_region", times, note)


def results() -> Iterator[Result]:
    yield maps_guest()
    yield aliased_region()
