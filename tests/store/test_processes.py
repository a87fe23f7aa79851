"""Several processes on one home: nobody starves, nothing is locked out, and SIGKILL neither loses nor doubles mail."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import signal
from multiprocessing.connection import Connection
from pathlib import Path

from contracts.engines import Engine
from pillarbox.model.errors import Trouble
from pillarbox.model.ids import AccountId
from pillarbox.model.outcome import Delivered
from pillarbox.model.uids import ALL
from pillarbox.store.api import Settlement, Store, Target
from pillarbox.store.sqlite.turns import SPOOL, Turns, account_slot

SPAWN = multiprocessing.get_context("spawn")


def _deliver_many(home: str, account: AccountId, count: int, report: Connection) -> None:
    engine = Engine("sqlite", Path(home))

    async def story(store: Store) -> None:
        async def one() -> None:
            message = engine.message()
            [claim] = await store.spool.accept(message, [engine.job(message, Target("local", account))], claim=1)
            await store.mailboxes.deliver(account, [engine.delivery(claim.job, message)])
            assert await store.spool.settle([Settlement(claim.job.id, claim.token, Delivered())]) == []

        for _ in range(count // 10):
            await asyncio.gather(*(one() for _ in range(10)))

    engine.run(story)
    report.send("done")


def test_two_processes_deliver_into_one_mailbox(engine: Engine) -> None:
    account = engine.account_id()
    engine.run(lambda store: store.mailboxes.create_account(account))
    ours, theirs = SPAWN.Pipe()
    processes = [SPAWN.Process(target=_deliver_many, args=(str(engine.home), account, 150, theirs)) for _ in range(2)]
    for process in processes:
        process.start()

    async def story(store: Store) -> None:
        box = await store.mailboxes.status(account, "INBOX")
        last = 0
        while box.messages < 300 and any(process.is_alive() for process in processes):
            await store.mailboxes.set_flags(account, box.id, ALL, "+", frozenset(["\\Seen"]))
            await store.checkpoint()
            box = await store.mailboxes.status(account, "INBOX")
            assert box.uidnext > last and box.messages == box.uidnext - 1
            last = box.uidnext - 1
        assert box.messages == 300
        assert await store.verify() == []

    engine.run(story)
    for process in processes:
        process.join()
        assert process.exitcode == 0
        assert ours.recv() == "done"


def _accept_deliver_and_wait(home: str, account: AccountId, steps: int, report: Connection) -> None:
    """Go some steps of a delivery, tell the parent, and wait for the end."""
    engine = Engine("sqlite", Path(home))

    async def story(store: Store) -> None:
        message = engine.message(b"Subject: crash\r\n\r\n%d" % steps)
        [claim] = await store.spool.accept(message, [engine.job(message, Target("local", account))], claim=1)
        if steps > 1:
            await store.mailboxes.deliver(account, [engine.delivery(claim.job, message)])
        if steps > 2:
            await store.spool.settle([Settlement(claim.job.id, claim.token, Delivered())])
        report.send("there")
        await asyncio.sleep(60)

    engine.run(story)


def test_killed_between_the_steps_of_a_delivery_it_is_there_once(engine: Engine) -> None:
    account = engine.account_id()
    engine.run(lambda store: store.mailboxes.create_account(account))
    killed = []
    for steps in (1, 2, 3):
        ours, theirs = SPAWN.Pipe()
        process = SPAWN.Process(target=_accept_deliver_and_wait, args=(str(engine.home), account, steps, theirs))
        process.start()
        killed.append((process, ours))
    for process, ours in killed:
        assert ours.recv() == "there"
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()

    async def story(store: Store) -> None:
        for _ in range(2):
            for claim in await store.spool.claim(10, engine.clock.now() + 10):  # at once: their holders are dead
                await store.mailboxes.deliver(account, [engine.delivery(claim.job, claim.message)])
                await store.spool.settle([Settlement(claim.job.id, claim.token, Delivered())])
        inbox = (await store.mailboxes.status(account, "INBOX")).id
        found = [form async for s in store.mailboxes.fetch(account, inbox, ALL, ("data",)) for (form,) in s.forms]
        assert sorted(found) == [b"Subject: crash\r\n\r\n%d" % steps for steps in (1, 2, 3)]
        assert (await store.spool.counts())["messages"] == 0
        assert await store.verify() == []

    engine.run(story)


def test_turns_alternate_between_those_who_want_them(tmp_path: Path) -> None:
    one, two = Turns(tmp_path / "locks"), Turns(tmp_path / "locks")
    one.take(0)
    assert not two._lock(1)
    assert two._lock(0)  # two stands next in the queue
    one.leave(0)
    assert not one._lock(0)  # so one cannot come before it
    one.live(77)
    assert two.lives(77) and not two.lives(78)
    one.close()
    assert not two.lives(77)
    two.close()


def test_accounts_have_slots_of_their_own(engine: Engine) -> None:
    slots = {account_slot(engine.account_id()) for _ in range(500)}
    assert len(slots) == 500 and all(slot % 2 == 0 and 0 < slot < 1 << 62 for slot in slots)


def test_few_files_stay_open_however_many_accounts_there_are(engine: Engine) -> None:
    from pillarbox.model.settings import Limits, Settings

    engine.settings = Settings(limits=Limits(open_accounts=4))

    async def story(store: Store) -> None:
        accounts = [engine.account_id() for _ in range(12)]
        for account in accounts:
            await store.mailboxes.create_account(account)

        async def use(account: AccountId) -> None:
            for _ in range(3):
                inbox = (await store.mailboxes.status(account, "INBOX")).id
                await store.mailboxes.append(account, inbox, [engine.email()])

        await asyncio.gather(*(use(account) for account in accounts * 2))
        for account in accounts:
            assert (await store.mailboxes.status(account, "INBOX")).messages == 6
        async with asyncio.timeout(10):
            while len(_open_accounts()) > 6:  # they are closed in threads
                await asyncio.sleep(0.01)
        assert _open_accounts()

    engine.run(story)


def _open_accounts() -> set[str]:
    found = set()
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            found.add(os.readlink(f"/proc/self/fd/{fd}"))
    return {path for path in found if path.endswith("mail.db")}


def test_a_lease_that_a_failed_commit_took_is_taken_again(engine: Engine) -> None:
    """Else the jobs of a process that died then would be nobody's to free."""

    async def story(store: Store) -> None:
        message, twice = engine.message(), engine.message()
        await store.spool.accept(twice, [])
        slow = Turns(engine.home / "locks")
        slow.take(SPOOL)
        first = asyncio.ensure_future(store.spool.accept(engine.message(), []))  # the writer waits for its turn with it
        await asyncio.sleep(0)
        together = asyncio.gather(
            store.spool.accept(message, [engine.job(message, Target("local", "x"))], claim=1),
            store.spool.accept(twice, []),  # its id is there already: the commit of both fails
            return_exceptions=True,
        )
        await asyncio.sleep(0)
        slow.close()
        [_, [claims, failed]] = await asyncio.gather(first, together)
        assert isinstance(claims, list) and isinstance(failed, Trouble)
        query = "SELECT count(*) FROM job WHERE holder IN (SELECT id FROM holder)"
        assert await store._spool_file.read(lambda db: db.execute(query).fetchall()) == [(1,)]  # type: ignore[attr-defined]

    engine.run(story)
