"""What we write is what we read, and what strangers write breaks nothing. Case 133."""

from __future__ import annotations

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from pillarbox.log import Renderer
from pillarbox.message.build import format_parameter
from pillarbox.message.charset import codec_for, decode
from pillarbox.message.date import parse_date
from pillarbox.message.encoded_word import decode as decode_words
from pillarbox.message.fields import parse_addresses
from pillarbox.message.headers import parse_fields
from pillarbox.message.parameters import decode_extended, parse_parameters
from pillarbox.message.received import format_delivered_to, format_received, format_return_path
from pillarbox.message.section import MAX_NAMES, parse_section
from pillarbox.message.subject import base_subject
from pillarbox.message.transfer import decode as decode_transfer
from pillarbox.model.address import Address
from pillarbox.protocol.smtp.grammar import Mistaken, parse_mail, parse_rcpt

TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=40)
LIMIT = 1 << 20
EVIL = st.text("ab.@'\"\\()<>,;: \t%!=+\r\n\0\x1b\u202eé", max_size=20)
PATHS = st.builds(
    lambda local, domain, quoted: f'<"{local}"@{domain}>' if quoted else f"<{local}@{domain}>",
    EVIL,
    st.sampled_from(["x.example", "legit.example'", "[192.0.2.1]", "[IPv6:::1]", "é.example", "x.example(a"]),
    st.booleans(),
).map(str.encode)


@settings(max_examples=200, deadline=None)
@given(value=TEXT)
def test_parameters_are_read_as_written(value: str) -> None:
    field = parse_parameters(("attachment" + format_parameter("filename", value)).encode())
    assert field.defects == frozenset() and list(dict(field.parameters)) in ([b"filename"], [b"filename*"])
    (read,) = (decode_extended(octets) if name.endswith(b"*") else octets.decode() for name, octets in field.parameters)
    assert read == value


SECTIONS = st.builds(
    lambda path, what, names: (path, what, names if what.startswith("HEADER.FIELDS") else frozenset()),
    st.lists(st.integers(1, 99), max_size=6).map(tuple),
    st.sampled_from(["", "HEADER", "TEXT", "MIME", "HEADER.FIELDS", "HEADER.FIELDS.NOT"]),
    st.frozensets(st.from_regex(rb"[a-z][a-z-]{0,8}", fullmatch=True), min_size=1, max_size=MAX_NAMES),
).filter(lambda section: section[1] != "MIME" or section[0])


@settings(max_examples=200, deadline=None)
@given(section=SECTIONS)
def test_sections_are_read_as_written(section: tuple[tuple[int, ...], str, frozenset[bytes]]) -> None:
    path, what, names = section
    text = ".".join([*map(str, path), *([what] if what else [])]).encode()
    if names:
        text += b" (" + b" ".join(sorted(names)) + b")"
    read = parse_section(text)
    assert read is not None and (read.path, read.what, read.names) == section


@settings(max_examples=300, deadline=None)
@given(octets=st.binary(max_size=80) | EVIL.map(str.encode))
def test_no_value_makes_a_reader_fail(octets: bytes) -> None:
    parse_parameters(octets)
    decode_extended(octets)
    decode_words(octets)
    parse_date(octets)
    text = octets.decode("latin-1")
    codec_for(text)
    decode(octets, text)
    for encoding in (b"base64", b"quoted-printable", b"x-uuencode", b"7bit", octets):
        decode_transfer(octets, encoding)


@settings(max_examples=200, deadline=None)
@given(subject=st.text(max_size=60) | st.text("Ref: [w]d()", max_size=60))
def test_a_base_subject_is_its_own(subject: str) -> None:
    """RFC 5256 §2.1."""
    base = base_subject(subject)
    assert base_subject(base) == base
    assert base_subject("Re: " + subject) == base


@settings(max_examples=300, deadline=None)
@given(path=PATHS)
def test_case_133_no_sender_that_is_taken_injects_anything(path: bytes) -> None:
    """Into Return-Path, Received, Delivered-To, a log line, or another reader's idea of the address."""
    addresses: list[Address] = []
    for parse in (
        lambda: parse_mail(b"FROM:" + path + b" SMTPUTF8", LIMIT).envelope.reverse_path,
        lambda: parse_rcpt(b"TO:" + path, True).address,
    ):
        try:
            found = parse()
        except Mistaken:
            continue
        if found is not None:
            addresses.append(found)
    for address in addresses:
        lines = (
            format_return_path(address)
            + format_received(
                helo="x", peer_address="192.0.2.1", by="us.example", protocol="ESMTP", message_id="1", at=0,
                recipient=address,
            )
            + format_delivered_to(address)
        )  # fmt: skip
        header = parse_fields(lines, 0, len(lines), defects := set())
        assert header.names == [b"return-path", b"received", b"delivered-to"] and not defects
        value = header.lines[0].partition(b":")[2]
        (mailbox,) = parse_addresses(value.strip()).mailboxes
        assert ((mailbox.local or b"").decode(), (mailbox.domain or b"").decode()) == (address.local, address.domain)
        line = Renderer()(None, "info", {"event": "accepted", "sender": str(address)})
        assert line.count(b"\n") == 1 and json.loads(line)["event"] == "accepted"
        assert b"\x1b" not in line
