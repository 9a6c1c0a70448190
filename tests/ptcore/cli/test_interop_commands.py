"""`ptcore gdb`: what it writes is what it says it wrote."""

from __future__ import annotations

from pathlib import Path

from click.testing import CliRunner

from ptcore.cli.commands import ptcore
from ptcore.interop.gdb import command_file


def test_the_command_file_is_written_where_it_is_said(tmp_path: Path) -> None:
    done = CliRunner().invoke(ptcore, ["gdb", "--install", str(tmp_path / "new")])
    assert done.exit_code == 0, done.output
    path = tmp_path / "new" / "ptcore-gdb.py"
    assert path.read_text() == command_file()
    assert f"source {path}" in done.output.replace("\n", "")


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = CliRunner().invoke(ptcore, ["gdb", "--install", str(tmp_path / "file" / "in")])
    assert done.exit_code != 0
    assert "Traceback" not in done.output
