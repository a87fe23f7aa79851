"""Sets of UIDs or sequence numbers as sorted, disjoint intervals; they are never expanded from a peer's words.

Source: RFC 3501 §9 (sequence-set), RFC 9051 §4.1.1.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

Ranges = tuple[tuple[int, int], ...]


def normalise(ranges: Iterable[tuple[int, int]]) -> Ranges:
    """Sorted, disjoint, merged: (3,5),(1,2),(5,9) → (1,9). Ends may come in either order."""
    merged: list[tuple[int, int]] = []
    for low, high in sorted((a, b) if a <= b else (b, a) for a, b in ranges):
        if merged and low <= merged[-1][1] + 1:
            if high > merged[-1][1]:
                merged[-1] = (merged[-1][0], high)
        else:
            merged.append((low, high))
    return tuple(merged)


@dataclass(frozen=True, slots=True)
class UidSet:
    """Intervals (low, high), both ends included, ascending and disjoint. `ALL` holds everything."""

    ranges: Ranges = ()

    @classmethod
    def of(cls, uids: Iterable[int]) -> UidSet:
        """The set of these numbers, runs joined. Input in any order."""
        runs: list[list[int]] = []
        for uid in sorted(uids):
            if runs and uid <= runs[-1][1] + 1:
                runs[-1][1] = uid
            else:
                runs.append([uid, uid])
        return cls(tuple((a, b) for a, b in runs))

    def __contains__(self, uid: int) -> bool:
        index = bisect_right(self.ranges, (uid, 1 << 64)) - 1
        return index >= 0 and self.ranges[index][0] <= uid <= self.ranges[index][1]

    def __bool__(self) -> bool:
        return bool(self.ranges)

    def slices(self, ordered: array[int]) -> Iterator[tuple[int, int]]:
        """For each interval, the half-open index range of the members of `ordered` (ascending) that it holds."""
        for low, high in self.ranges:
            start, end = bisect_left(ordered, low), bisect_right(ordered, high)
            if start < end:
                yield start, end

    def among(self, ordered: array[int]) -> list[int]:
        """The members of `ordered` (ascending) that are in the set, ascending."""
        found: list[int] = []
        for start, end in self.slices(ordered):
            found += ordered[start:end]
        return found

    def __str__(self) -> str:
        return ",".join(str(a) if a == b else f"{a}:{b}" for a, b in self.ranges)


ALL = UidSet(((1, 0xFFFFFFFF),))
