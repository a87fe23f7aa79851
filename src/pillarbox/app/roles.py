"""What a process does: a front worker listens, the mover moves the queue; one process can be both.

A process opens its own store, joins what decides and what listens, and works until it is told to stop; told to reload,
it makes new services for new connections and leaves the old ones to the sessions that run.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Any

import structlog

from pillarbox.app.front import Change, Front
from pillarbox.app.moving import MoverRole
from pillarbox.app.outcome import tell_outcome
from pillarbox.app.plan import Common, Plan
from pillarbox.log import configure_logs
from pillarbox.model.errors import Trouble
from pillarbox.model.settings import Settings
from pillarbox.net.clock import SystemClock
from pillarbox.net.resolver import DnsResolver
from pillarbox.net.signals import LocalSignals
from pillarbox.net.supervisor import Bound
from pillarbox.net.tls import shrink_asyncio_buffers
from pillarbox.store.api import Directory, Signals
from pillarbox.store.sqlite.engine import open_store

log = structlog.get_logger()


@dataclass(slots=True)
class Process:
    """One process of the server: `bound` and `metrics` are its sockets, `number` its part of the shared numbers."""

    plan: Plan
    name: str
    number: int
    bound: Bound = field(default_factory=list)
    metrics: Bound = field(default_factory=list)
    is_mover: bool = False
    ready: Callable[[], None] | None = None

    def run(self) -> int:
        """Work until SIGTERM; the exit code."""
        try:
            import uvloop

            factory: Callable[[], asyncio.AbstractEventLoop] | None = uvloop.new_event_loop
        except ImportError:
            factory = None
            shrink_asyncio_buffers()
        with asyncio.Runner(loop_factory=factory) as runner:
            return runner.run(self._work())

    async def _work(self) -> int:
        loop = asyncio.get_running_loop()
        stopping, reloading = asyncio.Event(), asyncio.Event()
        for number in (signal.SIGTERM, *((signal.SIGINT,) if self.ready else ())):
            loop.add_signal_handler(number, stopping.set)
        loop.add_signal_handler(signal.SIGHUP, reloading.set)
        async with contextlib.AsyncExitStack() as stack:
            common = await self._common(stack)
            roles: list[Front | MoverRole] = []
            if self.bound:
                roles.append(Front(common, self.bound, self.number))
            if self.is_mover:
                roles.append(MoverRole(common, self.metrics))
            for role in roles:
                await role.start()
            if self.ready:
                self.ready()
            log.info("started", role=self.name, pid=os.getpid())
            while not stopping.is_set():
                await _first(stopping.wait(), reloading.wait())
                if reloading.is_set() and not stopping.is_set():
                    reloading.clear()
                    common = await self._reload(common, roles)
            await asyncio.gather(*(role.stop() for role in roles))
        log.info("ended", role=self.name)
        return 0

    async def _common(self, stack: contextlib.AsyncExitStack) -> Common:
        plan = self.plan
        counters = plan.numbers.part(self.number)
        counters.reset_gauges()
        clock = SystemClock()
        signals = LocalSignals(plan.home / "run")
        signals.start()
        stack.callback(signals.close)
        role = "mover" if self.is_mover else "front"
        store = await open_store(plan.home, signals=signals, settings=plan.settings, clock=clock, role=role)
        stack.push_async_callback(store.close)
        stack.callback(follow_directory(store.directory, signals))
        resolver = DnsResolver(clock, plan.settings.outbound.name_servers)
        return Common(plan, store, signals, clock, counters, resolver)

    async def _reload(self, common: Common, roles: list[Front | MoverRole]) -> Common:
        """Take over the new configuration, if all of it can be, and by all processes; what holds from now on."""
        board, began_ns = self.plan.board, time.monotonic_ns()
        changes: list[Change] = []
        try:
            plan = self.plan.read()
            new = replace(common, plan=plan, resolver=DnsResolver(common.clock, plan.settings.outbound.name_servers))
            for role in roles:
                changes.append(role.prepare(new))
            agreed = board is None or await board.decided(self.number, plan.digest())
        except Exception as error:  # whatever it is, the old configuration is still whole
            if board is not None:
                board.fail(self.number)
            log.error("reload failed, the old configuration stays", error=str(error))
            self._tell(began_ns, str(error))
            agreed = False
        if not agreed:
            for change in changes:
                change.drop()
            return common
        for change in changes:
            change.commit()
        self.plan = plan
        reopen_log(plan.settings, "" if self.ready else self.name)
        log.info("reloaded", role=self.name)
        if board is not None:
            board.done(self.number)
        self._tell(began_ns, "", plan.needs_restart)
        return new

    def _tell(self, began_ns: int, error: str, needs_restart: tuple[str, ...] = ()) -> None:
        """Where this is the only process: for whoever asked for the reload."""
        if self.plan.board is None:
            tell_outcome(self.plan.home, began_ns, error, needs_restart)


def follow_directory(directory: Directory, signals: Signals) -> Callable[[], None]:
    """Make the directory see a change when it is told of it; returns what ends that.

    Else its cache, which asks a few times a second, answers those who look after their sessions with what was before,
    and they are not told again. It subscribes first, so it is woken first.
    """
    tasks: set[asyncio.Task[None]] = set()

    async def look() -> None:
        with contextlib.suppress(Trouble):  # whoever asks next meets the same trouble, and says so
            await directory.version()

    def changed() -> None:
        if not tasks:
            task = asyncio.get_running_loop().create_task(look())
            tasks.add(task)
            task.add_done_callback(tasks.discard)

    return signals.subscribe("directory", changed)


def reopen_log(settings: Settings, process: str) -> None:
    """Set logging up as configured, or keep it as it was where that fails. A log file that was moved is made anew."""
    try:
        configure_logs(settings.log.level, settings.log.format, settings.log.file, process)
    except OSError as error:
        log.error("cannot open the log file", file=settings.log.file, error=error.strerror)


async def _first(*waits: Awaitable[Any]) -> None:
    """Until one of these is over."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
