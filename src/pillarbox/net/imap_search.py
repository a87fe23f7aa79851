"""SEARCH over the store: slices of messages looked through in a thread, the loop free between them.

First what placements alone can tell, for all; then headers and texts, for the messages that are left. A search ends
when its client goes. Source: RFC 3501 §6.4.4; case 171.
"""

from __future__ import annotations

import asyncio
import operator
from array import array
from typing import Final

from pillarbox.model.errors import DamagedMessage, NoSuchMailbox, NoSuchMessage
from pillarbox.model.uids import UidSet
from pillarbox.net.imap_mailboxes import known_account
from pillarbox.net.imap_messages import chosen
from pillarbox.net.imap_session import ImapSession, MailboxGone, handles
from pillarbox.net.imap_sync import finish
from pillarbox.protocol.imap.commands import Search
from pillarbox.protocol.imap.fetch import RECENT
from pillarbox.protocol.imap.responses import search_response
from pillarbox.protocol.imap.search import Batch, Searcher, text_keys
from pillarbox.store.api import Slice

_READ_TIMEOUT_S: Final = 60.0
MOST_TEXT_KEYS: Final = 100
"""Keys of one SEARCH that look into messages (case 171). Programs send a handful."""


@handles(Search)
async def search(session: ImapSession, tag: bytes, command: Search) -> None:
    selected = chosen(session)
    view = selected.view
    if text_keys(command.key) > MOST_TEXT_KEYS:
        session.no(tag, b"Too much to look for at once.", b"LIMIT")
        return
    searcher = Searcher(command.key, len(view), view.last_uid, selected.keywords)
    try:
        found = await find(session, searcher)
    except NoSuchMailbox as error:
        raise MailboxGone from error
    numbers = found if command.uid else [n for n in view.numbers(array("I", found)) if n]
    await session.line.send(search_response(numbers))
    await finish(session, tag, expunges=command.uid)


async def find(session: ImapSession, searcher: Searcher) -> list[int]:
    """UIDs in the view that match, ascending. Raises NoSuchMailbox, Trouble."""
    view = chosen(session).view
    if not len(view):
        return []
    listed, octets = searcher.needs()
    if not listed and not octets:
        return await _pass(session, searcher, view.everything(), ())
    among = UidSet.of(await _pass(session, searcher.first_pass(), view.everything(), ()))
    if not among:
        return []
    columns = ("prefix", "headers", "data") if octets else ("prefix", "headers")
    return await _pass(session, searcher, among, columns)


async def _pass(session: ImapSession, searcher: Searcher, uids: UidSet, columns: tuple[str, ...]) -> list[int]:
    selected, account = chosen(session), known_account(session)
    loop = asyncio.get_running_loop()
    found: list[int] = []
    async for part in session.service.store.mailboxes.fetch(account.id, selected.id, uids, columns):
        batch = _batch(session, part, columns)
        if columns:
            try:
                indices = await loop.run_in_executor(session.service.searches, searcher.matches, batch)
            except asyncio.CancelledError:  # the client has gone: the thread is to go on with others
                batch.is_wanted = False
                raise
        else:
            indices = searcher.matches(batch)
        found += [part.placements.uids[index] for index in indices]
    return found


def _batch(session: ImapSession, part: Slice, columns: tuple[str, ...]) -> Batch:
    rows = part.placements
    view = chosen(session).view
    flags: list[int] | array[int] = rows.flags
    recent = view.recent(rows.uids)
    if recent is not None:
        flags = [bits | RECENT if new else bits for bits, new in zip(rows.flags, recent, strict=True)]
    batch = Batch(view.numbers(rows.uids), rows.uids, flags, rows.received_s, rows.sizes)
    if columns:
        batch.headers = [*map(operator.add, part.columns[0], part.columns[1])]
    if "data" in columns:
        batch.octets = _Octets(session, part)
    return batch


class _Octets:
    """Whole messages of a slice, asked for in the searching thread; large ones are read by the loop meanwhile."""

    def __init__(self, session: ImapSession, part: Slice) -> None:
        self._part = part
        self._account = known_account(session).id
        self._mailboxes = session.service.store.mailboxes
        self._loop = asyncio.get_running_loop()
        self._last: tuple[int, bytes] = (-1, b"")

    def __call__(self, index: int) -> bytes:
        prefix, data = self._part.columns[0][index], self._part.columns[2][index]
        if data is not None:
            return bytes(prefix + data)
        if self._last[0] != index:
            future = asyncio.run_coroutine_threadsafe(self._read(index), self._loop)
            self._last = (index, future.result(_READ_TIMEOUT_S))
        return self._last[1]

    async def _read(self, index: int) -> bytes:
        """A message that is damaged or gone has no text; the others are searched all the same."""
        try:
            email = await self._mailboxes.open(self._account, self._part.placements.emails[index])
            return await email.read()
        except (DamagedMessage, NoSuchMessage):
            return b""
