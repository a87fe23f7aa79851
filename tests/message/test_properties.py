"""Whatever the octets are: no exception, offsets in order, wire forms that IMAP's grammar allows."""

from __future__ import annotations

import email
import email.policy
from email.message import EmailMessage

from hypothesis import example, given, settings
from hypothesis import strategies as st

from pillarbox.message.eight_bit import downgrade_to_7bit
from pillarbox.message.fields import parse_addresses, parse_message_ids
from pillarbox.message.headers import header_end
from pillarbox.message.limits import Limits
from pillarbox.message.scan import Kind, scan
from pillarbox.message.section import locate, parse_section, select_fields, select_fields_of_all
from pillarbox.message.structure import decoded_body, decoded_text, filenames
from pillarbox.message.text import plain_from_html, search_text
from pillarbox.message.wire import LISTED_FIELDS, wire_forms

from .samples import mail_like, parse_list

octets_of_any_kind = mail_like | st.binary(max_size=200)


@settings(max_examples=300, deadline=None)
@given(octets_of_any_kind)
def test_wire_forms_of_any_octets_are_lawful_imap(octets: bytes) -> None:
    forms = wire_forms(octets)
    (envelope,) = parse_list(forms.envelope)
    assert isinstance(envelope, list) and len(envelope) == 10
    assert len(parse_list(forms.body)) == 1
    assert len(parse_list(forms.bodystructure)) == 1
    assert len(forms.preview) <= 200
    assert not forms.headers or forms.headers.endswith(b"\r\n")
    assert "\n" not in forms.subject


@settings(max_examples=300, deadline=None)
@given(octets_of_any_kind)
def test_parts_lie_within_their_parents_and_in_order(octets: bytes) -> None:
    message = scan(octets)
    for index, part in enumerate(message.parts):
        assert 0 <= part.header_start <= part.body_start <= part.body_end <= len(octets)
        assert part.lines == octets.count(b"\n", part.body_start, part.body_end)
        if index:
            parent = message.parts[part.parent]
            assert part.parent < index and parent.kind is not Kind.LEAF
            assert parent.body_start <= part.header_start and part.body_end <= parent.body_end
    assert message.parts[0].body_end == len(octets)


@settings(max_examples=200, deadline=None)
@given(octets_of_any_kind)
def test_every_part_can_be_addressed(octets: bytes) -> None:
    message = scan(octets)
    parts = wire_forms(octets).parts
    for index, part in enumerate(message.parts[1:], 1):
        if message.parts[part.parent].kind is Kind.MESSAGE and part.kind is Kind.MULTIPART:
            continue  # an enclosed multipart is its message's TEXT; it has no number
        section = parse_section(message.section_number(index).encode())
        assert section is not None
        assert locate(section, parts, 7) == [(part.body_start + 7, part.body_end - part.body_start)]


@settings(max_examples=200, deadline=None)
@given(octets_of_any_kind)
def test_decoding_never_fails(octets: bytes) -> None:
    message = scan(octets)
    for part in message.parts:
        decoded_body(message, part)
        decoded_text(message, part)
        filenames(part)
    assert all(isinstance(piece, str) for piece in search_text(octets))
    select_fields(message.header_octets(), frozenset({b"from", b"to"}), False)
    select_fields(message.header_octets(), frozenset({b"from", b"to"}), True)
    smaller = downgrade_to_7bit(octets, break_signatures=True)
    assert smaller is None or smaller.isascii()


@settings(max_examples=300, deadline=None)
@given(octets_of_any_kind)
def test_single_values_never_fail(octets: bytes) -> None:
    parse_addresses(octets)
    parse_message_ids(octets)
    parse_section(octets)
    plain_from_html(octets.decode("latin-1"))


@settings(max_examples=150, deadline=None)
@given(octets_of_any_kind)
def test_small_limits_hold(octets: bytes) -> None:
    limits = Limits(header_octets=40, fields=2, field_octets=10, depth=2, parts=3)
    message = scan(octets, limits)
    assert len(message.parts) <= 3
    for part in message.parts:
        assert part.depth <= 2 and len(part.header.lines) <= 2


@settings(max_examples=200, deadline=None)
@given(octets_of_any_kind)
@example(b"CC")
def test_case_135_every_reader_sees_the_same_fields(octets: bytes) -> None:
    message = scan(octets)
    header = message.header_octets()
    assert header_end(octets) == len(header)
    names = message.root.header.names
    for name in set(names) - {b""}:
        chosen = select_fields(header, frozenset({name}), False)
        others = select_fields(header, frozenset({name}), True)
        assert scan(chosen).root.header.names == [name] * names.count(name)
        assert scan(others).root.header.names.count(name) == 0
    assert select_fields(forms := wire_forms(octets).headers, LISTED_FIELDS, False) == forms + b"\r\n"


def trees(depth: int = 3) -> st.SearchStrategy[EmailMessage]:
    """Lawful MIME trees, as the standard library writes them."""
    text = st.text(
        st.characters(codec="utf-8", exclude_characters="\r\0", exclude_categories=("Cs", "Cc")), max_size=60
    )

    def leaf(words: str) -> EmailMessage:
        message = EmailMessage()
        message.set_content(words)
        return message

    def container(children: list[EmailMessage]) -> EmailMessage:
        message = EmailMessage()
        message["Content-Type"] = "multipart/mixed"
        for child in children:
            message.attach(child)
        return message

    def enclosed(child: EmailMessage) -> EmailMessage:
        message = EmailMessage()
        message["Content-Type"] = "message/rfc822"
        message.set_payload([child])
        return message

    return st.recursive(
        text.map(leaf),
        lambda kids: st.lists(kids, min_size=1, max_size=3).map(container) | kids.map(enclosed),
        max_leaves=6,
    )


@settings(max_examples=60, deadline=None)
@given(trees())
def test_the_standard_library_sees_the_same_tree(tree: EmailMessage) -> None:
    octets = tree.as_bytes(policy=email.policy.SMTP)
    theirs = email.message_from_bytes(octets)
    message = scan(octets)
    expected = [(part.get_content_type(), part.get_payload(decode=True)) for part in theirs.walk()]
    assert [part.content_type.value.decode() for part in message.parts] == [kind for kind, _ in expected]
    for part, (_, payload) in zip(message.parts, expected, strict=True):
        if payload is not None:
            assert decoded_body(message, part) == payload


@given(
    st.lists(
        st.lists(
            st.tuples(
                st.sampled_from([b"From", b"TO", b"subject", b"Sender", b"Date ", b"Subject\r\n ", b"X-UID", b"F"]),
                st.sampled_from([b"", b" x", b" y\r\n z", b"\t\0", b" a\nb", b"\r\n From: no", b" To: \r no", b"\0\r"]),
            ),
            max_size=5,
        ),
        max_size=5,
    ),
    st.sets(st.sampled_from([b"from", b"to", b"subject", b"x-uid", b"date"]), min_size=1),
)
def test_fields_selected_of_many_headers_at_once(fields, names):
    headers = [b"".join(b"%b:%b\r\n" % field for field in header) for header in fields]
    assert select_fields_of_all(headers, frozenset(names)) == [
        select_fields(header, frozenset(names), False) for header in headers
    ]
