"""What a client can ask for, as values. `Request` pairs one with its tag.

Mailbox names are text in Unicode (INBOX in capitals); sequence sets are intervals as written, 0 standing for "*".
Source: RFC 3501 §6; RFC 2177 (IDLE), 2342 (NAMESPACE), 2971 (ID), 3691 (UNSELECT), 4315 (UIDPLUS), 4959 (SASL-IR),
5161 (ENABLE), 6851 (MOVE).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from pillarbox.protocol.imap.fetch import FetchItem
from pillarbox.protocol.imap.search import Key

SetRanges = tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Capability:
    pass


@dataclass(frozen=True, slots=True)
class Noop:
    pass


@dataclass(frozen=True, slots=True)
class Logout:
    pass


@dataclass(frozen=True, slots=True)
class StartTls:
    pass


@dataclass(frozen=True, slots=True)
class Authenticate:
    mechanism: str
    initial: bytes | None
    """The initial response as sent (base64, or "="), or None. Source: RFC 4959."""


@dataclass(frozen=True, slots=True)
class Login:
    username: bytes
    password: bytes

    def __repr__(self) -> str:
        return "Login(…)"


@dataclass(frozen=True, slots=True)
class Id:
    fields: tuple[tuple[bytes, bytes | None], ...]


@dataclass(frozen=True, slots=True)
class Enable:
    names: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Select:
    """SELECT, or EXAMINE with `read_only`."""

    mailbox: str
    read_only: bool


@dataclass(frozen=True, slots=True)
class Create:
    mailbox: str


@dataclass(frozen=True, slots=True)
class Delete:
    mailbox: str


@dataclass(frozen=True, slots=True)
class Rename:
    mailbox: str
    new_name: str


@dataclass(frozen=True, slots=True)
class Subscribe:
    """SUBSCRIBE, or UNSUBSCRIBE with `on` false."""

    mailbox: str
    on: bool


@dataclass(frozen=True, slots=True)
class List:
    """LIST, or LSUB with `subscribed`. An empty pattern asks for the separator."""

    reference: str
    pattern: str
    subscribed: bool


@dataclass(frozen=True, slots=True)
class Namespace:
    pass


@dataclass(frozen=True, slots=True)
class Status:
    mailbox: str
    items: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Append:
    """APPEND as far as the mark of its literal: the message of `size` octets follows when the server agrees
    (`ImapServer.append_go`), or is on its way already where the literal does not wait (`waits` false)."""

    mailbox: str
    flags: tuple[str, ...]
    received_s: int | None
    size: int
    waits: bool


@dataclass(frozen=True, slots=True)
class Idle:
    pass


@dataclass(frozen=True, slots=True)
class Check:
    pass


@dataclass(frozen=True, slots=True)
class Close:
    """CLOSE, or UNSELECT with `expunge` false."""

    expunge: bool


@dataclass(frozen=True, slots=True)
class Expunge:
    uids: SetRanges | None
    """UID EXPUNGE: only these."""


@dataclass(frozen=True, slots=True)
class Search:
    key: Key
    uid: bool


@dataclass(frozen=True, slots=True)
class Fetch:
    messages: SetRanges
    items: tuple[FetchItem, ...]
    uid: bool


@dataclass(frozen=True, slots=True)
class Store:
    messages: SetRanges
    mode: str
    """"+", "-" or "="."""
    flags: frozenset[str]
    silent: bool
    uid: bool


@dataclass(frozen=True, slots=True)
class Copy:
    """COPY, or MOVE with `move`."""

    messages: SetRanges
    mailbox: str
    move: bool
    uid: bool


Command: TypeAlias = (
    Capability
    | Noop
    | Logout
    | StartTls
    | Authenticate
    | Login
    | Id
    | Enable
    | Select
    | Create
    | Delete
    | Rename
    | Subscribe
    | List
    | Namespace
    | Status
    | Append
    | Idle
    | Check
    | Close
    | Expunge
    | Search
    | Fetch
    | Store
    | Copy
)


@dataclass(frozen=True, slots=True)
class Request:
    """A command that may be given now, with the tag to answer it by."""

    tag: bytes
    command: Command
