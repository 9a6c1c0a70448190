"""The side of gdb: commands that hand registers and pages to a process with ptcore, and show what it says.

Run by gdb's Python, which has the module gdb and may have nothing else; `PTCORE_PYTHON` is set before (see
`ptcore.interop.gdb.install`). GDB manual, "Extending GDB using Python"; QEMU manual, "GDB usage", "Examining
physical memory" (`maint packet Qqemu.PhyMemMode:1`).
"""

from __future__ import annotations

import contextlib
import json
import subprocess

import gdb

PTCORE_PYTHON = globals().get("PTCORE_PYTHON", "python3")
ADDRESS_MASK = (1 << 64) - 1
MODE = "maint packet Qqemu.PhyMemMode:"


def exchanged(child, line):
    """Write a line to a process and return the one that it answers."""
    try:
        child.stdin.write(line)
        child.stdin.flush()
        answer = child.stdout.readline()
    except OSError:
        answer = ""
    if not answer:
        raise gdb.GdbError(f"the process with ptcore ended: {PTCORE_PYTHON}")
    return answer


class Process:
    """The process with ptcore: started with the first command, ended with gdb."""

    def __init__(self):
        self._child = None

    def _started(self):
        if self._child is None or self._child.poll() is not None:
            try:
                self._child = subprocess.Popen(
                    [PTCORE_PYTHON, "-m", "ptcore.interop.gdb.process"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    universal_newlines=True,
                    start_new_session=True,  # Ctrl-C is gdb's
                )
            except OSError as error:
                raise gdb.GdbError(f"no process with ptcore: {error}") from None
        return self._child

    def ask(self, request, read):
        """Send a request, read memory for it while it asks for some, and return its text."""
        child = self._started()
        answer = None
        try:
            while answer is None:
                said = json.loads(exchanged(child, json.dumps(request) + "\n"))
                if "read" in said:
                    request = {"bytes": [read(pa, size) for pa, size in said["read"]]}
                else:
                    answer = said
        finally:
            if answer is None:  # what it waits for is of no use to the next command
                child.kill()
                child.wait()
                self._child = None
        if "error" in answer:
            raise gdb.GdbError(answer["error"])
        return answer["text"]


PROCESS = Process()


@contextlib.contextmanager
def physical_memory():
    """Let addresses be physical for as long as this lasts."""
    if "OK" not in gdb.execute(MODE + "1", to_string=True):
        raise gdb.GdbError("this target cannot read physical memory: QEMU's gdbstub can")
    try:
        yield
    finally:
        gdb.execute(MODE + "0", to_string=True)


def read_memory(pa, size):
    """Return the bytes at a physical address in hexadecimal, None if they cannot be read."""
    try:
        return bytes(gdb.selected_inferior().read_memory(pa, size)).hex()
    except gdb.MemoryError:
        return None


def registers():
    """Return gdb's name of the architecture, and the integer registers of the selected CPU."""
    try:
        frame = gdb.newest_frame()
    except gdb.error as error:
        raise gdb.GdbError(f"no machine: {error}") from None
    found = {}
    for register in frame.architecture().registers():
        try:
            found[register.name] = int(frame.read_register(register.name)) & ADDRESS_MASK
        except (gdb.error, ValueError, TypeError, OverflowError):
            continue  # no integer: a vector, or nothing that this target has
    return frame.architecture().name(), found


def values_of(argument):
    """Return the values of expressions: those with blanks in them are quoted."""
    try:
        texts = gdb.string_to_argv(argument)
        return [int(gdb.parse_and_eval(text)) & ADDRESS_MASK for text in texts]
    except (gdb.error, ValueError, TypeError) as error:
        raise gdb.GdbError(f"no address: {error}") from None


def run(verb, argument):
    """Run one command; each argument is an expression of gdb."""
    values = values_of(argument)
    name, found = registers()
    request = {
        "verb": verb,
        "arguments": values,
        "architecture": name,
        "registers": found,
        "memory_map": gdb.execute("monitor info mtree -f", to_string=True),
    }
    with physical_memory():
        text = PROCESS.ask(request, read_memory)
    gdb.write(text)


class Ptcore(gdb.Command):
    """Page tables of the machine that gdb is attached to, read by ptcore."""

    def __init__(self):
        super().__init__("ptcore", gdb.COMMAND_DATA, gdb.COMPLETE_NONE, True)


class Walk(gdb.Command):
    """Show the path of an address through the tables of the selected CPU: ptcore walk ADDRESS.

    ADDRESS is an expression: a number, $pc, &symbol, "&symbol + 4" in quotes.
    """

    def __init__(self):
        super().__init__("ptcore walk", gdb.COMMAND_DATA, gdb.COMPLETE_EXPRESSION)

    def invoke(self, argument, from_tty):
        """Run the command."""
        run("walk", argument)


class Maps(gdb.Command):
    """List what the selected CPU's tables map: ptcore maps [FIRST [LAST]], inclusive."""

    def __init__(self):
        super().__init__("ptcore maps", gdb.COMMAND_DATA, gdb.COMPLETE_EXPRESSION)

    def invoke(self, argument, from_tty):
        """Run the command."""
        run("maps", argument)


class Translate(gdb.Command):
    """Show the physical addresses of addresses, whatever their rights: ptcore translate ADDRESS ..."""

    def __init__(self):
        super().__init__("ptcore translate", gdb.COMMAND_DATA, gdb.COMPLETE_EXPRESSION)

    def invoke(self, argument, from_tty):
        """Run the command."""
        run("translate", argument)


for command in (Ptcore, Walk, Maps, Translate):
    command()
