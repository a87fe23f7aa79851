"""Threads that do the store's work: a lane is a queue whose tasks run one batch at a time, in order.

One lane writes one database, so what waits when it comes round shares a transaction (group commit); lanes of different
databases run beside each other. Results go back to the loop in bunches.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import Any, TypeAlias

Work: TypeAlias = Callable[[], None]
Done: TypeAlias = tuple["asyncio.Future[Any] | None", Any, BaseException | None]
"""A future, its result, and the error instead."""


class Outbox:
    """Brings results from threads to the loop; one wake-up for all that came meanwhile."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._done: deque[Sequence[Done]] = deque()
        self._calls: deque[Work] = deque()
        self._woken = False

    def post(self, done: Sequence[Done], then: Work | None = None) -> None:
        """Tell the futures, then run `then` on the loop. From any thread."""
        if done:
            self._done.append(done)
        if then is not None:
            self._calls.append(then)
        elif not done:
            return
        if not self._woken:
            self._woken = True
            self._wake()

    def call(self, work: Work) -> None:
        """Run `work` on the loop, from any thread."""
        self._calls.append(work)
        if not self._woken:
            self._woken = True
            self._wake()

    def _wake(self) -> None:
        try:
            self._loop.call_soon_threadsafe(self._deliver)
        except RuntimeError:  # the loop is closed: nobody waits any more
            self._done.clear()

    def _deliver(self) -> None:
        self._woken = False
        while self._done:
            for future, result, error in self._done.popleft():
                if future is None or future.done():
                    continue
                if error is None:
                    future.set_result(result)
                else:
                    future.set_exception(error)
        while self._calls:
            self._calls.popleft()()


class Lane:
    """A queue of tasks and what runs a batch of them. `run` never raises; it returns what to tell the loop."""

    __slots__ = ("run", "scheduled", "tasks")

    def __init__(self, run: Callable[[list[Any]], Sequence[Done]]) -> None:
        self.run = run
        self.tasks: list[Any] = []
        self.scheduled = False


class LanePool:
    """Some threads that serve any number of lanes."""

    def __init__(self, name: str, threads: int, outbox: Outbox) -> None:
        self._outbox = outbox
        self._lock = threading.Lock()
        self._closing = False
        self._ready: SimpleQueue[Lane | None] = SimpleQueue()
        self._threads = [threading.Thread(target=self._serve, name=f"{name}-{i}", daemon=True) for i in range(threads)]
        for thread in self._threads:
            thread.start()

    def submit(self, lane: Lane, task: Any) -> None:
        """Queue a task; its lane runs as soon as a thread is free."""
        with self._lock:
            lane.tasks.append(task)
            if lane.scheduled:
                return
            lane.scheduled = True
        self._ready.put(lane)

    def close(self) -> None:
        """Finish what is queued, then end the threads. Blocks."""
        self._closing = True
        for _ in self._threads:
            self._ready.put(None)
        for thread in self._threads:
            thread.join()

    def _serve(self) -> None:
        while (lane := self._ready.get()) is not None:
            while self._run(lane):
                if not self._closing:  # others first
                    self._ready.put(lane)
                    break

    def _run(self, lane: Lane) -> bool:
        """One batch; True if more came meanwhile."""
        with self._lock:
            tasks, lane.tasks = lane.tasks, []
        self._outbox.post(lane.run(tasks))
        with self._lock:
            lane.scheduled = bool(lane.tasks)
            return lane.scheduled
