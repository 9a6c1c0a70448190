"""Threads that wait for locks, and packets that wait for a CPU, where the answer is known otherwise."""

from __future__ import annotations

import pytest

from ptcore.errors import OutOfRange
from ptcore.machine.cost import DEFAULT_CONSTANTS
from ptcore.study.contention import (
    WAIT_NS,
    WIRE_NS,
    VmallocThreads,
    line_rate,
    packet_costs,
    run_threads,
    vmalloc_gain,
)


def test_what_one_lock_holds_is_done_one_after_the_other() -> None:
    assert run_threads(4, lambda thread, number: [("lock", 10.0)], 25) == 4 * 25 * 10
    assert run_threads(4, lambda thread, number: [(None, 10.0)], 25) == 25 * 10
    assert run_threads(4, lambda thread, number: [(f"lock {thread}", 10.0)], 25) == 25 * 10
    # Half of the work is serial: with four threads the lock is never idle (Amdahl).
    half = run_threads(4, lambda thread, number: [("lock", 10.0), (None, 10.0)], 1000)
    assert half == pytest.approx(4 * 1000 * 10, rel=0.01)
    with pytest.raises(OutOfRange):
        run_threads(0, lambda thread, number: [], 1)


def test_nodes_gain_nothing_for_one_thread_and_more_with_more() -> None:
    gains = [vmalloc_gain(threads, 200) for threads in (1, 8, 32)]
    assert gains[0] == 1.0
    assert 1 < gains[1] < gains[2]


def test_after_a_first_drain_pools_serve_and_the_tree_is_left_alone() -> None:
    model = VmallocThreads(8, 8)
    for number in range(model.until_drained):
        parts = [model.operation(thread, number) for thread in range(8)]
    assert any(lock == "free" for part in parts for lock, _ in part)
    after = [model.operation(thread, 0) for thread in range(8) for _ in range(100)]
    assert not any(lock == "free" for part in after for lock, _ in part)


def test_a_cpu_serves_the_share_of_the_line_that_it_has_time_for() -> None:
    assert line_rate([10.0] * 1000, wire_ns=10.0) == 1.0
    assert line_rate([5.0] * 1000, wire_ns=10.0) == 1.0
    assert line_rate([20.0] * 20_000, wire_ns=10.0) == pytest.approx(0.5, rel=0.05)
    # What comes in bursts is taken by the ring, while it has room.
    bursts = ([0.0] * 9 + [95.0]) * 500
    assert line_rate(bursts, wire_ns=10.0) == 1.0
    assert line_rate(bursts, wire_ns=10.0, ring=2) < 0.9


def test_strict_waits_for_every_packet_and_deferred_for_one_in_255() -> None:
    strict, deferred = packet_costs("iommu_strict", 2040), packet_costs("iommu_deferred", 2040)
    assert min(strict) > WIRE_NS + WAIT_NS
    waits = sum(cost > WIRE_NS + WAIT_NS for cost in deferred)
    assert abs(waits - 2040 // 255) <= 1
    assert len(strict) == len(deferred) == 2040
    assert DEFAULT_CONSTANTS["device_invalidate"].value == WAIT_NS
    assert packet_costs("iommu_passthrough", 100)[0] == WIRE_NS
