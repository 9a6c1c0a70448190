"""What a walk saw, for people: the path, the fault it ended in, and the rule behind the fault."""

from __future__ import annotations

from dataclasses import dataclass, field

from ptcore.errors import Fault, Status, fault_class
from ptcore.formats import access
from ptcore.formats.encode import rights_names
from ptcore.formats.lower import lower_grants
from ptcore.formats.schema import RIGHT_ROLES, Format, Role, Word, match_of, role_mask, word_match
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


def shape_number(fmt: Format, step: Step) -> int:
    """Return the shape of the item of a step: 0 for a table, else its number among the leaves."""
    if step.kind != "leaf":
        return 0
    leaves = fmt.levels[step.level].leaves
    return 1 + [word_match(leaf.word)(step.entry) for leaf in leaves].index(True)


def reserved_rule(fmt: Format, step: Step, zero: int) -> str:
    """Say which rule an item broke at `step`; `zero` is the must-be-zero mask there."""
    word = fmt.levels[step.level].word_of(step.entry)
    if step.kind == "reserved" or word is None:
        kinds = dict.fromkeys(kind.split()[0] for kind, _ in fmt.levels[step.level].words())
        return f"it is no {' and no '.join(kinds)} of this level"
    for refusal in fmt.refusals:
        match = match_of(word, refusal.fields)
        if match.mask and match(step.entry):
            return f"{refusal.rule} is refused in a {step.kind}"
    wide = step.entry & zero & role_mask(word, Role.OUTPUT)
    if wide and not step.entry & zero & ~wide:
        return f"bits {_field_names(word, wide)} hold an address beyond the output address width"
    return f"bits {_field_names(word, step.entry & zero)} must be 0 in a {step.kind}"


def permission_rule(fmt: Format, path: tuple[Step, ...], letters: str, user: bool) -> str:
    """Say which level withholds which right, or which rule denies the access."""
    needed = 0
    for letter in letters:
        needed |= access.needed_rights(fmt, letter, user)
    rights = fmt.rights
    for step in path:
        word = fmt.levels[step.level].word_of(step.entry) or ()
        for grant, fields in lower_grants(fmt, word):
            value = 0
            for field_ in fields:
                value = value << field_.width | (step.entry & field_.mask) >> field_.low
            lost = fmt.rights & ~grant["kept"][value]
            if fmt.parents_limit_rights or step is path[-1]:
                rights &= ~lost
                if lost & needed:
                    names = [r.value for n, r in enumerate(RIGHT_ROLES) if (lost & needed) >> n & 1]
                    where = ", ".join(f"{f.label} ({f.name})" for f in fields)
                    bit = "bit" if sum(f.width for f in fields) == 1 else "bits"
                    return (
                        f"{' and '.join(names)} {'is' if len(names) == 1 else 'are'} withheld by "
                        f"{bit} {where} at {step.name} (level {step.level})"
                    )
    mode = "user" if user else "supervisor"
    return (
        f"a {mode} access {letters!r} is denied to a page with the rights "
        f"{rights_names(rights, fmt.rights)!r}"
    )


def make_fault(
    status: Status,
    va: int,
    path: tuple[Step, ...],
    end: tuple[int | None, str | None, str],
    code: int | None = None,
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
        code=code,
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
