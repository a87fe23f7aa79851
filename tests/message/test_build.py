"""Messages that we write. Case 139: nothing that is put in can become another field."""

from __future__ import annotations

import email
import email.policy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pillarbox.message.build import (
    build_message,
    encode_body,
    format_field,
    format_mailbox,
    format_parameter,
    multipart_entity,
    quoted_printable,
    structured_field,
    text_entity,
)
from pillarbox.message.encoded_word import decode
from pillarbox.message.fields import parse_addresses
from pillarbox.message.headers import unfold
from pillarbox.message.scan import scan
from pillarbox.message.structure import decoded_text
from pillarbox.message.transfer import decode_quoted_printable

printable = st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=150)


@given(printable.filter(lambda text: text == " ".join(text.split(" ")).strip(" ")))
def test_fields_are_read_as_written(text: str) -> None:
    field = format_field("Subject", text)
    assert field.isascii() and field.endswith(b"\r\n")
    assert all(len(line) <= 78 or b" " not in line.strip() for line in field.split(b"\r\n"))
    assert decode(unfold(field.partition(b":")[2])) == text


def test_utf8_fields_stay_as_they_are() -> None:
    assert format_field("Subject", "Grüße", utf8=True) == "Subject: Grüße\r\n".encode()


@pytest.mark.parametrize("evil", ["a\r\nBcc: x", "a\nb", "a\rb", "a\0b", "a\x1bb", "\x7f"])
def test_case_139_control_characters_are_refused(evil: str) -> None:
    for write in (
        lambda: format_field("Subject", evil),
        lambda: format_field(evil, "x"),
        lambda: structured_field("To", evil),
        lambda: format_mailbox(evil, "a@b"),
        lambda: format_mailbox("a", evil + "@b"),
        lambda: format_parameter("name", evil),
    ):
        with pytest.raises(ValueError):
            write()


@pytest.mark.parametrize("evil", ["a@b>, <c@d", "a@b, c@d", 'a" <x@y>', "G:a@b;"])
def test_case_139_one_address_stays_one(evil: str) -> None:
    with pytest.raises(ValueError):
        format_mailbox("", evil)


@given(printable)
def test_display_names_are_read_as_written(name: str) -> None:
    name = " ".join(name.split())
    (only,) = parse_addresses(format_mailbox(name, "ada@x.example").encode()).entries
    assert (only.display_name, only.addr_spec) == (name, "ada@x.example")


@pytest.mark.parametrize(
    ("value", "written"),
    [("a.txt", "; n=a.txt"), ("a b", '; n="a b"'), ('a"b', '; n="a\\"b"'), ("ä", "; n*=utf-8''%C3%A4")],
)
def test_parameters(value: str, written: str) -> None:
    assert format_parameter("n", value) == written


@given(st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\r"), max_size=300))
def test_text_is_read_as_written(text: str) -> None:
    message = scan(b"From: a@b\r\n" + text_entity(text))
    assert message.octets.isascii()
    assert decoded_text(message, message.root) == text.replace("\n", "\r\n")


@given(st.binary(max_size=300).map(lambda octets: octets.replace(b"\r", b"").replace(b"\n", b"\r\n")))
def test_quoted_printable(octets: bytes) -> None:
    encoded = quoted_printable(octets)
    assert all(len(line) <= 76 for line in encoded.split(b"\r\n"))
    assert decode_quoted_printable(encoded) == octets


def test_the_lightest_encoding_is_taken() -> None:
    assert encode_body(b"plain\r\n")[0] == "7bit"
    assert encode_body("mostly ascii, ä".encode())[0] == "quoted-printable"
    assert encode_body("почта".encode())[0] == "base64"
    assert encode_body(b"x" * 999)[0] == "quoted-printable"
    assert encode_body(b"plain", is_text=False)[0] == "base64"


def test_a_whole_message() -> None:
    entity = multipart_entity("mixed", [text_entity("one"), text_entity("zwölf")], [("x", "y z")])
    octets = build_message([structured_field("From", "a@b.example"), format_field("Subject", "x")], entity)
    theirs = email.message_from_bytes(octets, policy=email.policy.default)
    assert [part.get_content() for part in theirs.iter_parts()] == ["one", "zwölf"]
    assert not scan(octets).defects
