"""Paths and parameters. Cases 63, 71, 76, 77, 78, 81, 133."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pillarbox.model.address import Address
from pillarbox.model.envelope import Envelope, Recipient
from pillarbox.protocol.smtp.extensions import encode_orcpt
from pillarbox.protocol.smtp.grammar import Mistaken, encode_xtext, parse_hello, parse_mail, parse_rcpt

LIMIT = 50 * 1024 * 1024


def rcpt_error(argument: bytes, utf8: bool = False) -> str:
    with pytest.raises(Mistaken) as caught:
        parse_rcpt(argument, utf8)
    return f"{caught.value.reply.code} {caught.value.reply.status}"


def mail_error(argument: bytes) -> str:
    with pytest.raises(Mistaken) as caught:
        parse_mail(argument, LIMIT)
    return f"{caught.value.reply.code} {caught.value.reply.status}"


@pytest.mark.parametrize(
    ("argument", "local", "domain"),
    [
        (b"TO:<ada@us.example>", "ada", "us.example"),
        (b"to:<Ada.Love+list@US.Example>", "Ada.Love+list", "us.example"),
        (b"TO: <ada@us.example>", "ada", "us.example"),
        (b"TO:<ada@us.example.>", "ada", "us.example"),
        (b'TO:<"ada b"@us.example>', "ada b", "us.example"),
        (b'TO:<"a\\"b\\\\"@us.example>', 'a"b\\', "us.example"),
        (b'TO:<"a@b"@us.example>', "a@b", "us.example"),
        (b'TO:<"a>b"@us.example>', "a>b", "us.example"),
        (b"TO:<ada@[127.0.0.1]>", "ada", "[127.0.0.1]"),
        (b"TO:<ada@[IPv6:2001:DB8::1]>", "ada", "[ipv6:2001:db8::1]"),
        (b"TO:<@a.example,@b.example:ada@us.example>", "ada", "us.example"),
        (b"TO:<ada%x.example@us.example>", "ada%x.example", "us.example"),
        (b"TO:<o'brien@us.example>", "o'brien", "us.example"),
        (b"TO:<Postmaster>", "postmaster", ""),
        ("TO:<ada@münchen.example>".encode(), "ada", "xn--mnchen-3ya.example"),
        ("TO:<ädä@us.example>".encode(), "ädä", "us.example"),
    ],
)
def test_recipients(argument: bytes, local: str, domain: str) -> None:
    assert parse_rcpt(argument, True) == Recipient(Address(local, domain))


@pytest.mark.parametrize("local", ["|cmd", "/etc/x", ":include:/etc/passwd", "${run}", "%00", "a*b", "~root"])
def test_case_078_local_parts_that_look_like_programs_are_plain_names(local: str) -> None:
    assert parse_rcpt(f"TO:<{local}@us.example>".encode(), False).address.local == local


@pytest.mark.parametrize(
    "argument",
    [
        b'TO:<""@us.example>',
        b"TO:<>",
        b"TO:<@us.example>",
        b"TO:<ada@>",
        b"TO:<ada@-us.example>",
        b"TO:<ada@us..example>",
        b"TO:<.ada@us.example>",
        b"TO:<ada.@us.example>",
        b"TO:<a..b@us.example>",
        b"TO:<a b@us.example>",
        b"TO:<ada@[300.1.1.1]>",
        b"TO:<ada@[IPv6:::1%eth0]>",
        b"TO:<ada@[x]>",
        b'TO:<"ada@us.example>',
        b'TO:<"ada"x@us.example>',
        b"TO:<ada@us.example",
        b"TO:ada@us.example",
        b"TO:<ada@us.example>x",
        b"TO:<" + b"a" * 65 + b"@us.example>",
        b"TO:<ada@" + b"a." * 130 + b"example>",
        b"TO:<ada@" + b"a" * 64 + b".example>",
        b"TO:",
    ],
)
def test_case_076_bad_recipients(argument: bytes) -> None:
    assert rcpt_error(argument) == "501 5.1.3"


@pytest.mark.parametrize("argument", [b"TO:<a@b@us.example>", b"TO:<a!b>", b"TO:<ada>", b"TO:<@a.example:b>"])
def test_case_071_relay_in_disguise(argument: bytes) -> None:
    assert rcpt_error(argument) == "550 5.7.1"


@pytest.mark.parametrize(
    "argument",
    [
        b"FROM:<(x@legit.example>",
        b"FROM:<legit.example(a.attack.example>",
        b"FROM:<any@legit.example(.attack.example>",
        b"FROM:<any@legit.example'@attack.example>",
        b"FROM:<@legit.example,@any.example:x@attack.example>",
        b"FROM:<x@legit.example,y@attack.example>",
        b"FROM:<x@legit.example>y@attack.example",
        b"FROM:<postmaster>",
        b"FROM:x@legit.example",
    ],
)
def test_case_133_senders_that_read_two_ways(argument: bytes) -> None:
    assert mail_error(argument) == "501 5.1.7"


def test_mail_parameters() -> None:
    said = parse_mail(
        b"FROM:<a@x.example> SIZE=1000 BODY=8bitmime SMTPUTF8 RET=hdrs ENVID=QQ+2B314 AUTH=<>".replace(
            b"=<>", b"=+3C+3E"
        ),
        LIMIT,
    )
    assert said.size_octets == 1000
    assert said.envelope == Envelope(
        Address("a", "x.example"), smtputf8=True, body="8BITMIME", ret="HDRS", envid="QQ+314"
    )
    assert parse_mail(b"FROM:<>", LIMIT).envelope.reverse_path is None


@pytest.mark.parametrize(
    ("parameters", "error"),
    [
        (b"SIZE=x", "501 5.5.4"),
        (b"SIZE=-1", "501 5.5.4"),
        (b"SIZE", "501 5.5.4"),
        (b"SIZE=99999999999", "552 5.3.4"),
        (b"SIZE=1 SIZE=2", "501 5.5.4"),
        (b"BODY=BINARYMIME", "501 5.5.4"),
        (b"SMTPUTF8=1", "501 5.5.4"),
        (b"RET=ALL", "501 5.5.4"),
        (b"ENVID=", "501 5.5.4"),
        (b"ENVID=a+0D+0Ab", "501 5.5.4"),
        (b"ENVID=a+zz", "501 5.5.4"),
        (b"ENVID=" + b"x" * 1000, "501 5.5.4"),
        (b"X-UNKNOWN=1", "555 5.5.4"),
        (b"=", "501 5.5.4"),
    ],
)
def test_case_081_bad_mail_parameters(parameters: bytes, error: str) -> None:
    assert mail_error(b"FROM:<a@x.example> " + parameters) == error


@pytest.mark.parametrize(
    ("parameters", "error"),
    [
        (b"ORCPT=rfc822;a+0D+0Ab@x.example", "501 5.5.4"),
        (b"ORCPT=rfc822", "501 5.5.4"),
        (b"ORCPT=;x", "501 5.5.4"),
        (b"ORCPT=rfc822;" + b"x" * 600, "501 5.5.4"),
        (b"ORCPT=utf-8;\\x{0D}", "501 5.5.4"),
        (b"ORCPT=utf-8;\\x{FFFFFF}", "501 5.5.4"),
        (b"NOTIFY=NEVER,FAILURE", "501 5.5.4"),
        (b"NOTIFY=SOMETIMES", "501 5.5.4"),
        (b"NOTIFY", "501 5.5.4"),
        (b"SIZE=1", "555 5.5.4"),
    ],
)
def test_case_081_bad_rcpt_parameters(parameters: bytes, error: str) -> None:
    assert rcpt_error(b"TO:<a@x.example> " + parameters) == error


def test_dsn_parameters_of_rcpt() -> None:
    """RFC 3461 §4.1, §4.2."""
    said = parse_rcpt(b"TO:<a@x.example> NOTIFY=success,failure ORCPT=rfc822;Bob+40home@x.example", False)
    assert said == Recipient(Address("a", "x.example"), "rfc822;Bob@home@x.example", frozenset({"SUCCESS", "FAILURE"}))


@settings(max_examples=150, deadline=None)
@given(argument=st.binary(max_size=300) | st.text(max_size=80).map(str.encode))
def test_nothing_but_mistaken_is_raised(argument: bytes) -> None:
    for parse in (
        lambda octets: parse_rcpt(b"TO:" + octets, True),
        lambda octets: parse_mail(b"FROM:" + octets, LIMIT),
        parse_hello,
    ):
        try:
            parse(argument)
        except Mistaken as mistaken:
            assert 500 <= mistaken.reply.code <= 559


LOCAL = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=16)


@settings(max_examples=150, deadline=None)
@given(local=LOCAL)
def test_an_address_reads_as_it_was_written(local: str) -> None:
    address = Address(local, "us.example")
    path = f"<{address}>".encode()
    assert parse_rcpt(b"TO:" + path, True).address == address
    assert parse_mail(b"FROM:" + path + b" SMTPUTF8", LIMIT).envelope.reverse_path == address


@settings(max_examples=100, deadline=None)
@given(text=st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=1, max_size=30))
def test_xtext_reads_as_it_was_written(text: str) -> None:
    said = parse_mail(f"FROM:<> ENVID={encode_xtext(text)}".encode(), LIMIT)
    assert said.envelope.envid == text
    orcpt = parse_rcpt(f"TO:<a@x.example> ORCPT={encode_orcpt('rfc822;' + text)}".encode(), True).orcpt
    assert orcpt == f"rfc822;{text}"


@settings(max_examples=100, deadline=None)
@given(
    text=st.text(
        st.characters(exclude_categories=["Cs", "Cc", "Zs", "Zl", "Zp", "Cf", "Co", "Cn"]), min_size=1, max_size=20
    )
)
def test_international_orcpt_reads_as_it_was_written(text: str) -> None:
    """RFC 6533 §3."""
    orcpt = parse_rcpt(f"TO:<a@x.example> ORCPT={encode_orcpt('utf-8;' + text)}".encode(), True).orcpt
    assert orcpt == f"utf-8;{text}"
