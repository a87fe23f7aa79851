"""Checks of accounts, spool and pool: hashes, references, counters, UIDs. Findings are texts for people."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

from pillarbox.model.errors import DamagedMessage, PillarboxError
from pillarbox.model.flags import DELETED, SEEN
from pillarbox.model.ids import AccountId
from pillarbox.store.blobs import frames
from pillarbox.store.blobs.pool import Pool
from pillarbox.store.sqlite import mailboxes, placements
from pillarbox.store.sqlite.accounts import Accounts
from pillarbox.store.sqlite.base import Database
from pillarbox.store.sqlite.files import Db

Progress = Callable[[str], None]


class Verifier:
    """Reads only; mail may come and go meanwhile."""

    def __init__(self, home: Path, accounts: Accounts, spool_file: Database, pool: Pool) -> None:
        self._home = home
        self._accounts = accounts
        self._spool_file = spool_file
        self._pool = pool

    async def run(self, account: AccountId | None, progress: Progress | None) -> list[str]:
        """What is wrong with one account, or with all, the spool and the directory."""
        found: list[str] = []
        for number in [account] if account is not None else await self._accounts.run(self._accounts.ids):
            if progress is not None:
                progress(f"account {number}")
            found += await self._account(number)
        if account is None:
            if progress is not None:
                progress("spool")
            found += await self._spool()
        return found

    async def _account(self, account: AccountId) -> list[str]:
        blobs = self._accounts.get(account).files.blobs
        try:
            found, large = await self._accounts.run(lambda: self._accounts.aside(account, _check_account))
            for sha256 in large:
                found += await self._blob(blobs / sha256.hex(), sha256)
        except PillarboxError as error:
            return [f"account {account}: {error}"]
        return [f"account {account}: {finding}" for finding in found]

    async def _blob(self, path: Path, sha256: bytes) -> list[str]:
        try:
            await self._pool.run(lambda: frames.check(path, sha256))
        except DamagedMessage as error:
            return [str(error)]
        return []

    async def _spool(self) -> list[str]:
        try:
            found, large = await self._spool_file.read(_check_spool)
            for sha256 in large:
                found += await self._blob(self._pool.path(sha256), sha256)
        except PillarboxError as error:
            return [f"spool: {error}"]
        return [f"spool: {finding}" for finding in found]


def _check_file(db: Db) -> list[str]:
    rows = db.execute("PRAGMA quick_check(20)").fetchall()
    return [] if rows == [("ok",)] else [text for (text,) in rows]


def _check_account(db: Db) -> tuple[list[str], set[bytes]]:
    """Findings, and the hashes of contents that are files."""
    found = _check_file(db)
    modseq, next_email, next_mailbox = db.execute("SELECT modseq, next_email, next_mailbox FROM meta").fetchall()[0]
    places: dict[int, int] = {}
    for box in mailboxes.list_all(db):
        found += _check_mailbox(db, box.id, places, modseq)
        if box.id >= next_mailbox:
            found.append(f"mailbox {box.id} has an id that will be given out again")
    found += _check_emails(db, places, next_email)
    large: set[bytes] = set()
    for email, sha256, size, blob, prefix, head, data in db.execute(
        "SELECT e.id, e.sha256, e.size, e.blob, e.prefix, h.id, c.data FROM email e LEFT JOIN head h ON h.id=e.id "
        "LEFT JOIN content c ON c.id=e.id"
    ):
        if head is None:
            found.append(f"email {email}: its header row is missing")
        elif blob:
            large.add(sha256)
        elif data is None:
            found.append(f"email {email}: its content is missing")
        elif len(prefix) + len(data) != size:
            found.append(f"email {email}: has {len(prefix) + len(data)} octets, not {size}")
        elif hashlib.sha256(data).digest() != sha256:
            found.append(f"email {email}: the hash of its content is another")
    return found, large


def _check_mailbox(db: Db, mailbox: int, places: dict[int, int], modseq: int) -> list[str]:
    box = mailboxes.by_id(db, mailbox).value()
    found: list[str] = []
    last, messages, unseen, deleted, size = 0, 0, 0, 0, 0
    keys = [
        at
        for (at,) in db.execute(
            "SELECT at FROM chunk WHERE at>=? AND at<? ORDER BY at",
            (placements.key_of(mailbox), placements.key_of(mailbox + 1)),
        )
    ]
    for at in keys:
        chunk = placements.load(db, at)
        assert chunk is not None
        columns = chunk.columns
        uids = columns.uids
        if any(a >= b for a, b in pairwise(uids)) or uids[0] <= last or uids[0] < at & 0xFFFFFFFF:
            found.append(f"{box.name}: UIDs do not ascend near {uids[0]}")
        last = uids[-1]
        if max(columns.modseqs) > min(modseq, chunk.max_modseq):
            found.append(f"{box.name}: a modseq near UID {uids[0]} is too high")
        messages += len(uids)
        size += sum(columns.sizes)
        unseen += sum(1 for flags in columns.flags if not flags & SEEN)
        deleted += sum(1 for flags in columns.flags if flags & DELETED)
        for email in columns.emails:
            places[email] = places.get(email, 0) + 1
    counted = (messages, unseen, deleted, size)
    told = (box.messages, box.unseen, box.deleted, box.size_octets)
    if counted != told:
        found.append(f"{box.name}: counters (messages, unseen, deleted, octets) are {told}, counted {counted}")
    if last >= box.uidnext:
        found.append(f"{box.name}: UIDNEXT {box.uidnext} is not above UID {last}")
    for (high,) in db.execute("SELECT max(high) FROM expunged WHERE mailbox=?", (mailbox,)):
        if high is not None and high >= box.uidnext:
            found.append(f"{box.name}: UIDNEXT {box.uidnext} is not above expunged UID {high}")
    return found


def _check_emails(db: Db, places: dict[int, int], next_email: int) -> list[str]:
    """Every placement has its email, every email a placement (or it is dead), and `shared` is right."""
    known = {email for (email,) in db.execute("SELECT id FROM email")}
    dead: set[int] = set()
    for (packed,) in db.execute("SELECT emails FROM dead"):
        emails = array("Q")
        emails.frombytes(packed)
        dead.update(emails)
    shared: dict[int, int] = dict(db.execute("SELECT email, extra FROM shared").fetchall())
    found = [f"email {email} is missing" for email in places.keys() - known]
    found += [f"email {email} is in no mailbox" for email in known - places.keys() - dead]
    found += [f"email {email} is in a mailbox, but dead" for email in places.keys() & dead]
    for email in places.keys() | shared.keys():
        if places.get(email, 0) != shared.get(email, 0) + 1:
            found.append(f"email {email} has {places.get(email, 0)} placements, not {shared.get(email, 0) + 1}")
    if known and max(known) >= next_email:
        found.append(f"email {max(known)} has an id that will be given out again")
    return found


def _check_spool(db: Db) -> tuple[list[str], set[bytes]]:
    found = _check_file(db)
    for (job,) in db.execute("SELECT id FROM job WHERE spool_id NOT IN (SELECT id FROM message)"):
        found.append(f"job {job.hex()} has no message")
    for (number,) in db.execute("SELECT id FROM message WHERE id NOT IN (SELECT spool_id FROM job)"):
        found.append(f"message {number.hex()} has no jobs")
    large: set[bytes] = set()
    for number, sha256, size, data in db.execute("SELECT id, sha256, size, data FROM message"):
        if data is None:
            large.add(sha256)
        elif len(data) != size or hashlib.sha256(data).digest() != sha256:
            found.append(f"message {number.hex()}: its content is not what was stored")
    return found, large
