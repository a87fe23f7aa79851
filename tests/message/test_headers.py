"""Header blocks: where they end, what their fields are, what is wrong with them. RFC 5322 §2.2, §3.6, §4.5."""

from __future__ import annotations

import pytest

from pillarbox.message.defects import Defect
from pillarbox.message.headers import header_end, header_values, parse_fields, unfold
from pillarbox.message.scan import scan


def defects_of(header: bytes) -> set[Defect]:
    return scan(b"From: a@b.example\r\n" + header + b"\r\n\r\nbody").defects


def test_fields_are_found_by_offsets() -> None:
    octets = b"From: a@b\r\nSubject: one\r\n two\r\n\r\nbody"
    message = scan(octets)
    fields = message.root.header.fields
    assert [field.name for field in fields] == [b"from", b"subject"]
    assert [octets[field.start : field.end] for field in fields] == [b"From: a@b", b"Subject: one\r\n two"]
    assert [octets[field.value_start : field.end] for field in fields] == [b" a@b", b" one\r\n two"]
    assert octets[message.root.body_start :] == b"body"


def test_lines_are_unfolded_without_loss() -> None:
    assert unfold(b" one\r\n two\n\tthree \r") == b"one two\tthree"


@pytest.mark.parametrize(
    ("header", "defect"),
    [
        (b"Subject : x", Defect.SPACE_BEFORE_COLON),
        (b"Subject\r\n : x", Defect.FOLDED_NAME),
        (b"no colon at all", Defect.MALFORMED_FIELD),
        (b"Sub ject: x", Defect.MALFORMED_FIELD),
        (b": x", Defect.MALFORMED_FIELD),
        (b"X: a\nY: b", Defect.BARE_LF),
    ],
)
def test_case_124_malformed_fields_are_named(header: bytes, defect: Defect) -> None:
    assert defect in defects_of(header)


def test_case_124_leading_space() -> None:
    message = scan(b" From: a@b.example\r\nTo: c@d.example\r\n\r\n")
    assert Defect.LEADING_CONTINUATION in message.defects


def test_case_123_two_from_fields() -> None:
    message = scan(b"From: a@b.example\r\nFrom: c@d.example\r\n\r\n")
    assert Defect.DUPLICATE_FROM in message.defects
    assert message.value(b"from") == b"a@b.example"


def test_case_125_no_from() -> None:
    assert Defect.NO_FROM in scan(b"Sender: a@b.example\r\nResent-From: a@b.example\r\n\r\n").defects


@pytest.mark.parametrize("name", [b"Subject", b"Date", b"To", b"Message-ID"])
def test_case_134_the_first_of_two_counts(name: bytes) -> None:
    message = scan(b"From: a@b.example\r\n%b: one\r\n%b: two\r\n\r\n" % (name, name))
    assert Defect.DUPLICATE_FIELD in message.defects
    assert message.value(name.lower()) == b"one"


def test_case_134_two_content_types() -> None:
    message = scan(b"From: a@b\r\nContent-Type: text/html\r\nContent-Type: text/plain\r\n\r\n")
    assert Defect.DUPLICATE_CONTENT_TYPE in message.defects
    assert message.root.content_type.value == b"text/html"


@pytest.mark.parametrize("blank", [b"\r\n \t\r\n", b"\r\n \r\n", b"\r\r\n", b"\r\r", b"\n\r\r\n"])
def test_case_135_only_an_empty_line_ends_the_header(blank: bytes) -> None:
    octets = b"From: a@b.example\r\nX: y" + blank + b" more\r\nSubject: still header\r\n\r\nbody"
    message = scan(octets)
    assert message.value(b"subject") == b"still header"
    assert octets[message.root.body_start :] == b"body"
    assert message.defects & {Defect.BLANK_CONTINUATION, Defect.BARE_CR, Defect.MALFORMED_FIELD}


@pytest.mark.parametrize(
    ("octets", "end"),
    [
        (b"", 0),
        (b"\r\nx", 2),
        (b"\nx", 1),
        (b"A: b\r\n\r\nx", 8),
        (b"A: b\n\nx\r\n\r\n", 6),
        (b"A: b", 4),
        (b"A: b\r\n", 6),
    ],
)
def test_scan_and_header_end_agree(octets: bytes, end: int) -> None:
    assert header_end(octets) == end
    assert scan(octets).root.body_start == end


def test_header_values() -> None:
    assert header_values(b"A: 1\r\nB: 2\r\na: 3\r\n 4\r\n\r\nA: 5\r\n", b"a") == [b"1", b"3 4"]


def test_header_octets_that_are_not_utf8() -> None:
    assert Defect.EIGHT_BIT_HEADER in defects_of(b"Subject: caf\xe9")
    assert Defect.EIGHT_BIT_HEADER not in defects_of("Subject: café".encode())


def test_an_empty_block_has_no_fields() -> None:
    assert parse_fields(b"", 0, 0, set()).fields == []
