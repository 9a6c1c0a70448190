"""A QEMU of our own: started with its memory in a file, asked through QMP."""

from __future__ import annotations

import json
import mmap
import re
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

SECONDS = 240


class Machine:
    """A guest under emulation. Its memory is a file that this process maps too: nothing is copied."""

    def __init__(self, command: list[str], folder: Path, memory: tuple[int, int]) -> None:
        """Start `command` with what every guest has. `memory`: (physical address, bytes)."""
        self.folder = folder
        self.start, self.size = memory
        self.file = folder / "memory"
        self.console = folder / "console"
        self.gdb = folder / "gdb"
        self.live = folder / "live"
        monitor = folder / "qmp"
        backend = f"memory-backend-file,id=ram,size={self.size},mem-path={self.file},share=on"
        arguments = [
            *command,
            *("-object", backend, "-machine", "memory-backend=ram", "-m", f"{self.size}B"),
            *("-accel", "tcg", "-display", "none", "-nodefaults", "-no-reboot"),
            *("-serial", f"file:{self.console}"),
            *("-qmp", f"unix:{monitor},server=on,wait=off"),
            *("-qmp", f"unix:{self.live},server=on,wait=off"),
            *("-gdb", f"unix:{self.gdb},server=on,wait=off"),
        ]
        self.process = subprocess.Popen(arguments, stdin=subprocess.DEVNULL)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        for _ in range(100):
            if monitor.exists():
                break
            time.sleep(0.1)
        self._socket.connect(str(monitor))
        self._lines = self._socket.makefile("r")
        self.version = json.loads(self._lines.readline())["QMP"]["version"]
        self.execute("qmp_capabilities")

    def execute(self, command: str, **arguments: Any) -> Any:
        """Run a QMP command and return what it returns."""
        request = {"execute": command, "arguments": arguments}
        self._socket.sendall(json.dumps(request).encode())
        while True:
            answer = json.loads(self._lines.readline())
            if "event" not in answer:
                break
        assert "return" in answer, answer
        return answer["return"]

    def ask(self, line: str, cpu: int = 0) -> str:
        """Run a line of the human monitor on a CPU."""
        text: str = self.execute(
            "human-monitor-command", **{"command-line": line, "cpu-index": cpu}
        )
        return text

    def wait_for(self, word: str) -> str:
        """Return the console's text once a line begins with `word`."""
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            text = self.console.read_text(errors="replace") if self.console.exists() else ""
            if re.search(rf"^{word}.*\n", text, re.MULTILINE):
                return text
            assert self.process.poll() is None, f"QEMU ended:\n{text[-3000:]}"
            assert "Kernel panic" not in text, text[-3000:]
            time.sleep(0.25)
        raise TimeoutError(f"no {word} within {SECONDS} s:\n{text[-3000:]}")

    def bytes(self) -> mmap.mmap:
        """Return the guest's memory as bytes: byte 0 is at `start`."""
        with self.file.open("rb") as stream:
            return mmap.mmap(stream.fileno(), self.size, access=mmap.ACCESS_READ)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._socket.close()
        self.process.kill()
        self.process.wait()
        self.file.unlink(missing_ok=True)
