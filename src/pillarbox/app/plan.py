"""What the processes of a server are to do, and which settings only a restart takes over."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from pillarbox.app.board import ReloadBoard
from pillarbox.config import effective_listeners
from pillarbox.metrics import Counters, SharedNumbers
from pillarbox.model.clock import Clock
from pillarbox.model.settings import Settings
from pillarbox.net.resolver import DnsResolver
from pillarbox.net.signals import LocalSignals
from pillarbox.store.api import Store

_FIXED: Final = ("workers", "user")
_FIXED_LIMITS: Final = ("open_accounts", "mailboxes")


@dataclass(slots=True)
class Plan:
    """Made before the fork; a reload makes another."""

    home: Path
    settings: Settings
    certificate: Path
    key: Path
    workers: int
    numbers: SharedNumbers
    read: Callable[[], Plan]
    """Reads the configuration again. Raises ConfigError, PillarboxError, OSError."""
    needs_restart: tuple[str, ...] = ()
    """Settings that were changed since the start, and that `settings` has as they were then."""
    board: ReloadBoard | None = None
    """Where several processes agree on a reload."""

    def digest(self) -> bytes:
        """32 octets that stand for these settings and this certificate: two plans are the same if these are."""
        made = hashlib.sha256(repr(self.settings).encode())
        made.update(self.certificate.read_bytes())
        return made.digest()


@dataclass(frozen=True, slots=True)
class Common:
    """What a process has whatever its role; a reload changes plan and resolver."""

    plan: Plan
    store: Store
    signals: LocalSignals
    clock: Clock
    counters: Counters
    resolver: DnsResolver


def keep_fixed(started: Settings, wanted: Settings) -> tuple[Settings, tuple[str, ...]]:
    """`wanted` with what needs a restart as it was at the start; the names of those settings that differ.

    Sockets are bound and processes forked before root is dropped, and a store is opened once; loggers keep their level.
    """
    changed = [name for name in _FIXED if getattr(started, name) != getattr(wanted, name)]
    if effective_listeners(started) != effective_listeners(wanted):
        changed.append("listeners")
    changed += [f"limits.{name}" for name in _FIXED_LIMITS if _limit(started, name) != _limit(wanted, name)]
    if started.log.level != wanted.log.level:
        changed.append("log.level")
    kept = replace(
        wanted,
        workers=started.workers,
        user=started.user,
        listeners=effective_listeners(started),
        limits=replace(wanted.limits, **{name: _limit(started, name) for name in _FIXED_LIMITS}),
        log=replace(wanted.log, level=started.log.level),
    )
    return kept, tuple(changed)


def _limit(settings: Settings, name: str) -> int:
    value: int = getattr(settings.limits, name)
    return value
