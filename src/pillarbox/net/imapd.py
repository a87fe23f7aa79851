"""The IMAP shell: all sessions of a listener, their timeouts and ends. What a connection does is in `imap_connection`,
what commands do in `imap_session` and its modules.

One timer per listener looks after all sessions.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import pillarbox.net.imap_append
import pillarbox.net.imap_idle
import pillarbox.net.imap_login
import pillarbox.net.imap_mailboxes
import pillarbox.net.imap_messages
import pillarbox.net.imap_search  # noqa: F401  (these fill the table of commands)
from pillarbox.mail.desk import Gate, Logins
from pillarbox.mail.metrics import Log, Metrics
from pillarbox.model.clock import Clock
from pillarbox.model.ids import AccountId
from pillarbox.model.settings import Listener, Settings
from pillarbox.net.imap_connection import ImapConnection
from pillarbox.net.imap_session import Service
from pillarbox.store.api import Signals, Store

SWEEP_S: Final = 5.0
POLL_S: Final = 60.0
"""All accounts with a session are looked at so often, as signals may be lost."""
BREATH: Final = 100
"""Accounts that are looked up in one go."""


class ImapListener:
    """All sessions of one listener."""

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
        metrics: Metrics | None = None,
        signals: Signals | None = None,
    ) -> None:
        searches = ThreadPoolExecutor(2, "imap-search")
        self.service = Service(store, logins, gate, settings, listener, tls, clock, log, metrics, signals, searches)
        self.sessions: set[ImapConnection] = set()
        self._stopping = False
        self._timer: asyncio.TimerHandle | None = None
        self._unsubscribe: Callable[[], None] | None = None
        self._checking: asyncio.Task[None] | None = None
        self._check_again = False
        self._checked_s = clock.monotonic()

    def protocol_factory(self) -> ImapConnection:
        """For `loop.create_server` and `Acceptor`; inside TLS already where the listener's is implicit."""
        return ImapConnection(self)

    def joined(self, connection: ImapConnection) -> None:
        self.sessions.add(connection)
        if self._timer is None and not self._stopping:
            self._timer = asyncio.get_running_loop().call_later(SWEEP_S, self._sweep_and_again)
        signals = self.service.signals
        if self._unsubscribe is None and signals is not None:
            self._unsubscribe = signals.subscribe("directory", self._directory_changed)

    def left(self, connection: ImapConnection) -> None:
        self.sessions.discard(connection)

    # --- time

    def _sweep_and_again(self) -> None:
        self._timer = None
        if self.sessions and not self._stopping:
            self._timer = asyncio.get_running_loop().call_later(SWEEP_S, self._sweep_and_again)
        self.sweep()

    def sweep(self) -> None:
        """Look after all sessions: those that wait too long, those that idle. Called every few seconds."""
        now_s = self.service.clock.monotonic()
        if now_s - self._checked_s >= POLL_S:
            self._checked_s = now_s
            self._directory_changed()
        for connection in list(self.sessions):
            connection.look_after(now_s)

    # --- ends

    def end_sessions(self, account: AccountId) -> None:
        """The account may not be used any more: BYE to its sessions."""
        for connection in list(self.sessions):
            known = connection.session.account
            if known is not None and known.id == account:
                connection.say_bye(b"This account is closed.")

    def _directory_changed(self) -> None:
        """Accounts may have been disabled or removed, quotas changed: look, once at a time."""
        self._check_again = True
        if self._checking is None or self._checking.done():
            self._checking = asyncio.get_running_loop().create_task(self._check_accounts())

    async def _check_accounts(self) -> None:
        while self._check_again:
            self._check_again = False
            by_account: dict[AccountId, list[ImapConnection]] = {}
            for connection in self.sessions:
                if connection.session.account is not None:
                    by_account.setdefault(connection.session.account.id, []).append(connection)
            for number, (account_id, connections) in enumerate(by_account.items(), 1):
                if number % BREATH == 0:
                    await asyncio.sleep(0)  # thousands of accounts: others go on between
                await self._check_account(account_id, connections)

    async def _check_account(self, account_id: AccountId, connections: list[ImapConnection]) -> None:
        try:
            account = await self.service.store.directory.account_by_id(account_id)
        except Exception as error:
            self.service.log.warning("cannot look up account", account=str(account_id), error=repr(error))
            return
        if account is None or account.state != "active":
            self.end_sessions(account_id)
            return
        for connection in connections:  # a quota may have changed
            connection.session.account = account

    async def stop(self, grace_s: float) -> None:
        """Take no more commands; let those that run end within `grace_s`; then say BYE to all."""
        self._stopping = True
        if self._timer:
            self._timer.cancel()
        if self._unsubscribe:
            self._unsubscribe()
        if self._checking:
            self._checking.cancel()
        running = [c.task for c in self.sessions if c.task is not None]
        for connection in list(self.sessions):
            connection.stop()
        if running:
            await asyncio.wait(running, timeout=grace_s)
        for connection in list(self.sessions):
            connection.say_bye(b"The server is going down.", at_once=True)
            connection.leave()
        gone = [c.gone for c in self.sessions]
        if gone:
            await asyncio.wait(gone, timeout=2.0)
        for connection in list(self.sessions):
            connection.abort()
        self.service.searches.shutdown(wait=False, cancel_futures=True)
