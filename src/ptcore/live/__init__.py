"""Running machines: `qemu` reads the page tables of a QEMU guest while it runs."""

from ptcore.live.gdbstub import GdbStub
from ptcore.live.links import LivePages
from ptcore.live.machine import LiveMachine, is_named, named, qemu
from ptcore.live.qmp import Qmp

__all__ = ["GdbStub", "LiveMachine", "LivePages", "Qmp", "is_named", "named", "qemu"]
