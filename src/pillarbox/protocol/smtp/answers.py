"""What a server answers, as the client reads it: bounded, and tolerant where nothing is at stake.

Source: RFC 5321 §4.2 (replies), §4.2.1 (several lines), §4.5.3.1.5; RFC 2034 and 3463 (enhanced codes). Cases 118–121.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from pillarbox.model.errors import PeerError
from pillarbox.model.outcome import Deferred, Delivered, Failed, Outcome
from pillarbox.model.status import Status, parse_status

MAX_LINE_OCTETS: Final = 4096
MAX_LINES: Final = 100

_LINE: Final = re.compile(rb"([2-5][0-9]{2})(?:([ -])(.*))?", re.DOTALL)
_UNPRINTABLE: Final = re.compile(r"[^\x20-\x7e]")
_TOO_MANY_RECIPIENTS: Final = Status(4, 5, 3)


@dataclass(frozen=True, slots=True)
class Answer:
    """One reply: its code and its lines without code."""

    code: int
    lines: tuple[str, ...]

    @property
    def text(self) -> str:
        """The whole reply as one printable line of at most 500 characters; for logs and reports."""
        return _UNPRINTABLE.sub("?", f"{self.code} {' '.join(self.lines)}".strip())[:500]

    @property
    def status(self) -> Status:
        """The enhanced code, or class.0.0 where there is none that fits the reply's class (case 120)."""
        word = self.lines[-1].split(" ", 1)[0] if self.lines else ""
        found = parse_status(word)
        klass = self.code // 100
        return found if found and found.klass == klass else Status(klass if klass in (2, 4) else 5, 0, 0)

    def outcome(self, remote: str, is_rcpt: bool = False) -> Outcome:
        """What this reply means for a recipient.

        A 552 for RCPT that says nothing about the mailbox stands for 452, too many recipients (RFC 5321
        §4.5.3.1.10). A 3yz where none is possible is the peer's confusion: try again later.
        """
        if self.code < 300:
            return Delivered(self.status, remote, self.text)
        if self.code < 400:
            return Deferred(Status(4, 5, 0), self.text, remote)
        if self.code < 500:
            return Deferred(self.status, self.text, remote)
        if is_rcpt and self.code == 552 and self.status in (Status(5, 0, 0), Status(5, 5, 3)):
            return Deferred(_TOO_MANY_RECIPIENTS, self.text, remote)
        return Failed(self.status, self.text, remote)


class AnswerReader:
    """Octets in, answers out. Raises PeerError when a server goes beyond all bounds (case 119)."""

    __slots__ = ("_buffer", "_lines", "_scanned")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._lines: list[str] = []
        self._scanned = 0

    def __bool__(self) -> bool:
        """True if octets are left that belong to a further answer."""
        return bool(self._buffer or self._lines)

    def receive(self, octets: bytes) -> None:
        self._buffer += octets

    def clear(self) -> None:
        self._buffer.clear()
        self._lines.clear()
        self._scanned = 0

    def take(self) -> Answer | None:
        """The next whole answer, or None. Raises PeerError for what is none."""
        while (end := self._buffer.find(b"\n", self._scanned)) >= 0:
            if end > MAX_LINE_OCTETS:
                raise PeerError("reply line too long")
            line = bytes(self._buffer[:end]).removesuffix(b"\r")
            del self._buffer[: end + 1]
            self._scanned = 0
            if not (said := _LINE.fullmatch(line)):
                raise PeerError("not an SMTP reply")
            self._lines.append((said[3] or b"").decode("utf-8", "replace"))
            if said[2] != b"-":
                answer = Answer(int(said[1]), tuple(self._lines))
                self._lines.clear()
                return answer
            if len(self._lines) >= MAX_LINES:
                raise PeerError("reply of too many lines")
        self._scanned = len(self._buffer)
        if self._scanned > MAX_LINE_OCTETS:
            raise PeerError("reply line too long")
        return None
