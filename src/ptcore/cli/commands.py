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
from ptcore.machine.exposure import Exposure
from ptcore.study import compare as compare_study
from ptcore.study.compare import Comparison, Row
from ptcore.study.validate_vmalloc import VmallocValidation, validate_vmalloc
from ptcore.study.vmalloc_steps import Share
from ptcore.workloads import FtraceLog, read_ftrace, read_sample
from ptcore.workloads.replay import workload_of

DAMAGED_SHOWN = 20


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


def read_trace(path: str | None) -> FtraceLog:
    """Read the trace that was named, or the bundled one; say which lines could not be read."""
    log = read_sample() if path is None else read_ftrace(path)
    for damaged in log.damaged[:DAMAGED_SHOWN]:
        click.echo(f"ptcore: line {damaged.line}: {damaged.reason}", err=True)
    if len(log.damaged) > DAMAGED_SHOWN:
        click.echo(f"ptcore: {len(log.damaged) - DAMAGED_SHOWN} more lines like these", err=True)
    return log


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
    help="Names, or one's own as package.module:maker, separated by commas; default: all.",
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


def _share(found: Share) -> str:
    return f"{found.exact:,} of {found.of:,} ({found.share:.1%})"


def validation_rows(found: VmallocValidation) -> list[tuple[str, str, str]]:
    """Return (part, what, result) of a validation, in the order that it is read."""
    anchored, free, addresses = found.anchored, found.free_running, found.addresses
    rows = [
        ("anchored", f"nr_lazy_max is {anchored.expected_limit_pages:,}", _share(anchored.limit)),
        ("anchored", "nr_lazy after each free", _share(anchored.counts)),
        ("anchored", "the free that crosses the limit", _share(anchored.crossings)),
        ("anchored", "num_purged of each drain", _share(anchored.purged)),
        ("anchored", "pages that each drain takes", _share(anchored.drained_pages)),
        ("anchored", "areas from before the trace", f"{anchored.areas_before:,}"),
        ("anchored", "resets of the count", f"{anchored.resets:,}"),
        ("anchored", "lines recorded out of order", f"{anchored.out_of_order:,}"),
        (
            "free-running",
            "drains, run at once",
            f"{free.immediate:,} for {free.recorded:,} ({free.immediate_error:.1%} off)",
        ),
        (
            "free-running",
            "drains of the second half, delays from the first",
            f"{free.second_half:.2f} for {free.second_half_recorded:,} "
            f"({free.second_half_error:.1%} off)",
        ),
        ("free-running", "CPUs interrupted per drain", f"{free.interrupts_per_drain:,}"),
        ("free-running", "drains whose interrupts match", _share(free.interrupts)),
    ]
    for name, reading in (
        ("one step ahead", addresses.one_step_ahead),
        ("frees read", addresses.frees_read),
        ("open loop", addresses.open_loop),
        ("one step ahead, no warm-up", addresses.from_the_first),
    ):
        rows.append((f"addresses, {name}", "all", _share(reading.all_sizes)))
        rows.append((f"addresses, {name}", "of 1 to 256 pages", _share(reading.pool_sized)))
    rows.append(
        ("addresses", "reuse of a drained area of the size, to beat", _share(addresses.reused))
    )
    for reason, count in addresses.frees_read.misses.items():
        rows.append(("misses, frees read", reason, f"{count:,}"))
    return rows


@ptcore.group()
def validate() -> None:
    """Hold a model against what a kernel did."""


@validate.command("vmalloc")
@click.argument("trace", required=False, type=click.Path(dir_okay=False))
@click.option("--json", "json_", is_flag=True, help="Print JSON.")
@says_errors
def vmalloc(trace: str | None, json_: bool) -> None:
    """Hold the lazy vmalloc model against TRACE (ftrace text; default: the bundled trace)."""
    found = validate_vmalloc(read_trace(trace))
    if json_:
        show.as_json(found.as_dict())
        return
    show.table(
        f"vmalloc: {found.allocations:,} allocations, {found.frees:,} frees, {found.drains:,} drains "
        f"on {found.cpus} CPUs; {found.damaged_lines} damaged lines, {found.lost_events} lost events",
        ["part", "what the model predicts", "exact"],
        validation_rows(found),
    )
    show.note(
        "Anchored: the count is set to the kernel's at its own drains. Free-running: only the areas freed, "
        "in order, and the first nr_lazy are read. Addresses: predicted before they are looked at, after a "
        f"warm-up of {found.addresses.warm_up_drains} drains; one step ahead is corrected after each "
        "prediction; frees read reads no va_start of an allocation, only the addresses of frees; open loop "
        "reads no address at all."
    )
