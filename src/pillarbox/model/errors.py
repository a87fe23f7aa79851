"""The three kinds of exception that are raised on purpose, and those of the store.

Their texts are for the operator's log; none of them reaches a peer. What becomes of mail is a value
(`outcome.py`), not an exception.
"""

from __future__ import annotations

from pillarbox.model.status import Status


class PillarboxError(Exception):
    """Everything raised on purpose; its text is for the operator's log."""


class PeerError(PillarboxError):
    """The other side broke the grammar; a core hands it out as a Mistake."""


class Refused(PillarboxError):
    """A rule says no: carries the status to answer with and the name of the rule.

    `note` is a short text that may be shown to the peer; it never holds text from an exception.
    """

    def __init__(self, status: Status, rule: str, note: str = "") -> None:
        super().__init__(f"{status} {rule}{': ' + note if note else ''}")
        self.status = status
        self.rule = rule
        self.note = note


class Trouble(PillarboxError):
    """Our side failed (disk, DNS, scanner): always temporary, always retried."""

    status = Status(4, 3, 0)


class StoreFull(Trouble):
    """The disk (or its inodes) is full. Answered 452 4.3.1."""

    status = Status(4, 3, 1)


class AccountUnavailable(Trouble):
    """This account's files cannot be read now; others are served."""


class LeaseLost(PillarboxError):
    """The token belongs to a lease that ended; the job is someone else's now."""


class NoSuchAccount(PillarboxError):
    """No account has this id or address."""


class NoSuchMailbox(PillarboxError):
    """The account has no such mailbox."""


class MailboxExists(PillarboxError):
    """A mailbox of this name exists already."""


class MailboxName(PillarboxError):
    """The name cannot be the name of a mailbox (empty part, control character, too long, too deep, reserved)."""


class NoSuchMessage(PillarboxError):
    """The message was expunged, or never was."""


class DamagedMessage(PillarboxError):
    """The message's octets on disk are not those that were stored; they are never served."""


class OverQuota(PillarboxError):
    """The account would hold more octets or messages than its quota."""


class LimitReached(PillarboxError):
    """A setting bounds this (mailboxes, keywords): it has been reached."""


class Exists(PillarboxError):
    """What was to be added to the directory is there already."""


class NotFound(PillarboxError):
    """What was named in the directory, the queue or the trace is not there."""
