"""A message as POP3 sends it: lines dot-stuffed, a final line with one dot; TOP's first lines.

A dot is doubled after every LF, not only after CRLF: the client programs there are read lines to the LF, and for them
"LF . CRLF" within a message would be its end, and what follows it our next answers. Mail that came by SMTP has no bare
LF, so it arrives octet for octet. Source: RFC 1939 §3 (multi-line responses), §7 (TOP).
"""

from __future__ import annotations

import re
from typing import Final

END: Final = b".\r\n"
_LINE_END_AND_END: Final = b"\r\n.\r\n"
_BLANK_LINE: Final = re.compile(rb"\n\r?\n")


def stuffed(octets: bytes) -> bytes:
    """The whole message and the line that ends it."""
    octets = doubled(octets)
    return octets + ending(octets)


def doubled(octets: bytes) -> bytes:
    """The same with a second dot where a line begins with one."""
    if b"\n." in octets:
        octets = octets.replace(b"\n.", b"\n..")
    return b"." + octets if octets.startswith(b".") else octets


def ending(octets: bytes) -> bytes:
    """What follows these octets: the end of their last line, if it has none, and the line with a dot."""
    return END if octets.endswith(b"\r\n") or not octets else _LINE_END_AND_END


class Stuffer:
    """The same, piece by piece: `feed` each, then send what `finish` returns."""

    __slots__ = ("_tail",)

    def __init__(self) -> None:
        self._tail = b"\r\n"

    def feed(self, octets: bytes) -> bytes:
        if not octets:
            return b""
        wire = octets.replace(b"\n.", b"\n..") if b"\n." in octets else octets
        if octets.startswith(b".") and self._tail.endswith(b"\n"):
            wire = b"." + wire
        self._tail = (self._tail + octets)[-2:] if len(octets) < 2 else octets[-2:]
        return wire

    def finish(self) -> bytes:
        return END if self._tail == b"\r\n" else b"\r\n" + END


def top(octets: bytes, lines: int, is_whole: bool = True) -> bytes | None:
    """The header, the blank line after it, and the first `lines` lines of the body; None if they may go on beyond
    these octets, which are not the whole message."""
    cut = Top(lines)
    piece = cut.feed(octets)
    return piece if is_whole or cut.is_done else None


class Top:
    """The same, piece by piece: `feed` until `is_done`."""

    __slots__ = ("_in_header", "_left", "_tail", "is_done")

    def __init__(self, lines: int) -> None:
        self._in_header = True
        self._left = lines
        self._tail = b"\n"
        """What may be the beginning of the blank line. Before the first octet a line has just ended."""
        self.is_done = False

    def feed(self, octets: bytes) -> bytes:
        """What of these octets is to be sent."""
        if self.is_done:
            return b""
        start = 0
        if self._in_header:
            tail = len(self._tail)
            blank = _BLANK_LINE.search(self._tail + octets)
            if blank is None:
                self._tail = (self._tail + octets)[-2:]
                return octets
            self._in_header = False
            start = blank.end() - tail
        return octets[:start] + self._lines(octets[start:])

    def _lines(self, body: bytes) -> bytes:
        if self._left == 0:
            self.is_done = True
            return b""
        pieces = body.split(b"\n", self._left)
        self._left -= len(pieces) - 1
        if self._left:
            return body
        self.is_done = True
        return body[: len(body) - len(pieces[-1])]
