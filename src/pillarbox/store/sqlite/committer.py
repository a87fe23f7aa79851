"""The order in which one database is written: short statements on the loop, what waits for the disk in a thread.

Each step of a statement gives up Python's lock and must win it back; in a thread that is a fight with the busy loop at
every step. So short verbs run where nobody else wants the lock, and only what waits (COMMIT, opening the file, another
process's turn) or may be long goes to a thread. docs/decisions/turns.md
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

from pillarbox.store.sqlite.lanes import Done, Lane, LanePool, Outbox
from pillarbox.store.sqlite.writer import Writer

NEAR: Final = 64
"""Tasks of one transaction that run on the loop: a few milliseconds of it."""
NEAR_ROWS: Final = 500
"""Rows that they write."""
LAZY_S: Final = 0.02
"""So long a lazy task waits for company."""


class Prepared:
    """What a batch is for the writer (`tasks`), and what its results are for those who wait (`told`)."""

    __slots__ = ("tasks", "told")

    def __init__(self, tasks: list[Any], told: Callable[[Sequence[Done]], Sequence[Done]]) -> None:
        self.tasks = tasks
        self.told = told


class Committer:
    """The tasks of one database, a batch at a time, each batch one transaction.

    `prepare` makes a batch's short tasks into what the writer runs on the loop, and says whom to tell what of the
    results; it returns None if one of them belongs in a thread. `whole` does all of a batch, in a thread.
    """

    __slots__ = (
        "_has_turn",
        "_is_blocked",
        "_lane",
        "_lanes",
        "_outbox",
        "_prepare",
        "_scheduled",
        "_tasks",
        "_timer",
        "_whole",
        "_writer",
    )

    def __init__(
        self,
        writer: Writer,
        lanes: LanePool,
        outbox: Outbox,
        prepare: Callable[[list[Any]], Prepared | None],
        whole: Callable[[list[Any]], Sequence[Done]],
    ) -> None:
        self._writer = writer
        self._lanes = lanes
        self._outbox = outbox
        self._prepare = prepare
        self._whole = whole
        self._lane = Lane(self._run)
        self._has_turn = self._is_blocked = False
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: list[Any] = []
        self._scheduled = False

    @property
    def idle(self) -> bool:
        """Does nothing wait to be written, not even lazily?"""
        return not (self._scheduled or self._tasks)

    def submit(self, task: Any, lazy: bool = False) -> None:
        """Queue a task, on the loop only. A lazy one waits a moment for others whose transaction it can share."""
        self._tasks.append(task)
        if self._scheduled:
            return
        if lazy:
            if self._timer is None:
                self._timer = asyncio.get_running_loop().call_later(LAZY_S, self._begin)
            return
        self._scheduled = True
        asyncio.get_running_loop().call_soon(self._next)

    def _begin(self) -> None:
        self._timer = None
        if not self._scheduled and self._tasks:
            self._scheduled = True
            self._next()

    def _next(self) -> None:
        """The next transaction, if anything waits."""
        tasks = self._few()
        if not tasks:
            self._leave()
            self._scheduled = False
            return
        prepared = self._prepare(tasks) if not self._is_blocked else None
        if prepared is None:
            self._leave()
            self._is_blocked = False
            tasks, self._tasks = self._tasks, []
            self._lanes.submit(self._lane, partial(self._whole, tasks))
        elif not self._has_turn and not self._writer.try_ready():
            self._lanes.submit(self._lane, self._get_ready)
        else:
            self._has_turn = False
            del self._tasks[: len(tasks)]
            begun = self._writer.begin(prepared.tasks)
            if begun is None:
                self._lanes.submit(self._lane, partial(self._whole, tasks))
            else:
                self._lanes.submit(self._lane, lambda: prepared.told(self._writer.commit(begun)))

    def _few(self) -> list[Any]:
        """The next tasks, as many as are short together: one at least."""
        rows = count = 0
        for task in self._tasks[:NEAR]:
            rows += task.rows
            if count and rows > NEAR_ROWS:
                break
            count += 1
        return self._tasks[:count]

    def _leave(self) -> None:
        if self._has_turn:
            self._has_turn = False
            self._writer.leave()

    def _get_ready(self) -> Sequence[Done]:
        """In a thread: open the file, wait for the turn. What cannot be had is met again, and told, by `whole`."""
        try:
            self._writer.get_ready()
            self._has_turn = True
        except Exception:
            self._is_blocked = True
        return ()

    def _run(self, steps: list[Callable[[], Sequence[Done]]]) -> Sequence[Done]:
        """In a thread: a step (there is never more than one), then the loop goes on."""
        for step in steps:
            self._outbox.post(step(), self._next)
        return ()
