"""Telling a session what became of its mailbox: EXPUNGE, EXISTS, RECENT, FETCH of flags.

Every tagged command ends with `sync`; so do wake-ups in IDLE. What may not be said now (EXPUNGE during FETCH, STORE and
SEARCH, RFC 3501 §7.4.1) waits in the view. Source: RFC 3501 §5.2, §7.2.6, §7.3, §7.4.1.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence

from pillarbox.model.errors import NoSuchMailbox
from pillarbox.model.mailbox import Mailbox, Placements
from pillarbox.net.imap_session import ImapSession, MailboxGone, Selected
from pillarbox.protocol.imap.fetch import RECENT, FlagTexts
from pillarbox.protocol.imap.responses import expunge_responses, flags_response, permanent_flags
from pillarbox.store.api import Changes, Stored


async def sync(session: ImapSession, expunges: bool = True) -> None:
    """Tell what changed since the last time. Raises MailboxGone."""
    selected, account = session.selected, session.account
    if selected is None or account is None:
        return
    mailboxes = session.service.store.mailboxes
    modseq = await mailboxes.modseq(account.id)
    if modseq == selected.modseq:
        if expunges and selected.view.has_gone:
            await session.line.send(expunge_responses(selected.view.take_expunged()))
        return
    try:
        changes = await mailboxes.changes(account.id, selected.id, selected.modseq)
    except NoSuchMailbox as error:
        raise MailboxGone from error
    selected.modseq = modseq
    await session.line.send(await _story(session, selected, changes, expunges))


async def _story(session: ImapSession, selected: Selected, changes: Changes, expunges: bool) -> bytes:
    view, known = selected.view, selected.view.last_uid
    told = bytearray()
    view.remove(changes.expunged)
    told += keywords_changed(selected, changes.mailbox)
    changed = _told_flags(selected, changes.changed, known)
    count = view.add(changes.changed.uids)
    if expunges:
        told += expunge_responses(view.take_expunged())
    if count:
        account = session.account
        assert account is not None
        if not selected.read_only and changes.mailbox.recent_uid <= view.last_uid:
            first = await session.service.store.mailboxes.take_recent(account.id, selected.id)
            view.add_recent(first, view.last_uid + 1)
        told += b"* %d EXISTS\r\n* %d RECENT\r\n" % (len(view), view.recent_count())
    told += _flag_responses(selected, *changed)
    return bytes(told)


def keywords_changed(selected: Selected, mailbox: Mailbox) -> bytes:
    """FLAGS and PERMANENTFLAGS anew, if the mailbox has keywords that the client was not told of."""
    if mailbox.keywords == selected.keywords:
        return b""
    selected.keywords = mailbox.keywords
    selected.texts = FlagTexts(mailbox.keywords)
    return flags_response(mailbox.keywords) + permanent_flags(mailbox.keywords, selected.read_only)


def own_change(selected: Selected, stored: Stored) -> None:
    """We changed flags ourselves and tell the client of it ourselves.

    Only if nothing came between what it knows and this change: else `sync` tells of all, some of it twice.
    """
    if len(stored.changed) and stored.modseq == selected.modseq + 1:
        selected.modseq = stored.modseq


def _told_flags(selected: Selected, changed: Placements, known: int) -> tuple[array[int], list[int]]:
    """Of the changed placements, those that the client knows and that are still there."""
    uids, flags = array("I"), []
    is_gone = selected.view.is_gone
    for uid, bits in zip(changed.uids, changed.flags, strict=True):
        if uid <= known and not is_gone(uid):
            uids.append(uid)
            flags.append(bits)
    return uids, flags


def _flag_responses(selected: Selected, uids: array[int], flags: list[int]) -> bytes:
    """FETCH responses with the flags, UID too: it costs little, and clients of today want it."""
    if not uids:
        return b""
    numbers = selected.view.numbers(uids)
    texts = flag_texts(selected, uids, flags)
    rows = [(number, uid, text) for number, uid, text in zip(numbers, uids, texts, strict=True) if number]
    return (b"* %d FETCH (UID %d FLAGS (%b))\r\n" * len(rows)) % tuple(value for row in rows for value in row)


def flag_texts(selected: Selected, uids: array[int], flags: Sequence[int]) -> list[bytes]:
    """The texts of flags, \\Recent among them."""
    recent = selected.view.recent(uids)
    if recent is not None:
        flags = [bits | RECENT if new else bits for bits, new in zip(flags, recent, strict=True)]
    return [*map(selected.texts.__getitem__, flags)]


async def finish(
    session: ImapSession, tag: bytes, text: bytes = b"Done.", code: bytes = b"", expunges: bool = True
) -> None:
    """The end of a command that went well: what changed, then OK."""
    await sync(session, expunges)
    session.ok(tag, text, code)
