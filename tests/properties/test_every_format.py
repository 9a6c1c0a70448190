"""Every configuration of every format against a dict of spans."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from ptcore import formats
from ptcore.testing import PageTableMachine

CONFIGURATIONS = formats.configurations()
STEPS = settings(
    max_examples=8,
    stateful_step_count=20,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
TABLES = 12


def _name(configuration: tuple[str, dict[str, object]]) -> str:
    name, parameters = configuration
    return "-".join([name, *(f"{key}={value}" for key, value in parameters.items())])


@pytest.mark.parametrize("configuration", CONFIGURATIONS, ids=_name)
def test_a_page_table_of_any_format_is_a_dict_of_spans(
    configuration: tuple[str, dict[str, object]],
) -> None:
    name, parameters = configuration
    fmt = formats.get(name, **parameters)
    sizes = [max(fmt.table_bytes(n), 4096) for n in range(len(fmt.levels))]

    class Machine(PageTableMachine):
        format = fmt
        memory = 2 * sizes[-1] + TABLES * max(sizes[:-1], default=4096)

    run_state_machine_as_test(Machine, settings=STEPS)
    done = {verb for verb, ended in Machine.outcomes if ended == "done"}
    assert "map" in done, Machine.outcomes
    assert len(done) >= 3, Machine.outcomes
    assert Machine.outcomes["address", "OK"] > 20, Machine.outcomes
