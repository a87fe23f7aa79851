"""The messages of a session: numbered when it began, marked as deleted, or found gone. Source: RFC 1939 §4, §5, §7.

The unique-id is UIDVALIDITY and UID in hexadecimal: no two messages of a mailbox share it, it survives restarts,
restores and repairs that keep UIDs, and it costs no look-up (docs/decisions/pop3.md).
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import Final

from pillarbox.model.uids import UidSet

_HERE: Final = 0
_DELETED: Final = 1
_GONE: Final = 2
_LINES_AT_ONCE: Final = 1000


class Maildrop:
    """Messages by index (their number less one). Numbers never change; what is deleted or gone leaves a hole."""

    __slots__ = ("_marks", "_sizes", "_uids", "_uidvalidity", "count", "octets")

    def __init__(self, uidvalidity: int, uids: array[int], sizes: array[int]) -> None:
        """`uids` ascending, `sizes` in octets, of equal length."""
        self._uidvalidity = uidvalidity
        self._uids = uids
        self._sizes = sizes
        self._marks = bytearray(len(uids))
        self.count = len(uids)
        """Messages neither deleted nor gone, and their octets."""
        self.octets = sum(sizes)

    def find(self, number: int) -> int | None:
        """The index of message `number`, or None if there is none, or it is deleted or gone."""
        index = number - 1
        return index if 0 <= index < len(self._marks) and self._marks[index] == _HERE else None

    def is_gone(self, number: int) -> bool:
        """True if the message was there, and was expunged by someone else."""
        return 0 < number <= len(self._marks) and self._marks[number - 1] == _GONE

    def uid(self, index: int) -> int:
        return self._uids[index]

    def indices(self, start: int, count: int) -> Sequence[int]:
        """The messages that are here, of the `count` from index `start` on."""
        end = min(start + count, len(self._uids))
        if self._marks.count(_HERE, start, end) == end - start:
            return range(start, end)
        return [index for index in range(start, end) if self._marks[index] == _HERE]

    def fitting(self, indices: Sequence[int], octets: int) -> int:
        """How many of the first of these messages have so many octets together."""
        sizes = self._sizes
        if isinstance(indices, range):
            return bisect_right([*accumulate(sizes[indices.start : indices.stop])], octets)
        return bisect_right([*accumulate(sizes[index] for index in indices)], octets)

    def size(self, index: int) -> int:
        return self._sizes[index]

    def unique_id(self, index: int) -> bytes:
        """1 to 70 characters of 0x21 to 0x7E (RFC 1939 §7)."""
        return b"%08x%08x" % (self._uidvalidity, self._uids[index])

    def delete(self, index: int) -> None:
        self._mark(index, _DELETED)

    def restore(self) -> None:
        """RSET: nothing is deleted any more; what is gone stays so."""
        for index, mark in enumerate(self._marks):
            if mark == _DELETED:
                self._marks[index] = _HERE
                self.count += 1
                self.octets += self._sizes[index]

    def deleted(self) -> list[int]:
        """UIDs to be removed at QUIT, ascending."""
        return [uid for uid, mark in zip(self._uids, self._marks, strict=True) if mark == _DELETED]

    def expunged(self, uids: UidSet) -> None:
        """Someone else removed these."""
        for low, high in uids.ranges:
            index = bisect_left(self._uids, low)
            while index < len(self._uids) and self._uids[index] <= high:
                self._mark(index, _GONE)
                index += 1

    def sizes_listing(self) -> Iterator[bytes]:
        """LIST's lines in pieces, without the final dot."""
        return self._listing(lambda index: b"%d %d\r\n" % (index + 1, self._sizes[index]))

    def unique_ids_listing(self) -> Iterator[bytes]:
        """UIDL's lines in pieces, without the final dot."""
        validity = b"%08x" % self._uidvalidity
        return self._listing(lambda index: b"%d %s%08x\r\n" % (index + 1, validity, self._uids[index]))

    def _listing(self, line: Callable[[int], bytes]) -> Iterator[bytes]:
        for start in range(0, len(self._marks), _LINES_AT_ONCE):
            end = min(start + _LINES_AT_ONCE, len(self._marks))
            yield b"".join([line(i) for i in range(start, end) if self._marks[i] == _HERE])

    def _mark(self, index: int, mark: int) -> None:
        if self._marks[index] == _HERE:
            self.count -= 1
            self.octets -= self._sizes[index]
        self._marks[index] = mark
