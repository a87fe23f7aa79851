"""The mover's engine: claims due jobs, sends them on or files them, and keeps the queue's house.

A destination is what a `Target` names: a domain, or a static route. For each there is a bound of transactions at once;
recipients of one message for one destination share a transaction. A destination that does not answer is dead for a
while: then one transaction probes it, and all other mail for it is put back with the probe's answer (case 22).
States and rules: docs/queue-states.md. Source: RFC 5321 §4.5.4.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from pillarbox.mail.deliver import LocalDelivery
from pillarbox.mail.desk import Resolver, Wire
from pillarbox.mail.entropy import Entropy
from pillarbox.mail.hops import HopFinder
from pillarbox.mail.metrics import Log, Metrics
from pillarbox.mail.parcel import full_content, make_parcel
from pillarbox.mail.reports import Reporter
from pillarbox.mail.route import Router
from pillarbox.mail.settle import Settler
from pillarbox.message.wire import wire_forms
from pillarbox.model.clock import Clock
from pillarbox.model.errors import DamagedMessage, NotFound, PillarboxError, Trouble
from pillarbox.model.outcome import Deferred, Delivered, Outcome
from pillarbox.model.settings import Settings
from pillarbox.model.status import Status
from pillarbox.store.api import Claim, Selection, Signals, Store, Target

MAX_RECIPIENTS: Final = 100
"""Recipients in one transaction (RFC 5321 §4.5.3.1.8: every server takes so many)."""
MAX_CLAIMED: Final = 1000
"""Jobs in hand at once."""
MAX_CONNECTS: Final = 5
"""Hosts that are tried for one attempt."""
FAILURES_TO_DIE: Final = 3
"""Attempts in a row without an answer, after which a destination is dead."""
DEAD_S: Final = 60.0
MAX_DEAD_S: Final = 300.0
RENEW_S: Final = 20.0
CHECKPOINT_S: Final = 5.0
SWEEP_S: Final = 3600.0
POLL_S: Final = 5.0
"""The queue is looked at so often even if no signal comes: signals may be lost."""
MIN_GAP_S: Final = 0.05
"""Signals come with every commit of the spool: looks at the queue are at least so far apart."""
LEFT_OVER_S: Final = 2.0
"""Jobs of dead processes are found by claiming only: that is done so often even if nothing seems to be due."""
CLOCK_JUMP_S: Final = 300.0
STOP_S: Final = 30.0
_NO_ANSWER: Final = frozenset((Status(4, 4, 1), Status(4, 4, 3)))


@dataclass(slots=True)
class _Load:
    """Recipients of one message for one transaction."""

    claims: list[Claim]


@dataclass(slots=True)
class _Destination:
    """What is known of a destination while there is mail for it, and while it is dead."""

    name: str
    waiting: deque[_Load] = field(default_factory=deque)
    targets: set[Target] = field(default_factory=set)
    active: int = 0
    failures: int = 0
    dead_until_s: float = 0.0
    """Monotonic."""
    failed_s: float = 0.0
    """Wall clock of the last attempt without an answer."""
    answer: Deferred | None = None

    @property
    def is_dead(self) -> bool:
        return self.failures >= FAILURES_TO_DIE


class Mover:
    """Runs the queue. One per home."""

    def __init__(
        self,
        store: Store,
        wire: Wire,
        resolver: Resolver,
        settings: Settings,
        clock: Clock,
        random: Callable[[int], bytes],
        log: Log,
        metrics: Metrics | None = None,
        signals: Signals | None = None,
        own_addresses: Iterable[str] = (),
        sleep: Callable[[float], Awaitable[Any]] = asyncio.sleep,
    ) -> None:
        self._store = store
        self._spool = store.spool
        random = Entropy(random)
        self._wire = wire
        self._queue = settings.queue
        self._clock = clock
        self._log = log
        self._signals = signals
        self._sleep = sleep
        self._router = Router(store.directory, settings, clock)
        self._hops = HopFinder(resolver, settings, random, own_addresses)
        reporter = Reporter(store, self._router, settings, clock, random, log, metrics)
        self._settler = Settler(store.spool, reporter, settings, clock, random, log, metrics, sleep)
        self._local = LocalDelivery(store.mailboxes, clock, self._settler, log)
        self._destinations: dict[str, _Destination] = {}
        """Those with mail in hand, and those that failed lately."""
        self._waiting: dict[str, _Destination] = {}
        """Of those, the ones with mail that waits for its turn."""
        self._active = 0
        self._claimed = 0
        """Remote jobs in hand."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._wake = asyncio.Event()
        self._claimed_s = float("-inf")
        """Monotonic, of the last claim."""
        self._stopping = False
        self._clock_gap_s = clock.now() - clock.monotonic()

    async def run(self) -> None:
        """Work until `stop`."""
        unsubscribe = self._signals.subscribe("spool", self._wake.set) if self._signals is not None else None
        keepers = [
            asyncio.ensure_future(self._every(RENEW_S, self._renew)),
            asyncio.ensure_future(self._every(CHECKPOINT_S, self._store.checkpoint)),
            asyncio.ensure_future(self._every(SWEEP_S, self._sweep)),
        ]
        try:
            while not self._stopping:
                self._wake.clear()
                try:
                    wait_s = await self.step()
                except PillarboxError as error:
                    self._log.error("queue stopped for a moment", error=str(error))
                    wait_s = 1.0
                if wait_s > 0 and not self._stopping:
                    with contextlib.suppress(asyncio.TimeoutError):
                        await asyncio.wait_for(self._wake.wait(), min(wait_s, POLL_S))
                    if not self._stopping:
                        await self._sleep(MIN_GAP_S)
        finally:
            for keeper in keepers:
                keeper.cancel()
            await asyncio.gather(*keepers, return_exceptions=True)
            if unsubscribe is not None:
                unsubscribe()

    async def stop(self) -> None:
        """Take nothing new; finish what is on its way, for half a minute at most; leave the rest to the next start."""
        self._stopping = True
        self._wake.set()
        for destination in self._waiting.values():
            while destination.waiting:
                self._give_back(destination.waiting.popleft())
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=STOP_S)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._local.close()
        await self._wire.close()

    async def step(self) -> float:
        """Claim what is due and start on it; seconds until there may be more to do. Raises Trouble."""
        now_s = self._clock.now()
        await self._mind_the_clock(now_s)
        room = MAX_CLAIMED - self._claimed - self._local.outstanding
        if room <= 0:
            return 1.0
        due_s = await self._spool.next_due()
        looked_s = self._clock.monotonic()
        if (due_s is None or due_s > now_s) and looked_s < self._claimed_s + LEFT_OVER_S:
            return min(LEFT_OVER_S, POLL_S if due_s is None else due_s - now_s)
        self._claimed_s = looked_s
        claims = await self._spool.claim(room, now_s, self._busy())
        await self._take(claims)
        self._pump()
        if len(claims) >= room:
            return 0.0 if self._claimed + self._local.outstanding < MAX_CLAIMED else 1.0
        # What is due and was not claimed waits for a busy destination: its end wakes us.
        return MIN_GAP_S if claims else LEFT_OVER_S

    async def settled(self) -> None:
        """Wait until everything claimed so far is done and written down."""
        while self._tasks or self._local.outstanding:
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await self._local.drain()
        await self._settler.drain()

    # --- claiming --------------------------------------------------------------------------------------------------

    def _busy(self) -> list[Target]:
        """Targets that have enough in hand."""
        bound = self._queue.per_destination * 2
        busy = self._local.busy(400)
        for destination in self._waiting.values():
            if len(destination.waiting) >= bound:
                busy += destination.targets
        return busy

    async def _take(self, claims: list[Claim]) -> None:
        """Share out what was claimed: local jobs by message, remote ones by destination and message."""
        local: dict[bytes, list[Claim]] = {}
        remote: dict[tuple[str, bytes], list[Claim]] = {}
        for claim in claims:
            job = claim.job
            if job.target.kind == "local":
                local.setdefault(job.spool_id, []).append(claim)
            else:
                # Asked anew each time, so that a changed route holds for what is queued already.
                name = self._router.next_hop(job.recipient.address.domain)
                remote.setdefault((name, job.spool_id), []).append(claim)
        for (name, _), group in remote.items():
            destination = self._destinations.get(name)
            if destination is None:
                destination = self._destinations[name] = _Destination(name)
            destination.targets.update(claim.job.target for claim in group)
            self._waiting[name] = destination
            self._claimed += len(group)
            for start in range(0, len(group), MAX_RECIPIENTS):
                destination.waiting.append(_Load(group[start : start + MAX_RECIPIENTS]))
        for group in local.values():
            await self._deliver(group)

    async def _deliver(self, claims: list[Claim]) -> None:
        """Local jobs of one message, left over by a process that died or put back after trouble."""
        message = claims[0].message
        try:
            content = await full_content(message, self._spool)
        except (Trouble, DamagedMessage, NotFound) as error:
            self._log.error("message unreadable", msg=message.id.hex(), error=str(error))
            for claim in claims:
                self._settler.put(claim, Deferred(Status(4, 3, 0), "the message cannot be read"), self._clock.now())
            return
        forms = None
        if len(claims) > 1 and content.data is not None:  # else whoever files it computes them, once for each account
            data = content.data
            forms = await asyncio.to_thread(wire_forms, data, message.prefix)
        self._local.submit(claims, content, forms)

    # --- sending ---------------------------------------------------------------------------------------------------

    def _pump(self) -> None:
        """Start transactions where there is room: in turns, one for each destination that has something to send."""
        if self._stopping:
            return
        progress = True
        while progress:
            progress = False
            for destination in list(self._waiting.values()):
                if destination.is_dead and self._clock.monotonic() < destination.dead_until_s:
                    self._suspend(destination)
                elif destination.active < self._limit(destination):
                    if self._active >= self._queue.concurrency:
                        return
                    progress = True
                    self._start(destination, destination.waiting.popleft())
                    del self._waiting[destination.name]
                    self._waiting[destination.name] = destination  # its next turn is after all others'
                if not destination.waiting:
                    del self._waiting[destination.name]

    def _leave(self, destination: _Destination) -> None:
        """Forget a destination without mail, unless it failed."""
        if not destination.waiting and not destination.active:
            destination.targets.clear()
            if not destination.failures:
                self._destinations.pop(destination.name, None)

    def _limit(self, destination: _Destination) -> int:
        return 1 if destination.is_dead else self._queue.per_destination

    def _suspend(self, destination: _Destination) -> None:
        """Put back what waits for a dead destination, with the answer of the last attempt."""
        answer = destination.answer or Deferred(Status(4, 4, 1), "no answer")
        while destination.waiting:
            load = destination.waiting.popleft()
            self._finish(load.claims, [answer] * len(load.claims), destination.failed_s)
        self._leave(destination)

    def _start(self, destination: _Destination, load: _Load) -> None:
        destination.active += 1
        self._active += 1
        task = asyncio.get_running_loop().create_task(self._attempt(destination, load))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _attempt(self, destination: _Destination, load: _Load) -> None:
        """One transaction with a destination, from finding its hosts to writing down what came of it."""
        started_s = self._clock.now()
        outcomes: list[Outcome] = []
        try:
            outcomes = await self._send(destination.name, load.claims)
        except (Trouble, DamagedMessage, NotFound) as error:
            self._log.error("message unreadable", msg=load.claims[0].job.spool_id.hex(), error=str(error))
            outcomes = [Deferred(Status(4, 3, 0), "the message cannot be read")] * len(load.claims)
        except Exception as error:
            self._log.error("sending failed", destination=destination.name, error=repr(error))
            outcomes = [Deferred(Status(4, 3, 0), "internal trouble")] * len(load.claims)
        finally:
            destination.active -= 1
            self._active -= 1
            if not outcomes:  # cancelled
                self._give_back(load)
        self._judge(destination, outcomes, started_s)
        self._finish(load.claims, outcomes, started_s)
        self._pump()
        self._leave(destination)

    async def _send(self, name: str, claims: list[Claim]) -> list[Outcome]:
        hops = await self._hops.hops_for(name)
        if not isinstance(hops, list):
            return [hops] * len(claims)
        message = claims[0].message
        parcel = await make_parcel(message, claims, self._spool, self._store.blobs)
        outcomes: list[Outcome] = []
        for hop in hops[:MAX_CONNECTS]:
            outcomes = list(await self._wire.send(hop, parcel))
            for claim, outcome in zip(claims, outcomes, strict=True):
                if isinstance(outcome, Delivered):
                    self._log.info(
                        "sent",
                        msg=message.id.hex(),
                        rcpt=str(claim.job.recipient.address),
                        remote=outcome.remote,
                        text=outcome.text,
                    )
            if not all(isinstance(outcome, Deferred) and outcome.status == (4, 4, 1) for outcome in outcomes):
                break
        return outcomes

    def _judge(self, destination: _Destination, outcomes: list[Outcome], started_s: float) -> None:
        """Remember whether the destination answers."""
        answers = [o for o in outcomes if not (isinstance(o, Deferred) and o.status in _NO_ANSWER)]
        if answers:
            destination.failures = 0
            destination.answer = None
            return
        first = outcomes[0]
        destination.failures += 1
        destination.failed_s = started_s
        destination.answer = first if isinstance(first, Deferred) else None
        times = max(destination.failures - FAILURES_TO_DIE, 0)
        destination.dead_until_s = self._clock.monotonic() + min(DEAD_S * 2.0 ** min(times, 8), MAX_DEAD_S)

    def _finish(self, claims: list[Claim], outcomes: list[Outcome] | list[Deferred], attempted_s: float) -> None:
        for claim, outcome in zip(claims, outcomes, strict=True):
            self._settler.put(claim, outcome, attempted_s, self._settled)

    def _give_back(self, load: _Load) -> None:
        for claim in load.claims:
            self._settler.give_back(claim, self._settled)

    def _settled(self) -> None:
        self._claimed -= 1
        self._wake.set()

    # --- keeping house ---------------------------------------------------------------------------------------------

    async def _mind_the_clock(self, now_s: float) -> None:
        """After the wall clock was set back, what waits would wait the longer: it is due now (case 20)."""
        gap_s = now_s - self._clock.monotonic()
        if gap_s < self._clock_gap_s - CLOCK_JUMP_S:
            self._log.warning("clock set back", seconds=round(self._clock_gap_s - gap_s))
            await self._spool.retry(Selection(state="queued"), now_s)
        self._clock_gap_s = gap_s
        if len(self._destinations) > MAX_CLAIMED * 10:
            # Remembered failures of destinations without mail.
            for name in [d.name for d in self._destinations.values() if not d.waiting and not d.active]:
                del self._destinations[name]

    async def _renew(self) -> None:
        await self._spool.renew(self._clock.now())

    async def _sweep(self) -> None:
        await self._spool.sweep(self._clock.now(), self._queue.trace_days)

    async def _every(self, seconds: float, work: Callable[[], Awaitable[None]]) -> None:
        while True:
            await self._sleep(seconds)
            try:
                await work()
            except Exception as error:
                self._log.error("upkeep failed", work=getattr(work, "__name__", "?"), error=repr(error))
