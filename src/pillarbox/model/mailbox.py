"""What an account is, and its mailboxes as the store shows them. Source: RFC 3501 §2.3, RFC 6154, docs/store.md."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from typing import Final

from pillarbox.model.address import Address
from pillarbox.model.ids import AccountId, EmailId
from pillarbox.model.secret import Secret

STANDARD_MAILBOXES: Final = (
    ("INBOX", ""),
    ("Sent", "\\Sent"),
    ("Drafts", "\\Drafts"),
    ("Junk", "\\Junk"),
    ("Trash", "\\Trash"),
    ("Archive", "\\Archive"),
)
"""(name, special use) of what a new account has."""


@dataclass(frozen=True, slots=True)
class Account:
    """One user. `state` is "active", "disabled" (no login; mail is kept) or "removed" (no login, no mail: 5.1.1)."""

    id: AccountId
    address: Address
    state: str
    quota_octets: int = 0
    """0: no limit."""
    created_s: float = 0.0
    secret: Secret | None = None


@dataclass(frozen=True, slots=True)
class Mailbox:
    """A mailbox with its counters, as of one moment. `id` is never reused in its account."""

    id: int
    name: str
    """Unicode, hierarchy separator "/"; INBOX in capitals."""
    uidvalidity: int
    uidnext: int
    highest_modseq: int
    messages: int
    unseen: int
    deleted: int
    size_octets: int
    recent_uid: int
    """The first UID that no session has been told of as \\Recent."""
    special_use: str = ""
    keywords: tuple[str, ...] = ()
    """Names of the keyword bits: keyword i has bit `flags.FIRST_KEYWORD_BIT + i`."""


@dataclass(slots=True)
class Placements:
    """Messages of one mailbox as columns of equal length, ascending by UID."""

    uids: array[int] = field(default_factory=lambda: array("I"))
    emails: array[int] = field(default_factory=lambda: array("Q"))
    """Row ids of the emails within the account."""
    flags: array[int] = field(default_factory=lambda: array("Q"))
    modseqs: array[int] = field(default_factory=lambda: array("Q"))
    received_s: array[int] = field(default_factory=lambda: array("q"))
    """INTERNALDATE, seconds since 1970."""
    sizes: array[int] = field(default_factory=lambda: array("Q"))
    """RFC822.SIZE in octets, prefix included."""
    saved_s: array[int] = field(default_factory=lambda: array("q"))
    """When it was put into this mailbox (RFC 8514)."""

    def __len__(self) -> int:
        return len(self.uids)


@dataclass(frozen=True, slots=True)
class Content:
    """Octets as received: `data` holds them, or is None where they are in the pool under `sha256`."""

    sha256: bytes
    size: int
    data: bytes | None = None


@dataclass(frozen=True, slots=True)
class EmailHeadline:
    """What identifies an email that was filed: its UID and ids."""

    uid: int
    email: int
    email_id: EmailId
