"""What the mover does every few seconds: folds logs back and removes what nothing refers to, in short steps."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import Final

from pillarbox.model.clock import Clock
from pillarbox.model.errors import NoSuchAccount, Trouble
from pillarbox.model.ids import AccountId, id_time_s
from pillarbox.store.blobs.pool import Pool
from pillarbox.store.sqlite import filing, trace
from pillarbox.store.sqlite.accounts import AccountFile, Accounts
from pillarbox.store.sqlite.base import Database
from pillarbox.store.sqlite.directory import Keys
from pillarbox.store.sqlite.files import Db
from pillarbox.store.sqlite.space import RESERVE_OCTETS, make_reserve, space_left
from pillarbox.store.sqlite.spool import Spool, needs

LARGE_LOG_OCTETS: Final = 1 << 20
TRUNCATE_OCTETS: Final = 8 << 20
QUIET_S: Final = 300.0
"""A small log is folded back when its account has been named for so long. Sooner costs a mailbox that gets some mail
every minute two more syncs a message, and its next writer a new beginning of the log."""
TRASH_S: Final = 30 * 86400.0
HOURLY_S: Final = 3600.0
ACCOUNTS_A_ROUND: Final = 200
DELIVERED_AGE_S: Final = 6 * 3600.0
"""A process that was stopped for hours may still believe that a job is its own."""
DELIVERED: Final = 500
"""More remembered jobs than this, and those that are settled are looked for."""


DIGESTS: Final = 40
"""Batches of logged events that one round files at most; each is one short turn of the spool."""


class Cleaner:
    """Runs in one process at a time; in two it does no harm."""

    def __init__(
        self, home: Path, accounts: Accounts, spool_file: Database, spool: Spool, keys: Keys, pool: Pool, clock: Clock
    ) -> None:
        self._home = home
        self._accounts = accounts
        self._spool_file = spool_file
        self._spool = spool
        self._keys = keys
        self._pool = pool
        self._clock = clock
        self._hourly_s = float("-inf")
        self._waiting: dict[AccountId, float] = {}

    async def run(self) -> None:
        """One round."""
        for _ in range(DIGESTS):
            if not await self._spool_file.write(trace.digest, guarded=True):
                break
        await self._spool_file.fold()
        for account in await self._accounts.run(self._due):
            await self._clean(account)
        if self._clock.monotonic() - self._hourly_s >= HOURLY_S:
            self._hourly_s = self._clock.monotonic()
            await self._hourly()

    def _due(self) -> list[AccountId]:
        """Accounts whose log is worth folding back now. Blocks."""
        self._accounts.flush_dirty()
        now_s = self._clock.monotonic()
        for account in self._named():
            self._waiting.setdefault(account, now_s)
        found: list[AccountId] = []
        logless: list[AccountId] = []
        for account, since_s in self._waiting.items():
            try:
                log = os.stat(self._accounts.folder(account) / "mail.db-wal").st_size
            except (OSError, NoSuchAccount):  # nothing has been written, or it is gone
                logless.append(account)
                continue
            if not log:
                logless.append(account)
            elif log >= LARGE_LOG_OCTETS or now_s - since_s > QUIET_S:
                found.append(account)
                if len(found) >= ACCOUNTS_A_ROUND:
                    break
        for account in found + logless:
            del self._waiting[account]  # before the work: who writes meanwhile names it again
        return found

    def _named(self) -> set[AccountId]:
        """What writers have put into `dirty` since the last round."""
        taken = self._home / "tmp" / "dirty"
        try:
            os.rename(self._home / "dirty", taken)
            names = taken.read_text("ascii", "replace").split()
            taken.unlink()
        except FileNotFoundError:
            return set()
        return {AccountId(name) for name in names}

    async def _clean(self, account: AccountId, jobs: set[bytes] | None = None) -> None:
        """Bury the dead and fold the log back, on the account's writing lane."""
        files = self._accounts.get(account).files
        try:
            while await self._accounts.write(account, filing.bury):
                pass
            await self._accounts.write(account, lambda db: filing.collect_blobs(db, files))
            if jobs is None and await self._accounts.write(account, _many_delivered):
                jobs = await self._spool.job_ids()
            if jobs is not None:
                await self._accounts.write(account, lambda db: self._forget_settled(db, jobs))
            await self._accounts.run_on(account, _fold)
        except (NoSuchAccount, Trouble):
            return  # a damaged account is told of when it is read

    def _forget_settled(self, db: Db, jobs: set[bytes]) -> None:
        """Drop ids of jobs that the spool does not have. Young ones stay: their jobs may be younger than `jobs`."""
        before_s = self._clock.now() - DELIVERED_AGE_S
        known = [job for (job,) in db.execute("SELECT job FROM delivered")]
        gone = [(job,) for job in known if job not in jobs and id_time_s(job) < before_s]
        db.executemany("DELETE FROM delivered WHERE job=?", gone)

    async def _hourly(self) -> None:
        """The slow things: accounts that were not named, the pool, the trash, the reserve."""
        await self._keys.expire()
        await self._spool_file.write(self._collect_pool)
        jobs = await self._spool.job_ids()
        for account in await self._accounts.run(self._unsettled):
            await self._clean(account, jobs)
        await self._accounts.run(self._empty_trash)
        await self._accounts.run(self._renew_reserve)

    def _collect_pool(self, db: Db) -> None:
        self._pool.collect(needs(db))

    def _unsettled(self) -> list[AccountId]:
        """Accounts with a log that was not written to for long: whoever did it last did not fold it back, and whoever
        named it in `dirty` may not have been heard."""
        found: list[AccountId] = []
        before_s = time.time() - QUIET_S
        for account in self._accounts.ids():
            try:
                log = os.stat(self._accounts.folder(account) / "mail.db-wal")
            except FileNotFoundError:
                continue
            if log.st_size and log.st_mtime < before_s:
                found.append(account)
        return found

    def _empty_trash(self) -> None:
        before_s = time.time() - TRASH_S
        for entry in os.scandir(self._home / "trash"):
            if entry.stat(follow_symlinks=False).st_mtime < before_s:
                shutil.rmtree(entry.path, ignore_errors=True)

    def _renew_reserve(self) -> None:
        if space_left(self._home).free_octets > 16 * RESERVE_OCTETS:
            make_reserve(self._home)


def _fold(file: AccountFile) -> None:
    try:
        log = os.stat(file.folder / "mail.db-wal").st_size
    except FileNotFoundError:
        return
    file.writer.fold(truncate=log >= TRUNCATE_OCTETS)


def _many_delivered(db: Db) -> bool:
    [(count,)] = db.execute("SELECT count(*) FROM delivered").fetchall()
    return bool(count > DELIVERED)
