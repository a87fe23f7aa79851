"""Date-times of messages. Source: RFC 5322 §3.3, §4.3 (obsolete forms and zones), RFC 2822; RFC 5536 for "GMT"."""

from __future__ import annotations

import re
from datetime import date
from typing import Final

_MONTHS: Final = {
    name: number for number, name in enumerate(b"jan feb mar apr may jun jul aug sep oct nov dec".split(), 1)
}
_ZONES: Final = {
    b"ut": 0, b"utc": 0, b"gmt": 0, b"z": 0,
    b"est": -300, b"edt": -240, b"cst": -360, b"cdt": -300, b"mst": -420, b"mdt": -360, b"pst": -480, b"pdt": -420,
}  # fmt: skip
"""Minutes east of Greenwich. The military letters mean nothing (RFC 5322 §4.3): taken as UTC."""

_USUAL: Final = re.compile(
    rb"(?:[A-Za-z]{3},[ \t]+)?(\d{1,2}) ([A-Za-z]{3}) (\d{4}) (\d{1,2}):(\d\d)(?::(\d\d))? ([+-])(\d\d)(\d\d)"
)
_ANY: Final = re.compile(
    rb"(?:[A-Za-z]{3,9}\.?[ \t]*,?[ \t]*)?(\d{1,2})[ \t-]*([A-Za-z]{3})[A-Za-z]{0,6}\.?[ \t,-]*(\d{2,4})[ \t,]+"
    rb"(\d{1,2})[ \t]*[:.][ \t]*(\d{1,2})(?:[ \t]*[:.][ \t]*(\d{1,2}))?(?:\.\d{1,9})?"
    rb"[ \t]*(?:(?:GMT|UTC?)?([+-])[ \t]?(\d{1,2}):?(\d\d)|([A-Za-z]{1,5}))?"
)
_ASCTIME: Final = re.compile(
    rb"[A-Za-z]{3},?[ \t]+([A-Za-z]{3})[ \t]+(\d{1,2})[ \t]+(\d{1,2}):(\d\d):(\d\d)[ \t]+"
    rb"(?:[A-Za-z]{1,5}[ \t]+)?(\d{4})"
)
_EPOCH_DAY: Final = date(1970, 1, 1).toordinal()


def parse_date(value: bytes) -> int | None:
    """Seconds since 1970 (UTC) of an unfolded date-time, or None if it is none. Years 1900 to 9999.

    Obsolete forms are read too: two-digit years, named zones, comments; and asctime's. A missing zone is UTC.
    """
    match = _USUAL.match(value)
    if match is not None:
        day, month, year, hour, minute, second, sign, zone_hours, zone_minutes = match.groups()
        return _epoch(day, month, year, hour, minute, second, _offset(sign, zone_hours, zone_minutes))
    value = value[:200]
    if b"(" in value:
        value = _without_comments(value)
    value = value.strip()
    match = _ANY.match(value)
    if match is not None:
        day, month, year, hour, minute, second, sign, zone_hours, zone_minutes, name = match.groups()
        offset = _offset(sign, zone_hours, zone_minutes) if sign else _ZONES.get((name or b"").lower(), 0)
        return _epoch(day, month, year, hour, minute, second, offset)
    match = _ASCTIME.match(value)
    if match is not None:
        month, day, hour, minute, second, year = match.groups()
        return _epoch(day, month, year, hour, minute, second, 0)
    return None


def _offset(sign: bytes, hours: bytes, minutes: bytes) -> int:
    """Minutes east; more than a day is nonsense and taken as none."""
    total = int(hours) * 60 + int(minutes)
    if total >= 24 * 60:
        return 0
    return -total if sign == b"-" else total


def _epoch(
    day: bytes, month: bytes, year: bytes, hour: bytes, minute: bytes, second: bytes | None, offset_minutes: int
) -> int | None:
    number = _MONTHS.get(month.lower())
    full_year = int(year)
    if len(year) == 2:  # RFC 5322 §4.3
        full_year += 2000 if full_year < 50 else 1900
    elif len(year) == 3:
        full_year += 1900
    if number is None or full_year < 1900 or int(hour) > 24 or int(minute) > 59 or int(second or 0) > 60:
        return None
    try:
        days = date(full_year, number, int(day)).toordinal() - _EPOCH_DAY
    except ValueError:
        return None
    return days * 86400 + int(hour) * 3600 + (int(minute) - offset_minutes) * 60 + int(second or 0)


def _without_comments(value: bytes) -> bytes:
    """Drop comments, nested ones too; an open one reaches to the end."""
    kept = bytearray()
    depth = 0
    for octet in value:
        if octet == 40:
            depth += 1
        elif octet == 41:
            depth = max(0, depth - 1)
        elif depth == 0:
            kept.append(octet)
    return bytes(kept)


_DAY_NAMES: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTH_NAMES: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def format_date(epoch_s: float) -> str:
    """ "Mon, 23 Nov 2026 22:42:21 +0000" for seconds since 1970. Source: RFC 5322 §3.3."""
    days, seconds = divmod(int(epoch_s), 86400)
    day = date.fromordinal(days + _EPOCH_DAY)
    return (
        f"{_DAY_NAMES[day.weekday()]}, {day.day:02d} {_MONTH_NAMES[day.month - 1]} {day.year:04d} "
        f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d} +0000"
    )
