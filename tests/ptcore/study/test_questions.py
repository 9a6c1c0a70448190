"""The ten questions: in order, with winners that follow from the rows, and ties inside the uncertainty."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from click.testing import CliRunner

from ptcore.cli.commands import ptcore
from ptcore.study import compare
from ptcore.study.compare import Comparison, Row
from ptcore.study.questions import QUESTIONS, answers, winners
from ptcore.workloads.scenarios import scenario


@pytest.fixture(scope="module")
def found() -> Comparison:
    names = ["direct_map", "vmalloc_eager", "unmapped_pool", "naive_unmap", "iommu_strict"]
    return compare(scenario("secrets", 60), names)


def test_there_are_ten_in_order(found) -> None:
    assert [q.name for q in QUESTIONS] == [f"Q{n}" for n in range(1, 11)]
    assert [a.question for a in answers(found)] == list(QUESTIONS)


def test_winners_follow_from_the_rows(found) -> None:
    by_name = {a.question.name: a for a in answers(found)}
    assert "direct_map" in by_name["Q1"].winner
    assert "naive_unmap" not in by_name["Q1"].winner
    assert "direct_map" not in by_name["Q2"].winner, "reachable by design is no zero"
    assert "naive_unmap" not in by_name["Q5"].winner
    assert by_name["Q9"].winner == "iommu_strict"
    assert by_name["Q9"].verdict == "alone"


def test_a_margin_that_the_uncertainty_can_turn_round_is_a_tie(found) -> None:
    row = next(row for row in found.rows if row.strategy == "vmalloc_eager")

    def other(name: str, of: dict[str, float]) -> Row:
        lines = tuple(
            replace(line, cycles=line.cycles * of.get(line.name, 1.0)) for line in row.price.lines
        )
        price = replace(row.price, lines=lines, cycles=sum(line.cycles for line in lines))
        return replace(row, strategy=name, price=price)

    every = {line.name: 1.2 for line in row.price.lines}
    third = answers(replace(found, rows=(other("dearer", every), row)))[2]
    assert third.winner == "vmalloc_eager"
    assert not third.tie, "all of it costs more: no constant can turn that round"
    assert third.verdict == "by 1.2x (1.2x to 1.2x)"
    # Cheaper interrupts and dearer entries: which counts for more depends on the constants.
    mixed = answers(replace(found, rows=(other("mixed", {"interrupt": 0.7, "entry": 9.0}), row)))[2]
    assert mixed.tie
    assert mixed.verdict.startswith("tie ")
    assert mixed.margin is not None
    assert mixed.margin.least < 1 < mixed.margin.ratio


def test_the_winners_of_a_workload_are_the_cheapest_of_all_off_the_direct_map_and_without_exposure(
    found,
) -> None:
    cheapest, off, safe = winners(found)
    assert "direct_map" in cheapest.winners
    assert off.winners == ("unmapped_pool",)
    assert off.runner_up == "vmalloc_eager"
    assert off.best is not None
    assert safe.best is not None
    assert cheapest.best < off.best < safe.best
    assert safe.winners == ("vmalloc_eager",)
    assert safe.runner_up == "naive_unmap", "the pool's stale windows keep it out"
    assert not any("iommu" in name for answer in (cheapest, off, safe) for name in answer.winners)


def test_what_a_cpu_waits_for_a_device_ranks_the_ways_of_an_iommu() -> None:
    names = ["direct_map", "iommu_strict", "iommu_deferred", "iommu_ats"]
    found = compare(scenario("nic_10g", 2000), names)
    answer = next(a for a in answers(found) if a.question.name == "Q9")
    assert (answer.winner, answer.runner_up) == ("iommu_deferred", "iommu_strict")
    assert answer.margin is not None
    assert answer.margin.least > 1
    strict = next(row.price for row in found.rows if row.strategy == "iommu_strict")
    most = max(strict.lines, key=lambda line: line.cycles)
    assert (most.name, most.cycles_each) == ("device_invalidate", 3000)


def test_the_answers_are_in_the_json() -> None:
    arguments = ["compare", "secrets", "--size", "20", "-s", "direct_map,iommu_strict", "--json"]
    result = CliRunner().invoke(ptcore, arguments)
    assert result.exit_code == 0, result.output
    assert [a["name"] for a in json.loads(result.output)["answers"]] == [q.name for q in QUESTIONS]
