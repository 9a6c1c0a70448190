"""What a walk saw, for people: the path, the fault it ended in, and the rule behind the fault."""

from __future__ import annotations

from dataclasses import dataclass, field

from ptcore.errors import Fault, Status, fault_class
from ptcore.formats import encode
from ptcore.formats.schema import Format, Role, Word
from ptcore.units import format_size

KIND_NAMES = ("empty", "table", "leaf", "reserved")


@dataclass(frozen=True, slots=True)
class Step:
    """One item that a walk read: `entry` at `entry_address` = slot `index` of `table` at `level`."""

    level: int
    name: str
    table: int
    index: int
    entry_address: int
    entry: int
    kind: str

    def __repr__(self) -> str:
        return f"{self.name}#{self.index}={self.entry:#x}({self.kind})"


@dataclass(frozen=True, slots=True)
class Walk:
    """The path of a walk, root first, and what it found.

    `pa` is None unless `status` is OK; `fault` is the exception that `translate` would raise (for a
    permitted access) or None. `page_size` in bytes. `rights`: letters 'rwxu', '-' where withheld,
    as all levels together grant them. `memory_type` is the number in the leaf; `references` counts
    the items read.
    """

    va: int
    status: Status
    path: tuple[Step, ...]
    pa: int | None = None
    page_size: int | None = None
    rights: str | None = None
    memory_type: int | None = None
    pkey: int | None = None
    software: int | None = None
    global_: bool | None = None
    accessed: bool | None = None
    dirty: bool | None = None
    fault: Fault | None = field(default=None, compare=False)

    @property
    def references(self) -> int:
        """How many items were read."""
        return len(self.path)

    def __repr__(self) -> str:
        end = f"pa={self.pa:#x}" if self.pa is not None else self.status.name
        size = f", size={format_size(self.page_size)}, {self.rights}" if self.page_size else ""
        return f"Walk(va={self.va:#x}, {end}{size}, path=[{' -> '.join(map(repr, self.path))}])"


def _field_names(word: Word, bits: int) -> str:
    hit = [f"{b.label} ({b.name})" for b in word if b.mask & bits]
    return ", ".join(hit)


def reserved_rule(fmt: Format, step: Step, zero: int) -> str:
    """Say which rule a reserved-bits fault at `step` broke; `zero` is the must-be-zero mask there."""
    if step.kind == "reserved":
        kinds = ", ".join(kind for kind, _ in fmt.levels[step.level].words())
        return f"it is no {kinds.replace(', ', ' and no ')} of this level"
    word = dict(fmt.levels[step.level].words())[step.kind]
    return f"bits {_field_names(word, step.entry & zero)} must be 0 in a {step.kind}"


def permission_rule(fmt: Format, path: tuple[Step, ...], access: str, user: bool) -> str:
    """Say which level withholds which right."""
    wanted = [*encode.rights_of(access), *([Role.USER] if user else [])]
    for step in path if fmt.parents_limit_rights else path[-1:]:
        word = dict(fmt.levels[step.level].words())[step.kind]
        for bits in word:
            if bits.role in wanted and (step.entry & bits.mask) >> bits.low != bits.value:
                return (
                    f"{bits.role.value} is withheld by bit {bits.label} ({bits.name}) "
                    f"at {step.name} (level {step.level})"
                )
    return "the access is withheld"


def make_fault(
    status: Status, va: int, path: tuple[Step, ...], end: tuple[int | None, str | None, str]
) -> Fault:
    """Build the exception of `status`. `end` is (level, vendor's level name, the rule broken)."""
    level, name, rule = end
    what = status.name.lower().replace("_", " ")
    if not path:
        return fault_class(status)(
            f"{what}: {rule}, va {va:#x}", va=va, level=level, level_name=name
        )
    last = path[-1]
    return fault_class(status)(
        f"{what} at {last.name} (level {last.level}), entry {last.entry:#x} at "
        f"{last.entry_address:#x}, va {va:#x}{': ' + rule if rule else ''}",
        va=va,
        level=last.level,
        level_name=last.name,
        entry=last.entry,
        entry_address=last.entry_address,
        path=path,
    )


def bus_fault(va: int, path: tuple[Step, ...], end: tuple[int, str, int]) -> Fault:
    """Build the exception of a table outside memory. `end` is (level, its name, item address)."""
    level, name, at = end
    return fault_class(Status.BUS)(
        f"bus: the {name} (level {level}) item at {at:#x} lies outside the memory, va {va:#x}",
        va=va,
        level=level,
        level_name=name,
        entry_address=at,
        path=path,
    )
