"""How fast the store is, without protocols: `python bench/store.py [--home DIR] [NAME ...]`.

Prints messages a second and CPU time a message (all threads). Every commit is durable; the home should lie on the disk
that is to be measured. Names: one, spread, fan, read, open, append, two.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from pillarbox.message.wire import WireForms, wire_forms
from pillarbox.model.address import Address
from pillarbox.model.envelope import Envelope, Recipient
from pillarbox.model.ids import AccountId, EmailId, JobId, SpoolId, base32_id, email_id, make_id
from pillarbox.model.mailbox import Content
from pillarbox.model.outcome import Delivered
from pillarbox.model.settings import Settings
from pillarbox.model.uids import ALL
from pillarbox.store.api import Delivery, Job, NewEmail, Settlement, Spooled, Store, Target, TraceEvent
from pillarbox.store.sqlite.engine import init_home, open_store

HEADER = (
    b"Received: from client.test (client.test [192.0.2.1]) by mx.pillarbox.test with ESMTP id 0123456789;\r\n"
    b"\tMon, 23 Nov 2026 12:00:00 +0000\r\nFrom: Ada Lovelace <ada@pillarbox.test>\r\nTo: bob@pillarbox.test\r\n"
    b"Subject: message number %d of the bench\r\nDate: Mon, 23 Nov 2026 12:00:00 +0000\r\n"
    b"Message-ID: <%d.bench@pillarbox.test>\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n"
)
LINE = b"All that glitters is not gold; often have you heard that told.\r\n"


class WallClock:
    def now(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()


def octets_of(number: int, size: int = 4096) -> bytes:
    header = HEADER % (number, number)
    return (header + LINE * ((size - len(header)) // len(LINE) + 1))[:size]


def new_id() -> bytes:
    return make_id(time.time(), os.urandom)


def email_of(number: int, size: int = 4096) -> NewEmail:
    octets = octets_of(number, size)
    return NewEmail(
        EmailId(new_id()), Content(hashlib.sha256(octets).digest(), len(octets), octets), forms=wire_forms(octets)
    )


class Arrivals:
    """Takes messages through accept, deliver and settle as intake and delivery do."""

    def __init__(self, store: Store) -> None:
        self.store = store
        octets = octets_of(1)
        self.content = Content(hashlib.sha256(octets).digest(), len(octets), octets)
        self.forms: WireForms = wire_forms(octets)
        self.background: set[asyncio.Task[None]] = set()
        self.slots = asyncio.Semaphore(1000)

    async def arrive(self, accounts: list[AccountId], wait: bool = False) -> None:
        number = SpoolId(new_id())
        now_s = time.time()
        envelope = Envelope(Address("eve", "elsewhere.test"))
        message = Spooled(number, envelope, self.content, b"Received: by us\r\n", now_s, message_id="1@x")
        jobs = [
            Job(
                JobId(new_id()), number, Recipient(Address("ada", "pillarbox.test")), Target("local", account),
                queued_s=now_s, next_s=now_s, expires_s=now_s + 432000,
            )
            for account in accounts
        ]  # fmt: skip
        events = [TraceEvent(now_s, number, "received", "", "1@x", "eve@elsewhere.test")]
        claims = await self.store.spool.accept(message, jobs, events, claim=len(jobs))
        await self.slots.acquire()
        task = asyncio.ensure_future(self._deliver(message, claims))
        self.background.add(task)
        task.add_done_callback(self.background.discard)

    async def _deliver(self, message: Spooled, claims: list[Any]) -> None:
        async def one(claim: Any) -> None:
            account = AccountId(claim.job.target.name)
            email = NewEmail(
                email_id(message.id, account), message.content, b"Delivered-To: ada\r\n" + message.prefix, 0,
                forms=self.forms,
            )  # fmt: skip
            await self.store.mailboxes.deliver(account, [Delivery(claim.job.id, email)])

        await asyncio.gather(*(one(claim) for claim in claims))
        events = [TraceEvent(time.time(), message.id, "delivered", "ada@pillarbox.test")]
        await self.store.spool.settle([Settlement(c.job.id, c.token, Delivered()) for c in claims], events)
        self.slots.release()

    async def done(self) -> None:
        while self.background:
            await asyncio.gather(*self.background)


@asynccontextmanager
async def opened(home: Path) -> AsyncIterator[Store]:
    store = await open_store(home, signals=None, settings=Settings(), clock=WallClock(), role="bench")
    try:
        yield store
    finally:
        await store.close()


async def accounts_in(store: Store, count: int) -> list[AccountId]:
    accounts = [AccountId(base32_id(new_id())) for _ in range(count)]
    start = time.perf_counter()
    for at in range(0, count, 50):
        await asyncio.gather(*(store.mailboxes.create_account(account) for account in accounts[at : at + 50]))
    if count > 1:
        print(f"  {count} accounts made, {(time.perf_counter() - start) / count * 1e3:.2f} ms each")
    return accounts


async def timed(what: str, count: int, work: Callable[[], Awaitable[None]]) -> None:
    start, cpu = time.perf_counter(), time.process_time()
    await work()
    wall, cpu = time.perf_counter() - start, time.process_time() - cpu
    print(f"{what}: {count / wall:.0f}/s, CPU {cpu / count * 1e6:.0f} µs each, {wall:.2f} s")
    sys.stdout.flush()


async def arrivals(store: Store, what: str, accounts: list[AccountId], count: int, sessions: int = 20) -> None:
    flow = Arrivals(store)

    async def session(number: int) -> None:
        for i in range(number, count, sessions):
            await flow.arrive([accounts[i % len(accounts)]])

    async def work() -> None:
        await asyncio.gather(*(session(i) for i in range(sessions)))
        await flow.done()

    await timed(what, count, work)


async def one(home: Path) -> None:
    async with opened(home) as store:
        accounts = await accounts_in(store, 1)
        await arrivals(store, "warm-up", accounts, 500)
        await arrivals(store, "one mailbox, 20 sessions", accounts, 8000)


async def spread(home: Path) -> None:
    async with opened(home) as store:
        accounts = await accounts_in(store, 2000)
        await arrivals(store, "2,000 accounts, 20 sessions, first", accounts, 4000)
        await arrivals(store, "2,000 accounts, 20 sessions, again", accounts, 4000)


async def fan(home: Path) -> None:
    async with opened(home) as store:
        accounts = await accounts_in(store, 1000)
        flow = Arrivals(store)

        async def work() -> None:
            await flow.arrive(accounts)
            await flow.done()

        await timed("one message to 1,000 accounts, first", 1000, work)
        await timed("one message to 1,000 accounts, again", 1000, work)


async def read(home: Path) -> None:
    async with opened(home) as store:
        [account] = await accounts_in(store, 1)
        inbox = (await store.mailboxes.status(account, "INBOX")).id

        async def fill() -> None:
            for at in range(0, 100_000, 1000):
                await store.mailboxes.append(account, inbox, [email_of(i, 1500) for i in range(at, at + 1000)])

        await timed("append of 100,000 by 1,000 (with forms)", 100_000, fill)
        await store.checkpoint()

        async def fetch(*columns: str) -> None:
            count = 0
            async for piece in store.mailboxes.fetch(account, inbox, ALL, columns):
                count += len(piece.placements)
            assert count == 100_000

        async def modseqs() -> None:
            for _ in range(10_000):
                await store.mailboxes.modseq(account)

        async def flags(mode: str) -> None:
            await store.mailboxes.set_flags(account, inbox, ALL, mode, frozenset(["\\Seen"]))

        async def uids() -> None:
            await store.mailboxes.uids(account, inbox)

        async def expunge() -> None:
            await store.mailboxes.expunge(account, inbox, ALL, only_deleted=False)

        async def statuses() -> None:
            for _ in range(10_000):
                await store.mailboxes.status(account, "INBOX")

        async def opens() -> None:
            for i in range(5_000):
                await (await store.mailboxes.open(account, 1 + i * 17)).read()

        for _ in range(3):
            await timed("uids", 1, uids)
            await timed("fetch of flags", 100_000, fetch)
            await timed("fetch of ENVELOPE", 100_000, lambda: fetch("envelope"))
            await timed("fetch of headers", 100_000, lambda: fetch("headers"))
            await timed("fetch of BODYSTRUCTURE", 100_000, lambda: fetch("bodystructure"))
        await timed("modseq", 10_000, modseqs)
        await timed("status", 10_000, statuses)
        await timed("open and read", 5_000, opens)
        for mode in "+-+":
            await timed(f"flags {mode}\\Seen", 100_000, lambda mode=mode: flags(mode))  # type: ignore[misc]
        await timed("expunge of all", 100_000, expunge)


async def append(home: Path) -> None:
    async with opened(home) as store:
        [account] = await accounts_in(store, 1)
        inbox = (await store.mailboxes.status(account, "INBOX")).id
        emails = [email_of(i) for i in range(1000)]

        async def work() -> None:
            for email in emails:
                await store.mailboxes.append(account, inbox, [email])

        await timed("append of one", 1000, work)


async def opening(home: Path) -> None:
    async with opened(home) as store:
        accounts = await accounts_in(store, 600)

        async def work() -> None:
            for account in accounts:
                await store.mailboxes.modseq(account)

        await timed("open account, read modseq", 600, work)


def _other(home: str, account: str, count: int) -> None:
    async def story() -> None:
        async with opened(Path(home)) as store:
            await arrivals(store, f"  process {os.getpid()}", [AccountId(account)], count)

    asyncio.run(story())


async def two(home: Path) -> None:
    async with opened(home) as store:
        [account] = await accounts_in(store, 1)
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_other, args=(str(home), account, 4000)) for _ in range(2)]
    start = time.perf_counter()
    for process in processes:
        process.start()
    for process in processes:
        await asyncio.to_thread(process.join)
    print(f"two processes, one mailbox: {8000 / (time.perf_counter() - start):.0f}/s with start-up")


BENCHES = {"one": one, "spread": spread, "fan": fan, "read": read, "append": append, "open": opening, "two": two}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--home", type=Path)
    parser.add_argument("--asyncio", action="store_true", help="not uvloop")
    parser.add_argument("names", nargs="*", choices=[*BENCHES, []])
    options = parser.parse_args()
    for name in options.names or BENCHES:
        home = Path(tempfile.mkdtemp(prefix="pillarbox-bench-", dir=options.home))
        try:
            init_home(home / "home")
            if options.asyncio:
                asyncio.run(BENCHES[name](home / "home"))
            else:
                import uvloop

                uvloop.run(BENCHES[name](home / "home"))
        finally:
            shutil.rmtree(home, ignore_errors=True)


if __name__ == "__main__":
    main()
