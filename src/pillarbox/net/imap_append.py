"""APPEND: the message goes from the literal to the store's writer as it arrives, never whole through memory.

What can be refused is refused before the message is sent (cases 166, 168). Source: RFC 3501 §6.3.11, RFC 7888,
RFC 4315 §3 (APPENDUID).
"""

from __future__ import annotations

import os
from typing import Final

from pillarbox.model.errors import NoSuchMailbox, Trouble
from pillarbox.model.ids import EmailId, make_id
from pillarbox.model.mailbox import Mailbox
from pillarbox.net.imap_mailboxes import NOSELECT, known_account
from pillarbox.net.imap_session import Appending, ImapSession, handles
from pillarbox.net.imap_sync import finish
from pillarbox.protocol.imap.commands import Append
from pillarbox.protocol.imap.server import AppendEnd, AppendOctets
from pillarbox.store.api import NewEmail

LARGE_OCTETS: Final = 128 * 1024
"""Messages over this are on disk while they arrive, and counted."""
LARGE_PER_ACCOUNT: Final = 4
LARGE_TOGETHER: Final = 32


@handles(Append)
async def append(session: ImapSession, tag: bytes, command: Append) -> None:
    """Check, and let the client go on, or refuse."""
    try:
        checked = await _check(session, command)
    except NoSuchMailbox:
        checked = (b"TRYCREATE", b"No such mailbox.")
    except Exception:
        if session.core.append_refuse():
            session.end(b"Too much to skip.")
        raise
    if isinstance(checked, Mailbox):
        _begin(session, tag, command, checked)
        return
    code, text = checked
    close = session.core.append_refuse()
    session.no(tag, text, code)
    if close:
        session.end(b"Too much to skip.", code)


async def _check(session: ImapSession, command: Append) -> Mailbox | tuple[bytes, bytes]:
    """The mailbox, if the message may come; else a response code and text. Raises NoSuchMailbox, Trouble."""
    account, service = known_account(session), session.service
    if command.size > service.limits.message_octets:
        return b"TOOBIG", b"The message is too large."
    if command.size == 0:
        return b"CANNOT", b"An empty message is none."
    mailbox = await service.store.mailboxes.status(account.id, command.mailbox)
    if mailbox.special_use == NOSELECT:
        return b"NONEXISTENT", b"This mailbox holds no messages."
    if account.quota_octets:
        octets, _ = await service.store.mailboxes.size(account.id)
        if octets + command.size > account.quota_octets:
            return b"OVERQUOTA", b"The quota would be passed."
    if command.size > LARGE_OCTETS:
        appends = service.appends
        if appends.get(account.id, 0) >= LARGE_PER_ACCOUNT or sum(appends.values()) >= LARGE_TOGETHER:
            return b"INUSE", b"Too many large messages at once."
    return mailbox


def _begin(session: ImapSession, tag: bytes, command: Append, mailbox: Mailbox) -> None:
    account, service = known_account(session), session.service
    budget = command.size > LARGE_OCTETS
    if budget:
        service.appends[account.id] = service.appends.get(account.id, 0) + 1
    session.append = Appending(tag, command, mailbox.id, mailbox.uidvalidity, service.store.blobs.writer(), budget)
    session.line.write(session.core.append_go())


@handles(AppendOctets)
async def take_octets(session: ImapSession, tag: bytes, event: AppendOctets) -> None:
    """After trouble the rest is read and dropped, so that the client can be told."""
    arriving = session.append
    if arriving is None or arriving.trouble:
        return
    try:
        arriving.writer.write(event.octets)
        await arriving.writer.drain()
    except Trouble as trouble:
        arriving.trouble = trouble
        arriving.writer.abort()


@handles(AppendEnd)
async def file_message(session: ImapSession, tag: bytes, event: AppendEnd) -> None:
    arriving = session.append
    if arriving is None:
        return
    account, service, command = known_account(session), session.service, arriving.command
    try:
        if arriving.trouble:
            raise arriving.trouble
        content = await arriving.writer.finish()
        now_s = service.clock.now()
        email = NewEmail(
            id=EmailId(make_id(now_s, os.urandom)),
            content=content,
            received_s=int(now_s) if command.received_s is None else command.received_s,
            flags=frozenset(command.flags),
        )
        (filed,) = await service.store.mailboxes.append(account.id, arriving.mailbox, [email], account.quota_octets)
    except BaseException:
        arriving.writer.abort()
        raise
    finally:
        session.release_append()
    await finish(session, tag, code=b"APPENDUID %d %d" % (arriving.uidvalidity, filed.uid))
