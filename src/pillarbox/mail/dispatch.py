"""Where the jobs of an accepted message go: to our own delivery, to the colleague who has the account, to the mover.

The commit of the message leases each local job to whoever delivers it; so nothing depends on what happens after it.
docs/decisions/accounts-by-worker.md
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from pillarbox.mail.deliver import LocalDelivery
from pillarbox.mail.desk import Colleagues
from pillarbox.mail.metrics import Log
from pillarbox.message.wire import WireForms
from pillarbox.model.errors import Trouble
from pillarbox.store.api import Claim, Handed, Job, Signals, Spool, Spooled, TraceEvent


class Dispatch:
    """One per front process."""

    def __init__(
        self, spool: Spool, local: LocalDelivery, colleagues: Colleagues | None, signals: Signals | None, log: Log
    ) -> None:
        self._spool = spool
        self._local = local
        self._colleagues = colleagues
        self._signals = signals
        self._log = log
        self._giving_up: set[asyncio.Task[None]] = set()

    async def accept(
        self, spooled: Spooled, jobs: Sequence[Job], events: Sequence[TraceEvent], forms: WireForms
    ) -> None:
        """Commit; then deliver what is ours from memory, hand over what is a colleague's, and wake the mover for the
        rest. Raises Trouble."""
        names = {job.target.name for job in jobs if job.target.kind == "local"}
        holders = self._holders(names)
        claims = await self._spool.accept(spooled, jobs, events, claim=len(jobs) if names else 0, holders=holders)
        if holders:
            claims = self._hand_over(spooled, claims, holders, forms)
        if claims:
            self._local.submit(claims, spooled.content, forms)
        if self._signals is not None and any(job.target.kind != "local" for job in jobs):
            self._signals.publish("spool")

    def _holders(self, names: set[str]) -> dict[str, int]:
        """Who else delivers for these accounts."""
        colleagues = self._colleagues
        if colleagues is None:
            return {}
        return {name: holder for name in names if (holder := colleagues.holder_for(name))}

    def _hand_over(
        self, spooled: Spooled, claims: Sequence[Claim], holders: dict[str, int], forms: WireForms
    ) -> list[Claim]:
        """Give colleagues what is leased to them, and return what is ours."""
        assert self._colleagues is not None
        ours: list[Claim] = []
        theirs: dict[int, list[Claim]] = {}
        for claim in claims:
            holder = holders.get(claim.job.target.name)
            (theirs.setdefault(holder, []) if holder else ours).append(claim)
        for holder, taken in theirs.items():
            handed = Handed(spooled, tuple(claim.job for claim in taken), taken[0].token, forms)
            if not self._colleagues.hand(holder, handed):
                task = asyncio.get_running_loop().create_task(self._give_up(taken, holder))
                self._giving_up.add(task)
                task.add_done_callback(self._giving_up.discard)
        return ours

    async def _give_up(self, claims: Sequence[Claim], holder: int) -> None:
        """The link broke after the commit: the mover delivers them."""
        try:
            await self._spool.give_up(claims, holder)
        except Trouble as error:  # they are free when that process ends, or misses them
            self._log.error("upkeep failed", work="give up", error=str(error))
        if self._signals is not None:
            self._signals.publish("spool")

    def take_over(self, handed: Handed) -> None:
        """Deliver what a colleague accepted."""
        claims = [Claim(job, handed.message, handed.token) for job in handed.jobs]
        self._spool.adopt(claims)
        self._local.submit(claims, handed.message.content, handed.forms)

    @property
    def is_full(self) -> bool:
        """Must what colleagues hand over wait?"""
        return self._local.is_full

    async def room(self) -> None:
        """Wait until there is room for another message."""
        await self._local.room()

    async def close(self) -> None:
        """Finish what is being delivered and given up."""
        await self._local.close()
        await asyncio.gather(*self._giving_up)
