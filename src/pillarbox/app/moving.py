"""The queue's engine in its process, with the gauges and the metrics page."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
import socket
import struct
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, Final

import structlog

from pillarbox.app.front import Change
from pillarbox.app.plan import Common
from pillarbox.mail.queue import Mover
from pillarbox.metrics import MetricsPage
from pillarbox.model.errors import Trouble
from pillarbox.net.listen import Acceptor
from pillarbox.net.outbound import OutboundWire
from pillarbox.net.supervisor import Bound
from pillarbox.net.tls import read_certificate

GAUGES_S: Final = 10.0
_SIOCGIFADDR: Final = 0x8915

log = structlog.get_logger()


class MoverRole:
    """The queue's engine, the gauges, and the metrics page."""

    def __init__(self, common: Common, bound: Bound) -> None:
        self._common = common
        self._bound = bound
        self._acceptors: list[Acceptor] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._mover: Mover | None = None

    async def start(self) -> None:
        self._begin(*self._make(self._common))

    def _make(self, common: Common) -> tuple[Mover, list[Acceptor]]:
        """Raises OSError."""
        settings = common.plan.settings
        wire = OutboundWire(settings, log, common.counters)
        mover = Mover(
            common.store, wire, common.resolver, settings, common.clock, os.urandom, log, common.counters,
            common.signals, machine_addresses(),
        )  # fmt: skip
        acceptors: list[Acceptor] = []
        try:
            for _, sock in self._bound:
                acceptors.append(Acceptor(sock.dup(), lambda: MetricsPage(common.plan.numbers.totals)))
        except BaseException:
            _close(acceptors)
            raise
        return mover, acceptors

    def _begin(self, mover: Mover, acceptors: list[Acceptor]) -> None:
        for acceptor in acceptors:
            acceptor.start()
        self._mover, self._acceptors = mover, acceptors
        self._tasks = [_task(mover.run(), "mover"), _task(self._gauges(self._common), "gauges")]

    def prepare(self, common: Common) -> Change:
        """A new mover takes over when the old one has finished what it is at. Raises OSError: nothing has changed."""
        mover, acceptors = self._make(common)

        def commit() -> None:
            old, tasks, retired = self._mover, self._tasks, self._acceptors
            self._common = common
            self._begin(mover, acceptors)
            _close(retired)
            if old is not None:
                self._tasks.append(_task(_retire(old, tasks), "retiring mover"))

        return Change(commit, lambda: _close(acceptors))

    async def stop(self) -> None:
        for _, sock in self._bound:
            sock.close()
        _close(self._acceptors)
        if self._mover is not None:
            await self._mover.stop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _gauges(self, common: Common) -> None:
        """What is asked for, not counted: the queue, and how long the certificate is good."""
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


def _close(acceptors: list[Acceptor]) -> None:
    for acceptor in acceptors:
        acceptor.close()


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
