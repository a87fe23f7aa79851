"""Counting over time, in bounded memory: how often something happened for a key in the last minute, hour or day.

Two neighbouring windows stand for the sliding one: the older counts by the share of it that is still inside. The table
holds at most `capacity` keys and forgets those that were used longest ago (case 88).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from math import ceil
from typing import Final

CAPACITY: Final = 100_000


class RateTable:
    """Counts per key over a sliding window of `window_s` seconds. Times are monotonic."""

    __slots__ = ("_capacity", "_table", "_window_s")

    def __init__(self, window_s: float, capacity: int = CAPACITY) -> None:
        self._window_s = window_s
        self._capacity = capacity
        self._table: OrderedDict[Hashable, list[int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._table)

    def count(self, key: Hashable, now_s: float) -> float:
        """How much was added for the key within the window, about."""
        entry = self._table.get(key)
        if entry is None:
            return 0.0
        slot, share = divmod(now_s / self._window_s, 1.0)
        age = int(slot) - entry[0]
        if age == 0:
            return entry[1] + entry[2] * (1.0 - share)
        return entry[1] * (1.0 - share) if age == 1 else 0.0

    def add(self, key: Hashable, now_s: float, amount: int = 1) -> None:
        """Count it."""
        table = self._table
        slot = int(now_s / self._window_s)
        entry = table.get(key)
        if entry is None:
            if len(table) >= self._capacity:
                table.popitem(last=False)
            table[key] = [slot, amount, 0]
            return
        table.move_to_end(key)
        if entry[0] == slot:
            entry[1] += amount
            return
        entry[2] = entry[1] if slot == entry[0] + 1 else 0
        entry[0], entry[1] = slot, amount

    def take(self, key: Hashable, now_s: float, limit: int, amount: int = 1) -> bool:
        """Count it if that stays within the limit; False, and nothing counted, if not."""
        if self.count(key, now_s) + amount > limit:
            return False
        self.add(key, now_s, amount)
        return True


def share_of(limit: int, workers: int) -> int:
    """What one of `workers` processes allows of a limit: its part and a quarter more, as the kernel spreads connections
    by chance. Counters are not shared between processes: a limit guards the machine, and a rough one does."""
    return limit if workers <= 1 else ceil(limit * 1.25 / workers)
