"""The verbs that read the tables of an image: registers, walk, maps, find, stat and diff."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import lru_cache
from typing import Any

import click
import numpy as np

from ptcore.cli.ends import FOUND, says_errors
from ptcore.cli.group import ptcore
from ptcore.cli.image_options import (
    FORM,
    IMAGE,
    JSON,
    NUMBER,
    Chosen,
    Space,
    choose,
    chosen_in,
    image_options,
)
from ptcore.cli.listings import (
    OUTPUT,
    check_output,
    dicts,
    hexadecimal,
    print_json,
    print_lines,
    print_object,
    size_text,
    sizes_text,
    write_rows,
)
from ptcore.cli.places import ImagePlace, opened
from ptcore.errors import Fault, FormatError
from ptcore.formats import explain
from ptcore.formats import registers as known_registers
from ptcore.formats.encode import rights_names
from ptcore.formats.schema import Format
from ptcore.memory import Image
from ptcore.table import Nested, PageTable, Step, Walk
from ptcore.table.diff import Change, diff
from ptcore.table.nested import NestedWalk
from ptcore.table.ranges import may, merged, reverse_many, usage
from ptcore.table.rows import Flag, RowKind
from ptcore.units import format_size

ACCESS = click.option(
    "--access",
    default="",
    help="Letters of r, w, x: judge such an access too, not the mapping alone.",
)
USER = click.option("--user", is_flag=True, help="Of an access from user mode.")
FIRST = click.option("--first", type=NUMBER, default=0, help="The first address to look at.")
LAST = click.option("--last", type=NUMBER, help="The last one, inclusive.")


def stages_of(space: Space) -> list[PageTable]:
    """Return the tables that a space's addresses go through first."""
    tables = [space] if isinstance(space, PageTable) else list(space)
    return [table.stage1 if isinstance(table, Nested) else table for table in tables]


def format_of_space(space: Space) -> Format:
    """Return the format of a space's (first) table, for what its rows mean."""
    return stages_of(space)[0].format


# -- registers -----------------------------------------------------------------------------------


@ptcore.command("registers")
@IMAGE
@FORM
@JSON
@says_errors
def registers_command(image: str, form: str | None, json_: bool) -> None:
    """Show what IMAGE says of its CPUs, or what to pass where it says nothing."""
    memory = opened(image, form)
    plans = [_plan_of(cpu.architecture, cpu.registers) for cpu in memory.cpus]
    if json_:
        cpus = [
            {
                "architecture": cpu.architecture,
                "registers": {name: f"{value:#x}" for name, value in cpu.registers.items()},
                "translates": plan,
            }
            for cpu, plan in zip(memory.cpus, plans, strict=True)
        ]
        spans = [{"first": f"{s.start:#x}", "last": f"{s.last:#x}"} for s in memory.segments]
        print_object({"form": memory.form, "memory": spans, "cpus": cpus})
        return
    _show_memory(memory)
    for n, (cpu, plan) in enumerate(zip(memory.cpus, plans, strict=True)):
        click.echo(f"\nCPU {n}, {cpu.architecture or 'of an unknown architecture'}: {plan}")
        meanings = _meanings(cpu.architecture)
        print_lines(
            ("register", "value", "meaning"),
            [(k, f"{v:#x}", meanings.get(k, "")) for k, v in cpu.registers.items()],
        )
    if not any(cpu.registers for cpu in memory.cpus):
        click.echo("\nThe image holds no registers that say where tables are. Pass some of these:")
        _show_registers()


def _meanings(architecture: str) -> dict[str, str]:
    if architecture not in known_registers.architectures():
        return {}
    return {register.name: register.meaning for register in known_registers.known(architecture)}


def _show_memory(image: Image) -> None:
    click.echo(f"{image.path}: {image.form}, {size_text(image.size)} of memory")
    print_lines(
        ("physical addresses", "size"),
        ((f"{s.start:#x}..{s.last:#x}", size_text(s.size)) for s in image.segments),
        right=("size",),
    )


def _plan_of(architecture: str, registers: dict[str, int]) -> str:
    """Return in words what tables registers stand for, or why for none."""
    if not registers:
        return "no registers of translation"
    try:
        plan = known_registers.decode(architecture, registers)
    except FormatError as error:
        return str(error)
    parts = [f"{part.format.name}, root {part.root:#x}" for part in plan.parts]
    if plan.stage2 is not None:
        parts.append(f"second stage {plan.stage2.format.name}, root {plan.stage2.root:#x}")
    return "; ".join(parts)


def _show_registers() -> None:
    for architecture in known_registers.having(()):
        usual = known_registers.usual(architecture)
        click.echo(f"\n{architecture}")
        lines = []
        for register in sorted(known_registers.known(architecture), key=lambda r: r.rare):
            also = f", --{register.also.replace('_', '-')}" if register.also else ""
            default = f" (assumed: {usual[register.name]:#x})" if register.name in usual else ""
            flag = f"--{register.name.replace('_', '-')}{also}"
            lines.append((flag, register.meaning + default))
        print_lines(("option", "what it says"), lines)


# -- walk ----------------------------------------------------------------------------------------


@ptcore.command("walk")
@IMAGE
@click.argument("addresses", nargs=-1, required=True, type=NUMBER, metavar="VA...")
@image_options
@ACCESS
@USER
@JSON
@says_errors
def walk_command(
    image: str, addresses: tuple[int, ...], access: str, user: bool, json_: bool, **given: Any
) -> None:
    """Show the path of each VA, level by level: every item, what it says, and the fault if there is one.

    Exit 1 if an address faults.
    """
    chosen = choose(image, given)
    space = chosen.only("walk")
    walks = [(va, space.walk(va), _fault_of(space, va, access, user)) for va in addresses]
    if json_:
        shown = [_walk_as_json(walk, fault) for _, walk, fault in walks]
        print_object({"tables": list(chosen.said), "walks": shown})
    else:
        chosen.tell()
        for n, (va, walk, fault) in enumerate(walks):
            click.echo("\n" * bool(n) + f"{va:#x}")
            _show_walk(space, walk, fault)
    if any(fault is not None for _, _, fault in walks):
        sys.exit(FOUND)


def _fault_of(space: Space, va: int, access: str, user: bool) -> Fault | None:
    if not access:
        return space.walk(va).fault
    try:
        space.translate(va, access, user)
    except Fault as fault:
        return fault
    return None


def _steps(space: Space, walk: Walk | NestedWalk) -> Iterator[tuple[str, Format, Step]]:
    """Yield (stage, its format, step) in the order in which items are read."""
    table: Space | Nested = space
    if not isinstance(space, PageTable) and walk.path:
        table = space.table_of(walk.va)
    for step in walk.path:
        if isinstance(step, Step):
            assert not isinstance(table, Nested)
            yield "", format_of_space(table), step
        else:
            assert isinstance(table, Nested)
            stage = table.stage1 if step.stage == 1 else table.stage2
            yield f"stage {step.stage} ", stage.format, step.step


def meaning_of(fmt: Format, step: Step) -> str:
    """Return in a few words what one item says: where it points, its rights, its marks."""
    said = explain.explain(fmt, step.level, step.entry)
    if said.kind in ("empty", "reserved"):
        return said.kind if not said.rule else f"{said.kind}: {said.rule}"
    size = f", {format_size(said.page_size)} page" if said.page_size else ""
    marks = [f.name for f in said.fields if f.value and f.meaning.startswith(_MARKS)]
    where = "" if said.output is None else f"-> {said.output:#x}{size}, "
    return f"{where}{said.rights}{''.join(f' {name}' for name in marks)}" + (
        f"; {said.rule}" if said.rule else ""
    )


_MARKS = ("accessed", "dirty", "global")


def _show_walk(space: Space, walk: Walk | NestedWalk, fault: Fault | None) -> None:
    lines = [
        (
            f"{stage}{step.name}", str(step.index), f"{step.entry_address:#x}", f"{step.entry:#x}",
            meaning_of(fmt, step),
        )
        for stage, fmt, step in _steps(space, walk)
    ]  # fmt: skip
    if lines:
        print_lines(("level", "item", "at", "entry", "meaning"), lines, right=("item",))
    if walk.pa is not None:
        size = format_size(walk.page_size or 0)
        click.echo(f"physical address {walk.pa:#x}, {size} page{_attributes(space, walk)}")
    if fault is not None:
        click.echo(f"FAULT {fault}")


def _attributes(space: Space, walk: Walk | NestedWalk) -> str:
    last = walk if isinstance(walk, Walk) else walk.stage1
    if last is None or last.rights is None:
        return ""
    names = format_of_space(space).memory_types
    number = last.memory_type or 0
    parts = [f", rights {last.rights}"]
    if names:
        parts.append(f", {names[number] if number < len(names) else f'type {number}'}")
    marks = (("global", last.global_), ("accessed", last.accessed), ("dirty", last.dirty))
    parts += [f", {name}" for name, is_set in marks if is_set]
    parts.append(f", key {last.pkey}" if last.pkey else "")
    return "".join(parts)


def _walk_as_json(walk: Walk | NestedWalk, fault: Fault | None) -> dict[str, Any]:
    steps = [s if isinstance(s, Step) else s.step for s in walk.path]
    path: list[dict[str, Any]] = []
    for n, step in enumerate(steps):
        entry = asdict(step)
        for name in ("table", "entry_address", "entry"):
            entry[name] = f"{entry[name]:#x}"
        outer = walk.path[n]
        if not isinstance(outer, Step):
            entry["stage"] = outer.stage
        path.append(entry)
    found: dict[str, Any] = {
        "va": f"{walk.va:#x}",
        "status": walk.status.name if fault is None else fault.status.name,
        "pa": None if walk.pa is None else f"{walk.pa:#x}",
        "page_size": walk.page_size,
        "path": path,
        "fault": None if fault is None else str(fault),
    }
    if isinstance(walk, Walk):
        for name in ("rights", "memory_type", "pkey", "global_", "accessed", "dirty"):
            found[name.rstrip("_")] = getattr(walk, name)
    return found


# -- maps ----------------------------------------------------------------------------------------


@lru_cache(maxsize=4096)
def leaf_notes(types: tuple[str, ...], wx: bool, flags: int, memory_type: int, pkey: int) -> str:
    """Return what is worth saying of pages besides their figures; most rows of a listing say the same."""
    said = []
    if wx:
        said.append("W+X")
    if flags & Flag.ENCRYPTED:
        said.append("encrypted")
    if flags & Flag.GLOBAL:
        said.append("global")
    if flags & Flag.UNACCESSED:
        said.append("unaccessed")
    if memory_type:
        said.append(types[memory_type] if memory_type < len(types) else f"type {memory_type}")
    if pkey:
        said.append(f"key {pkey}")
    return " ".join(said)


def notes_of(fmt: Format, row: dict[str, Any]) -> str:
    """Return what is worth saying of a row besides its figures."""
    if row["kind"] == RowKind.REPEAT:
        return f"repeats {row['repeat_of']:#x} every {size_text(row['page_sizes'])}"
    if row["kind"] != RowKind.LEAF:
        return f"{RowKind(row['kind']).name} items"
    return leaf_notes(fmt.memory_types, row["wx"], row["flags"], row["memory_type"], row["pkey"])


def range_lines(fmt: Format, rows: Any, indent: bool, top: int) -> Iterator[Sequence[str]]:
    """Yield the cells of `ptcore maps` for rows of RANGE_DTYPE."""
    wx = (may(fmt, rows, "wx", False) | may(fmt, rows, "wx", True)).tolist()
    names = rows.dtype.names
    for n, values in enumerate(rows.tolist()):
        row = dict(zip(names, values, strict=True))
        row["wx"] = wx[n]
        margin = "  " * (top - row["level"]) if indent else ""
        leaf = row["kind"] == RowKind.LEAF
        yield (
            f"{margin}{row['first']:#x}-{row['last']:#x}",
            size_text(row["last"] - row["first"] + 1),
            rights_names(row["rights"], fmt.rights) if leaf else "",
            sizes_text(row["page_sizes"]) if leaf else "",
            hexadecimal(row["pa"]),
            notes_of(fmt, row),
        )


MERGE = click.option(
    "--merge",
    type=click.Choice(["sizes", "addresses", "none"]),
    default="sizes",
    show_default=True,
    help="Join neighbours of other page sizes (sizes), or of other physical addresses too, as ptdump "
    "does (addresses), or neither (none).",
)


def _ranges(space: Space, first: int, last: int | None, merge: str) -> Any:
    rows = space.mappings(first, last)
    if merge == "none":
        ranges = merged(rows[:0])
        parts = [merged(rows[n : n + 1]) for n in range(len(rows))]
        return np.concatenate(parts) if parts else ranges
    return merged(rows, "sizes" if merge == "sizes" else "addresses")


@ptcore.command("maps")
@IMAGE
@image_options
@FIRST
@LAST
@MERGE
@click.option("--indent", is_flag=True, help="Indent by level.")
@OUTPUT
@JSON
@says_errors
def maps_command(
    image: str,
    first: int,
    last: int | None,
    merge: str,
    indent: bool,
    output: str | None,
    json_: bool,
    **given: Any,
) -> None:
    """List what is mapped: ranges, effective rights, page sizes, physical addresses, repeats.

    W+X marks pages that one mode may write and execute.
    """
    check_output(output)
    chosen = choose(image, given)
    for space in chosen.spaces:
        fmt = format_of_space(space)
        rows = _ranges(space, first, last, merge)
        if output is not None:
            chosen.only("--output")
            write_rows(rows, output, _names(fmt))
        elif json_:
            chosen.only("--json")
            print_json({"tables": list(chosen.said)}, "ranges", dicts(rows, _names(fmt)))
        else:
            chosen.tell()
            print_lines(
                ("addresses", "size", "rights", "pages", "physical", ""),
                range_lines(fmt, rows, indent, fmt.top_level),
                right=("size", "physical"),
            )


def _names(fmt: Format) -> dict[str, Any]:
    """Return how numbers of a listing are written for programs: rights as letters, kinds as names."""
    return {
        "rights": lambda value: rights_names(value, fmt.rights),
        "old_rights": lambda value: rights_names(value, fmt.rights),
        "new_rights": lambda value: rights_names(value, fmt.rights),
        "kind": lambda value: RowKind(value).name,
        "change": lambda value: Change(value).name,
    }


# -- find ----------------------------------------------------------------------------------------


@ptcore.command("find")
@IMAGE
@click.argument("addresses", nargs=-1, required=True, metavar="PA...")
@image_options
@OUTPUT
@JSON
@says_errors
def find_command(
    image: str, addresses: tuple[str, ...], output: str | None, json_: bool, **given: Any
) -> None:
    """Show every address that leads to each PA ('-': read them from standard input), in every root given.

    Exit 1 if one of them is mapped nowhere.
    """
    check_output(output)
    wanted = np.array(list(_physical(addresses)), dtype=np.uint64)
    chosen = choose(image, given)
    found = [reverse_many(space.mappings(), wanted) for space in chosen.spaces]
    mapped = np.unique(np.concatenate([rows["pa"] for rows in found]))
    fmt = format_of_space(chosen.spaces[0])
    if output is not None:
        chosen.only("--output")
        write_rows(found[0], output, _names(fmt))
    elif json_:
        chosen.only("--json")
        print_json({"tables": list(chosen.said)}, "found", dicts(found[0], _names(fmt)))
    else:
        _show_found(chosen, found)
    missing = np.setdiff1d(wanted, mapped)
    if len(missing):
        if not json_ and output is None:
            shown = ", ".join(f"{pa:#x}" for pa in missing.tolist())
            click.echo(f"mapped nowhere: {shown}")
        sys.exit(FOUND)


def _physical(texts: Sequence[str]) -> Iterator[int]:
    for text in texts:
        for word in sys.stdin.read().split() if text == "-" else [text]:
            yield NUMBER.convert(word, None, None)


def _show_found(chosen: Chosen, found: Sequence[Any]) -> None:
    chosen.tell()
    for n, (space, rows) in enumerate(zip(chosen.spaces, found, strict=True)):
        fmt = format_of_space(space)
        if len(found) > 1:
            click.echo("\n" * bool(n) + chosen.said[n])
        print_lines(
            ("physical", "address", "page", "rights", ""),
            (
                (
                    f"{row['pa']:#x}",
                    f"{row['first']:#x}",
                    format_size(row["page_size"]),
                    rights_names(row["rights"], fmt.rights),
                    "",
                )
                if row["kind"] == RowKind.LEAF
                else (
                    f"{row['pa']:#x}",
                    f"{row['first']:#x}-{row['last']:#x}",
                    "",
                    "",
                    f"as {row['repeat_of']:#x} has it, every {size_text(row['page_size'])}",
                )
                for row in (dict(zip(rows.dtype.names, v, strict=True)) for v in rows.tolist())
            ),
        )


# -- diff ----------------------------------------------------------------------------------------


@ptcore.command("diff")
@click.argument("image_a", type=ImagePlace())
@click.argument("image_b", type=ImagePlace())
@image_options
@FIRST
@LAST
@OUTPUT
@JSON
@says_errors
def diff_command(
    image_a: str,
    image_b: str,
    first: int,
    last: int | None,
    output: str | None,
    json_: bool,
    **given: Any,
) -> None:
    """Show what translates otherwise in IMAGE_B than in IMAGE_A: added, removed, moved, other rights.

    Registers and roots given twice are those of A and those of B. Exit 1 if anything differs.
    """
    check_output(output)
    chosen = [chosen_in(opened(path, given["form"]), given) for path in (image_a, image_b)]
    spaces = (chosen[0].spaces[0], chosen[1].spaces[-1])
    if len(chosen[0].spaces) > 2:
        raise click.UsageError("diff takes one root, or one of each image")
    rows = diff(*spaces, first, last)
    fmt = format_of_space(spaces[0])
    said = [chosen[0].said[0], chosen[1].said[-1]]
    if output is not None:
        write_rows(rows, output, _names(fmt))
    elif json_:
        print_json({"tables": said}, "changes", dicts(rows, _names(fmt)))
    else:
        for letter, sentence in zip("AB", said, strict=True):
            click.echo(f"ptcore: {letter}: {sentence}", err=True)
        print_lines(
            ("addresses", "size", "change", "physical", "rights", "pages"),
            _change_lines(fmt, rows),
            right=("size",),
        )
        counts = {c.name.lower(): int(np.count_nonzero(rows["change"] == c)) for c in Change}
        click.echo(", ".join(f"{n:,} {name}" for name, n in counts.items() if n) or "no difference")
    if len(rows):
        sys.exit(FOUND)


def _change_lines(fmt: Format, rows: Any) -> Iterator[Sequence[str]]:
    for values in rows.tolist():
        row = dict(zip(rows.dtype.names, values, strict=True))
        change = Change(row["change"])

        def both(name: str, text: Any, row: dict[str, Any] = row, change: Change = change) -> str:
            old, new = text(row[f"old_{name}"]), text(row[f"new_{name}"])
            if change is Change.ADDED:
                return str(new)
            return str(old) if change is Change.REMOVED or old == new else f"{old} -> {new}"

        size = size_text(row["last"] - row["first"] + 1)
        span = f"{row['first']:#x}-{row['last']:#x}"
        if change is Change.REPEAT:
            yield (
                span,
                size,
                "repeats",
                f"{row['repeat_of']:#x} every {size_text(row['period'])}",
                "",
                "",
            )
        else:
            yield (
                span,
                size,
                change.name.lower(),
                both("pa", hexadecimal),
                both("rights", lambda mask: rights_names(mask, fmt.rights)),
                both("page_size", format_size),
            )


# -- stat ----------------------------------------------------------------------------------------


@ptcore.command("stat")
@IMAGE
@image_options
@JSON
@says_errors
def stat_command(image: str, json_: bool, **given: Any) -> None:
    """Show how tables are filled: tables and leaves per level, memory, large pages, holes, aliases."""
    chosen = choose(image, given)
    found = [(table, table.stats()) for space in chosen.spaces for table in stages_of(space)]
    used = [
        usage(space.mappings(), tuple(s for t in stages_of(space) for s in t.legal_spans()))
        for space in chosen.spaces
    ]
    if json_:
        tables = [
            {"format": table.format.name, "root": f"{table.root:#x}", **asdict(stats)}
            for table, stats in found
        ]
        for entry in tables:
            entry["self_maps"] = [f"{at:#x}" for at in entry["self_maps"]]
        usages = [{**asdict(u), "by_page_size": _by_size(u.by_page_size)} for u in used]
        print_object({"tables": tables, "spaces": usages})
        return
    chosen.tell()
    for table, stats in found:
        _show_stats(table, stats)
    for found_usage in used:
        _show_usage(found_usage)


def _by_size(sizes: dict[int, int]) -> dict[str, int]:
    return {format_size(size): n for size, n in sizes.items()}


def _show_stats(table: PageTable, stats: Any) -> None:
    fmt = table.format
    click.echo(f"{fmt.name}, root {table.root:#x}: {size_text(stats.table_bytes)} of tables")
    print_lines(
        ("level", "tables", "leaves", "empty", "reserved", "outside", "tables' bytes"),
        [
            (
                f"{fmt.levels[n].name} ({n})",
                *(
                    f"{counts[n]:,}"
                    for counts in (
                        stats.tables,
                        stats.leaves,
                        stats.empty,
                        stats.reserved,
                        stats.outside,
                    )
                ),
                size_text(stats.tables[n] * fmt.table_bytes(n)),
            )
            for n in range(fmt.top_level, -1, -1)
        ],
        right=("tables", "leaves", "empty", "reserved", "outside", "tables' bytes"),
    )
    click.echo(f"references to tables beyond the first: {stats.shared_tables:,}")
    if stats.self_maps:
        shown = ", ".join(f"{at:#x}" for at in stats.self_maps)
        click.echo(f"items that point back to a table above them: {shown}")
    click.echo(f"mapped by every way: {size_text(stats.mapped_bytes)}")


def _show_usage(used: Any) -> None:
    total = used.mapped_bytes
    click.echo("")
    print_lines(
        ("page", "mapped", "share"),
        [
            (format_size(size), size_text(n), f"{n / total:.2%}")
            for size, n in used.by_page_size.items()
        ],
        right=("page", "mapped", "share"),
    )
    smallest = min(used.by_page_size, default=0)
    lines = [
        f"mapped, what repeats counted once: {size_text(total)}; "
        f"{used.share_of_pages_above(smallest):.2%} by larger pages than {format_size(smallest)}",
        f"rows that repeat subtrees: {used.repeats:,}",
        f"holes between mapped addresses: {used.holes:,}, {size_text(used.hole_bytes)} in all, "
        f"the largest {size_text(used.largest_hole)}",
        f"physical memory mapped: {size_text(used.physical_bytes)}, of which at more than one "
        f"address: {size_text(used.aliased_bytes)}",
    ]
    click.echo("\n".join(lines))
