"""Every recorded trace is a workload: DMA mappings, flushes of processes, accesses in any form."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from ptcore import strategies
from ptcore.errors import OutOfRange, TraceError
from ptcore.machine import Event, Machine
from ptcore.machine.exposure import windows
from ptcore.study import compare
from ptcore.workloads import read_ftrace
from ptcore.workloads.accesses import Accesses, write_accesses
from ptcore.workloads.recorded import access_workload, workload_of
from ptcore.workloads.replay import replay
from ptcore.workloads.steps import StepKind, Touch

HEAD = "# entries-in-buffer/entries-written: 9/9   #P:2"


def line(time_us: int, cpu: int, text: str) -> str:
    return f"  task-1 [00{cpu}] d..1.   1.{time_us:06d}: {text}"


def test_dma_mappings_are_a_devices_requests() -> None:
    # Linux include/trace/events/dma.h, TP_printk of dma_map, dma_unmap, dma_alloc and dma_free.
    mapped = "0000:00:04.0 dir=FROM_DEVICE dma_addr={:x} size={} phys_addr=12345000 attrs="
    ended = "0000:00:04.0 dir=FROM_DEVICE dma_addr={:x} size={} attrs="
    workload = workload_of(
        read_ftrace(
            [
                HEAD,
                line(1, 0, "dma_map_page: " + mapped.format(0xFFFF0000, 4096)),
                line(2, 1, "dma_map_phys: " + mapped.format(0xFFFE0800, 4096)),
                line(3, 0, "dma_unmap_page: " + ended.format(0xFFFF0000, 4096)),
                line(4, 0, "dma_unmap_phys: " + ended.format(0xAAAA0000, 4096)),
                line(
                    5,
                    0,
                    "dma_alloc: 0000:00:04.0 dma_addr=fff00000 size=16384 "
                    "virt_addr=00000000a1b2c3d4 flags=GFP_KERNEL attrs=",
                ),
            ]
        )
    )
    steps = workload.steps
    assert steps["kind"].tolist() == [1, 1, 2, 1]
    assert steps["pages"].tolist() == [1, 2, 1, 4], "half a page and half a page are two"
    assert steps["area"].tolist() == [0, 1, 0, 2]
    assert steps["time_ns"].tolist() == [0, 1000, 2000, 4000]
    assert steps["device"].all()
    assert (workload.unmatched_frees, workload.never_freed, workload.damaged_lines) == (1, 2, 0)


def test_damaged_dma_lines_are_kept() -> None:
    log = read_ftrace(
        [
            HEAD,
            line(1, 0, "dma_map_page: dev dir=NONE dma_addr=1000 size=4096 phys_addr=0 attrs="),
            line(2, 0, "dma_map_page: dev dir=NONE dma_addr=1000 size=0 phys_addr=0 attrs="),
            line(3, 0, "dma_map_page: dev dma_addr=xyz size=1"),
        ]
    )
    assert [damaged.line for damaged in log.damaged] == [3, 4]


def test_flushes_of_processes_cost_every_strategy_the_same_and_close_no_window() -> None:
    log = read_ftrace(
        [
            HEAD,
            line(1, 0, "tlb_flush: pages:1 reason:local mm shootdown (3)"),
            line(2, 0, "tlb_flush: pages:-1 reason:remote IPI send (4)"),
            line(3, 1, "tlb_flush: pages:-1 reason:remote shootdown (1)"),
        ]
    )
    workload = workload_of(log)
    assert workload.steps["kind"].tolist() == [StepKind.FLUSH] * 2, "one that asks is no flush"
    rows = compare(workload, ["direct_map", "vmalloc_lazy"]).rows
    for row in rows:
        assert row.local_invalidations == 2
        assert row.cpus_interrupted == 1
    assert rows[0].price.cycles == rows[1].price.cycles > 0
    machine = Machine(2, ram="1G")
    strategy = strategies.get("vmalloc_lazy").make(machine)
    replay(workload, strategy, machine, Touch(0))
    assert len(windows(machine.ledger, 2)) == 0


def test_a_trace_that_says_nothing_is_refused() -> None:
    with pytest.raises(TraceError, match="no vmalloc allocation, no IOMMU or DMA mapping"):
        workload_of(
            read_ftrace([HEAD, line(1, 0, "ipi_send_cpu: cpu=1 callback=call_function+0x0/0x1")])
        )


def written(folder: Path, vas, kinds, name: str = "t.npz") -> Path:
    count = len(vas)
    chunk = Accesses(
        np.array(vas, np.uint64),
        np.array(kinds, np.uint8),
        np.full(count, 8, np.uint32),
        np.zeros(count, np.uint16),
    )
    write_accesses(iter([chunk]), folder / name)
    return folder / name


def test_pages_come_when_they_are_first_touched_and_uses_in_a_row_are_one(tmp_path: Path) -> None:
    vas = [0x5000, 0x5008, 0x7000, 0x5010, 0x5018, 0x9000]
    workload = access_workload(written(tmp_path, vas, [0, 0, 1, 1, 0, 2]))
    steps = workload.steps
    seen = list(zip(steps["kind"].tolist(), steps["area"].tolist(), strict=True))
    assert seen == [
        (1, 0), (3, 0), (1, 1), (3, 1), (3, 0), (3, 0), (1, 2), (3, 2), (2, 0), (2, 1), (2, 2),
    ]  # fmt: skip
    uses = steps[steps["kind"] == StepKind.ACCESS]
    assert "".join("rwx"[mode] for mode in uses["mode"]) == "rwwrr"
    assert (np.diff(steps["time_ns"]) >= 0).all()
    cut = access_workload(tmp_path / "t.npz", most=2)
    assert (cut.steps["kind"] == StepKind.ACCESS).sum() == 2
    assert "first 2 uses" in cut.name
    with pytest.raises(OutOfRange, match="at least one use"):
        access_workload(tmp_path / "t.npz", most=0)


def test_misses_of_a_window_follow_the_trace(tmp_path: Path) -> None:
    """Two pages in turn: an ephemeral map pays for each turn, areas of their own only for the first."""
    vas = [0x1000 + 0x1000 * (n % 2) for n in range(200)]
    workload = access_workload(written(tmp_path, vas, [0] * 200))
    rows = {r.strategy: r for r in compare(workload, ["vmalloc_eager", "ephemeral_map"]).rows}
    assert rows["vmalloc_eager"].mappings_made == 2
    assert rows["vmalloc_eager"].tlb_misses == 2
    assert rows["ephemeral_map"].mappings_made == 200
    assert rows["ephemeral_map"].tlb_misses == 200
    assert all(row.accesses == 200 for row in rows.values())


@pytest.mark.skipif(shutil.which("valgrind") is None, reason="valgrind is not installed")
def test_a_program_that_was_just_recorded_is_a_workload(tmp_path: Path) -> None:
    log = tmp_path / "lackey.log"
    tool = ["valgrind", "--tool=lackey", "--trace-mem=yes", "--basic-counts=no"]
    subprocess.run([*tool, f"--log-file={log}", "true"], check=True, timeout=120)
    workload = access_workload(log, most=3000)
    assert (workload.steps["kind"] == StepKind.ACCESS).sum() == 3000
    machine = Machine(1, ram="1G")
    free = machine.free_frame_bytes
    replay(workload, strategies.get("vmalloc_lazy").make(machine), machine, None)
    totals = machine.ledger.totals()
    assert totals[Event.ACCESSED][1] == 3000
    assert 10 < totals[Event.ACQUIRED][0] == totals[Event.RELEASED][0] < 1000
    assert machine.free_frame_bytes == free
