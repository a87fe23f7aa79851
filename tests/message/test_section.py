"""Section specifications, and where they are in prefix + content. RFC 3501 §6.4.5; case 172."""

from __future__ import annotations

from pathlib import Path

import pytest

from pillarbox.message.section import (
    RECORD_OCTETS,
    Section,
    all_without_dots,
    body_starts,
    locate,
    parse_section,
    select_fields,
)
from pillarbox.message.wire import wire_forms

TREE = (Path(__file__).parent / "golden" / "rfc3501_sections.eml").read_bytes()
PREFIX = b"Return-Path: <>\r\nDelivered-To: ada@pillarbox.test\r\n"


def fetched(text: bytes, octets: bytes = TREE, prefix: bytes = PREFIX) -> bytes | None:
    section = parse_section(text)
    assert section is not None
    pieces = locate(section, wire_forms(octets).parts, len(prefix))
    email = prefix + octets
    return None if pieces is None else b"".join(email[start : start + length] for start, length in pieces)


@pytest.mark.parametrize(
    ("text", "section"),
    [
        (b"", Section((), "")),
        (b"header", Section((), "HEADER")),
        (b"TEXT", Section((), "TEXT")),
        (b"1", Section((1,), "")),
        (b"1.2.MIME", Section((1, 2), "MIME")),
        (b"2.1.HEADER", Section((2, 1), "HEADER")),
        (b"HEADER.FIELDS (From TO)", Section((), "HEADER.FIELDS", frozenset({b"from", b"to"}))),
        (b'3.Header.Fields.Not ("Subject")', Section((3,), "HEADER.FIELDS.NOT", frozenset({b"subject"}))),
    ],
)
def test_sections_are_parsed(text: bytes, section: Section) -> None:
    assert parse_section(text) == section


@pytest.mark.parametrize(
    "text",
    [
        b"MIME",
        b"0",
        b"1.0",
        b"1.",
        b".1",
        b"1..2",
        b"1HEADER",
        b"HEADER.FIELDS",
        b"HEADER.FIELDS ()",
        b"TEXT (a)",
        b"X",
    ],
)
def test_no_sections(text: bytes) -> None:
    assert parse_section(text) is None


def test_case_172_paths_are_bounded() -> None:
    assert parse_section(b".".join([b"1"] * 1000)) is None
    assert parse_section(b"99999999999999999999") is None
    assert parse_section(b"HEADER.FIELDS (" + b"x " * 100_000 + b")") is None
    assert parse_section(b"HEADER.FIELDS (" + b" ".join(b"x%d" % i for i in range(1000)) + b")") is None


def test_the_tree_of_rfc_3501() -> None:
    assert fetched(b"") == PREFIX + TREE
    assert fetched(b"HEADER") == PREFIX + TREE[:231]
    assert fetched(b"TEXT") == TREE[231:]
    assert fetched(b"1") == b"one"
    assert fetched(b"2") == b"dHdv"
    assert fetched(b"3.HEADER").startswith(b"Subject: three\r\n")
    assert fetched(b"3.TEXT").startswith(b"--three\r\n")
    assert fetched(b"3") == fetched(b"3.HEADER") + fetched(b"3.TEXT")
    assert fetched(b"3.1") == b"three one"
    assert fetched(b"3.2.MIME") == b"Content-Type: application/octet-stream\r\n\r\n"
    assert fetched(b"4.1.MIME").startswith(b"Content-Type: image/gif\r\n")
    assert fetched(b"4.2.HEADER").startswith(b"Subject: four two\r\n")
    assert fetched(b"4.2.1") == b"four two one"
    assert fetched(b"4.2.2").startswith(b"--deep\r\n")
    assert fetched(b"4.2.2.1") == b"four two two one"
    assert fetched(b"4.2.2.2") == b"four two two two"


@pytest.mark.parametrize("text", [b"5", b"1.1", b"1.HEADER", b"4.HEADER", b"4.3", b"4.2.3", b"3.1.TEXT", b"2.TEXT"])
def test_what_is_not_there(text: bytes) -> None:
    assert fetched(text) is None


def test_a_message_without_parts_has_part_one() -> None:
    octets = b"From: a@b\r\n\r\nhello"
    assert fetched(b"1", octets) == b"hello"
    assert fetched(b"1.MIME", octets) == PREFIX + b"From: a@b\r\n\r\n"
    assert fetched(b"1.1", octets) is None
    assert fetched(b"2", octets) is None


def test_a_message_that_is_a_message() -> None:
    octets = b"Content-Type: message/rfc822\r\n\r\nSubject: in\r\n\r\nhello"
    assert fetched(b"1", octets) == b"Subject: in\r\n\r\nhello"
    assert fetched(b"1.HEADER", octets) == b"Subject: in\r\n\r\n"
    assert fetched(b"1.1", octets) == b"hello"


HEADER = b"From: a\r\nTO: b,\r\n c\r\nSubject : d\r\nToo: e\r\nX-Last: f\r\n\r\n"


def test_fields_are_selected() -> None:
    assert select_fields(HEADER, frozenset({b"to", b"subject"}), False) == b"TO: b,\r\n c\r\nSubject : d\r\n\r\n"
    assert select_fields(HEADER, frozenset({b"x-last"}), False) == b"X-Last: f\r\n\r\n"
    assert select_fields(HEADER, frozenset({b"none"}), False) == b"\r\n"


def test_fields_are_left_out() -> None:
    assert select_fields(HEADER, frozenset({b"to", b"subject", b"x-last"}), True) == b"From: a\r\nToo: e\r\n\r\n"
    assert select_fields(b"", frozenset({b"to"}), True) == b"\r\n"


def test_selected_lines_end_with_crlf() -> None:
    assert select_fields(b"To: b\n c\nCc: d", frozenset({b"to", b"cc"}), False) == b"To: b\r\n c\r\nCc: d\r\n\r\n"
    assert select_fields(b"To: b\n c\nCc: d", frozenset({b"from"}), True) == b"To: b\r\n c\r\nCc: d\r\n\r\n"


@pytest.mark.parametrize(
    ("octets", "start", "has_dots"),
    [
        (b"A: b\r\n\r\nbody\r\n", 8, False),
        (b"A: b\r\n\r\n.body\r\n", 8, True),
        (b"A: b\n\nx\n.\n", 6, True),
        (b".A: b\r\n\r\n", 9, True),
        (b"A: .\r\n\r\nbody .\r\n", 8, False),
        (b"", 0, False),
    ],
)
def test_what_pop3_asks_of_many_messages(octets: bytes, start: int, has_dots: bool) -> None:
    first = wire_forms(octets).parts[:RECORD_OCTETS]
    plain = wire_forms(b"A: b\r\n\r\n").parts[:RECORD_OCTETS]
    assert body_starts(first + plain) == [start, 8]
    assert all_without_dots(first + plain) is not has_dots
    assert body_starts(first[:-1]) == []
