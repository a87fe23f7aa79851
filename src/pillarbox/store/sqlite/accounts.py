"""Accounts' files: opened when needed, a few hundred at a time, each with a lane for writing and one for reading."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import shutil
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Final

import apsw

from pillarbox.model.errors import AccountUnavailable, NoSuchAccount, PillarboxError
from pillarbox.model.ids import AccountId
from pillarbox.store.api import Delivery, Signals
from pillarbox.store.blobs.pool import make_directory, sync_directory
from pillarbox.store.sqlite import filing, mailboxes, migrate
from pillarbox.store.sqlite.committer import NEAR, Committer, Prepared
from pillarbox.store.sqlite.files import Db, as_trouble, at_one_moment, create_file, open_file
from pillarbox.store.sqlite.lanes import Done, Lane, LanePool, Outbox
from pillarbox.store.sqlite.turns import Turns, account_slot
from pillarbox.store.sqlite.writer import Task, Verb, Writer

FLUSH_S: Final = 0.5
DIRTY_OCTETS: Final = 1 << 24
"""`dirty` does not grow beyond this where no mover reads it."""
SWEEP_S: Final = 60.0
SWEEPS: Final = 5
"""A file that was not used between so many sweeps is closed."""
NEAR_OCTETS: Final = 1 << 20
"""Contents that one transaction files on the loop: some milliseconds of it."""
FILE_OCTETS: Final = 200 << 10
"""Memory of an open account: pages, prepared statements, the log's index."""
_FEW: Final = 300
_HANDLES: Final = 8
"""Descriptors of an open account, reading and writing (5), and as much again for sessions."""
_DIGITS: Final = frozenset("0123456789abcdefghjkmnpqrstvwxyz")


class DeliverTask:
    """Deliveries of one call; those that wait together are filed together."""

    __slots__ = ("deliveries", "future", "rows")

    def __init__(self, deliveries: Sequence[Delivery], future: asyncio.Future[Any]) -> None:
        self.deliveries = deliveries
        self.future = future
        self.rows = len(deliveries)


class LaneWork:
    """Something that stands between transactions."""

    __slots__ = ("future", "work")
    rows = 1

    def __init__(self, work: Callable[[], Any], future: asyncio.Future[Any]) -> None:
        self.work = work
        self.future = future


class AccountFile:
    """One account as this process has it open: perhaps a writing and a reading connection."""

    __slots__ = (
        "_accounts", "closing", "committer", "files", "folder", "id", "read_lane", "reader", "reading", "swept",
        "topic", "writer",
    )  # fmt: skip

    def __init__(self, accounts: Accounts, account: AccountId) -> None:
        self._accounts = accounts
        self.id = account
        self.folder = accounts.folder(account)
        self.files = filing.Files(self.folder, accounts.pool)
        self.topic = f"account:{account}"
        self.writer = Writer(
            f"account {account}", account_slot(account), accounts.turns, self._open, account=True,
            changed=self._on_change, failed=accounts.failed,
        )  # fmt: skip
        self.committer = Committer(self.writer, accounts.lanes, accounts.outbox, self._prepare, self._write)
        self.read_lane = Lane(self._read)
        self.reader: apsw.Connection | None = None
        self.reading = threading.Lock()
        self.closing: list[AccountFile] = []
        self.swept = 0

    def _open(self) -> apsw.Connection:
        path = self.folder / "mail.db"
        try:
            db = open_file(path)
        except apsw.CantOpenError:
            if not self.folder.exists():
                raise NoSuchAccount(self.id) from None
            raise
        try:
            if db.pragma("user_version") != migrate.ACCOUNT.version:
                self._accounts.turns.take(account_slot(self.id))
                try:
                    migrate.migrate(db, migrate.ACCOUNT)
                finally:
                    self._accounts.turns.leave(account_slot(self.id))
        except BaseException:
            db.close()
            raise
        return db

    def _on_change(self) -> None:
        """After a commit: tell the mover that there is a log, and whoever listens that there is news."""
        self._accounts.mark_dirty(self.id)
        self._accounts.tell(self.topic)

    def _write(self, tasks: list[Any]) -> Sequence[Done]:
        """Deliveries that stand together become one task; then all run in one transaction."""
        self._close_others()
        works = [(task.work, task.future) for task in tasks if isinstance(task, LaneWork)]
        if works:
            rest = [task for task in tasks if not isinstance(task, LaneWork)]
            return [*(self._write(rest) if rest else ()), *_run_work(works)]
        prepared = self._join(tasks)
        return prepared.told(self.writer.run(prepared.tasks))

    def _prepare(self, tasks: list[Any]) -> Prepared | None:
        """Deliveries of a few small emails are short; other verbs may touch many messages, or wait for the disk."""
        octets = 0
        for task in tasks:
            if type(task) is not DeliverTask or len(task.deliveries) > NEAR:
                return None
            for delivery in task.deliveries:
                email = delivery.email
                if email.forms is None or email.content.data is None:
                    return None
                octets += email.content.size
        return self._join(tasks) if octets <= NEAR_OCTETS else None

    def _join(self, tasks: list[Any]) -> Prepared:
        """Deliveries that stand together become one task."""
        alone = all(type(task) is DeliverTask for task in tasks)
        joined: list[Task] = []
        places: dict[int, list[DeliverTask]] = {}
        for task in tasks:
            if not isinstance(task, DeliverTask):
                joined.append(task)
            elif joined and len(joined) - 1 in places:
                places[len(joined) - 1].append(task)
            else:
                group = [task]
                places[len(joined)] = group
                joined.append(Task(self._deliver_verb(group, alone), None, False))

        def told(done: Sequence[Done]) -> Sequence[Done]:
            self._close_others()
            if not places:
                return done
            found: list[Done] = []
            for i, (future, result, error) in enumerate(done):
                at = 0
                for task in places.get(i, ()):
                    part = None if error else result[at : at + len(task.deliveries)]
                    found.append((task.future, part, error))
                    at += len(task.deliveries)
                if i not in places:
                    found.append((future, result, error))
            return found

        return Prepared(joined, told)

    def _deliver_verb(self, group: list[DeliverTask], alone: bool) -> Verb:
        def verb(db: Db) -> Any:
            deliveries = [delivery for task in group for delivery in task.deliveries]
            return filing.deliver(db, self.files, deliveries, int(self._accounts.now_s()), alone)

        return verb

    def _close_others(self) -> None:
        while self.closing:
            try:
                self.closing.pop().close()
            except IndexError:  # the other lane was faster
                return
            except apsw.Error:  # what could not be closed has nothing more to say
                continue

    def _read(self, tasks: list[Task]) -> Sequence[Done]:
        self._close_others()
        done: list[Done] = []
        for task in tasks:
            try:
                with self.reading:
                    done.append((task.future, self._read_one(task), None))
            except Exception as error:
                done.append((task.future, None, as_trouble(error, f"account {self.id}", account=True)))
            if not task.guarded:  # a step of a FETCH: the loop sends it while the next is read
                self._accounts.tell_done(done)
                done = []
        return done

    def _read_one(self, task: Task) -> Any:
        """All of a guarded verb sees one moment."""
        verb = task.verb
        if self.reader is None:
            self.reader = self._open()
        db = self.reader
        try:
            return at_one_moment(db, verb) if task.guarded else verb(db)
        except PillarboxError:
            raise
        except Exception:
            self.reader = None
            db.close(force=True)
            raise

    def read_now(self, verb: Verb) -> tuple[bool, Any]:
        """Run a short verb here if the reading connection is open and free: (True, result), else (False, None)."""
        if self.reader is None or not self.reading.acquire(blocking=False):
            return False, None
        try:
            if self.reader is None:
                return False, None
            return True, verb(self.reader)
        except apsw.Error:
            return False, None  # a thread tries again, and tells
        finally:
            self.reading.release()

    @property
    def idle(self) -> bool:
        """Has neither lane anything to do?"""
        return self.committer.idle and not self.read_lane.scheduled

    def close(self) -> None:
        """Both connections, when the lanes are idle or ended."""
        with self.reading:
            reader, self.reader = self.reader, None
            if reader is not None:
                reader.close(force=True)
        self.writer.close()


class Accounts:
    """All accounts of a home, as one process uses them."""

    def __init__(
        self,
        home: Path,
        turns: Turns,
        lanes: LanePool,
        outbox: Outbox,
        signals: Signals | None,
        limit: int,
        now_s: Callable[[], float],
        failed: Callable[[BaseException], None],
    ) -> None:
        self._home = home
        self._changed: set[AccountId] = set()
        self._flushing = False
        self.pool = home / "blobs"
        self.turns = turns
        self.lanes = lanes
        self.outbox = outbox
        self._signals = signals
        self._limit = min(limit, fitting())
        self._sweeps = 0
        self._sweeping = False
        self.now_s = now_s
        self.failed = failed
        self._open: OrderedDict[AccountId, AccountFile] = OrderedDict()

    @property
    def idle(self) -> bool:
        """Does nothing wait to be written or read?"""
        return all(file.idle for file in self._open.values())

    def folder(self, account: AccountId) -> Path:
        """Where the account is. Raises NoSuchAccount for what cannot be an id."""
        if len(account) != 26 or not _DIGITS.issuperset(account):
            raise NoSuchAccount(account[:40])
        return self._home / "accounts" / account[-2:] / account

    def get(self, account: AccountId) -> AccountFile:
        """The account's file; those not used for long are closed when there are too many. On the loop only."""
        file = self._open.get(account)
        if file is not None:
            self._open.move_to_end(account)
        else:
            file = self._open[account] = AccountFile(self, account)
            if not self._sweeping:
                self._sweep_soon()
        file.swept = self._sweeps
        if len(self._open) > self._limit:
            self._close_oldest(account)
        return file

    def _sweep_soon(self) -> None:
        self._sweeping = True
        asyncio.get_running_loop().call_later(SWEEP_S, self._sweep)

    def _sweep(self) -> None:
        """Give back what accounts hold that nobody has asked for in the last minutes."""
        self._sweeps += 1
        self._sweeping = False
        unused: list[AccountFile] = []
        for file in self._open.values():  # least recently used first
            if self._sweeps - file.swept < SWEEPS:
                break
            if file.idle:
                unused.append(file)
        for file in unused:
            del self._open[file.id]
            self.lanes.submit(Lane(_close_files), file)
        if self._open:
            self._sweep_soon()

    def _close_oldest(self, asked: AccountId) -> None:
        """Close as many as there are too many, busy ones excepted: those go when they are idle. The thread that opens
        the asked one closes them, so that no other need be woken."""
        excess = len(self._open) - self._limit
        idle = (account for account, file in self._open.items() if file.idle and account != asked)
        closing = self._open[asked].closing
        for account in list(islice(idle, excess)):
            closing.append(self._open.pop(account))

    async def forget_file(self, account: AccountId) -> None:
        """Close the account's connections in this process."""
        file = self._open.get(account)
        while file is not None and not file.idle:
            await asyncio.sleep(0.01)
        if file is not None and self._open.get(account) is file:
            del self._open[account]
            await self.run(file.close)

    def write(self, account: AccountId, verb: Verb) -> asyncio.Future[Any]:
        """Run a verb that changes the account; it may raise after it has written."""
        file = self.get(account)
        future = asyncio.get_running_loop().create_future()
        file.committer.submit(Task(verb, future))
        return future

    def deliver(self, account: AccountId, deliveries: Sequence[Delivery]) -> asyncio.Future[Any]:
        """File deliveries; calls for one account share transactions."""
        file = self.get(account)
        future = asyncio.get_running_loop().create_future()
        file.committer.submit(DeliverTask(deliveries, future))
        return future

    def read(self, account: AccountId, verb: Verb, at_one_moment: bool = True) -> asyncio.Future[Any]:
        """Run a verb that only reads: in one transaction, or each of its statements for itself."""
        file = self.get(account)
        future = asyncio.get_running_loop().create_future()
        self.lanes.submit(file.read_lane, Task(verb, future, at_one_moment))
        return future

    async def run_on(self, account: AccountId, work: Callable[[AccountFile], Any]) -> Any:
        """Something with the writing connection that is no transaction, on the account's writing lane."""
        file = self.get(account)
        future = asyncio.get_running_loop().create_future()
        file.committer.submit(LaneWork(lambda: work(file), future))
        return await future

    async def run(self, work: Callable[[], Any]) -> Any:
        """Something else that blocks, in one of the threads."""
        future = asyncio.get_running_loop().create_future()
        self.lanes.submit(Lane(_run_work), (work, future))
        return await future

    def aside(self, account: AccountId, verb: Verb) -> Any:
        """A long read on a connection of its own, at one moment. Blocks."""
        folder = self.folder(account)
        if not folder.exists():
            raise NoSuchAccount(account)
        try:
            db = open_file(folder / "mail.db")
            try:
                db.execute("BEGIN")
                return verb(db)
            finally:
                db.close(force=True)
        except (apsw.Error, OSError) as error:
            raise as_trouble(error, f"account {account}", account=True) from error

    def tell_done(self, done: Sequence[Done]) -> None:
        """Results of a batch that goes on. From any thread."""
        self.outbox.post(done)

    def tell(self, topic: str) -> None:
        """Publish, from any thread."""
        if self._signals is not None:
            signals = self._signals
            self.outbox.call(lambda: signals.publish(topic))

    def mark_dirty(self, account: AccountId) -> None:
        """This account has a log to fold back: it will be named in the file `dirty`. From any thread."""
        self._changed.add(account)
        if not self._flushing:
            self._flushing = True
            self.outbox.call(self._flush_soon)

    def _flush_soon(self) -> None:
        asyncio.get_running_loop().call_later(FLUSH_S, self.lanes.submit, Lane(self._flush), None)

    def _flush(self, _: list[None]) -> Sequence[Done]:
        self.flush_dirty()
        return ()

    def flush_dirty(self) -> None:
        """Write the names; losing them costs nothing but time. Blocks."""
        self._flushing = False
        changed, self._changed = self._changed, set()
        if not changed:
            return
        try:
            handle = os.open(self._home / "dirty", os.O_CREAT | os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC, 0o600)
        except OSError:
            return
        try:
            if os.fstat(handle).st_size < DIRTY_OCTETS:
                os.write(handle, "".join(f"{account}\n" for account in list(changed)).encode())
        except OSError:
            return
        finally:
            os.close(handle)

    def create(self, account: AccountId) -> None:
        """Make the folder in `tmp/`, bring it to disk, move it to its place. Blocks."""
        target = self.folder(account)
        if (target / "mail.db").exists():
            return
        made = self._home / "tmp" / f"account-{account}-{os.urandom(6).hex()}"
        made.mkdir(mode=0o700)
        try:
            (made / "blobs").mkdir(mode=0o700)
            create_file(made / "mail.db", lambda db: mailboxes.create_tables(db, self.now_s()))
            os.chmod(made / "mail.db", 0o600)
            db = open_file(made / "mail.db")  # makes -wal and -shm, which costs more than all else at first use
            db.execute("SELECT modseq FROM meta").fetchall()
            db.close()
            handle = os.open(made / "mail.db", os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
            sync_directory(made)
            if not target.parent.exists():
                make_directory(target.parent)
            try:
                os.rename(made, target)
            except OSError:
                if not (target / "mail.db").exists():
                    raise
            sync_directory(target.parent)
        finally:
            if made.exists():
                shutil.rmtree(made, ignore_errors=True)

    def trash(self, account: AccountId) -> None:
        """Move the folder away, after its connections here are closed. Other processes learn it from `meta`. Blocks."""
        folder = self.folder(account)
        self._set_removed(account, folder, 1)
        target = self._home / "trash" / account
        os.utime(folder)
        os.rename(folder, target)
        sync_directory(folder.parent)
        sync_directory(target.parent)

    def restore(self, account: AccountId) -> None:
        """The way back. Blocks."""
        source, folder = self._home / "trash" / account, self.folder(account)
        if not source.exists():
            raise NoSuchAccount(account)
        if not folder.parent.exists():
            make_directory(folder.parent)
        os.rename(source, folder)
        sync_directory(folder.parent)
        sync_directory(source.parent)
        self._set_removed(account, folder, 0)

    def trashed(self) -> dict[AccountId, float]:
        """The folders in the trash, and since when they are there. Blocks."""
        return {AccountId(entry.name): entry.stat().st_mtime for entry in os.scandir(self._home / "trash")}

    def _set_removed(self, account: AccountId, folder: Path, removed: int) -> None:
        if not folder.exists():
            raise NoSuchAccount(account)
        self.turns.take(account_slot(account))
        try:
            db = open_file(folder / "mail.db", checkpoint_on_close=True)
            try:
                db.execute("UPDATE meta SET removed=?", (removed,))
            finally:
                db.close()
        except apsw.Error as error:
            if removed and not isinstance(error, (apsw.FullError, apsw.BusyError)):
                return  # a damaged account can be removed as well
            raise AccountUnavailable(f"account {account}: {error}") from error
        finally:
            self.turns.leave(account_slot(account))

    def ids(self) -> list[AccountId]:
        """All accounts that have a folder. Blocks."""
        return sorted(
            AccountId(entry.name) for shelf in os.scandir(self._home / "accounts") for entry in os.scandir(shelf.path)
        )

    def close(self) -> None:
        """After the lanes have ended."""
        self.flush_dirty()
        for file in self._open.values():
            for other in (*file.closing, file):
                other.close()
        self._open.clear()


def fitting() -> int:
    """How many accounts this machine can keep open in one process: a sixty-fourth of its memory, an eighth of the
    files that a process may open, but a few hundred if it is small."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    handles, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(4, min(max(_FEW, memory // 64 // FILE_OCTETS), handles // _HANDLES))


def _close_files(files: list[AccountFile]) -> Sequence[Done]:
    for file in files:
        for other in (*file.closing, file):
            with contextlib.suppress(apsw.Error):  # what it held is durable, or was told as not written
                other.close()
    return ()


def _run_work(items: list[tuple[Callable[[], Any], asyncio.Future[Any]]]) -> Sequence[Done]:
    done: list[Done] = []
    for work, future in items:
        try:
            done.append((future, work(), None))
        except Exception as error:
            done.append((future, None, as_trouble(error, "account", account=True)))
    return done
