"""The spool: accepted messages and their jobs. States: docs/queue-states.md.

All that waits when the writing lane comes round shares one commit. Leases belong to holders (one for each process that
claims): a holder lives while its range of the lock file is held and its row's time has not passed.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from pillarbox.model.clock import Clock
from pillarbox.model.errors import LeaseLost, NotFound, Trouble
from pillarbox.model.ids import JobId, SpoolId, id_time_s
from pillarbox.model.mailbox import Content
from pillarbox.model.outcome import Deferred
from pillarbox.store.api import NOBODY, Claim, Job, Selection, Settlement, Spooled, Target, TraceEvent
from pillarbox.store.blobs.pool import Pool
from pillarbox.store.sqlite import bulk, queue, trace
from pillarbox.store.sqlite.base import Database
from pillarbox.store.sqlite.files import Db
from pillarbox.store.sqlite.spool_rows import job_row, last_words, message_row, pack_events
from pillarbox.store.sqlite.turns import Turns

LEASE_S: Final = 60.0
MANY: Final = 500
"""More jobs than this are written in a thread."""
LARGE_OCTETS: Final = 32 << 10
"""So are larger contents."""
_INSERT_MESSAGE: Final = "INSERT INTO message(id, sha256, size, meta, prefix, data)"
_INSERT_JOB: Final = "INSERT INTO job"
_KEY: Final = "(spool_id,id,holder,token)"
Leased = tuple[Claim, int]
"""A claim and its holder."""
_OURS: Final = "WHERE spool_id=? AND id=? AND holder=? AND token=?"


class NewRows:
    """Rows of the accepts and settles that share a transaction, written together at its end; and until when the
    holder's row is known to be there: what a transaction that failed has written of it is not."""

    def __init__(self) -> None:
        self.leased_until_s = self._kept_until_s = float("-inf")
        self.messages: list[tuple[Any, ...]] = []
        self.jobs: list[tuple[Any, ...]] = []
        self.events: list[TraceEvent] = []
        self.holders: dict[int, float] = {}
        """Colleagues whom jobs are leased to, and until when at least (monotonic)."""

    def clear(self) -> None:
        """A transaction begins."""
        self.leased_until_s = self._kept_until_s
        self.messages, self.jobs, self.events, self.holders = [], [], [], {}

    def write(self, db: Db) -> None:
        """It is about to be committed."""
        for holder, until_s in self.holders.items():
            # It may have been taken for dead meanwhile: who has a job must have a row, or nobody would ever free it.
            db.execute("INSERT OR IGNORE INTO holder VALUES(?,?,?)", (holder, until_s, "front"))
        if self.messages:
            bulk.insert(db, _INSERT_MESSAGE, self.messages)
            bulk.insert(db, _INSERT_JOB, self.jobs)
        if self.events:
            db.execute("INSERT INTO trace_log(events) VALUES(?)", (pack_events(self.events),))

    def committed(self) -> None:
        """It is on disk."""
        self._kept_until_s = self.leased_until_s


class Spool:
    """Implements `api.Spool` on one database file."""

    def __init__(self, database: Database, rows: NewRows, turns: Turns, pool: Pool, clock: Clock, role: str) -> None:
        self._database = database
        self._rows = rows
        self._turns = turns
        self._pool = pool
        self._clock = clock
        self._role = role
        self._holder = 0
        self._cursor = ""
        self._has_claimed = False
        self._held: dict[JobId, SpoolId] = {}

    async def accept(
        self,
        message: Spooled,
        jobs: Sequence[Job],
        events: Sequence[TraceEvent] = (),
        claim: int = 0,
        holders: Mapping[str, int] = NOBODY,
    ) -> list[Claim]:
        """See api.Spool."""

        def verb(db: Db) -> list[Leased]:
            leased = self._insert(db, message, jobs, claim, holders)
            self._rows.events += events
            return leased

        is_long = len(jobs) > MANY or (message.content.data is not None and message.content.size > LARGE_OCTETS)
        return await self._taking(self._database.write(verb, guarded=is_long, rows=len(jobs)))

    async def _taking(self, future: asyncio.Future[list[Leased]]) -> list[Claim]:
        """Wait for claims and remember ours; if we are cancelled meanwhile, give them back when they come."""
        try:
            leased = await asyncio.shield(future)
        except asyncio.CancelledError:
            future.add_done_callback(self._give_back)
            raise
        for taken, holder in leased:
            if holder == self._holder:
                self._held[taken.job.id] = taken.job.spool_id
        return [taken for taken, _ in leased]

    def _give_back(self, future: asyncio.Future[list[Leased]]) -> None:
        if future.cancelled() or future.exception() is not None or not future.result():
            return
        self._free(future.result()).add_done_callback(lambda done: done.cancelled() or done.exception())

    def _free(self, leased: Sequence[Leased]) -> asyncio.Future[None]:
        keys = [(taken.job.spool_id, taken.job.id, holder, taken.token) for taken, holder in leased]

        def verb(db: Db) -> None:
            db.executemany(f"UPDATE job SET holder=0, token=token+1 {_OURS}", keys)

        return self._database.write(verb)

    async def enroll(self) -> int:
        """See api.Spool."""
        holder: int = await self._database.write(self._live)
        return holder

    def adopt(self, claims: Sequence[Claim]) -> None:
        """See api.Spool."""
        for claim in claims:
            self._held[claim.job.id] = claim.job.spool_id

    async def give_up(self, claims: Sequence[Claim], holder: int) -> None:
        """See api.Spool."""
        await self._free([(claim, holder) for claim in claims])

    async def reclaim(self, before_s: float) -> int:
        """See api.Spool."""

        def verb(db: Db) -> int:
            found = db.execute("SELECT spool_id, id FROM job WHERE holder=?", (self._holder,)).fetchall()
            lost = [key for key in found if key[1] not in self._held and id_time_s(key[1]) < before_s]
            db.executemany("UPDATE job SET holder=0, token=token+1 WHERE spool_id=? AND id=?", lost)
            return len(lost)

        count: int = await self._database.write(verb, guarded=True)
        return count

    def _insert(
        self, db: Db, message: Spooled, jobs: Sequence[Job], claim: int, holders: Mapping[str, int] = NOBODY
    ) -> list[Leased]:
        if message.content.data is None and not self._pool.path(message.content.sha256).exists():
            raise Trouble(f"content {message.content.sha256.hex()} is not in the pool")
        ours = self._live(db) if claim else 0
        self._rows.messages.append(message_row(message))
        added = self._rows.jobs
        leased: list[Leased] = []
        for job in jobs:
            holder = 0
            if len(leased) < claim and job.target.kind == "local" and job.state == "queued":
                holder = holders.get(job.target.name, ours)
                if holder != ours:
                    self._rows.holders[holder] = self._clock.monotonic() + LEASE_S
                leased.append((Claim(job, message, 1), holder))
            added.append(job_row(job, holder, int(holder != 0)))
        return leased

    def _live(self, db: Db) -> int:
        """Our holder's number; its row is written again if it may have been taken away."""
        now_s = self._clock.monotonic()
        if not self._holder:
            holder = int.from_bytes(os.urandom(4), "big") | 1
            self._turns.live(holder)
            self._holder = holder
        if now_s > self._rows.leased_until_s - LEASE_S / 2:
            db.execute("INSERT OR REPLACE INTO holder VALUES(?,?,?)", (self._holder, now_s + LEASE_S, self._role))
            self._rows.leased_until_s = now_s + LEASE_S
        return self._holder

    async def claim(self, limit: int, now_s: float, exclude: Iterable[Target] = ()) -> list[Claim]:
        """See api.Spool."""
        busy = frozenset(f"{target.kind}:{target.name}" for target in exclude)

        def verb(db: Db) -> list[Leased]:
            queue.free_lost(db, self._turns, self._holder, self._clock.monotonic())
            if not self._has_claimed:
                queue.free_orphans(db)
                self._has_claimed = True
            if not queue.is_due(db, now_s):
                return []
            holder = self._live(db)
            claims, self._cursor = queue.claim(db, holder, limit, now_s, busy, self._cursor)
            return [(taken, holder) for taken in claims]

        return await self._taking(self._database.write(verb, guarded=True))

    async def renew(self, now_s: float) -> None:
        """See api.Spool."""

        def verb(db: Db) -> None:
            self._rows.leased_until_s = float("-inf")
            self._live(db)

        if self._holder:
            await self._database.write(verb)

    async def settle(
        self,
        settlements: Sequence[Settlement],
        events: Sequence[TraceEvent] = (),
        reports: Sequence[tuple[Spooled, Sequence[Job]]] = (),
    ) -> list[JobId]:
        """See api.Spool."""

        def verb(db: Db) -> list[JobId]:
            lost = [s.job for s in settlements if not self._is_ours(db, s)] if reports else []
            if lost:
                raise LeaseLost(f"{len(lost)} jobs")
            lost = self._settle_all(db, settlements)
            for message, jobs in reports:
                self._insert(db, message, jobs, 0)
            if len(lost) < len(settlements) or not settlements:
                self._rows.events += events
            return lost

        try:
            lost: list[JobId] = await self._database.write(
                verb, guarded=len(settlements) > MANY, lazy=not reports, rows=len(settlements)
            )
        except LeaseLost:
            if len(settlements) == 1:
                self._held.pop(settlements[0].job, None)
            raise
        for settlement in settlements:
            self._held.pop(settlement.job, None)
        return lost

    def _is_ours(self, db: Db, settlement: Settlement) -> bool:
        key = (self._held.get(settlement.job), settlement.job, self._holder, settlement.token)
        return bool(db.execute(f"SELECT 1 FROM job {_OURS}", key).fetchall())

    def _settle_all(self, db: Db, settlements: Sequence[Settlement]) -> list[JobId]:
        """Apply them; returns the jobs whose lease was lost. All at once where all ended."""
        if not any(isinstance(s.outcome, Deferred) for s in settlements):
            keys = [(self._held.get(s.job), s.job, self._holder, s.token) for s in settlements]
            gone = frozenset(bulk.delete(db, "job", _KEY, keys, "id"))
            queue.remove_done(db, list(dict.fromkeys(key[0] for key in keys if key[1] in gone)))
            return [s.job for s in settlements if s.job not in gone]
        return [s.job for s in settlements if not self._settle(db, s)]

    def _settle(self, db: Db, settlement: Settlement) -> bool:
        """Apply one; False if the lease was lost."""
        spool_id, outcome = self._held.get(settlement.job), settlement.outcome
        key = (spool_id, settlement.job, self._holder, settlement.token)
        if isinstance(outcome, Deferred):
            db.execute(
                "UPDATE job SET holder=0, attempts=attempts+1, next_s=?, delay_reported=max(delay_reported,?), last=? "
                + _OURS,
                (settlement.next_s, int(settlement.delay_reported), last_words(outcome), *key),
            )
            return bool(db.changes() == 1)
        db.execute(f"DELETE FROM job {_OURS}", key)
        if db.changes() != 1:
            return False
        queue.remove_done(db, [spool_id])
        return True

    async def next_due(self) -> float | None:
        """See api.Spool."""
        due: float | None = await self._database.read(queue.next_due)
        return due

    async def peek(self, selection: Selection) -> list[tuple[Job, Spooled]]:
        """See api.Spool."""
        found: list[tuple[Job, Spooled]] = await self._database.read(lambda db: queue.peek(db, selection))
        return found

    async def counts(self) -> dict[str, int]:
        """See api.Spool."""
        counted: dict[str, int] = await self._database.read(queue.counts)
        return counted

    async def retry(self, selection: Selection, now_s: float) -> int:
        """See api.Spool."""
        return await self._change(selection, lambda db, keys: queue.retry(db, keys, now_s))

    async def hold(self, selection: Selection, events: Sequence[TraceEvent] = ()) -> int:
        """See api.Spool."""
        return await self._change(selection, queue.hold, events)

    async def release(self, selection: Selection, now_s: float, events: Sequence[TraceEvent] = ()) -> int:
        """See api.Spool."""
        return await self._change(selection, lambda db, keys: queue.release(db, keys, now_s), events)

    async def drop(self, selection: Selection, now_s: float, events: Sequence[TraceEvent] = ()) -> int:
        """See api.Spool."""
        return await self._change(selection, queue.drop, events)

    async def _change(
        self,
        selection: Selection,
        change: Callable[[Db, list[queue.JobKey]], int],
        events: Sequence[TraceEvent] = (),
    ) -> int:
        def verb(db: Db) -> int:
            keys: list[queue.JobKey] = [(job.spool_id, job.id) for job, _ in queue.peek(db, selection)]
            changed = change(db, keys)
            self._rows.events += events
            return changed

        count: int = await self._database.write(verb, guarded=True)
        return count

    async def content(self, spool_id: SpoolId) -> Content:
        """See api.Spool."""

        def verb(db: Db) -> Content:
            for sha256, size, data in db.execute("SELECT sha256, size, data FROM message WHERE id=?", (spool_id,)):
                return Content(sha256, size, data)
            raise NotFound(f"message {spool_id.hex()}")

        content: Content = await self._database.read(verb)
        return content

    async def trace(self, text: str, limit: int = 1000) -> list[TraceEvent]:
        """See api.Spool."""
        while await self._database.write(trace.digest, guarded=True):
            pass
        events: list[TraceEvent] = await self._database.read(lambda db: trace.find(db, text, limit))
        return events

    async def sweep(self, now_s: float, trace_days: float) -> None:
        """See api.Spool."""
        while await self._database.write(trace.digest, guarded=True):
            pass
        before_s = now_s - trace_days * 86400.0
        while await self._database.write(lambda db: trace.drop_before(db, before_s), guarded=True):
            pass

    async def job_ids(self) -> set[bytes]:
        """Ids of all jobs there are."""

        def verb(db: Db) -> set[bytes]:
            return {job for (job,) in db.execute("SELECT id FROM job")}

        found: set[bytes] = await self._database.read(verb)
        return found


def needs(db: Db) -> Callable[[bytes], bool]:
    """Is a content of the pool one of a message in the spool?"""

    def is_needed(sha256: bytes) -> bool:
        found: list[Any] = db.execute("SELECT 1 FROM message WHERE sha256=? AND data IS NULL", (sha256,)).fetchall()
        return bool(found)

    return is_needed
