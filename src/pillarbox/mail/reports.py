"""Failure and delay notices: which are due, and how they become messages of their own.

A report goes from the null reverse-path to the sender, by the spool like any message. Nobody is told of what came from
the null sender, so a bounce never bounces (cases 24, 25); NOTIFY is honoured (RFC 3461 §4.1). Delays are told only to
senders of ours: an account that submitted, or an address in a domain of ours. One report serves all recipients of a
message that ended together. Source: RFC 3464, RFC 5321 §4.5.5, §6.1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from pillarbox.mail.metrics import Log, Metrics, count
from pillarbox.mail.route import Router
from pillarbox.message import dsn
from pillarbox.message.dsn import Action, ReportedRecipient
from pillarbox.model.clock import Clock
from pillarbox.model.envelope import Envelope, Recipient
from pillarbox.model.errors import DamagedMessage, NotFound
from pillarbox.model.ids import JobId, SpoolId, make_id
from pillarbox.model.outcome import Deferred, Failed
from pillarbox.model.settings import Settings
from pillarbox.store.api import Job, Spooled, Store

_FULL_OCTETS: Final = dsn.MAX_RETURNED_OCTETS


@dataclass(frozen=True, slots=True)
class Report:
    """A notice that is ready for the spool."""

    message: Spooled
    jobs: list[Job]
    kind: str
    """ "failure" or "delay"."""


class Reporter:
    """Makes reports. One per process and role."""

    def __init__(
        self,
        store: Store,
        router: Router,
        settings: Settings,
        clock: Clock,
        random: Callable[[int], bytes],
        log: Log,
        metrics: Metrics | None = None,
    ) -> None:
        self._store = store
        self._router = router
        self._hostname = settings.hostname or "localhost"
        self._postmaster = settings.postmaster or f"postmaster@{self._hostname}"
        self._lifetime_s = settings.queue.lifetime_s
        self._clock = clock
        self._random = random
        self._log = log
        self._metrics = metrics

    async def failure(self, message: Spooled, failed: Sequence[tuple[Job, Failed]]) -> Report | None:
        """The report on recipients that failed for good, or None where none is due. Raises Trouble."""
        if message.envelope.reverse_path is None:
            # A report that cannot be delivered, or mail that wanted no answer: it ends here (RFC 5321 §4.5.5).
            count(self._metrics, "double_bounces")
            for job, outcome in failed:
                self._log.warning(
                    "undeliverable report dropped",
                    msg=message.id.hex(),
                    rcpt=str(job.recipient.address),
                    status=str(outcome.status),
                )
            return None
        told = [(job, outcome) for job, outcome in failed if _wants(job.recipient, "FAILURE")]
        return await self._make(message, told, Action.FAILED) if told else None

    async def delay(self, message: Spooled, delayed: Sequence[tuple[Job, Deferred]]) -> Report | None:
        """The report on recipients that still wait, or None where none is due. Raises Trouble."""
        sender = message.envelope.reverse_path
        if sender is None:
            return None
        if message.account is None and not await self._router.is_local_domain(sender.domain):
            return None
        told = [(job, outcome) for job, outcome in delayed if _wants(job.recipient, "DELAY")]
        return await self._make(message, told, Action.DELAYED) if told else None

    async def _make(
        self, message: Spooled, told: Sequence[tuple[Job, Failed | Deferred]], action: Action
    ) -> Report | None:
        sender = message.envelope.reverse_path
        assert sender is not None
        now_s = self._clock.now()
        spool_id = SpoolId(make_id(now_s, self._random))
        message_id = f"{spool_id.hex()}@{self._hostname}"
        kind = "failure" if action is Action.FAILED else "delay"
        places = (await self._router.resolve(sender)).places
        if not places:
            self._log.warning("sender unknown, no report", msg=message.id.hex(), sender=str(sender))
            return None
        recipients = [_reported(job, outcome, action, now_s) for job, outcome in told]
        octets = dsn.build_dsn(
            dsn.Report(
                to=str(sender),
                reporting_mta=self._hostname,
                postmaster=self._postmaster,
                message_id=message_id,
                now_s=now_s,
                arrived_at=message.received_s,
                envid=message.envelope.envid,
                return_full=message.envelope.ret == "FULL",
                smtputf8=message.envelope.smtputf8,
            ),
            recipients,
            await self._original(message, message.envelope.ret == "FULL" and action is Action.FAILED),
        )
        writer = self._store.blobs.writer()
        writer.write(octets)
        content = await writer.finish()
        envelope = Envelope(
            None,
            smtputf8=message.envelope.smtputf8 and not octets.isascii(),
            body="7BIT" if octets.isascii() else "8BITMIME",
        )
        report = Spooled(
            spool_id, envelope, content, b"", now_s, None, f"{kind} report on {message.id.hex()}", message_id
        )
        jobs = [
            Job(
                JobId(make_id(now_s, self._random)),
                spool_id,
                Recipient(place.address),
                place.target,
                queued_s=now_s,
                next_s=now_s,
                expires_s=now_s + self._lifetime_s,
            )
            for place in places
        ]
        count(self._metrics, "reports", kind=kind)
        self._log.info(
            "report", msg=message.id.hex(), kind=kind, to=str(sender), rcpts=len(told), report=spool_id.hex()
        )
        return Report(report, jobs, kind)

    async def _original(self, message: Spooled, whole: bool) -> bytes:
        """The octets to return: all of a message where that was asked for and is small, else its beginning.

        A message that cannot be read is reported all the same, without them.
        """
        try:
            content = message.content
            if content.data is None and content.size <= 128 * 1024:
                content = await self._store.spool.content(message.id)
            if content.data is not None:
                return message.prefix + content.data
            length = None if whole and content.size <= _FULL_OCTETS else dsn.MAX_HEADER_OCTETS
            return message.prefix + await self._store.blobs.read(content, 0, length)
        except (DamagedMessage, NotFound):
            return message.prefix + b"\r\n"


def _wants(recipient: Recipient, what: str) -> bool:
    """NOTIFY as RFC 3461 §4.1 has it: without it failures are told, and delays by our choice."""
    return what in recipient.notify if recipient.notify else True


def _reported(job: Job, outcome: Failed | Deferred, action: Action, now_s: float) -> ReportedRecipient:
    original = job.recipient.orcpt
    if not original and job.original is not None:
        original = f"rfc822;{job.original}"
    return ReportedRecipient(
        address=str(job.recipient.address),
        outcome=outcome,
        action=action,
        original=original,
        last_attempt_at=now_s,
        will_retry_until=job.expires_s if action is Action.DELAYED else None,
    )
