"""The octets of a message while they arrive: counted, checked for line ends, handed on to the store's writer.

Bare CR, bare LF and NUL are refused with the whole message, whatever a peer downstream might make of them: that is how
mail is smuggled (cases 41 to 48). Source: RFC 5321 §2.3.8, §4.1.1.4, §4.5.3.1.6.
"""

from __future__ import annotations

from typing import Final

from pillarbox.model.errors import Refused
from pillarbox.model.mailbox import Content
from pillarbox.model.settings import Limits
from pillarbox.model.status import Status
from pillarbox.store.api import ContentWriter

_CR: Final = 13
_CONTENT: Final = Status(5, 6, 0)
_SYNTAX: Final = Status(5, 5, 2)


class IncomingContent:
    """A `ContentWriter` that remembers what is wrong with what it was given; then nothing more is kept."""

    __slots__ = ("_line", "_max_line", "_max_size", "_tail", "_writer", "problem", "size")

    def __init__(self, writer: ContentWriter, limits: Limits) -> None:
        self._writer = writer
        self._max_size = limits.message_octets
        self._max_line = limits.content_line_octets
        self._tail = 0
        """The last octet so far: a CR there may belong to an LF that is still to come."""
        self._line = 0
        """Octets of the line that is not ended yet."""
        self.size = 0
        self.problem: Refused | None = None

    def write(self, octets: bytes) -> None:
        """Take more."""
        if not octets:
            return
        self.size += len(octets)
        if self.problem is None:
            self._check(octets)
            if self.problem is None:
                self._writer.write(octets)

    async def drain(self) -> None:
        await self._writer.drain()

    async def finish(self) -> Content:
        """Raises Refused if the content may not be."""
        if self.problem is None and self._tail == _CR:
            self.problem = Refused(_SYNTAX, "bare-cr", "bare CR is not allowed")
        if self.problem is not None:
            self._writer.abort()
            raise self.problem
        return await self._writer.finish()

    def abort(self) -> None:
        self._writer.abort()

    def _check(self, octets: bytes) -> None:
        if self.size > self._max_size:
            self.problem = Refused(Status(5, 3, 4), "message-size", "the message is too large")
            return
        pairs = octets.count(b"\r\n")
        returns = octets.count(b"\r")
        feeds = octets.count(b"\n")
        if self._tail == _CR:
            if octets[0] == 10:
                feeds -= 1
            else:
                returns += 1  # the CR of before stands alone
        self._tail = octets[-1]
        if self._tail == _CR:
            returns -= 1  # it is judged with what follows
        if feeds != pairs:
            self.problem = Refused(_SYNTAX, "bare-lf", "bare LF is not allowed")
        elif returns != pairs:
            self.problem = Refused(_SYNTAX, "bare-cr", "bare CR is not allowed")
        elif b"\0" in octets:
            self.problem = Refused(_CONTENT, "nul", "NUL is not allowed")
        elif self._line + len(octets) > self._max_line and self._has_long_line(octets):
            self.problem = Refused(_CONTENT, "line-length", "a line is too long")
        else:
            newline = octets.rfind(b"\n")
            self._line = self._line + len(octets) if newline < 0 else len(octets) - newline - 1

    def _has_long_line(self, octets: bytes) -> bool:
        """Look for a line end within each reach of the limit, from the last one found."""
        start = -self._line
        limit = self._max_line
        while len(octets) - start > limit:
            newline = octets.rfind(b"\n", max(start, 0), max(start + limit, 0))
            if newline < 0:
                return True
            start = newline + 1
        return False
