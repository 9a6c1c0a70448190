"""The model of I/O addresses against two recorded kernels, and against made-up ones of other kinds."""

from __future__ import annotations

import random

import pytest
from click.testing import CliRunner

from oracles.iova_kernel import NaiveIova
from ptcore.cli.commands import ptcore
from ptcore.errors import TraceError
from ptcore.study import compare
from ptcore.study.validate_iommu import Ticks, validate_iommu
from ptcore.workloads import read_ftrace, read_sample
from ptcore.workloads.ftrace import SAMPLES_IOMMU
from ptcore.workloads.iova_steps import UNKNOWN, join_iova
from ptcore.workloads.recorded import workload_of

PIECE = (
    "{task:>16}-{pid} [{cpu:03}] ..... {at:12.6f}: "
    "{event}: IOMMU: iova=0x{first:016x} - 0x{end:016x} {rest}"
)


def line(event: str, at_us: int, cpu: int, first: int, pages: int, pid: int = 7) -> str:
    size = pages << 12
    rest = f"paddr=0x0000000000100000 size={size}"
    if event == "unmap":
        rest = f"size={size} unmapped_size={size}"
    return PIECE.format(
        task="task", pid=pid, cpu=cpu, at=at_us / 1e6, event=event, first=first << 12,
        end=(first + pages) << 12, rest=rest,
    )  # fmt: skip


class Kernel:
    """A kernel that never was: the naive allocator, rings in plain lists, a timer at ticks."""

    def __init__(self, cpus: int, rate: int | None, seed: int) -> None:
        self.space = NaiveIova(cpus, 1, (1 << 20) - 1, 127)
        self.rate, self.random = rate, random.Random(seed)
        self.rings: list[list[tuple[int, int]]] = [[] for _ in range(cpus)]
        self.flushes, self.timer = 0, None
        self.live: list[tuple[int, int]] = []
        self.at_us, self.lines = 1_000_000, []

    def run(self, steps: int) -> list[str]:
        cpus = len(self.rings)
        while len(self.lines) < steps:
            self.at_us += self.random.randint(5, 120)
            if self.timer is not None and self.at_us >= self.timer[0]:
                self.expire()
            cpu = self.random.randrange(cpus)
            if self.live and self.random.random() < len(self.live) / 40:
                self.free(cpu, *self.live.pop(self.random.randrange(len(self.live))))
            else:
                pages = self.random.choice([1, 1, 1, 1, 4, 16, 24, 32, 40])
                first = self.space.allocate(cpu, pages, (1 << 20) - 1)
                assert first is not None
                self.live.append((first, pages))
                self.lines.append(line("map", self.at_us, cpu, first, pages))
        return self.lines

    def free(self, cpu: int, first: int, pages: int) -> None:
        self.lines.append(line("unmap", self.at_us, cpu, first, pages))
        if self.rate is None:
            self.space.free(cpu, first)
            return
        ring = self.rings[cpu]
        self.release(ring, cpu)
        if len(ring) == 255:
            self.flushes += 1
            self.release(ring, cpu)
        ring.append((self.flushes, first))
        if self.timer is None:
            tick = 1_000_000 // self.rate
            waited = -(-10 * self.rate // 1000) + 1
            self.timer = ((self.at_us - 777) // tick + waited) * tick + 777, cpu

    def release(self, ring: list[tuple[int, int]], cpu: int) -> None:
        while ring and ring[0][0] < self.flushes:
            self.space.free(cpu, ring.pop(0)[1])

    def expire(self) -> None:
        cpu, self.timer = self.timer[1], None
        self.flushes += 1
        for ring in self.rings:
            self.release(ring, cpu)


@pytest.mark.parametrize(("name", "least"), [(SAMPLES_IOMMU[0], 0.99), (SAMPLES_IOMMU[1], 0.9)])
def test_the_recorded_kernels_addresses_are_predicted(name: str, least: float) -> None:
    found = validate_iommu(read_sample(name))
    assert name.endswith(found.mode)
    assert found.allocations > 1700
    for part in (found.one_step_ahead.all, found.one_step_ahead.later, found.one_step_ahead.warm):
        assert part.share > least
        assert part.of > 800
    assert found.damaged_lines == found.overlapping == found.unmatched_frees == 0
    missed = found.one_step_ahead.all.of - found.one_step_ahead.all.exact
    assert sum(found.one_step_ahead.misses.values()) == missed


@pytest.mark.parametrize(("cpus", "rate"), [(1, None), (4, None), (4, 1000), (3, 100)])
def test_kernels_of_other_kinds_are_predicted_too(cpus: int, rate: int | None) -> None:
    found = validate_iommu(read_ftrace(Kernel(cpus, rate, seed=cpus).run(3000)))
    assert found.mode == ("strict" if rate is None else "deferred")
    if rate is None:
        assert found.one_step_ahead.all.share > 0.99
        assert found.open_loop.all.share > 0.99
    else:
        assert found.ticks is not None
        assert found.ticks.rate == rate
        assert found.one_step_ahead.later.share > 0.9


def test_a_wrong_model_would_show() -> None:
    """Addresses at random are not predicted: the figures are no matter of course."""
    chance = random.Random(1)
    lines = []
    for n in range(300):
        first = chance.randrange(1 << 19)
        lines += [line("map", 10 * n, 0, first, 1), line("unmap", 10 * n + 5, 0, first, 1)]
    found = validate_iommu(read_ftrace(lines))
    assert found.one_step_ahead.all.share < 0.05
    assert set(found.one_step_ahead.misses) <= {
        "free before the trace began", "the first of its size", "in another order"
    }  # fmt: skip


def test_pieces_of_a_range_are_one_allocation() -> None:
    lines = [
        line("map", 1, 0, 0x100, 3),
        line("map", 2, 0, 0x103, 1),
        line("map", 3, 1, 0x900, 2),
        line("unmap", 4, 1, 0x100, 4),
        line("unmap", 5, 0, 0x700, 1),
        line("map", 6, 0, 0x500, 1, pid=9),
        line("map", 7, 0, 0x501, 1, pid=9),
    ]
    joined = join_iova(read_ftrace(lines))
    rows = [(s.time_ns // 1000, s.cpu, s.number, s.page, s.pages, s.freed) for s in joined.steps]
    assert rows == [
        (1, 0, 0, 0x100, 4, False),
        (3, 1, 1, 0x900, 2, False),
        (4, 1, 0, 0x100, 4, True),
        (5, 0, UNKNOWN, 0x700, 1, True),
        (6, 0, 2, 0x500, 2, False),
    ]
    assert (joined.allocations, joined.never_freed, joined.unmatched_frees) == (3, 2, 1)


def test_an_address_mapped_twice_is_counted_and_the_rest_goes_on() -> None:
    lines = [
        line("map", 1, 0, 0x100, 1),
        line("map", 2, 0, 0x100, 1),
        line("unmap", 3, 0, 0x100, 1),
    ]
    found = validate_iommu(read_ftrace(lines))
    assert found.overlapping == 1


def test_a_timer_is_never_early_and_at_a_tick() -> None:
    ticks = Ticks(250, 3_000_000)
    for now in range(0, 40_000_000, 777_777):
        due = ticks.due(now)
        assert due - now > 10_000_000
        assert (due - 3_000_000) % ticks.period_ns == 0


@pytest.mark.parametrize("name", SAMPLES_IOMMU)
def test_a_recorded_iommu_is_a_workload_too(name: str) -> None:
    workload = workload_of(read_sample(name))
    found = compare(workload, ["iommu_strict", "iommu_deferred"])
    strict, deferred = found.rows
    assert strict.device_invalidations == len(workload.steps) // 2 > 1700
    assert deferred.device_invalidations < strict.device_invalidations / 4
    assert strict.exposure.windows == 0
    assert 0 < deferred.exposure.longest_ns <= 10_000_000


def test_a_trace_without_mappings_is_refused() -> None:
    with pytest.raises(TraceError, match="no mapping"):
        validate_iommu(read_sample())


def test_the_command_prints_both_bundled_traces() -> None:
    result = CliRunner().invoke(ptcore, ["validate", "iommu"])
    assert result.exit_code == 0, result.output
    assert "strict" in result.output
    assert "deferred, 250 Hz" in result.output
