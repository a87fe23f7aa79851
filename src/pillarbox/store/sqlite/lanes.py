"""Threads that do the store's work: a lane is a queue whose tasks run one batch at a time, in order.

One lane writes one database, so what waits when it comes round shares a transaction (group commit); lanes of different
databases run beside each other. Results go back to the loop in bunches.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias

QUICK_S: Final = 0.0003
"""A sync of a quick disk."""
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
        self.post((), work)

    def later(self, delay_s: float, work: Work) -> None:
        """Run `work` in a while; from the loop."""
        self._loop.call_later(delay_s, work)

    def _wake(self) -> None:
        try:
            self._loop.call_soon_threadsafe(self._deliver)
        except RuntimeError:  # the loop is closed: nobody waits any more
            self._done.clear()
            self._calls.clear()

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
    """Some threads that serve any number of lanes.

    Waking a thread costs about as much as a small commit. So another one is woken only when those awake have been at
    their work for a moment: where the disk is quick, few threads do everything; where it is slow, all wait for it.
    """

    def __init__(self, name: str, threads: int, outbox: Outbox) -> None:
        self._outbox = outbox
        self._lock = threading.Lock()
        self._closing = False
        self._ready: deque[Lane] = deque()
        self._asleep: list[threading.Lock] = []
        self._awake = threads
        self._woken_s = 0.0
        self._looks_again = False
        self._threads = [threading.Thread(target=self._serve, name=f"{name}-{i}", daemon=True) for i in range(threads)]
        for thread in self._threads:
            thread.start()

    def submit(self, lane: Lane, task: Any) -> None:
        """Queue a task, on the loop only; its lane runs as soon as a thread is free."""
        with self._lock:
            lane.tasks.append(task)
            if lane.scheduled:
                return
            lane.scheduled = True
            self._ready.append(lane)
            self._wake_one()
            if not self._looks_again and self._asleep:
                self._looks_again = True
                self._outbox.later(QUICK_S, self._look_again)

    def _look_again(self) -> None:
        """On the loop: nothing waits long behind something slow while threads are asleep."""
        with self._lock:
            self._looks_again = bool(self._ready and self._asleep)
            if self._looks_again:
                self._wake_one()
                self._outbox.later(QUICK_S, self._look_again)

    def _wake_one(self) -> None:
        """If it is worth it. The lock is held."""
        if not self._asleep:
            return
        now_s = time.monotonic()
        if self._awake and now_s - self._woken_s < QUICK_S:
            return
        self._woken_s = now_s
        self._awake += 1
        self._asleep.pop().release()  # the one that fell asleep last: it is still warm

    def close(self) -> None:
        """Finish what is queued, then end the threads. Blocks."""
        with self._lock:
            self._closing = True
            while self._asleep:
                self._awake += 1
                self._asleep.pop().release()
        for thread in self._threads:
            thread.join()

    def _serve(self) -> None:
        bed = threading.Lock()
        bed.acquire()
        while True:
            with self._lock:
                if self._ready:
                    lane = self._ready.popleft()
                    if self._ready:
                        self._wake_one()
                elif self._closing:
                    return
                else:
                    lane = None
                    self._awake -= 1
                    self._asleep.append(bed)
            if lane is None:
                bed.acquire()
            else:
                self._run(lane)

    def _run(self, lane: Lane) -> None:
        """One batch; what came meanwhile waits for its turn behind other lanes."""
        with self._lock:
            tasks, lane.tasks = lane.tasks, []
        self._outbox.post(lane.run(tasks))
        with self._lock:
            lane.scheduled = bool(lane.tasks)
            if lane.scheduled:
                self._ready.append(lane)
