"""Ids that are never reused: 128 bits, time first, then random. Source: docs/store.md, "Ids"."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Final, NewType

JobId = NewType("JobId", bytes)
"""16 octets: one recipient of one spooled message."""
SpoolId = NewType("SpoolId", bytes)
"""16 octets: one accepted message. Written in hexadecimal in logs, Received fields and commands."""
AccountId = NewType("AccountId", str)
"""26 lower-case base32 digits; the name of the account's folder."""
EmailId = NewType("EmailId", bytes)
"""16 octets: one immutable message in an account; stable over copies and moves within it (RFC 8474 §5.1)."""

_ALPHABET: Final = "0123456789abcdefghjkmnpqrstvwxyz"


def make_id(now_s: float, random: Callable[[int], bytes]) -> bytes:
    """16 octets: 48 bits of milliseconds since 1970, then 80 random bits; later ids sort later."""
    return int(now_s * 1000).to_bytes(6, "big") + random(10)


def id_time_s(value: bytes) -> float:
    """When the id was made, in seconds since 1970, to a millisecond."""
    return int.from_bytes(value[:6], "big") / 1000


def base32_id(value: bytes) -> str:
    """26 digits for 16 octets (Crockford's base32, lower case): safe as a file name on every system."""
    number = int.from_bytes(value, "big")
    return "".join(_ALPHABET[number >> shift & 31] for shift in range(125, -1, -5))


def email_id(spool_id: bytes, recipient: str) -> EmailId:
    """The stable id of the email that this spooled message becomes for this recipient: same input, same id."""
    return EmailId(spool_id[:6] + hashlib.blake2b(recipient.encode(), key=spool_id, digest_size=10).digest())
