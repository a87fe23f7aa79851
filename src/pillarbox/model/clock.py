"""Time is asked of a clock that is handed in, so that tests hold it. The real one is `net/clock.py`."""

from __future__ import annotations

from typing import Protocol


class Clock(Protocol):
    """`now` is UTC seconds since 1970 (it may jump); `monotonic` never falls and is for intervals and deadlines."""

    def now(self) -> float: ...

    def monotonic(self) -> float: ...


class FakeClock:
    """A clock that stands still until it is told to go on."""

    def __init__(self, now_s: float = 1_800_000_000.0) -> None:
        self._now_s = now_s
        self._monotonic_s = 1000.0

    def now(self) -> float:
        return self._now_s

    def monotonic(self) -> float:
        return self._monotonic_s

    def advance(self, seconds: float) -> None:
        """Let time pass on both scales."""
        self._now_s += seconds
        self._monotonic_s += seconds

    def jump(self, seconds: float) -> None:
        """Set the wall clock forward or back; the monotonic one does not notice."""
        self._now_s += seconds
