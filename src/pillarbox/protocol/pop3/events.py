"""What a POP3 session says to its shell. Those with an answer stay pending until it is given."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Say:
    """Send this."""

    octets: bytes


@dataclass(frozen=True, slots=True)
class Listing:
    """Send these pieces, one after the other; they are made when they are asked for."""

    pieces: Iterator[bytes]


@dataclass(frozen=True, slots=True)
class Login:
    """Is this their password? Answer with `welcome` or `refuse`."""

    username: str
    password: str


@dataclass(frozen=True, slots=True)
class AskVerifier:
    """SCRAM needs this user's verifier. Answer with `verifier`, or `refuse`."""

    username: str


@dataclass(frozen=True, slots=True)
class ScramDone:
    """SCRAM has ended, well or not. Answer with `welcome` or `refuse`."""

    username: str
    ok: bool


@dataclass(frozen=True, slots=True)
class StartTls:
    """Send this, begin TLS, then call `secured`."""

    octets: bytes


@dataclass(frozen=True, slots=True)
class Retrieve:
    """Send the message: all of it, or its header and `lines` lines. Answer with `retrieved`, or `refuse`."""

    index: int
    lines: int | None = None


@dataclass(frozen=True, slots=True)
class Update:
    """QUIT: remove these UIDs, all or none. Answer with `updated`."""

    uids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Close:
    """Send this, and end the connection."""

    octets: bytes


Event: TypeAlias = Say | Listing | Login | AskVerifier | ScramDone | StartTls | Retrieve | Update | Close
