"""The store in memory, a wire and a resolver that are told what to say: enough of each Protocol for this floor."""

from __future__ import annotations

import hashlib
import random as random_module
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pillarbox.mail.desk import DnsTrouble, Hop, MxHost, Parcel
from pillarbox.model.address import Address
from pillarbox.model.clock import Clock
from pillarbox.model.errors import Exists, LeaseLost, NoSuchAccount, NotFound
from pillarbox.model.ids import AccountId, JobId, SpoolId
from pillarbox.model.mailbox import Account, Content
from pillarbox.model.outcome import Deferred, Delivered, Outcome
from pillarbox.model.secret import Secret
from pillarbox.store.api import (
    NOBODY,
    Alias,
    Claim,
    Delivery,
    Job,
    Selection,
    Settlement,
    Spooled,
    Target,
    TraceEvent,
)


class Log:
    """Keeps what was logged."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str, dict[str, Any]]] = []

    def debug(self, event: str, **fields: Any) -> None:
        pass

    def info(self, event: str, **fields: Any) -> None:
        self.lines.append(("info", event, fields))

    def warning(self, event: str, **fields: Any) -> None:
        self.lines.append(("warning", event, fields))

    def error(self, event: str, **fields: Any) -> None:
        self.lines.append(("error", event, fields))

    def events(self, level: str) -> list[str]:
        return [event for own, event, _ in self.lines if own == level]


class Counter:
    """Counts metrics."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = defaultdict(int)

    def count(self, name: str, **labels: str) -> None:
        self.counts[name] += 1


def seeded(seed: int) -> Callable[[int], bytes]:
    """A source of octets that is the same each time."""
    return random_module.Random(seed).randbytes


class Writer:
    """A ContentWriter in memory."""

    def __init__(self) -> None:
        self.octets = bytearray()
        self.aborted = False

    def write(self, octets: bytes) -> None:
        self.octets += octets

    @property
    def size(self) -> int:
        return len(self.octets)

    async def drain(self) -> None:
        pass

    async def finish(self) -> Content:
        data = bytes(self.octets)
        return Content(hashlib.sha256(data).digest(), len(data), data)

    def abort(self) -> None:
        self.aborted = True


class Blobs:
    def writer(self) -> Writer:
        return Writer()

    async def read(self, content: Content, offset: int = 0, length: int | None = None) -> bytes:
        assert content.data is not None
        return content.data[offset:] if length is None else content.data[offset : offset + length]

    async def chunks(self, content: Content, size: int = 1 << 18) -> AsyncIterator[bytes]:
        assert content.data is not None
        for start in range(0, len(content.data), size):
            yield content.data[start : start + size]


@dataclass
class Filed:
    """One email in a mailbox."""

    job: JobId
    prefix: bytes
    content: Content
    forms: Any


class Mailboxes:
    def __init__(self) -> None:
        self.filed: dict[str, list[Filed]] = {}
        self.delivered: dict[str, set[JobId]] = defaultdict(set)
        self.sizes: dict[str, int] = {}
        self.trouble: Callable[[str, Sequence[Delivery]], Exception | None] = lambda account, deliveries: None
        self.trash: set[str] = set()
        self.batches: list[int] = []

    async def create_account(self, account: AccountId) -> None:
        self.filed.setdefault(account, [])

    async def trash_account(self, account: AccountId) -> None:
        self.trash.add(account)

    async def restore_account(self, account: AccountId) -> None:
        if account not in self.trash:
            raise NoSuchAccount(account)
        self.trash.discard(account)

    async def trashed_accounts(self) -> dict[AccountId, float]:
        return dict.fromkeys(self.trash, 0.0)

    async def size(self, account: AccountId) -> tuple[int, int]:
        return self.sizes.get(account, 0), len(self.filed.get(account, ()))

    async def deliver(self, account: AccountId, deliveries: Sequence[Delivery]) -> list[None]:
        error = self.trouble(account, deliveries)
        if error is not None:
            raise error
        if account not in self.filed or account in self.trash:
            raise NoSuchAccount(account)
        self.batches.append(len(deliveries))
        for delivery in deliveries:
            if delivery.job in self.delivered[account]:
                continue
            self.delivered[account].add(delivery.job)
            email = delivery.email
            self.filed[account].append(Filed(delivery.job, email.prefix, email.content, email.forms))
        return [None] * len(deliveries)


@dataclass
class _Row:
    job: Job
    message: Spooled
    token: int = 0
    leased: bool = False
    holder: int = 0


class Spool:
    """Jobs in a dict; leases end when a test says so."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.rows: dict[JobId, _Row] = {}
        self.events: list[TraceEvent] = []
        self.reports: list[tuple[Spooled, Sequence[Job]]] = []
        self.ended: dict[JobId, Outcome] = {}
        self.settles: list[int] = []
        self.trouble: list[Exception] = []
        self.accepted: list[Spooled] = []
        self.adopted: list[JobId] = []

    async def accept(
        self,
        message: Spooled,
        jobs: Sequence[Job],
        events: Sequence[TraceEvent] = (),
        claim: int = 0,
        holders: Mapping[str, int] = NOBODY,
    ) -> list[Claim]:
        self.accepted.append(message)
        self.events += events
        claims = []
        for job in jobs:
            row = self.rows[job.id] = _Row(job, message)
            if len(claims) < claim and job.target.kind == "local":
                claims.append(self._lease(row))
                row.holder = holders.get(job.target.name, 0)
        return claims

    def _lease(self, row: _Row) -> Claim:
        row.leased = True
        row.token += 1
        return Claim(row.job, row.message, row.token)

    async def claim(self, limit: int, now_s: float, exclude: Iterable[Target] = ()) -> list[Claim]:
        shut = set(exclude)
        due = [
            row
            for row in self.rows.values()
            if not row.leased and row.job.state == "queued" and row.job.next_s <= now_s and row.job.target not in shut
        ]
        due.sort(key=lambda row: (row.job.next_s, row.job.id))
        return [self._lease(row) for row in due[:limit]]

    async def renew(self, now_s: float) -> None:
        pass

    async def enroll(self) -> int:
        return 1

    def adopt(self, claims: Sequence[Claim]) -> None:
        self.adopted += [claim.job.id for claim in claims]

    async def give_up(self, claims: Sequence[Claim], holder: int) -> None:
        for claim in claims:
            row = self.rows[claim.job.id]
            if row.holder == holder and row.token == claim.token:
                row.leased = False

    async def reclaim(self, before_s: float) -> int:
        return 0

    async def settle(
        self,
        settlements: Sequence[Settlement],
        events: Sequence[TraceEvent] = (),
        reports: Sequence[tuple[Spooled, Sequence[Job]]] = (),
    ) -> list[JobId]:
        if self.trouble:
            raise self.trouble.pop(0)
        lost = [s.job for s in settlements if s.job not in self.rows or self.rows[s.job].token != s.token]
        if lost and reports:
            raise LeaseLost(lost[0].hex())
        self.settles.append(len(settlements))
        self.events += events
        for settlement in settlements:
            if settlement.job in lost:
                continue
            row = self.rows[settlement.job]
            if isinstance(settlement.outcome, Deferred):
                row.leased = False
                row.job = replace(
                    row.job,
                    attempts=row.job.attempts + 1,
                    next_s=settlement.next_s,
                    delay_reported=settlement.delay_reported,
                )
            else:
                self.ended[settlement.job] = settlement.outcome
                del self.rows[settlement.job]
        for message, jobs in reports:
            self.reports.append((message, jobs))
            for job in jobs:
                self.rows[job.id] = _Row(job, message)
        return lost

    def lose_leases(self) -> None:
        """As if the process that held them died."""
        for row in self.rows.values():
            if row.leased:
                row.leased = False
                row.token += 1

    async def next_due(self) -> float | None:
        due = [row.job.next_s for row in self.rows.values() if not row.leased and row.job.state == "queued"]
        return min(due) if due else None

    async def retry(self, selection: Selection, now_s: float) -> int:
        found = 0
        for row in self.rows.values():
            if selection.account is not None and row.job.target != Target("local", selection.account):
                continue
            if not row.leased:
                row.job = replace(row.job, next_s=now_s)
                found += 1
        return found

    async def content(self, spool_id: SpoolId) -> Content:
        for row in self.rows.values():
            if row.message.id == spool_id:
                return row.message.content
        raise NotFound(spool_id.hex())

    async def sweep(self, now_s: float, trace_days: float) -> None:
        pass


class Directory:
    def __init__(self) -> None:
        self._domains: list[str] = []
        self._accounts: dict[str, Account] = {}
        self._aliases: dict[str, Alias] = {}
        self._version = 0
        self.looked_up = 0

    async def version(self) -> int:
        return self._version

    async def domains(self) -> list[str]:
        return list(self._domains)

    async def is_local_domain(self, domain: str) -> bool:
        return domain in self._domains

    async def add_domain(self, domain: str) -> None:
        if domain in self._domains:
            raise Exists(domain)
        self._version += 1
        self._domains.append(domain)

    async def remove_domain(self, domain: str) -> None:
        if domain not in self._domains:
            raise NotFound(domain)
        self._version += 1
        self._domains.remove(domain)

    async def add_accounts(self, accounts: Sequence[Account]) -> None:
        self._version += 1
        for account in accounts:
            self._accounts[account.id] = account

    async def account(self, address: Address) -> Account | None:
        self.looked_up += 1
        for account in self._accounts.values():
            if account.address.key == address.key and account.state != "removed":
                return account
        return None

    async def account_by_id(self, account: AccountId) -> Account | None:
        return self._accounts.get(account)

    async def accounts(self, domain: str = "", state: str = "") -> list[Account]:
        return [
            a for a in self._accounts.values() if (not domain or a.address.domain == domain) and state in ("", a.state)
        ]

    async def set_secret(self, account: AccountId, secret: Secret) -> None:
        self._version += 1
        self._accounts[account] = replace(self._accounts[account], secret=secret)

    async def set_state(self, account: AccountId, state: str, now_s: float) -> None:
        self._version += 1
        self._accounts[account] = replace(self._accounts[account], state=state)

    async def set_quota(self, account: AccountId, quota_octets: int) -> None:
        self._version += 1
        self._accounts[account] = replace(self._accounts[account], quota_octets=quota_octets)

    async def add_alias(self, alias: Alias) -> None:
        self._version += 1
        self._aliases[alias.address.key] = alias

    async def remove_alias(self, address: Address) -> None:
        self._version += 1
        if self._aliases.pop(address.key, None) is None:
            raise NotFound(str(address))

    async def alias(self, address: Address) -> Alias | None:
        return self._aliases.get(address.key)

    async def aliases(self, domain: str = "") -> list[Alias]:
        return list(self._aliases.values())


class Keys:
    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}

    async def get(self, key: str) -> bytes | None:
        return self.values.get(key)

    async def put(self, key: str, value: bytes, expires_s: float) -> None:
        self.values[key] = value


class Signals:
    def __init__(self) -> None:
        self.topics: list[str] = []
        self._wakes: dict[str, list[Callable[[], None]]] = defaultdict(list)

    def publish(self, topic: str) -> None:
        self.topics.append(topic)
        for wake in self._wakes[topic]:
            wake()

    def subscribe(self, topic: str, wake: Callable[[], None]) -> Callable[[], None]:
        self._wakes[topic].append(wake)
        return lambda: self._wakes[topic].remove(wake)


class Store:
    def __init__(self, clock: Clock) -> None:
        self.mailboxes = Mailboxes()
        self.spool = Spool(clock)
        self.directory = Directory()
        self.keys = Keys()
        self.blobs = Blobs()
        self.checkpoints = 0
        self.room = True

    def has_room(self, message_octets: int) -> bool:
        return self.room

    async def checkpoint(self) -> None:
        self.checkpoints += 1

    async def close(self) -> None:
        pass


@dataclass
class Sent:
    """One transaction that the wire saw."""

    hop: Hop
    recipients: list[str]
    sender: str
    octets: bytes


class Wire:
    """Answers by the recipient's local part, or as `answer` says."""

    def __init__(self) -> None:
        self.sent: list[Sent] = []
        self.tried: list[Hop] = []
        self.answer: Callable[[Hop, str], Outcome] = lambda hop, recipient: Delivered(remote=hop.host)
        self.closed = False

    async def send(self, hop: Hop, parcel: Parcel) -> list[Outcome]:
        self.tried.append(hop)
        recipients = [str(recipient.address) for recipient in parcel.envelope.recipients]
        outcomes = [self.answer(hop, recipient) for recipient in recipients]
        octets = b"".join([chunk async for chunk in parcel.chunks()])
        sender = parcel.envelope.reverse_path
        self.sent.append(Sent(hop, recipients, "" if sender is None else str(sender), octets))
        return outcomes

    async def close(self) -> None:
        self.closed = True


@dataclass
class Resolver:
    """DNS in two dicts; names in `broken` do not answer."""

    mxs: dict[str, list[MxHost]] = field(default_factory=dict)
    hosts: dict[str, list[str]] = field(default_factory=dict)
    broken: set[str] = field(default_factory=set)

    async def mx(self, domain: str) -> tuple[bool, list[MxHost]]:
        if domain in self.broken:
            raise DnsTrouble(domain)
        found = self.mxs.get(domain, [])
        return bool(found) or domain in self.hosts, sorted(found, key=lambda record: record.preference)

    async def addresses(self, host: str) -> list[str]:
        if host in self.broken:
            raise DnsTrouble(host)
        return self.hosts.get(host, [])
