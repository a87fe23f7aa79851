"""Commands on the messages of the selected mailbox: FETCH, STORE, COPY, MOVE, EXPUNGE, CHECK, and their UID forms.

No EXPUNGE is told during FETCH and STORE by sequence number (RFC 3501 §7.4.1, case 178). Source: RFC 3501 §6.4;
RFC 4315 (UIDPLUS), RFC 6851 (MOVE), RFC 5530 (EXPUNGEISSUED).
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Final

from pillarbox.model.errors import DamagedMessage, NoSuchMailbox, NoSuchMessage
from pillarbox.model.flags import SEEN
from pillarbox.model.mailbox import Placements
from pillarbox.model.uids import UidSet
from pillarbox.net.imap_mailboxes import known_account
from pillarbox.net.imap_session import ImapSession, MailboxGone, Selected, handles
from pillarbox.net.imap_sync import finish, flag_texts, keywords_changed, own_change, sync
from pillarbox.protocol.imap.commands import Check, Copy, Expunge, Fetch, SetRanges, Store
from pillarbox.protocol.imap.fetch import FetchItem, FetchPlan, Form, Read
from pillarbox.store.api import Email, Slice

READ_OCTETS: Final = 1 << 18
"""A large message is read, and sent, in pieces of this size."""
SEND_OCTETS: Final = 1 << 16
"""Small answers are gathered to about so much before they are sent."""


def chosen(session: ImapSession) -> Selected:
    assert session.selected is not None
    return session.selected


def wanted(selected: Selected, messages: SetRanges, uid: bool) -> UidSet:
    """The UIDs that a sequence set means. Raises NoSuchNumber."""
    return selected.view.uids_in(messages) if uid else selected.view.uids_of_numbers(messages)


@handles(Check)
async def check(session: ImapSession, tag: bytes, command: Check) -> None:
    """All is on disk anyway. Source: RFC 3501 §6.4.1."""
    await finish(session, tag)


# --- FETCH ------------------------------------------------------------------------------------------------------------


class _Fetching:
    """One FETCH under way: what was sent, and what could not be."""

    def __init__(self, session: ImapSession, plan: FetchPlan) -> None:
        self.session = session
        self.selected = chosen(session)
        self.plan = plan
        self.seen: list[int] = []
        """UIDs sent that were not \\Seen yet."""
        self.count = 0
        self.damaged = False

    async def send(self, part: Slice) -> None:
        """Answer for one slice."""
        rows = part.placements
        numbers = self.selected.view.numbers(rows.uids)
        self.count += len(numbers)
        texts: list[bytes] = []
        if self.plan.needs_flags:
            flags = array("Q", [bits | SEEN for bits in rows.flags]) if self.plan.marks_seen else rows.flags
            texts = flag_texts(self.selected, rows.uids, flags)
        if self.plan.needs_octets:
            await self._send_bodies(numbers, rows, texts, part.forms)
            return
        for octets in self.plan.format_rows(numbers, rows, texts, part.columns):
            await self.session.line.send(octets)
        if self.plan.marks_seen:
            self.seen += [uid for uid, bits in zip(rows.uids, rows.flags, strict=True) if not bits & SEEN]

    async def _send_bodies(
        self, numbers: Sequence[int], rows: Placements, texts: list[bytes], forms: list[Form]
    ) -> None:
        gathered: list[bytes] = []
        size = 0
        for index, number in enumerate(numbers):
            before = len(gathered)
            began = False
            try:
                for piece in self.plan.message_pieces(
                    number, rows, index, texts[index] if texts else b"", forms[index]
                ):
                    if isinstance(piece, Read):
                        await self._send_large(piece, gathered)
                        before, began, size = 0, True, 0
                        continue
                    gathered.append(piece)
                    size += len(piece)
                    if size >= SEND_OCTETS:
                        await self.session.line.send(b"".join(gathered))
                        gathered.clear()
                        before, began, size = 0, True, 0
            except (DamagedMessage, NoSuchMessage) as error:
                if began:  # its length was told already: what was promised cannot be kept
                    raise ConnectionError("a message is damaged in its middle") from error
                del gathered[before:]
                self.damaged = self.damaged or isinstance(error, DamagedMessage)
                continue
            if self.plan.marks_seen and not rows.flags[index] & SEEN:
                self.seen.append(rows.uids[index])
        await self.session.line.send(b"".join(gathered))

    async def _send_large(self, read: Read, gathered: list[bytes]) -> None:
        """What was gathered, and then octets that are not in the row. The first are read before anything is sent."""
        email = await self.session.service.store.mailboxes.open(known_account(self.session).id, read.email)
        send = self.session.line.send
        if read.finish:
            gathered.append(read.finish(await email.read(read.offset, read.length)))
        else:
            gathered.append(await _some(email, read.offset, read.length))
        sent = len(gathered[-1])
        await send(b"".join(gathered))
        gathered.clear()
        while not read.finish and sent < read.length:
            try:
                octets = await _some(email, read.offset + sent, read.length - sent)
            except DamagedMessage as error:
                raise ConnectionError("a message is damaged in its middle") from error
            await send(octets)
            sent += len(octets)


async def _some(email: Email, offset: int, length: int) -> bytes:
    """At least one octet, at most READ_OCTETS."""
    octets = await email.read(offset, min(length, READ_OCTETS))
    if not octets:
        raise DamagedMessage("shorter than it should be")
    return octets


@handles(Fetch)
async def fetch(session: ImapSession, tag: bytes, command: Fetch) -> None:
    selected, account = chosen(session), known_account(session)
    mailboxes = session.service.store.mailboxes
    uids = wanted(selected, command.messages, command.uid)
    plan = FetchPlan(command.items, command.uid, selected.read_only)
    fetching = _Fetching(session, plan)
    try:
        if uids:
            async for part in mailboxes.fetch(account.id, selected.id, uids, plan.columns):
                await fetching.send(part)
    except NoSuchMailbox as error:
        raise MailboxGone from error
    finally:
        if fetching.seen:
            await _mark_seen(session, selected, fetching.seen)
    if fetching.damaged:
        await sync(session, expunges=command.uid)
        session.no(tag, b"A message is damaged here; the others were sent.", b"SERVERBUG")
        return
    code, text = b"", b"Done."
    if not command.uid and fetching.count < selected.view.count(uids):
        code, text = b"EXPUNGEISSUED", b"Some of them are gone."
    await finish(session, tag, text, code, expunges=command.uid)


async def _mark_seen(session: ImapSession, selected: Selected, uids: list[int]) -> None:
    """One change for all that was sent; the client was told with the messages. Source: RFC 3501 §6.4.5."""
    stored = await session.service.store.mailboxes.set_flags(
        known_account(session).id, selected.id, UidSet.of(uids), "+", frozenset(("\\Seen",))
    )
    own_change(selected, stored)


# --- STORE ------------------------------------------------------------------------------------------------------------


@handles(Store)
async def store(session: ImapSession, tag: bytes, command: Store) -> None:
    """The answer tells the flags of all the messages, also of those that had them already. Source: §6.4.6."""
    selected, account = chosen(session), known_account(session)
    if selected.read_only:
        session.no(tag, b"The mailbox is read-only.", b"CANNOT")
        return
    mailboxes = session.service.store.mailboxes
    uids = wanted(selected, command.messages, command.uid)
    await sync(session, expunges=False)
    count = selected.view.count(uids) if command.silent else 0
    if uids:
        try:
            stored = await mailboxes.set_flags(account.id, selected.id, uids, command.mode, command.flags)
            session.line.write(keywords_changed(selected, stored.mailbox))
            own_change(selected, stored)
            if not command.silent:
                async for part in mailboxes.fetch(account.id, selected.id, uids):
                    count += len(part.placements)
                    await _tell_flags(session, part, command.uid)
        except NoSuchMailbox as error:
            raise MailboxGone from error
    code, text = b"", b"Done."
    if not command.uid and count < selected.view.count(uids):
        code, text = b"EXPUNGEISSUED", b"Some of them are gone."
    await finish(session, tag, text, code, expunges=command.uid)


async def _tell_flags(session: ImapSession, part: Slice, uid: bool) -> None:
    selected = chosen(session)
    rows = part.placements
    numbers = selected.view.numbers(rows.uids)
    plan = FetchPlan((FetchItem(b"FLAGS"),), uid)
    for octets in plan.format_rows(numbers, rows, flag_texts(selected, rows.uids, rows.flags), []):
        await session.line.send(octets)


# --- COPY, MOVE, EXPUNGE ----------------------------------------------------------------------------------------------


@handles(Copy)
async def copy(session: ImapSession, tag: bytes, command: Copy) -> None:
    """Source: RFC 3501 §6.4.7; RFC 6851 §3.3 (MOVE); RFC 4315 §3 (COPYUID)."""
    selected, account = chosen(session), known_account(session)
    mailboxes = session.service.store.mailboxes
    if command.move and selected.read_only:
        session.no(tag, b"The mailbox is read-only.", b"CANNOT")
        return
    uids = wanted(selected, command.messages, command.uid)
    code = b""
    try:
        if uids:
            moved = await mailboxes.copy(
                account.id, selected.id, uids, command.mailbox, command.move, account.quota_octets
            )
            if moved.source_uids:
                sets = UidSet.of(moved.source_uids), UidSet.of(moved.target_uids)
                code = f"COPYUID {moved.uidvalidity} {sets[0]} {sets[1]}".encode("ascii")
        else:
            await mailboxes.status(account.id, command.mailbox)
    except NoSuchMailbox:
        await sync(session, expunges=False)  # raises, if it is the selected mailbox that is gone
        session.no(tag, b"No such mailbox.", b"TRYCREATE")
        return
    if command.move:
        if code:
            session.ok(b"*", b"Moved.", code)
        await finish(session, tag)
    else:
        await finish(session, tag, code=code)


@handles(Expunge)
async def expunge(session: ImapSession, tag: bytes, command: Expunge) -> None:
    """Source: RFC 3501 §6.4.3; RFC 4315 §2.1 (UID EXPUNGE)."""
    selected, account = chosen(session), known_account(session)
    if selected.read_only:
        session.no(tag, b"The mailbox is read-only.", b"CANNOT")
        return
    uids = selected.view.everything() if command.uids is None else selected.view.uids_in(command.uids)
    if uids:
        try:
            await session.service.store.mailboxes.expunge(account.id, selected.id, uids)
        except NoSuchMailbox as error:
            raise MailboxGone from error
    await finish(session, tag)
