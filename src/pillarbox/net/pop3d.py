"""POP3 on the wire: what the sessions of one listener share, and their deadlines.

A session that waits for its client costs a transport and its core; there are no tasks and timers for it, one sweep
looks at all of them. `net/pop3_session.py` has the conversation.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from pathlib import Path
from typing import Final

from pillarbox.mail.desk import Gate, Logins
from pillarbox.mail.metrics import Log, Metrics
from pillarbox.model.clock import Clock
from pillarbox.model.errors import Trouble
from pillarbox.model.ids import AccountId
from pillarbox.model.settings import Listener, Settings
from pillarbox.net.maildrop_lock import MaildropLocks
from pillarbox.net.pop3_service import Service
from pillarbox.net.pop3_session import Pop3Session
from pillarbox.store.api import Signals, Store

SWEEP_S: Final = 5.0
POLL_S: Final = 60.0
"""Accounts are looked at so often, as signals may be lost."""
BREATH: Final = 100
"""Accounts that are looked up in one go."""


class Pop3Listener:
    """Makes the protocols for one listening address, and ends their sessions when it must."""

    def __init__(
        self,
        *,
        store: Store,
        logins: Logins,
        gate: Gate,
        settings: Settings,
        listener: Listener,
        tls: ssl.SSLContext | None,
        clock: Clock,
        log: Log,
        run: Path,
        metrics: Metrics | None = None,
        signals: Signals | None = None,
    ) -> None:
        """`run` is `HOME/run`, where all processes of the home keep their locks. `tls`: for STLS, or None where the
        listener has none or is inside TLS from the start."""
        self._service = Service(
            store=store,
            logins=logins,
            gate=gate,
            settings=settings,
            listener=listener,
            tls=tls,
            clock=clock,
            log=log,
            locks=MaildropLocks(run),
            metrics=metrics,
            signals=signals,
            began=self._began,
            ended=self._ended,
        )
        self._sessions: set[Pop3Session] = set()
        self._sweep: asyncio.TimerHandle | None = None
        self._checking: asyncio.Task[None] | None = None
        self._check_again = False
        self._checked_s = clock.monotonic()
        self._empty: asyncio.Event | None = None
        self._unsubscribe = signals.subscribe("directory", self._directory_changed) if signals else None

    def protocol_factory(self) -> Pop3Session:
        """A protocol for a new connection."""
        return Pop3Session(self._service)

    def end_sessions(self, account: AccountId) -> None:
        """Close the sessions of an account; marked messages stay."""
        for session in [s for s in self._sessions if s.account_id == account]:
            session.end()

    async def stop(self, grace_s: float) -> None:
        """Close idle sessions now, and those at work when they are done or `grace_s` has passed."""
        if self._unsubscribe:
            self._unsubscribe()
        if self._checking:
            self._checking.cancel()
        for session in list(self._sessions):
            session.retire()
        if self._sessions:
            self._empty = asyncio.Event()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(grace_s):
                    await self._empty.wait()
        for session in list(self._sessions):
            session.abort()
        if self._sweep:
            self._sweep.cancel()
            self._sweep = None

    def sweep(self) -> None:
        """Close the sessions whose time is up."""
        now_s = self._service.clock.monotonic()
        if now_s - self._checked_s >= POLL_S:
            self._checked_s = now_s
            self._directory_changed()
        for session in list(self._sessions):
            session.check_deadlines(now_s)

    def _began(self, session: Pop3Session) -> None:
        self._sessions.add(session)
        if self._sweep is None:
            self._sweep = asyncio.get_running_loop().call_later(SWEEP_S, self._sweep_again)

    def _ended(self, session: Pop3Session) -> None:
        self._sessions.discard(session)
        if not self._sessions and self._empty:
            self._empty.set()

    def _sweep_again(self) -> None:
        self._sweep = None
        self.sweep()
        if self._sessions and self._sweep is None:
            self._sweep = asyncio.get_running_loop().call_later(SWEEP_S, self._sweep_again)

    def _directory_changed(self) -> None:
        """Accounts may have been disabled or removed: look, once at a time."""
        if self._checking and not self._checking.done():
            self._check_again = True
        elif self._sessions:
            self._checking = asyncio.get_running_loop().create_task(self._check_accounts())

    async def _check_accounts(self) -> None:
        self._check_again = True
        while self._check_again:
            self._check_again = False
            accounts = {s.account_id for s in self._sessions if s.account_id}
            for number, account_id in enumerate(accounts, 1):
                if number % BREATH == 0:
                    await asyncio.sleep(0)  # thousands of accounts: others go on between
                try:
                    account = await self._service.store.directory.account_by_id(account_id)
                except Trouble as error:
                    self._service.log.warning("cannot check account", account=account_id, error=str(error))
                    continue
                if account is None or account.state != "active":
                    self.end_sessions(account_id)
