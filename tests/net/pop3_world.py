"""A store, logins and a gate small enough to see through, for POP3's shell; and a client that speaks lines."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from array import array
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import structlog

from pillarbox.mail.desk import Session
from pillarbox.model.address import Address
from pillarbox.model.clock import FakeClock
from pillarbox.model.errors import NoSuchMessage, Refused, Trouble
from pillarbox.model.ids import AccountId
from pillarbox.model.mailbox import Account, Mailbox, Placements
from pillarbox.model.secret import Secret, make_secret
from pillarbox.model.settings import Limits, Listener, Settings
from pillarbox.model.status import Status
from pillarbox.model.uids import UidSet
from pillarbox.net.pop3d import Pop3Listener
from pillarbox.store.api import Bundle, Changes, Signals, Slice, Store

PASSWORD = "secret word"
ADA = Account(AccountId("0" * 26), Address("ada", "pillarbox.test"), "active")
SECRET = make_secret(PASSWORD, b"salt" * 4, 4096)
LARGE = 128 * 1024


class FakeEmail:
    def __init__(self, mailboxes: FakeMailboxes, octets: bytes) -> None:
        self.prefix = b""
        self.parts = b""
        self.size = len(octets)
        self._mailboxes = mailboxes
        self._octets = octets

    async def read(self, offset: int = 0, length: int | None = None) -> bytes:
        self._mailboxes.reads += 1
        if self._mailboxes.reads == self._mailboxes.fail_at_read:
            raise Trouble("on purpose")
        return self._octets[offset : None if length is None else offset + length]


class FakeMailboxes:
    """One account's INBOX: `messages` by UID."""

    def __init__(self, *messages: bytes) -> None:
        self.messages = dict(enumerate(messages, start=1))
        self.change = 1
        self.gone: set[int] = set()
        self.fetches: list[str] = []
        self.reads = 0
        self.fail_at_read = -1
        self.fails: Exception | None = None
        self.knows_parts = True

    def _mailbox(self) -> Mailbox:
        size = sum(map(len, self.messages.values()))
        return Mailbox(1, "INBOX", 0x1234, 9999, self.change, len(self.messages), 0, 0, size, 1)

    async def modseq(self, account: AccountId) -> int:
        if self.fails:
            raise self.fails
        return self.change

    async def status(self, account: AccountId, name: str) -> Mailbox:
        return self._mailbox()

    async def fetch(
        self, account: AccountId, mailbox: int, uids: UidSet, columns: Sequence[str] = ()
    ) -> AsyncIterator[Slice]:
        if columns:
            self.fetches.append(str(uids))
        chosen = [uid for uid in self.messages if uid in uids]
        for start in range(0, len(chosen), 3):  # small slices, so that there are several
            piece, forms = Placements(), []
            for uid in chosen[start : start + 3]:
                octets = self.messages[uid]
                piece.uids.append(uid)
                piece.emails.append(uid + 100)
                piece.sizes.append(len(octets))
                if columns:
                    forms.append((octets[:7], octets[7:] if len(octets) <= LARGE else None))
            await asyncio.sleep(0)
            yield Slice(piece, forms)

    async def bundle(self, account: AccountId, emails: Sequence[int], heads_only: bool = False) -> Bundle:
        if self.fails:
            raise self.fails
        await asyncio.sleep(0)
        self.fetches.append(("heads " if heads_only else "") + str(UidSet.of([email - 100 for email in emails])))
        found, sizes, starts = [], [], []
        for email in emails:
            octets = self.messages.get(email - 100)
            if octets is not None and heads_only:
                octets = octets[: octets.find(b"\r\n\r\n") + 4] if b"\r\n\r\n" in octets else octets[:LARGE]
            here = octets is not None and len(octets) <= LARGE
            sizes.append(len(octets) if octets is not None and here else -1)
            starts.append(octets.find(b"\n\r\n") + 3 if octets is not None and self.knows_parts else 0)
            found.append(octets if octets is not None and here else b"")
        whole = b"".join(found)
        return Bundle(self.change, whole, sizes, starts, b"\n." in whole or any(o.startswith(b".") for o in found))

    async def open(self, account: AccountId, email: int) -> FakeEmail:
        if email - 100 not in self.messages:
            raise NoSuchMessage("gone")
        return FakeEmail(self, self.messages[email - 100])

    async def expunge(self, account: AccountId, mailbox: int, uids: UidSet, only_deleted: bool = True) -> UidSet:
        assert not only_deleted
        if self.fails:
            raise self.fails
        removed = [uid for uid in self.messages if uid in uids]
        for uid in removed:
            self.expunge_elsewhere(uid)
        return UidSet.of(removed)

    async def changes(self, account: AccountId, mailbox: int, since: int) -> Changes:
        return Changes(self._mailbox(), Placements(array("I")), UidSet.of(self.gone))

    def expunge_elsewhere(self, uid: int) -> None:
        del self.messages[uid]
        self.gone.add(uid)
        self.change += 1


class FakeDirectory:
    def __init__(self) -> None:
        self.state = "active"

    async def account_by_id(self, account: AccountId) -> Account | None:
        return Account(account, ADA.address, self.state)


class FakeLogins:
    def __init__(self) -> None:
        self.asked: list[str] = []

    async def password(self, session: Session, username: str, password: str) -> Account:
        self.asked.append(username)
        await asyncio.sleep(0)
        if username == "busy":
            raise Refused(Status(4, 3, 2), "login-queue", "too busy")
        if (username, password) != ("ada@pillarbox.test", PASSWORD):
            session.auth_failures += 1
            raise Refused(Status(5, 7, 8), "credentials", "authentication failed")
        return ADA

    async def verifier(self, session: Session, username: str) -> tuple[Secret, Account | None]:
        return SECRET, ADA if username == "ada@pillarbox.test" else None

    async def scram_done(self, session: Session, username: str, account: Account | None, ok: bool) -> Account:
        if not ok or account is None:
            session.auth_failures += 1
            raise Refused(Status(5, 7, 8), "credentials", "authentication failed")
        return account


class FakeGate:
    def __init__(self) -> None:
        self.inside = 0
        self.full = False

    def admit(self, session: Session) -> None:
        if self.full:
            raise Refused(Status(4, 7, 0), "sessions-per-ip", "too many sessions from your network")
        self.inside += 1

    def login(self, session: Session) -> None:
        if session.peer == "nobody":
            raise Refused(Status(4, 7, 0), "sessions-per-account")

    def leave(self, session: Session) -> None:
        self.inside -= 1


class FakeSignals:
    def __init__(self) -> None:
        self.wakes: dict[str, list[Callable[[], None]]] = {}

    def publish(self, topic: str) -> None:
        for wake in list(self.wakes.get(topic, [])):
            wake()

    def subscribe(self, topic: str, wake: Callable[[], None]) -> Callable[[], None]:
        self.wakes.setdefault(topic, []).append(wake)

        def end() -> None:
            if wake in self.wakes[topic]:
                self.wakes[topic].remove(wake)

        return end


@dataclass
class World:
    """Everything around one listener."""

    run: Path
    mailboxes: FakeMailboxes
    tls: ssl.SSLContext | None = None
    cleartext: bool = True
    limits: Limits = field(default_factory=Limits)
    clock: FakeClock = field(default_factory=FakeClock)
    logins: FakeLogins = field(default_factory=FakeLogins)
    gate: FakeGate = field(default_factory=FakeGate)
    directory: FakeDirectory = field(default_factory=FakeDirectory)
    signals: FakeSignals = field(default_factory=FakeSignals)
    port: int = 0
    listener: Pop3Listener = field(init=False)

    def __post_init__(self) -> None:
        self.listener = Pop3Listener(
            store=cast(Store, self),
            logins=self.logins,
            gate=self.gate,
            settings=Settings(hostname="mx.pillarbox.test", limits=self.limits),
            listener=Listener("pop3", "127.0.0.1", cleartext_login=self.cleartext),
            tls=self.tls,
            clock=self.clock,
            log=structlog.get_logger("test"),
            run=self.run,
            signals=cast(Signals, self.signals),
        )

    @contextlib.asynccontextmanager
    async def serving(self, implicit: ssl.SSLContext | None = None) -> AsyncIterator[World]:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(self.listener.protocol_factory, "127.0.0.1", 0, ssl=implicit)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            await self.listener.stop(5)
            assert self.gate.inside == 0
            assert not list((self.run / "pop3").iterdir())

    async def client(self, login: bool = True, **options: Any) -> Client:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, limit=1 << 26, **options)
        client = Client(reader, writer)
        client.greeting = await client.line()
        if login:
            assert await client.say("USER ada@pillarbox.test") == "+OK"
            assert (await client.say(f"PASS {PASSWORD}")).startswith("+OK ")
        return client


class Client:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.greeting = ""

    async def line(self) -> str:
        octets = await asyncio.wait_for(self.reader.readline(), 10)
        assert octets.endswith(b"\r\n") or not octets
        return octets.decode().removesuffix("\r\n")

    async def say(self, text: str) -> str:
        """Send a line, return the first line of the answer."""
        self.write(text)
        return await self.line()

    def write(self, *lines: str) -> None:
        self.writer.write("".join(line + "\r\n" for line in lines).encode())

    async def body(self) -> bytes:
        """What follows, up to the final dot, dots undone."""
        lines = []
        while (line := await asyncio.wait_for(self.reader.readline(), 10)) != b".\r\n":
            assert line
            lines.append(line[1:] if line.startswith(b".") else line)
        return b"".join(lines)

    async def ask(self, text: str) -> bytes:
        assert (await self.say(text)).startswith("+OK")
        return await self.body()

    async def ends(self) -> bool:
        """Has the server closed, with nothing more to say?"""
        return await asyncio.wait_for(self.reader.read(), 10) == b""

    def close(self) -> None:
        self.writer.close()

    def abort(self) -> None:
        self.writer.transport.abort()
