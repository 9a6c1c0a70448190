"""Scenarios: the same every time, whole, and of the kind that their words say."""

from __future__ import annotations

import numpy as np
import pytest
from click.testing import CliRunner

from ptcore import strategies
from ptcore.cli.commands import ptcore
from ptcore.errors import OutOfRange, TraceError
from ptcore.machine import Event, Machine
from ptcore.workloads.replay import StepKind, Touch, replay
from ptcore.workloads.scenarios import SCENARIOS, scenario


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


def test_what_is_no_scenario_is_refused() -> None:
    with pytest.raises(TraceError, match="hotplug"):
        scenario("hotplugs")
    with pytest.raises(OutOfRange):
        scenario("zipf", 0)


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
