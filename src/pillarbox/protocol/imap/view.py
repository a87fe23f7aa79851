"""A session's view of its mailbox: which message has which sequence number, and what the client must be told yet.

Sequence numbers change only when the client is told (RFC 3501 §7.4.1): messages expunged by others stay in the view
as `gone` until a moment when that may be said. New messages are at the end, as UIDs ascend. Flags are not kept: the
store tells what changed since a modseq. 4 octets a message.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Sequence

from pillarbox.model.uids import UidSet, normalise

SetRanges = tuple[tuple[int, int], ...]


class NoSuchNumber(ValueError):
    """A sequence number beyond the end of the mailbox."""


class View:
    """Sequence numbers over UIDs, ascending; number n is `uids[n - 1]`."""

    __slots__ = ("_gone", "_recent", "uids")

    def __init__(self, uids: array[int]) -> None:
        self.uids = uids
        self._gone: set[int] = set()
        self._recent: list[tuple[int, int]] = []

    def __len__(self) -> int:
        return len(self.uids)

    @property
    def last_uid(self) -> int:
        return self.uids[-1] if self.uids else 0

    @property
    def has_gone(self) -> bool:
        """Are there expunged messages that the client was not told of?"""
        return bool(self._gone)

    def is_gone(self, uid: int) -> bool:
        return uid in self._gone

    # --- numbers and UIDs

    def number(self, uid: int) -> int:
        """The sequence number of a UID, or 0."""
        index = bisect_left(self.uids, uid)
        return index + 1 if index < len(self.uids) and self.uids[index] == uid else 0

    def numbers(self, uids: array[int]) -> Sequence[int]:
        """Sequence numbers of UIDs (ascending), 0 for those that are not in the view."""
        if not uids:
            return ()
        first = bisect_left(self.uids, uids[0])
        if self.uids[first : first + len(uids)] == uids:
            return range(first + 1, first + 1 + len(uids))
        return [*map(self.number, uids)]

    def uids_of_numbers(self, ranges: SetRanges) -> UidSet:
        """The UIDs behind sequence numbers, as intervals; 0 stands for "*". Raises NoSuchNumber.

        A range with "*" is always good, also in an empty mailbox, where it holds nothing.
        """
        uids, count = self.uids, len(self.uids)
        found: list[tuple[int, int]] = []
        for low, high in ranges:
            if low == 0 or high == 0:
                if not count:
                    continue
                low, high = min(low or count, count), min(high or count, count)
            elif max(low, high) > count:
                raise NoSuchNumber
            found.append((uids[low - 1], uids[high - 1]))
        return UidSet(normalise(found))

    def uids_in(self, ranges: SetRanges) -> UidSet:
        """Intervals of UIDs as written, cut to the view; 0 stands for "*", the last UID."""
        last = self.last_uid
        if not last:
            return UidSet()
        whole = normalise((low or last, high or last) for low, high in ranges)
        return UidSet(tuple((low, min(high, last)) for low, high in whole if low <= last))

    def everything(self) -> UidSet:
        return UidSet(((1, self.uids[-1]),)) if self.uids else UidSet()

    def count(self, uids: UidSet) -> int:
        """How many messages of the view are in the set."""
        return sum(end - start for start, end in uids.slices(self.uids))

    # --- what changes

    def add(self, uids: Sequence[int]) -> int:
        """New messages (ascending): returns how many of them are beyond the end and were added."""
        last = self.last_uid
        fresh = [uid for uid in uids if uid > last]
        self.uids.extend(fresh)
        return len(fresh)

    def remove(self, uids: UidSet) -> None:
        """These were expunged: they keep their numbers until `take_expunged`."""
        for start, end in uids.slices(self.uids):
            self._gone.update(self.uids[start:end])

    def take_expunged(self) -> list[int]:
        """Drop what is gone, and return the sequence numbers for EXPUNGE responses, in the order to send them.

        From the end, so that each number is right when it is said. Source: RFC 3501 §7.4.1.
        """
        if not self._gone:
            return []
        numbers = sorted((self.number(uid) for uid in self._gone), reverse=True)
        gone, self._gone = self._gone, set()
        self.uids = array("I", [uid for uid in self.uids if uid not in gone])
        return numbers

    # --- \Recent

    def add_recent(self, first: int, next_uid: int) -> None:
        """The messages from UID `first` up to, not including, `next_uid` are \\Recent to this session."""
        if first >= next_uid:
            return
        if self._recent and first <= self._recent[-1][1] + 1:
            first, _ = self._recent.pop()
        self._recent.append((first, next_uid - 1))

    def recent(self, uids: array[int]) -> Sequence[int] | None:
        """Which of these UIDs (ascending) are \\Recent; None if none of them is."""
        if not self._recent or not uids or self._recent[-1][1] < uids[0]:
            return None
        among = bytearray(len(uids))
        for low, high in self._recent:
            start, end = bisect_left(uids, low), bisect_right(uids, high)
            among[start:end] = b"\1" * (end - start)
        return among

    def recent_count(self) -> int:
        return self.count(UidSet(normalise(self._recent)))
