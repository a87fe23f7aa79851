"""A next hop without 8BITMIME. RFC 6152 §3: parts are encoded anew where that is allowed, and nothing else changes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pillarbox.message.eight_bit import downgrade_to_7bit
from pillarbox.message.scan import Kind, scan
from pillarbox.message.structure import decoded_body

UTF8 = "Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n"


def test_what_is_7bit_stays() -> None:
    octets = b"From: a@b\r\n\r\nplain"
    assert downgrade_to_7bit(octets) is octets


def test_text_becomes_quoted_printable() -> None:
    octets = f"From: a@b\r\nMIME-Version: 1.0\r\n{UTF8}Subject: x\r\n\r\nGruß und Kuß\r\n".encode()
    assert downgrade_to_7bit(octets) == (
        b"From: a@b\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n"
        b"Content-Transfer-Encoding: quoted-printable\r\nSubject: x\r\n\r\nGru=C3=9F und Ku=C3=9F\r\n"
    )


def test_text_in_other_scripts_becomes_base64() -> None:
    octets = f"From: a@b\r\n{UTF8}\r\nпочта приходит\r\n".encode()
    result = downgrade_to_7bit(octets)
    assert result is not None and b"base64" in result
    message = scan(result)
    assert decoded_body(message, message.root) == "почта приходит\r\n".encode()


def test_text_that_says_nothing_of_itself() -> None:
    result = downgrade_to_7bit(b"From: a@b\r\n\r\ncaf\xe9\r\n")
    assert result is not None
    root = scan(result).root
    assert root.content_type.get(b"charset") == b"unknown-8bit"
    assert decoded_body(scan(result), root) == b"caf\xe9\r\n"


def test_parts_are_encoded_one_by_one() -> None:
    octets = (
        "From: a@b\r\nContent-Type: multipart/mixed; boundary=b\r\nContent-Transfer-Encoding: 8bit\r\n\r\npreämble\r\n"
        f"--b\r\n\r\nascii\r\n--b\r\n{UTF8}\r\nä\r\n\r\n--b\r\nContent-Type: message/rfc822\r\n\r\nSubject: in\r\n"
        f"{UTF8}\r\nö\r\n--b\r\nContent-Type: application/x\r\nContent-Transfer-Encoding: binary\r\n\r\n€\r\n--b--\r\n"
    ).encode()
    result = downgrade_to_7bit(octets)
    assert result is not None and result.isascii()
    before, after = scan(octets), scan(result)
    assert [part.content_type for part in after.parts] == [part.content_type for part in before.parts]
    assert [decoded_body(after, part) for part in after.parts if part.kind is Kind.LEAF] == [
        decoded_body(before, part) for part in before.parts if part.kind is Kind.LEAF
    ]
    assert after.root.encoding == b"7bit"


@pytest.mark.parametrize(
    "octets",
    [
        "Subject: ä\r\n\r\nx".encode(),
        f"Content-Type: multipart/signed; boundary=b\r\n\r\n--b\r\n{UTF8}\r\nä\r\n--b--\r\n".encode(),
        "Content-Type: multipart/mixed\r\n\r\nä".encode(),
        "Content-Type: message/partial\r\n\r\nä".encode(),
        f"Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\nX: ä\r\n{UTF8}\r\nä\r\n--b--\r\n".encode(),
    ],
)
def test_what_cannot_be_done_is_not_done(octets: bytes) -> None:
    assert downgrade_to_7bit(octets, break_signatures=True) is None


def test_dkim_signatures_are_broken_only_if_told() -> None:
    octets = f"DKIM-Signature: v=1\r\n{UTF8}\r\nä".encode()
    assert downgrade_to_7bit(octets) is None
    assert downgrade_to_7bit(octets, break_signatures=True) is not None


@given(st.binary(min_size=1, max_size=200), st.sampled_from((b"text/plain", b"application/x", b"text/html")))
def test_the_content_survives(body: bytes, kind: bytes) -> None:
    octets = b"From: a@b\r\nContent-Type: %b\r\nContent-Transfer-Encoding: 8bit\r\n\r\n%b" % (kind, body)
    result = downgrade_to_7bit(octets)
    assert result is not None and result.isascii()
    message = scan(result)
    assert decoded_body(message, message.root) == body
