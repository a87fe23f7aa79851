"""One database's writing side: turns, transactions shared by what waits, and the end of a connection that failed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

import apsw

from pillarbox.model.errors import PillarboxError, Trouble
from pillarbox.store.sqlite.files import BUSY_MS, Db, as_trouble
from pillarbox.store.sqlite.lanes import Done
from pillarbox.store.sqlite.turns import Turns

Verb = Callable[[Db], Any]
LARGE_LOG_PAGES: Final = 16_384
"""64 MiB: a writer whose log grew so long folds it back itself, should no mover do it."""


class Batch(Protocol):
    """Rows that verbs leave to be written together at the end of their transaction."""

    def clear(self) -> None: ...

    def write(self, db: Db) -> None: ...

    def committed(self) -> None: ...


class Task:
    """A verb to run and whom to tell. `guarded`: it may fail after it has written, so it gets a savepoint."""

    __slots__ = ("future", "guarded", "rows", "verb")

    def __init__(self, verb: Verb, future: asyncio.Future[Any] | None, guarded: bool = True, rows: int = 1) -> None:
        self.verb = verb
        self.future = future
        self.guarded = guarded
        self.rows = rows


class Writer:
    """Runs batches of tasks on one connection, which it opens when needed. Used by one lane only."""

    def __init__(
        self,
        what: str,
        slot: int,
        turns: Turns,
        open_connection: Callable[[], apsw.Connection],
        *,
        account: bool = False,
        changed: Callable[[], None] | None = None,
        failed: Callable[[BaseException], None] | None = None,
        log_pages: int = LARGE_LOG_PAGES,
        batch: Batch | None = None,
    ) -> None:
        self._what = what
        self._slot = slot
        self._turns = turns
        self._open = open_connection
        self._account = account
        self._changed = changed
        self._failed = failed
        self._log_limit = log_pages
        self._batch = batch
        self._log_pages = self._changes = 0
        self.db: apsw.Connection | None = None

    def run(self, tasks: list[Task]) -> Sequence[Done]:
        """All tasks in one transaction. An error of one that was raised on purpose is told to that one alone."""
        try:
            done = self._transact(tasks)
        except apsw.ConstraintError as error:
            if len(tasks) > 1:  # one of them is at fault: find it
                return [done for task in tasks for done in self.run([task])]
            return [(tasks[0].future, None, as_trouble(error, self._what, self._account))]
        except Exception as error:
            meant = as_trouble(error, self._what, self._account)
            if self._failed is not None:
                self._failed(meant)
            return [(task.future, None, meant) for task in tasks]
        return done

    def _transact(self, tasks: list[Task]) -> list[Done]:
        db = self.get_ready()
        try:
            try:
                db.execute("BEGIN IMMEDIATE")
            except BaseException:
                self.close()
                raise
            done = self._write(db, tasks)
            self._end(db)
        finally:
            self.leave()
        return done

    def get_ready(self) -> apsw.Connection:
        """Open the file if need be, and wait for the turn. Blocks. Raises Trouble, apsw errors."""
        db = self.db
        if db is None:
            db = self.db = self._open()
            db.set_wal_hook(self._on_log)
        self._turns.take(self._slot)
        return db

    def try_ready(self) -> bool:
        """Take the turn if the file is open and nobody has it or waits for it. Never waits."""
        return self.db is not None and self._turns.try_take(self._slot)

    def leave(self) -> None:
        """Give up the turn."""
        self._turns.leave(self._slot)

    def begin(self, tasks: list[Task]) -> list[Done] | None:
        """Run short tasks in a transaction that `commit` ends; the turn is ours. None if something failed: then the
        turn is given up and nothing was written."""
        db = self.db
        assert db is not None
        try:
            db.set_busy_timeout(0)  # whoever writes without a turn is waited for in a thread
            try:
                db.execute("BEGIN IMMEDIATE")
            finally:
                db.set_busy_timeout(BUSY_MS)
            return self._write(db, tasks)
        except Exception:
            self.leave()
            return None
        except BaseException:
            self.leave()
            raise

    def commit(self, done: Sequence[Done]) -> Sequence[Done]:
        """Make durable what `begin` did, and tell who waits for it."""
        db = self.db
        assert db is not None
        try:
            try:
                self._end(db)
            finally:
                self.leave()
        except Exception as error:
            meant = as_trouble(error, self._what, self._account)
            if self._failed is not None:
                self._failed(meant)
            return [(future, None, meant) for future, _, _ in done]
        return done

    def _write(self, db: apsw.Connection, tasks: list[Task]) -> list[Done]:
        """The statements of a transaction that has begun. After a ConstraintError it is rolled back, after others the
        connection is closed: nothing that it holds is believed any more."""
        try:
            self._changes = db.total_changes()
            if self._batch is not None:
                self._batch.clear()
            done = [self._run_one(db, task) for task in tasks]
            if self._batch is not None:
                self._batch.write(db)
        except apsw.ConstraintError:
            db.execute("ROLLBACK")
            raise
        except BaseException:
            self.close()
            raise
        return done

    def _end(self, db: apsw.Connection) -> None:
        try:
            db.execute("COMMIT")
        except BaseException:
            self.close()
            raise
        if self._batch is not None:
            self._batch.committed()
        if db.total_changes() != self._changes:
            if self._changed is not None:
                self._changed()
            if self._log_pages > self._log_limit:
                self._fold(db)

    def _run_one(self, db: Db, task: Task) -> Done:
        if not task.guarded:
            try:
                return task.future, task.verb(db), None
            except PillarboxError as error:
                if isinstance(error, Trouble):
                    raise
                return task.future, None, error
        db.execute("SAVEPOINT verb")
        try:
            result = task.verb(db)
        except apsw.Error:
            raise
        except Exception as error:
            db.execute("ROLLBACK TO verb")
            db.execute("RELEASE verb")
            return task.future, None, as_trouble(error, self._what, self._account)
        db.execute("RELEASE verb")
        return task.future, result, None

    def _on_log(self, db: apsw.Connection, name: str, pages: int) -> int:
        self._log_pages = pages
        return apsw.SQLITE_OK

    def _fold(self, db: apsw.Connection) -> None:
        self._log_pages = 0
        try:
            db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
        except apsw.BusyError:
            return
        except apsw.Error:
            self.close()

    def fold(self, truncate: bool = False) -> None:
        """Fold the log back into the database: first beside other writers, then the rest in a turn, so that it ends.

        Called on the writer's lane.
        """
        db = self.db
        if db is None:
            db = self.db = self._open()
            db.set_wal_hook(self._on_log)
        try:
            db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
            self._turns.take(self._slot)
            try:
                mode = apsw.SQLITE_CHECKPOINT_TRUNCATE if truncate else apsw.SQLITE_CHECKPOINT_PASSIVE
                db.wal_checkpoint(mode=mode)
            finally:
                self._turns.leave(self._slot)
        except apsw.BusyError:
            return
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the connection; the next task opens another."""
        db, self.db = self.db, None
        if db is not None:
            db.close(force=True)
