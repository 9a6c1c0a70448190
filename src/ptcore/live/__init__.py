"""Running machines: a client of QEMU's gdbstub."""

from ptcore.live.gdbstub import GdbStub

__all__ = ["GdbStub"]
