"""A client of the remote serial protocol of gdb, as QEMU's gdbstub speaks it.

GDB manual, appendix "GDB Remote Serial Protocol": "Overview" (packets, checksums, escapes), "Packets" (g, p,
m, H), "General Query Packets" (qSupported, qXfer:features:read, qfThreadInfo, QStartNoAckMode), appendix
"Target Descriptions" (how registers are numbered). QEMU manual, "GDB usage", "Examining physical memory":
`qqemu.PhyMemMode`. QEMU 7.2 gdbstub.c (handle_read_mem): at most half a packet is read at a time.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Self
from xml.etree import ElementTree

from ptcore.errors import ImageError
from ptcore.live.sockets import Place, connect

INTERRUPT = b"\x03"
ESCAPE = 0x7D
ESCAPED = 0x20
# More requests than this are never under way: both ends must be able to hold what was not read yet.
AHEAD = 32
RECEIVE_BYTES = 1 << 16
DEFAULT_PACKET_BYTES = 400


def framed(payload: bytes) -> bytes:
    """Return a packet: "$", the payload, "#", its checksum."""
    return b"$%s#%02x" % (payload, sum(payload) & 0xFF)


def unescaped(payload: bytes) -> bytes:
    """Return what a payload says: escapes and run lengths undone ("Overview")."""
    if b"}" not in payload and b"*" not in payload:
        return payload
    text = bytearray()
    at = 0
    while at < len(payload):
        byte = payload[at]
        if byte == ESCAPE:
            at += 1
            text.append(payload[at] ^ ESCAPED)
        elif byte == ord("*"):
            at += 1
            text += text[-1:] * (payload[at] - 29)
        else:
            text.append(byte)
        at += 1
    return bytes(text)


def _integers(elements: Iterable[ElementTree.Element]) -> Iterator[tuple[int, str]]:
    """Yield (number, name) of the registers of at most 64 bits, numbered as "Target Descriptions" says."""
    number = 0
    for element in elements:
        number = int(element.get("regnum", number))
        integer = element.get("group") not in ("float", "vector")
        if integer and int(element.get("bitsize", "0")) <= 64:
            yield number, str(element.get("name")).lower()
        number += 1


class GdbStub:
    """A connection to a gdbstub.

    Connecting stops the machine (QEMU does so for every debugger), and closing leaves it stopped;
    `resume` detaches and lets it run. While it runs nothing can be asked: `interrupt` it first.
    `round_trips` counts the times that an answer was waited for.
    """

    def __init__(self, place: Place, *, timeout: float = 10.0) -> None:
        """Connect to `place` ("unix:PATH", a path, or "HOST:PORT").

        Raises OSError as connecting does, ImageError if what answers is no gdbstub.
        """
        self._name = str(place)
        self._socket = connect(place, timeout)
        self._pending = bytearray()
        self._acknowledge = True
        self._unacknowledged = 0
        self.round_trips = 0
        features = self.ask(b"qSupported:multiprocess-;qXfer:features:read+").decode("latin-1")
        said = dict(part.partition("=")[::2] for part in features.split(";"))
        size = said.get("PacketSize")
        self._packet_bytes = int(size, 16) if size else DEFAULT_PACKET_BYTES
        if self.ask(b"QStartNoAckMode") == b"OK":
            self._acknowledge = False  # what is owed of this answer is sent still
        self._physical = False
        self._described: tuple[tuple[int, str], ...] = ()

    # -- packets -----------------------------------------------------------------------------

    def ask(self, payload: bytes) -> bytes:
        """Send one packet, return the answer to it."""
        return self.ask_all([payload])[0]

    def ask_all(self, payloads: Iterable[bytes]) -> list[bytes]:
        """Send packets, some ahead of their answers, and return the answers in order.

        Raises ImageError when the connection ends or no answer comes in time.
        """
        waiting = list(payloads)
        answers: list[bytes] = []
        for at in range(0, len(waiting), AHEAD):
            some = waiting[at : at + AHEAD]
            self._send(b"".join(map(framed, some)))
            answers += [self._receive() for _ in some]
        return answers

    def ask_monitor(self, line: str) -> str:
        """Run a line of QEMU's monitor ("Packets", qRcmd) and return what it prints.

        Raises ImageError as `ask_all` does, and when the stub has no monitor.
        """
        self._send(framed(b"qRcmd," + line.encode().hex().encode()))
        text = b""
        while (answer := self._receive()) != b"OK":
            if not answer.startswith(b"O"):
                raise ImageError(f"{self._name}: the gdbstub has no monitor to ask {line!r}")
            text += bytes.fromhex(answer[1:].decode("ascii"))
        return text.decode("utf-8", "replace").replace("\r", "")

    def _send(self, packets: bytes) -> None:
        """Send packets, the acknowledgements of what was received before them ahead of them.

        QEMU takes the start of a packet for an acknowledgement as well: requests need not wait for any.
        """
        self.round_trips += 1
        owed, self._unacknowledged = self._unacknowledged, 0
        try:
            # An error, not a signal, if QEMU is gone: the command line ends silently on SIGPIPE.
            self._socket.sendall(b"+" * owed + packets, socket.MSG_NOSIGNAL)
        except OSError as error:
            raise ImageError(f"{self._name}: the gdbstub is gone ({error})") from None

    def _receive(self) -> bytes:
        """Return the answer that comes next. That the machine stopped meanwhile is no answer."""
        while (payload := self._packet()).startswith((b"T", b"S")):
            pass
        return payload

    def _packet(self) -> bytes:
        while True:
            start = self._pending.find(b"$")
            end = self._pending.find(b"#", start + 1) if start >= 0 else -1
            if end >= 0 and len(self._pending) >= end + 3:
                break
            try:
                more = self._socket.recv(RECEIVE_BYTES)
            except TimeoutError:
                raise ImageError(f"{self._name}: the gdbstub does not answer") from None
            except OSError as error:
                raise ImageError(f"{self._name}: the gdbstub is gone ({error})") from None
            if not more:
                raise ImageError(f"{self._name}: the gdbstub closed the connection")
            self._pending += more
        payload = bytes(self._pending[start + 1 : end])
        said = bytes(self._pending[end + 1 : end + 3])
        del self._pending[: end + 3]
        if said.lower() != b"%02x" % (sum(payload) & 0xFF):
            raise ImageError(f"{self._name}: a packet's checksum is {said!r}, not that of its text")
        self._unacknowledged += self._acknowledge
        return unescaped(payload)

    # -- registers ---------------------------------------------------------------------------

    def threads(self) -> tuple[str, ...]:
        """Return the names of the CPUs, as the stub gives them, in its order."""
        found: list[str] = []
        answer = self.ask(b"qfThreadInfo")
        while answer.startswith(b"m"):
            found += answer[1:].decode("latin-1").split(",")
            answer = self.ask(b"qsThreadInfo")
        return tuple(found)

    def architecture(self) -> str:
        """Return gdb's name of the architecture, "" if the stub does not say."""
        found = re.search(rb"<architecture>(.*?)</architecture>", self._annex("target.xml"))
        return found[1].decode("latin-1") if found else ""

    def registers(self, thread: str) -> dict[str, int]:
        """Return the integer registers of a CPU by the names of the target description, lower case.

        Raises ImageError for a stub that describes no registers, or knows no such thread.
        """
        if self.ask(b"Hg" + thread.encode()) != b"OK":
            raise ImageError(f"{self._name}: the gdbstub has no thread {thread}")
        if not self._described:
            self._described = tuple(_integers(self._description("target.xml")))
        answers = self.ask_all(b"p%x" % number for number, _ in self._described)
        return {
            name: int.from_bytes(bytes.fromhex(answer.decode("ascii")), "little")
            for (_, name), answer in zip(self._described, answers, strict=True)
            if answer and not answer.startswith((b"E", b"x"))
        }

    def _description(self, annex: str) -> Iterator[ElementTree.Element]:
        """Yield the register elements of a description, those that it includes in place."""
        # QEMU writes "xi:include" without saying what "xi" is, as gdb's manual does.
        text = self._annex(annex).replace(b"<xi:include", b"<include")
        for element in ElementTree.fromstring(text).iter():
            if element.tag == "include":
                yield from self._description(str(element.get("href")))
            elif element.tag == "reg":
                yield element

    def _annex(self, annex: str) -> bytes:
        text = b""
        size = self._packet_bytes - 8
        while True:
            request = b"qXfer:features:read:%s:%x,%x" % (annex.encode(), len(text), size)
            answer = self.ask(request)
            if answer[:1] not in (b"m", b"l"):
                raise ImageError(f"{self._name}: the gdbstub does not describe its registers")
            text += answer[1:]
            if answer.startswith(b"l"):
                return text

    # -- memory ------------------------------------------------------------------------------

    def read_physical(self, spans: Sequence[tuple[int, int]]) -> list[bytes | None]:
        """Return the bytes of (physical address, size) spans, None for one that cannot be read.

        Raises ImageError if the stub cannot read physical memory.
        """
        self._see_physical()
        most = self._packet_bytes // 2
        parts = [
            (at, min(most, start + size - at))
            for start, size in spans
            for at in range(start, start + size, most)
        ]
        answers = iter(self.ask_all(b"m%x,%x" % part for part in parts))
        found: list[bytes | None] = []
        for start, size in spans:
            mine = [next(answers) for _ in range(start, start + size, most)]
            whole = b"" if any(part.startswith(b"E") for part in mine) else b"".join(mine)
            text = bytes.fromhex(whole.decode("ascii"))
            found.append(text if len(text) == size else None)
        return found

    def _see_physical(self) -> None:
        if not self._physical:
            if self.ask(b"Qqemu.PhyMemMode:1") != b"OK":
                raise ImageError(
                    f"{self._name}: the gdbstub cannot read physical memory (it is not QEMU's)"
                )
            self._physical = True

    # -- running -----------------------------------------------------------------------------

    def interrupt(self) -> None:
        """Stop a machine that runs. QEMU listens to nothing else while it does ("Interrupts")."""
        self._send(INTERRUPT)
        while not self._packet().startswith((b"T", b"S")):
            pass

    # -- the end -----------------------------------------------------------------------------

    def resume(self) -> None:
        """Detach: QEMU lets the machine run. The connection is closed."""
        self._see_virtual()
        self.ask(b"D")
        self._socket.close()

    def close(self) -> None:
        """Close the connection; the machine stays as it is. Closing twice is closing once."""
        if self._socket.fileno() < 0:
            return
        with suppress(ImageError):  # QEMU is gone, and its mode with it
            self._see_virtual()
        self._socket.close()

    def _see_virtual(self) -> None:
        """Leave physical mode, which QEMU keeps for the debugger that comes next."""
        if self._physical:
            self._physical = False
            self.ask(b"Qqemu.PhyMemMode:0")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()


__all__ = ["GdbStub", "framed", "unescaped"]
