"""A comparison as one HTML file: answers first, then charts, every figure, and the constants.

The file needs nothing else, and no network: plotly's JavaScript is inside it (extra `report`). Charts
are drawn when their part of the page is opened. Colours are those of Okabe and Ito ("Color Universal
Design", 2008) and of cividis, which colour-blind people tell apart.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from html import escape
from importlib.metadata import version
from importlib.resources import files
from typing import Any

from ptcore.caches import preset
from ptcore.errors import PtcoreError
from ptcore.study import report_charts as charts
from ptcore.study.compare import Comparison, Row
from ptcore.study.measures import GROUPS
from ptcore.study.outputs import expect_folder, need, whole_file
from ptcore.study.questions import QUESTIONS, WINNERS, Answer, answers, winners

ALIKE_SHOWN = 2  # so many winners that are alike are named, more are counted


def report(found: Comparison | Sequence[Comparison], file: str | os.PathLike[str]) -> None:
    """Write the report of one or several comparisons to `file`, which appears when it is whole.

    Raises NeedsPackage without plotly, OSError for a file that cannot be written.
    """
    several = (found,) if isinstance(found, Comparison) else tuple(found)
    script = _plotly().get_plotlyjs()
    text = page(several, script)
    with whole_file(file) as part:
        part.write(text.encode())


def expect_report(file: str | os.PathLike[str] | None) -> None:
    """Raise before the work what `report` would raise after it; nothing for None."""
    if file is not None:
        _plotly()
        expect_folder(file)


def _plotly() -> Any:
    return need("plotly.offline", "an HTML report", "report")


def page(several: Sequence[Comparison], script: str) -> str:
    """Return the page; `script` is the JavaScript that draws the charts. Pure."""
    style = (files("ptcore.study") / "report_page.css").read_text(encoding="utf-8")
    names = ", ".join(_short(found) for found in several)
    parts = [
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>",
        "<meta name='viewport' content='width=device-width, initial-scale=1'>",
        f"<title>ptcore compare: {escape(names)}</title><style>{style}</style>",
        f"<script>{script}</script></head><body><main>",
        _head(several),
        _winners(several),
        _questions(several),
        "<h2 id='workloads'>Workload by workload</h2>",
        *(_workload(found, n, alone=len(several) == 1) for n, found in enumerate(several)),
        _strategies(several),
        _constants(several[0]),
        f"</main><script>{charts.DRAW}</script></body></html>",
    ]
    return "\n".join(parts)


def number(value: object) -> str:
    """Return a figure as people read it; a dash for none."""
    if value is None:
        return "-"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:,.4g}"
    return str(value)


def _short(found: Comparison) -> str:
    return found.workload.partition(",")[0]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table of cells that are elements already."""
    body = "".join(f"<tr>{''.join(cells)}</tr>" for cells in rows)
    top = "".join(head)
    if not top.startswith("<tr"):
        top = f"<tr>{top}</tr>"
    return f"<div class='wide'><table><thead>{top}</thead><tbody>{body}</tbody></table></div>"


def _th(text: str, kind: str = "", title: str = "") -> str:
    hint = f" title='{escape(title, quote=True)}'" if title else ""
    shown = f"<span{hint}>{escape(text)}</span>" if hint else escape(text)
    return f"<th class='{kind}'>{shown}</th>"


def _td(value: object, kind: str = "", title: str = "") -> str:
    figure = "n" if isinstance(value, int | float) else ""
    hint = f" title='{escape(title, quote=True)}'" if title else ""
    shown = escape(number(value))
    shown = f"<span{hint}>{shown}</span>" if hint else shown
    return f"<td class='{figure} {kind}'>{shown}</td>"


def _hardware(found: Comparison) -> str:
    try:
        return f"{found.cpu} ({preset(found.cpu).title})"
    except (PtcoreError, OSError):
        return found.cpu


def _head(several: Sequence[Comparison]) -> str:
    first = several[0]
    names = [row.strategy for row in first.rows]
    steps = ", ".join(f"{f.workload} ({f.steps:,} steps)" for f in several)
    cpus = sorted({found.cpus for found in several})
    facts = {
        "workloads": steps,
        "machine": f"{', '.join(map(str, cpus))} CPUs; translation hardware of {_hardware(first)}; "
        f"tables of {first.format}; shootdown by {first.shootdown}",
        "pages touched": ", ".join(dict.fromkeys(found.touch for found in several)),
        "strategies": f"{len(names)}: {', '.join(names)}",
        "made by": f"ptcore {version('ptcore')}; every figure is a model's",
    }
    if any(found.unmatched_frees or found.damaged_lines for found in several):
        facts["left out"] = "; ".join(
            f"{_short(f)}: {f.unmatched_frees:,} frees of areas from before the trace, "
            f"{f.damaged_lines:,} lines that could not be read"
            for f in several
        )
    unserved = [f"{_short(f)}: {n} ({why})" for f in several for n, why in f.unserved]
    if unserved:
        facts["ran out"] = "; ".join(unserved)
    rows = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in facts.items())
    return (
        "<h1>Ways to reach memory, compared</h1>"
        "<p class='soft'>Lower is better everywhere. A margin that the uncertainty of the constants "
        "could turn round is called a tie.</p>"
        f"<dl class='run'>{rows}</dl>"
        "<nav><a href='#winners'>Winners</a><a href='#questions'>Q1 to Q10</a>"
        "<a href='#workloads'>Workloads</a><a href='#strategies'>Strategies</a>"
        "<a href='#constants'>Constants</a></nav>"
    )


def _named(answer: Answer) -> str:
    alike = answer.winners
    return ", ".join(alike) or "-" if len(alike) <= ALIKE_SHOWN else f"{len(alike)} alike"


def _hint(answer: Answer) -> str:
    said = f"{answer.question.text}: {answer.winner}"
    said += "" if answer.best is None else f" ({number(answer.best)})"
    if answer.runner_up is not None:
        said += f"; next {answer.runner_up} ({number(answer.next)})"
    return f"{said}; {answer.verdict}"


def _kind(answer: Answer) -> str:
    return "tie" if answer.tie else "won" if answer.winners else "none"


def _winners(several: Sequence[Comparison]) -> str:
    said = (
        "<h2 id='winners'>Winners</h2><p>Cycles of an allocation or free with all that follows from it, "
        "where a CPU reaches the memory. Strategies that make a device translate are ranked under Q9: what "
        "a CPU waits for an IOMMU is priced, the device's own walks cost no CPU and are counted. A margin is "
        "how many times as much the next one costs; in brackets its bounds within the uncertainty of the "
        "constants, which both share.</p>"
    )
    for place, question in enumerate(WINNERS):
        head = [
            _th("workload"), _th("winner"), _th("cycles/op", "n"), _th("next"), _th("cycles/op", "n"),
            _th("margin"),
        ]  # fmt: skip
        rows = [
            [
                f"<th><a href='#w{n}'>{escape(_short(found))}</a></th>",
                *_cells(winners(found)[place]),
            ]
            for n, found in enumerate(several)
        ]
        said += f"<h3>The {escape(question.name)}</h3>" + _table(head, rows)
    return said


def _cells(answer: Answer) -> list[str]:
    return [
        _td(
            _named(answer),
            _kind(answer),
            answer.winner if len(answer.winners) > ALIKE_SHOWN else "",
        ),
        _td(answer.best),
        _td(answer.runner_up),
        _td(answer.next),
        _td(answer.verdict, "tie" if answer.tie else ""),
    ]


def _questions(several: Sequence[Comparison]) -> str:
    if len(several) == 1:
        return "<h2 id='questions'>What developers ask</h2>" + _answers(several[0])
    head = [_th("workload"), *(_th(q.name, title=q.text) for q in QUESTIONS)]
    rows = [
        [
            f"<th><a href='#w{n}'>{escape(_short(found))}</a></th>",
            *(_td(_named(answer), _kind(answer), _hint(answer)) for answer in answers(found)),
        ]
        for n, found in enumerate(several)
    ]
    texts = "".join(f"<dt>{q.name}</dt><dd>{escape(q.text)}</dd>" for q in QUESTIONS)
    return (
        "<h2 id='questions'>What developers ask, workload by workload</h2>"
        f"<dl class='run'>{texts}</dl><p class='soft'>Hold the pointer over a cell for its figures.</p>"
        + _table(head, rows)
    )


def _answers(found: Comparison) -> str:
    head = [
        _th(""), _th("question"), _th("winner"), _th("figure", "n"), _th("next"),
        _th("figure", "n"), _th("margin"),
    ]  # fmt: skip
    rows = [
        [_th(answer.question.name), _td(answer.question.text), *_cells(answer)]
        for answer in answers(found)
    ]
    return _table(head, rows)


def _workload(found: Comparison, n: int, *, alone: bool) -> str:
    best = winners(found)[0]
    said = f"{found.steps:,} steps in {found.duration_ns / 1e6:,.1f} ms on {found.cpus} CPUs"
    said += f"; cheapest: {_named(best)}"
    drawn = "".join(
        f"<h3>{escape(chart.title)}</h3><p class='soft'>{escape(chart.note)}</p>"
        f"<div class='chart' data-chart='{escape(json.dumps(chart.figure), quote=True)}' "
        f"style='height:{chart.height}px'></div>"
        for chart in charts.charts(found)
    )
    asked = "" if alone else f"<h3>Answers</h3>{_answers(found)}"
    return (
        f"<details id='w{n}'{' open' * (n == 0)}><summary>{escape(found.workload)}"
        f"<span>{escape(said)}</span></summary>{asked}{drawn}"
        f"<h3>Every figure</h3>{_figures(found)}</details>"
    )


def _figures(found: Comparison) -> str:
    groups = [group for group in GROUPS if any(_shows(found, m) for _, _, m in group.measures)]
    tops = "".join(f"<th colspan='{len(g.measures)}'>{escape(g.title)}</th>" for g in groups)
    names = "".join(_th(s, "n", name.strip()) for g in groups for name, s, _ in g.measures)
    head = [f"<tr class='groups'><th></th>{tops}</tr><tr><th>strategy</th>{names}</tr>"]
    rows = [
        [_th(row.strategy), *(_figure(row, m) for g in groups for _, _, m in g.measures)]
        for row in found.rows
    ]
    return _table(head, rows)


def _shows(found: Comparison, measure: object) -> bool:
    assert callable(measure)
    return any(measure(row) is not None for row in found.rows)


def _figure(row: Row, measure: object) -> str:
    assert callable(measure)
    value = measure(row)
    if isinstance(value, str):
        return _td("by design", "tie", value)
    return _td(value, "none" if value is None else "")


def _strategies(several: Sequence[Comparison]) -> str:
    rows = [
        [_th(row.strategy), _td(row.provenance), _td(row.exposure_by_design or "-")]
        for row in several[0].rows
    ]
    head = [_th("strategy"), _th("whose mechanism and policy"), _th("what is exposed by design")]
    return "<h2 id='strategies'>Strategies</h2>" + _table(head, rows)


def _constants(found: Comparison) -> str:
    head = [_th("constant"), _th("value", "n"), _th("unit"), _th("may be off by"), _th("source")]
    rows = [
        [_th(c.name), _td(c.value), _td(c.unit), _td(c.uncertainty), _td(c.source)]
        for c in found.constants
    ]
    return (
        "<h2 id='constants'>Constants behind the cycles</h2><p>Other ones: <code>ptcore compare "
        "--constants FILE</code>; a price is read out of what happened, which does not change.</p>"
        + _table(head, rows)
    )


__all__ = ["page", "report"]
