"""What a client program needs to know of a mail server under test, whoever wrote that server."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class User:
    """One account: its address, its local part and its password."""

    address: str
    password: str

    @property
    def name(self) -> str:
        """The local part."""
        return self.address.partition("@")[0]


@dataclass(frozen=True, slots=True)
class MailHost:
    """A running mail server: where it listens, whom it knows, and which certificate it shows.

    `login` is what a user types as name: the whole address. Ports: `smtp` (MX), `submission` (STARTTLS),
    `submissions` (TLS), `imap` (STARTTLS, clear-text logins allowed), `imaps`, `pop3` (as imap), `pop3s`.
    """

    smtp: int
    submission: int
    submissions: int
    imap: int
    imaps: int
    pop3: int
    pop3s: int
    authority: Path
    users: tuple[User, ...]
    domain: str = "pillarbox.test"
    host: str = "127.0.0.1"
    name: str = "pillarbox"
    scram: bool = field(default=True)

    @property
    def ada(self) -> User:
        """The first user."""
        return self.users[0]

    @property
    def bob(self) -> User:
        """The second user."""
        return self.users[1]
