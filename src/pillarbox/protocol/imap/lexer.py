"""Tokens of IMAP commands: a cursor over one whole command, lines and literals in place.

What does not match raises `ParseError`, which never leaves the core. Matching is by compiled expressions without
nested quantifiers, so that each is linear. Source: RFC 3501 §9, RFC 7888 (LITERAL+).
"""

from __future__ import annotations

import re
from typing import Final

from pillarbox.model.errors import PeerError

ATOM: Final = re.compile(rb'[^\x00-\x20\x7f-\xff(){%*"\\\]]+')
ASTRING: Final = re.compile(rb'[^\x00-\x20\x7f-\xff(){%*"\\]+')
LIST_CHARS: Final = re.compile(rb'[^\x00-\x20\x7f-\xff(){"\\]+')
TAG: Final = re.compile(rb'[^\x00-\x20\x7f-\xff(){%*"\\+]{1,256}')
NUMBER: Final = re.compile(rb"[0-9]{1,20}")
SET: Final = re.compile(rb"[0-9*:,]+")
LITERAL_MARK: Final = re.compile(rb"\{([0-9]{1,20})(\+?)\}\r\n")
LINE_END_LITERAL: Final = re.compile(rb"(~?)\{([0-9]{1,20})(\+?)\}\Z")
"""What a line that is followed by a literal ends with (its CRLF taken off)."""
FLAG: Final = re.compile(rb'\\?[^\x00-\x20\x7f-\xff(){%*"\\\]]+')

MAX_NUMBER: Final = 0xFFFFFFFF

_PLAIN_QUOTED: Final = re.compile(rb'"([^"\\\r\n\x00]*)"')
_QUOTED_PIECE: Final = re.compile(rb'[^"\\\r\n\x00]+')


class ParseError(PeerError):
    """The command breaks the grammar; its text is for the peer, and holds nothing of what it sent."""


class NeedLiteral(Exception):
    """The command goes on with a literal that has not arrived yet."""


class Lexer:
    """A cursor over the octets of a command. `depth` is how deep parentheses may nest from here."""

    __slots__ = ("at", "depth", "octets")

    def __init__(self, octets: bytes, depth: int = 32) -> None:
        self.octets = octets
        self.at = 0
        self.depth = depth

    # --- plain matching

    def match(self, pattern: re.Pattern[bytes], what: str) -> bytes:
        """The text that `pattern` matches here."""
        found = pattern.match(self.octets, self.at)
        if found is None:
            raise ParseError(f"{what} expected")
        self.at = found.end()
        return found[0]

    def take(self, octets: bytes) -> bool:
        """Go past `octets` if they stand here."""
        if self.octets.startswith(octets, self.at):
            self.at += len(octets)
            return True
        return False

    def peek(self, octets: bytes) -> bool:
        return self.octets.startswith(octets, self.at)

    def expect(self, octets: bytes, what: str) -> None:
        if not self.take(octets):
            raise ParseError(f"{what} expected")

    def space(self) -> None:
        self.expect(b" ", "space")

    def end(self) -> None:
        """Nothing may follow. A space before the end is let pass, as some clients send it."""
        if self.at != len(self.octets) - 2 and self.octets[self.at :] != b" \r\n":
            raise ParseError("end of command expected")

    def at_end(self) -> bool:
        return self.at >= len(self.octets) - 2

    # --- tokens

    def atom(self) -> bytes:
        return self.match(ATOM, "atom")

    def word(self) -> bytes:
        """An atom that is a keyword: in capitals."""
        return self.match(ATOM, "keyword").upper()

    def number(self) -> int:
        """0 to 2^32-1."""
        value = int(self.match(NUMBER, "number"))
        if value > MAX_NUMBER:
            raise ParseError("number too large")
        return value

    def long_number(self) -> int:
        """Up to 20 digits: for values that are clipped anyway."""
        return int(self.match(NUMBER, "number"))

    def string(self) -> bytes:
        """Quoted or literal. Octets over 127 in quoted strings are let pass: clients send UTF-8 there."""
        text = self._quoted_or_literal()
        if text is None:
            raise ParseError("string expected")
        return text

    def astring(self) -> bytes:
        text = self._quoted_or_literal()
        return self.match(ASTRING, "string or atom") if text is None else text

    def nstring(self) -> bytes | None:
        if self.octets[self.at : self.at + 3].upper() == b"NIL":
            self.at += 3
            return None
        return self.string()

    def list_mailbox(self) -> bytes:
        """A name with wildcards. Source: RFC 3501 §9 (list-mailbox)."""
        text = self._quoted_or_literal()
        return self.match(LIST_CHARS, "mailbox pattern") if text is None else text

    def _quoted_or_literal(self) -> bytes | None:
        first = self.octets[self.at : self.at + 1]
        if first == b'"':
            return self._quoted()
        if first == b"{":
            return self._literal()
        return None

    def _quoted(self) -> bytes:
        plain = _PLAIN_QUOTED.match(self.octets, self.at)
        if plain:
            self.at = plain.end()
            return plain[1]
        octets, at, pieces = self.octets, self.at + 1, []
        while True:
            piece = _QUOTED_PIECE.match(octets, at)
            if piece:
                pieces.append(piece[0])
                at = piece.end()
            sign = octets[at : at + 1]
            if sign == b'"':
                break
            escaped = octets[at + 1 : at + 2]
            if sign != b"\\" or escaped not in (b'"', b"\\"):
                raise ParseError("unterminated quoted string")
            pieces.append(escaped)
            at += 2
        self.at = at + 1
        return b"".join(pieces)

    def _literal(self) -> bytes:
        mark = LITERAL_MARK.match(self.octets, self.at)
        if mark is None:
            raise ParseError("literal expected")
        end = mark.end() + int(mark[1])
        if end > len(self.octets):
            raise NeedLiteral
        self.at = end
        return self.octets[mark.end() : end]

    # --- nesting

    def open(self) -> bool:
        """Go into a parenthesised list, if one begins here."""
        if not self.take(b"("):
            return False
        self.deeper()
        return True

    def close(self) -> bool:
        """Leave it, if it ends here."""
        if not self.take(b")"):
            return False
        self.depth += 1
        return True

    def deeper(self) -> None:
        """One level down; whoever calls this comes up again with `depth += 1`."""
        self.depth -= 1
        if self.depth < 0:
            raise ParseError("nested too deeply")

    def sequence_set(self) -> tuple[tuple[int, int], ...]:
        """Intervals as written, 0 for "*". Source: RFC 3501 §9 (sequence-set)."""
        return parse_set(self.match(SET, "sequence set"))

    def flag(self) -> str:
        return self.match(FLAG, "flag").decode("ascii")


def parse_set(text: bytes) -> tuple[tuple[int, int], ...]:
    """Intervals of a sequence set, in the order written, 0 standing for "*". Raises ParseError."""
    ranges: list[tuple[int, int]] = []
    for part in text.split(b","):
        low, colon, high = part.partition(b":")
        first = _set_number(low)
        ranges.append((first, _set_number(high) if colon else first))
    return tuple(ranges)


def _set_number(digits: bytes) -> int:
    if digits == b"*":
        return 0
    if not digits.isdigit() or len(digits) > 10 or digits[0] == 48 or int(digits) > MAX_NUMBER:
        raise ParseError("bad sequence set")
    return int(digits)
