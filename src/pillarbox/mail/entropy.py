"""Random octets by the handful: asking the system for each id costs more than the rest of making it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

_AT_ONCE: Final = 4096


class Entropy:
    """A source of random octets that asks `source` for many at a time. Made after a fork, used by one process: two that
    shared its memory would make the same ids. For ids and chance, not for keys."""

    __slots__ = ("_octets", "_place", "_source")

    def __init__(self, source: Callable[[int], bytes]) -> None:
        self._source = source
        self._octets = b""
        self._place = 0

    def __call__(self, count: int) -> bytes:
        place = self._place
        end = place + count
        if end > len(self._octets):
            self._octets = self._source(max(_AT_ONCE, count))
            place, end = 0, count
        self._place = end
        return self._octets[place:end]
