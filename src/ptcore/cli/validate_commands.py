"""`ptcore validate`: a model against what a kernel did."""

from __future__ import annotations

import click

from ptcore.allocators.iova import MAGAZINE_PAGES
from ptcore.cli import show
from ptcore.cli.ends import says_errors
from ptcore.cli.image_options import JSON
from ptcore.cli.progress import progress_bar
from ptcore.study.validate_iommu import IommuValidation, validate_iommu
from ptcore.study.validate_published import Outcome, validate_published
from ptcore.study.validate_vmalloc import VmallocValidation, validate_vmalloc
from ptcore.study.vmalloc_steps import Share
from ptcore.workloads import FtraceLog, read_ftrace, read_sample
from ptcore.workloads.ftrace import SAMPLE, SAMPLES_IOMMU

DAMAGED_SHOWN = 20


def read_trace(path: str | None, sample: str = SAMPLE) -> FtraceLog:
    """Read the trace that was named, or a bundled one; say which lines could not be read."""
    log = read_sample(sample) if path is None else read_ftrace(path)
    for damaged in log.damaged[:DAMAGED_SHOWN]:
        click.echo(f"ptcore: line {damaged.line}: {damaged.reason}", err=True)
    if len(log.damaged) > DAMAGED_SHOWN:
        click.echo(f"ptcore: {len(log.damaged) - DAMAGED_SHOWN} more lines like these", err=True)
    return log


@click.group(invoke_without_command=True)
@JSON
@click.pass_context
@says_errors
def validate(context: click.Context, json_: bool) -> None:
    """Hold the models against recorded kernels and published numbers; alone, against all of them."""
    if context.invoked_subcommand is not None:
        return
    areas, addresses, outcomes = _vmalloc(None), _iommu(None), _published()
    if json_:
        found = {
            "vmalloc": areas.as_dict(),
            "iommu": {name: result.as_dict() for name, result in addresses},
            "published": [outcome.as_dict() for outcome in outcomes],
        }
        show.as_json(found)
        return
    show_vmalloc(areas)
    show_iommu(addresses)
    show_published(outcomes)
    missed = [outcome for outcome in outcomes if "missed" in outcome.verdict]
    names = ", ".join(dict.fromkeys(outcome.target.name for outcome in missed)) or "none"
    show.note(f"{len(outcomes)} published figures, of which {len(missed)} are missed: {names}.")


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


def _vmalloc(trace: str | None) -> VmallocValidation:
    return validate_vmalloc(read_trace(trace))


@validate.command("vmalloc")
@click.argument("trace", required=False, type=click.Path(dir_okay=False))
@JSON
@says_errors
def vmalloc(trace: str | None, json_: bool) -> None:
    """Hold the lazy vmalloc model against TRACE (ftrace text; default: the bundled trace)."""
    found = _vmalloc(trace)
    if json_:
        show.as_json(found.as_dict())
    else:
        show_vmalloc(found)


def show_vmalloc(found: VmallocValidation) -> None:
    """Print what the model of vmalloc predicted."""
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


def iommu_rows(found: IommuValidation) -> list[tuple[str, str, str]]:
    """Return (part, what, result) of a validation, in the order that it is read."""
    ticks = found.ticks
    rows = [
        ("mode", "strict, or deferred and its tick", found.mode)
        if ticks is None
        else ("mode", "strict, or deferred and its tick", f"{found.mode}, {ticks.rate} Hz"),
        ("magazines", "allocations that one served", _share(found.magazines)),
    ]
    for name, reading in (
        ("one step ahead", found.one_step_ahead),
        ("open loop", found.open_loop),
    ):
        rows.append((f"addresses, {name}", "all", _share(reading.all)))
        rows.append((f"addresses, {name}", "after a warm-up", _share(reading.warm)))
        rows.append((f"addresses, {name}", "of the second half", _share(reading.later)))
    for reason, count in found.one_step_ahead.misses.items():
        rows.append(("misses, one step ahead", reason, f"{count:,}"))
    return rows


def _iommu(trace: str | None) -> list[tuple[str, IommuValidation]]:
    found = []
    for name in SAMPLES_IOMMU if trace is None else (SAMPLE,):
        log = read_trace(trace, name)
        with progress_bar("validating") as move:
            found.append((log.name, validate_iommu(log, move)))
    return found


@validate.command("iommu")
@click.argument("trace", required=False, type=click.Path(dir_okay=False))
@JSON
@says_errors
def iommu(trace: str | None, json_: bool) -> None:
    """Hold the model of I/O addresses against TRACE (ftrace text; default: both bundled traces)."""
    found = _iommu(trace)
    if json_:
        show.as_json({name: result.as_dict() for name, result in found})
    else:
        show_iommu(found)


def show_iommu(found: list[tuple[str, IommuValidation]]) -> None:
    """Print what the model of I/O addresses predicted, trace by trace."""
    for name, result in found:
        show.table(
            f"{name}: {result.allocations:,} ranges in {result.mapped_lines:,} pieces on {result.cpus} CPUs; "
            f"{result.unmatched_frees} freed that were mapped before, {result.never_freed} never freed, "
            f"{result.damaged_lines} damaged lines, {result.lost_events} lost events",
            ["part", "what the model predicts", "exact"],
            iommu_rows(result),
        )
    show.note(
        "Each address is predicted from CPU, time and number of pages before it is looked at. One step "
        "ahead is told the address after each prediction; open loop only that of the first allocation. "
        "In deferred mode the rate and phase of the tick are those that predict the first half best: the "
        "second half is the judge. The "
        f"warm-up is {MAGAZINE_PAGES} allocations."
    )


def _modelled(found: Outcome) -> str:
    if found.model is None:
        return "-"
    if found.uncertainty is not None:
        return f"{found.model:,.3g} ± {found.uncertainty:.1g}"
    return f"{found.model:,.4g}" if found.model < 10_000 else f"{found.model:,.0f}"


def published_rows(found: tuple[Outcome, ...]) -> list[tuple[str, ...]]:
    """Return target, what, published, model, deviation, verdict and source of every outcome."""
    return [
        (
            o.target.name,
            o.target.what,
            f"{o.target.published:,g} {o.target.unit}".strip(),
            _modelled(o),
            "-" if o.deviation is None else f"{o.deviation:+.1%}",
            o.verdict,
            o.target.source,
        )
        for o in found
    ]


def _published() -> tuple[Outcome, ...]:
    with progress_bar("validating") as move:
        return validate_published(move)


@validate.command("published")
@JSON
@says_errors
def published(json_: bool) -> None:
    """Hold the models against published numbers, T1 to T15; misses are shown as misses."""
    found = _published()
    if json_:
        show.as_json({"targets": [outcome.as_dict() for outcome in found]})
    else:
        show_published(found)


def show_published(found: tuple[Outcome, ...]) -> None:
    """Print every target, what the model says, and whether that is met."""
    columns = ["", "what", "published", "model", "deviation", "verdict", "source"]
    rows = published_rows(found)
    if show.is_narrow():  # the source below what it is the source of
        columns = columns[:-1]
        rows = [(row[0], f"{row[1]}\n({row[-1]})", *row[2:-1]) for row in rows]
    show.table("Published numbers", columns, rows)
    rests = {o.target.rests_on for o in found if o.target.rests_on}
    show.note(
        "A prediction runs the mechanism and nothing in it was fitted to the number; met is within 10 %. A "
        "calibration shows how well a constant fits what it was taken from. Shape only: the figure rests on "
        f"what has no citation ({'; '.join(sorted(rests))})."
    )
