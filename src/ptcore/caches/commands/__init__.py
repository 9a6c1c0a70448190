"""Invalidation commands, one file per vendor: what each must drop, and what pays for an edit.

A vendor is a set of commands that one agent understands: a CPU, the virtualisation extension of one, or an
IOMMU. Every field of a file is checked when it is read, and a wrong one refused by name.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, fields
from difflib import get_close_matches
from fnmatch import fnmatchcase
from functools import cache
from importlib.resources import files
from typing import Any

from ptcore.errors import FormatError, OutOfRange
from ptcore.formats import names

SCOPES = ("page", "range", "all", "none")
STRUCTURES = ("none", "covering", "within", "every")
DROPS = ("combined", "guest_physical", "device", "config")
CONFIGS = ("", "device", "process", "domain", "all")
LARGER = ("drop", "keep")
ALIGNMENTS = ("", "power_of_two")
AGENTS = ("cpu", "guest", "device")

CHOICES: dict[str, tuple[object, ...]] = {
    "scope": SCOPES,
    "stage": (1, 2),
    "structures": STRUCTURES,
    "larger": LARGER,
    "alignment": ALIGNMENTS,
    "config": CONFIGS,
}
FLAGS = ("every_space", "globals_", "tagged", "every_guest")

# Which scope a command has that a payment names as its whole, page or range command.
SCOPE_OF_PAYMENT = {"whole": "all", "page": "page", "range": "range", "range_of_leaves": "range"}
# Payments beside the first stage's, each with lists of commands that are carried out in order.
OTHER_PAYMENTS = ("second_stage", "process", "device")


@dataclass(frozen=True, slots=True)
class Command:
    """What one command must drop. Hardware may always drop more.

    `scope`: page (the entries that hold one address), range, all (no address is given) or none (no
    translation goes). `every_space`: whatever the tag of the address space; else that of one. `globals_`:
    global entries too. `structures`: what becomes of the paging-structure caches of the kinds in `drops`:
    none (they stay; so too where a hint says that only leaves changed), covering (those over any of the
    addresses), within (those over no address but the range's: larger ones stay), every. `rule`: where it
    stands. `stage`: 1: the addresses are a first stage's inputs; 2: a second stage's, and a combined entry is
    met by the address that it has between the stages (its input, where it has one stage). `tagged`: entries
    of one address space go; false where only global ones do. `every_guest`: whatever the VMID, VPID or
    domain; else the current one.

    `drops`: combined (translations from the input of the first stage, or of the only one, to physical
    addresses), guest_physical (those of a second stage alone), device (a device's own cache), config
    (contexts: of devices and of processes). `larger`: drop: what only touches the range goes too; keep: an
    entry larger than the range stays. `alignment`: power_of_two: the range is one, aligned to its size.
    `most_pages`: of one command, 0 where there is no limit. `config`: whose contexts go: of one device, one
    process (of one device), one domain, or all.
    """

    name: str
    scope: str
    every_space: bool = False
    globals_: bool = False
    structures: str = "none"
    rule: str = ""
    stage: int = 1
    tagged: bool = True
    every_guest: bool = False
    drops: tuple[str, ...] = ("combined",)
    larger: str = "drop"
    alignment: str = ""
    most_pages: int = 0
    config: str = ""

    def validate(self, where: str) -> None:
        """Raise FormatError, with `where` and the field, for values that cannot be, alone or together."""
        for name, choices in CHOICES.items():
            value = getattr(self, name)
            if type(value) is not type(choices[0]) or value not in choices:
                known = ", ".join(repr(choice) for choice in choices)
                raise FormatError(f"{where}: {name} {value!r} is none of {known}")
        for name in FLAGS:
            if not isinstance(getattr(self, name), bool):
                raise FormatError(f"{where}: {name} {getattr(self, name)!r} is not true or false")
        if not isinstance(self.rule, str) or not self.rule.strip():
            raise FormatError(f"{where}: rule {self.rule!r} does not say where it stands")
        _validate_count(f"{where}: most_pages", self.most_pages, least=0)
        if set(self.drops) - set(DROPS) or len(set(self.drops)) < len(self.drops):
            raise FormatError(f"{where}: drops {self.drops!r} are not some of {', '.join(DROPS)}")
        for name, wrong, because in self._contradictions():
            if wrong:
                raise FormatError(f"{where}: {name} {getattr(self, name)!r}: {because}")

    def _contradictions(self) -> tuple[tuple[str, bool, str], ...]:
        addressed = self.scope in ("page", "range")
        ranged = self.scope == "range"
        idle = self.scope == "none" and self.structures == "none"
        spaces = self.every_space and self.globals_
        return (
            ("drops", idle != (not self.drops), "nothing is dropped by a scope of none alone"),
            (
                "structures",
                self.structures == "covering" and not addressed,
                "no address to be over",
            ),
            ("structures", self.structures == "within" and not ranged, "no range to be within"),
            ("larger", self.larger == "keep" and not addressed, "nothing to be larger than"),
            ("alignment", bool(self.alignment) and not ranged, "only ranges are aligned"),
            ("most_pages", bool(self.most_pages) and not ranged, "only ranges have a limit"),
            ("config", bool(self.config) != ("config" in self.drops), "drops and config disagree"),
            ("stage", self.stage == 2 and not spaces, "a second stage knows no address spaces"),
            ("stage", self.stage == 2 and not addressed, "no addresses to be of a second stage"),
            (
                "drops",
                addressed and self.stage == 1 and "guest_physical" in self.drops,
                "entries of a second stage have none of a first stage's addresses",
            ),
            (
                "drops",
                self.stage == 2 and "device" in self.drops,
                "a device's entries have none of a second stage's addresses",
            ),
            ("tagged", not self.tagged and not self.globals_, "neither these nor global ones"),
        )


@dataclass(frozen=True, slots=True)
class Vendor:
    """The commands of one vendor, and which of them pay for an edit.

    `payment`: `whole` for everything; `page` or `range` (with `range_of_leaves` where no table was taken out)
    for up to `most_pages` pages; `rule` says why so. Its tables `second_stage`, `process` and `device` are of
    the same form, for edits of a second stage, of an IOMMU's tables of one process, and for devices with TLBs
    of their own (after the others), but with lists: commands that are carried out in order, of which the
    first takes the addresses. `agent`: cpu, guest (what a hypervisor
    uses) or device (an IOMMU). `formats`: names or shell-style patterns of the formats that it walks.
    """

    name: str
    title: str
    commands: dict[str, Command]
    payment: dict[str, Any]
    agent: str = "cpu"
    formats: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def walks(self, format_name: str) -> bool:
        """Whether tables of that format are among those that it walks."""
        return any(fnmatchcase(format_name, pattern) for pattern in self.formats)


def vendors() -> tuple[str, ...]:
    """Return the names of the vendors whose commands are known."""
    folder = files("ptcore.caches.commands")
    return tuple(
        sorted(e.name.removesuffix(".toml") for e in folder.iterdir() if e.name.endswith(".toml"))
    )


@cache
def vendor(name: str) -> Vendor:
    """Return a vendor's commands; FormatError lists those there are, or names the field that is wrong."""
    if name not in vendors():
        raise FormatError(f"no commands of {name!r} are known; {', '.join(vendors())} are")
    text = (files("ptcore.caches.commands") / f"{name}.toml").read_text(encoding="utf-8")
    try:
        return declared_vendor(name, tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise FormatError(f"{name}.toml: {error}") from None


def command(vendor_name: str, name: str) -> Command:
    """Return a command; FormatError lists the nearest names."""
    known = vendor(vendor_name).commands
    if name not in known:
        near = get_close_matches(name, known, n=3, cutoff=0.3) or list(known)
        raise FormatError(f"{vendor_name} has no command {name!r}; nearest: {', '.join(near)}")
    return known[name]


def vendors_of(format_name: str) -> tuple[str, ...]:
    """Return the vendors that walk tables of a format: CPUs, then what hypervisors use, then IOMMUs.

    Raises FormatError, with the nearest names, for a format that is none.
    """
    if format_name not in names():
        near = get_close_matches(format_name, names(), n=3, cutoff=0.3) or names()
        raise FormatError(f"no format is called {format_name!r}; nearest: {', '.join(near)}")
    walking = [vendor(name) for name in vendors() if vendor(name).walks(format_name)]
    walking.sort(key=lambda one: (AGENTS.index(one.agent), one.name))
    return tuple(one.name for one in walking)


def declared_vendor(name: str, declared: Mapping[str, Any]) -> Vendor:
    """Return the vendor that a file declares. FormatError names the file, the command and the field."""
    where = f"{name}.toml"
    _validate_names(where, declared, {f.name for f in fields(Vendor)} - {"name"})
    for field in ("title", "commands", "payment", "agent", "formats"):
        if field not in declared:
            raise FormatError(f"{where}: {field} is missing")
    if not isinstance(declared["title"], str) or not declared["title"].strip():
        raise FormatError(f"{where}: title {declared['title']!r} is empty")
    if declared["agent"] not in AGENTS:
        raise FormatError(
            f"{where}: agent {declared['agent']!r} is none of {', '.join(map(repr, AGENTS))}"
        )
    formats = _texts(f"{where}: formats", declared["formats"])
    for pattern in formats:
        if not any(fnmatchcase(known, pattern) for known in names()):
            raise FormatError(f"{where}: formats: no format is called {pattern!r}")
    commands = _commands(where, declared["commands"])
    _validate_payment(where, declared["payment"], commands)
    return Vendor(
        name,
        declared["title"],
        commands,
        declared["payment"],
        declared["agent"],
        formats,
        _texts(f"{where}: notes", declared.get("notes", [])),
    )


def _commands(where: str, declared: object) -> dict[str, Command]:
    if not isinstance(declared, list) or not declared:
        raise FormatError(f"{where}: commands: none are declared")
    found: dict[str, Command] = {}
    for n, one in enumerate(declared):
        label = one.get("name") if isinstance(one, dict) else None
        if not isinstance(label, str) or not label.isidentifier():
            raise FormatError(f"{where}, command {n}: name {label!r} is none")
        if label in found:
            raise FormatError(f"{where}, {label}: name: declared twice")
        found[label] = _command(f"{where}, {label}", one)
    return found


def _command(where: str, declared: dict[str, Any]) -> Command:
    _validate_names(where, declared, {f.name for f in fields(Command)})
    for field in fields(Command):
        if field.default is MISSING and field.name not in declared:
            raise FormatError(f"{where}: {field.name} is missing")
    given = dict(declared)
    if "drops" in given:
        given["drops"] = _texts(f"{where}: drops", given["drops"])
    made = Command(**given)
    made.validate(where)
    return made


def _validate_names(where: str, declared: Mapping[str, Any], known: set[str]) -> None:
    for name in declared:
        if name not in known:
            near = get_close_matches(name, known, n=3, cutoff=0.3) or sorted(known)
            raise FormatError(f"{where}: {name} is no field; nearest: {', '.join(near)}")


def _texts(where: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(one, str) and one for one in value):
        raise FormatError(f"{where} {value!r} is no list of texts")
    return tuple(value)


def _validate_count(where: str, value: object, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise FormatError(f"{where} {value!r} is no number from {least} up")


def _validate_payment(where: str, payment: Any, commands: dict[str, Command]) -> None:
    where = f"{where}, payment"
    if not isinstance(payment, dict):
        raise FormatError(f"{where}: {payment!r} is no table")
    for name in OTHER_PAYMENTS:
        if name in payment:
            _validate_payments(f"{where}.{name}", payment[name], commands)
    own = {key: value for key, value in payment.items() if key not in OTHER_PAYMENTS}
    lists = {key: [own[key]] if key in SCOPE_OF_PAYMENT else own[key] for key in own}
    _validate_payments(where, lists, commands)


def _validate_payments(where: str, payment: Any, commands: dict[str, Command]) -> None:
    if not isinstance(payment, dict):
        raise FormatError(f"{where}: {payment!r} is no table")
    _validate_names(where, payment, {*SCOPE_OF_PAYMENT, "most_pages", "rule"})
    for name in ("whole", "most_pages", "rule"):
        if name not in payment:
            raise FormatError(f"{where}: {name} is missing")
    if not isinstance(payment["rule"], str) or not payment["rule"].strip():
        raise FormatError(f"{where}: rule {payment['rule']!r} does not say why so")
    _validate_count(f"{where}: most_pages", payment["most_pages"], least=0)
    if ("range" in payment) != ("range_of_leaves" in payment):
        raise FormatError(f"{where}: range and range_of_leaves go together")
    for name, scope in SCOPE_OF_PAYMENT.items():
        for n, chosen in enumerate(_texts(f"{where}: {name}", payment.get(name, []))):
            if chosen not in commands:
                raise FormatError(f"{where}: {name} {chosen!r} is none of its commands")
            if commands[chosen].scope != (scope if n == 0 else "all"):
                raise FormatError(f"{where}: {name} {chosen!r} has the wrong scope")
        if name in payment and not payment[name]:
            raise FormatError(f"{where}: {name} names no command")


def range_parts(pages: int) -> Iterator[tuple[int, int, int]]:
    """Yield (scale, num, pages) of the range commands that cover `pages` granules, largest first.

    One covers (NUM + 1) * 2**(5 * SCALE + 1) granules, NUM up to 31 and SCALE up to 3 (DDI 0487, "TLB range
    maintenance instructions"); a last odd granule is (0, -1, 1): a command for one address.
    """
    most = 32 << 16
    while pages > 1:
        scale = next(s for s in (3, 2, 1, 0) if pages >> (5 * s + 1))
        unit = 1 << (5 * scale + 1)
        num = min(min(pages, most) // unit, 32) - 1
        yield scale, num, (num + 1) * unit
        pages -= (num + 1) * unit
    if pages:
        yield 0, -1, 1


def smmu_range_parts(pages: int) -> Iterator[tuple[int, int, int]]:
    """Yield (scale, num, pages) of the range commands of an IOMMU that cover `pages` granules, the fewest.

    One covers (NUM + 1) * 2**SCALE granules, both up to 31 (IHI 0070, "Range-based invalidation and level
    hint"); a single granule is (0, -1, 1), a command without a range: SCALE, NUM and TTL of 0 with a
    granule size are reserved (Linux, arm-smmu-v3.c, checked there only). Lowest bits first.
    """
    while pages > 0:
        scale = min((pages & -pages).bit_length() - 1, 31)
        count = min(pages >> scale, 32) if scale == 31 else pages >> scale & 31
        yield (0, -1, 1) if (scale, count) == (0, 1) else (scale, count - 1, count << scale)
        pages -= count << scale


def power_of_two_parts(first: int, pages: int, most_lg2: int = 52) -> Iterator[tuple[int, int]]:
    """Yield (first page, lg2 of pages) of the fewest aligned powers of two that make up a range, in order.

    `first` and `pages` are page numbers. 2**`most_lg2` pages are the most of one part: VT-d's MAMV, the
    largest address mask that CAP_REG allows. Raises OutOfRange for numbers below 0.
    """
    if first < 0 or pages < 0 or most_lg2 < 0:
        raise OutOfRange(f"no range of {pages} pages from {first}, in parts of 2**{most_lg2}")
    while pages:
        aligned = (first & -first).bit_length() - 1 if first else most_lg2
        lg2 = min(aligned, pages.bit_length() - 1, most_lg2)
        yield first, lg2
        first += 1 << lg2
        pages -= 1 << lg2


__all__ = [
    "Command",
    "Vendor",
    "command",
    "declared_vendor",
    "power_of_two_parts",
    "range_parts",
    "smmu_range_parts",
    "vendor",
    "vendors",
    "vendors_of",
]
