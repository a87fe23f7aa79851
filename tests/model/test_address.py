"""Addresses as people and envelopes write them. Source: RFC 5321 §4.1.2, §4.5.3.1; RFC 5890."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pillarbox.model.address import Address, canonical_domain, parse_address


@pytest.mark.parametrize(
    ("text", "local", "domain"),
    [
        ("ada@pillarbox.test", "ada", "pillarbox.test"),
        ("Ada+list@Pillarbox.TEST.", "Ada+list", "pillarbox.test"),
        ('"a b"@pillarbox.test', "a b", "pillarbox.test"),
        ("jörg@bücher.test", "jörg", "xn--bcher-kva.test"),
    ],
)
def test_what_an_address_is(text, local, domain):
    assert parse_address(text) == Address(local, domain)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ada",
        "@x.test",
        "ada@",
        "a..b@x.test",
        ".a@x.test",
        "a b@x.test",
        "a@x..test",
        "a@-x.test",
        "a" * 65 + "@x.test",
    ]
    + ["a@" + "x" * 64 + ".test", "a@x\n.test", '"a\nb"@x.test', "a@[127.0.0.1]"],
)
def test_what_it_is_not(text):
    assert parse_address(text) is None


def test_detail_and_key():
    address = Address("Ada+lists+x", "pillarbox.test")
    assert address.without_detail() == Address("Ada", "pillarbox.test")
    assert Address("+x", "a.test").without_detail() == Address("+x", "a.test")
    assert address.without_detail().key == parse_address("ADA@pillarbox.test").key
    assert canonical_domain("a" * 63 + "." + "b" * 63 + "." + "c" * 63 + "." + "d" * 62) is None


@given(
    local=st.text(
        st.characters(min_codepoint=32, max_codepoint=0x2FF, exclude_characters="\x7f"), min_size=1, max_size=20
    )
)
def test_what_is_written_reads_back(local):
    address = Address(local, "pillarbox.test")
    assert parse_address(str(address)) == address
