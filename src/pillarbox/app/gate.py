"""A gate that knows how many sessions are in: for the numbers, and to see when an old configuration has none left."""

from __future__ import annotations

from pillarbox.mail.desk import Gate, Session
from pillarbox.metrics import Counters


class CountedGate:
    """Implements `desk.Gate` around another. `open_now` (protocol → sessions) is shared by the gates of a process."""

    def __init__(self, inner: Gate, counters: Counters, open_now: dict[str, int]) -> None:
        self._inner = inner
        self._counters = counters
        self._open_now = open_now
        self.sessions = 0

    def admit(self, session: Session) -> None:
        self._inner.admit(session)
        self._change(session, 1)

    def login(self, session: Session) -> None:
        self._inner.login(session)

    def leave(self, session: Session) -> None:
        self._inner.leave(session)
        self._change(session, -1)

    def _change(self, session: Session, by: int) -> None:
        self.sessions += by
        now = self._open_now[session.protocol] = self._open_now.get(session.protocol, 0) + by
        self._counters.gauge("sessions", now, protocol=session.protocol)
