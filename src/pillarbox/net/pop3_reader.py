"""Reads a POP3 session's messages from the store, many at once where the client asks for one after the other.

Messages read ahead are kept only until the account changes: what was expunged elsewhere is not served.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from pillarbox.model.ids import AccountId
from pillarbox.model.uids import UidSet
from pillarbox.protocol.pop3.maildrop import Maildrop
from pillarbox.store.api import Email, Mailboxes

MAX_AHEAD: Final = 32
"""Messages read ahead for a client that does not pipeline; the store's slices (256 KiB) bound their octets."""

FRESH_S: Final = 0.05
"""How long what was found out of others' doings is relied on (signals, which come sooner, may be lost)."""


@dataclass(frozen=True, slots=True)
class Found:
    """A message: `data` is its content where it is small, else None: then open `email`."""

    prefix: bytes
    data: bytes | None
    email: int


class Reader:
    """The mailbox of one session."""

    __slots__ = (
        "_account",
        "_ahead",
        "_checked_s",
        "_last",
        "_mailbox",
        "_mailboxes",
        "_maildrop",
        "_modseq",
        "_window",
        "is_stale",
    )

    def __init__(self, mailboxes: Mailboxes, account: AccountId, mailbox: int, maildrop: Maildrop, modseq: int) -> None:
        """`modseq`: the account's, from before the maildrop was loaded."""
        self._mailboxes = mailboxes
        self._account = account
        self._mailbox = mailbox
        self._maildrop = maildrop
        self._modseq = modseq
        self._checked_s = 0.0
        self._ahead: dict[int, Found] = {}
        self._last = -2
        self._window = 1
        self.is_stale = False
        """The account may have changed: `refresh` before anything is answered."""

    def changed(self) -> None:
        """A signal: something in the account has changed."""
        self.is_stale = True

    def forget(self) -> None:
        """Drop what was read ahead."""
        self._ahead.clear()

    def is_fresh(self, now_s: float) -> bool:
        """True if it was looked up a moment ago what others do, and no signal has come since."""
        return not self.is_stale and now_s - self._checked_s < FRESH_S

    async def refresh(self, now_s: float) -> None:
        """Find out what others expunged. Raises Trouble, NoSuchAccount, NoSuchMailbox."""
        self.is_stale, self._checked_s = False, now_s
        modseq = await self._mailboxes.modseq(self._account)
        if modseq == self._modseq:
            return
        changes = await self._mailboxes.changes(self._account, self._mailbox, self._modseq)
        self._ahead.clear()
        self._maildrop.expunged(changes.expunged)
        self._modseq = modseq

    def take(self, index: int, uid: int) -> Found | None:
        """The message, if it has been read ahead."""
        found = self._ahead.pop(uid, None)
        if found is not None:
            self._last = index
        return found

    async def find(self, index: int, uid: int, upcoming: list[int]) -> Found | None:
        """The message, or None if it was expunged. `upcoming`: indices that will be asked for next."""
        found = None
        if self._maildrop.find(index + 1) is not None:
            await self._read(index, uid, upcoming)
            found = self._ahead.pop(uid, None)
            if found is None and self._ahead:  # a slice that ended before it
                await self._read_slice(UidSet.of((uid,)))
                found = self._ahead.pop(uid, None)
        if found is None:
            self._maildrop.expunged(UidSet.of((uid,)))
        self._last = index
        return found

    async def open(self, email: int) -> Email:
        """A large message. Raises NoSuchMessage, Trouble."""
        return await self._mailboxes.open(self._account, email)

    async def expunge(self, uids: UidSet) -> None:
        """Remove messages, all or none. Raises Trouble."""
        await self._mailboxes.expunge(self._account, self._mailbox, uids, only_deleted=False)

    async def _read(self, index: int, uid: int, upcoming: list[int]) -> None:
        if upcoming:
            uids = [uid, *(self._maildrop.uid(i) for i in upcoming)]
        else:
            self._window = min(2 * self._window, MAX_AHEAD) if index == self._last + 1 else 1
            uids = [uid, *self._maildrop.uids(index, self._window)]
        await self._read_slice(UidSet.of(set(uids)))

    async def _read_slice(self, uids: UidSet) -> None:
        self._ahead.clear()
        slices = self._mailboxes.fetch(self._account, self._mailbox, uids, ("prefix", "data"))
        async for piece in slices:
            placements = piece.placements
            for uid, email, (prefix, data) in zip(placements.uids, placements.emails, piece.forms, strict=True):
                self._ahead[uid] = Found(prefix, data, email)
            break
        close = getattr(slices, "aclose", None)
        if close:
            await close()
