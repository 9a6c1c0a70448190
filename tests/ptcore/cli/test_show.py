"""What is printed in a pipe is whole: programs read it."""

from __future__ import annotations

import pytest

from ptcore.cli import show


def test_a_table_in_a_pipe_is_as_wide_as_its_cells(capsys: pytest.CaptureFixture[str]) -> None:
    names = [f"a_long_name_of_a_strategy_{n}" for n in range(60)]
    show.table("A title", ["what", *names], [["figure", *range(1_000_000, 1_000_060)]])
    title, head, row = capsys.readouterr().out.splitlines()
    assert title == "A title"
    assert head.split() == ["what", *names]
    assert row.split() == ["figure", *(f"{n:,}" for n in range(1_000_000, 1_000_060))]
