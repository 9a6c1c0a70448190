"""The ten questions: in order, with winners that follow from the rows, and ties inside the uncertainty."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from click.testing import CliRunner

from ptcore.cli.commands import ptcore
from ptcore.machine.cost import DEFAULT_CONSTANTS
from ptcore.study import compare
from ptcore.study.compare import Comparison
from ptcore.study.questions import QUESTIONS, answers, factor, spread
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


def test_a_margin_inside_the_uncertainty_is_a_tie(found) -> None:
    row = next(row for row in found.rows if row.strategy == "vmalloc_eager")
    near = replace(row, strategy="near", price=replace(row.price, cycles=row.price.cycles * 1.2))
    far = replace(row, strategy="far", price=replace(row.price, cycles=row.price.cycles * 90))
    assert spread(row.price) > 1.2
    third = answers(replace(found, rows=(near, row)))[2]
    assert third.winner == "vmalloc_eager"
    assert third.verdict.startswith("tie: by 1.20x")
    assert answers(replace(found, rows=(far, row)))[2].verdict == "by 90.00x"


def test_uncertainties_are_read_from_the_constants() -> None:
    assert factor(DEFAULT_CONSTANTS["interrupt"]) == 4
    assert factor(DEFAULT_CONSTANTS["edit_call"]) == 1.5
    assert all(factor(constant) >= 1 for constant in DEFAULT_CONSTANTS.values())


def test_the_answers_are_in_the_json() -> None:
    arguments = ["compare", "secrets", "--size", "20", "-s", "direct_map,iommu_strict", "--json"]
    result = CliRunner().invoke(ptcore, arguments)
    assert result.exit_code == 0, result.output
    assert [a["name"] for a in json.loads(result.output)["answers"]] == [q.name for q in QUESTIONS]
