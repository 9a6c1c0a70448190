"""The verbs of the command line. Each calls one public function and shows what it returns."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import click

from ptcore import strategies as known_strategies
from ptcore.cli import show
from ptcore.cli.ends import says_errors
from ptcore.cli.format_commands import decode_command, formats_command
from ptcore.cli.group import ptcore
from ptcore.cli.progress import progress_bar
from ptcore.cli.tlb_commands import convert_command, presets_command, tlb_command
from ptcore.cli.validate_commands import read_trace, validate
from ptcore.errors import TraceError
from ptcore.machine import Ledger
from ptcore.machine.cost import DEFAULT_CONSTANTS, read_constants
from ptcore.machine.exposure import Exposure
from ptcore.study import compare as compare_study
from ptcore.study.compare import Comparison, Row
from ptcore.study.questions import answers
from ptcore.study.story import story
from ptcore.workloads.recorded import workload_of
from ptcore.workloads.scenarios import DEFAULT_CPUS, DEFAULT_SIZE, SCENARIOS, scenario
from ptcore.workloads.steps import Workload

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
    show.table(
        "Who answers what developers ask best",
        ["", "question", "winner", "figure", "next", "figure of the next", ""],
        [
            (
                a.question.name,
                a.question.text,
                _few(a.winner),
                a.best,
                a.runner_up,
                a.next,
                a.verdict,
            )
            for a in answers(found)
        ],
    )
    slow = ", ".join(known.name for known in known_strategies.known() if known.by_page)
    show.note(f"Run only when named, since they edit tables for every page touched: {slow}.")
    show.table(
        "Constants behind the cycles",
        ["constant", "value", "unit", "uncertainty", "source"],
        [(c.name, c.value, c.unit, c.uncertainty, c.source) for c in found.constants],
    )


def _saver(folder: Path) -> Callable[[str, Ledger], None]:
    folder.mkdir(parents=True, exist_ok=True)
    return lambda name, ledger: ledger.save(folder / f"{name}.npz")


@ptcore.command()
@click.argument("ledger", type=click.Path(exists=True, dir_okay=False))
@click.option("--pa", help="A physical address of the page; default: one that was exposed longest.")
@says_errors
def explain(ledger: str, pa: str | None) -> None:
    """Tell one page's life in words, from a LEDGER that compare --ledgers saved."""
    for line in story(Ledger.load(ledger), None if pa is None else int(pa, 0)):
        click.echo(line)


def _few(names: str) -> str:
    several = names.split(", ")
    return names if len(several) < 4 else f"{len(several)} strategies alike"


def _workload(name: str | None, size: int, cpus: int | None, seed: int) -> Workload:
    if name in SCENARIOS:
        return scenario(name, size, cpus or DEFAULT_CPUS, seed)
    if (
        name is not None
        and not Path(name).suffix
        and Path(name).name == name
        and not Path(name).exists()
    ):
        known = ", ".join(SCENARIOS)
        raise TraceError(f"{name!r} is neither a file nor one of the scenarios: {known}")
    return workload_of(read_trace(name))


@ptcore.command()
@click.option("--json", "json_", is_flag=True, help="Print JSON.")
def scenarios(json_: bool) -> None:
    """List the made-up workloads that `compare` takes by name."""
    if json_:
        show.as_json({s.name: s.sentence for s in SCENARIOS.values()})
    else:
        rows = [(s.name, s.sentence) for s in SCENARIOS.values()]
        show.table("Scenarios", ["scenario", "what it is"], rows)


@ptcore.command()
@click.argument("workload", required=False, metavar="[SCENARIO|TRACE]")
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
    help="How often each page is accessed by the allocating CPU, a model; default: as the workload says, "
    "or once.",
)
@click.option(
    "--cpus",
    type=int,
    help=f"CPUs of the modelled machine; default: those of the trace, {DEFAULT_CPUS} for a scenario.",
)
@click.option("--size", default=DEFAULT_SIZE, show_default=True, help="Allocations of a scenario.")
@click.option("--seed", default=1, show_default=True, help="Of a scenario's random numbers.")
@click.option(
    "--constants",
    type=click.Path(exists=True, dir_okay=False),
    help="TOML of constants to price by, in the places of the default ones.",
)
@click.option(
    "--ledgers",
    type=click.Path(file_okay=False),
    help="A folder to save each strategy's ledger in, for ptcore explain.",
)
@click.option("--json", "json_", is_flag=True, help="Print JSON.")
@says_errors
def compare(
    workload: str | None,
    chosen: str | None,
    touch: str | None,
    cpus: int | None,
    size: int,
    seed: int,
    constants: str | None,
    ledgers: str | None,
    json_: bool,
) -> None:
    """Compare strategies on a SCENARIO (ptcore scenarios lists them) or a TRACE.

    A trace is ftrace text, .gz or .xz; by default it is the bundled one.
    """
    steps = _workload(workload, size, cpus, seed)
    names = [name.strip() for name in chosen.split(",")] if chosen else None
    if chosen and ":" in chosen:
        sys.path.insert(0, "")  # one's own strategies may stand in the folder one is in
    priced = DEFAULT_CONSTANTS if constants is None else read_constants(constants)
    with progress_bar("comparing") as move:
        found = compare_study(
            steps,
            names,
            touch=touch,
            cpus=cpus,
            constants=priced,
            progress=move,
            keep=None if ledgers is None else _saver(Path(ledgers)),
        )
    if json_:
        show.as_json({**found.to_dict(), "answers": [a.as_dict() for a in answers(found)]})
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
