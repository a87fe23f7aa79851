"""Reads a POP3 session's messages from the store, many at once where the client asks for one after the other.

While one run of messages is sent, the next is read. What was read ahead is kept only until the account changes: what
was expunged elsewhere is not served.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final

from pillarbox.model.ids import AccountId
from pillarbox.model.uids import UidSet
from pillarbox.protocol.pop3.maildrop import Maildrop
from pillarbox.store.api import Email, Mailboxes

MAX_AHEAD: Final = 64
"""Messages in one run; the store's slices (256 KiB) bound their octets. At most two runs are in memory."""
FRESH_S: Final = 0.05
"""How long what was found out of others' doings is relied on (signals, which come sooner, may be lost)."""


@dataclass(slots=True)
class Found:
    """A message: `data` is its content where it is small, else None: then open `email`."""

    prefix: bytes
    data: bytes | None
    email: int


Run = dict[int, Found]
"""Messages by UID, ascending."""


class Reader:
    """The mailbox of one session."""

    __slots__ = (
        "_account",
        "_ahead",
        "_checked_s",
        "_coming",
        "_last",
        "_mailbox",
        "_mailboxes",
        "_maildrop",
        "_modseq",
        "_read_to",
        "_turn",
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
        self._ahead: Run = {}
        self._coming: asyncio.Task[Run] | None = None
        self._last = -2
        """Index of the message asked for last."""
        self._read_to = 0
        """Index of the first message after those that were read."""
        self._turn = -1
        """When so many are left, the next run is begun."""
        self._window = 1
        self.is_stale = False
        """The account may have changed: `refresh` before anything is answered."""

    def changed(self) -> None:
        """A signal: something in the account has changed."""
        self.is_stale = True

    def forget(self) -> None:
        """Drop what was read ahead."""
        self._ahead.clear()
        self._turn = -1
        if self._coming:
            self._coming.cancel()
            self._coming = None

    def is_fresh(self, now_s: float) -> bool:
        """True if it was looked up a moment ago what others do, and no signal has come since."""
        return not self.is_stale and now_s - self._checked_s < FRESH_S

    async def refresh(self, now_s: float) -> None:
        """Find out what others expunged. Raises Trouble, NoSuchAccount, NoSuchMailbox."""
        self.is_stale, self._checked_s = False, now_s
        modseq = await self._mailboxes.modseq(self._account)
        if modseq == self._modseq:
            return
        self.forget()
        changes = await self._mailboxes.changes(self._account, self._mailbox, self._modseq)
        self._maildrop.expunged(changes.expunged)
        self._modseq = modseq

    def take(self, index: int, uid: int) -> Found | None:
        """The message, if it has been read ahead."""
        found = self._ahead.pop(uid, None)
        if found is not None:
            self._last = index
            if len(self._ahead) == self._turn and self._coming is None:
                self._begin_next()
        return found

    async def find(self, index: int, uid: int, upcoming: list[int]) -> Found | None:
        """The message, or None if it was expunged. `upcoming`: indices that will be asked for next.

        Raises Trouble, NoSuchAccount, NoSuchMailbox.
        """
        if self._coming:
            coming, self._coming = self._coming, None
            self._keep(await coming)
        elif self._maildrop.find(index + 1) is not None:
            self._keep(await self._fetch(self._wanted(index, uid, upcoming)))
        found = self.take(index, uid)
        if found is None and self._maildrop.find(index + 1) is not None:  # not in this run
            found = (await self._fetch(UidSet.of((uid,)))).get(uid)
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

    def _wanted(self, index: int, uid: int, upcoming: list[int]) -> UidSet:
        """What to read with this message: those the client has asked for, or those it is likely to ask for."""
        if upcoming and upcoming[0] != index + 1:
            self._window = 1
            return UidSet.of({uid, *map(self._maildrop.uid, upcoming)})
        if upcoming:
            self._window = MAX_AHEAD
        else:
            self._window = min(2 * self._window, MAX_AHEAD) if index == self._last + 1 else 1
        return UidSet.of(self._maildrop.uids(index, self._window))

    def _keep(self, run: Run) -> None:
        self._ahead = run
        self._turn = len(run) // 2 if self._window > 1 else -1
        if run:
            self._read_to = self._maildrop.index_after(next(reversed(run)))

    def _begin_next(self) -> None:
        """Read the run after this one, while this one is sent."""
        self._window = min(2 * self._window, MAX_AHEAD)
        uids = self._maildrop.uids(self._read_to, self._window)
        if uids:
            self._coming = asyncio.get_running_loop().create_task(self._fetch(UidSet.of(uids)))
            self._coming.add_done_callback(_look)

    async def _fetch(self, uids: UidSet) -> Run:
        """The first slice of these messages."""
        run: Run = {}
        slices = self._mailboxes.fetch(self._account, self._mailbox, uids, ("prefix", "data"))
        async for piece in slices:
            placements = piece.placements
            for uid, email, (prefix, data) in zip(placements.uids, placements.emails, piece.forms, strict=True):
                run[uid] = Found(prefix, data, email)
            break
        close = getattr(slices, "aclose", None)
        if close:
            await close()
        return run


def _look(task: asyncio.Task[Run]) -> None:
    """A run that nobody came for may have failed; the next one will say so."""
    if not task.cancelled():
        task.exception()
