"""Mailbox names and LIST patterns. Source: RFC 3501 §5.1.3, §6.3.8."""

import fnmatch
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pillarbox.protocol.imap.names import BadName, Pattern, decode_name, encode_name

CLEAN = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=30)


@pytest.mark.parametrize(
    ("text", "octets"),
    [
        ("~peter/mail/台北/日本語", b"~peter/mail/&U,BTFw-/&ZeVnLIqe-"),
        ("&", b"&-"),
        ("Entwürfe", b"Entw&APw-rfe"),
        ("A&B", b"A&-B"),
        ("🎉", b"&2DzfiQ-"),
    ],
)
def test_names_of_the_standard(text, octets):
    assert encode_name(text) == octets
    assert decode_name(octets) == text


@given(CLEAN)
def test_a_name_survives_the_wire(name):
    assert encode_name(name).isascii()
    back = decode_name(encode_name(name))
    assert back == name or back.upper() == name.upper()  # INBOX


@given(st.binary(max_size=40))
def test_octets_are_a_name_or_bad(octets):
    try:
        name = decode_name(octets)
    except (BadName, UnicodeDecodeError):
        return
    if not name.startswith("INBOX"):
        assert encode_name(name) == octets


@pytest.mark.parametrize(
    "octets", [b"&", b"&AG", b"&AGE-", b"&U,BT--&", b"&ZeV-", b"&2Dw-", b"a\x00b", b"a\r\nb", b"\xff", b"&APw-&APw-"]
)
def test_case_173_bad_names(octets):
    with pytest.raises((BadName, UnicodeDecodeError)):
        decode_name(octets)


@pytest.mark.parametrize("octets", [b"inbox", b"InBoX", b"INBOX"])
def test_inbox_has_one_spelling(octets):
    assert decode_name(octets) == "INBOX"
    assert decode_name(octets + b"/sub") == "INBOX/sub"
    assert decode_name(octets + b"es") != "INBOXes" or octets == b"INBOX"


@given(st.text("ab/*%", max_size=8), st.text("ab/", max_size=10))
def test_patterns_match_what_the_expression_matches(pattern, name):
    expression = "".join({"*": ".*", "%": "[^/]*"}.get(c, re.escape(c)) for c in pattern)
    assert Pattern(pattern).matches(name) == bool(re.fullmatch(expression, name))


def test_inbox_matches_in_any_case():
    assert Pattern("inbox").matches("INBOX")
    assert Pattern("iNb%").matches("INBOX")
    assert Pattern("inbox/%").matches("INBOX/x")
    assert not Pattern("inbox").matches("INBOX/x")
    assert not Pattern("sent").matches("Sent")


def test_case_174_many_wildcards_are_linear():
    """Each character of a name is looked at once, whatever the pattern."""
    pattern = Pattern("*%*a" * 50 + "b")
    names = ["a" * 200 for _ in range(200)]
    assert not any(pattern.matches(name) for name in names)
    assert fnmatch.fnmatch("aaab", "*a*a*b")
