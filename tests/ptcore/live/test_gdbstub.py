"""The client of the remote serial protocol against a stub that says what the test wants."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ptcore.errors import ImageError
from ptcore.live.gdbstub import GdbStub, framed, unescaped

Answers = Callable[[bytes], bytes | None]
TARGET = b'<target><architecture>toy</architecture><xi:include href="toy.xml"/></target>'
TOY = (
    b'<feature name="toy"><reg name="R0" bitsize="32"/><reg name="wide" bitsize="128"/>'
    b'<reg name="Root" bitsize="64" regnum="9"/><reg name="f0" bitsize="64" group="float"/>'
    b'<reg name="last" bitsize="64"/></feature>'
)


class Stub:
    """A gdbstub in a thread. `answers` maps a payload to the raw bytes that are sent back."""

    def __init__(self, path: Path, answers: Answers) -> None:
        self.place = path
        self.seen: list[bytes] = []
        self._answers = answers
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(str(path))
        self._listening.listen()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        link, _ = self._listening.accept()
        pending = b""
        with link:
            while more := link.recv(4096):
                pending += more
                while (end := pending.find(b"#")) >= 0 and len(pending) >= end + 3:
                    payload = pending[pending.find(b"$") + 1 : end]
                    pending = pending[end + 3 :]
                    self.seen.append(payload)
                    answer = self._answers(payload)
                    if answer is None:
                        return
                    link.sendall(answer)

    def close(self) -> None:
        self._listening.close()


def usual(payload: bytes) -> bytes | None:
    if payload.startswith(b"qSupported"):
        return framed(b"PacketSize=40;qXfer:features:read+")
    if payload in (b"QStartNoAckMode", b"Qqemu.PhyMemMode:1", b"Qqemu.PhyMemMode:0", b"Hg01"):
        return framed(b"OK")
    if payload == b"qfThreadInfo":
        return framed(b"m01,02")
    if payload == b"qsThreadInfo":
        return framed(b"l")
    if payload.startswith(b"qXfer:features:read:"):
        _, _, _, annex, span = payload.split(b":")
        at, size = (int(n, 16) for n in span.split(b","))
        text = TARGET if annex == b"target.xml" else TOY
        part = text[at : at + size]
        return framed((b"l" if at + size >= len(text) else b"m") + part)
    if payload.startswith(b"p"):
        return framed(int(payload[1:], 16).to_bytes(8, "little").hex().encode())
    if payload.startswith(b"m"):
        at, size = (int(n, 16) for n in payload[1:].split(b","))
        if at >= 1 << 20:
            return framed(b"E14")
        return framed(bytes((at + n) & 0xFF for n in range(size)).hex().encode())
    return framed(b"")


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Callable[[Answers], Stub]]:
    stubs: list[Stub] = []

    def make(answers: Answers) -> Stub:
        stubs.append(Stub(tmp_path / f"stub{len(stubs)}", answers))
        return stubs[-1]

    yield make
    for stub in stubs:
        stub.close()


def test_registers_are_numbered_as_the_target_description_says(
    made: Callable[[Answers], Stub],
) -> None:
    with GdbStub(made(usual).place) as stub:
        assert stub.architecture() == "toy"
        # wide and f0 are counted, but are no integers of 64 bits; Root says its number itself.
        assert stub.registers("01") == {"r0": 0, "root": 9, "last": 11}
        with pytest.raises(ImageError, match="no thread 7"):
            stub.registers("7")
        assert stub.threads() == ("01", "02")


def test_spans_are_read_in_parts_that_fit_a_packet(made: Callable[[Answers], Stub]) -> None:
    server = made(usual)
    with GdbStub(server.place) as stub:
        spans = [(0x100, 100), (1 << 20, 8), (0x300, 1)]
        before = stub.round_trips
        first, nothing, last = stub.read_physical(spans)
        assert first == bytes((0x100 + n) & 0xFF for n in range(100))
        assert nothing is None
        assert last == b"\0"
        assert stub.round_trips - before == 2, "the mode, and all parts at once"
        parts = [payload for payload in server.seen if payload.startswith(b"m")]
        assert parts == [b"m100,20", b"m120,20", b"m140,20", b"m160,4", b"m100000,8", b"m300,1"]


def test_escapes_and_run_lengths_are_undone() -> None:
    # GDB manual, "Overview": "0* " is "0000"; "}" escapes the byte after it, less 0x20.
    assert unescaped(b"0* ") == b"0000"
    assert unescaped(b"a}\x03b}\x04") == b"a#b$"
    assert unescaped(b"plain") == b"plain"
    assert framed(b"OK") == b"$OK#9a"


def test_that_the_machine_stopped_is_no_answer(made: Callable[[Answers], Stub]) -> None:
    def noisy(payload: bytes) -> bytes | None:
        answer = usual(payload)
        return framed(b"T02thread:01;") + (answer or b"") if payload.startswith(b"m") else answer

    with GdbStub(made(noisy).place) as stub:
        assert stub.read_physical([(0x10, 2)]) == [b"\x10\x11"]


def wrong_sum(payload: bytes) -> bytes | None:
    return b"$00#00" if payload.startswith(b"m") else usual(payload)


def hung_up(payload: bytes) -> bytes | None:
    return None if payload.startswith(b"m") else usual(payload)


def silent(payload: bytes) -> bytes | None:
    return b"" if payload.startswith(b"m") else usual(payload)


def not_qemu(payload: bytes) -> bytes | None:
    return framed(b"") if b"PhyMemMode" in payload else usual(payload)


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        (wrong_sum, "checksum"),
        (hung_up, "closed the connection"),
        (silent, "does not answer"),
        (not_qemu, "not QEMU's"),
    ],
)
def test_what_is_no_gdbstub_of_qemu_is_refused(
    made: Callable[[Answers], Stub], answers: Answers, said: str
) -> None:
    stub = GdbStub(made(answers).place, timeout=0.3)
    with pytest.raises(ImageError, match=said):
        stub.read_physical([(0, 4)])
    stub.close()
    stub.close()


def test_a_stub_without_a_monitor_or_registers_says_so(made: Callable[[Answers], Stub]) -> None:
    def bare(payload: bytes) -> bytes | None:
        return framed(b"") if payload.startswith((b"qRcmd", b"qXfer")) else usual(payload)

    with GdbStub(made(bare).place) as stub:
        with pytest.raises(ImageError, match="no monitor"):
            stub.ask_monitor("info mtree -f")
        with pytest.raises(ImageError, match="does not describe"):
            stub.registers("01")
