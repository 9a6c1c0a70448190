"""Scenarios: the same every time, whole, and of the kind that their words say."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from click.testing import CliRunner

from ptcore import strategies
from ptcore.cli.commands import ptcore
from ptcore.errors import OutOfRange, TraceError
from ptcore.machine import Event, Handle, Machine, Request
from ptcore.strategies.direct_map import DirectMap
from ptcore.workloads.replay import StepKind, Touch, replay
from ptcore.workloads.scenarios import SCENARIOS, scenario

# The first 16 digits of the SHA-256 of the steps of each: what a seed gave once, it gives always.
STEPS_OF_300_ON_6_CPUS_BY_SEED_11 = {
    "device_memory": "c962cc17f3354076",
    "hotplug": "c31001ddfba33662",
    "alignment_holes": "cee4c5b7c92fb014",
    "guest_memfd": "245431dd7a2774e0",
    "page_cache": "26643915d5516a8b",
    "secrets": "d8ecf999e9208569",
    "modules": "64be4a0085e8e438",
    "nic_10g": "faf3c3e5c205924a",
    "nic_100g": "eb6b961f3e54dc25",
    "nic_200g": "8ecf4fc2ed92c3b6",
    "gpu_migration": "8fc229e3538874bb",
    "process_churn": "9bd1c93d54087ad8",
    "zipf": "066373b699d5d510",
    "phases": "10de86ded6109998",
}


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_steps_are_those_that_they_always_were(name: str) -> None:
    found = hashlib.sha256(scenario(name, 300, 6, 11).steps.tobytes()).hexdigest()
    assert found.startswith(STEPS_OF_300_ON_6_CPUS_BY_SEED_11[name])


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_same_seed_gives_the_same_steps_and_everything_ends(name: str) -> None:
    first, again, other = (scenario(name, 200, 4, seed) for seed in (5, 5, 6))
    assert np.array_equal(first.steps, again.steps)
    assert not np.array_equal(first.steps, other.steps)
    steps = first.steps
    assert (np.diff(steps["time_ns"]) >= 0).all()
    assert set(steps["cpu"].tolist()) <= set(range(4))
    acquired = steps[steps["kind"] == StepKind.ACQUIRE]
    released = steps[steps["kind"] == StepKind.RELEASE]
    assert np.array_equal(np.sort(acquired["area"]), np.sort(released["area"]))
    assert len(np.unique(acquired["area"])) == len(acquired) >= 4
    begin = dict(zip(acquired["area"].tolist(), acquired["time_ns"].tolist(), strict=True))
    assert all(begin[row["area"]] <= row["time_ns"] for row in released)


@pytest.mark.parametrize("name", SCENARIOS)
@pytest.mark.parametrize("strategy", ["unmapped_pool", "iommu_deferred", "hybrid"])
def test_every_scenario_runs_and_leaves_nothing(name: str, strategy: str) -> None:
    machine = Machine(4, ram="16G")
    free = machine.free_frame_bytes
    made = strategies.get(strategy).make(machine)
    replay(scenario(name, 100, 4), made, machine, Touch(0))
    assert machine.free_frame_bytes == free
    totals = machine.ledger.totals()
    assert totals[Event.ACQUIRED][0] == totals[Event.RELEASED][0] >= 2


def test_a_ring_keeps_its_line_rate() -> None:
    steps = scenario("nic_100g", 1000).steps
    times = steps["time_ns"][steps["kind"] == StepKind.ACQUIRE]
    rate = 4096 * 8 * (len(times) - 1) / ((times[-1] - times[0]) * 1e-9)
    assert rate == pytest.approx(100e9, rel=0.01)
    assert steps["device"].all()


def test_a_rings_buffers_come_back_in_polls_and_are_read_by_its_own_cpu() -> None:
    steps = scenario("nic_10g", 4096, 4).steps
    gap = round(4096 * 8 / 10e9 * 1e9)
    released = steps[steps["kind"] == StepKind.RELEASE]
    polls = np.split(released, np.flatnonzero(np.diff(released["time_ns"]) > 2 * gap) + 1)
    sizes = [len(poll) for poll in polls]
    assert 64 in sizes or max(sizes) >= 64
    cpu = {row["area"]: row["cpu"] for row in steps if row["kind"] == StepKind.ACQUIRE}
    assert all(row["cpu"] == cpu[row["area"]] for row in steps)
    assert set(cpu.values()) == set(range(4))


def test_a_guests_device_memory_asks_for_its_memory_type() -> None:
    steps = scenario("guest_memfd", 640).steps
    given = steps[(steps["kind"] == StepKind.ACQUIRE) & (steps["memory"] == 1)]
    assert len(given) == 10
    assert given["device"].all()
    faults = steps[steps["kind"] == StepKind.ACCESS]
    assert len(faults) == 2 * 640, "each page is populated, and faulted in once"
    assert (scenario("device_memory", 20).steps["memory"] == 1).all()


def test_secrets_and_a_guests_own_memory_are_sensitive_and_strategies_are_told() -> None:
    asked: list[bool] = []

    class Spy(DirectMap):
        def acquire(self, request: Request) -> Handle:
            asked.append(request.sensitive)
            return super().acquire(request)

    for name, expected in (("secrets", 1.0), ("guest_memfd", 63 / 64), ("zipf", 0.0)):
        asked.clear()
        machine = Machine(8, ram="4G")
        replay(scenario(name, 128), Spy(machine), machine, Touch(0))
        assert np.mean(asked) == expected


def test_stacks_that_a_cpus_cache_has_do_not_come_to_the_allocator() -> None:
    steps = scenario("process_churn", 400, 2).steps
    used = steps[steps["kind"] == StepKind.ACCESS]
    acquired = steps[steps["kind"] == StepKind.ACQUIRE]
    assert len(used) == 400, "a thread each"
    assert 50 < len(acquired) < 400
    assert np.unique(used["area"], return_counts=True)[1].max() > 1, "one stack served several"
    assert (acquired["pages"] == 4).all()


@pytest.mark.parametrize("name", SCENARIOS)
def test_accesses_are_inside_live_memory(name: str) -> None:
    live: dict[int, int] = {}
    counted = 0
    for step in scenario(name, 200, 4).steps:
        area = int(step["area"])
        if step["kind"] == StepKind.ACQUIRE:
            live[area] = int(step["pages"])
        elif step["kind"] == StepKind.RELEASE:
            del live[area]
        else:
            counted += 1
            assert 0 <= step["first"] < step["first"] + step["pages"] <= live[area]
    assert counted > 0 or name == "zipf"


def test_the_size_is_a_dial() -> None:
    for name in SCENARIOS:
        small, large = (len(scenario(name, size, 2).steps) for size in (200, 800))
        assert 2 < large / small < 6, name


def test_a_workloads_own_accesses_are_made_unless_a_model_takes_their_place() -> None:
    counts = []
    for touch in (None, Touch(0), Touch(2)):
        machine = Machine(4, ram="4G")
        replay(
            scenario("secrets", 40, 4), strategies.get("direct_map").make(machine), machine, touch
        )
        counts.append(machine.ledger.totals()[Event.ACCESSED][1])
    workload = scenario("secrets", 40, 4).steps
    own = workload[workload["kind"] == StepKind.ACCESS]
    pages = workload[workload["kind"] == StepKind.ACQUIRE]["pages"].sum()
    assert counts == [own["pages"].sum(), 0, 2 * pages]


def test_what_is_no_scenario_is_refused() -> None:
    with pytest.raises(TraceError, match="hotplug"):
        scenario("hotplugs")
    with pytest.raises(OutOfRange):
        scenario("zipf", 0)
    with pytest.raises(OutOfRange, match="32,768"):
        scenario("zipf", 10, 32769)
    assert scenario("zipf", 3000, 32768).steps["cpu"].max() > 30000


def test_the_commands_list_and_compare_them() -> None:
    run = CliRunner()
    listed = run.invoke(ptcore, ["scenarios"])
    assert all(name in listed.output for name in SCENARIOS)
    names = "direct_map,naive_unmap,iommu_strict"
    result = run.invoke(ptcore, ["compare", "secrets", "--size", "20", "-s", names])
    assert result.exit_code == 0, result.output
    assert "secrets, size 20" in result.output
    missing = run.invoke(ptcore, ["compare", "no-such-thing"])
    assert missing.exit_code != 0
    assert "neither a file" in missing.output
