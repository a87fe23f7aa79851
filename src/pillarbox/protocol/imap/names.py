"""Mailbox names on the wire, and patterns of LIST. Source: RFC 3501 §5.1.3 (modified UTF-7), §6.3.8."""

from __future__ import annotations

import base64
import binascii
import re
from typing import Final

SEPARATOR: Final = "/"

_SHIFTED: Final = re.compile(rb"&([A-Za-z0-9+,]*)-")
_DIRECT: Final = re.compile(rb"[\x20-\x25\x27-\x7e]*")
_RUN: Final = re.compile(r"[^\x20-\x7e]+|&")


class BadName(ValueError):
    """Not modified UTF-7."""


def decode_name(octets: bytes) -> str:
    """The mailbox name that these octets spell; INBOX in capitals. Raises BadName.

    Only the one right spelling is taken: printable ASCII never in base64, no empty or adjoining shifts.
    """
    text = octets.decode("ascii") if b"&" not in octets and octets.isascii() else _decode_shifted(octets)
    if not _is_clean(text):
        raise BadName("control character")
    return canonical(text)


def encode_name(name: str) -> bytes:
    """The name in modified UTF-7."""
    if name.isascii() and "&" not in name:
        return name.encode("ascii")
    return _RUN.sub(_encode_run, name).encode("ascii")


def canonical(name: str) -> str:
    """INBOX is the same in any case, also as the first level of a hierarchy."""
    if name[:5].upper() == "INBOX" and (len(name) == 5 or name[5] == SEPARATOR):
        return "INBOX" + name[5:]
    return name


def _is_clean(text: str) -> bool:
    return not any(c < " " or c == "\x7f" for c in text)


def _decode_shifted(octets: bytes) -> str:
    pieces: list[str] = []
    at, after_shift = 0, False
    while at < len(octets):
        direct = _DIRECT.match(octets, at)
        assert direct is not None
        if direct.end() > at:
            pieces.append(direct[0].decode("ascii"))
            at, after_shift = direct.end(), False
            continue
        shifted = _SHIFTED.match(octets, at)
        if shifted is None:
            raise BadName("not modified UTF-7")
        at = shifted.end()
        if not shifted[1]:
            pieces.append("&")
            after_shift = False
            continue
        if after_shift:
            raise BadName("adjoining shifts")
        pieces.append(_decode_base64(shifted[1]))
        after_shift = True
    return "".join(pieces)


def _decode_base64(digits: bytes) -> str:
    try:
        raw = base64.b64decode(digits.replace(b",", b"/") + b"=" * (-len(digits) % 4), validate=True)
        text = raw.decode("utf-16-be")
    except (binascii.Error, UnicodeDecodeError) as error:
        raise BadName("not modified UTF-7") from error
    if any(" " <= c <= "~" for c in text) or _encode_base64(text) != digits:
        raise BadName("not the one right spelling")
    return text


def _encode_base64(text: str) -> bytes:
    return base64.b64encode(text.encode("utf-16-be", "surrogatepass")).rstrip(b"=").replace(b"/", b",")


def _encode_run(match: re.Match[str]) -> str:
    run = match[0]
    return "&-" if run == "&" else f"&{_encode_base64(run).decode('ascii')}-"


class Pattern:
    """A LIST pattern: `*` matches anything, `%` anything but the separator.

    All positions that the pattern can be at are bits of one number, so that the time is linear in the length of the
    name whatever the pattern is (case 174).
    """

    __slots__ = ("_chars", "_end", "_literal", "_prefix", "_star", "_text", "_wild")

    def __init__(self, text: str) -> None:
        self._text = text = _collapse(text)
        wild = re.search(r"[*%]", text)
        self._prefix = text[: wild.start()] if wild else text
        self._literal = wild is None
        self._chars: dict[str, int] = {}
        self._star = self._wild = 0
        for position, char in enumerate(text):
            bit = 1 << position
            if char == "*":
                self._star |= bit
                self._wild |= bit
            elif char == "%":
                self._wild |= bit
            else:
                self._chars[char] = self._chars.get(char, 0) | bit
        self._end = 1 << len(text)

    def matches(self, name: str) -> bool:
        """Does the pattern match the whole name? INBOX is compared without regard to case."""
        if self._run(name):
            return True
        if name == "INBOX" or name.startswith("INBOX/"):
            # the first level in any case: try the pattern with its beginning in capitals
            folded = self._text[:5].upper() + self._text[5:]
            return folded != self._text and Pattern(folded)._run(name)
        return False

    def _run(self, name: str) -> bool:
        if self._literal:
            return name == self._prefix
        if not name.startswith(self._prefix):
            return False
        if self._text == "*" or (self._text == "%" and SEPARATOR not in name):
            return True
        chars, star, wild = self._chars, self._star, self._wild
        start = len(self._prefix)
        states = 1 << start
        states |= (states & wild) << 1
        for char in name[start:]:
            stay = states & (star if char == SEPARATOR else wild)
            states = (states & chars.get(char, 0)) << 1 | stay
            states |= (states & wild) << 1
            if not states:
                return False
        return bool(states & self._end)


def _collapse(text: str) -> str:
    """Runs of wildcards are one: `*` if there is one among them, else `%`."""
    return re.sub(r"[*%]{2,}", lambda run: "*" if "*" in run[0] else "%", text)
