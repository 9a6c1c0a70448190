"""A comparison as one Parquet table: a row per workload and strategy, a column per figure."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from ptcore.study.compare import Comparison, Row
from ptcore.study.measures import GROUPS
from ptcore.study.outputs import expect_folder, need, whole_file
from ptcore.study.questions import QUESTIONS, WINNERS, answers, winners


def records(found: Comparison | Sequence[Comparison]) -> list[dict[str, Any]]:
    """Return a dict per workload and strategy: what ran, every measure, the cycles of every constant, and
    the figures of Q1 to Q10 (None where a question is not about the strategy). Pure."""
    several = (found,) if isinstance(found, Comparison) else found
    return [_record(one, row) for one in several for row in one.rows]


def _record(found: Comparison, row: Row) -> dict[str, Any]:
    cells: dict[str, Any] = {
        "workload": found.workload,
        "strategy": row.strategy,
        "provenance": row.provenance,
        "cpus": found.cpus,
        "cpu": found.cpu,
        "format": found.format,
        "shootdown": found.shootdown,
        "touch": found.touch,
        "steps": found.steps,
        "operations": row.price.operations,
        "exposure_by_design": row.exposure_by_design,
    }
    for group in GROUPS:
        for name, _, measure in group.measures:
            value = measure(row)
            cells[_column(group.title, name)] = None if isinstance(value, str) else value
    cells |= {f"cycles_{line.name}": line.cycles for line in row.price.lines}
    for question in (*WINNERS, *QUESTIONS):
        figure = question.figure(row)
        cells[_column("", question.name)] = None if figure is None else float(figure)
    return cells


def _column(group: str, name: str) -> str:
    prefix = {"Device": "device_", "Exposure of freed memory": "exposure_"}.get(group, "")
    text = re.sub(r"[^a-z0-9]+", "_", name.strip().lower()).strip("_")
    return text if text.startswith(prefix) else prefix + text


def expect_parquet(file: str | os.PathLike[str] | None) -> None:
    """Raise before the work what `write_parquet` would raise after it; nothing for None."""
    if file is not None:
        need("pyarrow.parquet", "Parquet", "parquet")
        expect_folder(file)


def write_parquet(found: Comparison | Sequence[Comparison], file: str | os.PathLike[str]) -> None:
    """Write `records` to a Parquet file, which appears when it is whole.

    The file's metadata `ptcore` is JSON: the answers of every workload, and the constants with their
    sources. Raises NeedsPackage without pyarrow, OSError for a file that cannot be written.
    """
    several = (found,) if isinstance(found, Comparison) else tuple(found)
    arrow = need("pyarrow", "Parquet", "parquet")
    parquet = need("pyarrow.parquet", "Parquet", "parquet")
    table = arrow.Table.from_pylist(records(several))
    said = json.dumps(
        {
            "answers": {
                one.workload: [a.as_dict() for a in (*winners(one), *answers(one))]
                for one in several
            },
            "constants": [asdict(constant) for constant in several[0].constants],
        }
    )
    with whole_file(file) as part:
        parquet.write_table(table.replace_schema_metadata({"ptcore": said}), part)


__all__ = ["expect_parquet", "records", "write_parquet"]
