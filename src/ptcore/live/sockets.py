"""Where a running machine listens: a Unix socket or a TCP port."""

from __future__ import annotations

import os
import socket

Place = str | os.PathLike[str] | tuple[str, int]


def address_of(place: Place) -> str | tuple[str, int]:
    """Return the address of a socket: "unix:PATH" and paths as a path, "HOST:PORT" as a pair.

    What follows the first comma of "unix:PATH,server=on" is QEMU's, and is left out. ValueError for a
    port that is no number.
    """
    if isinstance(place, tuple):
        return place
    text = os.fspath(place)
    if text.startswith("unix:"):
        return text.removeprefix("unix:").partition(",")[0]
    host, colon, port = text.removeprefix("tcp:").partition(",")[0].rpartition(":")
    if colon and "/" not in text:
        if not port.isdigit():
            raise ValueError(f"{text!r} is no HOST:PORT and no path of a socket")
        return host or "localhost", int(port)
    return text


def connect(place: Place, timeout: float) -> socket.socket:
    """Return a connected socket whose operations give up after `timeout` seconds."""
    address = address_of(place)
    if isinstance(address, tuple):
        made = socket.create_connection(address, timeout)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return made
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    made.settimeout(timeout)
    try:
        made.connect(address)
    except OSError as error:
        made.close()
        raise type(error)(error.errno, error.strerror, address) from None
    return made
