"""The verbs of translation hardware: `ptcore tlb`, `ptcore presets` and `ptcore convert`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import click

from ptcore.caches import Preset, preset, preset_names
from ptcore.cli import show
from ptcore.cli.ends import says_errors
from ptcore.cli.image_options import JSON
from ptcore.cli.progress import progress_bar
from ptcore.errors import FormatError
from ptcore.study import translation
from ptcore.study.translation import Image, Phase, Source, Sweep, Translation, WalkPath
from ptcore.units import format_size
from ptcore.workloads.accesses import convert as convert_trace

SKIP_BAD = click.option(
    "--skip-bad", is_flag=True, help="Leave damaged records out, and count them."
)


def _share(part: int, of: int) -> str:
    return f"{part / of:.3%}" if of else "-"


def _row(name: str, found: Phase, cycles: float | None) -> list[object]:
    hits = [_share(n, found.accesses) for n in found.hits]
    per_walk = found.references / found.walks if found.walks else None
    walks = _share(found.walks, found.accesses)
    return [name, found.accesses, *hits, walks, found.references, per_walk, found.faults, cycles]


def show_translations(title: str, results: tuple[Translation, ...]) -> None:
    """Print hit rates by CPU, then by page size and by phase."""
    depth = max(len(found.levels) for found in results)
    hits = [f"L{n + 1} hits" for n in range(depth)]
    columns = ["accesses", *hits, "walks", "references", "per walk", "faults", "cycles/access"]

    def padded(row: list[object], levels: int) -> list[object]:
        return [*row[: 2 + levels], *[None] * (depth - levels), *row[2 + levels :]]

    rows = [padded(_row(f.cpu, f.whole, f.cycles), len(f.levels)) for f in results]
    show.table(title, ["cpu", *columns], rows)
    sizes = [
        [
            found.cpu,
            format_size(size),
            *(_share(n, sum(levels) + walks) for n in levels),
            *[None] * (depth - len(levels)),
            _share(walks, sum(levels) + walks),
            ", ".join(format_size(reach) for reach in found.reach_bytes),
        ]
        for found in results
        for size, levels, walks in found.by_size
        if sum(levels) + walks
    ]
    columns_by_size = ["cpu", "page", *hits, "walks", "reach of small pages"]
    show.table("By page size", columns_by_size, sizes, keys=2)
    phases = [
        [found.cpu, n + 1, *padded(_row("", phase, None), len(found.levels))[1:-1]]
        for found in results
        for n, phase in enumerate(found.phases)
        if len(found.phases) > 1
    ]
    if phases:
        show.table("By phase", ["cpu", "phase", *columns[:-1]], phases, keys=2)


def show_walks(results: tuple[Translation, ...]) -> None:
    """Print what walks read and how long they take, where more than one table is read through."""
    told = [f for f in results if f.walks.second_stage or f.walks.cycles_per_walk is not None]
    if not told:
        return
    depth = max(len(found.walks.served) for found in told)
    served = [f"from D{n}" for n in range(1, depth)] + ["from memory"] * (depth > 0)
    rows = [
        [
            found.cpu,
            found.walks.first_stage,
            found.walks.second_stage,
            *found.walks.served,
            found.walks.cycles_per_walk,
            found.walks.waited_per_walk,
            found.walks.cycles_per_access,
        ]
        for found in told
    ]
    columns = ["cpu", "of stage 1", "of stage 2", *served, "cycles/walk", "waited/walk"]
    show.table("What walks read", [*columns, "cycles/access at least"], rows)


@click.command("tlb")
@click.argument("trace", type=click.Path(dir_okay=True))
@click.option(
    "--cpu", "cpus", multiple=True, default=("skylake_sp",), help="A preset or a TOML file."
)
@click.option(
    "--pages",
    default="thp",
    help="4k, 2m, 1g, thp or thp:N (N touched pages make a 2M page), or a file: /proc/PID/maps or smaps, "
    "or a table with the columns va and size, Parquet too.",
)
@click.option(
    "--image",
    type=click.Path(exists=True, dir_okay=False),
    help="A guest's memory: its own tables.",
)
@click.option("--root", help="Where the tables of --image begin, in Python's notation.")
@click.option(
    "--registers",
    type=click.Path(exists=True, dir_okay=False),
    help='JSON that says where: {"architecture": "x86_64", "cr3": ..., ...}.',
)
@click.option(
    "--nested",
    metavar="FORMAT[:SIZE]",
    help="A second stage under the tables, as of a guest, with pages of SIZE (default: the smallest): "
    "ept_4level:2M.",
)
@click.option(
    "--lines",
    metavar="SIZE/WAYS:CYCLES,...,CYCLES",
    help="Data caches that walks read through, then memory: 32K/8:4,1M/16:14,180.",
)
@click.option(
    "--walkers", default=0, help="How many walks may run at once, with --lines; default: no bound."
)
@click.option("--phases", default=4, show_default=True, help="Parts of equal length to report on.")
@click.option(
    "--sweep", "swept", metavar="L2.entries=512..4096", help="Vary one number of a level."
)
@click.option("--format", "form", default=translation.DEFAULT_FORMAT, help="The tables' format.")
@click.option("--form", "trace_form", help="The trace's form, where its content does not tell.")
@click.option("--data-only", is_flag=True, help="Leave instruction fetches out.")
@SKIP_BAD
@JSON
@says_errors
def tlb_command(
    trace: str,
    cpus: tuple[str, ...],
    pages: str,
    image: str | None,
    root: str | None,
    registers: str | None,
    phases: int,
    swept: str | None,
    form: str,
    trace_form: str | None,
    data_only: bool,
    skip_bad: bool,
    json_: bool,
    **walk: Any,
) -> None:
    """Run the accesses of TRACE through the TLBs of CPUs; see docs/recording-accesses.md for traces."""
    source = Source(trace, trace_form, skip_bad, data_only)
    chosen = translation.cpus_named(cpus)
    guest = _image(image, root, registers)
    path = WalkPath.parse(**walk)
    made: dict[str, Any] = {"pages": pages, "form": form, "image": guest, "path": path}
    with progress_bar("ptcore tlb") as move:
        if swept:
            wanted = Sweep.parse(swept)
            results = translation.sweep(source, chosen, wanted, progress=move, **made)
        else:
            results = translation.simulate(source, chosen, phases=phases, progress=move, **made)
    if json_:
        show.as_json({"trace": trace, "results": [found.to_dict() for found in results]})
        return
    said = f"made with --pages {pages}" if guest is None else f"of {image}"
    show_translations(f"{trace}: tables {said}", results)
    show_walks(results)
    modelled = (
        "Modelled: the trace has no page tables; these map what it touches. "
        if guest is None
        else ""
    )
    show.note(
        f"{modelled}cycles/access is what a source gives for lower hits and walks, beyond a hit in the first "
        "level ('-': no source)."
    )


def _image(image: str | None, root: str | None, registers: str | None) -> Image | None:
    if image is None:
        if root or registers:
            raise FormatError("--root and --registers say where the tables of an --image begin")
        return None
    try:
        return Image(image, None if root is None else int(root, 0), registers)
    except ValueError:
        raise FormatError(f"--root {root!r} is no number") from None


def _drawn(found: Preset) -> list[list[object]]:
    return [
        [
            level.name,
            array.entries,
            array.ways,
            array.entries // array.ways,
            " ".join(map(str, array.page_sizes)),
            " ".join(array.sides),
            f"page ^ page >> {array.index_xor}" if array.index_xor else "page",
            array.policy,
            level.inclusion,
            level.cycles,
        ]
        for level in found.levels
        for array in level.arrays
    ]


@click.command("presets")
@click.argument("name", required=False)
@JSON
@says_errors
def presets_command(name: str | None, json_: bool) -> None:
    """List the CPUs that there are presets of, or show NAME with the source of every field."""
    if name is None:
        every = [preset(known) for known in preset_names()]
        if json_:
            show.as_json({"presets": [asdict(found) for found in every]})
        else:
            show.table("Presets", ["preset", "what"], [(f.name, f.title) for f in every])
        return
    found = preset(name)
    if json_:
        show.as_json(asdict(found))
        return
    columns = ["level", "entries", "ways", "sets", "pages", "sides", "index", "policy", "inclusion"]
    show.table(f"{found.name}: {found.title}", [*columns, "cycles"], _drawn(found))
    if found.walk_cache:
        rows = sorted(found.walk_cache.items(), reverse=True)
        show.table("Paging-structure caches", ["level of the item", "entries"], rows)
    sources = [(key, *text.split(": ", 1)) for key, text in found.sources.items()]
    show.table("Sources", ["field", "confidence", "source"], sources)
    for text in found.notes:
        show.note(text)


@click.command("convert")
@click.argument("source", type=click.Path(dir_okay=True))
@click.argument("target", type=click.Path(dir_okay=False))
@click.option("--form", help="The source's form, where its content does not tell.")
@click.option("--to", help="The target's form, where its name does not tell.")
@SKIP_BAD
@says_errors
def convert_command(
    source: str, target: str, form: str | None, to: str | None, skip_bad: bool
) -> None:
    """Write the accesses of SOURCE to TARGET: .npz, .parquet, lackey text or ChampSim records."""
    done = convert_trace(source, target, form, to, skip_bad)
    text = f"{target}: {done.accesses:,} accesses"
    text += f"; {done.skipped:,} damaged records skipped" if done.skipped else ""
    text += f"; not kept: {', '.join(done.lost)}" if done.lost else ""
    show.note(text)
