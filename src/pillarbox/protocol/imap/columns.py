"""Columns of numbers and dates as FETCH tells them, for many messages at once. Source: RFC 3501 §9."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import Final


class _Lengths(dict[int, bytes]):
    """Lengths of literals in decimal: mostly a few hundred."""

    def __missing__(self, length: int) -> bytes:
        text = b"%d" % length
        if len(self) < 4096:
            self[length] = text
        return text


LENGTHS: Final = _Lengths()
_LAST_THREE: Final = [b"%03d" % number for number in range(1000)]


def number_texts(numbers: Sequence[int]) -> list[bytes]:
    """Numbers (not negative) in decimal. Ascending by one, as they mostly are, they cost a quarter."""
    count = len(numbers)
    if not count:
        return []
    first, last = numbers[0], numbers[-1]
    if last - first != count - 1 or not (isinstance(numbers, range) or [*range(first, last + 1)] == [*numbers]):
        return (b"%d," * count % tuple(numbers))[:-1].split(b",")
    texts: list[bytes] = []
    while first <= last:
        thousands, rest = divmod(first, 1000)
        here = _LAST_THREE[rest : rest + last - first + 1]
        lead = b"%d" % thousands
        texts += [lead + three for three in here] if thousands else [b"%d" % int(three) for three in here]
        first += len(here)
    return texts


_MONTHS: Final = (b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec")
_EPOCH_DAY: Final = date(1970, 1, 1).toordinal()
_LAST_DAY: Final = date(9999, 12, 31).toordinal() - _EPOCH_DAY


class _Days(dict[int, bytes]):
    """Days since 1970 → `17-Jul-1996`."""

    def __missing__(self, day: int) -> bytes:
        when = date.fromordinal(min(max(day, 1 - _EPOCH_DAY), _LAST_DAY) + _EPOCH_DAY)
        text = b"%2d-%b-%04d" % (when.day, _MONTHS[when.month - 1], when.year)
        if len(self) < 65536:
            self[day] = text
        return text


_DAYS: Final = _Days()


_MINUTES: Final = [b"%02d:%02d:" % divmod(minute, 60) for minute in range(1440)]
_SECONDS: Final = [b"%02d" % second for second in range(60)]


def date_columns(seconds: Sequence[int]) -> list[list[bytes]]:
    days, minutes, texts = _DAYS, _MINUTES, _SECONDS
    return [
        [days[s // 86400] for s in seconds],
        [minutes[s % 86400 // 60] for s in seconds],
        [texts[s % 60] for s in seconds],
    ]
