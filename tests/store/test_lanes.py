"""Threads are woken sparingly, but no lane waits behind another's slow work while a thread is asleep."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from typing import Any

from pillarbox.store.sqlite.committer import Committer, Prepared
from pillarbox.store.sqlite.lanes import Done, Lane, LanePool, Outbox
from pillarbox.store.sqlite.writer import Task


def test_a_lane_does_not_wait_for_a_slow_one() -> None:
    async def story() -> None:
        loop = asyncio.get_running_loop()
        pool = LanePool("test", 4, Outbox(loop))
        slow_may_end = threading.Event()
        order: list[str] = []

        def lane(name: str, wait: bool) -> asyncio.Future[Any]:
            future = loop.create_future()

            def run(tasks: list[Any]) -> Sequence[Done]:
                if wait:
                    assert slow_may_end.wait(30)
                order.append(name)
                return [(future, name, None)]

            pool.submit(Lane(run), None)
            return future

        try:
            for _ in range(20):
                slow_may_end.clear()
                slow = lane("slow", True)
                quick = [lane("quick", False) for _ in range(8)]
                async with asyncio.timeout(20):
                    await asyncio.gather(*quick)
                assert not slow.done()
                slow_may_end.set()
                await slow
        finally:
            slow_may_end.set()
            pool.close()
        assert order == (["quick"] * 8 + ["slow"]) * 20

    asyncio.run(story())


def test_a_lane_runs_its_tasks_in_order_and_one_batch_at_a_time() -> None:
    async def story() -> None:
        loop = asyncio.get_running_loop()
        pool = LanePool("test", 4, Outbox(loop))
        busy = threading.Lock()
        seen: list[int] = []

        def run(tasks: list[Any]) -> Sequence[Done]:
            assert busy.acquire(blocking=False)
            seen.extend(number for number, _ in tasks)
            busy.release()
            return [(future, None, None) for _, future in tasks]

        lane = Lane(run)
        futures = []
        for number in range(500):
            future = loop.create_future()
            pool.submit(lane, (number, future))
            futures.append(future)
            if number % 7 == 0:
                await asyncio.sleep(0)
        await asyncio.gather(*futures)
        pool.close()
        assert seen == list(range(500))

    asyncio.run(story())


class Written:
    """A writer that is always ready, and counts the rows of each transaction."""

    def __init__(self) -> None:
        self.rows: list[int] = []

    def try_ready(self) -> bool:
        return True

    def begin(self, tasks: list[Task]) -> list[Done]:
        self.rows.append(sum(task.rows for task in tasks))
        return [(task.future, None, None) for task in tasks]

    def commit(self, done: Sequence[Done]) -> Sequence[Done]:
        return done

    def leave(self) -> None: ...


def test_a_transaction_on_the_loop_has_few_rows_however_many_wait() -> None:
    async def story() -> None:
        loop = asyncio.get_running_loop()
        outbox = Outbox(loop)
        pool = LanePool("test", 1, outbox)
        writer = Written()
        committer = Committer(
            writer,  # type: ignore[arg-type]
            pool,
            outbox,
            lambda tasks: Prepared(tasks, lambda done: done),
            lambda tasks: [],
        )
        futures = []
        for rows in [300, 300, 150, 600, 1, *[1] * 100]:
            futures.append(loop.create_future())
            committer.submit(Task(lambda db: None, futures[-1], False, rows))
        await asyncio.gather(*futures)
        pool.close()
        assert writer.rows == [300, 450, 600, 64, 37]

    asyncio.run(story())
