"""Which accesses the rights of a page allow: what the walk's last judgement is made from.

Pages have rights (what their items grant together); an access has a kind (read, write, execute; user
mode or not). A format's denials, waivers and key rules say what control bits of the CPU add.
"""

from __future__ import annotations

from dataclasses import dataclass

from ptcore.formats.lower import lower_grants
from ptcore.formats.schema import RIGHT_ROLES, Format, rights_mask

LETTERS = "rwx"
USER_KIND = 1 << len(LETTERS)
READ, WRITE, EXECUTE, USER, USER_EXECUTE, USER_WRITE = (1 << n for n in range(len(RIGHT_ROLES)))


@dataclass(frozen=True, slots=True)
class Need:
    """What one kind of access asks of a page.

    `allowed`: bit n for pages with the rights n; `denied_keys`: protection keys that deny it, for
    pages without and with the user right; `any`: whether there is a page that it may not use;
    `dirty`: whether the leaf must be marked dirty.
    """

    allowed: int
    denied_keys: tuple[int, int]
    any: bool
    dirty: bool


def needed_rights(fmt: Format, letter: str, user: bool) -> int:
    """Return the rights that an access of one letter needs, before denials and waivers."""
    if letter == "r":
        return READ | (USER if user else 0)
    if letter == "w":
        own = fmt.rights & USER_WRITE
        return (own or WRITE) | USER if user else WRITE
    own = fmt.rights & USER_EXECUTE
    return (own or EXECUTE | USER) if user else EXECUTE


def permits(fmt: Format, letter: str, user: bool, rights: int) -> bool:
    """Whether a page with these rights may be accessed so."""
    needed = needed_rights(fmt, letter, user)
    fine = rights & needed == needed
    for waiver in fmt.waivers:
        if letter in waiver.access and waiver.user in (None, user):
            having = rights_mask(waiver.having)
            fine = fine or rights & having == having
    for denial in fmt.denials:
        if letter in denial.access and denial.user in (None, user):
            having, lacking = rights_mask(denial.having), rights_mask(denial.lacking)
            fine = fine and not (rights & having == having and rights & lacking == 0)
    return fine


def decided_rights(fmt: Format) -> int:
    """Return the rights that some item of the format can withhold."""
    known: int | None = fmt.worked_out.get("decided")
    if known is not None:
        return known
    decided = 0
    for level in fmt.levels:
        for _, word in level.words():
            for grant, _ in lower_grants(fmt, word):
                for kept in grant["kept"]:
                    decided |= fmt.rights & ~kept
    fmt.worked_out["decided"] = decided
    return decided


def need(fmt: Format, kind: int) -> Need:
    """Return what an access needs: bits 0 to 2 of `kind` for the letters r, w, x, bit 3 for user mode."""
    key = ("need", kind)
    if key not in fmt.worked_out:
        fmt.worked_out[key] = _need(fmt, kind)
    found: Need = fmt.worked_out[key]
    return found


def _need(fmt: Format, kind: int) -> Need:
    letters = [letter for n, letter in enumerate(LETTERS) if kind >> n & 1]
    user = bool(kind & USER_KIND)
    always = fmt.rights & ~decided_rights(fmt)
    allowed = 0
    refused = False
    for rights in range(1 << len(RIGHT_ROLES)):
        fine = all(permits(fmt, letter, user, rights) for letter in letters)
        fine = fine and (bool(letters) or not user or bool(rights & USER))
        allowed |= fine << rights
        possible = rights & always == always and rights & ~fmt.rights == 0
        refused = refused or (possible and not fine)
    keys = [0, 0]
    for rule in fmt.key_rules:
        if rule.user in (None, user) and any(letter in rule.access for letter in letters):
            keys[rule.user_page] |= rule.keys
    dirty = fmt.dirty_required and "w" in letters
    asks = refused or any(keys) or dirty
    return Need(allowed=allowed, denied_keys=(keys[0], keys[1]), any=asks, dirty=dirty)


def error_code(fmt: Format, conditions: dict[str, bool]) -> int | None:
    """Return the code that a CPU pushes with a fault; None where the format has none."""
    if not fmt.error_code:
        return None
    return sum(1 << bit for condition, bit in fmt.error_code if conditions.get(condition, False))
