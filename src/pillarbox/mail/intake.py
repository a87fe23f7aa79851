"""The desk where mail comes in: what MAIL and RCPT may ask, what a message must be, and when it is ours.

A message is ours when its content and jobs are committed to the spool; only then `accept` returns. Its local jobs are
delivered from memory in the background, by the process that accepted it. Source: RFC 5321 §4.1.1, RFC 6409; cases 63 to
78, 93, 94, 96, 100, 101, 103.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from pillarbox.mail.deliver import LocalDelivery
from pillarbox.mail.desk import Colleagues, DnsTrouble, Resolver, Session, Transaction
from pillarbox.mail.dispatch import Dispatch
from pillarbox.mail.entropy import Entropy
from pillarbox.mail.examine import check_author, check_header, check_hops, count_hops, delivered_to
from pillarbox.mail.hops import is_null_mx
from pillarbox.mail.metrics import Log, Metrics, count
from pillarbox.mail.networks import network_keys
from pillarbox.mail.rates import RateTable, share_of
from pillarbox.mail.reports import Reporter
from pillarbox.mail.route import Place, Resolution, Router, resolve_or_refuse
from pillarbox.mail.settle import Settler
from pillarbox.mail.trace import describe_session, queued_event, received_event
from pillarbox.message.received import format_received, missing_fields, with_protocol
from pillarbox.message.scan import Message, scan
from pillarbox.message.wire import WireForms, forms_with
from pillarbox.model.clock import Clock
from pillarbox.model.envelope import Envelope, Recipient
from pillarbox.model.errors import Refused, StoreFull
from pillarbox.model.ids import JobId, SpoolId, make_id
from pillarbox.model.mailbox import Account, Content
from pillarbox.model.outcome import Delivered, Failed, Outcome
from pillarbox.model.settings import Settings
from pillarbox.model.status import Status
from pillarbox.store.api import ContentWriter, Job, Signals, Spooled, Store, TraceEvent

INLINE_OCTETS: Final = 16 * 1024
"""Larger messages are parsed in a thread: the worst of this size, all angle brackets or empty parts, takes 50 ms."""
PARSERS: Final = 2
"""Large messages that are parsed at once: each is whole in memory then."""
SENDER_DNS_S: Final = 3.0
"""A sender's domain is asked about for so long; then the mail goes on as if it had no say."""
BREATH: Final = 100
"""Recipients after which others have their turn."""
ROOM_S: Final = 1.0
"""The disk is looked at so often."""
_ACCEPTED: Final = Delivered(Status(2, 0, 0))
_LOOPING: Final = Failed(Status(5, 4, 6), "this message was delivered here before")


class MailDesk:
    """Implements `desk.Desk`. One per front process."""

    def __init__(
        self,
        store: Store,
        settings: Settings,
        clock: Clock,
        random: Callable[[int], bytes],
        log: Log,
        metrics: Metrics | None = None,
        signals: Signals | None = None,
        resolver: Resolver | None = None,
        workers: int = 1,
        colleagues: Colleagues | None = None,
    ) -> None:
        self._store = store
        self._settings = settings
        self._limits = settings.limits
        self._clock = clock
        self._random = Entropy(random)
        self._log = log
        self._metrics = metrics
        self._resolver = resolver
        self._router = Router(store.directory, settings, clock)
        self._hostname = settings.hostname or "localhost"
        reporter = Reporter(store, self._router, settings, clock, self._random, log, metrics)
        self._settler = Settler(store.spool, reporter, settings, clock, self._random, log, metrics)
        local = LocalDelivery(store.mailboxes, clock, self._settler, log)
        self.dispatch = Dispatch(store.spool, local, colleagues, signals, log)
        self._parsers = asyncio.Semaphore(PARSERS)
        self._has_room = True
        self._room_until_s = float("-inf")
        limits = settings.limits
        self._ip_limit = share_of(limits.messages_per_ip_minute, workers)
        self._octets_limit = share_of(limits.octets_per_ip_minute, workers)
        self._burst_limit = share_of(limits.submission_burst, workers)
        self._mailbox_limit = share_of(limits.mailbox_messages_per_minute, workers)
        self._message_limit = share_of(limits.submission_messages_per_hour, workers)
        self._recipient_limit = share_of(limits.submission_recipients_per_hour, workers)
        self._minute = RateTable(60.0)
        """By ("ip", host), ("octets", host), ("mailbox", account id) and ("burst", account id)."""
        self._hour = RateTable(3600.0)
        """By ("messages", account id) and ("recipients", account id)."""

    async def close(self) -> None:
        """Finish what is being delivered. The shells have stopped accepting."""
        await self.dispatch.close()

    # --- MAIL and RCPT ---------------------------------------------------------------------------------------------

    async def mail(self, session: Session, envelope: Envelope, size_octets: int) -> Transaction:
        """Begin. Raises Refused: 5.3.4 size, 5.7.0 login needed, 5.7.1 not your address, 5.7.27 sender takes no mail,
        4.7.x rates; Trouble."""
        if size_octets > self._limits.message_octets:
            raise Refused(Status(5, 3, 4), "message-size", "the message is too large")
        account = session.account
        if account is None:
            self._check_room()
        sender = envelope.reverse_path
        if account is not None:
            now = await self._store.directory.account_by_id(account.id)
            if now is None or now.state != "active":
                raise Refused(Status(5, 7, 1), "account-state", "your account may not send any more")
            if sender is not None and not await self._router.reaches(sender, account):
                raise Refused(Status(5, 7, 1), "sender", "this sender address is not yours")
        elif session.protocol == "submission" and not session.may_relay:
            raise Refused(Status(5, 7, 0), "authentication-required", "authentication required")
        elif not session.trusted:
            self._check_volume(session, size_octets)
            if sender is not None and self._resolver is not None and session.protocol == "smtp":
                await self._check_sender_domain(sender.domain)
        return Transaction(envelope, size_octets)

    def _check_volume(self, session: Session, size_octets: int) -> None:
        """So many messages, and so many octets of them, in a minute from one address."""
        host, now_s = network_keys(session.peer)[0], self._clock.monotonic()
        if self._minute.count(("octets", host), now_s) + size_octets > self._octets_limit:
            raise Refused(Status(4, 7, 1), "octets-per-ip", "too much mail from your address")
        if not self._minute.take(("ip", host), now_s, self._ip_limit):
            raise Refused(Status(4, 7, 1), "messages-per-ip", "too many messages from your address")

    def _check_room(self) -> None:
        """Strangers wait while the disk is nearly full; users, reports and delivery go on (case 12)."""
        now_s = self._clock.monotonic()
        if now_s >= self._room_until_s:
            self._has_room = self._store.has_room(self._limits.message_octets)
            self._room_until_s = now_s + ROOM_S
        if not self._has_room:
            raise StoreFull("the disk is nearly full")

    async def rcpt(self, session: Session, transaction: Transaction, recipient: Recipient) -> None:
        """Add a recipient. Raises Refused: 5.1.1 unknown, 5.1.3 malformed, 5.7.1 relay, 4.2.2 quota, 4.5.3 too many,
        5.4.6 alias loop, 4.2.1 and 4.7.1 rates; Trouble."""
        taken = len(transaction.recipients)
        if taken >= self._limits.recipients:
            raise Refused(Status(4, 5, 3), "recipients", "too many recipients")
        if taken % BREATH == BREATH - 1:
            await asyncio.sleep(0)  # a thousand at once are pipelined: others go on between
        address = recipient.address
        if not address.local or len(address.local) > 64:
            raise Refused(Status(5, 1, 3), "recipient-syntax", "bad recipient address")
        found = await resolve_or_refuse(self._router, address)
        account = session.account
        if not found.is_local and ((account is None and not session.may_relay) or session.protocol == "lmtp"):
            raise Refused(Status(5, 7, 1), "relay-denied", "relay access denied")
        if found.has_quota:
            await self._check_quota(found, transaction.size_octets)
        if account is not None:
            if not session.trusted:
                self._check_submission(account)
        elif not session.trusted and found.is_local:
            self._check_mailbox_rate(found)
        transaction.recipients.append(recipient)
        transaction.jobs.append(found)

    async def _check_sender_domain(self, domain: str) -> None:
        """A sender whose domain takes no mail cannot be answered. Source: RFC 7505 §4.2."""
        assert self._resolver is not None
        if domain.startswith("[") or await self._router.is_local_domain(domain):
            return
        # Not asyncio.timeout: the shell takes the first step of a question outside of any task.
        asking = asyncio.ensure_future(self._resolver.mx(domain))
        await asyncio.wait((asking,), timeout=SENDER_DNS_S)
        if not asking.done():
            asking.cancel()
            return
        try:
            _, records = asking.result()
        except DnsTrouble:
            return
        if is_null_mx(records):
            raise Refused(Status(5, 7, 27), "sender-null-mx", "the sender's domain accepts no mail")

    async def _check_quota(self, found: Resolution, size_octets: int) -> None:
        """Refuse for now where every mailbox it leads to is full, or would be with a message of the declared size
        (0: unknown). What is accepted is delivered, even past a quota."""
        for place in found.places:
            account = place.account
            if account is None or not account.quota_octets:
                return
            octets, _ = await self._store.mailboxes.size(account.id)
            if octets < account.quota_octets and octets + size_octets <= account.quota_octets:
                return
        raise Refused(Status(4, 2, 2), "quota", "the mailbox is full")

    def _check_mailbox_rate(self, found: Resolution) -> None:
        """What counts is mail that came: naming a mailbox a hundred times must not close it to others."""
        now_s = self._clock.monotonic()
        for place in found.places:
            account = place.account
            if account and self._minute.count(("mailbox", account.id), now_s) + 1 > self._mailbox_limit:
                raise Refused(Status(4, 2, 1), "mailbox-rate", "too much mail for this mailbox right now")

    def _check_submission(self, account: Account) -> None:
        """What an account may submit. A recipient counts when it is named, a message when it is accepted."""
        now_s = self._clock.monotonic()
        if self._minute.count(("burst", account.id), now_s) + 1 > self._burst_limit:
            raise Refused(Status(4, 7, 1), "submission-burst", "too many messages in a minute")
        if self._hour.count(("messages", account.id), now_s) + 1 > self._message_limit:
            raise Refused(Status(4, 7, 1), "submission-rate", "too many messages in an hour")
        if not self._hour.take(("recipients", account.id), now_s, self._recipient_limit):
            raise Refused(Status(4, 7, 1), "submission-rate", "too many recipients in an hour")

    # --- the message -----------------------------------------------------------------------------------------------

    def content(self, session: Session, transaction: Transaction) -> ContentWriter:
        """Where the octets go. Their line ends, and the lengths of lines, are the business of the SMTP core."""
        return self._store.blobs.writer()

    async def accept(
        self, session: Session, transaction: Transaction, content: ContentWriter
    ) -> tuple[str, list[Outcome]]:
        """Make the message ours: when this returned it is durable. Raises Refused (5.6.0, 5.3.4, 5.4.6, 5.7.1),
        Trouble."""
        if content.size > self._limits.message_octets:
            content.abort()
            raise Refused(Status(5, 3, 4), "message-size", "the message is too large")
        await self.dispatch.room()
        stored = await content.finish()
        now_s = self._clock.now()
        spool_id = SpoolId(make_id(now_s, self._random))
        account = session.account
        message, added, forms = await self._read(stored, session, spool_id, now_s)
        hops = count_hops(message)
        check_hops(hops, self._limits.received_hops)
        if account is not None:
            await check_author(message, account, self._router)
        places, outcomes = self._places(session, transaction, delivered_to(message))
        if not places:
            return spool_id.hex(), outcomes
        spooled = self._spooled(session, transaction, stored, spool_id, now_s, added, forms.message_id, hops)
        jobs = await self._jobs(spooled, places)
        await self._spool(spooled, jobs, forms)
        if not session.trusted:
            self._count(session, stored.size, places)
        self._say(session, transaction, spooled)
        return spool_id.hex(), outcomes

    def _count(self, session: Session, size_octets: int, places: list[tuple[Recipient, Place]]) -> None:
        """A message was accepted: it counts for its account, or for its address and the mailboxes it comes to."""
        account, now_s = session.account, self._clock.monotonic()
        if account is not None:
            self._hour.add(("messages", account.id), now_s)
            self._minute.add(("burst", account.id), now_s)
            return
        self._minute.add(("octets", network_keys(session.peer)[0]), now_s, size_octets)
        for filled in {place.account.id for _, place in places if place.account is not None}:
            self._minute.add(("mailbox", filled), now_s)

    async def _read(
        self, stored: Content, session: Session, spool_id: SpoolId, now_s: float
    ) -> tuple[Message, bytes, WireForms]:
        """Parse the message, once. Returns the fields that were missing, too. Raises Refused 5.6.0."""
        submitted = session.account is not None

        def work(octets: bytes) -> tuple[Message, bytes, WireForms]:
            message = scan(octets)
            check_header(message, submitted)
            added = b""
            if submitted:
                name = f"{spool_id.hex()}@{self._hostname}"
                added = missing_fields(message.root.values, now_s=now_s, message_id=name)
            return message, added, forms_with(added, message)

        if stored.size <= INLINE_OCTETS:
            return work(stored.data if stored.data is not None else await self._store.blobs.read(stored))
        async with self._parsers:
            octets = stored.data if stored.data is not None else await self._store.blobs.read(stored)
            return await asyncio.to_thread(work, octets)

    def _places(
        self, session: Session, transaction: Transaction, been_at: frozenset[str]
    ) -> tuple[list[tuple[Recipient, Place]], list[Outcome]]:
        """Where it goes: one copy for each address at the end of the aliases. Where it was already it is refused
        (5.4.6), by LMTP for that recipient alone."""
        places: dict[tuple[str, str], tuple[Recipient, Place]] = {}
        outcomes: list[Outcome] = []
        for recipient, found in zip(transaction.recipients, transaction.jobs, strict=True):
            assert isinstance(found, Resolution)
            loops = False
            for place in found.places:
                if been_at and place.account is not None and str(place.address).casefold() in been_at:
                    loops = True
                    continue
                places.setdefault((place.target.name, place.address.key), (recipient, place))
            if loops and session.protocol != "lmtp":
                raise Refused(Status(5, 4, 6), "delivered-before", _LOOPING.text)
            outcomes.append(_LOOPING if loops else _ACCEPTED)
        return list(places.values()), outcomes

    def _spooled(
        self,
        session: Session,
        transaction: Transaction,
        stored: Content,
        spool_id: SpoolId,
        now_s: float,
        added: bytes,
        message_id: str,
        hops: int,
    ) -> Spooled:
        recipients = transaction.recipients
        received = format_received(
            helo=session.helo,
            peer_address=session.peer,
            by=self._hostname,
            protocol=with_protocol(
                esmtp=session.esmtp,
                lmtp=session.protocol == "lmtp",
                tls=bool(session.tls),
                auth=session.account is not None,
                utf8=transaction.envelope.smtputf8,
            ),
            message_id=spool_id.hex(),
            at=now_s,
            recipient=recipients[0].address if len(recipients) == 1 else None,
            tls=session.tls,
        )
        return Spooled(
            spool_id,
            transaction.envelope,
            stored,
            received + added,
            now_s,
            session.account.id if session.account is not None else None,
            describe_session(session),
            message_id,
            hops,
        )

    async def _jobs(self, spooled: Spooled, places: list[tuple[Recipient, Place]]) -> list[Job]:
        now_s = spooled.received_s
        expires_s = now_s + self._settings.queue.lifetime_s
        jobs: list[Job] = []
        for recipient, place in places:
            if len(jobs) % BREATH == BREATH - 1:
                await asyncio.sleep(0)
            original = None
            if place.address != recipient.address:
                original = recipient.address
                recipient = Recipient(place.address, recipient.orcpt, recipient.notify)
            jobs.append(
                Job(
                    JobId(make_id(now_s, self._random)),
                    spooled.id,
                    recipient,
                    place.target,
                    queued_s=now_s,
                    next_s=now_s,
                    expires_s=expires_s,
                    original=original,
                )
            )
        return jobs

    async def _spool(self, spooled: Spooled, jobs: list[Job], forms: WireForms) -> None:
        """Commit: it is ours."""
        events: list[TraceEvent] = [received_event(spooled, len(jobs))]
        events += [queued_event(spooled, job) for job in jobs if job.target.kind != "local"]
        await self.dispatch.accept(spooled, jobs, events, forms)

    def _say(self, session: Session, transaction: Transaction, spooled: Spooled) -> None:
        """The one log line of a message."""
        sender = spooled.envelope.reverse_path
        recipients = transaction.recipients
        count(self._metrics, "messages_accepted", protocol=session.protocol)
        self._log.info(
            "accepted",
            msg=spooled.id.hex(),
            sender="" if sender is None else str(sender),
            rcpt=str(recipients[0].address),
            rcpts=len(recipients),
            size=spooled.content.size,
            peer=session.peer,
            protocol=session.protocol,
            message_id=spooled.message_id[:256],
        )
