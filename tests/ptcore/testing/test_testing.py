"""What ptcore.testing gives to others: it explains itself, and it sees a table that lies."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import rule, run_state_machine_as_test

from ptcore import PageTable, formats
from ptcore.formats.schema import Format
from ptcore.testing import PageTableMachine, strategies
from ptcore.units import ALL_ONES

# One failure is enough here: nothing is shrunk.
FEW = settings(
    max_examples=60,
    stateful_step_count=12,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.generate],
    report_multiple_bugs=False,
)


def test_without_hypothesis_the_extra_is_named() -> None:
    program = "import sys; sys.modules['hypothesis'] = None; import ptcore; import ptcore.testing"
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 1
    assert "pip install 'ptcore[testing]'" in ended.stderr


def test_ptcore_itself_does_not_need_hypothesis() -> None:
    program = "import sys; sys.modules['hypothesis'] = None; import ptcore; print('fine')"
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert ended.stdout == "fine\n", ended.stderr


def corrupting(change: int) -> type[PageTableMachine]:
    """A machine whose tables are changed behind its back: bits of the first leaf's item flip."""

    class Corrupting(PageTableMachine):
        @rule()
        def flip(self) -> None:
            for va in sorted(self.model.leaves)[:1]:
                step = self.table.walk(va).path[-1]
                self.ram.write_word(step.entry_address, step.entry ^ change)

    return Corrupting


@pytest.mark.parametrize("bit", [0, 1, 2, 8, 9, 12, 13, 59, 63])
def test_the_machine_sees_a_flipped_bit_of_a_leaf(bit: int) -> None:
    with pytest.raises(AssertionError):
        run_state_machine_as_test(corrupting(1 << bit), settings=FEW)


def test_the_machine_sees_a_table_that_leaks() -> None:
    class Leaking(PageTableMachine):
        @rule()
        def leak(self) -> None:
            if self.model.leaves:
                self.ram.frames.allocate()

    with pytest.raises(AssertionError):
        run_state_machine_as_test(Leaking, settings=FEW)


def test_each_machine_counts_its_own_outcomes() -> None:
    class One(PageTableMachine):
        pass

    class Two(PageTableMachine):
        format = "x86_64_5level"

    run_state_machine_as_test(One, settings=settings(FEW, max_examples=3))
    assert sum(One.outcomes.values()) > 0
    assert sum(Two.outcomes.values()) == 0
    assert One.outcomes is not PageTableMachine.outcomes


def any_format() -> st.SearchStrategy[Format]:
    return strategies.configured_formats()


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_spans_are_aligned_and_inside_the_legal_addresses(data: st.DataObject) -> None:
    fmt = data.draw(any_format())
    size = data.draw(strategies.page_sizes(fmt))
    span = data.draw(strategies.aligned_spans(fmt, size))
    assert span.start % size == 0
    assert span.size % size == 0
    assert any(span.start in s and span.last in s for s in strategies.legal_spans(fmt))
    va = data.draw(strategies.non_canonical_addresses(fmt))
    assert not strategies.is_legal(fmt, va)
    assert strategies.is_legal(fmt, data.draw(strategies.canonical_addresses(fmt)))


@pytest.mark.parametrize(("name", "parameters"), formats.configurations())
def test_the_legal_addresses_are_those_that_the_table_says(
    name: str, parameters: dict[str, Any]
) -> None:
    from ptcore import PhysicalMemory

    fmt = formats.get(name, **parameters)
    table = PageTable(fmt, PhysicalMemory("2M"))
    assert strategies.legal_spans(fmt) == table.legal_spans()
    assert all(span.last <= ALL_ONES for span in table.legal_spans())


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_attributes_can_be_said_by_every_leaf(data: st.DataObject) -> None:
    from dataclasses import asdict

    from ptcore.formats.encode import Attributes, leaf_change

    fmt = data.draw(any_format())
    wanted = data.draw(strategies.attributes(fmt))
    for level in fmt.leaf_levels:
        clear, bits = leaf_change(fmt, level, Attributes(**asdict(wanted)))
        assert bits & ~clear == 0
