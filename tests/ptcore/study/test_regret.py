"""What the hybrid costs beside its parts alone, phase by phase."""

from __future__ import annotations

import pytest

from ptcore.errors import OutOfRange
from ptcore.machine import Ledger, Machine
from ptcore.machine.cost import price
from ptcore.strategies import get
from ptcore.study.regret import Phase, _rows_before, phases_of, regret
from ptcore.workloads.replay import replay
from ptcore.workloads.scenarios import scenario
from ptcore.workloads.steps import StepKind, Touch


@pytest.fixture(scope="module")
def workload():
    return scenario("phases", size=120, cpus=2)


def test_phases_hold_as_many_allocations_each(workload) -> None:
    starts = phases_of(workload, 3)
    times = workload.steps["time_ns"][workload.steps["kind"] == StepKind.ACQUIRE]
    counts = [
        int(((times >= at) & (times < end)).sum())
        for at, end in zip(starts, [*starts[1:], 2**62], strict=True)
    ]
    assert max(counts) - min(counts) <= 1
    with pytest.raises(OutOfRange):
        phases_of(workload, 0)


def test_phases_add_up_to_the_price_of_the_whole_run(workload) -> None:
    found = regret(workload, "vmalloc_lazy", ["direct_map"], machine=lambda n: Machine(n, ram="8G"))
    assert len(found) == 4
    for name, parts in (
        ("vmalloc_lazy", [phase.cycles for phase in found]),
        ("direct_map", [phase.alone["direct_map"] for phase in found]),
    ):
        machine = Machine(2, ram="8G")
        strategy = get(name).make(machine)
        boot = len(machine.ledger)
        replay(workload, strategy, machine, Touch.of(None, workload))
        whole = price(machine.ledger, first_row=boot).cycles
        assert sum(parts) == pytest.approx(whole)
        assert whole > 0
    assert all(phase.best == "direct_map" for phase in found)


def test_a_strategy_regrets_nothing_beside_itself(workload) -> None:
    found = regret(
        workload, "unmapped_pool", ["ptcore.strategies.unmapped_pool:UnmappedPool"],
        machine=lambda n: Machine(n, ram="8G"),
    )  # fmt: skip
    assert [phase.regret for phase in found] == [0.0] * 4


def test_the_hybrid_is_held_against_the_parts_that_can_serve_alone(workload) -> None:
    found = regret(workload, machine=lambda n: Machine(n, ram="8G"))
    assert {tuple(phase.alone) for phase in found} == {
        ("unmapped_pool", "vmalloc_lazy", "ephemeral_map_eager")
    }
    assert all(phase.as_dict()["best"] in phase.alone for phase in found)


def test_regret_is_relative_to_the_best() -> None:
    phase = Phase(0, 300.0, {"a": 200.0, "b": 400.0})
    assert (phase.best, phase.regret) == ("a", 0.5)
    assert Phase(0, 1.0, {"a": 0.0}).regret == float("inf")
    assert Phase(0, 0.0, {"a": 0.0}).regret == 0.0


def test_a_phases_rows_are_found_in_a_ledger_of_many_parts(workload) -> None:
    told: list[tuple[str, int, int]] = []
    whole, streamed = (
        regret(
            workload,
            machine=lambda n, limit=limit: Machine(n, ram="8G", ledger=Ledger(limit_rows=limit)),
            progress=lambda *one: told.append(one),
        )
        for limit in (None, 100)
    )
    assert whole == streamed
    assert {name for name, _, _ in told} == {"hybrid", *whole[0].alone}
    assert told[-1][1] == told[-1][2] == 4 * len(workload.steps)


def test_rows_before_a_time_are_those_of_an_earlier_time() -> None:
    machine = Machine(2, ram="8G")
    replay(scenario("secrets", 30, 2), get("naive_unmap").make(machine), machine, Touch(1))
    times = machine.ledger.rows()["time_ns"]
    assert len(times) > sum(len(part.rows) for part in machine.ledger.parts()), "rows repeat"
    asked = [0, *(int(at) + more for at in times[:: len(times) // 9] for more in (0, 1)), 1 << 62]
    assert _rows_before(machine.ledger, asked) == [int((times < at).sum()) for at in asked]
