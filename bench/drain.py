"""Read as fast as a socket gives: so that the client is not what is measured."""

from __future__ import annotations

import socket
import time

ROOM = 1 << 20


def timed_until(sock: socket.socket, command: bytes, ending: bytes) -> tuple[float, int]:
    """Send `command` and read until the octets read end with a line that begins with `ending`.

    Returns seconds and octets. `ending` must be the start of the last line, as the tag of the command is.
    """
    room = bytearray(ROOM)
    view = memoryview(room)
    tail = b""
    octets = 0
    begun = time.perf_counter()
    sock.sendall(command)
    while True:
        count = sock.recv_into(view)
        if not count:
            raise ConnectionError("the server closed the connection")
        octets += count
        tail = (tail + bytes(view[max(0, count - 400) : count]))[-400:]
        if tail.endswith(b"\r\n"):
            last = tail[:-2].rpartition(b"\r\n")[2]
            if last.startswith(ending):
                return time.perf_counter() - begun, octets
