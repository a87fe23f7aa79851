"""POP3 with everything real below it: SQLite store, logins, gate, signals; the standard library's client above."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import poplib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pytest
import structlog

from pillarbox.mail.limits import DoorGate
from pillarbox.mail.logins import LoginDesk
from pillarbox.model.address import Address
from pillarbox.model.ids import AccountId, EmailId, base32_id, make_id
from pillarbox.model.mailbox import Account
from pillarbox.model.secret import make_secret
from pillarbox.model.settings import Listener, Settings
from pillarbox.model.uids import UidSet
from pillarbox.net.clock import SystemClock
from pillarbox.net.pop3d import Pop3Listener
from pillarbox.net.signals import LocalSignals
from pillarbox.store.api import NewEmail, Store
from pillarbox.store.sqlite.engine import init_home, open_store

T = TypeVar("T")
PASSWORD = "secret word"
PREFIX = b"Return-Path: <eve@elsewhere.test>\r\n"
MAIL = [b"Subject: %d\r\n\r\n.dot\r\nline %d\r\n" % (i, i) for i in range(40)]
LARGE = b"Subject: large\r\n\r\n" + b"".join(b".%06d\r\n" % i for i in range(60_000))


@dataclass
class Home:
    store: Store
    account: Account
    port: int
    listener: Pop3Listener

    async def poplib(self, use: Callable[[poplib.POP3], T], login: bool = True) -> T:
        """Let the standard library's client do something, in a thread."""

        def session() -> T:
            client = poplib.POP3("127.0.0.1", self.port, timeout=20)
            try:
                if login:
                    client.user("ada@pillarbox.test")
                    client.pass_(PASSWORD)
                result = use(client)
                if client.file is not None:  # type: ignore[attr-defined]
                    client.quit()
                return result
            finally:
                client.close()

        return await asyncio.get_running_loop().run_in_executor(None, session)

    async def append(self, *messages: bytes) -> None:
        inbox = await self.store.mailboxes.status(self.account.id, "INBOX")
        emails = []
        for octets in messages:
            writer = self.store.blobs.writer()
            writer.write(octets)
            await writer.drain()
            number = EmailId(make_id(0, os.urandom))
            emails.append(NewEmail(number, await writer.finish(), PREFIX, received_s=1_700_000_000))
        await self.store.mailboxes.append(self.account.id, inbox.id, emails)


@contextlib.asynccontextmanager
async def living(home: Path) -> AsyncIterator[Home]:
    if not (home / "spool.db").exists():
        init_home(home)
    settings = Settings(hostname="mx.pillarbox.test", trusted_networks=("127.0.0.0/8",), scram_iterations=4096)
    clock, log = SystemClock(), structlog.get_logger("test")
    signals = LocalSignals(home / "run")
    signals.start()
    store = await open_store(home, signals=signals, settings=settings, clock=clock, role="all")
    address = Address("ada", "pillarbox.test")
    account = await store.directory.account(address) if await store.directory.domains() else None
    if account is None:
        await store.directory.add_domain("pillarbox.test")
        secret = make_secret(PASSWORD, os.urandom(16), 4096)
        account = Account(AccountId(base32_id(make_id(0, os.urandom))), address, "active", secret=secret)
        await store.directory.add_account(account)
        await store.mailboxes.create_account(account.id)
    logins = LoginDesk(store, settings, clock, os.urandom, log)
    listener = Pop3Listener(
        store=store,
        logins=logins,
        gate=DoorGate(settings, clock),
        settings=settings,
        listener=Listener("pop3", "127.0.0.1", cleartext_login=True),
        tls=None,
        clock=clock,
        log=log,
        run=home / "run",
        signals=signals,
    )
    server = await asyncio.get_running_loop().create_server(listener.protocol_factory, "127.0.0.1", 0)
    try:
        yield Home(store, account, server.sockets[0].getsockname()[1], listener)
    finally:
        server.close()
        await listener.stop(5)
        logins.close()
        await store.close()
        signals.close()


def whole(response: tuple[bytes, list[bytes], int]) -> bytes:
    return b"\r\n".join([*response[1], b""])


def test_download_and_delete_and_unique_ids_over_restarts(tmp_path: Path) -> None:
    def download(client: poplib.POP3) -> list[bytes]:
        assert client.stat() == (41, sum(len(PREFIX + m) for m in (*MAIL, LARGE)))
        assert [whole(client.retr(i + 1)) for i in range(40)] == [PREFIX + m for m in MAIL]
        assert hashlib.sha256(whole(client.retr(41))).digest() == hashlib.sha256(PREFIX + LARGE).digest()
        assert client.top(41, 1)[1] == [PREFIX.strip(), b"Subject: large", b"", b".000000"]
        for number in (2, 3, 41):
            client.dele(number)
        ids: list[bytes] = client.uidl()[1]
        assert len(ids) == 38
        return [line.split()[1] for line in ids]

    async def first() -> list[bytes]:
        async with living(tmp_path) as home:
            await home.append(*MAIL, LARGE)
            ids = await home.poplib(download)
            inbox = await home.store.mailboxes.status(home.account.id, "INBOX")
            assert inbox.messages == 38
            return ids

    async def second(ids: list[bytes]) -> None:
        async with living(tmp_path) as home:
            await home.append(b"Subject: new\r\n\r\n")
            now = await home.poplib(lambda client: client.uidl()[1])
            assert [line.split()[1] for line in now][:-1] == ids
            assert len(set(now)) == 39

    asyncio.run(second(asyncio.run(first())))


def test_others_expunge_and_deliver_meanwhile(tmp_path: Path) -> None:
    async def story() -> None:
        async with living(tmp_path) as home:
            await home.append(*MAIL[:4])
            inbox = await home.store.mailboxes.status(home.account.id, "INBOX")
            loop = asyncio.get_running_loop()

            def elsewhere() -> None:
                async def change() -> None:
                    await home.store.mailboxes.expunge(home.account.id, inbox.id, UidSet.of([2]), only_deleted=False)
                    await home.append(MAIL[9])

                asyncio.run_coroutine_threadsafe(change(), loop).result(10)

            def use(client: poplib.POP3) -> None:
                assert whole(client.retr(1)) == PREFIX + MAIL[0]
                elsewhere()
                for verb in (client.retr, lambda n: client.top(n, 0), client.list):
                    with pytest.raises(poplib.error_proto, match="expunged"):
                        verb(2)
                assert whole(client.retr(3)) == PREFIX + MAIL[2]
                with pytest.raises(poplib.error_proto, match="no such"):
                    client.retr(5)
                client.dele(4)

            await home.poplib(use)
            assert await home.poplib(lambda client: len(client.list()[1])) == 3

    asyncio.run(story())


def test_login_failures_and_the_lock(tmp_path: Path) -> None:
    async def story() -> None:
        async with living(tmp_path) as home:

            def wrong(client: poplib.POP3) -> None:
                client.user("nobody@pillarbox.test")
                with pytest.raises(poplib.error_proto, match=r"\[AUTH\]"):
                    client.pass_("x")
                client.user("ada@pillarbox.test")
                with pytest.raises(poplib.error_proto, match=r"\[AUTH\]"):
                    client.pass_("x")

            await home.poplib(wrong, login=False)

            def twice(client: poplib.POP3) -> None:
                with pytest.raises(poplib.error_proto, match=r"\[IN-USE\]"):
                    second = poplib.POP3("127.0.0.1", home.port, timeout=20)
                    second.user("ada@pillarbox.test")
                    second.pass_(PASSWORD)
                second.close()

            await home.poplib(twice)

    asyncio.run(story())


def test_a_disabled_account_is_thrown_out(tmp_path: Path) -> None:
    async def story() -> None:
        async with living(tmp_path) as home:
            reader, writer = await asyncio.open_connection("127.0.0.1", home.port)
            writer.write(f"USER ada@pillarbox.test\r\nPASS {PASSWORD}\r\n".encode())
            for _ in range(3):
                assert (await reader.readline()).startswith(b"+OK")
            await home.store.directory.set_state(home.account.id, "disabled", 0.0)
            with contextlib.suppress(ConnectionError):
                assert await asyncio.wait_for(reader.read(), 10) == b""
            writer.close()

    asyncio.run(story())
