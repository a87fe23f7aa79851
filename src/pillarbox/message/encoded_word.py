"""Encoded words in header values, read and written. Source: RFC 2047, RFC 2231 §5 (language), RFC 6532 (raw UTF-8)."""

from __future__ import annotations

import base64
import re
from binascii import a2b_qp
from typing import Final

from pillarbox.message import charset, transfer

_WORD: Final = re.compile(rb"=\?([!->@-~]{1,64})\?([bBqQ])\?([^?]*)\?=")
_CONTROLS: Final = {code: " " for code in (*range(32), 127)}
_CLEAN: Final = re.compile(r"[\x00-\x1f\x7f]")
_PLAIN_Q: Final = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789!*+-/")


def decode(value: bytes) -> str:
    """An unfolded value as text: encoded words decoded, 8-bit octets guessed, control characters made spaces.

    White space between two encoded words vanishes (RFC 2047 §6.2); neighbours in one charset are decoded together, as
    many senders cut multi-octet characters.
    """
    if b"=?" not in value:
        text = value.decode("ascii") if value.isascii() else charset.guess(value)
    else:
        text = _decode_words(value)
    return text.translate(_CONTROLS) if _CLEAN.search(text) else text


def _decode_words(value: bytes) -> str:
    pieces: list[str] = []
    pending: list[bytes] = []
    pending_label = ""
    position = 0
    for match in _WORD.finditer(value):
        between = value[position : match.start()]
        label = match[1].partition(b"*")[0].decode("ascii").lower()
        adjacent = bool(pending) and not between.strip(b" \t\r\n")
        if pending and not (adjacent and label == pending_label):
            pieces.append(charset.decode(b"".join(pending), pending_label))
            pending = []
        if not adjacent:
            pieces.append(charset.guess(between))
        pending.append(_word_octets(match[2], match[3]))
        pending_label = label
        position = match.end()
    if pending:
        pieces.append(charset.decode(b"".join(pending), pending_label))
    pieces.append(charset.guess(value[position:]))
    return "".join(pieces)


def _word_octets(encoding: bytes, text: bytes) -> bytes:
    if encoding in b"bB":
        return transfer.decode_base64(text)
    return a2b_qp(text.replace(b"\n", b"").replace(b"\r", b""), header=True)


def encode(text: str) -> str:
    """`text` as it may stand in an unstructured field or phrase, ASCII only: itself, or encoded words in UTF-8.

    Words are cut between characters and joined by spaces, each at most 60 characters, so that one fits beside a name.
    """
    if text.isascii() and "=?" not in text and not _CLEAN.search(text):
        return text
    octets = text.encode("utf-8", "replace")
    plain = sum(octet in _PLAIN_Q for octet in octets)
    quoted = plain * 3 > len(octets) * 2
    words: list[str] = []
    piece = bytearray()
    for char in text:
        more = char.encode("utf-8", "replace")
        cost = len(piece) + len(more) if not quoted else len(_quote(bytes(piece) + more)) * 3 // 4
        if piece and cost > 36:
            words.append(_word(bytes(piece), quoted))
            piece.clear()
        piece += more
    words.append(_word(bytes(piece), quoted))
    return " ".join(words)


def _word(octets: bytes, quoted: bool) -> str:
    if quoted:
        return f"=?utf-8?q?{_quote(octets)}?="
    return f"=?utf-8?b?{base64.b64encode(octets).decode('ascii')}?="


def _quote(octets: bytes) -> str:
    return "".join(chr(o) if o in _PLAIN_Q else "_" if o == 32 else f"={o:02X}" for o in octets)
