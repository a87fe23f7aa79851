"""What a process does: a front worker listens, the mover moves the queue; one process can be both.

A process opens its own store, joins what decides and what listens, and works until it is told to stop; told to reload,
it makes new services for new connections and leaves the old ones to the sessions that run.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

import structlog

from pillarbox.app.gate import CountedGate
from pillarbox.config import ConfigError
from pillarbox.log import configure_logs
from pillarbox.mail.intake import MailDesk
from pillarbox.mail.limits import DoorGate
from pillarbox.mail.logins import LoginDesk
from pillarbox.mail.queue import Mover
from pillarbox.metrics import Counters, MetricsPage, SharedNumbers
from pillarbox.model.clock import Clock
from pillarbox.model.errors import PillarboxError, Trouble
from pillarbox.model.settings import Listener, Settings
from pillarbox.net.clock import SystemClock
from pillarbox.net.colleagues import Links
from pillarbox.net.imapd import ImapListener
from pillarbox.net.listen import Acceptor
from pillarbox.net.outbound import OutboundWire
from pillarbox.net.pop3d import Pop3Listener
from pillarbox.net.resolver import DnsResolver
from pillarbox.net.signals import LocalSignals
from pillarbox.net.smtpd import SmtpService
from pillarbox.net.supervisor import Bound
from pillarbox.net.tls import ServerTls, read_certificate, shrink_asyncio_buffers
from pillarbox.store.api import Directory, Handed, Signals, Store
from pillarbox.store.sqlite.engine import open_store

RENEW_S: Final = 20.0
LOST_S: Final = 30.0
"""So long after the end of a link all that came over it is known."""
GAUGES_S: Final = 10.0
RETIRE_S: Final = 5.0
_SIOCGIFADDR: Final = 0x8915
STOP_S: Final = 28.0
"""For sessions to end what they are at: a little less than the supervisor waits."""

log = structlog.get_logger()


@dataclass(slots=True)
class Plan:
    """What the processes are to do; made before the fork, `settings` replaced by a reload."""

    home: Path
    settings: Settings
    certificate: Path
    key: Path
    workers: int
    numbers: SharedNumbers
    read: Callable[[], Plan]
    """Reads the configuration again. Raises ConfigError, PillarboxError."""


class Service(Protocol):
    """What the sessions of a listener share: takes connections, can be told to end."""

    async def stop(self, grace_s: float) -> None: ...


@dataclass(slots=True)
class Generation:
    """The services made from one configuration."""

    acceptors: list[Acceptor]
    services: list[Service]
    desk: MailDesk
    logins: LoginDesk
    gate: CountedGate

    async def end(self, grace_s: float) -> None:
        """Let sessions end what they are at, and deliver what was accepted."""
        for acceptor in self.acceptors:
            acceptor.close()
        await asyncio.gather(*(service.stop(grace_s) for service in self.services))
        await self.desk.close()
        self.logins.close()


@dataclass(slots=True)
class Common:
    """What a process has whatever its role."""

    plan: Plan
    store: Store
    signals: LocalSignals
    clock: Clock
    counters: Counters
    resolver: DnsResolver


class Front:
    """The listeners of one worker."""

    def __init__(self, common: Common, bound: Bound, number: int) -> None:
        self._common = common
        self._bound = bound
        plan = common.plan
        self._links: Links | None = None
        if plan.workers > 1:
            self._links = Links(
                plan.home / "run", number, plan.workers, self._take_over, lambda: self._desk.is_full,
                lambda: self._desk.room(), self._look_for_lost,
            )  # fmt: skip
        self._tls = ServerTls(plan.certificate, plan.key, plan.settings.tls.min_version)
        self._generations: list[Generation] = []
        self._open_now: dict[str, int] = {}
        self._retiring: set[asyncio.Task[None]] = set()
        self._upkeep: set[asyncio.Task[None]] = set()

    async def start_links(self) -> None:
        """Share the accounts with the other workers. Raises OSError, Trouble."""
        if self._links is not None:
            await self._links.start(await self._common.store.spool.enroll())
            self._upkeep.add(_task(self._renew(), "leases"))

    async def _renew(self) -> None:
        """Others may lease jobs to us as long as we live."""
        common = self._common
        while True:
            await asyncio.sleep(RENEW_S)
            try:
                await common.store.spool.renew(common.clock.now())
            except Trouble as error:
                log.error("upkeep failed", work="renew", error=str(error))

    @property
    def _desk(self) -> MailDesk:
        return self._generations[-1].desk

    def _take_over(self, handed: Handed) -> None:
        self._desk.take_over(handed)

    def _look_for_lost(self) -> None:
        """A link ended: what was leased to us over it, and has not arrived when all that came is surely known, is
        nobody's."""
        task = asyncio.get_running_loop().create_task(self._reclaim())
        self._upkeep.add(task)
        task.add_done_callback(self._upkeep.discard)

    async def _reclaim(self) -> None:
        common = self._common
        await asyncio.sleep(LOST_S)
        try:
            found = await common.store.spool.reclaim(common.clock.now() - LOST_S)
        except Trouble as error:
            log.error("upkeep failed", work="reclaim", error=str(error))
            return
        if found:
            log.warning("jobs lost between workers are free again", jobs=found)
            common.signals.publish("spool")

    def start(self) -> None:
        """Accept connections, by the plan as it is now."""
        self._generations.append(self._generation())

    def reload(self) -> None:
        """New connections meet the new settings and certificate; sessions that run go on. Raises TlsTrouble."""
        plan = self._common.plan
        self._tls.reload(plan.certificate, plan.key)
        before = self._generations[-1]
        self.start()
        for acceptor in before.acceptors:
            acceptor.close()
        task = asyncio.get_running_loop().create_task(self._retire(before))
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)

    async def _retire(self, generation: Generation) -> None:
        """End the services of an old configuration when their last session has gone, maybe days later."""
        while generation.gate.sessions:
            await asyncio.sleep(RETIRE_S)
        await generation.end(0.0)
        self._generations.remove(generation)

    async def stop(self) -> None:
        """Accept no more, let sessions end what they are at, deliver what was accepted."""
        for task in self._retiring | self._upkeep:
            task.cancel()
        if self._links is not None:
            self._links.close()
        for _, sock in self._bound:
            sock.close()
        await asyncio.gather(*(generation.end(STOP_S) for generation in self._generations))

    def _generation(self) -> Generation:
        """Each acceptor has a descriptor of its own, so that it can be closed while the next one takes over."""
        common = self._common
        settings, workers = common.plan.settings, common.plan.workers
        door = DoorGate(settings, common.clock, common.counters, workers)
        gate = CountedGate(door, common.counters, self._open_now)
        logins = LoginDesk(common.store, settings, common.clock, os.urandom, log, common.counters, workers)
        desk = MailDesk(
            common.store, settings, common.clock, os.urandom, log, common.counters, common.signals, common.resolver,
            workers, self._links,
        )  # fmt: skip
        made = Generation([], [], desk, logins, gate)
        for listener, sock in self._bound:
            context = self._tls.context
            service, factory = self._service(
                listener, context if listener.tls == "starttls" else None, gate, logins, desk
            )
            acceptor = Acceptor(
                sock.dup(),
                factory,
                tls=context if listener.tls == "implicit" else None,
                handshake_timeout_s=settings.limits.handshake_timeout_s,
            )
            acceptor.start()
            made.acceptors.append(acceptor)
            made.services.append(service)
        return made

    def _service(
        self, listener: Listener, tls: ssl.SSLContext | None, gate: CountedGate, logins: LoginDesk, desk: MailDesk
    ) -> tuple[Service, Callable[[], asyncio.BaseProtocol]]:
        """A listener's service, and what makes a protocol for each of its connections."""
        common = self._common
        settings, counters = common.plan.settings, common.counters
        if listener.protocol == "imap":
            imap = ImapListener(
                store=common.store, logins=logins, gate=gate, settings=settings, listener=listener, tls=tls,
                clock=common.clock, log=log, metrics=counters, signals=common.signals,
            )  # fmt: skip
            return imap, imap.protocol_factory
        if listener.protocol == "pop3":
            pop3 = Pop3Listener(
                store=common.store, logins=logins, gate=gate, settings=settings, listener=listener, tls=tls,
                clock=common.clock, log=log, run=common.plan.home / "run", metrics=counters, signals=common.signals,
            )  # fmt: skip
            return pop3, pop3.protocol_factory
        smtp = SmtpService(desk, logins, gate, settings, listener, tls, log, counters)
        smtp.start()
        return smtp, smtp.connection


class MoverRole:
    """The queue's engine, the gauges, and the metrics page."""

    def __init__(self, common: Common, bound: Bound) -> None:
        self._common = common
        self._bound = bound
        self._acceptors: list[Acceptor] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._mover: Mover | None = None

    def start(self) -> None:
        common = self._common
        settings = common.plan.settings
        wire = OutboundWire(settings, log, common.counters)
        self._mover = Mover(
            common.store, wire, common.resolver, settings, common.clock, os.urandom, log, common.counters,
            common.signals, machine_addresses(),
        )  # fmt: skip
        self._tasks = [_task(self._mover.run(), "mover"), _task(self._gauges(), "gauges")]
        for _, sock in self._bound:
            acceptor = Acceptor(sock.dup(), lambda: MetricsPage(common.plan.numbers.totals))
            acceptor.start()
            self._acceptors.append(acceptor)

    def reload(self) -> None:
        """A new mover takes over when the old one has finished what it is at."""
        old, tasks = self._mover, self._tasks
        for acceptor in self._acceptors:
            acceptor.close()
        self._acceptors = []
        self.start()
        if old is not None:
            self._tasks.append(_task(_retire(old, tasks), "retiring mover"))

    async def stop(self) -> None:
        for _, sock in self._bound:
            sock.close()
        for acceptor in self._acceptors:
            acceptor.close()
        if self._mover is not None:
            await self._mover.stop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _gauges(self) -> None:
        """What is asked for, not counted: the queue, and how long the certificate is good."""
        common = self._common
        while True:
            try:
                for name, value in (await common.store.spool.counts()).items():
                    common.counters.gauge("queue", value, kind=name)
                left_s = read_certificate(common.plan.certificate).not_after_s - common.clock.now()
                common.counters.gauge("certificate_expires_seconds", left_s)
                if left_s < 14 * 86400:
                    log.warning("certificate expires soon", file=str(common.plan.certificate), days=int(left_s / 86400))
            except Trouble as error:
                log.warning("cannot read the queue's counters", error=str(error))
            await asyncio.sleep(GAUGES_S)


async def _retire(old: Mover, tasks: list[asyncio.Task[None]]) -> None:
    await old.stop()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _task(work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
    """A task whose failure ends the process: the supervisor starts a new one."""
    task = asyncio.get_running_loop().create_task(work, name=name)

    def ended(done: asyncio.Task[None]) -> None:
        if not done.cancelled() and (error := done.exception()):
            log.error("task failed", task=name, exc_info=error)
            os.kill(os.getpid(), signal.SIGTERM)

    task.add_done_callback(ended)
    return task


def machine_addresses() -> list[str]:
    """IP addresses of this machine, so that mail is never sent round to ourselves. Source: netdevice(7)."""
    found: list[str] = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for _, name in socket.if_nameindex():
            with contextlib.suppress(OSError):
                answer = fcntl.ioctl(sock, _SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
                found.append(socket.inet_ntop(socket.AF_INET, answer[20:24]))
    with contextlib.suppress(OSError):
        for line in Path("/proc/net/if_inet6").read_text().splitlines():
            found.append(socket.inet_ntop(socket.AF_INET6, bytes.fromhex(line.split()[0])))
    return found


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
                front = Front(common, self.bound, self.number)
                roles.append(front)
            if self.is_mover:
                roles.append(MoverRole(common, self.metrics))
            for role in roles:
                role.start()
            if self.bound:
                await front.start_links()
            if self.ready:
                self.ready()
            log.info("started", role=self.name, pid=os.getpid())
            while not stopping.is_set():
                await _first(stopping.wait(), reloading.wait())
                if reloading.is_set() and not stopping.is_set():
                    reloading.clear()
                    self._reload(common, roles)
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

    def _reload(self, common: Common, roles: list[Front | MoverRole]) -> None:
        """Take over the new configuration; on an error everything stays as it was."""
        before = (common.plan, common.resolver)
        try:
            common.plan = common.plan.read()
            common.resolver = DnsResolver(common.clock, common.plan.settings.outbound.name_servers)
            for role in roles:
                role.reload()
        except (ConfigError, PillarboxError, OSError) as error:
            common.plan, common.resolver = before
            log.error("reload failed, the old configuration stays", error=str(error))
            return
        self.plan = common.plan
        reopen_log(self.plan.settings, "" if self.ready else self.name)
        log.info("reloaded", role=self.name)


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
