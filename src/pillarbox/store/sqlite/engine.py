"""The SQLite engine: a home's files, opened for one process. Rules and promises: docs/store.md."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from pillarbox.model.clock import Clock
from pillarbox.model.errors import StoreFull, Trouble
from pillarbox.model.ids import AccountId
from pillarbox.model.settings import Settings
from pillarbox.store.api import Signals
from pillarbox.store.blobs.pool import Pool, sync_directory
from pillarbox.store.sqlite import migrate, turns
from pillarbox.store.sqlite.accounts import Accounts
from pillarbox.store.sqlite.base import Database
from pillarbox.store.sqlite.cleaning import Cleaner
from pillarbox.store.sqlite.directory import Directory, Keys
from pillarbox.store.sqlite.files import create_file, load_checksums
from pillarbox.store.sqlite.lanes import LanePool, Outbox
from pillarbox.store.sqlite.messages import Mailboxes
from pillarbox.store.sqlite.space import make_reserve, release_reserve, space_left
from pillarbox.store.sqlite.spool import NewRows, Spool
from pillarbox.store.sqlite.verify import Verifier

FOLDERS: Final = ("accounts", "blobs", "tmp", "trash", "drop")
ACCOUNT_THREADS: Final = 8
"""Most of them wait for the disk, which syncs many files at once nearly as fast as one."""
CLOSING_S: Final = 0.002
SWITCH_S: Final = 0.0005
"""A thread that comes back from an fsync waits so long for a busy loop, not Python's 5 ms."""


def init_home(home: Path) -> bool:
    """Make what is missing of a home: folders and databases. What is there stays. True if a database was made. Blocks.
    Raises Trouble, also where there are accounts and a database is missing: an empty one would hide the loss."""
    _check_not_lost(home)
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name in FOLDERS:
            (home / name).mkdir(mode=0o700, exist_ok=True)
        load_checksums()
        made = [_make_database(home, schema) for schema in (migrate.SPOOL, migrate.DIRECTORY)]
        make_reserve(home)
        sync_directory(home)
    except OSError as error:
        raise Trouble(f"{home}: {error}") from error
    return any(made)


def _missing(home: Path) -> list[Path]:
    """The databases that are not there."""
    paths = [home / f"{schema.name}.db" for schema in (migrate.SPOOL, migrate.DIRECTORY)]
    return [path for path in paths if not path.exists()]


def _check_not_lost(home: Path) -> None:
    """Raises Trouble where there are accounts, and a database is missing."""
    for path in _missing(home):
        with contextlib.suppress(FileNotFoundError):
            if any((home / "accounts").iterdir()):
                raise Trouble(f"{path} is missing: bring it back from a backup")


def _make_database(home: Path, schema: migrate.Schema) -> bool:
    path = home / f"{schema.name}.db"
    if path.exists():
        return False
    made = home / "tmp" / f"{schema.name}-{os.urandom(6).hex()}.db"
    try:
        create_file(made, lambda db: migrate.create(db, schema))
        os.chmod(made, 0o600)
        handle = os.open(made, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
        try:
            os.link(made, path)  # never over one that another process has just made
        except FileExistsError:
            return False
    finally:
        made.unlink(missing_ok=True)
    return True


class SqliteStore:
    """Implements `api.Store`."""

    def __init__(self, home: Path, signals: Signals | None, settings: Settings, clock: Clock, role: str) -> None:
        loop = asyncio.get_running_loop()
        self.home = home
        self._outbox = Outbox(loop)
        self._turns = turns.Turns(home / "locks")
        self._spool_lanes = LanePool("spool", 1, self._outbox)
        self._lanes = LanePool("store", ACCOUNT_THREADS, self._outbox)

        def tell(topic: str) -> Callable[[], None]:
            return lambda: self._accounts.tell(topic)

        self._accounts = Accounts(
            home,
            self._turns,
            self._lanes,
            self._outbox,
            signals,
            settings.limits.open_accounts,
            clock.now,
            self._failed,
        )
        rows = NewRows()
        self._spool_file = Database(
            home / "spool.db", migrate.SPOOL, turns.SPOOL, self._turns, self._spool_lanes, self._lanes, self._outbox,
            changed=tell("spool"), failed=self._failed, batch=rows,
        )  # fmt: skip
        self._directory_file = Database(
            home / "directory.db", migrate.DIRECTORY, turns.DIRECTORY, self._turns, self._lanes, self._lanes,
            self._outbox, changed=tell("directory"), failed=self._failed,
        )  # fmt: skip
        pool = Pool(home)
        self.blobs = pool
        self.mailboxes = Mailboxes(self._accounts, pool, clock, settings.limits.mailboxes)
        self.spool = Spool(self._spool_file, rows, self._turns, pool, clock, role)
        self.directory = Directory(self._directory_file, clock)
        self.keys = Keys(self._directory_file, clock)
        self._cleaner = Cleaner(home, self._accounts, self._spool_file, self.spool, self.keys, pool, clock)
        self._directory_cleaner = self._directory_file.fold
        self._verifier = Verifier(home, self._accounts, self._spool_file, pool)

    def prepare(self) -> None:
        """Open the shared files once, migrate them, refuse what is not as it has to be. Blocks."""
        self._spool_file.prepare()
        self._directory_file.prepare()

    def _failed(self, error: BaseException) -> None:
        """After a failed commit: on a full disk the reserve is given up, so that what drains the queue can go on."""
        if isinstance(error, StoreFull):
            release_reserve(self.home)

    def has_room(self, message_octets: int) -> bool:
        """Is there room for new mail (cases 12, 13)? Cheap."""
        return space_left(self.home).is_enough(message_octets)

    async def close(self) -> None:
        """Finish what is under way and close all files."""
        while not (self._spool_file.idle and self._directory_file.idle and self._accounts.idle):
            await asyncio.sleep(CLOSING_S)
        await asyncio.get_running_loop().run_in_executor(None, self._close)

    def _close(self) -> None:
        self.blobs.close()
        self._lanes.close()
        self._spool_lanes.close()
        self._accounts.close()
        self._spool_file.close()
        self._directory_file.close()
        self._turns.close()

    async def checkpoint(self) -> None:
        """See api.Store."""
        await self._cleaner.run()
        await self._directory_cleaner()

    async def verify(
        self, account: AccountId | None = None, progress: Callable[[str], None] | None = None
    ) -> list[str]:
        """See api.Store."""
        return await self._verifier.run(account, progress)


async def open_store(
    home: Path, *, signals: Signals | None, settings: Settings, clock: Clock, role: str
) -> SqliteStore:
    """Open a home that `init_home` made, for this process and loop. `role` is shown to operators only.

    Raises Trouble if it is missing, was written by a newer program, or is not as docs/store.md wants it.
    """
    load_checksums()
    if sys.getswitchinterval() > SWITCH_S:
        sys.setswitchinterval(SWITCH_S)
    _check_not_lost(home)
    if _missing(home):
        raise Trouble(f"{home} is no home of pillarbox (or half of one); `pillarbox init` makes it")
    store = SqliteStore(home, signals, settings, clock, role)
    try:
        await asyncio.get_running_loop().run_in_executor(None, store.prepare)
    except BaseException:
        await store.close()
        raise
    return store
