"""ENVELOPE and structures as IMAP sends them. RFC 3501 §7.4.2, §8 (sample), §9."""

from __future__ import annotations

from pathlib import Path

import pytest

from pillarbox.message.envelope import format_addresses, format_envelope, format_nstring
from pillarbox.message.wire import FIELD_CODES, LISTED_FIELDS, VERSION, wire_forms

from .samples import parse_list

GOLDEN = Path(__file__).parent / "golden"


def test_the_sample_of_rfc_3501() -> None:
    forms = wire_forms((GOLDEN / "rfc3501_envelope.eml").read_bytes())
    gray = b'(("Terry Gray" NIL "gray" "cac.washington.edu")) '
    assert forms.envelope == (
        b'("Wed, 17 Jul 1996 02:23:25 -0700 (PDT)" "IMAP4rev1 WG mtg summary and minutes" '
        + gray * 3
        + b'((NIL NIL "imap"'
        b' "cac.washington.edu")) ((NIL NIL "minutes" "CNRI.Reston.VA.US")("John Klensin" NIL "KLENSIN" "MIT.EDU")) NIL'
        b' NIL "<B27397-0100000@cac.washington.edu>")'
    )
    assert forms.body.upper() == b'("TEXT" "PLAIN" ("CHARSET" "US-ASCII") NIL NIL "7BIT" 3312 92)'


def test_the_two_part_sample_of_rfc_3501() -> None:
    octets = (
        b"Content-Type: MULTIPART/MIXED; BOUNDARY=x\r\n\r\n--x\r\nContent-Type: TEXT/PLAIN; CHARSET=US-ASCII\r\n\r\n"
        + b"x" * 1128 + b"\n" * 23 + b"y" + b"\r\n--x\r\nContent-Type: TEXT/PLAIN; CHARSET=US-ASCII; NAME=cc.diff\r\n"
        b"Content-ID: <960723163407.20117h@cac.washington.edu>\r\nContent-Description: Compiler diff\r\n"
        b"Content-Transfer-Encoding: BASE64\r\n\r\n" + b"A" * 4481 + b"\n" * 73 + b"\r\n--x--\r\n"
    )  # fmt: skip
    assert wire_forms(octets).body.upper() == (
        b'(("TEXT" "PLAIN" ("CHARSET" "US-ASCII") NIL NIL "7BIT" 1152 23)("TEXT" "PLAIN" ("CHARSET" "US-ASCII" "NAME"'
        b' "CC.DIFF") "<960723163407.20117H@CAC.WASHINGTON.EDU>" "COMPILER DIFF" "BASE64" 4554 73) "MIXED")'
    )


@pytest.mark.parametrize(
    ("value", "wire"),
    [
        (None, b"NIL"),
        (b"", b'""'),
        (b"plain", b'"plain"'),
        (b'a "b" \\', b'"a \\"b\\" \\\\"'),
        (b"caf\xe9", b"{4}\r\ncaf\xe9"),
        (b"a\rb", b"{3}\r\na\rb"),
        (b"a\0b", b"{3}\r\na\x80b"),
    ],
)
def test_nstring(value: bytes | None, wire: bytes) -> None:
    assert format_nstring(value) == wire


@pytest.mark.parametrize(
    ("value", "wire"),
    [
        (None, b"NIL"),
        (b"", b"NIL"),
        (b" , ", b"NIL"),
        (b"a@b", b'((NIL NIL "a" "b"))'),
        (b'"A \xc3\xa4" <a@b>', b'(({4}\r\nA \xc3\xa4 NIL "a" "b"))'),
        (b'"A \\"B\\"" <a@b>, c@d', b'(("A \\"B\\"" NIL "a" "b")(NIL NIL "c" "d"))'),
        (b"G: a@b;", b'((NIL NIL "G" NIL)(NIL NIL "a" "b")(NIL NIL NIL NIL))'),
        (b"<@x,@y:a@b>", b'((NIL "@x,@y" "a" "b"))'),
        (b"root", b'((NIL NIL "root" "MISSING_DOMAIN"))'),
        (b"Name Only", b'(("Name Only" NIL "MISSING_MAILBOX" "MISSING_DOMAIN"))'),
        (b"a@b, " * 60, b"(" + b'(NIL NIL "a" "b")' * 60 + b")"),
    ],
)
def test_addresses(value: bytes | None, wire: bytes) -> None:
    assert format_addresses(value) == wire
    assert len(parse_list(wire)) == 1


def test_sender_and_reply_to_are_filled_from_from() -> None:
    envelope = format_envelope({b"from": b"a@b", b"sender": b"", b"reply-to": b"c@d", b"subject": b""})
    assert envelope == (b'(NIL "" ((NIL NIL "a" "b")) ((NIL NIL "a" "b")) ((NIL NIL "c" "d")) NIL NIL NIL NIL NIL)')


def test_extension_data() -> None:
    octets = (
        b"Content-Type: image/png\r\nContent-MD5: Q2hlY2s=\r\nContent-Disposition: inline; filename=x\r\n"
        b"Content-Language: en, de\r\nContent-Location: http://x.example/\r\n\r\n"
    )
    assert wire_forms(octets).bodystructure == (
        b'("image" "png" NIL NIL NIL "7bit" 0 "Q2hlY2s=" ("inline" ("filename" "x")) ("en" "de") "http://x.example/")'
    )


def test_listed_headers_are_as_received() -> None:
    octets = b"Received: x\r\nFROM:  a@b\r\n\tfolded\r\nX-Other: y\r\nsubject:z\r\nX-Priority: 1\r\n\r\nbody"
    assert wire_forms(octets).headers == b"FROM:  a@b\r\n\tfolded\r\nsubject:z\r\nX-Priority: 1\r\n"
    assert wire_forms(b"From: a\n b\nTo: c").headers == b"From: a\r\n b\r\nTo: c\r\n"
    assert all(name == name.lower() for name in LISTED_FIELDS)


def test_each_line_of_listed_headers_has_the_code_of_its_field() -> None:
    octets = b"Received: x\r\n\ty\r\nFROM:  a@b\r\n\tfolded\r\n\tagain\r\nX-Other: y\r\nsubject:z\r\n\r\nbody"
    assert wire_forms(octets).field_codes == FIELD_CODES[b"from"] * 3 + FIELD_CODES[b"subject"]
    assert wire_forms(octets.replace(b"\r\n", b"\n")).field_codes == wire_forms(octets).field_codes
    assert wire_forms(b"X-Other: y\r\n\r\n").field_codes == b""
    date = b"Date: Fri, 15 Jan 2027 08:00:00 +0000\r\n"
    assert wire_forms(octets, date).field_codes == FIELD_CODES[b"date"] + wire_forms(octets).field_codes
    assert len(set(FIELD_CODES.values())) == len(FIELD_CODES) and not {b"\0", b"\xff"} & set(FIELD_CODES.values())


def test_references_come_from_in_reply_to_where_there_are_none() -> None:
    forms = wire_forms(b"Message-ID: <c@x>\r\nReferences: <a@x> <b@x>\r\nIn-Reply-To: <z@x>\r\n\r\n")
    assert (forms.message_id, forms.references) == ("c@x", ["a@x", "b@x"])
    assert wire_forms(b"In-Reply-To: <z@x> <y@x>\r\n\r\n").references == ["z@x"]
    assert VERSION >= 1


def test_a_date_and_message_id_that_we_added_are_the_message_s_own() -> None:
    added = b"Date: Fri, 15 Jan 2027 08:00:00 +0000\r\nMessage-ID: <1@x.example>\r\n"
    content = b"From: a@b.example\r\n\r\nHello.\r\n"
    forms = wire_forms(content, b"Delivered-To: c@d.example\r\nReceived: by us;\r\n\tlater\r\n" + added)
    assert (forms.sent_at, forms.message_id) == (1_800_000_000, "1@x.example")
    assert forms.headers == added + b"From: a@b.example\r\n"
    assert b"1@x.example" in forms.envelope
    assert (forms.parts, forms.body, forms.preview) == (
        (plain := wire_forms(content)).parts, plain.body, plain.preview,
    )  # fmt: skip
