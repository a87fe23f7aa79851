"""Mailboxes and messages of accounts: the verbs of `api.Mailboxes`, each run on the account's lane."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Sequence
from pathlib import Path
from typing import Any, Final

import apsw

from pillarbox.model.clock import Clock
from pillarbox.model.errors import DamagedMessage, MailboxName, NoSuchAccount
from pillarbox.model.ids import AccountId
from pillarbox.model.mailbox import Content, EmailHeadline, Mailbox, Placements
from pillarbox.model.uids import UidSet
from pillarbox.store.api import Bundle, Changes, Delivery, Moved, NewEmail, Slice, Stored
from pillarbox.store.blobs import frames
from pillarbox.store.blobs.pool import Pool
from pillarbox.store.sqlite import bundle, filing, mailboxes, reading
from pillarbox.store.sqlite.accounts import Accounts
from pillarbox.store.sqlite.fetching import Fetched, Fetching, Stale, renew_forms
from pillarbox.store.sqlite.files import Db

# Within `Mailboxes` the name `list` is a verb.
Headlines = list[EmailHeadline]
READ_AHEAD: Final = 2
"""Slices of a FETCH that are being read, or wait to be sent."""
MaybeHeadlines = list[EmailHeadline | None]
Names = list[str]


class StoredEmail:
    """Implements `api.Email`: small contents were read when it was opened, large ones are read in parts."""

    __slots__ = ("_content", "_folder", "_pool", "parts", "prefix", "size")

    def __init__(self, row: reading.OpenedRow, folder: Path, pool: Pool) -> None:
        self.prefix, self.parts, self.size, sha256, blob, data, _ = row
        if data is None and not blob:
            raise DamagedMessage(f"content {sha256.hex()} is missing")
        self._content = Content(sha256, self.size - len(self.prefix), data)
        self._folder = folder
        self._pool = pool

    async def read(self, offset: int = 0, length: int | None = None) -> bytes:
        """See api.Email."""
        end = self.size if length is None else min(self.size, offset + length)
        if offset >= end:
            return b""
        before = len(self.prefix)
        head = self.prefix[offset:end] if offset < before else b""
        start, stop = max(0, offset - before), max(0, end - before)
        if start >= stop:
            return head
        content = self._content
        if content.data is not None:
            piece = content.data if stop - start == content.size else content.data[start:stop]
            if start == 0 and stop == content.size:
                await self._pool.read(content)  # checks the hash
        elif start == 0 and stop == content.size:
            piece = await self._pool.run(lambda: frames.read_whole(self._folder, content))
        else:
            path = self._folder / content.sha256.hex()
            piece = await self._pool.run(lambda: frames.read_range(path, start, stop - start))
        return head + piece if head else piece


class Mailboxes:
    """Implements `api.Mailboxes`."""

    def __init__(self, accounts: Accounts, pool: Pool, clock: Clock, mailbox_limit: int) -> None:
        self._accounts = accounts
        self._pool = pool
        self._clock = clock
        self._limit = mailbox_limit

    async def create_account(self, account: AccountId) -> None:
        """See api.Mailboxes."""
        await self._accounts.run(lambda: self._accounts.create(account))

    async def trash_account(self, account: AccountId) -> None:
        """See api.Mailboxes."""
        await self._accounts.forget_file(account)
        await self._accounts.run(lambda: self._accounts.trash(account))
        self._accounts.tell(f"account:{account}")

    async def restore_account(self, account: AccountId) -> None:
        """See api.Mailboxes."""
        await self._accounts.forget_file(account)
        await self._accounts.run(lambda: self._accounts.restore(account))

    async def trashed_accounts(self) -> dict[AccountId, float]:
        """See api.Mailboxes."""
        found: dict[AccountId, float] = await self._accounts.run(self._accounts.trashed)
        return found

    async def modseq(self, account: AccountId) -> int:
        """See api.Mailboxes."""
        found, value = self._accounts.get(account).read_now(_modseq)
        if found:
            return int(value)
        return int(await self._accounts.read(account, _modseq))

    async def size(self, account: AccountId) -> tuple[int, int]:
        """See api.Mailboxes."""
        octets, messages = await self._read(account, mailboxes.totals)
        return octets, messages

    async def list(self, account: AccountId) -> list[Mailbox]:
        """See api.Mailboxes."""
        found: list[Mailbox] = await self._accounts.read(account, mailboxes.list_all)
        return found

    async def status(self, account: AccountId, name: str) -> Mailbox:
        """See api.Mailboxes."""
        found: Mailbox = await self._read(account, lambda db: mailboxes.by_name(db, name).value())
        return found

    async def mailbox(self, account: AccountId, mailbox: int) -> Mailbox:
        """See api.Mailboxes."""
        found: Mailbox = await self._read(account, lambda db: mailboxes.by_id(db, mailbox).value())
        return found

    async def _read(self, account: AccountId, verb: Any) -> Any:
        """A short read: here if the file is open and free, else in a thread."""
        found, value = self._accounts.get(account).read_now(verb)
        return value if found else await self._accounts.read(account, verb)

    async def create(self, account: AccountId, name: str, special_use: str = "") -> Mailbox:
        """See api.Mailboxes."""
        now_s, limit = self._clock.now(), self._limit

        def verb(db: Db) -> Mailbox:
            return mailboxes.create(db, name, special_use, limit, now_s)

        made: Mailbox = await self._accounts.write(account, verb)
        return made

    async def delete(self, account: AccountId, name: str) -> None:
        """See api.Mailboxes."""
        now_s = self._clock.now()

        def verb(db: Db) -> None:
            box = mailboxes.by_name(db, name)
            if box.name == "INBOX":
                raise MailboxName("INBOX stays")
            if box.special_use == mailboxes.NOSELECT and mailboxes.children(db, box.name):
                raise MailboxName(f"{box.name} is only a name and has children")
            meta = mailboxes.Meta(db)
            meta.change()
            filing.empty(db, box)
            mailboxes.remove_row(db, meta, box, now_s)
            meta.save()

        await self._accounts.write(account, verb)

    async def rename(self, account: AccountId, name: str, new_name: str) -> None:
        """See api.Mailboxes."""
        now_s, limit = self._clock.now(), self._limit

        def verb(db: Db) -> None:
            target = mailboxes.rename(db, name, new_name, limit, now_s)
            if target is not None:
                filing.move_all(db, mailboxes.by_name(db, "INBOX").id, target, int(now_s))

        await self._accounts.write(account, verb)

    async def subscriptions(self, account: AccountId) -> Names:
        """See api.Mailboxes."""
        names: Names = await self._accounts.read(account, mailboxes.subscriptions)
        return names

    async def subscribe(self, account: AccountId, name: str, on: bool = True) -> None:
        """See api.Mailboxes."""
        limit = self._limit
        await self._accounts.write(account, lambda db: mailboxes.subscribe(db, name, on, limit))

    async def take_recent(self, account: AccountId, mailbox: int) -> int:
        """See api.Mailboxes."""
        first: int = await self._accounts.write(account, lambda db: mailboxes.take_recent(db, mailbox))
        return first

    async def uids(self, account: AccountId, mailbox: int) -> tuple[Mailbox, Placements]:
        """See api.Mailboxes."""
        box, found = await self._accounts.read(account, lambda db: reading.uids(db, mailbox))
        return box, found

    async def fetch(
        self,
        account: AccountId,
        mailbox: int,
        uids: UidSet,
        columns: Sequence[str] = (),
        changed_since: int = 0,
    ) -> AsyncIterator[Slice]:
        """See api.Mailboxes."""
        fetching = Fetching(self._accounts.get(account).files, mailbox, uids, columns, changed_since)
        slices, stale = await self._accounts.read(account, fetching.first)
        coming: deque[asyncio.Future[Fetched]] = deque()
        while True:
            if stale:
                self._renew(account, stale)
            for piece in slices:
                yield piece
            # Who asks for a second slice will ask for a third: one is read while another waits. Placements alone are
            # read by Python, which two threads would only take from each other.
            while not fetching.done and len(coming) < (READ_AHEAD if columns else 1):
                coming.append(self._accounts.read(account, fetching.further, at_one_moment=False))
                coming[-1].add_done_callback(_look)
            if not coming:
                return
            slices, stale = await coming.popleft()

    def _renew(self, account: AccountId, stale: Stale) -> None:
        """Keep forms of a new parser, in the background."""
        kept = self._accounts.write(account, lambda db: renew_forms(db, stale))
        kept.add_done_callback(_look)

    async def bundle(self, account: AccountId, emails: Sequence[int], heads_only: bool = False) -> Bundle:
        """See api.Mailboxes."""
        file = self._accounts.get(account)

        def verb(db: Db) -> Bundle:
            return bundle.bundle(db, emails, heads_only)

        # one statement needs no transaction around it: that would be twice as many hand-overs of Python's lock
        is_done, found = await self._accounts.run(lambda: file.read_now(verb))
        if not is_done:
            found = await self._accounts.read(account, verb)
        result: Bundle = found
        return result

    async def open(self, account: AccountId, email: int) -> StoredEmail:
        """See api.Mailboxes."""
        row = await self._read(account, lambda db: reading.open_row(db, email))
        return StoredEmail(row, self._accounts.get(account).files.blobs, self._pool)

    async def append(
        self, account: AccountId, mailbox: int, emails: Sequence[NewEmail], quota_octets: int = 0
    ) -> Headlines:
        """See api.Mailboxes."""
        file, now_s = self._accounts.get(account), int(self._clock.now())

        def verb(db: Db) -> Headlines:
            return filing.append(db, file.files, mailbox, emails, quota_octets, now_s)

        if not emails:
            return []
        filed: Headlines = await self._accounts.write(account, verb)
        return filed

    def deliver(self, account: AccountId, deliveries: Sequence[Delivery]) -> Awaitable[MaybeHeadlines]:
        """See api.Mailboxes."""
        try:
            return self._accounts.deliver(account, deliveries)
        except NoSuchAccount as error:
            failed: asyncio.Future[MaybeHeadlines] = asyncio.get_running_loop().create_future()
            failed.set_exception(error)
            return failed

    async def set_flags(
        self,
        account: AccountId,
        mailbox: int,
        uids: UidSet,
        mode: str,
        flags: frozenset[str],
        unchanged_since: int | None = None,
    ) -> Stored:
        """See api.Mailboxes."""
        stored: Stored = await self._accounts.write(
            account, lambda db: reading.set_flags(db, mailbox, uids, mode, flags, unchanged_since)
        )
        return stored

    async def copy(
        self, account: AccountId, mailbox: int, uids: UidSet, target: str, move: bool = False, quota_octets: int = 0
    ) -> Moved:
        """See api.Mailboxes."""
        now_s = int(self._clock.now())
        moved: Moved = await self._accounts.write(
            account, lambda db: filing.copy(db, mailbox, uids, target, move, quota_octets, now_s)
        )
        return moved

    async def expunge(self, account: AccountId, mailbox: int, uids: UidSet, only_deleted: bool = True) -> UidSet:
        """See api.Mailboxes."""
        gone: UidSet = await self._accounts.write(account, lambda db: filing.expunge(db, mailbox, uids, only_deleted))
        return gone

    async def changes(self, account: AccountId, mailbox: int, since: int) -> Changes:
        """See api.Mailboxes."""
        found: Changes = await self._accounts.read(account, lambda db: reading.changes(db, mailbox, since))
        return found


def _look(done: asyncio.Future[Any]) -> None:
    """What nobody waits for may fail unseen."""
    if not done.cancelled():
        done.exception()


def _modseq(db: Db) -> int:
    for modseq, removed in db.execute("SELECT modseq, removed FROM meta"):
        if removed:
            raise NoSuchAccount("removed")
        return int(modseq)
    raise apsw.CorruptError("no counters")
