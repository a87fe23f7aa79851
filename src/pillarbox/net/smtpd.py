"""A listener for SMTP, submission or LMTP: what its connections share, the sweep over deadlines, the end.

Source: RFC 5321 §4.5.3.2 (timeouts), RFC 6409 (submission), RFC 2033 (LMTP); case 16.
"""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass, field
from typing import Final

from pillarbox.mail.desk import Desk, Gate, Logins, Session
from pillarbox.mail.metrics import Log, Metrics
from pillarbox.model.settings import Limits, Listener, Settings
from pillarbox.net.smtp_connection import STOPPING, SmtpConnection
from pillarbox.protocol.sasl import MECHANISMS
from pillarbox.protocol.smtp.rules import Mode, SmtpConfig

SWEEP_S: Final = 1.0
KNOWN: Final = 10_000
"""Addresses that are remembered to have brought a message."""


@dataclass(slots=True)
class SmtpService:
    """What the sessions of a listener share. `connection` is the protocol factory for an `Acceptor`."""

    desk: Desk
    logins: Logins
    gate: Gate
    settings: Settings
    listener: Listener
    tls: ssl.SSLContext | None
    log: Log
    metrics: Metrics | None = None
    sessions: set[SmtpConnection] = field(default_factory=set)
    config: SmtpConfig = field(init=False)
    is_stopping: bool = False
    _sweeper: asyncio.TimerHandle | None = None
    _known: dict[str, None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        mode = Mode(self.listener.protocol)
        self.config = SmtpConfig(
            self.settings.hostname or "localhost",
            mode,
            self.settings.limits,
            has_starttls=self.tls is not None and self.listener.tls == "starttls",
            mechanisms=MECHANISMS if mode is Mode.SUBMISSION else (),
            allows_cleartext_login=self.listener.cleartext_login,
        )

    @property
    def limits(self) -> Limits:
        return self.settings.limits

    def connection(self) -> SmtpConnection:
        """A protocol for a new connection (with implicit TLS: inside it)."""
        return SmtpConnection(self)

    def greeting_wait_s(self, session: Session) -> float:
        """How long this client waits for our greeting: who talks before it is no mail server (case 58)."""
        if self.config.mode is not Mode.MX or session.trusted or session.may_relay or session.peer in self._known:
            return 0.0
        return self.limits.greeting_wait_s

    def know(self, session: Session) -> None:
        """It has brought a message that was accepted."""
        if self.config.mode is Mode.MX and not session.trusted:
            self._known.pop(session.peer, None)
            self._known[session.peer] = None
            if len(self._known) > KNOWN:
                del self._known[next(iter(self._known))]

    def start(self) -> None:
        """Begin to watch deadlines, on the running loop."""
        self._sweeper = asyncio.get_running_loop().call_later(SWEEP_S, self._sweep)

    def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        now_s = loop.time()
        for session in [s for s in self.sessions if s.check_at_s <= now_s]:
            session.check(now_s)
        self._sweeper = loop.call_later(SWEEP_S, self._sweep)

    async def stop(self, grace_s: float = 30.0) -> None:
        """Take leave of idle sessions now; those in the middle of a message have `grace_s` to end it (case 16)."""
        self.is_stopping = True
        for session in list(self.sessions):
            session.stop()
        loop = asyncio.get_running_loop()
        until_s = loop.time() + grace_s
        while self.sessions and loop.time() < until_s:
            await asyncio.sleep(0.02)
        for session in list(self.sessions):
            session.end(STOPPING)
        if self._sweeper is not None:
            self._sweeper.cancel()
