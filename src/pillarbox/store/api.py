"""The waist: what the rest of pillarbox asks of storage, in mail's own words. Engines: `sqlite/` (later `postgres/`).

What each verb promises is told in docs/store.md and tested in tests/contracts/, on every engine. In short: what a
verb returned from is durable; each verb is all or nothing; UIDs ascend and never return; modseq ascends per
account; a row never points to content that is not on disk; a claimed job has one claimant.
All verbs raise `Trouble` (`StoreFull`, `AccountUnavailable`) when our side fails. They are `async`, may be called
from one event loop, and never block it for more than a moment.
"""

from __future__ import annotations

import builtins
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from pillarbox.message.wire import WireForms
from pillarbox.model.address import Address
from pillarbox.model.envelope import Envelope, Recipient
from pillarbox.model.ids import AccountId, EmailId, JobId, SpoolId
from pillarbox.model.mailbox import Account, Content, EmailHeadline, Mailbox, Placements
from pillarbox.model.outcome import Outcome
from pillarbox.model.secret import Secret
from pillarbox.model.uids import UidSet

INLINE_OCTETS: Final = 128 * 1024
"""Contents up to this are in memory with their row (`Content.data`); larger ones are read in pieces."""

# --- contents -----------------------------------------------------------------------------------------------------


class ContentWriter(Protocol):
    """Takes a message's octets as they arrive: in memory to 128 KiB, then to a file in `tmp/`."""

    def write(self, octets: bytes) -> None:
        """Take more. Cheap and never waits on small contents; what is over the bound is written by a thread."""

    @property
    def size(self) -> int: ...

    async def drain(self) -> None:
        """Wait until what was written is out of memory (bounded memory for large contents)."""

    async def finish(self) -> Content:
        """Hash, and for a large content: compress, fsync, put into the pool, fsync its directory."""

    def abort(self) -> None:
        """Forget it all."""


class Blobs(Protocol):
    """The pool of large contents, shared by spool and accounts."""

    def writer(self) -> ContentWriter: ...

    async def read(self, content: Content, offset: int = 0, length: int | None = None) -> bytes:
        """Octets of a content. Raises DamagedMessage if they are not what was stored."""

    def chunks(self, content: Content, size: int = 1 << 18) -> AsyncIterator[bytes]:
        """All of a content in order, in pieces of about `size` octets."""


# --- mailboxes and messages of an account ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class NewEmail:
    """A message to be filed: the lines we add at its top, then the content as received."""

    id: EmailId
    content: Content
    prefix: bytes = b""
    received_s: int = 0
    flags: frozenset[str] = frozenset()
    """Flag and keyword names ("\\Seen", "$Forwarded")."""
    forms: WireForms | None = None
    """Computed by the caller where it has them, else by the store."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """One job's email for one mailbox of an account. A name that does not exist (any more) means INBOX."""

    job: JobId
    email: NewEmail
    mailbox: str = "INBOX"


COLUMNS = (
    "envelope", "body", "bodystructure", "headers", "field_codes", "parts", "preview", "subject", "base_subject",
    "sent_s", "message_id", "references", "prefix", "email_id", "data",
)  # fmt: skip
"""What `fetch` can return beside the placements. `data` is the content where it is kept in the row (≤ 128 KiB), else
None: then ask `open`. `references` is a space-separated str, `sent_s` an int or None; the rest as in WireForms."""


@dataclass(slots=True)
class Slice:
    """A run of messages: `columns[i]` has the i-th asked-for column, with a value for each placement."""

    placements: Placements
    columns: Sequence[Sequence[Any]] = ()

    @classmethod
    def of_rows(cls, placements: Placements, rows: Sequence[Sequence[Any]]) -> Slice:
        """From the columns of one placement after the other."""
        return cls(placements, [*zip(*rows, strict=True)])

    @property
    def forms(self) -> list[tuple[Any, ...]]:
        """The columns of each placement together."""
        return [*zip(*self.columns, strict=True)]


@dataclass(frozen=True, slots=True)
class Bundle:
    """Emails that were read together: prefix and content of each, one after the other in `octets`."""

    modseq: int
    """The account's at the moment of reading."""
    octets: bytes
    sizes: list[int]
    """Of each in `octets`; -1: it is not there, because it is large, or gone."""
    body_starts: list[int]
    """Where the body begins in each, prefix included, as the parser found it; a hint, 0 if it is not known."""
    dotted: bool
    """A line of one of them may begin with a dot."""


@dataclass(frozen=True, slots=True)
class Changes:
    """What became of a mailbox after a modseq: its row now, changed or new placements, UIDs expunged since."""

    mailbox: Mailbox
    changed: Placements
    expunged: UidSet


@dataclass(frozen=True, slots=True)
class Stored:
    """What `set_flags` did: placements as they are now; UIDs refused for UNCHANGEDSINCE (RFC 7162 §3.1.3)."""

    changed: Placements
    refused: UidSet
    modseq: int
    mailbox: Mailbox


@dataclass(frozen=True, slots=True)
class Moved:
    """Result of COPY or MOVE: source UIDs and their new UIDs, in the same order (RFC 4315 §3)."""

    uidvalidity: int
    source_uids: tuple[int, ...]
    target_uids: tuple[int, ...]


class Email(Protocol):
    """One email, opened for reading: `prefix` and then the content, together `size` octets."""

    prefix: bytes
    parts: bytes
    size: int

    async def read(self, offset: int = 0, length: int | None = None) -> bytes:
        """Octets of prefix + content. Raises DamagedMessage, NoSuchMessage."""


class Mailboxes(Protocol):
    """Accounts' mailboxes and messages. Raises NoSuchAccount, NoSuchMailbox where they are missing."""

    async def create_account(self, account: AccountId) -> None:
        """Make the account's folder, with the standard mailboxes. Nothing happens if it is there."""

    async def trash_account(self, account: AccountId) -> None:
        """Move the account's folder to `trash/`; later openings raise NoSuchAccount."""

    async def restore_account(self, account: AccountId) -> None:
        """Bring the folder back from `trash/`. Raises NoSuchAccount if it is not there any more."""

    async def trashed_accounts(self) -> dict[AccountId, float]:
        """The accounts whose folders are in `trash/`, and when they came there."""

    async def modseq(self, account: AccountId) -> int:
        """The account's change counter. Cheap: a session asks before every tagged command."""

    async def size(self, account: AccountId) -> tuple[int, int]:
        """Octets and messages that count against the quota."""

    async def list(self, account: AccountId) -> list[Mailbox]:
        """All mailboxes, INBOX first, the others by name."""

    async def status(self, account: AccountId, name: str) -> Mailbox: ...

    async def mailbox(self, account: AccountId, mailbox: int) -> Mailbox:
        """By id: a session that selected it follows it through a rename."""

    async def create(self, account: AccountId, name: str, special_use: str = "") -> Mailbox:
        """Make it and its missing parents. Raises MailboxExists, MailboxName, LimitReached (case 175: 10,000).
        Its UIDVALIDITY is greater than that of any mailbox of this name before."""

    async def delete(self, account: AccountId, name: str) -> None:
        """Remove it with its messages. With children its name stays, not selectable, as RFC 3501 §6.3.4 wants
        (`special_use` "\\Noselect", another id). INBOX raises MailboxName."""

    async def rename(self, account: AccountId, name: str, new_name: str) -> None:
        """With its children. Renaming INBOX moves its messages to the new mailbox (RFC 3501 §6.3.5)."""

    async def subscriptions(self, account: AccountId) -> builtins.list[str]: ...

    async def subscribe(self, account: AccountId, name: str, on: bool = True) -> None:
        """The name need not exist (RFC 3501 §6.3.6)."""

    async def take_recent(self, account: AccountId, mailbox: int) -> int:
        """The first UID that is \\Recent to the caller; the next caller gets UIDNEXT of now (RFC 3501 §2.3.2)."""

    async def uids(self, account: AccountId, mailbox: int) -> tuple[Mailbox, Placements]:
        """All placements as of one moment: what a view is built from. Only `uids` and `flags` are filled."""

    def fetch(
        self,
        account: AccountId,
        mailbox: int,
        uids: UidSet,
        columns: Sequence[str] = (),
        changed_since: int = 0,
    ) -> AsyncIterator[Slice]:
        """Messages in ascending order of UID, in slices of about 1,000 (fewer where `data` is asked for, so that a
        slice is some 256 KiB), no lock or transaction held between slices. Missing UIDs are left out."""

    async def bundle(self, account: AccountId, emails: Sequence[int], heads_only: bool = False) -> Bundle:
        """Many emails as a client downloads them, in one read. `heads_only`: each to the end of its header or somewhat
        further, and no more than 16 KiB of its content. The caller bounds the octets by what it knows of the sizes."""

    async def open(self, account: AccountId, email: int) -> Email:
        """For reading sections of one email. Raises NoSuchMessage."""

    async def append(
        self, account: AccountId, mailbox: int, emails: Sequence[NewEmail], quota_octets: int = 0
    ) -> builtins.list[EmailHeadline]:
        """File messages, all or none, and return their UIDs. Raises OverQuota when `quota_octets` is given and
        would be passed, LimitReached for too many keywords."""

    def deliver(
        self, account: AccountId, deliveries: Sequence[Delivery]
    ) -> Awaitable[builtins.list[EmailHeadline | None]]:
        """File each delivery and write its job into `delivered`, in one transaction; None for a job that is there
        already. Past quotas: what was accepted is delivered. Never raises itself: what fails is told by the
        awaitable."""

    async def set_flags(
        self,
        account: AccountId,
        mailbox: int,
        uids: UidSet,
        mode: str,
        flags: frozenset[str],
        unchanged_since: int | None = None,
    ) -> Stored:
        """`mode` is "+", "-" or "=" (replace). Unknown keywords are added to the mailbox's list, up to its limit
        (LimitReached). Messages whose flags are so already do not change their modseq."""

    async def copy(
        self, account: AccountId, mailbox: int, uids: UidSet, target: str, move: bool = False, quota_octets: int = 0
    ) -> Moved:
        """Copy, or move, to another mailbox of the account: all or none, flags and INTERNALDATE kept, ascending.
        Raises NoSuchMailbox for the target."""

    async def expunge(self, account: AccountId, mailbox: int, uids: UidSet, only_deleted: bool = True) -> UidSet:
        """Remove those of `uids` that are \\Deleted (or all, for POP3's QUIT), and return which; all or none."""

    async def changes(self, account: AccountId, mailbox: int, since: int) -> Changes:
        """Raises NoSuchMailbox when it was deleted meanwhile."""


# --- the spool ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Target:
    """Where a job goes: kind "local" (name: account id), or "remote" (name: next-hop domain or route name)."""

    kind: str
    name: str


@dataclass(frozen=True, slots=True)
class Job:
    """One recipient of a spooled message. `next_s`, `expires_s`, `queued_s` are wall-clock seconds since 1970."""

    id: JobId
    spool_id: SpoolId
    recipient: Recipient
    """The address to deliver to, after aliases."""
    target: Target
    state: str = "queued"
    """"queued" or "held"; see docs/queue-states.md."""
    attempts: int = 0
    queued_s: float = 0.0
    next_s: float = 0.0
    expires_s: float = 0.0
    delay_reported: bool = False
    last: str = ""
    """The last answer: "4.3.0 text (remote)"; shown to operators and put into reports."""
    original: Address | None = None
    """The address as it was given, where an alias replaced it."""


@dataclass(frozen=True, slots=True)
class Spooled:
    """An accepted message: immutable. `envelope.recipients` is empty: they are the jobs."""

    id: SpoolId
    envelope: Envelope
    content: Content
    prefix: bytes = b""
    """Our Received field (and at submission Date, Message-ID): sent with the content, and part of local prefixes."""
    received_s: float = 0.0
    account: AccountId | None = None
    """Who submitted it, if it came by submission."""
    origin: str = ""
    """One line for operators: protocol, peer address, HELO name, TLS."""
    message_id: str = ""
    hops: int = 0
    """Received fields it came with."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A job that is this claimant's until the lease ends, and its message."""

    job: Job
    message: Spooled
    token: int
    """Fencing token: verbs with a token of a lost lease raise LeaseLost."""


@dataclass(frozen=True, slots=True)
class Handed:
    """Claims of one message, from the process that accepted it to the one that delivers for their accounts."""

    message: Spooled
    jobs: tuple[Job, ...]
    token: int
    forms: WireForms


NOBODY: Final[Mapping[str, int]] = {}


@dataclass(frozen=True, slots=True)
class Settlement:
    """What became of a claimed job. Delivered or Failed ends it; Deferred puts it back until `next_s`."""

    job: JobId
    token: int
    outcome: Outcome
    next_s: float = 0.0
    delay_reported: bool = False


@dataclass(frozen=True, slots=True)
class TraceEvent:
    """One thing that happened to a message: `event` is "received", "queued", "delivered", "deferred", "failed",
    "report", "held", "released", "dropped", "refused"; `fields` are short strings."""

    at_s: float
    spool_id: SpoolId
    event: str
    recipient: str = ""
    message_id: str = ""
    sender: str = ""
    fields: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Selection:
    """Which jobs an operator means; empty fields do not restrict."""

    jobs: tuple[JobId, ...] = ()
    spool_ids: tuple[SpoolId, ...] = ()
    domain: str = ""
    sender: str = ""
    recipient: str = ""
    account: AccountId | None = None
    """Local jobs for this account."""
    state: str = ""
    limit: int = 0


class Spool(Protocol):
    """Accepted messages and their jobs. Concurrent `accept`s and `settle`s share commits (group commit)."""

    async def accept(
        self,
        message: Spooled,
        jobs: Sequence[Job],
        events: Sequence[TraceEvent] = (),
        claim: int = 0,
        holders: Mapping[str, int] = NOBODY,
    ) -> list[Claim]:
        """Make the message ours: when this returns it is on disk. Up to `claim` of its jobs with local targets are
        leased at once and returned (others are free to be claimed by anyone, from `next_s` on): to the holder that
        `holders` has for the target's name, whom the caller hands them to, else to this process."""

    async def enroll(self) -> int:
        """This process's number as a holder: when it returns, others may lease jobs to it."""

    def adopt(self, claims: Sequence[Claim]) -> None:
        """Another process leased these jobs to this one, and has handed them over."""

    async def give_up(self, claims: Sequence[Claim], holder: int) -> None:
        """Free jobs that were leased to another holder and could not be handed over."""

    async def reclaim(self, before_s: float) -> int:
        """Free the jobs that were made before this time (wall clock) and leased to this process, but that it has never
        heard of: they were lost on the way. Returns how many."""

    async def claim(self, limit: int, now_s: float, exclude: Iterable[Target] = ()) -> list[Claim]:
        """Lease up to `limit` due jobs that nobody holds, oldest first, fair between targets; not those of `exclude`
        (destinations that are busy). Jobs of dead processes are free at once."""

    async def renew(self, now_s: float) -> None:
        """Prolong all leases of this process (called every 20 s; a lease lasts 60 s)."""

    async def settle(
        self,
        settlements: Sequence[Settlement],
        events: Sequence[TraceEvent] = (),
        reports: Sequence[tuple[Spooled, Sequence[Job]]] = (),
    ) -> list[JobId]:
        """End or put back claimed jobs, and accept the reports they caused, in one commit. A message without jobs is
        removed with its content. Returns the jobs whose lease was lost (nothing was done for those, nor for reports
        if any job was lost: in that case nothing at all is done and LeaseLost is raised)."""

    async def next_due(self) -> float | None:
        """When the earliest unleased job is due (wall clock), or None."""

    async def peek(self, selection: Selection) -> list[tuple[Job, Spooled]]:
        """For operators: jobs with their messages (content.data left out), oldest first."""

    async def counts(self) -> dict[str, int]:
        """ "queued", "held", "leased", "messages", "octets"."""

    async def retry(self, selection: Selection, now_s: float) -> int:
        """Make the selected jobs due now; returns how many."""

    async def hold(self, selection: Selection, events: Sequence[TraceEvent] = ()) -> int: ...

    async def release(self, selection: Selection, now_s: float, events: Sequence[TraceEvent] = ()) -> int: ...

    async def drop(self, selection: Selection, now_s: float, events: Sequence[TraceEvent] = ()) -> int:
        """Remove jobs without a report (leased ones too; their holder's token is lost)."""

    async def content(self, spool_id: SpoolId) -> Content:
        """The content with its data. Raises NotFound."""

    async def trace(self, text: str, limit: int = 1000) -> list[TraceEvent]:
        """Events of messages whose Message-ID, spool id (hexadecimal), sender or recipient is `text`, oldest first. A
        recipient is found by the address that led to it (an alias), too."""

    async def sweep(self, now_s: float, trace_days: float) -> None:
        """Drop trace events that are too old; called by the mover."""


# --- directory and keys ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Alias:
    """`address.local` "" is the catch-all of a domain ("@domain"); an empty domain is the bare postmaster."""

    address: Address
    targets: tuple[Address, ...]


class Directory(Protocol):
    """Domains, accounts, credentials, aliases. Look-ups are cached in the process; changes by others are seen within
    a second. Addresses are compared by `Address.key`."""

    async def version(self) -> int:
        """Changes whenever anything in the directory does."""

    async def domains(self) -> list[str]: ...

    async def is_local_domain(self, domain: str) -> bool: ...

    async def add_domain(self, domain: str) -> None:
        """Raises Exists."""

    async def remove_domain(self, domain: str) -> None:
        """Raises NotFound, or Exists while it has accounts or aliases."""

    async def add_account(self, account: Account) -> None:
        """Raises Exists (an account or alias of this address), NotFound (the domain)."""

    async def add_accounts(self, accounts: Sequence[Account]) -> None:
        """Many, in one commit: all or none."""

    async def account(self, address: Address) -> Account | None:
        """By address exactly (no detail, no alias); removed ones are not found."""

    async def account_by_id(self, account: AccountId) -> Account | None:
        """Removed ones too."""

    async def accounts(self, domain: str = "", state: str = "") -> list[Account]: ...

    async def set_secret(self, account: AccountId, secret: Secret) -> None: ...

    async def set_state(self, account: AccountId, state: str, now_s: float) -> None:
        """ "active", "disabled", "removed". Raises NotFound; Exists if its address was taken meanwhile."""

    async def set_quota(self, account: AccountId, quota_octets: int) -> None: ...

    async def add_alias(self, alias: Alias) -> None:
        """Replaces an alias of the same address. Raises Exists for an account's address, NotFound for its domain."""

    async def remove_alias(self, address: Address) -> None: ...

    async def alias(self, address: Address) -> Alias | None:
        """Exactly this address; for a catch-all ask with local part ""."""

    async def aliases(self, domain: str = "") -> list[Alias]: ...


class Keys(Protocol):
    """Small values with an expiry: rates, reputation, policies."""

    async def get(self, key: str) -> bytes | None: ...

    async def put(self, key: str, value: bytes, expires_s: float) -> None: ...

    async def delete(self, key: str) -> None: ...

    async def scan(self, prefix: str) -> list[tuple[str, bytes]]: ...


class Signals(Protocol):
    """Wakes other sessions and processes. Signals may be lost, doubled or late: they only wake."""

    def publish(self, topic: str) -> None:
        """Topics: "account:<id>", "spool", "directory"."""

    def subscribe(self, topic: str, wake: Callable[[], None]) -> Callable[[], None]:
        """Call `wake` on the loop when the topic is published here or elsewhere; returns what ends it."""


class Store(Protocol):
    """Everything, opened for one process. `verify` findings are texts for people."""

    @property
    def mailboxes(self) -> Mailboxes: ...

    @property
    def spool(self) -> Spool: ...

    @property
    def directory(self) -> Directory: ...

    @property
    def keys(self) -> Keys: ...

    @property
    def blobs(self) -> Blobs: ...

    def has_room(self, message_octets: int) -> bool:
        """Is there room for new mail of others, the largest message being so large? Cheap (cases 12, 13)."""

    async def close(self) -> None: ...

    async def checkpoint(self) -> None:
        """Fold logs back, drop what nothing refers to (pool contents an hour old, remembered jobs); the mover calls it
        every few seconds; short steps."""

    async def verify(
        self, account: AccountId | None = None, progress: Callable[[str], None] | None = None
    ) -> list[str]:
        """Check hashes, references, counters and UIDs, of one account or of all and the spool; what is wrong."""
