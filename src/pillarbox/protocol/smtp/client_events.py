"""What an SMTP client core hands out, and what it is told about TLS.

Source: RFC 5321 §3 (a session and its transactions), RFC 3207 (STARTTLS).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

from pillarbox.model.outcome import Outcome


class TlsUse(Enum):
    """What to do about STARTTLS."""

    NEVER = "never"
    MAY = "may"
    """Use it where it is offered."""
    MUST = "must"
    """No mail without it."""


@dataclass(frozen=True, slots=True)
class HandshakeDue:
    """Do the TLS handshake, then call `secured`."""


@dataclass(frozen=True, slots=True)
class Ready:
    """The session is set up; `extensions` are known: `begin` may be called."""


@dataclass(frozen=True, slots=True)
class ContentDue:
    """Hand the message to `content`, in pieces, while `wants_content`; then `end_content`."""


@dataclass(frozen=True, slots=True)
class Finished:
    """The transaction is over: one outcome for each recipient, in order."""

    outcomes: tuple[Outcome, ...]


@dataclass(frozen=True, slots=True)
class Broken:
    """The session ended before a transaction: what that means for everyone who was to get mail through it."""

    outcome: Outcome


ClientEvent: TypeAlias = HandshakeDue | Ready | ContentDue | Finished | Broken
