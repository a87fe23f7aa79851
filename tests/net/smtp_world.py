"""A desk that keeps what it accepts in memory, a listener on loopback in front of it, and a plain client."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import structlog

from pillarbox.mail.desk import Session, Transaction
from pillarbox.model.address import Address
from pillarbox.model.envelope import Envelope, Recipient
from pillarbox.model.errors import Refused, StoreFull
from pillarbox.model.ids import AccountId
from pillarbox.model.mailbox import Account
from pillarbox.model.outcome import Deferred, Delivered, Outcome
from pillarbox.model.secret import Secret, make_secret
from pillarbox.model.settings import Limits, Listener, Settings
from pillarbox.model.status import Status
from pillarbox.net.smtpd import SmtpService
from pillarbox.net.tls import ServerTls, make_self_signed

SECRET = make_secret("s3cret", b"0123456789abcdef", 4096)
ADA = Account(AccountId("a" * 26), Address("ada", "us.example"), "active", secret=SECRET)


class Kept:
    """A ContentWriter in memory."""

    def __init__(self) -> None:
        self.octets = bytearray()
        self.is_aborted = False

    @property
    def size(self) -> int:
        return len(self.octets)

    def write(self, octets: bytes) -> None:
        self.octets += octets

    async def drain(self) -> None:
        await asyncio.sleep(0)

    def abort(self) -> None:
        self.is_aborted = True


@dataclass
class MemoryDesk:
    """Desk, Gate and Logins. Waits for `turns` turns of the loop in each answer; `hold` stops `accept` until set."""

    turns: int = 0
    messages: list[tuple[Envelope, list[Recipient], bytes]] = field(default_factory=list)
    writers: list[Kept] = field(default_factory=list)
    sessions: list[Session] = field(default_factory=list)
    inside: int = 0
    admits: bool = True
    trusts: bool = False
    accept_error: Exception | None = None
    hold: asyncio.Event | None = None
    accepting: asyncio.Event = field(default_factory=asyncio.Event)

    def admit(self, session: Session) -> None:
        if not self.admits:
            raise Refused(Status(4, 7, 0), "sessions-per-ip", "too many sessions from your address")
        session.trusted = self.trusts
        self.inside += 1
        self.sessions.append(session)

    def login(self, session: Session) -> None: ...

    def leave(self, session: Session) -> None:
        self.inside -= 1

    async def mail(self, session: Session, envelope: Envelope, size_octets: int) -> Transaction:
        await self._wait()
        return Transaction(envelope)

    async def rcpt(self, session: Session, transaction: Transaction, recipient: Recipient) -> None:
        await self._wait()
        if recipient.address.domain != "us.example":
            raise Refused(Status(5, 7, 1), "relay", "relay denied")
        if recipient.address.local == "nobody":
            raise Refused(Status(5, 1, 1), "unknown")
        if recipient.address.local == "surprise":
            raise ZeroDivisionError("never seen by a peer")
        transaction.recipients.append(recipient)

    def content(self, session: Session, transaction: Transaction) -> Any:
        self.writers.append(Kept())
        return self.writers[-1]

    async def accept(self, session: Session, transaction: Transaction, content: Any) -> tuple[str, list[Outcome]]:
        self.accepting.set()
        if self.hold is not None:
            await self.hold.wait()
        await self._wait()
        if self.accept_error is not None:
            raise self.accept_error
        self.messages.append((transaction.envelope, transaction.recipients, bytes(content.octets)))
        outcomes: list[Outcome] = [
            Deferred(Status(4, 2, 2), "mailbox full") if r.address.local == "full" else Delivered()
            for r in transaction.recipients
        ]
        return "feedfacefeedface", outcomes

    async def password(self, session: Session, username: str, password: str) -> Account:
        await self._wait()
        if (username, password) != ("ada@us.example", "s3cret"):
            session.auth_failures += 1
            raise Refused(Status(5, 7, 8), "credentials")
        return ADA

    async def verifier(self, session: Session, username: str) -> tuple[Secret, Account | None]:
        known = username == "ada@us.example"
        return (SECRET, ADA) if known else (replace(SECRET, stored_key=bytes(32)), None)

    async def scram_done(self, session: Session, username: str, account: Account | None, ok: bool) -> Account:
        if not ok or account is None:
            session.auth_failures += 1
            raise Refused(Status(5, 7, 8), "credentials")
        return account

    async def _wait(self) -> None:
        for _ in range(self.turns):
            await asyncio.sleep(0)


FULL = StoreFull("disk full")
_certificates: dict[str, ServerTls] = {}


def server_tls(folder: Path) -> ssl.SSLContext:
    """A context with a certificate for localhost; made once."""
    if "localhost" not in _certificates:
        chain, key = make_self_signed(["localhost", "127.0.0.1"], 1_700_000_000.0, days=20_000)
        (folder / "cert.pem").write_bytes(chain)
        (folder / "key.pem").write_bytes(key)
        _certificates["localhost"] = ServerTls(folder / "cert.pem", folder / "key.pem")
    return _certificates["localhost"].context


@contextlib.asynccontextmanager
async def listening(
    desk: MemoryDesk,
    protocol: str = "smtp",
    tls: ssl.SSLContext | None = None,
    mode: str = "starttls",
    limits: Limits | None = None,
    cleartext: bool = False,
) -> AsyncIterator[tuple[SmtpService, int]]:
    """A service on a free port of 127.0.0.1: (service, port)."""
    desks: Any = desk
    service = SmtpService(
        desks,
        desks,
        desks,
        Settings(hostname="mail.us.example", limits=limits or Limits(greeting_wait_s=0.0)),
        Listener(protocol, "127.0.0.1", tls=mode, cleartext_login=cleartext),
        tls,
        structlog.get_logger(),
    )
    server = await asyncio.get_running_loop().create_server(
        service.connection, "127.0.0.1", 0, ssl=tls if mode == "implicit" else None
    )
    service.start()
    try:
        yield service, server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await service.stop(0.1)


class PlainClient:
    """Sends octets, reads replies."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def connect(cls, port: int, greet: bool = True, **options: Any) -> PlainClient:
        client = cls(*await asyncio.open_connection("127.0.0.1", port, **options))
        if greet:
            await client.reply()
        return client

    async def say(self, octets: bytes) -> str:
        """Send, and return one reply."""
        self.writer.write(octets)
        return await self.reply()

    async def reply(self) -> str:
        lines = []
        while True:
            line = await asyncio.wait_for(self.reader.readline(), 10)
            lines.append(line.decode())
            if line[3:4] != b"-":
                return "".join(lines)

    async def rest(self) -> bytes:
        """Everything until the server closes."""
        return await asyncio.wait_for(self.reader.read(), 10)

    async def start_tls(self) -> None:
        assert (await self.say(b"STARTTLS\r\n")).startswith("220")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        await self.writer.start_tls(context)

    def close(self) -> None:
        self.writer.close()
