"""Lines of a client, as they arrive: bounded, and never kept beyond what is needed. Source: RFC 2449 §4."""

from __future__ import annotations

import re
from enum import Enum


class LineError(Enum):
    """What comes instead of a line."""

    TOO_LONG = 1


class Lines:
    """Octets in, lines out. A line that is too long is reported once, and skipped to its end."""

    __slots__ = ("_buffer", "_discarding", "_position")

    def __init__(self) -> None:
        self._buffer = b""
        self._position = 0
        self._discarding = False

    def __len__(self) -> int:
        """Octets that have not been looked at."""
        return len(self._buffer) - self._position

    def receive(self, octets: bytes) -> None:
        rest = self._buffer[self._position :]
        self._buffer = rest + octets if rest else octets
        self._position = 0

    def clear(self) -> None:
        """Forget it all."""
        self._buffer, self._position, self._discarding = b"", 0, False

    def starts_with(self, word: bytes) -> bool:
        """Does the next line begin so (`word` in capitals)?"""
        return self._buffer[self._position : self._position + len(word)].upper() == word

    def take(self, limit_octets: int) -> bytes | LineError | None:
        """The next line without its end, which counts for the limit; None if it has not come whole."""
        if self._discarding and not self._discard():
            return None
        start = self._position
        end = self._buffer.find(b"\n", start, start + limit_octets)
        if end >= 0:
            self._position = end + 1
            has_cr = end > start and self._buffer[end - 1] == 0x0D
            return self._buffer[start : end - 1 if has_cr else end]
        if len(self) < limit_octets:
            return None
        self._discarding = True
        return LineError.TOO_LONG

    def take_match(self, pattern: re.Pattern[bytes]) -> re.Match[bytes] | None:
        """Match whole lines, their ends included; `take_back` if they are not wanted after all."""
        if self._discarding:
            return None
        match = pattern.match(self._buffer, self._position)
        if match is not None:
            self._position = match.end()
        return match

    def take_back(self, match: re.Match[bytes]) -> None:
        """The last match was not for us."""
        self._position = match.start()

    def matches(self, pattern: re.Pattern[bytes], limit: int) -> list[re.Match[bytes]]:
        """Up to `limit` matches, one after the other; nothing is taken."""
        found: list[re.Match[bytes]] = []
        position = self._position
        while len(found) < limit and (match := pattern.match(self._buffer, position)):
            found.append(match)
            position = match.end()
        return found

    def _discard(self) -> bool:
        """Skip the rest of a line that was too long; False if its end has not come yet."""
        end = self._buffer.find(b"\n", self._position)
        if end < 0:
            self._buffer, self._position = b"", 0
            return False
        self._position = end + 1
        self._discarding = False
        return True
