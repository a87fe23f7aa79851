"""What a POP3 session reads from the store: INBOX at its beginning, then messages, large ones in pieces."""

from __future__ import annotations

from array import array
from collections.abc import AsyncIterator
from typing import Final

from pillarbox.mail.metrics import Log
from pillarbox.model.errors import NoSuchAccount, NoSuchMailbox, NoSuchMessage, Trouble
from pillarbox.model.ids import AccountId
from pillarbox.model.uids import ALL, UidSet
from pillarbox.net.pop3_reader import Reader
from pillarbox.protocol.pop3.content import Stuffer, Top
from pillarbox.protocol.pop3.events import Retrieve
from pillarbox.protocol.pop3.maildrop import Maildrop
from pillarbox.protocol.pop3.server import Pop3Server
from pillarbox.protocol.pop3.surrogate import Surrogate
from pillarbox.store.api import Email, Mailboxes

PIECE_OCTETS: Final = 64 * 1024
UPCOMING: Final = 64
"""Messages read together for a client that pipelines."""


async def open_inbox(mailboxes: Mailboxes, account: AccountId, utf8: bool) -> tuple[Maildrop, Reader]:
    """INBOX as it is now. Raises Trouble, NoSuchAccount, NoSuchMailbox."""
    modseq = await mailboxes.modseq(account)
    mailbox = await mailboxes.status(account, "INBOX")
    uids, sizes, emails = array("I"), array("Q"), array("Q")
    if mailbox.messages:
        async for piece in mailboxes.fetch(account, mailbox.id, ALL):
            uids.extend(piece.placements.uids)
            sizes.extend(piece.placements.sizes)
            emails.extend(piece.placements.emails)
    maildrop = Maildrop(mailbox.uidvalidity, uids, sizes)
    return maildrop, Reader(mailboxes, account, mailbox.id, emails, maildrop, modseq, utf8=utf8)


async def look_up(reader: Reader, core: Pop3Server, asked: Retrieve) -> bytes | LargeMessage:
    """The message as it is sent, others read with it; or, if it is large, its beginning.

    Raises NoSuchMessage, DamagedMessage, Trouble, NoSuchAccount, NoSuchMailbox.
    """
    maildrop = core.maildrop
    if maildrop is None or maildrop.find(asked.index + 1) is None:  # so the last refresh has learnt
        raise NoSuchMessage
    found = await reader.find(asked.index, asked.lines, core.upcoming(UPCOMING))
    if found is None:
        raise NoSuchMessage
    if isinstance(found, bytes):
        return found
    try:
        large = LargeMessage(await reader.open(found), asked.lines, utf8=core.utf8)
        await large.begin()
    except NoSuchMessage:
        reader.gone(asked.index)
        raise
    return large


async def remove(reader: Reader, uids: UidSet, account: AccountId, log: Log) -> bool:
    """Expunge these messages, all or none; says if it was done."""
    try:
        await reader.expunge(uids)
    except (Trouble, NoSuchAccount, NoSuchMailbox) as error:
        log.error("cannot remove messages", account=account, error=repr(error))
        return False
    return True


class LargeMessage:
    """An email too large to be read at once, in pieces ready to be sent.

    `begin` reads the first, so that what goes wrong can still be answered; then `pieces` are all of it.
    """

    __slots__ = ("_cut", "_email", "_first", "_header", "_stuffer")

    def __init__(self, email: Email, lines: int | None, *, utf8: bool) -> None:
        """`lines` of the body, or all. `utf8`: the client takes headers in UTF-8."""
        self._email = email
        self._cut = Top(lines) if lines is not None else None
        self._header = None if utf8 else Surrogate()
        self._stuffer = Stuffer()
        self._first = b""

    async def begin(self) -> None:
        """Raises Trouble, DamagedMessage, NoSuchMessage."""
        self._first = await self._email.read(0, PIECE_OCTETS)

    async def pieces(self) -> AsyncIterator[bytes]:
        """Dots doubled, the final line included. Raises as `begin`."""
        piece, offset, header = self._first, 0, self._header
        self._first = b""
        while piece and not (self._cut and self._cut.is_done):
            offset += len(piece)
            yield self._wire(header.feed(piece) if header else piece)
            piece = await self._email.read(offset, PIECE_OCTETS) if offset < self._email.size else b""
        yield self._wire(header.finish() if header else b"") + self._stuffer.finish()

    def _wire(self, piece: bytes) -> bytes:
        return self._stuffer.feed(self._cut.feed(piece) if self._cut else piece)
