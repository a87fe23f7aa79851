"""Content transfer encodings, read as tolerantly as the most tolerant reader. Source: RFC 2045 §6; POSIX uuencode."""

from __future__ import annotations

import binascii
import re
from typing import Final

_NOT_BASE64: Final = bytes(
    octet for octet in range(256) if octet not in b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/="
)
_PADDING: Final = re.compile(rb"=+")
_UU_BEGIN: Final = re.compile(rb"^begin(?:-base64)? [0-7]{3,4} ([^\r\n]*)\r?\n", re.MULTILINE)

KNOWN: Final = frozenset((b"7bit", b"8bit", b"binary", b"quoted-printable", b"base64", b"x-uuencode", b"uuencode"))
"""Encodings that `decode` undoes, in lower case; others are left as they are."""


def decode(octets: bytes, encoding: bytes) -> bytes:
    """Undo a transfer encoding (name in lower case). Unknown ones and identities give the octets back. Never raises."""
    if encoding == b"base64":
        return decode_base64(octets)
    if encoding == b"quoted-printable":
        return decode_quoted_printable(octets)
    if encoding in (b"x-uuencode", b"uuencode", b"x-uue"):
        return decode_uuencode(octets)
    return octets


def decode_base64(octets: bytes) -> bytes:
    """Decode what is base64 in `octets`: other octets are skipped, and padding in the middle starts anew (case 146)."""
    clean = octets.translate(None, _NOT_BASE64)
    body = clean.rstrip(b"=")
    if b"=" not in body:
        return _segment(body)
    return b"".join(_segment(piece) for piece in _PADDING.split(body))


def _segment(digits: bytes) -> bytes:
    """Decode base64 digits without padding; a single digit left over carries no octet and is dropped."""
    rest = len(digits) % 4
    if rest == 1:
        digits = digits[:-1]
    elif rest:
        digits += b"=" * (4 - rest)
    return binascii.a2b_base64(digits)


def decode_quoted_printable(octets: bytes) -> bytes:
    """Decode quoted-printable; a stray "=" stays as it is. White space before a line's end was added on the way.

    Source: RFC 2045 §6.7, rule (3).
    """
    if any(white in octets for white in (b" \r\n", b"\t\r\n", b" \n", b"\t\n")):
        lines = octets.split(b"\n")
        octets = b"\n".join(
            [line[:-1].rstrip(b" \t") + b"\r" if line.endswith(b"\r") else line.rstrip(b" \t") for line in lines]
        )
    return binascii.a2b_qp(octets)


def decode_uuencode(octets: bytes) -> bytes:
    """The first uuencoded file in `octets` (all lines, if "begin" is missing); lines that do not decode are skipped."""
    begin = _UU_BEGIN.search(octets)
    lines = octets[begin.end() if begin else 0 :].split(b"\n")
    decoded: list[bytes] = []
    for line in lines:
        line = line.rstrip(b"\r")
        if line == b"end":
            break
        if not line or line == b"`":
            continue
        try:
            decoded.append(binascii.a2b_uu(line))
        except binascii.Error:
            # Some encoders leave the padding off or add to it: take as many digits as the length octet asks for.
            wanted = ((line[0] - 32 & 63) * 4 + 2) // 3 + 1
            try:
                decoded.append(binascii.a2b_uu(line[:wanted]))
            except binascii.Error:
                continue
    return b"".join(decoded)
