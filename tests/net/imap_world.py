"""A whole IMAP server in a test: the SQLite store in a temporary home, the shell on loopback, users ada and bob."""

from __future__ import annotations

import asyncio
import os
import re
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import structlog
import uvloop

from pillarbox.mail.desk import Session
from pillarbox.model.address import Address
from pillarbox.model.clock import FakeClock
from pillarbox.model.errors import Refused
from pillarbox.model.ids import AccountId, EmailId, base32_id, make_id
from pillarbox.model.mailbox import Account
from pillarbox.model.secret import Secret, make_secret, secret_matches
from pillarbox.model.settings import Limits, Listener, Settings
from pillarbox.model.status import Status
from pillarbox.net.imapd import ImapListener
from pillarbox.store.api import NewEmail, Store
from pillarbox.store.sqlite.engine import init_home, open_store

DEFAULTS = Limits()
PASSWORD = "secret"
SECRET = make_secret(PASSWORD, b"0123456789abcdef", 4096)


class Signals:
    """Wakes within the process, at once."""

    def __init__(self) -> None:
        self.waiting: dict[str, list[Callable[[], None]]] = {}

    def publish(self, topic: str) -> None:
        for wake in list(self.waiting.get(topic, ())):
            wake()

    def subscribe(self, topic: str, wake: Callable[[], None]) -> Callable[[], None]:
        self.waiting.setdefault(topic, []).append(wake)

        def end() -> None:
            if wake in self.waiting.get(topic, ()):
                self.waiting[topic].remove(wake)

        return end


class Logins:
    """Knows the accounts of the directory; counts failures as the real one does."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.asked: list[tuple[str, str]] = []
        self.refusal: Refused | None = None

    async def password(self, session: Session, username: str, password: str) -> Account:
        self.asked.append((username, password))
        account = await self._find(session, username)
        if account and account.state == "active" and account.secret and secret_matches(account.secret, password):
            return account
        return await self.scram_done(session, username, None, False)

    async def _find(self, session: Session, username: str) -> Account | None:
        if self.refusal:
            raise self.refusal
        if session.auth_failures >= 3:
            raise Refused(Status(4, 7, 0), "auth-failures-per-session")
        local, _, domain = username.partition("@")
        return await self.store.directory.account(Address(local, domain or "pillarbox.test"))

    async def verifier(self, session: Session, username: str) -> tuple[Secret, Account | None]:
        account = await self._find(session, username)
        return SECRET, account

    async def scram_done(self, session: Session, username: str, account: Account | None, ok: bool) -> Account:
        if ok and account:
            return account
        session.auth_failures += 1
        raise Refused(Status(5, 7, 8), "password")


class Gate:
    """Lets `most` sessions in, and `most_logins` of them log in."""

    def __init__(self) -> None:
        self.most = self.most_logins = 10_000
        self.sessions: list[Session] = []

    def admit(self, session: Session) -> None:
        if len(self.sessions) >= self.most:
            raise Refused(Status(4, 7, 0), "sessions-per-ip")
        self.sessions.append(session)

    def login(self, session: Session) -> None:
        if sum(s.account is not None for s in self.sessions) > self.most_logins:
            raise Refused(Status(4, 7, 0), "sessions-per-account")

    def leave(self, session: Session) -> None:
        self.sessions.remove(session)


def sample(number: int) -> bytes:
    return (
        f"From: Ada Lovelace <ada@pillarbox.test>\r\nTo: bob@pillarbox.test\r\nSubject: Message {number}\r\n"
        f"Date: Fri, {number % 28 + 1:02d} Jan 2027 08:00:00 +0000\r\nMessage-ID: <{number}@pillarbox.test>\r\n"
        f"\r\nHello {number}.\r\n"
    ).encode()


class World:
    """What a test holds."""

    def __init__(self, store: Store, listener: ImapListener, port: int, clock: FakeClock) -> None:
        self.store = store
        self.listener = listener
        self.port = port
        self.clock = clock
        self.accounts: dict[str, AccountId] = {}
        self.clients: list[Client] = []

    @property
    def logins(self) -> Any:
        return self.listener.service.logins

    @property
    def gate(self) -> Any:
        return self.listener.service.gate

    async def connect(self, user: str = "", select: str = "", tls: ssl.SSLContext | None = None) -> Client:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, ssl=tls, limit=1 << 24)
        client = Client(reader, writer)
        self.clients.append(client)
        client.greeting = await client.line()
        if user:
            await client.command(f"LOGIN {user}@pillarbox.test {PASSWORD}")
        if select:
            await client.command(f"SELECT {select}")
        return client

    async def file(
        self, *messages: bytes, box: str = "INBOX", user: str = "ada", flags: tuple[str, ...] = ()
    ) -> list[int]:
        """File messages as a delivery would; returns their UIDs."""
        account = self.accounts[user]
        mailbox = await self.store.mailboxes.status(account, box)
        emails = []
        for number, message in enumerate(messages):
            writer = self.store.blobs.writer()
            writer.write(message)
            new_id = EmailId(make_id(self.clock.now() + number, os.urandom))
            emails.append(NewEmail(new_id, await writer.finish(), b"", int(self.clock.now()), frozenset(flags)))
        return [headline.uid for headline in await self.store.mailboxes.append(account, mailbox.id, emails)]


class Client:
    """A client that shows what was said: lines, literals in place with CRLF written out."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.greeting = ""
        self._tag = 0

    async def line(self) -> str:
        """One response; empty at the end of the connection."""
        whole = b""
        while True:
            line = await asyncio.wait_for(self.reader.readline(), 10)
            whole += line
            literal = re.search(rb"\{(\d+)\}\r\n\Z", line)
            if not literal:
                break
            whole = whole[:-2] + await asyncio.wait_for(self.reader.readexactly(int(literal[1])), 10)
        return whole.removesuffix(b"\r\n").decode("utf-8", "backslashreplace").replace("\r", "\\r").replace("\n", "\\n")

    def send(self, text: str | bytes) -> None:
        self.writer.write(text if isinstance(text, bytes) else text.encode())

    async def until(self, tag: str) -> list[str]:
        """Responses as far as the tagged one (or the end)."""
        lines = []
        while True:
            line = await self.line()
            if not line:
                return lines
            lines.append(line)
            if line.startswith(tag + " "):
                return lines

    async def command(self, text: str | bytes) -> list[str]:
        self._tag += 1
        tag = f"t{self._tag}"
        self.send(tag.encode() + b" " + (text if isinstance(text, bytes) else text.encode()) + b"\r\n")
        return await self.until(tag)

    async def ended(self) -> list[str]:
        """What is said until the connection ends."""
        lines = [line async for line in self._rest()]
        self.writer.close()
        return lines

    async def _rest(self) -> AsyncIterator[str]:
        while line := await self.line():
            yield line

    async def start_tls(self, context: ssl.SSLContext) -> None:
        await self.writer.start_tls(context, server_hostname="localhost")


@asynccontextmanager
async def world(
    home: Path,
    limits: Limits = DEFAULTS,
    tls: ssl.SSLContext | None = None,
    mode: str = "none",
    cleartext: bool = True,
    quota: int = 0,
) -> AsyncIterator[World]:
    settings, clock, signals = Settings(limits=limits), FakeClock(), Signals()
    init_home(home)
    store = await open_store(home, signals=signals, settings=settings, clock=clock, role="test")
    listener = ImapListener(
        store=store,
        logins=Logins(store),
        gate=Gate(),
        settings=settings,
        listener=Listener("imap", "127.0.0.1", tls=mode, cleartext_login=cleartext),
        tls=tls,
        clock=clock,
        log=structlog.get_logger("imap"),
        signals=signals,
    )
    options = {"ssl": tls} if mode == "implicit" else {}
    server = await asyncio.get_running_loop().create_server(listener.protocol_factory, "127.0.0.1", 0, **options)
    made = World(store, listener, server.sockets[0].getsockname()[1], clock)
    await store.directory.add_domain("pillarbox.test")
    for number, name in enumerate(("ada", "bob")):
        account = AccountId(base32_id(make_id(clock.now(), lambda n, k=number: bytes([k + 1]) * n)))
        made.accounts[name] = account
        await store.directory.add_account(
            Account(account, Address(name, "pillarbox.test"), "active", quota, clock.now(), SECRET)
        )
        await store.mailboxes.create_account(account)
    try:
        yield made
    finally:
        server.close()
        for client in made.clients:
            client.writer.close()
        await listener.stop(1.0)
        await store.close()


def play(home: Path, story: Callable[[World], Awaitable[None]], **options: Any) -> None:
    """Run a story in a fresh world, on uvloop as in production."""

    async def main() -> None:
        async with world(home / "home", **options) as made:
            await asyncio.wait_for(story(made), 60)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
