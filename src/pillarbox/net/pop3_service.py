"""What the POP3 sessions of a listener share."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pillarbox.mail.desk import Gate, Logins
from pillarbox.mail.metrics import Log, Metrics
from pillarbox.model.clock import Clock
from pillarbox.model.settings import Limits, Listener, Settings
from pillarbox.net.maildrop_lock import MaildropLocks
from pillarbox.store.api import Signals, Store


@dataclass(slots=True)
class Service:
    """The house, as a session sees it. `began` and `ended` tell the listener of a session."""

    store: Store
    logins: Logins
    gate: Gate
    settings: Settings
    listener: Listener
    tls: ssl.SSLContext | None
    clock: Clock
    log: Log
    locks: MaildropLocks
    metrics: Metrics | None
    signals: Signals | None
    began: Callable[[Any], None]
    ended: Callable[[Any], None]

    @property
    def limits(self) -> Limits:
        return self.settings.limits
