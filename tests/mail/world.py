"""A small house of mail for tests: one domain, two users, a desk, and how to talk to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from pillarbox.mail.desk import Session, Transaction
from pillarbox.mail.intake import MailDesk
from pillarbox.mail.queue import Mover
from pillarbox.model.address import Address, parse_address
from pillarbox.model.clock import FakeClock
from pillarbox.model.envelope import Envelope, Recipient
from pillarbox.model.ids import AccountId
from pillarbox.model.mailbox import Account
from pillarbox.model.outcome import Outcome
from pillarbox.model.settings import Settings
from pillarbox.store.api import Alias

from .fakes import Counter, Log, Resolver, Signals, Store, Wire, seeded

MESSAGE = (
    b"From: Carl <carl@elsewhere.example>\r\nTo: ada@us.example\r\nSubject: Hello\r\n"
    b"Date: Fri, 15 Jan 2027 08:00:00 +0000\r\nMessage-ID: <1@elsewhere.example>\r\n\r\nHello Ada.\r\n"
)
SETTINGS = Settings(hostname="mx.us.example", postmaster="ada@us.example", scram_iterations=4096)


def address(text: str) -> Address:
    if text == "postmaster":
        return Address("postmaster", "")
    found = parse_address(text)
    assert found is not None, text
    return found


class World:
    """Users ada and bob at us.example; everything in memory."""

    def __init__(self, settings: Settings = SETTINGS, seed: int = 1) -> None:
        self.settings = settings
        self.clock = FakeClock()
        self.store = Store(self.clock)
        self.log = Log()
        self.metrics = Counter()
        self.signals = Signals()
        self.random = seeded(seed)
        self.resolver = Resolver()
        self.wire = Wire()

    async def furnish(self, users: Sequence[str] = ("ada@us.example", "bob@us.example")) -> World:
        await self.store.directory.add_domain("us.example")
        for user in users:
            await self.add_user(user)
        return self

    async def add_user(self, text: str, **fields: Any) -> Account:
        parsed = address(text)
        account = Account(AccountId(parsed.local), parsed, "active", **fields)
        await self.store.mailboxes.create_account(account.id)
        await self.store.directory.add_accounts([account])
        return account

    async def account(self, name: str) -> Account:
        account = await self.store.directory.account_by_id(AccountId(name))
        assert account is not None
        return account

    async def alias(self, text: str, *targets: str) -> None:
        own = Address("", text[1:]) if text.startswith("@") else address(text)
        await self.store.directory.add_alias(Alias(own, tuple(address(target) for target in targets)))

    def desk(self, **kwargs: Any) -> MailDesk:
        return MailDesk(
            self.store,  # type: ignore[arg-type]
            self.settings,
            self.clock,
            self.random,
            self.log,
            self.metrics,
            signals=self.signals,
            **kwargs,
        )

    def mover(self, **kwargs: Any) -> Mover:
        return Mover(
            self.store,  # type: ignore[arg-type]
            self.wire,
            self.resolver,
            self.settings,
            self.clock,
            self.random,
            self.log,
            self.metrics,
            self.signals,
            **kwargs,
        )

    def change(self, **fields: Any) -> None:
        self.settings = replace(self.settings, **fields)

    def inbox(self, name: str) -> list[bytes]:
        """The emails of an account, prefix and content."""
        return [filed.prefix + (filed.content.data or b"") for filed in self.store.mailboxes.filed[name]]


def session(protocol: str = "smtp", **fields: Any) -> Session:
    fields.setdefault("peer", "192.0.2.7")
    fields.setdefault("helo", "client.example")
    fields.setdefault("esmtp", True)
    return Session(protocol, **fields)


def envelope(sender: str, **fields: Any) -> Envelope:
    return Envelope(address(sender) if sender else None, **fields)


async def send(
    desk: MailDesk,
    at: Session,
    sender: str,
    recipients: Sequence[str],
    message: bytes = MESSAGE,
    **fields: Any,
) -> tuple[str, list[Outcome]]:
    """A whole transaction; what refuses raises."""
    transaction: Transaction = await desk.mail(at, envelope(sender, **fields), len(message))
    for recipient in recipients:
        await desk.rcpt(at, transaction, Recipient(address(recipient)))
    content = desk.content(at, transaction)
    content.write(message)
    return await desk.accept(at, transaction, content)
