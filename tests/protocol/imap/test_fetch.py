"""FETCH answers out of columns. Source: RFC 3501 §6.4.5, §7.4.2."""

from array import array
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pillarbox.message.wire import wire_forms
from pillarbox.model.mailbox import Placements
from pillarbox.model.settings import Limits
from pillarbox.protocol.imap.columns import number_texts
from pillarbox.protocol.imap.commands import Request
from pillarbox.protocol.imap.fetch import RECENT, FetchItem, FetchPlan, FlagTexts, Read
from pillarbox.protocol.imap.grammar import When
from pillarbox.protocol.imap.server import ImapServer, Mistake

PREFIX = b"Delivered-To: ada@a.test\r\n"
MESSAGE = b"From: a@b.test\r\nSubject: 100% %d\r\nX-Odd: x\r\n\r\nHello.\r\n"
WHOLE = PREFIX + MESSAGE
FORMS = wire_forms(MESSAGE)
ROWS = Placements(
    array("I", [7, 9]),
    array("Q", [70, 90]),
    array("Q", [0, 1]),
    array("Q", [5, 6]),
    array("q", [0, 837596665]),
    array("Q", [len(WHOLE)] * 2),
)


def items(text):
    core = ImapServer(Limits())
    core.state = When.SELECTED
    core.receive(b"a FETCH 1 " + text + b"\r\n")
    return core.next_event().command.items


def form(plan, in_row=True):
    values = {
        "envelope": FORMS.envelope,
        "body": FORMS.body,
        "bodystructure": FORMS.bodystructure,
        "headers": FORMS.headers,
        "field_codes": FORMS.field_codes,
        "parts": FORMS.parts,
        "prefix": PREFIX,
        "data": MESSAGE if in_row else None,
    }
    return tuple(values[column] for column in plan.columns)


def answer(text, uid=False, in_row=True, read_only=False):
    plan = FetchPlan(items(text), uid, read_only)
    texts = [b"\\Seen", b"\\Seen"] if plan.needs_flags else []
    if not plan.needs_octets:
        return b"".join(plan.format_rows(range(1, 3), ROWS, texts, [[value] * 2 for value in form(plan)]))
    told = b""
    for index in range(2):
        text_of = texts[index] if texts else b""
        for piece in plan.message_pieces(index + 1, ROWS, index, text_of, form(plan, in_row)):
            if isinstance(piece, Read):
                octets = WHOLE[piece.offset : piece.offset + piece.length]
                told += piece.finish(octets) if piece.finish else octets
            else:
                told += piece
    return told


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"UID", b"* 1 FETCH (UID 7)\r\n* 2 FETCH (UID 9)\r\n"),
        (
            b"INTERNALDATE",
            b'* 1 FETCH (INTERNALDATE " 1-Jan-1970 00:00:00 +0000")\r\n'
            b'* 2 FETCH (INTERNALDATE "17-Jul-1996 09:44:25 +0000")\r\n',
        ),
        (b"RFC822.SIZE", b"* 1 FETCH (RFC822.SIZE %d)\r\n* 2 FETCH (RFC822.SIZE %d)\r\n" % (len(WHOLE), len(WHOLE))),
    ],
)
def test_rows(text, expected):
    assert answer(text) == expected


def test_percent_signs_are_text():
    assert answer(b"BODY.PEEK[HEADER.FIELDS (Subject)]").count(b"Subject: 100% %d\r\n\r\n") == 2
    assert answer(b"BODY.PEEK[HEADER.FIELDS (%d)]").count(b"BODY[HEADER.FIELDS (%d)] {2}\r\n\r\n") == 2


def test_lines_that_we_added_are_header_fields():
    assert answer(b"BODY.PEEK[HEADER.FIELDS (Delivered-To From)]").count(PREFIX + b"From: a@b.test\r\n\r\n") == 2
    assert not FetchPlan(items(b"BODY.PEEK[HEADER.FIELDS (Delivered-To)]"), False).needs_octets
    assert FetchPlan(items(b"BODY.PEEK[HEADER.FIELDS (Received)]"), False).needs_octets


def test_what_marks_seen():
    assert FetchPlan(items(b"BODY[]"), False).marks_seen
    assert FetchPlan(items(b"RFC822.TEXT"), False).marks_seen
    assert not FetchPlan(items(b"RFC822.HEADER"), False).marks_seen
    assert not FetchPlan(items(b"BODY.PEEK[]"), False).marks_seen
    assert not FetchPlan(items(b"BODY[]"), False, read_only=True).marks_seen


SECTIONS = [b"", b"HEADER", b"TEXT", b"1", b"1.MIME", b"2", b"HEADER.FIELDS (X-Odd)", b"HEADER.FIELDS.NOT (X-Odd From)"]


@given(st.sampled_from(SECTIONS), st.none() | st.tuples(st.integers(0, 100), st.integers(1, 100)))
def test_octets_in_the_row_and_on_disk_give_the_same_answer(section, partial):
    text = b"BODY.PEEK[%b]" % section + (b"<%d.%d>" % partial if partial else b"")
    assert answer(text) == answer(text, in_row=False)


@given(st.sampled_from(SECTIONS), st.integers(0, 200), st.integers(1, 200))
def test_a_partial_is_a_piece_of_the_whole(section, offset, length):
    def octets(text):
        told = answer(b"(" + text + b")")
        mark = told.find(b"} ") if b" NIL" in told else told.find(b"}\r\n")
        if mark < 0:
            return None
        size = int(told[told.rfind(b"{", 0, mark) + 1 : mark])
        return told[mark + 3 : mark + 3 + size]

    whole = octets(b"BODY.PEEK[%b]" % section)
    piece = octets(b"BODY.PEEK[%b]<%d.%d>" % (section, offset, length))
    assert piece == (None if whole is None else whole[offset : offset + length])


def test_flag_texts():
    texts = FlagTexts(["work", "$Label"])
    assert texts[0] == b""
    assert texts[1 | 8 | 32 | 64 | RECENT] == b"\\Seen \\Deleted work $Label \\Recent"
    assert texts[1 << 40] == b""


def test_items_of_macros_and_labels():
    assert [i.label for i in items(b"FULL")] == [b"FLAGS", b"INTERNALDATE", b"RFC822.SIZE", b"ENVELOPE", b"BODY"]
    assert items(b"(flags FLAGS)") == (FetchItem(b"FLAGS"),)
    assert items(b"body[header.fields (Subject)]<3.4>")[0].label == b"BODY[HEADER.FIELDS (Subject)]<3>"


@pytest.mark.parametrize(
    "numbers",
    [range(0), range(1, 2), range(1, 2501), range(999, 1002), range(49_999, 52_000), [1, 3, 2], [1, 2, 4], [2, 2, 4]],
)
def test_numbers_as_text(numbers: Sequence[int]) -> None:
    assert number_texts(numbers) == [str(number).encode() for number in numbers]
    assert number_texts(array("I", numbers)) == [str(number).encode() for number in numbers]


def test_fields_that_we_added_are_told_once():
    plan = FetchPlan(items(b"BODY.PEEK[HEADER.FIELDS (DELIVERED-TO DATE)]"), False)
    date = b"Date: Fri, 15 Jan 2027 08:00:00 +0000\r\n"
    forms = wire_forms(MESSAGE, PREFIX + date)
    values = {"headers": forms.headers, "field_codes": forms.field_codes, "prefix": PREFIX + date}
    told = b"".join(plan.format_rows(range(1, 3), ROWS, [], [[values[column]] * 2 for column in plan.columns]))
    assert told.count(PREFIX + date + b"\r\n") == 2 and told.count(date) == 2


@pytest.mark.parametrize(
    "asked",
    [
        b" ".join(b"BODY.PEEK[]<%d.100000>" % n for n in range(11)),
        b"RFC822 BODY[] BODY.PEEK[] " + b" ".join(b"BODY[TEXT]<%d.9>" % n for n in range(8)),
        b" ".join(b"BODY[%b]" % b".".join([b"1"] * n) for n in range(11)),
        b" ".join(b"BODY.PEEK[HEADER.FIELDS (X-%d)]" % n for n in range(11)),
        b" ".join(b"BODY.PEEK[%d]<0.9>" % n for n in range(1, 10)) + b" BODY[9.HEADER]"
        + b" " + b" ".join(b"BODY[9]<%d.9>" % n for n in range(9)),
    ],
)  # fmt: skip
def test_the_same_octets_are_not_asked_for_again_and_again(asked: bytes) -> None:
    core = ImapServer(Limits())
    core.state = When.SELECTED
    core.receive(b"a FETCH 1 (%b)\r\n" % asked)
    mistake = core.next_event()
    assert isinstance(mistake, Mistake)
    assert mistake.octets == b"a BAD The same octets are asked for more than 10 times.\r\n"
    core.receive(b"a FETCH 1 (%b)\r\n" % asked.rpartition(b" BODY")[0])
    assert isinstance(core.next_event(), Request)


def test_many_parts_with_their_headers_may_be_asked_for() -> None:
    parts = b" ".join(b"BODY.PEEK[2.%d.MIME] BODY.PEEK[2.%d]" % (n, n) for n in range(1, 90))
    assert len(items(b"(UID BODY.PEEK[HEADER] BODY.PEEK[1.MIME] BODY.PEEK[1] BODY.PEEK[2.MIME] " + parts + b")")) == 183


def test_a_long_answer_for_one_message_comes_in_pieces() -> None:
    whole = b"Subject: long\r\n\r\n" + b"x" * 100_000
    forms = wire_forms(whole)
    plan = FetchPlan(items(b"(UID BODY.PEEK[] BODY.PEEK[TEXT] BODY.PEEK[HEADER] BODY.PEEK[]<3.99999> FLAGS)"), False)
    values = {"prefix": b"", "parts": forms.parts, "data": whole}
    form = tuple(values[column] for column in plan.columns)
    pieces = list(plan.message_pieces(1, ROWS, 0, b"", form))
    assert max(map(len, pieces)) < 110_000
    text = whole[17:]
    assert b"".join(pieces) == (
        b"* 1 FETCH (UID 7 BODY[] {100017}\r\n%b BODY[TEXT] {100000}\r\n%b BODY[HEADER] {17}\r\n%b"
        b" BODY[]<3> {99999}\r\n%b FLAGS ())\r\n" % (whole, text, whole[:17], whole[3:100_002])
    )
