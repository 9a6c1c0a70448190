"""What every verb that reads tables takes: an image, and which tables in it."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import click

from ptcore import formats
from ptcore.cli.places import ImagePlace, opened
from ptcore.errors import FormatError
from ptcore.formats import registers as known_registers
from ptcore.formats.registers import Register
from ptcore.formats.schema import Format
from ptcore.memory import Image
from ptcore.table import AddressSpace, PageTable

Space = AddressSpace | PageTable
Command = Callable[..., Any]
# Widths and masks are of the machine, not of one format: they go with --format as well.
_ALSO_OF_TABLES = ("physical_bits", "encryption_mask")


class Number(click.ParamType):  # type: ignore[type-arg]  # older releases take none
    """A number as people write addresses: 0x... for hexadecimal."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the number of a text."""
        try:
            found = value if isinstance(value, int) else int(value, 0)
        except ValueError:
            self.fail(f"{value!r} is no number (0x... is hexadecimal)", param, ctx)
        if not 0 <= found < 1 << 64:
            self.fail(f"{value} does not fit 64 bits", param, ctx)
        return found


NUMBER = Number()
JSON = click.option("--json", "json_", is_flag=True, help="Print JSON.")
IMAGE = click.argument("image", type=ImagePlace())
FORM = click.option("--form", help="The image's form, where its content does not tell.")
PARAMETER = click.option(
    "-p", "--parameter", "parameters", multiple=True, metavar="KEY=VALUE",
    help="A parameter of the format, such as nx=False; may be given several times.",
)  # fmt: skip
PRESENCE = click.option(
    "--presence", metavar="WHOSE", help="hardware, linux or windows: what is mapped."
)


def _registers() -> dict[str, Register]:
    """Return every register that any architecture has, by name."""
    return {
        register.name: register
        for architecture in known_registers.architectures()
        for register in known_registers.known(architecture)
    }


def _flags(register: Register) -> list[str]:
    names = [name for name in (register.also, register.name) if name]
    return [f"--{name.replace('_', '-')}" for name in names] + [register.name]


def image_options(command: Command) -> Command:
    """Add the options that say which tables are meant."""
    options = [
        click.option("--format", "format_", metavar="NAME", help="A format or preset; with --root."),
        click.option("--root", "roots", type=NUMBER, multiple=True, help="Where tables begin."),
        PARAMETER,
        PRESENCE,
        click.option("--cpu-number", default=0, show_default=True, help="Whose registers, of the image's."),
        click.option("--arch", help="Where the registers given do not tell: see ptcore registers."),
        FORM,
        *(
            click.option(
                *_flags(register), type=NUMBER, multiple=True, hidden=register.rare,
                help=register.meaning + ".",
            )
            for register in _registers().values()
        ),
    ]  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


@dataclass(frozen=True)
class Chosen:
    """The address spaces that a command is about, and a sentence on how each was chosen."""

    image: Image
    spaces: tuple[Space, ...]
    said: tuple[str, ...]

    def only(self, verb: str) -> Space:
        """Return the one space of a verb that takes one."""
        if len(self.spaces) != 1:
            raise click.UsageError(f"{verb} takes one root, not {len(self.spaces)}")
        return self.spaces[0]

    def tell(self) -> None:
        """Say on standard error which tables are read."""
        for sentence in self.said:
            click.echo(f"ptcore: {sentence}", err=True)


def choose(path: str, given: Mapping[str, Any]) -> Chosen:
    """Open an image, and the address spaces that the options ask for."""
    image = opened(path, given["form"])
    return chosen_in(image, given)


def chosen_in(image: Image, given: Mapping[str, Any]) -> Chosen:
    """Return the address spaces of an open image that the options ask for."""
    if given["format_"] is not None:
        return _by_format(image, given)
    if given["roots"]:
        raise click.UsageError("--root goes with --format")
    if given["parameters"]:
        raise click.UsageError("-p goes with --format; registers say the rest")
    passed = {name: values for name in _registers() if (values := given.get(name))}
    times = max((len(values) for values in passed.values()), default=1)
    odd = [name for name, values in passed.items() if len(values) not in (1, times)]
    if odd:
        raise click.UsageError(f"{', '.join(odd)}: given once, or as often as the others")
    spaces, said = [], []
    for n in range(times):
        mine = {name: values[n if len(values) > 1 else 0] for name, values in passed.items()}
        architecture, registers, sentence = _completed(image, mine, given)
        spaces.append(AddressSpace.from_registers(architecture, image, **registers))
        said.append(sentence)
    return Chosen(image, tuple(spaces), tuple(said))


# -- by format and root --------------------------------------------------------------------------


def parameters_of(texts: Iterable[str], presence: str | None = None) -> dict[str, object]:
    """Return the parameters of a format given as 'key=value'."""
    found: dict[str, object] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals:
            raise click.BadParameter(f"{text!r} is not KEY=VALUE")
        try:
            found[key] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            found[key] = value
    if presence is not None:
        found["presence"] = presence
    return found


def format_of(given: Mapping[str, Any]) -> tuple[Format, dict[str, Any]]:
    """Return the format that the options name, and the options of its tables."""
    name = given["format_"]
    parameters = parameters_of(given["parameters"], given["presence"])
    if name in formats.presets():
        fmt, options = formats.preset(name)
        if parameters:
            raise click.UsageError(f"the preset {name} has its parameters")
    else:
        fmt, options = formats.get(name, **parameters), {}
    for option in _ALSO_OF_TABLES:
        if given.get(option):
            options[option] = given[option][0]
    return fmt, options


def _by_format(image: Image, given: Mapping[str, Any]) -> Chosen:
    stray = [name for name in _registers() if given.get(name) and name not in _ALSO_OF_TABLES]
    if stray:
        raise click.UsageError(f"--format with --root, or registers ({', '.join(stray)}): not both")
    if not given["roots"]:
        raise click.UsageError("--format needs --root ADDR; ptcore roots IMAGE looks for some")
    fmt, options = format_of(given)
    spaces = tuple(PageTable(fmt, image, root, **options) for root in given["roots"])
    return Chosen(image, spaces, tuple(f"{fmt.name}, root {root:#x}" for root in given["roots"]))


# -- by registers --------------------------------------------------------------------------------


def architecture_of(names: Iterable[str]) -> str:
    """Return the architecture that has all these registers."""
    wanted = sorted(names)
    found = known_registers.having(wanted)
    if not found:
        raise click.UsageError(f"no architecture has all of {', '.join(wanted)}")
    return found[0]


def _completed(
    image: Image, passed: dict[str, int], given: Mapping[str, Any]
) -> tuple[str, dict[str, int | str], str]:
    """Return architecture, registers, and in words where they come from: those passed, else those that
    the image holds, else what most kernels run with."""
    held: dict[str, int] = {}
    number = given["cpu_number"]
    telling = [name for name in passed if name not in _ALSO_OF_TABLES]
    architecture = given["arch"] or (architecture_of(telling) if telling else "")
    if image.cpus:
        if not 0 <= number < len(image.cpus):
            raise click.UsageError(f"the image has CPUs 0 to {len(image.cpus) - 1}, not {number}")
        cpu = image.cpus[number]
        if cpu.architecture and architecture in ("", cpu.architecture):
            architecture, held = cpu.architecture, cpu.registers
    if not passed and not held:
        raise FormatError(_what_to_pass(image))
    held = _fitting(architecture, passed, held)
    assumed = {
        name: value
        for name, value in known_registers.usual(architecture).items()
        if name not in passed and name not in held and not _second_stage_alone(architecture, passed)
    }
    said = [f"{architecture}"]
    for who, found in (
        ("given", passed),
        (f"CPU {number} of the image", held),
        ("assumed", assumed),
    ):
        left = {
            name: value for name, value in found.items() if who == "given" or name not in passed
        }
        if left:
            said.append(f"{who}: " + " ".join(f"{name}={value:#x}" for name, value in left.items()))
    registers: dict[str, int | str] = {**assumed, **held, **passed}
    if given["presence"] is not None:
        registers["presence"] = given["presence"]
    return architecture, registers, "; ".join(said)


def _fitting(
    architecture: str, passed: Mapping[str, int], held: Mapping[str, int]
) -> dict[str, int]:
    """Return the registers that an image holds and that go with those passed."""
    registers = known_registers.known(architecture)
    dropped = {r.instead for r in registers if r.name in passed}
    if _second_stage_alone(architecture, passed):
        # What the CPU had under its first stage is not what is behind another second stage.
        dropped |= {r.name for r in registers if r.root and not r.second}
    known = {r.name for r in registers} - dropped
    return {name: value for name, value in held.items() if name in known}


def _second_stage_alone(architecture: str, passed: Mapping[str, int]) -> bool:
    """Whether the only roots passed are of a second stage."""
    roots = [r for r in known_registers.known(architecture) if r.root and r.name in passed]
    return bool(roots) and all(r.second for r in roots)


def _what_to_pass(image: Image) -> str:
    ways = []
    for architecture in known_registers.having(()):
        registers = known_registers.known(architecture)
        roots = [_flags(r)[0] for r in registers if r.root and not r.rare and not r.second]
        ways.append(f"{' or '.join(roots)} ({architecture})")
    return (
        f"{image.path} says nothing of its CPU's registers: pass {', '.join(ways)}, or --format NAME "
        "--root ADDR; ptcore roots IMAGE --format NAME looks for root tables"
    )
