"""Content in DATA and BDAT: one end marker, transparency, and what is refused. Cases 41–50, 64, 65, 67."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pillarbox.model.settings import Limits
from pillarbox.protocol.smtp.content import ContentReader, ContentWriter, Defect
from pillarbox.protocol.smtp.events import ContentEnd

from .play import Conversation, config_for, story

START = b"EHLO x\r\nMAIL FROM:<a@x.example>\r\nRCPT TO:<ada@us.example>\r\n"


def end_of(octets: bytes) -> ContentEnd:
    talk = Conversation()
    talk.say(START + b"DATA\r\n" + octets)
    ends = [event for event in talk.events if isinstance(event, ContentEnd)]
    assert len(ends) == 1
    return ends[0]


@pytest.mark.parametrize(
    ("case", "marker", "code", "status"),
    [
        (41, b"\n.\n", 550, "5.5.2"),
        (42, b"\r.\r", 550, "5.5.2"),
        (43, b"\r.\n", 550, "5.5.2"),
        (44, b"\n.\r", 550, "5.5.2"),
        (45, b"\n.\r\n", 550, "5.5.2"),
        (46, b"\r\n.\n", 550, "5.5.2"),
        (47, b"\r.\r\n", 550, "5.5.2"),
        (47, b"\r\n.\r", 550, "5.5.2"),
        (48, b"\r\n\0.\r\n", 554, "5.6.0"),
        (48, b"\r\n.\0\r\n", 554, "5.6.0"),
    ],
)
def test_case_041_to_048_only_crlf_dot_crlf_ends(case: int, marker: bytes, code: int, status: str) -> None:
    """RFC 5321 §4.1.1.4. What hides behind the false end is content; the verdict comes after the real one."""
    talk = Conversation()
    hidden = b"MAIL FROM:<evil@x.example>\r\nRCPT TO:<ada@us.example>\r\nDATA\r\nevil\r\n"
    answer = talk.say(START + b"DATA\r\nhello" + marker + hidden)
    assert answer.endswith(b"themselves\r\n") or answer.splitlines()[-1].startswith(b"354")
    assert talk.say(b".\r\nQUIT\r\n").split(b"\r\n")[0].startswith(f"{code} {status}".encode())
    assert talk.messages == []
    assert talk.smtp.is_over


@pytest.mark.parametrize("chunk", [b"a\nb\r\n", b"a\rb\r\n", b"a\n.\nb"])
def test_case_067_bdat_with_bare_line_breaks(chunk: bytes) -> None:
    talk = Conversation()
    answer = talk.say(START + b"BDAT %d LAST\r\n%s" % (len(chunk), chunk))
    assert answer.splitlines()[-1].startswith(b"550 5.5.2")


def test_a_crlf_cut_by_a_chunk_is_whole() -> None:
    talk = Conversation()
    answer = talk.say(START + b"BDAT 2\r\na\rBDAT 3 LAST\r\n\nb\n"[:-1] + b"\n")
    assert answer.splitlines()[-1].startswith(b"550 5.5.2")  # the last LF is bare, the first is not
    talk = Conversation()
    talk.say(START + b"BDAT 2\r\na\rBDAT 4 LAST\r\n\nb\r\n")
    assert talk.messages == [b"a\r\nb\r\n"]
    talk = Conversation()
    assert talk.say(START + b"BDAT 2\r\na\rBDAT 0 LAST\r\n").splitlines()[-1].startswith(b"550 5.5.2")


def test_case_050_the_end_marker_comes_octet_by_octet() -> None:
    talk = Conversation()
    for octet in START + b"DATA\r\n..a\r\n...\r\n.\r\n":
        talk.say(bytes([octet]))
    assert talk.messages == [b".a\r\n..\r\n"]


@pytest.mark.parametrize(
    ("wire", "message"),
    [
        (b".\r\n", b""),
        (b"\r\n.\r\n", b"\r\n"),
        (b"..\r\n.\r\n", b".\r\n"),
        (b".a\r\n.\r\n", b"a\r\n"),
        (b"a\r\n.b\r\n..c\r\n.\r\n", b"a\r\nb\r\n.c\r\n"),
        (b"a\r\n\r\n.\r\n", b"a\r\n\r\n"),
    ],
)
def test_transparency(wire: bytes, message: bytes) -> None:
    """RFC 5321 §4.5.2."""
    talk = Conversation()
    talk.say(START + b"DATA\r\n" + wire)
    assert talk.messages == [message]


def test_content_lines_may_have_64_kib_and_no_more() -> None:
    assert end_of(b"x" * 65536 + b"\r\n.\r\n").defects == Defect.NONE
    end = end_of(b"a\r\n" + b"x" * 65537 + b"\r\nb\r\n.\r\n")
    assert end.defects == Defect.LONG_LINE
    assert end.refusal is not None and end.refusal.encode().startswith(b"554 5.6.0")


@settings(max_examples=100, deadline=None)
@given(lines=st.lists(st.integers(0, 30), max_size=20), cuts=st.lists(st.integers(1, 40), max_size=30))
def test_line_lengths_are_measured_right_however_the_octets_are_cut(lines: list[int], cuts: list[int]) -> None:
    """The limit counts the octets of a line without its CRLF."""
    text = b"".join(b"x" * n + b"\r\n" for n in lines)
    reader = ContentReader(10_000, 20)
    buffer = bytearray()
    wire = text + b".\r\n"
    for cut in [*cuts, len(wire)]:
        buffer += wire[:cut]
        wire = wire[cut:]
        reader.take_data(buffer)
    assert (Defect.LONG_LINE in reader.defects) == any(n > 20 for n in lines)


def test_case_065_content_without_end_is_cut_off_at_twice_the_limit() -> None:
    talk = Conversation(config_for(limits=Limits(message_octets=10_000)))
    talk.say(START + b"DATA\r\n")
    answers = [talk.say(b"x" * 98 + b"\r\n") for _ in range(210)]
    assert [a for a in answers if a] == [b"552 5.3.4 message too big\r\n"]
    assert talk.smtp.is_over
    assert talk.smtp.buffered == 0


@settings(max_examples=150, deadline=None)
@given(pieces=st.lists(st.sampled_from([b".", b"\r\n", b"\r", b"\n", b"a", b"\0", b"..", b"\r\n.\r\n"]), max_size=30))
def test_case_049_what_is_written_is_read_as_one_message(pieces: list[bytes]) -> None:
    """Whatever a queued text holds, it goes out with CRLF and doubled dots, and a server sees one message."""
    text = b"".join(pieces)
    writer = ContentWriter(is_data=True)
    wire = b"".join(writer.write(piece) for piece in pieces) + writer.finish()
    assert wire == (whole := ContentWriter(is_data=True)).write(text) + whole.finish()
    talk = Conversation()
    talk.say(START + b"DATA\r\n" + wire + b"QUIT\r\n")
    end = next(event for event in talk.events if isinstance(event, ContentEnd))
    assert not end.defects & (Defect.BARE_CR | Defect.BARE_LF)
    assert talk.smtp.is_over
    if b"\0" not in text:
        assert len(talk.messages) == 1
        normal = text.replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\n", b"\r\n")
        assert talk.messages[0] == (normal if not normal or normal.endswith(b"\n") else normal + b"\r\n")


SCRIPT = st.lists(
    st.sampled_from(
        [
            b"EHLO x\r\n",
            b"HELO y\r\n",
            b"MAIL FROM:<a@x.example>\r\n",
            b"MAIL FROM:<> SMTPUTF8\r\n",
            b"RCPT TO:<ada@us.example>\r\n",
            b"RCPT TO:<nobody@us.example>\r\n",
            b"BDAT 7\r\nab\r\n.\r\n",
            b"BDAT 3 LAST\r\nx\r\n",
            b"BDAT 2 LAST\r\na\n",
            b"BDAT x\r\n",
            b"RSET\r\n",
            b"NOOP\r\n",
            b"VRFY x\r\n",
            b"\xff\r\n",
            b"\n",
            b"AUTH PLAIN AGFkYQBzM2NyZXQ=\r\n",
            b"AUTH PLAIN\r\n",
            b"*\r\n",
            b"AUTH SCRAM-SHA-256 biwsbj1hZGEscj1hYmM=\r\n",
            b"x" * 3000 + b"\r\n",
            b"QUIT\r\n",
        ]
    ),
    max_size=12,
)
MESSAGE = st.lists(st.sampled_from([b"a\r\n", b"..\r\n", b".\r", b"\n", b"\r", b"b\0", b"."]), max_size=10).map(
    b"".join
)


@settings(max_examples=150, deadline=None)
@given(before=SCRIPT, message=MESSAGE, after=SCRIPT, cuts=st.lists(st.integers(1, 60), max_size=60), mode=st.booleans())
def test_the_story_is_the_same_however_the_octets_are_cut(
    before: list[bytes], message: bytes, after: list[bytes], cuts: list[int], mode: bool
) -> None:
    data = [*START.splitlines(True), b"DATA\r\n" + message + b"\r\n.\r\n"]
    config = config_for("lmtp" if mode else "submission")
    octets = b"".join([*before, *data, *after])
    pieces = []
    for cut in cuts:
        pieces.append(octets[:cut])
        octets = octets[cut:]
    pieces.append(octets)
    whole = b"".join(pieces)
    first = story([whole], config, True)
    if b"503 5.5.0" in first[1] or b"503 5.5.1" in first[1]:
        return  # DATA out of order: what follows depends on what has arrived (case 59)
    assert story(pieces, config, True) == first
