"""A database that the whole system shares (spool, directory): one writing lane, one reading connection."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import apsw

from pillarbox.store.sqlite.committer import Committer, Prepared
from pillarbox.store.sqlite.files import as_trouble, at_one_moment, open_file
from pillarbox.store.sqlite.lanes import Done, Lane, LanePool, Outbox
from pillarbox.store.sqlite.migrate import Schema, migrate
from pillarbox.store.sqlite.turns import Turns
from pillarbox.store.sqlite.writer import Batch, Task, Verb, Writer

LOG_PAGES: Final = 4096
"""16 MiB: the writer folds the log back beyond this (a reused page is written once, however often it changed)."""


class Database:
    """Opened for one process. `writers` run what waits for the disk."""

    def __init__(
        self,
        path: Path,
        schema: Schema,
        slot: int,
        turns: Turns,
        writers: LanePool,
        readers: LanePool,
        outbox: Outbox,
        *,
        changed: Callable[[], None] | None = None,
        failed: Callable[[BaseException], None] | None = None,
        batch: Batch | None = None,
    ) -> None:
        self.path = path
        self._schema = schema
        self._slot = slot
        self._turns = turns
        self._readers = readers
        self.writer = Writer(
            path.name, slot, turns, self._open, changed=changed, failed=failed, log_pages=LOG_PAGES, batch=batch
        )
        self.committer = Committer(self.writer, writers, outbox, _prepare, self.writer.run)
        self._fold_lane = Lane(self._fold)
        self._read_lane = Lane(self._read)
        self._reader: apsw.Connection | None = None
        self._loop_reader: apsw.Connection | None = None

    def _open(self) -> apsw.Connection:
        db = open_file(self.path, checkpoint_on_close=True)
        try:
            migrate(db, self._schema)
        except BaseException:
            db.close()
            raise
        return db

    def prepare(self) -> None:
        """Open for writing now, migrate if needed. Blocks. Raises Trouble where the file is not as it has to be."""
        self._turns.take(self._slot)
        try:
            self._open().close()
        except (apsw.Error, OSError) as error:
            raise as_trouble(error, str(self.path)) from error
        finally:
            self._turns.leave(self._slot)

    def write(self, verb: Verb, guarded: bool = False, lazy: bool = False, rows: int = 1) -> asyncio.Future[Any]:
        """Run a verb in a transaction that it shares with others. `guarded`: it may raise after it has written, or
        take long, and runs in a thread. `lazy`: it may wait a moment for company. `rows`: about how many it writes."""
        future = asyncio.get_running_loop().create_future()
        self.committer.submit(Task(verb, future, guarded, rows), lazy)
        return future

    @property
    def idle(self) -> bool:
        """Does nothing wait to be written?"""
        return self.committer.idle

    def read(self, verb: Verb) -> asyncio.Future[Any]:
        """Run a verb that only reads, in a thread."""
        future = asyncio.get_running_loop().create_future()
        self._readers.submit(self._read_lane, Task(verb, future))
        return future

    def read_now(self, verb: Verb) -> Any:
        """Run a short verb that only reads, here on the loop, on a connection of its own."""
        try:
            if self._loop_reader is None:
                self._loop_reader = self._open()
            return verb(self._loop_reader)
        except (apsw.Error, OSError) as error:
            raise as_trouble(error, self.path.name) from error

    def _read(self, tasks: list[Task]) -> Sequence[Done]:
        done: list[Done] = []
        for task in tasks:
            try:
                if self._reader is None:
                    self._reader = self._open()
                done.append((task.future, at_one_moment(self._reader, task.verb), None))
            except Exception as error:
                done.append((task.future, None, as_trouble(error, self.path.name)))
        return done

    def fold(self) -> asyncio.Future[Any]:
        """Fold the log back, in a thread, beside what is being written."""
        future = asyncio.get_running_loop().create_future()
        self._readers.submit(self._fold_lane, future)
        return future

    def _fold(self, futures: list[asyncio.Future[Any]]) -> Sequence[Done]:
        error: BaseException | None = None
        folder = Writer(self.path.name, self._slot, self._turns, self._open)
        try:
            folder.fold()
        except Exception as caught:
            error = as_trouble(caught, self.path.name)
        finally:
            folder.close()
        return [(future, None, error) for future in futures]

    def close(self) -> None:
        """After the lanes have ended."""
        self.writer.close()
        for db in (self._reader, self._loop_reader):
            if db is not None:
                db.close(force=True)


def _prepare(tasks: list[Task]) -> Prepared | None:
    return None if any(task.guarded for task in tasks) else Prepared(tasks, _as_it_is)


def _as_it_is(done: Sequence[Done]) -> Sequence[Done]:
    return done
