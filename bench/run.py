"""Measure every claim, print one JSON line each, and hold the ratios against their bounds.

usage: python bench/run.py [--write] [ID ...]     --write puts the figures into README.md
"""

from __future__ import annotations

import importlib
import json
import re
import sys
import tomllib
from pathlib import Path

from side_by_side import Result, machine

from ptcore.cli.validate_commands import iommu_rows, published_rows, validation_rows
from ptcore.study.validate_iommu import validate_iommu
from ptcore.study.validate_published import validate_published
from ptcore.study.validate_vmalloc import validate_vmalloc
from ptcore.workloads import read_sample
from ptcore.workloads.ftrace import SAMPLES_IOMMU

ROOT = Path(__file__).parents[1]


def figure(result: Result, unit: str) -> str:
    if unit == "ns":
        return f"{result.subject_ns / 1e6:,.0f} ms"
    text = f"{result.subject_ns:.3g} {unit}"
    if result.baseline_ns is not None:
        text += f" against {result.baseline_ns:.3g}"
    return text


def verdict(result: Result, claim: dict[str, object]) -> tuple[str, str, str]:
    ratio = "-" if result.ratio is None else f"{result.ratio:.2f}"
    if "bound" not in claim:
        return ratio, "-", "measured"
    # A claim without a baseline is held to its bound in its own unit.
    held = result.subject_ns if result.ratio is None else result.ratio
    met = held <= float(str(claim["bound"]))
    return ratio, f"<= {claim['bound']}", "met" if met else "**missed**"


def table(
    results: list[Result], claims: dict[str, dict[str, object]], where: dict[str, str]
) -> str:
    lines = [
        "| id | what | measured | ratio | bound | verdict |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for result in results:
        claim = claims[result.claim]
        cells = (
            f"`{result.claim}`",
            claim["sentence"],
            figure(result, str(claim["unit"])),
            *verdict(result, claim),
        )
        lines.append("| " + " | ".join(str(cell) for cell in cells) + " |")
    lines += ["", f"Measured on {where['cpu']}, Python {where['python']}."]
    return "\n".join(lines) + "\n"


def between(mark: str, text: str) -> None:
    """Replace what stands between README's marks."""
    path = ROOT / "README.md"
    pattern = rf"(<!-- {mark}:[^\n]*-->\n).*?(<!-- /{mark} -->)"
    new, count = re.subn(
        pattern, lambda m: f"{m[1]}{text}{m[2]}", path.read_text(), flags=re.DOTALL
    )
    if count != 1:
        raise SystemExit(f"README.md has no place for {mark}")
    path.write_text(new)


def validation() -> str:
    """Return what `ptcore validate vmalloc` prints for the bundled trace, as a table."""
    found = validate_vmalloc(read_sample())
    lines = ["| part | what the model predicts | exact |", "| --- | --- | --- |"]
    lines += ["| " + " | ".join(row) + " |" for row in validation_rows(found)]
    return "\n".join(lines) + "\n"


def iommu_validation() -> str:
    """Return what `ptcore validate iommu` prints for the bundled traces, as a table."""
    lines = ["| trace | part | what the model predicts | exact |", "| --- | --- | --- | --- |"]
    for name in SAMPLES_IOMMU:
        found = validate_iommu(read_sample(name))
        lines += [f"| {found.mode} | " + " | ".join(row) + " |" for row in iommu_rows(found)]
    return "\n".join(lines) + "\n"


def published() -> str:
    """Return what `ptcore validate published` prints, as a table."""
    head = ["", "what", "published", "model", "deviation", "verdict", "source"]
    lines = ["| " + " | ".join(head) + " |", "| " + " | ".join(["---"] * len(head)) + " |"]
    lines += ["| " + " | ".join(row) + " |" for row in published_rows(validate_published())]
    return "\n".join(lines) + "\n"


def main(arguments: list[str]) -> int:
    claims = tomllib.loads((Path(__file__).parent / "claims.toml").read_text())
    wanted = [a for a in arguments if not a.startswith("--")] or list(claims)
    where = machine()
    results: list[Result] = []
    for bench in dict.fromkeys(claims[claim]["bench"] for claim in wanted):
        for result in importlib.import_module(bench.removesuffix(".py")).results():
            if result.claim in wanted:
                results.append(result)
                _, bound, judged = verdict(result, claims[result.claim])
                row = {**result.to_dict(), "bound": bound, "verdict": judged, **where}
                print(json.dumps(row), flush=True)
    if "--write" in arguments:
        results.sort(key=lambda result: list(claims).index(result.claim))
        between("figures", table(results, claims, where))
        between("validation", validation())
        between("iommu", iommu_validation())
        between("published", published())
    return int(any("missed" in verdict(r, claims[r.claim])[2] for r in results))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
