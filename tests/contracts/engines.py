"""Engines that the contract suite runs on, and makers of accounts, messages and jobs."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pillarbox.message.wire import WireForms
from pillarbox.model.address import Address
from pillarbox.model.clock import FakeClock
from pillarbox.model.envelope import Envelope, Recipient
from pillarbox.model.ids import AccountId, EmailId, JobId, SpoolId, base32_id, email_id, make_id
from pillarbox.model.mailbox import Content
from pillarbox.model.settings import Settings
from pillarbox.store.api import Delivery, Job, NewEmail, Spooled, Store, Target
from pillarbox.store.sqlite.engine import open_store

T = TypeVar("T")
SIMPLE = b"From: Ada <ada@pillarbox.test>\r\nSubject: %d\r\nMessage-ID: <%d@pillarbox.test>\r\n\r\nHello %d\r\n"


class LoopSignals:
    """Signals within one process, for tests."""

    def __init__(self) -> None:
        self.published: list[str] = []

    def publish(self, topic: str) -> None:
        self.published.append(topic)

    def subscribe(self, topic: str, wake: Callable[[], None]) -> Callable[[], None]:
        return lambda: None


@dataclass
class Engine:
    """A place for data that can be opened several times at once, as several processes would."""

    name: str
    home: Path
    clock: FakeClock = field(default_factory=FakeClock)
    settings: Settings = field(default_factory=Settings)
    signals: LoopSignals = field(default_factory=LoopSignals)
    made: int = 0

    @asynccontextmanager
    async def opened(self, role: str = "all") -> AsyncIterator[Store]:
        """Another process's view of the same data."""
        store = await open_store(self.home, signals=self.signals, settings=self.settings, clock=self.clock, role=role)
        try:
            yield store
        finally:
            await store.close()

    def run(self, story: Callable[[Store], Awaitable[T]]) -> T:
        """Open a store, let a story happen, close it."""

        async def whole() -> T:
            async with self.opened() as store:
                return await story(store)

        return asyncio.run(whole())

    def id(self) -> bytes:
        """16 octets, ascending."""
        self.made += 1
        return make_id(self.clock.now() + self.made / 1000, os.urandom)

    def account_id(self) -> AccountId:
        return AccountId(base32_id(self.id()))

    def email(self, number: int = 0, octets: bytes | None = None, **more: Any) -> NewEmail:
        content = content_of(SIMPLE % (number, number, number) if octets is None else octets)
        return NewEmail(EmailId(self.id()), content, **more)

    def message(self, octets: bytes = b"Subject: x\r\n\r\nbody\r\n", **more: Any) -> Spooled:
        envelope = Envelope(Address("eve", "elsewhere.test"), (), body="8BITMIME")
        return Spooled(
            SpoolId(self.id()), envelope, content_of(octets), received_s=self.clock.now(), message_id="x@y", **more
        )

    def job(self, message: Spooled, target: Target, **more: Any) -> Job:
        address = Address("ada", "pillarbox.test") if target.kind == "local" else Address("bob", target.name)
        times = {"queued_s": self.clock.now(), "next_s": self.clock.now(), "expires_s": self.clock.now() + 5 * 86400}
        return Job(JobId(self.id()), message.id, Recipient(address), target, **(times | more))

    def delivery(self, job: Job, message: Spooled, mailbox: str = "INBOX", forms: WireForms | None = None) -> Delivery:
        prefix = b"Delivered-To: " + str(job.recipient.address).encode() + b"\r\n"
        number = email_id(message.id, str(job.recipient.address))
        return Delivery(job.id, NewEmail(number, message.content, prefix, forms=forms), mailbox)


def content_of(octets: bytes) -> Content:
    return Content(hashlib.sha256(octets).digest(), len(octets), octets)
