"""The verbs of the command line. Each calls one public function and shows what it returns."""

from __future__ import annotations

import sys
from collections.abc import Callable

import click

from ptcore import strategies as known_strategies
from ptcore.cli import show
from ptcore.cli.ends import says_errors
from ptcore.cli.format_commands import decode_command, formats_command
from ptcore.cli.progress import progress_bar
from ptcore.cli.tlb_commands import convert_command, presets_command, tlb_command
from ptcore.cli.validate_commands import read_trace, validate
from ptcore.machine.exposure import Exposure
from ptcore.study import compare as compare_study
from ptcore.study.compare import Comparison, Row
from ptcore.workloads.replay import workload_of


def quiet_pipe() -> None:
    """End without a traceback when the reader of a pipe has gone."""
    import signal

    signal.signal(signal.SIGPIPE, signal.SIG_DFL)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="ptcore")
def ptcore() -> None:
    """Page tables that you can compute with."""
    quiet_pipe()


ptcore.add_command(formats_command)
ptcore.add_command(decode_command)
ptcore.add_command(tlb_command)
ptcore.add_command(presets_command)
ptcore.add_command(convert_command)
ptcore.add_command(validate)


def exposed(figure: Callable[[Exposure], object]) -> Callable[[Row], object]:
    """Return a measure of a row's exposure; '-' where freed memory is reachable by design."""
    return lambda row: None if row.exposure_by_design is not None else figure(row.exposure)


MEASURES: tuple[tuple[str, Callable[[Row], object]], ...] = (
    ("mappings made", lambda r: r.mappings_made),
    ("mappings ended", lambda r: r.mappings_ended),
    ("entries written", lambda r: r.entries_written),
    ("tables allocated (bytes)", lambda r: r.tables_allocated_bytes),
    ("invalidations, local", lambda r: r.local_invalidations),
    ("invalidations, remote", lambda r: r.remote_invalidations),
    ("CPUs interrupted", lambda r: r.cpus_interrupted),
    ("TLB misses (modelled)", lambda r: r.tlb_misses),
    ("walk references (modelled)", lambda r: r.walk_references),
    ("page-table cache hits", lambda r: r.cache_hits if r.cache_hits + r.cache_misses else None),
    (
        "page-table cache misses",
        lambda r: r.cache_misses if r.cache_hits + r.cache_misses else None,
    ),
    ("cycles per operation", lambda r: round(r.price.per_operation)),
    ("exposure windows", lambda r: r.exposure_by_design or r.exposure.windows),
    ("  open at the end", exposed(lambda e: e.still_open)),
    ("  pages", exposed(lambda e: e.pages)),
    ("  most pages at once", exposed(lambda e: e.peak_pages)),
    ("  longest (ms)", exposed(lambda e: e.longest_ns / 1e6)),
    ("  frames reused meanwhile", exposed(lambda e: e.reused_windows)),
    ("  held in a TLB (modelled)", exposed(lambda e: e.held_windows)),
)


def show_comparison(found: Comparison) -> None:
    """Print a comparison: measures down, strategies across, then what it rests on."""
    title = (
        f"{found.workload}: {found.steps:,} steps on {found.cpus} CPUs, pages touched {found.touch}"
    )
    show.table(
        title,
        ["", *(row.strategy for row in found.rows)],
        [[name, *(measure(row) for row in found.rows)] for name, measure in MEASURES],
    )
    show.note(
        f"Not in the figures: {found.unmatched_frees} frees of areas from before the trace; "
        f"{found.damaged_lines} lines that could not be read. "
        f"{found.never_freed} areas were still live at the end. TLB figures follow from the declared "
        "touch model, not from the trace. An operation is an allocation or a free; an exposure window "
        "runs from the free of a page's frame to the invalidation on the last CPU."
    )
    slow = ", ".join(known.name for known in known_strategies.known() if known.by_page)
    show.note(f"Run only when named, since they edit tables for every page touched: {slow}.")
    show.table(
        "Constants behind the cycles",
        ["constant", "value", "unit", "uncertainty", "source"],
        [(c.name, c.value, c.unit, c.uncertainty, c.source) for c in found.constants],
    )


@ptcore.command()
@click.argument("trace", required=False, type=click.Path(dir_okay=False))
@click.option(
    "--strategies",
    "-s",
    "chosen",
    help="Names, or one's own as package.module:maker, separated by commas; default: all but those "
    "that work page by page.",
)
@click.option(
    "--touch",
    default="once",
    show_default=True,
    metavar="none|once|N",
    help="How often each page is accessed by the allocating CPU (a model).",
)
@click.option("--cpus", type=int, help="CPUs of the modelled machine; default: those of the trace.")
@click.option("--json", "json_", is_flag=True, help="Print JSON.")
@says_errors
def compare(
    trace: str | None, chosen: str | None, touch: str, cpus: int | None, json_: bool
) -> None:
    """Compare strategies on TRACE (ftrace text, .gz or .xz; default: the bundled trace)."""
    workload = workload_of(read_trace(trace))
    names = [name.strip() for name in chosen.split(",")] if chosen else None
    if chosen and ":" in chosen:
        sys.path.insert(0, "")  # one's own strategies may stand in the folder one is in
    with progress_bar("comparing") as move:
        found = compare_study(workload, names, touch=touch, cpus=cpus, progress=move)
    if json_:
        show.as_json(found.to_dict())
    else:
        show_comparison(found)


@ptcore.command()
@click.option("--json", "json_", is_flag=True, help="Print JSON.")
def strategies(json_: bool) -> None:
    """List the strategies, and whose policy each is."""
    known = known_strategies.known()
    if json_:
        show.as_json({k.name: {"what": k.sentence, "provenance": k.provenance} for k in known})
    else:
        show.table(
            "Strategies",
            ["strategy", "provenance", "what it does"],
            [(k.name, k.provenance, k.sentence) for k in known],
        )
