"""The same policy on the real store: accept, deliver, relay, report, restart."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from pillarbox.mail.accounts import Admin
from pillarbox.mail.desk import MxHost
from pillarbox.mail.intake import MailDesk
from pillarbox.mail.logins import LoginDesk
from pillarbox.mail.queue import Mover
from pillarbox.model.errors import Refused
from pillarbox.model.outcome import Deferred, Failed
from pillarbox.model.status import Status
from pillarbox.model.uids import ALL
from pillarbox.store.sqlite.engine import SqliteStore, init_home, open_store

from .fakes import Counter, Log, Resolver, Signals, Wire
from .world import MESSAGE, SETTINGS, FakeClock, send, session


class House:
    """An open home with a desk and a mover."""

    def __init__(self, store: SqliteStore, clock: FakeClock) -> None:
        self.store, self.clock = store, clock
        self.log, self.signals = Log(), Signals()
        self.wire, self.resolver = Wire(), Resolver()
        self.resolver.mxs["away.example"] = [MxHost(10, "mx.away.example")]
        self.resolver.hosts["mx.away.example"] = ["8.8.0.1"]
        self.desk = MailDesk(store, SETTINGS, clock, os.urandom, self.log, Counter(), self.signals)
        self.mover = Mover(
            store, self.wire, self.resolver, SETTINGS, clock, os.urandom, self.log, Counter(), self.signals
        )
        self.admin = Admin(store, clock, os.urandom, SETTINGS, self.signals)

    async def turn(self) -> None:
        await self.mover.step()
        await self.mover.settled()

    async def inbox(self, address: str) -> list[bytes]:
        """The whole emails of a user, oldest first."""
        account = await self.admin.user(address)
        mailbox = await self.store.mailboxes.status(account.id, "INBOX")
        found = []
        async for part in self.store.mailboxes.fetch(account.id, mailbox.id, ALL):
            for email in part.placements.emails:
                opened = await self.store.mailboxes.open(account.id, email)
                found.append(await opened.read())
        return found


@asynccontextmanager
async def house(home: Path, clock: FakeClock) -> AsyncIterator[House]:
    init_home(home)
    store = await open_store(home, signals=None, settings=SETTINGS, clock=clock, role="test")
    try:
        yield House(store, clock)
    finally:
        await store.close()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def run(scenario: Coroutine[Any, Any, None]) -> None:
    asyncio.run(scenario)


async def furnish(open_house: House) -> None:
    await open_house.admin.add_domain("us.example")
    await open_house.admin.add_users([("ada@us.example", "secret"), ("bob@us.example", "hidden")])


def test_from_the_door_to_the_mailbox(home):
    async def scenario():
        async with house(home, FakeClock()) as h:
            await furnish(h)
            await h.admin.add_alias("team@us.example", ["ada@us.example", "bob@us.example"])
            await asyncio.gather(*(send(h.desk, session(), "carl@away.example", ["ada@us.example"]) for _ in range(30)))
            await send(h.desk, session(), "carl@away.example", ["team@us.example"])
            large = MESSAGE + b"0123456789\r\n" * 40_000
            await send(h.desk, session(), "carl@away.example", ["bob@us.example"], large)
            await h.desk.close()
            ada, bob = await h.inbox("ada@us.example"), await h.inbox("bob@us.example")
            assert len(ada) == 31 and len(bob) == 2
            assert all(email.endswith(MESSAGE) and email.startswith(b"Return-Path: <carl@") for email in ada)
            assert bob[1].endswith(large)
            assert await h.store.spool.counts() == {"queued": 0, "held": 0, "leased": 0, "messages": 0, "octets": 0}
            assert h.log.events("error") == h.log.events("warning") == []

    run(scenario())


def test_relay_with_a_retry_and_a_report(home):
    async def scenario():
        async with house(home, clock := FakeClock()) as h:
            await furnish(h)
            ada = await h.admin.user("ada@us.example")
            answers = {
                "later": [Deferred(Status(4, 2, 1), "busy", "mx"), None],
                "never": [Failed(Status(5, 1, 1), "no")],
            }
            ok = h.wire.answer
            h.wire.answer = lambda hop, rcpt: (answers.get(rcpt.partition("@")[0]) or [None]).pop(0) or ok(hop, rcpt)
            mine = MESSAGE.replace(b"carl@elsewhere", b"ada@us", 1)
            at = session("submission", account=ada)
            everyone = ["good@away.example", "later@away.example", "never@away.example"]
            spool_id, _ = await send(h.desk, at, "ada@us.example", everyone, mine)
            await h.turn()
            await h.turn()
            [report] = await h.inbox("ada@us.example")
            assert b"Final-Recipient: rfc822; never@away.example" in report and b"good@" not in report
            assert (await h.store.spool.counts())["queued"] == 1
            clock.advance(400)
            await h.turn()
            assert (await h.store.spool.counts())["messages"] == 0
            assert [sent.recipients for sent in h.wire.sent][1:] == [["later@away.example"]]
            events = [event.event for event in await h.store.spool.trace(spool_id)]
            assert events.count("queued") == 3 and events.count("delivered") == 2
            assert events.count("deferred") == events.count("failed") == events.count("report") == 1
            assert h.log.events("error") == []

    run(scenario())


def test_what_a_process_left_the_next_one_delivers_once(home):
    async def scenario():
        clock = FakeClock()
        async with house(home, clock) as h:
            await furnish(h)

            async def never(*args: object) -> None:
                await asyncio.Event().wait()

            h.store.spool.settle = never  # type: ignore[assignment, method-assign]
            await send(h.desk, session(), "carl@away.example", ["ada@us.example"])
            while not await h.inbox("ada@us.example"):
                await asyncio.sleep(0.001)
        async with house(home, clock) as h:
            assert (await h.store.spool.counts())["leased"] == 1
            await h.turn()
            assert (await h.store.spool.counts())["messages"] == 0
            assert len(await h.inbox("ada@us.example")) == 1

    run(scenario())


def test_logins_and_a_user_that_is_removed(home):
    async def scenario():
        async with house(home, FakeClock()) as h:
            await furnish(h)

            async def no_wait(seconds: float) -> None:
                pass

            logins = LoginDesk(h.store, SETTINGS, h.clock, os.urandom, h.log, sleep=no_wait)
            assert (await logins.password(session("imap"), "ada", "secret")).address.local == "ada"
            made_up, account = await logins.verifier(session("imap"), "nobody")
            assert account is None and (await logins.verifier(session("imap"), "nobody"))[0] == made_up
            await send(h.desk, session(), "ada@us.example", ["bob@us.example"])
            await h.desk.close()
            await h.admin.remove_user("bob@us.example")
            h.clock.advance(1)
            with pytest.raises(Refused):
                await logins.password(session("imap"), "bob", "hidden")
            with pytest.raises(Refused):
                await send(h.desk, session(), "ada@us.example", ["bob@us.example"])
            await h.admin.restore_user("bob@us.example")
            assert len(await h.inbox("bob@us.example")) == 1
            logins.close()

    run(scenario())
