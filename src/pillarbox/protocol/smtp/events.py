"""What an SMTP server core hands out: what the client said, or what is to be answered without asking anybody."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from pillarbox.model.envelope import Envelope, Recipient
from pillarbox.protocol.sasl import Authenticated, CheckPassword, GetVerifier, Rejected
from pillarbox.protocol.smtp.content import Defect
from pillarbox.protocol.smtp.replies import Reply


@dataclass(frozen=True, slots=True)
class Answered:
    """The core knows the answer itself (NOOP, a mistake, a challenge): hand `reply` back to it as it is."""

    reply: Reply


@dataclass(frozen=True, slots=True)
class Hello:
    """EHLO, LHLO (`is_extended`) or HELO; a transaction in progress is over. `reply` is the usual answer."""

    name: str
    is_extended: bool
    reply: Reply


@dataclass(frozen=True, slots=True)
class StartTls:
    """Reply 220, do the handshake, call `secured`."""


@dataclass(frozen=True, slots=True)
class Auth:
    """A question of an authentication exchange.

    CheckPassword: reply 235 or why not. GetVerifier: `supply_verifier`, or reply why not. Authenticated: the client
    has proved who it is, reply 235 or why not. Rejected: it has failed to, reply 535.
    """

    question: CheckPassword | GetVerifier | Authenticated | Rejected


@dataclass(frozen=True, slots=True)
class Mail:
    """MAIL. `size_octets` as declared, 0 if not."""

    envelope: Envelope
    size_octets: int


@dataclass(frozen=True, slots=True)
class Rcpt:
    """RCPT."""

    recipient: Recipient


@dataclass(frozen=True, slots=True)
class Data:
    """DATA, or the first BDAT of a transaction: make ready for content and reply 354 (BDAT sends nothing then)."""


@dataclass(frozen=True, slots=True)
class Content:
    """Octets of the message, transparency removed. Needs no reply."""

    octets: bytes


@dataclass(frozen=True, slots=True)
class ContentEnd:
    """The message is whole. If `refusal` is given, something is wrong with its octets: forget it, and reply that.

    With LMTP one reply for each accepted recipient is due (`reply_each`).
    """

    defects: Defect
    size_octets: int
    refusal: Reply | None


@dataclass(frozen=True, slots=True)
class Reset:
    """RSET: forget the transaction, reply 250."""


@dataclass(frozen=True, slots=True)
class Quit:
    """QUIT: reply 221, then close."""


Event: TypeAlias = Answered | Hello | StartTls | Auth | Mail | Rcpt | Data | Content | ContentEnd | Reset | Quit
