"""The listeners of one process: what they share, and how new settings take the place of old ones.

All services of one configuration are a generation. A reload makes the next one whole before it takes a single
connection, so that it can be thrown away; the one before lives on until its last session has gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import structlog

from pillarbox.app.gate import CountedGate
from pillarbox.app.plan import Common
from pillarbox.app.share import Share
from pillarbox.mail.intake import MailDesk
from pillarbox.mail.limits import DoorGate
from pillarbox.mail.logins import LoginDesk
from pillarbox.model.settings import Listener
from pillarbox.net.imapd import ImapListener
from pillarbox.net.listen import Acceptor
from pillarbox.net.pop3d import Pop3Listener
from pillarbox.net.smtpd import SmtpService
from pillarbox.net.supervisor import Bound
from pillarbox.net.tls import ServerTls, TlsTrouble

RETIRE_S: Final = 5.0
STOP_S: Final = 28.0
"""For sessions to end what they are at: a little less than the supervisor waits."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Change:
    """A reload that is ready: nothing has changed yet, and either of these may be called, once."""

    commit: Callable[[], None]
    drop: Callable[[], None]


class Service(Protocol):
    """What the sessions of a listener share: takes connections, can be told to end."""

    async def stop(self, grace_s: float) -> None: ...


@dataclass(slots=True)
class Generation:
    """The services made from one configuration."""

    desk: MailDesk
    logins: LoginDesk
    gate: CountedGate
    acceptors: list[Acceptor] = field(default_factory=list)
    services: list[Service] = field(default_factory=list)

    def start(self) -> None:
        """Take connections."""
        for service in self.services:
            if isinstance(service, SmtpService):
                service.start()
        for acceptor in self.acceptors:
            acceptor.start()

    @property
    def is_busy(self) -> bool:
        """Has it sessions, or clients that are about to become some?"""
        return self.gate.sessions > 0 or any(acceptor.handshakes for acceptor in self.acceptors)

    async def end(self, grace_s: float) -> None:
        """Let sessions end what they are at, and deliver what was accepted."""
        for acceptor in self.acceptors:
            acceptor.close()
        await asyncio.gather(*(service.stop(grace_s) for service in self.services))
        await self.desk.close()
        self.logins.close()


class Front:
    """The listeners of one worker."""

    def __init__(self, common: Common, bound: Bound, number: int) -> None:
        self._common = common
        self._bound = bound
        self._tls = _server_tls(common)
        self._generations: list[Generation] = []
        self._open_now: dict[str, int] = {}
        self._appends: dict[str, int] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._share = (
            Share(common, number, lambda: self._generations[-1].desk.dispatch) if common.plan.workers > 1 else None
        )

    async def start(self) -> None:
        """Accept connections, by the plan as it is now; share the accounts with the other workers."""
        generation = self._generation(self._common, self._tls)
        generation.start()
        self._generations.append(generation)
        if self._share is not None:
            await self._share.start()

    def prepare(self, common: Common) -> Change:
        """Make what new connections shall meet. Raises TlsTrouble, OSError; then, too, nothing has changed."""
        tls = _server_tls(common)
        generation = self._generation(common, tls)

        def commit() -> None:
            generation.start()
            with contextlib.suppress(TlsTrouble):  # sessions in the clear that ask for TLS later get the new one, too
                self._tls.reload(common.plan.certificate, common.plan.key)
            self._common, self._tls = common, tls
            before = self._generations[-1]
            self._generations.append(generation)
            for acceptor in before.acceptors:
                acceptor.retire()
            self._in_background(self._retire(before))

        return Change(commit, lambda: self._in_background(generation.end(0.0)))

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _retire(self, generation: Generation) -> None:
        """End the services of an old configuration when their last session has gone, maybe days later."""
        await asyncio.sleep(RETIRE_S)  # what was accepted a moment ago is a session soon
        while generation.is_busy:
            await asyncio.sleep(RETIRE_S)
        await generation.end(0.0)
        self._generations.remove(generation)

    async def stop(self) -> None:
        """Accept no more, let sessions end what they are at, deliver what was accepted."""
        for task in self._tasks:
            task.cancel()
        if self._share is not None:
            self._share.close()
        for _, sock in self._bound:
            sock.close()
        await asyncio.gather(*(generation.end(STOP_S) for generation in self._generations))

    def _generation(self, common: Common, tls: ServerTls) -> Generation:
        """Each acceptor has a descriptor of its own, so that it can be closed while the next one takes over."""
        settings, workers = common.plan.settings, common.plan.workers
        door = DoorGate(settings, common.clock, common.counters, workers)
        gate = CountedGate(door, common.counters, self._open_now)
        logins = LoginDesk(common.store, settings, common.clock, os.urandom, log, common.counters, workers)
        desk = MailDesk(
            common.store, settings, common.clock, os.urandom, log, common.counters, common.signals, common.resolver,
            workers, self._share.links if self._share is not None else None,
        )  # fmt: skip
        made = Generation(desk, logins, gate)
        try:
            for listener, sock in self._bound:
                self._add(made, common, listener, sock, tls.context)
        except BaseException:
            self._in_background(made.end(0.0))
            raise
        return made

    def _add(
        self, made: Generation, common: Common, listener: Listener, sock: socket.socket, context: ssl.SSLContext
    ) -> None:
        """A listener's service, and what takes its connections."""
        starttls = context if listener.tls == "starttls" else None
        service, factory = self._service(made, common, listener, starttls)
        made.services.append(service)
        made.acceptors.append(
            Acceptor(
                sock.dup(),
                factory,
                tls=context if listener.tls == "implicit" else None,
                handshake_timeout_s=common.plan.settings.limits.handshake_timeout_s,
            )
        )

    def _service(
        self, made: Generation, common: Common, listener: Listener, tls: ssl.SSLContext | None
    ) -> tuple[Service, Callable[[], asyncio.BaseProtocol]]:
        """A listener's service, and what makes a protocol for each of its connections."""
        settings, counters = common.plan.settings, common.counters
        if listener.protocol == "imap":
            imap = ImapListener(
                store=common.store, logins=made.logins, gate=made.gate, settings=settings, listener=listener, tls=tls,
                clock=common.clock, log=log, metrics=counters, signals=common.signals,
            )  # fmt: skip
            imap.service.appends = self._appends  # large messages are counted over all listeners (case 168)
            return imap, imap.protocol_factory
        if listener.protocol == "pop3":
            pop3 = Pop3Listener(
                store=common.store, logins=made.logins, gate=made.gate, settings=settings, listener=listener, tls=tls,
                clock=common.clock, log=log, run=common.plan.home / "run", metrics=counters, signals=common.signals,
            )  # fmt: skip
            return pop3, pop3.protocol_factory
        smtp = SmtpService(made.desk, made.logins, made.gate, settings, listener, tls, log, counters)
        return smtp, smtp.connection


def _server_tls(common: Common) -> ServerTls:
    """Raises TlsTrouble."""
    plan = common.plan
    return ServerTls(plan.certificate, plan.key, plan.settings.tls.min_version)
