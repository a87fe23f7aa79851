"""Local delivery: claimed jobs become emails in accounts, in batches by account.

The process that accepted a message delivers it from memory; the mover delivers what is left. What was accepted is
delivered even past a quota. Doing a job twice files one email: the account remembers the job (docs/store.md).
Source: RFC 5321 §4.4 (Return-Path); the prefix is Return-Path, Delivered-To, then what the spool has for all.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from functools import partial
from typing import Any, Final, NamedTuple

from pillarbox.mail.metrics import Log
from pillarbox.mail.settle import Settler
from pillarbox.message.received import format_delivered_to, format_return_path
from pillarbox.message.wire import WireForms
from pillarbox.model.clock import Clock
from pillarbox.model.errors import NoSuchAccount, Trouble
from pillarbox.model.ids import AccountId, email_id
from pillarbox.model.mailbox import Content
from pillarbox.model.outcome import Deferred, Delivered, Failed, Outcome
from pillarbox.model.status import Status
from pillarbox.store.api import Claim, Delivery, Mailboxes, NewEmail, Target

_BATCH: Final = 200
_BATCH_OCTETS: Final = 8 << 20
_ACCOUNTS_AT_ONCE: Final = 48
"""More than the store works on at a time, so that none of its threads waits for this loop."""
_MAX_JOBS: Final = 4000
_MAX_OCTETS: Final = 48 << 20
"""Jobs and octets in memory, above which `room` waits."""
_DELIVERED: Final = Delivered(Status(2, 1, 5))
_REMOVED: Final = Failed(Status(5, 1, 1), "the account was removed")


class _Item(NamedTuple):
    claim: Claim
    content: Content
    forms: WireForms | None
    alone: bool = False
    """It was in a batch that could not be filed."""


class _Cancelled(Exception):
    """The store ended before it answered."""


class LocalDelivery:
    """Delivers claimed local jobs in the background. One per process and role."""

    def __init__(self, mailboxes: Mailboxes, clock: Clock, settler: Settler, log: Log) -> None:
        self._mailboxes = mailboxes
        self._clock = clock
        self._settler = settler
        self._log = log
        self._waiting: dict[str, deque[_Item]] = {}
        """By account: what is not on its way to the store yet. An account is here while something is."""
        self._resting: deque[str] = deque()
        """Accounts for which too much is going on elsewhere."""
        self._at_once = 0
        self._ended: asyncio.Event | None = None
        self._jobs = 0
        self._octets = 0
        self._freed: asyncio.Event | None = None

    @property
    def outstanding(self) -> int:
        """Jobs that are not settled yet."""
        return self._jobs

    def busy(self, at_least: int) -> list[Target]:
        """Accounts for which so many jobs wait here."""
        return [Target("local", name) for name, items in self._waiting.items() if len(items) >= at_least]

    def submit(self, claims: Sequence[Claim], content: Content, forms: WireForms | None) -> None:
        """Deliver the claims of one message. Returns at once; outcomes go to the settler."""
        for claim in claims:
            name = claim.job.target.name
            items = self._waiting.get(name)
            item = _Item(claim, content, forms)
            self._jobs += 1
            self._octets += _held(item)
            if items is not None:
                items.append(item)
                continue
            self._waiting[name] = deque((item,))
            if self._at_once < _ACCOUNTS_AT_ONCE:
                self._at_once += 1
                self._begin(name)
            else:
                self._resting.append(name)

    @property
    def is_full(self) -> bool:
        """Must more wait until some of it is delivered?"""
        return self._jobs >= _MAX_JOBS or self._octets >= _MAX_OCTETS

    async def room(self) -> None:
        """Wait until there is room for another message: so acceptance never runs far ahead of delivery."""
        while self.is_full:
            self._freed = self._freed or asyncio.Event()
            await self._freed.wait()

    async def drain(self) -> None:
        """Wait until all that was submitted is delivered and settled."""
        await self._delivered()
        await self._settler.drain()

    async def close(self) -> None:
        """Deliver what is in memory; the settler gives up soon where the store fails."""
        await self._delivered()
        await self._settler.close()

    async def _delivered(self) -> None:
        while self._waiting:
            self._ended = self._ended or asyncio.Event()
            await self._ended.wait()

    def _begin(self, name: str) -> None:
        """Give the store the next batch for an account. By callbacks: a task for each costs as much as the filing."""
        batch = _take(self._waiting[name])
        filing = asyncio.ensure_future(self._mailboxes.deliver(AccountId(name), [_delivery(item) for item in batch]))
        filing.add_done_callback(partial(self._go_on, name, batch, self._clock.now()))

    def _go_on(self, name: str, batch: list[_Item], started_s: float, filing: asyncio.Future[Any]) -> None:
        """A batch is filed, or not; the next one of this account, or another account, has its turn."""
        self._conclude(name, batch, started_s, filing)
        if self._waiting[name]:
            if not self._resting:
                self._begin(name)
                return
            self._resting.append(name)
        else:
            del self._waiting[name]
        if self._resting:
            self._begin(self._resting.popleft())
            return
        self._at_once -= 1
        if self._ended is not None and not self._waiting:
            self._ended.set()
            self._ended = None

    def _conclude(self, name: str, batch: list[_Item], started_s: float, filing: asyncio.Future[Any]) -> None:
        """What became of a batch goes to the settler."""
        outcome: Outcome = _DELIVERED
        error = _Cancelled() if filing.cancelled() else filing.exception()
        match error:
            case None:
                pass
            case NoSuchAccount():
                outcome = _REMOVED
            case Trouble():
                self._log.error("delivery deferred", account=name, jobs=len(batch), error=str(error))
                outcome = Deferred(error.status, "the mailbox is not available")
            case _ if len(batch) > 1 and not filing.cancelled():
                # one of them is the cause: each is tried alone, and the others are delivered
                self._waiting[name].extendleft(item._replace(alone=True) for item in reversed(batch))
                return
            case _:
                self._log.error("delivery failed", account=name, error=repr(error))
                outcome = Deferred(Status(4, 3, 0), "the message could not be filed")
        for item in batch:
            self._settler.put(item.claim, outcome, started_s, self._settled)
            self._octets -= _held(item)

    def _settled(self) -> None:
        self._jobs -= 1
        if self._freed is not None and not self.is_full:
            self._freed.set()
            self._freed = None


def _take(items: deque[_Item]) -> list[_Item]:
    """The next batch of an account's items: at least one."""
    batch = [items.popleft()]
    octets = batch[0].content.size
    while items and len(batch) < _BATCH:
        octets += items[0].content.size
        if octets > _BATCH_OCTETS or batch[0].alone or items[0].alone:
            break
        batch.append(items.popleft())
    return batch


def _delivery(item: _Item) -> Delivery:
    job, message = item.claim.job, item.claim.message
    recipient = str(job.recipient.address)
    own = format_return_path(message.envelope.reverse_path) + format_delivered_to(job.recipient.address)
    email = NewEmail(
        email_id(job.spool_id, recipient),
        item.content,
        own + message.prefix,
        int(message.received_s),
        frozenset(),
        item.forms,
    )
    return Delivery(job.id, email)


def _held(item: _Item) -> int:
    """Octets the item keeps in memory (shared contents count for each of their jobs)."""
    return len(item.content.data) if item.content.data is not None else 0
