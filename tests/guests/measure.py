"""What reading a live QEMU costs, through its gdbstub and through QMP: `python tests/guests/measure.py`.

The machine is stopped and holds the tables of a snapshot (`frozen`). Best of five, milliseconds.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests")]

import numpy as np  # noqa: E402

from guests import snapshots  # noqa: E402
from guests.frozen import frozen  # noqa: E402
from ptcore.live import LiveMachine, qemu  # noqa: E402

NAME = "x86_64-4level"
LISTS = {
    "1 page": 1,
    "100 pages, next to each other": 1,
    "100 pages, every 8th": 8,
    "100 pages, every 1000th": 1000,
}


def best(work: Callable[[], object]) -> float:
    """Return the least of five times, in milliseconds."""
    times = []
    for _ in range(5):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return min(times) * 1e3


def list_cost(live: LiveMachine, step: int, count: int) -> float:
    """Return what one list of pages costs."""
    pas = np.arange(count, dtype=np.uint64) * np.uint64(4096 * step) + np.uint64(1 << 24)
    return best(lambda: live.pages.read_pages(pas))


def listing(live: LiveMachine, first: int) -> None:
    """List a CPU's mappings, nothing of which was read before."""
    live.refresh()
    assert len(live.space(0).mappings(first)) > 10


if __name__ == "__main__":
    guest = snapshots.load(NAME)
    with tempfile.TemporaryDirectory() as folder, frozen(guest, Path(folder)) as started:
        for way, place in (("gdb", {"gdb": started.gdb}), ("qmp", {"qmp": started.qmp})):
            with qemu(**place) as live:
                for name, step in LISTS.items():
                    cost = list_cost(live, step, 1 if name == "1 page" else 100)
                    print(f"{way}: {name}: {cost:.2f} ms")
                print(f"{way}: refresh and list {NAME}: {best(lambda: listing(live, 0)):.1f} ms")
                live.space(0).mappings()
                again = best(lambda: live.space(0).mappings())
                print(f"{way}: list it again: {again:.2f} ms")
