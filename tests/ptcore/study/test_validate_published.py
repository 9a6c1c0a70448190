"""The published targets: all are there, predictions are met, misses would show."""

from __future__ import annotations

import json
import re
import time
from dataclasses import replace

import pytest
from click.testing import CliRunner

from ptcore.cli.commands import ptcore
from ptcore.cli.validate_commands import published_rows
from ptcore.study import validate_published as validate_published_module
from ptcore.study.validate_published import TARGETS, Outcome, Target, validate_published


@pytest.fixture(scope="module")
def outcomes() -> tuple[Outcome, ...]:
    return validate_published()


def test_every_target_has_its_row_and_its_source() -> None:
    assert {target.name for target in TARGETS} == {f"T{n}" for n in range(1, 16)}
    assert all(target.source for target in TARGETS)
    unsaid = [t for t in TARGETS if t.kind == "shape only" and not t.rests_on]
    assert unsaid == []


def test_what_is_predicted_is_met(outcomes) -> None:
    predictions = [o for o in outcomes if o.target.kind == "prediction" and o.target.measure]
    assert len(predictions) > 10
    assert [o for o in predictions if o.verdict != "met"] == []


@pytest.mark.parametrize(
    ("what", "value"),
    [
        ("items read by a nested walk, 4 levels on 4", 24),
        ("the same, 5 levels on 5", 35),
        ("ephemeral maps per local invalidation", 511),
        ("a pool of 100 after a drain", 75),
        ("most pages invalidated one by one", 33),
        ("reach with 4K pages, Ice Lake", 2048),
    ],
)
def test_what_is_counted_is_exact(outcomes, what: str, value: int) -> None:
    (found,) = (o for o in outcomes if o.target.what == what)
    assert found.model == value


def test_page_blocks_end_what_page_by_page_began(outcomes) -> None:
    small, large, blocks = (o.model for o in outcomes if o.target.name == "T7")
    assert large > small > 2
    assert blocks < 2


def test_a_miss_is_called_a_miss() -> None:
    target: Target = TARGETS[0]
    assert Outcome(target, target.published * 1.2).verdict == "missed"
    assert Outcome(target, None).verdict == "not modelled"
    assert Outcome(replace(target, kind="shape only"), 1.0).verdict == "shape only, missed"


def test_the_command_prints_them_as_json() -> None:
    result = CliRunner().invoke(ptcore, ["validate", "published", "--json"])
    assert result.exit_code == 0, result.output
    rows = json.loads(result.output)["targets"]
    assert [row["name"] for row in rows] == [target.name for target in TARGETS]


def test_a_gather_that_nothing_pays_for_leaves_stale_translations(monkeypatch) -> None:
    monkeypatch.setattr(validate_published_module, "pay", lambda *_, **__: [])
    assert validate_published_module.stale_survivors("vtd") >= 24
    assert validate_published_module.larger_survivors() == 1


def test_the_wait_for_other_cpus_grows_with_them_and_their_work_does_not() -> None:
    few, many = (validate_published_module.slowdown("naive_unmap", cpus) for cpus in (2, 4))
    interrupt = 1000 / validate_published_module.POPULATE_NS
    assert many - few == pytest.approx(2 * interrupt, rel=0.05)


class _Interrupted:
    """A clock that loses a millisecond in one reading of seven, as where others take the CPU."""

    def __init__(self) -> None:
        self.lost = self.readings = 0

    def perf_counter_ns(self) -> int:
        self.readings += 1
        self.lost += 1_000_000 * (self.readings % 7 == 0)
        return time.perf_counter_ns() + self.lost


def test_the_slope_of_a_map_is_the_same_when_it_is_interrupted(monkeypatch) -> None:
    quiet = validate_published_module.entry_slope()
    clock = _Interrupted()
    monkeypatch.setattr(validate_published_module, "time", clock)
    interrupted = validate_published_module.entry_slope()
    assert clock.lost > 100_000_000
    assert interrupted.value == pytest.approx(quiet.value, rel=0.25)
    assert 0 < quiet.uncertainty < quiet.value


def test_what_is_timed_is_shown_with_its_uncertainty(outcomes) -> None:
    (row,) = (row for row in published_rows(outcomes) if row[0] == "T11")
    assert re.fullmatch(r"[\d.]+ ± [\d.e-]+", row[3])
    assert [o.target.name for o in outcomes if o.uncertainty is not None] == ["T11"]


def test_what_block_mappings_save_is_less_the_more_memory_is_in_use(outcomes) -> None:
    saved = [o.model for o in outcomes if o.target.name == "T13"]
    assert len(saved) == 3
    assert saved[0] > 28.5 > saved[2] > 0
    assert saved == sorted(saved, reverse=True)
