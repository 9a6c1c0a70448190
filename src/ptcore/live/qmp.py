"""QEMU's machine protocol, called as functions: the library qemu.qmp on a thread of its own.

QEMU manual, "QEMU Machine Protocol Specification"; QMP Reference Manual (`pmemsave`, `query-target`,
`query-status`, `human-monitor-command`).
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterable, Mapping
from contextlib import suppress
from typing import Any

from ptcore.errors import ImageError
from ptcore.live.sockets import Place, address_of

Command = tuple[str, Mapping[str, Any]]
# Commands under way at a time. QEMU holds back a client with more than 8 waiting.
AHEAD = 8


def _library() -> Any:
    try:
        from qemu import qmp
    except ImportError:
        raise ImageError(
            "QMP needs the package qemu.qmp: pip install 'ptcore[live]'; or give gdb= alone"
        ) from None
    return qmp


class Qmp:
    """A connection to a QMP socket. `round_trips` counts the times that answers were waited for."""

    def __init__(self, place: Place, *, timeout: float = 10.0) -> None:
        """Connect. Raises ImageError when nothing answers there as QMP does, or without qemu.qmp."""
        self._library = _library()
        self._name = str(place)
        self._timeout = timeout
        self.round_trips = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._client = self._library.QMPClient("ptcore")
        self._client.logger.disabled = (
            True  # what goes wrong is raised, and need not be printed too
        )
        try:
            self._run(self._client.connect(address_of(place)))
        except ImageError:
            self._end()
            raise

    def _run(self, work: Coroutine[Any, Any, Any]) -> Any:
        self.round_trips += 1
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result(self._timeout)
        except self._library.QMPError as error:
            raise ImageError(f"{self._name}: QMP: {error}") from None
        except TimeoutError:
            future.cancel()
            raise ImageError(f"{self._name}: QMP does not answer") from None
        except (OSError, EOFError) as error:
            raise ImageError(f"{self._name}: QMP is gone ({error!r})") from None

    def execute(self, command: str, **arguments: Any) -> Any:
        """Run a command and return what it returns. ImageError with QEMU's words if it refuses."""
        return self._run(self._client.execute(command, arguments))

    def execute_all(self, commands: Iterable[Command]) -> list[Any]:
        """Run commands, some ahead of their answers; the answers are in order."""
        waiting = list(commands)
        answers: list[Any] = []
        for at in range(0, len(waiting), AHEAD):
            answers += self._run(self._together(waiting[at : at + AHEAD]))
        return answers

    async def _together(self, commands: list[Command]) -> list[Any]:
        return list(await asyncio.gather(*(self._client.execute(c, dict(a)) for c, a in commands)))

    def ask_monitor(self, line: str, cpu: int = 0) -> str:
        """Run a line of the human monitor on a CPU and return what it prints."""
        text = self.execute("human-monitor-command", **{"command-line": line, "cpu-index": cpu})
        return str(text).replace("\r", "")

    def close(self) -> None:
        """Close the connection; the machine stays as it is. Closing twice is closing once."""
        if self._thread.is_alive():
            with suppress(ImageError):  # QEMU may be gone already
                self._run(self._client.disconnect())
            self._end()

    def _end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
