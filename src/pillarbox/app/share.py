"""A worker's share of the accounts: links to its colleagues, leases that last as long as it does, and what got lost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final

import structlog

from pillarbox.app.plan import Common
from pillarbox.mail.dispatch import Dispatch
from pillarbox.net.colleagues import Links
from pillarbox.store.api import Handed

RENEW_S: Final = 20.0
"""A lease lasts a minute."""
LOST_S: Final = 30.0
"""So long after the end of a link all that came over it is known."""

log = structlog.get_logger()


class Share:
    """One for each worker where there are several. `dispatch` is whoever delivers now.

    Why: docs/decisions/accounts-by-worker.md.
    """

    def __init__(self, common: Common, number: int, dispatch: Callable[[], Dispatch]) -> None:
        self._common = common
        self._dispatch = dispatch
        self._tasks: set[asyncio.Task[None]] = set()
        self.links = Links(
            common.plan.home / "run", number, common.plan.workers, self._take, lambda: dispatch().is_full,
            lambda: dispatch().room(), lambda: self._in_background(self._reclaim()),
        )  # fmt: skip

    async def start(self) -> None:
        """Be there for the others. Raises OSError, Trouble."""
        await self.links.start(await self._common.store.spool.enroll())
        self._in_background(self._renew())

    def close(self) -> None:
        """Hand over and take over no more."""
        for task in self._tasks:
            task.cancel()
        self.links.close()

    def _take(self, handed: Handed) -> None:
        self._dispatch().take_over(handed)

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _renew(self) -> None:
        """Others may lease jobs to us as long as we live."""
        spool, clock = self._common.store.spool, self._common.clock
        while True:
            await asyncio.sleep(RENEW_S)
            try:
                await spool.renew(clock.now())
            except Exception as error:  # whatever it is: who does not renew loses its leases
                log.error("upkeep failed", work="renew", error=repr(error))

    async def _reclaim(self) -> None:
        """A link ended: what was leased to us over it, and has not come by now, is nobody's."""
        common = self._common
        await asyncio.sleep(LOST_S)
        try:
            found = await common.store.spool.reclaim(common.clock.now() - LOST_S)
        except Exception as error:
            log.error("upkeep failed", work="reclaim", error=repr(error))
            return
        if found:
            log.warning("jobs lost between workers are free again", jobs=found)
            common.signals.publish("spool")
