"""The charts of a report, as plotly's figures in plain values."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from ptcore.study.compare import Comparison, Row
from ptcore.study.measures import COST_GROUPS, OTHER, cost_parts
from ptcore.study.uncertainty import price_range

# Okabe and Ito, "Color Universal Design": blue, orange, green, vermilion, sky, purple.
COLOURS = ("#0072B2", "#D55E00", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#999999")
CPU_COLOUR, DEVICE_COLOUR = "#0072B2", "#E69F00"
INK, GRID, NOTHING = "#1b1f24", "#e6eaee", "#e3e6ea"
ROW_PIXELS, MARGIN_PIXELS = 26, 126
DRAW = """
function draw(box) {
  for (const div of box.querySelectorAll('.chart:not([data-drawn])')) {
    const figure = JSON.parse(div.dataset.chart);
    div.dataset.drawn = 1;
    Plotly.newPlot(div, figure.data, figure.layout, {responsive: true, displaylogo: false,
      modeBarButtonsToRemove: ['lasso2d', 'select2d', 'autoScale2d']});
  }
}
for (const box of document.querySelectorAll('details')) {
  if (box.open) draw(box);
  box.addEventListener('toggle', () => { if (box.open) draw(box); });
}
function follow() {
  const box = document.getElementById(location.hash.slice(1));
  if (box && box.tagName === 'DETAILS') { box.open = true; box.scrollIntoView(); }
}
addEventListener('hashchange', follow); follow();
"""


@dataclass(frozen=True, slots=True)
class Chart:
    """A title, a sentence that says how to read it, plotly's figure, and its height in pixels."""

    title: str
    note: str
    figure: dict[str, Any]
    height: int


def charts(found: Comparison) -> list[Chart]:
    """Return the charts of one workload. Pure."""
    return [costs(found), exposure(found), translation(found)]


def _layout(count: int, **more: Any) -> dict[str, Any]:
    return {
        "font": {"family": "system-ui, DejaVu Sans, sans-serif", "size": 13, "color": INK},
        "paper_bgcolor": "#fff",
        "plot_bgcolor": "#fff",
        "margin": {"l": 10, "r": 20, "t": 64, "b": 46},
        "height": count * ROW_PIXELS + MARGIN_PIXELS,
        "legend": {"orientation": "h", "x": 0, "y": 1, "yanchor": "bottom", "traceorder": "normal"},
        "hoverlabel": {"bgcolor": "#fff", "bordercolor": INK, "font": {"color": INK}},
        **more,
    }


def _chart(title: str, note: str, data: list[Any], layout: dict[str, Any]) -> Chart:
    return Chart(title, note, {"data": data, "layout": layout}, int(layout["height"]))


def _names_axis(labels: list[str]) -> dict[str, Any]:
    """Return an axis of strategies from the top down, wide enough for their names."""
    places = list(range(len(labels)))
    return {
        "tickmode": "array", "tickvals": places, "ticktext": labels, "automargin": True,
        "range": [len(labels) - 0.5, -0.5], "fixedrange": True, "ticks": "", "zeroline": False,
        "showgrid": False,
    }  # fmt: skip


def costs(found: Comparison) -> Chart:
    """Return what an operation costs and what of it is which kind of work, the cheapest first."""
    rows = sorted(found.rows, key=lambda row: row.price.per_operation)
    totals = [row.price.per_operation for row in rows]
    device = [row.device_accesses or row.device_invalidations for row in rows]
    labels = [
        f"{row.strategy}{'*' if far else ''}  {total:,.4g}".replace("e+0", "e")
        if total < 1000
        else f"{row.strategy}{'*' if far else ''}  {total:,.0f}"
        for row, total, far in zip(rows, totals, device, strict=True)
    ]
    note = (
        "Cycles per allocation or free, also beside each name; the line is what the uncertainty of the "
        "constants spans. To the right, which work they go into."
    )
    if any(device):
        note += " * a device reaches the memory: its own walks cost no CPU, and are counted."
    left = {
        "title": {"text": "cycles per operation"},
        "type": "log",
        "dtick": 1,
        "gridcolor": GRID,
        "tickformat": "~s",
        "tickangle": 0,
    }
    right = {"title": {"text": "share of the cycles (%)"}, "gridcolor": GRID, "range": [0, 100]}
    layout = _layout(
        len(rows),
        barmode="stack",
        xaxis={**left, "domain": [0, 0.48]},
        xaxis2={**right, "domain": [0.53, 1]},
        yaxis=_names_axis(labels),
    )
    return _chart("What an operation costs", note, [_dots(rows), *_shares(rows)], layout)


def _shares(rows: list[Row]) -> list[dict[str, Any]]:
    parts = [cost_parts(row) for row in rows]
    data = []
    for title, colour in zip((*(t for t, _ in COST_GROUPS), OTHER), COLOURS, strict=True):
        values = [100 * part[title] / (sum(part.values()) or 1) for part in parts]
        if any(values):
            data.append(
                {
                    "type": "bar", "orientation": "h", "name": title, "x": values, "xaxis": "x2",
                    "y": list(range(len(rows))), "marker": {"color": colour},
                    "customdata": [_lines(row, title) for row in rows],
                    "hovertemplate": f"<b>{title}</b>: %{{x:.3~g}} % of the cycles"
                    "<br>%{customdata}<extra></extra>",
                }
            )  # fmt: skip
    return data


def _dots(rows: list[Row]) -> dict[str, Any]:
    operations = [max(row.price.operations, 1) for row in rows]
    totals = [row.price.per_operation or None for row in rows]  # 0 has no place on a log axis
    ranges = [price_range(row.price) for row in rows]
    low = [least / count for (least, _), count in zip(ranges, operations, strict=True)]
    high = [most / count for (_, most), count in zip(ranges, operations, strict=True)]
    return {
        "type": "scatter", "mode": "markers", "showlegend": False, "x": totals,
        "y": list(range(len(rows))), "marker": {"color": INK, "size": 8},
        "error_x": {
            "type": "data", "symmetric": False, "color": INK, "thickness": 1.2, "width": 4,
            "array": [most - (total or 0) for most, total in zip(high, totals, strict=True)],
            "arrayminus": [(total or 0) - least for least, total in zip(low, totals, strict=True)],
        },
        "customdata": list(zip(low, high, strict=True)),
        "hovertemplate": "%{x:,.4~g} cycles per operation<br>%{customdata[0]:,.4~g} to "
        "%{customdata[1]:,.4~g} within the constants' uncertainty<extra></extra>",
    }  # fmt: skip


def _lines(row: Row, title: str) -> str:
    """Return a group's lines in words: how often, and what each costs."""
    names = dict(COST_GROUPS).get(title)
    return "<br>".join(
        f"{line.name}: {line.count:,} x {line.cycles_each:,.4g} cycles"
        for line in row.price.lines
        if line.count and (line.name in names if names else True)
    )


def exposure(found: Comparison) -> Chart:
    """Return how many freed pages could still be reached over time, the least exposed first."""
    rows = sorted(found.rows, key=lambda r: (r.exposure_by_design is not None, r.exposure.page_ns))
    bins = len(rows[0].exposed)
    times = [(n + 0.5) * found.duration_ns / 1e6 / bins for n in range(bins)]
    design = [row.exposure_by_design is not None for row in rows]
    shown = [
        [None if out else math.log10(pages) if pages else 0 for pages in row.exposed]
        for row, out in zip(rows, design, strict=True)
    ]
    labels = [f"{row.strategy}  {_at_once(row)}" for row in rows]
    top = max((value for line in shown for value in line if value), default=0.0)
    ticks = list(range(int(top) + 1))
    ticks = ticks[:: -(-len(ticks) // max(len(rows), 2))]  # a chart of few rows is low
    heat = {
        "type": "heatmap", "x": times, "y": list(range(len(rows))), "z": shown, "zmin": 0,
        "zmax": max(top, 1), "ygap": 4, "xgap": 0, "hoverongaps": False,
        "colorscale": [[0, "#f3f5f7"], [0.001, "#fde737"], [0.5, "#7c7b78"], [1, "#00224e"]],
        "colorbar": {
            "title": {"text": "pages"}, "tickvals": ticks, "thickness": 12,
            "ticktext": [f"{10**tick:,}" for tick in ticks],
        },
        "text": [[f"{row.strategy}: {pages:,} pages" for pages in row.exposed] for row in rows],
        "hovertemplate": "%{text} at %{x:,.4~g} ms<extra></extra>",
    }  # fmt: skip
    axis = {"title": {"text": "time (ms)"}, "showgrid": False, "zeroline": False}
    layout = _layout(len(rows), xaxis=axis, yaxis=_names_axis(labels), plot_bgcolor=NOTHING)
    note = (
        "The most pages at a time that were free and could still be reached through a stale translation; the "
        "number beside a name is the peak. Grey: reachable by design, all the time."
    )
    return _chart("Exposure of freed memory over time", note, [heat], layout)


def _at_once(row: Row) -> str:
    if row.exposure_by_design is not None:
        return "by design"
    return f"{row.exposure.peak_pages:,}" if row.exposure.peak_pages else "none"


def translation(found: Comparison) -> Chart:
    """Return TLB misses per 1000 touches and what a walk reads, CPU and device apart."""
    rows = sorted(found.rows, key=_misses)
    labels = [f"{row.strategy}  {_misses(row):,.4g}" for row in rows]
    places = list(range(len(rows)))
    data: list[dict[str, Any]] = []
    for name, colour, figures in (
        ("CPU", CPU_COLOUR, [_cpu_figures(row) for row in rows]),
        ("device", DEVICE_COLOUR, [_device_figures(row) for row in rows]),
    ):
        for n, (axis, what) in enumerate(
            (("x", "misses per 1000 touches"), ("x2", "items read per walk"))
        ):
            data.append(
                {
                    "type": "bar", "orientation": "h", "name": name, "legendgroup": name,
                    "showlegend": n == 0, "x": [figure[n] for figure in figures], "y": places,
                    "xaxis": axis, "yaxis": "y", "marker": {"color": colour},
                    "hovertemplate": f"{name}: %{{x:,.4~g}} {what}<extra></extra>",
                }
            )  # fmt: skip
    layout = _layout(
        len(rows),
        barmode="stack",
        xaxis={"title": {"text": "TLB misses per 1000 touches"}, "gridcolor": GRID, "domain": [0, 0.62]},
        xaxis2={"title": {"text": "items read per walk"}, "gridcolor": GRID, "domain": [0.68, 1]},
        yaxis=_names_axis(labels),
    )  # fmt: skip
    note = "Modelled, on the hardware named above. Beside each name: misses of CPU and device."
    return _chart("TLB misses and walks", note, data, layout)


def _misses(row: Row) -> float:
    return 1000 * (row.tlb_misses + row.device_walks) / max(row.accesses, 1)


def _cpu_figures(row: Row) -> tuple[float, float]:
    misses = 1000 * row.tlb_misses / max(row.accesses, 1)
    return misses, row.walk_references / max(row.tlb_misses, 1)


def _device_figures(row: Row) -> tuple[float, float]:
    misses = 1000 * row.device_walks / max(row.accesses, 1)
    return misses, row.device_references / max(row.device_walks, 1)


__all__ = ["DRAW", "Chart", "charts", "costs", "exposure", "translation"]
