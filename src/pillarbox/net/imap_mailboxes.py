"""Commands about mailboxes: SELECT, EXAMINE, CLOSE, UNSELECT, CREATE, DELETE, RENAME, SUBSCRIBE, LIST, LSUB, STATUS,
NAMESPACE. Source: RFC 3501 §6.3, §6.4.2; RFC 2342, RFC 3348 (CHILDREN), RFC 3691, RFC 6154 (SPECIAL-USE).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable
from functools import partial
from typing import Final

from pillarbox.model.errors import NoSuchMailbox
from pillarbox.model.flags import SEEN
from pillarbox.model.mailbox import Account, Mailbox, Placements
from pillarbox.model.uids import UidSet
from pillarbox.net.imap_session import ImapSession, Selected, handles
from pillarbox.net.imap_sync import finish
from pillarbox.protocol.imap.commands import (
    Close,
    Create,
    Delete,
    List,
    Namespace,
    Rename,
    Select,
    Status,
    Subscribe,
)
from pillarbox.protocol.imap.fetch import FlagTexts
from pillarbox.protocol.imap.names import SEPARATOR, Pattern, canonical
from pillarbox.protocol.imap.responses import list_response, selected, status_response
from pillarbox.protocol.imap.view import View

NOSELECT: Final = "\\Noselect"
INLINE_NAMES: Final = 200
"""More names are compared with a pattern in a thread (case 174)."""
_NOT_SEEN: Final = bytes(0 if octet & SEEN else 1 for octet in range(256))


def known_account(session: ImapSession) -> Account:
    """The core lets commands that need an account through only after login."""
    assert session.account is not None
    return session.account


@handles(Select)
async def select(session: ImapSession, tag: bytes, command: Select) -> None:
    """What was selected is left first, even if this fails. Source: RFC 3501 §6.3.1."""
    _leave(session)
    account, mailboxes = known_account(session), session.service.store.mailboxes
    modseq = await mailboxes.modseq(account.id)
    found = await mailboxes.status(account.id, command.mailbox)
    if found.special_use == NOSELECT:
        session.no(tag, b"This mailbox holds no messages.", b"NONEXISTENT")
        return
    mailbox, placements = await mailboxes.uids(account.id, found.id)
    view = View(placements.uids)
    first_recent = mailbox.recent_uid
    if not command.read_only and first_recent < mailbox.uidnext:
        first_recent = await mailboxes.take_recent(account.id, found.id)
    view.add_recent(first_recent, mailbox.uidnext)
    session.selected = Selected(
        found.id, mailbox.name, command.read_only, view, modseq, mailbox.keywords, FlagTexts(mailbox.keywords)
    )
    session.core.selected(True)
    session.line.write(
        selected(mailbox, len(view), view.recent_count(), _first_unseen(mailbox, placements), command.read_only)
    )
    session.ok(tag, code=b"READ-ONLY" if command.read_only else b"READ-WRITE")


def _first_unseen(mailbox: Mailbox, placements: Placements) -> int:
    """A sequence number, or 0. The lowest octet of each number of flags holds \\Seen; looked for at C speed."""
    if not mailbox.unseen:
        return 0
    flags = placements.flags
    if flags.itemsize == 8 and memoryview(b"\1\0").cast("H")[0] == 1:
        return flags.tobytes()[::8].translate(_NOT_SEEN).find(1) + 1
    return next((number for number, bits in enumerate(flags, 1) if not bits & SEEN), 0)


def _leave(session: ImapSession) -> None:
    session.selected = None
    session.core.selected(False)


@handles(Close)
async def close(session: ImapSession, tag: bytes, command: Close) -> None:
    """CLOSE expunges without a word, unless the mailbox is read-only; UNSELECT does not. Source: §6.4.2, RFC 3691."""
    chosen = session.selected
    assert chosen is not None
    if command.expunge and not chosen.read_only and len(chosen.view):
        mailboxes, everything = session.service.store.mailboxes, chosen.view.everything()
        with contextlib.suppress(NoSuchMailbox):  # deleted meanwhile: it is left all the same
            await mailboxes.expunge(known_account(session).id, chosen.id, everything)
    _leave(session)
    session.ok(tag)


@handles(Create)
async def create(session: ImapSession, tag: bytes, command: Create) -> None:
    await session.service.store.mailboxes.create(known_account(session).id, command.mailbox)
    await finish(session, tag)


@handles(Delete)
async def delete(session: ImapSession, tag: bytes, command: Delete) -> None:
    """Deleting what is selected here closes it first, as other servers do."""
    account, mailboxes = known_account(session), session.service.store.mailboxes
    if session.selected and session.selected.id == (await mailboxes.status(account.id, command.mailbox)).id:
        _leave(session)
    await mailboxes.delete(account.id, command.mailbox)
    await finish(session, tag)


@handles(Rename)
async def rename(session: ImapSession, tag: bytes, command: Rename) -> None:
    await session.service.store.mailboxes.rename(known_account(session).id, command.mailbox, command.new_name)
    await finish(session, tag)


@handles(Subscribe)
async def subscribe(session: ImapSession, tag: bytes, command: Subscribe) -> None:
    await session.service.store.mailboxes.subscribe(known_account(session).id, command.mailbox, command.on)
    await finish(session, tag)


@handles(Namespace)
async def namespace(session: ImapSession, tag: bytes, command: Namespace) -> None:
    """One's own mailboxes only. Source: RFC 2342 §5."""
    session.line.write(b'* NAMESPACE (("" "/")) NIL NIL\r\n')
    await finish(session, tag)


@handles(Status)
async def status(session: ImapSession, tag: bytes, command: Status) -> None:
    """From counters on the mailbox's row; only recent messages are counted, if there are any (case 196)."""
    account, mailboxes = known_account(session), session.service.store.mailboxes
    mailbox = await mailboxes.status(account.id, command.mailbox)
    if mailbox.special_use == NOSELECT:
        session.no(tag, b"This mailbox holds no messages.", b"NONEXISTENT")
        return
    values = {
        b"MESSAGES": mailbox.messages,
        b"UIDNEXT": mailbox.uidnext,
        b"UIDVALIDITY": mailbox.uidvalidity,
        b"UNSEEN": mailbox.unseen,
    }
    if b"RECENT" in command.items:
        values[b"RECENT"] = 0
        if mailbox.recent_uid < mailbox.uidnext:
            recent = UidSet(((mailbox.recent_uid, mailbox.uidnext - 1),))
            async for part in mailboxes.fetch(account.id, mailbox.id, recent):
                values[b"RECENT"] += len(part.placements)
    session.line.write(status_response(command.mailbox, [(item, values[item]) for item in command.items]))
    await finish(session, tag)


# --- LIST and LSUB ----------------------------------------------------------------------------------------------------


@handles(List)
async def list_mailboxes(session: ImapSession, tag: bytes, command: List) -> None:
    """Source: RFC 3501 §6.3.8, §6.3.9; RFC 3348; RFC 6154 §2."""
    kind = b"LSUB" if command.subscribed else b"LIST"
    if not command.pattern:
        root = command.reference.partition(SEPARATOR)[0] + SEPARATOR if SEPARATOR in command.reference else ""
        session.line.write(list_response(kind, [NOSELECT], root))
        await finish(session, tag)
        return
    pattern = Pattern(canonical(command.reference + command.pattern))
    account, mailboxes = known_account(session), session.service.store.mailboxes
    work: Callable[[], list[tuple[str, list[str]]]]
    if command.subscribed:
        names = await mailboxes.subscriptions(account.id)
        work, count = partial(subscribed_rows, names, pattern), len(names)
    else:
        boxes = await mailboxes.list(account.id)
        work, count = partial(list_rows, boxes, pattern), len(boxes)

    def answer() -> bytes:
        return b"".join([list_response(kind, attributes, name) for name, attributes in work()])

    await session.line.send(answer() if count <= INLINE_NAMES else await asyncio.to_thread(answer))
    await finish(session, tag)


def list_rows(mailboxes: Iterable[Mailbox], pattern: Pattern) -> list[tuple[str, list[str]]]:
    """Names that match, with their attributes."""
    mailboxes = list(mailboxes)
    parents = {mailbox.name.rpartition(SEPARATOR)[0] for mailbox in mailboxes}
    rows = []
    for mailbox in mailboxes:
        if pattern.matches(mailbox.name):
            attributes = ["\\HasChildren" if mailbox.name in parents else "\\HasNoChildren"]
            if mailbox.special_use:
                attributes.insert(0, mailbox.special_use)
            rows.append((mailbox.name, attributes))
    return rows


def subscribed_rows(names: Iterable[str], pattern: Pattern) -> list[tuple[str, list[str]]]:
    """Subscribed names that match; a parent that matches but is not subscribed stands for its children, \\Noselect.

    Source: RFC 3501 §6.3.9.
    """
    rows: dict[str, list[str]] = {}
    names = sorted(set(names))
    for name in names:
        if pattern.matches(name):
            rows[name] = []
            continue
        parent = name.rpartition(SEPARATOR)[0]
        while parent:
            if parent not in rows and pattern.matches(parent):
                rows[parent] = [NOSELECT]
            parent = parent.rpartition(SEPARATOR)[0]
    for name in names:
        if name in rows:
            rows[name] = []
    return sorted(rows.items())
