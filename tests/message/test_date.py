"""Date-times. RFC 5322 §3.3, §4.3."""

from __future__ import annotations

from email.utils import parsedate_to_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pillarbox.message.date import format_date, parse_date


@pytest.mark.parametrize(
    ("value", "same_as"),
    [
        (b"Fri, 21 Nov 1997 09:55:06 -0600", b"Fri, 21 Nov 1997 09:55:06 -0600"),
        (b"21 Nov 97 09:55:06 GMT", b"Fri, 21 Nov 1997 09:55:06 +0000"),
        (b"Thu, 13 Feb 1969 23:32 -0330 (Newfoundland Time)", b"Thu, 13 Feb 1969 23:32:00 -0330"),
        (b"Fri, 21 Nov 1997 09(comment (nested)):   55  :  06 -0600", b"Fri, 21 Nov 1997 09:55:06 -0600"),
        (b"Mon, 3 Jun 24 08:00 EST", b"Mon, 03 Jun 2024 08:00:00 -0500"),
        (b"Mon, 03 Jun 2024 08:00:00 PDT", b"Mon, 03 Jun 2024 08:00:00 -0700"),
        (b"Mon, 03 Jun 2024 08:00:00 GMT+0200", b"Mon, 03 Jun 2024 08:00:00 +0200"),
        (b"Mon, 03 Jun 2024 08:00:00 +02:00", b"Mon, 03 Jun 2024 08:00:00 +0200"),
        (b"Mon, 03 Jun 2024 08:00:00.123 +0200", b"Mon, 03 Jun 2024 08:00:00 +0200"),
        (b"Monday, 3 June 2024 8:00:00 +0200", b"Mon, 03 Jun 2024 08:00:00 +0200"),
        (b"3-Jun-2024 08:00:00 +0200", b"Mon, 03 Jun 2024 08:00:00 +0200"),
        (b"Mon Jun  3 08:00:00 2024", b"Mon, 03 Jun 2024 08:00:00 +0000"),
        (b"Mon, 03 Jun 2024 08:00:00 X", b"Mon, 03 Jun 2024 08:00:00 +0000"),
        (b"Mon, 03 Jun 2024 08:00:00", b"Mon, 03 Jun 2024 08:00:00 +0000"),
        (b"Mon, 03 Jun 124 08:00:00 +0000", b"Mon, 03 Jun 2024 08:00:00 +0000"),
        (b"Sat, 31 Dec 2016 23:59:60 +0000", b"Sun, 01 Jan 2017 00:00:00 +0000"),
    ],
)
def test_forms(value: bytes, same_as: bytes) -> None:
    assert parse_date(value) == int(parsedate_to_datetime(same_as.decode()).timestamp())


@pytest.mark.parametrize(
    "value", [b"", b"today", b"Mon, 31 Feb 2024 08:00:00 +0000", b"1 Foo 2024 08:00:00", b"1 Jan 2024 25:00:00 +0000"]
)
def test_no_dates(value: bytes) -> None:
    assert parse_date(value) is None


@given(st.integers(-2_000_000_000, 30_000_000_000))
def test_what_is_written_is_read(epoch_s: int) -> None:
    text = format_date(epoch_s)
    assert parse_date(text.encode()) == epoch_s
    assert int(parsedate_to_datetime(text).timestamp()) == epoch_s
