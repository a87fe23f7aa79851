"""Admission: how many sessions, and how many new connections, an address, its networks, and an account may have.

Counters belong to the process; with several workers each has its share (`rates.share_of`). Networks in
`trusted_networks` pass every limit but the totals, which guard memory. Source: LIMITS in the manual.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from pillarbox.mail.desk import Session
from pillarbox.mail.metrics import Metrics, count
from pillarbox.mail.networks import NET_FACTORS, Networks, network_keys
from pillarbox.mail.rates import RateTable, share_of
from pillarbox.model.clock import Clock
from pillarbox.model.errors import Refused
from pillarbox.model.settings import Settings
from pillarbox.model.status import Status

_KIND: Final = {"smtp": "smtp", "lmtp": "lmtp", "submission": "submission", "imap": "imap", "pop3": "imap"}
_TOO_MANY: Final = Status(4, 7, 0)
_FULL: Final = Status(4, 3, 2)


@dataclass(slots=True)
class _Place:
    """Under which keys a session is counted now."""

    kind: str
    keys: tuple[object, ...]


class DoorGate:
    """Implements `desk.Gate`."""

    def __init__(self, settings: Settings, clock: Clock, metrics: Metrics | None = None, workers: int = 1) -> None:
        limits = settings.limits
        self._clock = clock
        self._metrics = metrics
        self._trusted = Networks(settings.trusted_networks)
        self._relay = Networks(settings.relay_networks)
        self._per_ip = share_of(limits.sessions_per_ip, workers)
        self._per_account_and_ip = share_of(limits.sessions_per_account_and_ip, workers)
        self._per_account = share_of(limits.sessions_per_account, workers)
        self._connects = share_of(limits.connects_per_minute, workers)
        self._totals = {
            "smtp": share_of(limits.sessions_smtp, workers),
            "lmtp": share_of(limits.sessions_smtp, workers),
            "submission": share_of(limits.sessions_submission, workers),
            "imap": share_of(limits.sessions_imap, workers),
        }
        self._stress_share = limits.stress_share
        self._by_kind = dict.fromkeys(self._totals, 0)
        self._sessions: dict[object, int] = {}
        """Key → sessions now. Bounded by the totals: an entry goes with its last session."""
        self._rates = RateTable(60.0)
        self._places: dict[int, _Place] = {}
        """By id() of sessions that are in: they stay alive until `leave`."""

    def admit(self, session: Session) -> None:
        """Count the new session. Raises Refused: 4.3.2 server full, 4.7.0 too many from its address or network."""
        session.trusted = session.peer == "local" or session.peer in self._trusted
        session.may_relay = session.peer in self._relay
        kind = _KIND.get(session.protocol, "imap")
        if self._by_kind[kind] >= self._totals[kind]:
            count(self._metrics, "sessions_refused", reason="total")
            raise Refused(_FULL, "sessions-total", "too many sessions, try again later")
        keys: tuple[object, ...] = ()
        session.stressed = not session.trusted and self._by_kind[kind] >= self._totals[kind] * self._stress_share
        if not session.trusted:
            keys = network_keys(session.peer)
            self._check_host(keys)
            for key in keys:
                self._rates.add(key, self._clock.monotonic())
        self._enter(session, kind, keys)
        self._by_kind[kind] += 1

    def login(self, session: Session) -> None:
        """Count it as its account's from now on, no longer as its address's. Raises Refused 4.7.0."""
        account = session.account
        place = self._places.get(id(session))
        if account is None or place is None or session.trusted:
            return
        both = ("account-ip", account.id, network_keys(session.peer)[0])
        whole = ("account", account.id)
        if whole in place.keys:
            return
        if self._sessions.get(both, 0) >= self._per_account_and_ip or self._sessions.get(whole, 0) >= self._per_account:
            count(self._metrics, "sessions_refused", reason="account")
            raise Refused(_TOO_MANY, "sessions-per-account", "too many sessions of this account")
        self._drop(place.keys)
        self._enter(session, place.kind, (both, whole))

    def leave(self, session: Session) -> None:
        """The session has ended."""
        place = self._places.pop(id(session), None)
        if place is not None:
            self._by_kind[place.kind] -= 1
            self._drop(place.keys)

    def _check_host(self, keys: tuple[object, ...]) -> None:
        now_s = self._clock.monotonic()
        for key, factor in zip(keys, NET_FACTORS, strict=True):
            if self._sessions.get(key, 0) >= self._per_ip * factor:
                count(self._metrics, "sessions_refused", reason="address")
                raise Refused(_TOO_MANY, "sessions-per-ip", "too many sessions from your network")
            if self._rates.count(key, now_s) + 1 > self._connects * factor:
                count(self._metrics, "sessions_refused", reason="rate")
                raise Refused(_TOO_MANY, "connects-per-minute", "too many connections from your network")

    def _enter(self, session: Session, kind: str, keys: tuple[object, ...]) -> None:
        for key in keys:
            self._sessions[key] = self._sessions.get(key, 0) + 1
        self._places[id(session)] = _Place(kind, keys)

    def _drop(self, keys: tuple[object, ...]) -> None:
        for key in keys:
            left = self._sessions.get(key, 0) - 1
            if left > 0:
                self._sessions[key] = left
            else:
                self._sessions.pop(key, None)
