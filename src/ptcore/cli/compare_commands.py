"""`ptcore compare`: strategies on workloads, and who answers which question best."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import gettempdir
from typing import Any

import click

from ptcore import strategies as known_strategies
from ptcore.cli import show
from ptcore.cli.ends import says_errors
from ptcore.cli.image_options import JSON
from ptcore.cli.progress import progress_bar
from ptcore.cli.validate_commands import read_trace
from ptcore.errors import FormatError, TraceError
from ptcore.machine import Ledger
from ptcore.machine.cost import DEFAULT_CONSTANTS, read_constants
from ptcore.machine.machine import DEFAULT_PRESET
from ptcore.machine.shootdown import SHOOTDOWNS
from ptcore.study.compare import ROWS_IN_MEMORY, Comparison, compare_all, machines_of
from ptcore.study.measures import GROUPS, Measured
from ptcore.study.questions import QUESTIONS, WINNERS, Answer, answers, winners
from ptcore.study.regret import Phase, regret
from ptcore.study.report import expect_report, report
from ptcore.study.tables import expect_parquet, write_parquet
from ptcore.study.uncertainty import factor
from ptcore.workloads.own import own_workload
from ptcore.workloads.recorded import MOST_USES, access_workload, form_of_accesses, workload_of
from ptcore.workloads.scenarios import DEFAULT_CPUS, DEFAULT_SIZE, SCENARIOS, scenario
from ptcore.workloads.steps import Workload

ALIKE_SHOWN = 3
ALL = "all"


def in_words(answer: Answer) -> str:
    """Return an answer as one sentence: winner, figure, the next one, margin."""
    alike = answer.winners
    if not alike:
        return answer.verdict
    named = answer.winner if len(alike) <= ALIKE_SHOWN else f"{len(alike)} strategies alike"
    said = f"{named}: {show.number(answer.best)}"
    if answer.runner_up is None:
        return f"{said} ({answer.verdict})" if answer.verdict == "alone" else said
    return f"{said}; next {answer.runner_up}: {show.number(answer.next)}; {answer.verdict}"


def _asked(one: Sequence[Answer]) -> list[tuple[object, ...]]:
    if show.on_terminal():
        return [(a.question.name, a.question.text, in_words(a)) for a in one]
    return [
        (a.question.name, a.question.text, a.winner, a.best, a.runner_up, a.next, a.verdict)
        for a in one
    ]


def show_answers(found: Comparison) -> None:
    """Print the winners and the answers to the ten questions."""
    wide = ["winner", "figure", "next", "figure of the next", "margin"]
    columns = ["", "question", *(["answer"] if show.on_terminal() else wide)]
    show.table("Winners", columns, _asked(winners(found)))
    show.table("Who answers what developers ask best", columns, _asked(answers(found)))


def show_measures(found: Comparison) -> None:
    """Print every figure: on a terminal strategies down, a table per group; in a pipe measures down."""
    if not show.on_terminal():
        rows = [
            [name, *(measure(row) for row in found.rows)]
            for group in GROUPS
            for name, _, measure in group.measures
        ]
        show.table("Every figure", ["", *(row.strategy for row in found.rows)], rows)
        return
    for group in GROUPS:
        shown = [
            (short, measure)
            for _, short, measure in group.measures
            if any(measure(row) is not None for row in found.rows)
        ]
        lines = [[row.strategy, *(_short(m(row)) for _, m in shown)] for row in found.rows]
        told = [line for line in lines if any(cell is not None for cell in line[1:])]
        if told:
            show.split_table(group.title, ["strategy", *(short for short, _ in shown)], told)


def _short(value: Measured) -> Measured:
    return "by design" if isinstance(value, str) else value


def show_one(several: Sequence[Comparison], sources: bool = False) -> None:
    """Print a comparison on one workload: answers, every figure, what they rest on."""
    (found,) = several
    show.note(
        f"{found.workload}: {found.steps:,} steps on {found.cpus} CPUs ({found.cpu}, tables of "
        f"{found.format}, shootdown by {found.shootdown}), pages touched {found.touch}"
    )
    show_answers(found)
    show_measures(found)
    show.note(
        f"Not in the figures: {found.unmatched_frees} frees of areas from before the trace; "
        f"{found.damaged_lines} lines that could not be read. "
        f"{found.never_freed} areas were still live at the end. TLB figures follow from the accesses of the "
        "workload or of the touch model. An operation is an allocation or a free; an exposure window runs "
        "from the free of a page's frame to the invalidation on the last CPU."
    )
    _show_unserved(found)
    _show_rest(found, sources)


def _show_unserved(found: Comparison) -> None:
    for name, reason in found.unserved:
        show.note(f"{name} could not serve {found.workload}: {reason}.")


def _show_rest(found: Comparison, sources: bool) -> None:
    show.note(
        "A margin is how many times as much the next one has; in brackets its bounds within the uncertainty "
        "of the constants, which both share. A device's own walks cost no CPU: they are counted."
    )
    if show.on_terminal() and not sources:
        show.note(
            f"The cycles rest on {len(found.constants)} constants, each with its uncertainty and its source: "
            "--sources lists them."
        )
        return
    if show.on_terminal():
        columns = ["constant", "value", "off by", "source"]
        rows: list[tuple[object, ...]] = [
            (c.name, f"{show.number(c.value)} {c.unit}", f"x{factor(c):g}", c.source)
            for c in found.constants
        ]
    else:
        columns = ["constant", "value", "unit", "uncertainty", "source"]
        rows = [(c.name, c.value, c.unit, c.uncertainty, c.source) for c in found.constants]
    show.table("Constants behind the cycles", columns, rows)


def show_several(several: Sequence[Comparison], sources: bool = False) -> None:
    """Print the winners by workload, then question by question."""
    names = [found.workload.partition(",")[0] for found in several]
    table = [
        [name, *(in_words(answer) for answer in winners(found))]
        for name, found in zip(names, several, strict=True)
    ]
    columns = ["workload", *(f"{question.name} (cycles/op)" for question in WINNERS)]
    show.table("Winners", columns, table)
    for number, question in enumerate(QUESTIONS):
        rows = [
            [name, in_words(answers(found)[number])]
            for name, found in zip(names, several, strict=True)
        ]
        show.table(f"{question.name}: {question.text}", ["workload", "answer"], rows)
    for found in several:
        _show_unserved(found)
    _show_rest(several[0], sources)


def show_regret(workload: str, phases: Sequence[Phase]) -> None:
    """Print what the hybrid cost beside the best of its parts alone, phase by phase."""
    rows = [
        [
            n,
            phase.start_ns / 1e6,
            phase.cycles,
            phase.best,
            phase.alone[phase.best],
            f"{phase.regret:+.1%}",
        ]
        for n, phase in enumerate(phases, 1)
    ]
    show.table(
        f"The hybrid on {workload} beside the best of its parts alone",
        ["phase", "from (ms)", "cycles", "best part", "its cycles", "regret"],
        rows,
    )


def _strategies(chosen: str | None) -> list[str] | None:
    if chosen == ALL:
        return list(known_strategies.names())
    return [name.strip() for name in chosen.split(",")] if chosen else None


@dataclass(frozen=True)
class _Ledgers:
    """Where ledgers go: a file each, or a folder of parts where one outgrows `rows`."""

    folder: Path | None
    several: bool
    rows: int
    open: list[Path] = field(default_factory=list)  # where the ledger of now goes

    def _place(self, workload: str, strategy: str) -> Path | None:
        if self.folder is None:
            return None
        return self.folder / (workload.partition(",")[0] if self.several else "") / strategy

    def new(self, workload: str, strategy: str) -> Ledger:
        """Return a strategy's ledger; what an earlier run left in its place goes."""
        place = self._place(workload, strategy)
        self.open[:] = [] if place is None else [place]
        for old in () if place is None else (place, _unfinished(place)):
            old.with_name(f"{old.name}.npz").unlink(missing_ok=True)
            for part in old.glob("part-*"):
                part.unlink()
        return Ledger(limit_rows=self.rows, spill=place)

    def keep(self, workload: str, strategy: str, ledger: Ledger) -> None:
        """Write what is in memory; a ledger that did not come to its end gets a name that says so."""
        place = self._place(workload, strategy)
        if place is None:
            return
        broken_off = sys.exc_info()[1] is not None
        kept = _unfinished(place) if broken_off else place
        place.parent.mkdir(parents=True, exist_ok=True)
        if not ledger.streamed:
            if place.is_dir():  # its first part found no room
                place.rmdir()
            ledger.save(kept.with_name(f"{kept.name}.npz"))
            return
        try:
            ledger.close()
        finally:
            if broken_off:
                shutil.rmtree(kept, ignore_errors=True)
                place.rename(kept)

    @contextmanager
    def named_in_errors(self) -> Iterator[None]:
        """Say where a ledger found no room, if the system does not."""
        try:
            yield
        except OSError as error:
            if error.filename is None:
                error.filename = str(next(iter(self.open), gettempdir()))
            raise


def _unfinished(place: Path) -> Path:
    return place.with_name(f"{place.name}.unfinished")


def _workload(name: str | None, size: int, cpus: int | None, seed: int, uses: int) -> Workload:
    if name in SCENARIOS:
        return scenario(name, size, cpus or DEFAULT_CPUS, seed)
    if name is not None and ":" in name and not Path(name).exists():
        sys.path.insert(0, "")  # one's own may stand in the folder one is in
        return own_workload(name)
    path = None if name is None else Path(name)
    if path is not None and not path.suffix and path.name == name and not path.exists():
        known = ", ".join(SCENARIOS)
        raise TraceError(f"{name!r} is neither a file nor one of the scenarios: {known}")
    form = None if path is None else form_of_accesses(path)
    if path is not None and form is not None:
        return access_workload(path, form, most=uses)
    return workload_of(read_trace(name))


def _workloads(named: Sequence[str | None], *options: Any) -> list[Workload]:
    # What one's own code prints keeps the terminal for itself.
    if not all(name in SCENARIOS for name in named):
        return [_workload(name, *options) for name in named]
    found = []
    with progress_bar("making the steps") as move:
        for number, name in enumerate(named):
            move(str(name), number, len(named))
            found.append(_workload(name, *options))
    return found


def _as_dict(found: Comparison) -> dict[str, Any]:
    return {
        **found.to_dict(),
        "winners": [a.as_dict() for a in winners(found)],
        "answers": [a.as_dict() for a in answers(found)],
    }


def _regrets(
    workloads: Sequence[Workload],
    *,
    cpu: str,
    format: str | None,
    shootdown: str | None,
    **options: Any,
) -> list[tuple[Phase, ...]]:
    options["machine"] = partial(machines_of(cpu, format, shootdown), "")
    with progress_bar("regret") as move:
        return [regret(workload, progress=move, **options) for workload in workloads]


@click.command()
@click.argument("workloads", nargs=-1, metavar="[SCENARIO|TRACE]...")
@click.option("--all-scenarios", is_flag=True, help="All that ptcore scenarios lists.")
@click.option(
    "--strategies",
    "-s",
    "chosen",
    help="Names, or one's own as package.module:maker, separated by commas, or 'all'; default: all.",
)
@click.option(
    "--touch",
    metavar="none|once|N",
    help="How often each page is accessed by the allocating CPU, a model; default: as the workload says, "
    "or once.",
)
@click.option(
    "--cpus",
    type=int,
    help=f"CPUs of the modelled machine; default: those of the trace, {DEFAULT_CPUS} for a scenario.",
)
@click.option(
    "--cpu",
    default=DEFAULT_PRESET,
    show_default=True,
    help="Whose translation hardware the machine has: ptcore presets lists them; or a TOML file.",
)
@click.option(
    "--format",
    metavar="NAME",
    help="Of the CPUs' tables: ptcore formats lists them; default: those of x86-64, whatever the --cpu.",
)
@click.option(
    "--shootdown",
    type=click.Choice(tuple(SHOOTDOWNS)),
    help="How a CPU reaches the others: interrupts (the default), or a broadcast of commands, each of a "
    "range (Arm's TLBI) or of a count of pages (AMD's INVLPGB).",
)
@click.option("--size", default=DEFAULT_SIZE, show_default=True, help="Allocations of a scenario.")
@click.option("--seed", default=1, show_default=True, help="Of a scenario's random numbers.")
@click.option(
    "--uses",
    default=MOST_USES,
    show_default=True,
    help="Of a trace of accesses, how many uses of pages to take.",
)
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
@click.option(
    "--ledger-rows",
    default=ROWS_IN_MEMORY,
    show_default=True,
    type=click.IntRange(min=1),
    help="Rows of a ledger in memory; beyond, it becomes a folder of parts (Parquet with the extra parquet).",
)
@click.option(
    "--html", type=click.Path(dir_okay=False), help="Write a report in one file (extra: report)."
)
@click.option(
    "--parquet",
    type=click.Path(dir_okay=False),
    help="Write every figure, a row per workload and strategy (extra: parquet).",
)
@click.option(
    "--sources",
    is_flag=True,
    help="List the constants behind the cycles, with their sources, on a terminal too.",
)
@click.option(
    "--regret",
    "regret_",
    is_flag=True,
    help="Say what the hybrid cost beside the best of its parts alone, phase by phase.",
)
@JSON
@says_errors
def compare(
    workloads: tuple[str, ...],
    all_scenarios: bool,
    chosen: str | None,
    size: int,
    seed: int,
    uses: int,
    constants: str | None,
    ledgers: str | None,
    ledger_rows: int,
    html: str | None,
    parquet: str | None,
    regret_: bool,
    sources: bool,
    json_: bool,
    **machine: Any,
) -> None:
    """Compare strategies on SCENARIOs (ptcore scenarios lists them) or TRACEs.

    A trace is ftrace text (.gz or .xz too) or accesses in a form that ptcore tlb reads; by default it is
    the bundled one. A workload of one's own is package.module:function.
    """
    if all_scenarios and workloads:
        raise FormatError("either scenarios by name or --all-scenarios")
    named: Sequence[str | None] = tuple(SCENARIOS) if all_scenarios else workloads or (None,)
    steps = _workloads(named, size, machine["cpus"], seed, uses)
    if chosen and ":" in chosen:
        sys.path.insert(0, "")  # one's own strategies may stand in the folder one is in
    prices = DEFAULT_CONSTANTS if constants is None else read_constants(constants)
    places = _Ledgers(None if ledgers is None else Path(ledgers), len(steps) > 1, ledger_rows)
    expect_report(html)
    expect_parquet(parquet)
    with places.named_in_errors(), progress_bar("comparing") as move:
        several = compare_all(
            steps,
            _strategies(chosen),
            constants=prices,
            progress=move,
            keep=places.keep,
            ledger=places.new,
            **machine,
        )
    if html is not None:
        report(several, html)
    lost = _regrets(steps, constants=prices, **machine) if regret_ else []
    if parquet is not None:
        write_parquet(several, parquet)
    if json_:
        found = [_as_dict(one) for one in several]
        for one, phases in zip(found, lost, strict=False):
            one["regret"] = [phase.as_dict() for phase in phases]
        show.as_json(found[0] if len(found) == 1 else {"comparisons": found})
        return
    (show_one if len(several) == 1 else show_several)(several, sources)
    for compared, phases in zip(several, lost, strict=False):
        show_regret(compared.workload, phases)
