"""What attempts came to is written down here: retries scheduled, reports made, jobs ended, in batches.

At most one batch is on its way to the store; what comes meanwhile makes the next one. So many outcomes share one commit
under load, and a single one waits for nothing. Until its batch is durable, nobody believes an outcome: if the process
dies before, the job's lease ends and it is done again (locally without effect, see docs/store.md).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pillarbox.mail.metrics import Log, Metrics, count
from pillarbox.mail.reports import Report, Reporter
from pillarbox.mail.retry import chance_of, is_delay_due, is_expired, next_attempt_s
from pillarbox.mail.trace import outcome_event, report_event
from pillarbox.model.clock import Clock
from pillarbox.model.errors import LeaseLost, Trouble
from pillarbox.model.outcome import Deferred, Delivered, Failed, Outcome
from pillarbox.model.settings import Settings
from pillarbox.model.status import Status
from pillarbox.store.api import Claim, Settlement, Spool, TraceEvent

_MAX_BATCH: Final = 1000
_MAX_WAIT_S: Final = 10.0
"""Between tries while the store fails: 1, 2, 4 … up to this."""
_LAST_TRIES: Final = 3
"""How often a batch is still tried when the process is to end."""
_EXPIRED: Final = Status(5, 4, 7)
_STOPPED: Final = Status(4, 3, 2)
_UNTOLD: Final = Status(4, 3, 0)


@dataclass(slots=True)
class _Item:
    claim: Claim
    settlement: Settlement
    event: TraceEvent | None
    done: Callable[[], None] | None


class Settler:
    """Takes outcomes of claimed jobs. One per process and role."""

    def __init__(
        self,
        spool: Spool,
        reporter: Reporter,
        settings: Settings,
        clock: Clock,
        random: Callable[[int], bytes],
        log: Log,
        metrics: Metrics | None = None,
        sleep: Callable[[float], Awaitable[Any]] = asyncio.sleep,
    ) -> None:
        self._spool = spool
        self._reporter = reporter
        self._queue = settings.queue
        self._clock = clock
        self._random = random
        self._log = log
        self._metrics = metrics
        self._sleep = sleep
        self._pending: list[_Item] = []
        self._task: asyncio.Task[None] | None = None
        self._ending = False

    def put(self, claim: Claim, outcome: Outcome, attempted_s: float, done: Callable[[], None] | None = None) -> None:
        """Write down what an attempt came to; `attempted_s` is when the attempt began (wall clock). `done` is called
        when it is durable, or nobody's business any more."""
        now_s = self._clock.now()
        job = claim.job
        delay_reported = job.delay_reported
        next_s = 0.0
        match outcome:
            case Deferred(status, text, remote) if is_expired(attempted_s, job.expires_s):
                outcome = Failed(_EXPIRED, f"gave up after the last answer: {status} {text}".strip(), remote)
            case Deferred():
                next_s = next_attempt_s(now_s, job.attempts + 1, job.expires_s, self._queue, chance_of(self._random))
                delay_reported = is_delay_due(now_s, job.queued_s, job.delay_reported, self._queue)
            case _:
                pass
        settlement = Settlement(job.id, claim.token, outcome, next_s, delay_reported or job.delay_reported)
        self._add(_Item(claim, settlement, outcome_event(claim, outcome, now_s), done))
        if not isinstance(outcome, Delivered):
            self._say(claim, outcome)

    def give_back(self, claim: Claim, done: Callable[[], None] | None = None) -> None:
        """Nothing was done with the job, and nothing will be: it is due for whoever claims it next. A lease that is
        just forgotten would last as long as this process."""
        outcome = Deferred(_STOPPED, "the server was stopped")
        settlement = Settlement(claim.job.id, claim.token, outcome, self._clock.now(), claim.job.delay_reported)
        self._add(_Item(claim, settlement, None, done))

    def _add(self, item: _Item) -> None:
        self._pending.append(item)
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def close(self) -> None:
        """As `drain`, but gives up soon where the store fails: the leases end with the process."""
        self._ending = True
        await self.drain()

    async def drain(self) -> None:
        """Wait until all that was put is durable."""
        while (task := self._task) is not None:
            await asyncio.shield(task)

    async def _run(self) -> None:
        try:
            while self._pending:
                batch, self._pending = self._pending[:_MAX_BATCH], self._pending[_MAX_BATCH:]
                try:
                    await self._settle(batch)
                except Exception as error:
                    # Nothing is lost: the leases end with this process, and the jobs are done again.
                    self._log.error("settle failed", jobs=len(batch), error=repr(error))
                for item in batch:
                    if item.done is not None:
                        item.done()
        finally:
            self._task = None

    async def _settle(self, batch: list[_Item]) -> None:
        plain = []
        reported: dict[bytes, list[_Item]] = {}
        for item in batch:
            if isinstance(item.settlement.outcome, Delivered) or not _may_report(item):
                plain.append(item)
            else:
                reported.setdefault(item.claim.job.spool_id, []).append(item)
        if plain:
            await self._settle_plain(plain)
        for items in reported.values():
            await self._settle_with_reports(items)

    async def _settle_plain(self, items: list[_Item]) -> None:
        """Outcomes that nobody is told of."""
        try:
            lost = await self._try(items, ())
        except LeaseLost:
            if len(items) > 1:
                for item in items:
                    await self._settle_plain([item])
                return
            lost = [items[0].claim.job.id]
        for job in lost:
            self._log.warning("lease lost", job=job.hex())

    async def _settle_with_reports(self, items: list[_Item]) -> None:
        """The outcomes of one message that its sender may be told of, and the reports, in one commit."""
        try:
            reports = await self._reports_for(items)
        except Exception as error:
            self._log.error("report failed", msg=items[0].claim.job.spool_id.hex(), error=repr(error))
            await self._settle_plain([self._untold(item) for item in items])
            return
        try:
            await self._try(items, reports)
        except LeaseLost:
            if len(items) == 1:
                self._log.warning("lease lost", job=items[0].claim.job.id.hex())
                return
            for item in items:
                await self._settle_with_reports([item])

    def _untold(self, item: _Item) -> _Item:
        """An outcome whose report cannot be made now: the job is put back, ends so again, and is told then."""
        now_s = self._clock.now()
        job = item.claim.job
        outcome = Deferred(_UNTOLD, "the report could not be made")
        next_s = next_attempt_s(now_s, job.attempts + 1, job.expires_s, self._queue, chance_of(self._random))
        settlement = Settlement(job.id, item.claim.token, outcome, next_s, job.delay_reported)
        return _Item(item.claim, settlement, outcome_event(item.claim, outcome, now_s), item.done)

    async def _reports_for(self, items: list[_Item]) -> list[Report]:
        message = items[0].claim.message
        failed = [(i.claim.job, i.settlement.outcome) for i in items if isinstance(i.settlement.outcome, Failed)]
        delayed = [
            (i.claim.job, i.settlement.outcome)
            for i in items
            if isinstance(i.settlement.outcome, Deferred) and i.settlement.delay_reported
        ]
        reports = []
        for report in (
            await self._reporter.failure(message, failed) if failed else None,
            await self._reporter.delay(message, delayed) if delayed else None,
        ):
            if report is not None:
                reports.append(report)
        return reports

    async def _try(self, items: list[_Item], reports: Sequence[Report]) -> Sequence[bytes]:
        settlements = [item.settlement for item in items]
        events = [item.event for item in items if item.event is not None]
        for report in reports:
            events.append(report_event(report.message, items[0].claim.message, report.kind))
        pairs = [(report.message, report.jobs) for report in reports]
        tries = 0
        while True:
            try:
                lost = await self._spool.settle(settlements, events, pairs)
            except Trouble as error:
                self._log.error("settle deferred", jobs=len(items), error=str(error))
                if self._ending and tries >= _LAST_TRIES:
                    raise
                await self._sleep(min(2.0**tries, _MAX_WAIT_S))
                tries += 1
            else:
                break
        for item in items:
            if item.event is not None:
                count(self._metrics, "outcomes", outcome=item.event.event, kind=item.claim.job.target.kind)
        return lost

    def _say(self, claim: Claim, outcome: Deferred | Failed) -> None:
        self._log.info(
            "failed" if isinstance(outcome, Failed) else "deferred",
            msg=claim.job.spool_id.hex(),
            rcpt=str(claim.job.recipient.address),
            status=str(outcome.status),
            text=outcome.text,
            remote=outcome.remote,
            attempts=claim.job.attempts + 1,
            # The message may have been taken and then come again: operators can tell (cases 17, 18).
            unknown_outcome=isinstance(outcome, Deferred) and outcome.unknown,
        )


def _may_report(item: _Item) -> bool:
    """True if the sender may have to be told of this outcome now."""
    if isinstance(item.settlement.outcome, Failed):
        return True
    return item.settlement.delay_reported and not item.claim.job.delay_reported
