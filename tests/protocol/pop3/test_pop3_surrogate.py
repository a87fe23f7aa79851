"""Headers in UTF-8 for clients that did not ask for them. RFC 6856 §2.1, RFC 6858."""

from __future__ import annotations

import email
import email.policy
import itertools

from hypothesis import given
from hypothesis import strategies as st

from pillarbox.protocol.pop3.surrogate import Surrogate, surrogate

MAIL = (
    "Return-Path: <jøran@example.test>\r\n"
    "From: Jøran Øygård <jøran@example.test>, Zoë <zoe@example.test>\r\n"
    "To: bob@example.test\r\n"
    "Subject: Grüße\r\n aus Köln\r\n"
    "X-Plain: stays,\r\n\tas it is\r\n"
    "\r\n"
    "Grüße\r\n"
).encode()


def test_a_header_in_utf8_becomes_ascii_and_says_the_same() -> None:
    made = surrogate(MAIL)
    header, _, body = made.partition(b"\r\n\r\n")
    assert header.isascii() and body == "Grüße\r\n".encode()
    message = email.message_from_bytes(made, policy=email.policy.default)
    assert message["subject"] == "Grüße aus Köln"
    assert b"X-Plain: stays,\r\n\tas it is\r\n" in made
    assert [a.addr_spec for a in message["from"].addresses] == ["zoe@example.test"]
    assert message["from"].groups[0].addresses == ()
    assert message["from"].groups[1].addresses[0].display_name == "Zoë"


def test_what_is_ascii_or_no_utf8_stays_as_it_is() -> None:
    for octets in (
        b"Subject: plain\r\n\r\n\xff\r\n",
        b"Subject: Gr\xfc\xdfe\r\n\r\n",
        b"",
        b"\r\n\xc3\xbc",
        b"no header",
    ):
        assert surrogate(octets) == octets


@given(st.lists(st.sampled_from(["A", "ü", ":", " ", "\r\n", "\n", "<", ">", "@", ",", "From:", "Subject: ", "\0"])))
def test_nothing_raises_and_headers_are_ascii(parts: list[str]) -> None:
    octets = "".join(parts).encode()
    made = surrogate(octets)
    if b"\n\n" not in octets and b"\n\r\n" not in octets and not octets.startswith((b"\n", b"\r\n")):
        assert made.isascii()


@given(st.binary() | st.just(MAIL), st.lists(st.integers(0, 999)))
def test_pieces_are_as_the_whole(octets: bytes, cuts: list[int]) -> None:
    places = [0, *sorted(c % (len(octets) + 1) for c in cuts), len(octets)]
    stream = Surrogate()
    made = b"".join(stream.feed(octets[a:b]) for a, b in itertools.pairwise(places))
    assert made + stream.finish() == surrogate(octets)
