"""Address lists and message ids. RFC 5322 §3.4, §3.6.4, §4.4, and what else is found in mail (cases 126, 127)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pillarbox.message.defects import Defect
from pillarbox.message.fields import GROUP_END, Mailbox, parse_addresses, parse_message_ids


def box(local: bytes, domain: bytes, name: bytes | None = None, route: bytes | None = None) -> Mailbox:
    return Mailbox(name, route, local, domain)


LAWFUL = {
    b"ada@x.example": [box(b"ada", b"x.example")],
    b"Ada Lovelace <ada@x.example>": [box(b"ada", b"x.example", b"Ada Lovelace")],
    b'"Lovelace, Ada" <ada@x.example>': [box(b"ada", b"x.example", b"Lovelace, Ada")],
    b'"a \\"b\\" \\\\" <ada@x.example>': [box(b"ada", b"x.example", b'a "b" \\')],
    b"J. R. Hacker <j@x.example>": [box(b"j", b"x.example", b"J. R. Hacker")],
    b"<ada@x.example>": [box(b"ada", b"x.example")],
    b"a@x, b@y ,c@z": [box(b"a", b"x"), box(b"b", b"y"), box(b"c", b"z")],
    b"a@x,,b@y,": [box(b"a", b"x"), box(b"b", b"y")],
    b"ada@x.example (Ada (the Countess) L\\))": [box(b"ada", b"x.example", b"Ada (the Countess) L)")],
    b'"quoted local"@x.example': [box(b"quoted local", b"x.example")],
    b'Ada <"a@b"@x.example>': [box(b"a@b", b"x.example", b"Ada")],
    b"<@a.example,@b.example:ada@x.example>": [box(b"ada", b"x.example", None, b"@a.example,@b.example")],
    b"ada . l @ x . example": [box(b"ada.l", b"x.example")],
    b"ada@[127.0.0.1]": [box(b"ada", b"[127.0.0.1]")],
    b"=?utf-8?q?=C3=84da?= <ada@x>": [box(b"ada", b"x", b"=?utf-8?q?=C3=84da?=")],
    b"Team: a@x, B <b@y>;": [Mailbox(None, None, b"Team", None), box(b"a", b"x"), box(b"b", b"y", b"B"), GROUP_END],
    b"undisclosed-recipients:;": [Mailbox(None, None, b"undisclosed-recipients", None), GROUP_END],
    b"G: a@x;, c@z": [Mailbox(None, None, b"G", None), box(b"a", b"x"), GROUP_END, box(b"c", b"z")],
    "Jürgen <jürgen@groß.example>".encode(): [
        box("jürgen".encode(), "groß.example".encode(), "Jürgen".encode()),
    ],
    b"": [],
    b"  ": [],
    b"<>": [],
}


@pytest.mark.parametrize("value", LAWFUL)
def test_lawful_lists(value: bytes) -> None:
    assert list(parse_addresses(value).entries) == LAWFUL[value]


AMBIGUOUS = {
    b"<a@legit.example>b": [box(b"a", b"legit.example")],
    b"b,<a@legit.example>": [box(b"b", b""), box(b"a", b"legit.example")],
    b"<a@legit.example><b@attack.example>": [box(b"a", b"legit.example"), box(b"b", b"attack.example")],
    b"Name <a@legit.example> <b@attack.example>": [
        box(b"a", b"legit.example", b"Name"),
        box(b"b", b"attack.example"),
    ],
    b"a@legit.example@attack.example": [box(b"a@legit.example", b"attack.example")],
    b"<a@legit.example@attack.example>": [box(b"a@legit.example", b"attack.example")],
    b"a@legit.example b@attack.example": [box(b"a@legit.exampleb", b"attack.example")],
    b"two words@legit.example": [box(b"twowords", b"legit.example")],
    b"<two words@legit.example>": [box(b"twowords", b"legit.example")],
    b'a@legit.example "open': [box(b"a", b"legit.exampleopen")],
    b"ada": [box(b"ada", b"")],
    b"Ada Lovelace": [box(b"", b"", b"Ada Lovelace")],
    b'"open <a@legit.example>': [box(b"", b"", b"open <a@legit.example>")],
    b"Ada <a@legit.example": [box(b"a", b"legit.example", b"Ada")],
    b"a@legit.example (open": [box(b"a", b"legit.example", b"open")],
    b"Ada <>": [box(b"", b"", b"Ada")],
}


@pytest.mark.parametrize("value", AMBIGUOUS)
def test_case_127_what_is_ambiguous_is_flagged(value: bytes) -> None:
    found = parse_addresses(value)
    assert list(found.entries) == AMBIGUOUS[value]
    assert Defect.BAD_ADDRESS in found.defects


def test_case_127_quoting_and_comments_hide_nothing() -> None:
    (only,) = parse_addresses(b'"a@legit.example, b" (<x@y>) <real@attack.example>').entries
    assert only.addr_spec == "real@attack.example"
    assert only.display_name == "a@legit.example, b"


def test_case_127_encoded_words_are_never_addresses() -> None:
    (only,) = parse_addresses(b"=?utf-8?q?=3Cada=40legit=2Eexample=3E?= <x@attack.example>").entries
    assert (only.display_name, only.addr_spec) == ("<ada@legit.example>", "x@attack.example")


def test_case_126_all_authors_are_seen() -> None:
    found = parse_addresses(b"a@x.example, B <b@y.example>")
    assert [mailbox.addr_spec for mailbox in found.mailboxes] == ["a@x.example", "b@y.example"]


def test_addr_spec_is_quoted_where_it_must_be() -> None:
    assert box(b'a "b', b"x.example").addr_spec == '"a \\"b"@x.example'
    assert GROUP_END.addr_spec == ""


atoms = st.lists(st.text("abcxyz019", min_size=1, max_size=8), min_size=1, max_size=3).map(
    lambda x: ".".join(x).encode()
)
names = st.none() | st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=12).map(
    lambda text: text.strip().encode() or None
)


@given(st.lists(st.tuples(names, atoms, atoms), max_size=5))
def test_what_is_written_is_read(mailboxes: list[tuple[bytes | None, bytes, bytes]]) -> None:
    pieces = []
    for name, local, domain in mailboxes:
        quoted = b"" if name is None else b'"' + name.replace(b"\\", b"\\\\").replace(b'"', b'\\"') + b'" '
        pieces.append(b"%b<%b@%b>" % (quoted, local, domain))
    found = parse_addresses(b", ".join(pieces))
    assert list(found.entries) == [box(local, domain, name) for name, local, domain in mailboxes]
    assert not found.defects


@pytest.mark.parametrize(
    ("value", "ids"),
    [
        (b"<a@b>", ["a@b"]),
        (b"<a@b> <c@d>\t<e@f>", ["a@b", "c@d", "e@f"]),
        (b"Your message of today <a@b> (comment)", ["a@b"]),
        (b"<a @b>", ["a@b"]),
        (b"a@b", ["a@b"]),
        (b"no id here", []),
        (b"<>", []),
        ("<grüße@x>".encode(), ["grüße@x"]),
    ],
)
def test_message_ids(value: bytes, ids: list[str]) -> None:
    assert parse_message_ids(value) == ids


def test_the_last_thousand_references_are_kept() -> None:
    ids = parse_message_ids(b" ".join(b"<%d@x>" % i for i in range(1500)))
    assert (len(ids), ids[-1]) == (1000, "1499@x")
