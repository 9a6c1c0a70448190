"""x86: CR0, CR3, CR4, IA32_EFER and EFLAGS.

QEMU 7.2 gdb-xml/i386-64bit.xml (names), target/i386/cpu-dump.c (`info registers`: "CR3=...", "RFL=..."),
qapi/machine.json (SysEmuTarget).
"""

from __future__ import annotations

from ptcore.formats.debuggers import Debugged, Registers, renamed

_NAMES = {name: name for name in ("cr0", "cr3", "cr4", "efer")}
_NAMES |= {"eflags": "rflags", "rfl": "rflags", "efl": "rflags"}


def _settle(registers: Registers) -> Registers:
    return renamed(registers, _NAMES)


DEBUGGED = Debugged(
    name="x86_64",
    targets=frozenset({"x86_64", "i386"}),
    descriptions=frozenset({"i386:x86-64", "i386"}),
    printed=r"\b(?P<name>[A-Z][A-Z0-9]{1,3}) *=(?P<value>[0-9a-f]+)",
    settle=_settle,
)
