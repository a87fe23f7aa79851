"""What the shells of `net` ask of `mail`, and what `mail` asks of `net`: the seam between sockets and policy.

`Desk` answers for a session what SMTP must know (implemented by `mail/intake.py`), `Logins` checks credentials for
SMTP, POP3 and IMAP alike (`mail/logins.py`), `Gate` admits connections (`mail/limits.py`). The other way, `Wire` sends
(`net/outbound.py`), `Resolver` asks DNS (`net/resolver.py`).
A rule that says no raises `Refused` (a Status and the name of the rule), our own failure raises `Trouble`; the shell
turns both, and anything nobody foresaw (451 4.3.0, logged whole), into replies.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from pillarbox.model.envelope import Envelope, Recipient
from pillarbox.model.mailbox import Account
from pillarbox.model.outcome import Outcome
from pillarbox.model.secret import Secret
from pillarbox.store.api import ContentWriter, Handed


@dataclass(slots=True)
class Session:
    """One connection of a client, as the policy sees it; the shell keeps it up to date.

    `protocol` is "smtp" (MX), "submission", "lmtp", "imap" or "pop3".
    """

    protocol: str
    peer: str
    """IP address as text; "local" for a unix socket."""
    local: str = ""
    """Our address the client connected to."""
    trusted: bool = False
    """In `trusted_networks`: set by `Gate.admit`."""
    may_relay: bool = False
    """In `relay_networks`: set by `Gate.admit`."""
    stressed: bool = False
    """It came when nearly all places were taken, so there is less patience with it: set by `Gate.admit`."""
    helo: str = ""
    esmtp: bool = False
    tls: str = ""
    """Protocol and cipher ("TLSv1.3 TLS_AES_256_GCM_SHA384"), empty in the clear."""
    account: Account | None = None
    auth_failures: int = 0


@dataclass(slots=True)
class Transaction:
    """A mail transaction in progress: what `mail` and `rcpt` accepted so far. Owned by the desk.

    `size_octets` is the message's size as declared, 0 if it was not; `jobs` is the desk's own memory of how each
    recipient was routed.
    """

    envelope: Envelope
    size_octets: int = 0
    recipients: list[Recipient] = field(default_factory=list)
    jobs: list[object] = field(default_factory=list)


class Gate(Protocol):
    """Admission by address and network. Synchronous: it is asked before the greeting. Source: LIMITS."""

    def admit(self, session: Session) -> None:
        """Count the new session. Raises Refused (4.7.0 for its address, 4.3.2 for the server) before any greeting."""

    def login(self, session: Session) -> None:
        """`session.account` has just been set: count it as the account's. Raises Refused (4.7.0)."""

    def leave(self, session: Session) -> None:
        """The session has ended (only for sessions that were admitted)."""


class Desk(Protocol):
    """Mail transactions. One at a time per session."""

    async def mail(self, session: Session, envelope: Envelope, size_octets: int) -> Transaction:
        """MAIL: `envelope` without recipients; `size_octets` as declared, 0 if not. Raises Refused, Trouble."""

    async def rcpt(self, session: Session, transaction: Transaction, recipient: Recipient) -> None:
        """RCPT. Raises Refused (550 5.1.1, 5.7.1 relay, 452 4.5.3 ...), Trouble."""

    def content(self, session: Session, transaction: Transaction) -> ContentWriter:
        """Where the octets of DATA or BDAT go, transparency removed."""

    async def accept(
        self, session: Session, transaction: Transaction, content: ContentWriter
    ) -> tuple[str, list[Outcome]]:
        """The message is whole: check it and make it ours. Returns the spool id (for "250 2.0.0 queued as …") and one
        outcome per accepted recipient, in order; for protocols with one reply they are all Delivered. Raises Refused
        (the whole message), Trouble. When it returned, the message is durable."""


class Colleagues(Protocol):
    """The front processes of this home. Each delivers for its share of the accounts, so that an account is open in one
    of them only, and what arrives for it anywhere shares commits."""

    def holder_for(self, account: str) -> int:
        """The holder who delivers for this account; 0 if that is us, or if it cannot be reached now."""

    def hand(self, holder: int, handed: Handed) -> bool:
        """Hand over jobs that are leased to this holder. False if it cannot be reached."""


class Logins(Protocol):
    """Checks credentials. Failures are counted and delayed here; the answer is the same for unknown users."""

    async def password(self, session: Session, username: str, password: str) -> Account:
        """PLAIN, LOGIN, USER/PASS. `username` is an address (SASLprep'd by us). Raises Refused (5.7.8 wrong; 4.7.0 too
        many failures; 4.3.2 too busy)."""

    async def verifier(self, session: Session, username: str) -> tuple[Secret, Account | None]:
        """SCRAM: the verifier of a user; for an unknown one a made-up verifier, the same each time, and None.
        Raises Refused as above (before any work)."""

    async def scram_done(self, session: Session, username: str, account: Account | None, ok: bool) -> Account:
        """Report how SCRAM ended. Raises Refused (5.7.8) if not ok."""


@dataclass(frozen=True, slots=True)
class Hop:
    """One host to try: an IP address and port, its name, and how to treat it."""

    host: str
    """Name, as in the MX record or route (for logs and certificate checks)."""
    address: str
    """IP address."""
    port: int
    protocol: str = "smtp"
    tls: str = "opportunistic"
    """As in `Route.tls`."""
    username: str = ""
    password: str = ""


class Parcel(Protocol):
    """What is sent to a hop: the envelope (with recipients) and a way to read the content, as often as it takes."""

    envelope: Envelope
    size_octets: int
    has_eight_bit: bool
    needs_smtputf8: bool
    """An address in the envelope or a header field is not ASCII."""

    def chunks(self) -> AsyncIterator[bytes]:
        """The octets to send, from the start (prefix, then content)."""

    async def seven_bit(self) -> bytes | None:
        """The message encoded anew for a hop without 8BITMIME, or None where it cannot be (5.6.3)."""


class Wire(Protocol):
    """Sends a parcel to one hop."""

    async def send(self, hop: Hop, parcel: Parcel) -> list[Outcome]:
        """One outcome per recipient, in order. Never raises for what the peer does: a failed connection is Deferred
        for all with 4.4.1 (no answer: another hop may be tried), a broken one with 4.4.2."""

    async def close(self) -> None:
        """Say QUIT to idle connections and close them."""


@dataclass(frozen=True, slots=True)
class MxHost:
    preference: int
    host: str


class DnsTrouble(Exception):
    """SERVFAIL, timeout, refused: temporary; never to be read as "no record". Source: RFC 5321 §5.1; case 105."""


class Resolver(Protocol):
    """DNS with a cache. "No such name" and "no such record" are empty lists; failure raises DnsTrouble."""

    async def mx(self, domain: str) -> tuple[bool, Sequence[MxHost]]:
        """(does the name exist, MX records by preference; null MX is one record with host ""). CNAMEs followed, ≤ 8."""

    async def addresses(self, host: str) -> list[str]:
        """A and AAAA of a host, IPv6 and IPv4 interleaved, deduplicated."""
