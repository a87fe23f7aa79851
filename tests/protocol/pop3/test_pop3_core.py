"""The core of POP3: transcripts, limits, and that nothing depends on how octets are cut, or raises."""

from __future__ import annotations

import base64
import itertools
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pillarbox.protocol.pop3.content import Stuffer, Top, stuffed, top
from pillarbox.protocol.pop3.events import ScramDone
from pillarbox.protocol.sasl import ScramClient
from pop3.play import MESSAGES, PASSWORD, USER, Desk, perform

TRANSCRIPTS = sorted((Path(__file__).parents[2] / "transcripts" / "pop3").glob("*.txt"))
LOGIN = f"USER {USER}\r\nPASS {PASSWORD}\r\n".encode()


@pytest.mark.parametrize("path", TRANSCRIPTS, ids=lambda path: path.stem)
def test_transcript(path: Path) -> None:
    perform(path)


@pytest.mark.parametrize("password", [PASSWORD, "wrong"])
def test_scram(password: str) -> None:  # RFC 7677, framed as in RFC 5034 §4
    desk, client = Desk(said=b""), ScramClient(USER, password, "clientNONCE")
    desk.said = b""
    desk.receive(b"AUTH SCRAM-SHA-256 " + base64.b64encode(client.begin() or b"") + b"\r\n")
    while desk.said.startswith(b"+ "):
        challenge, desk.said = base64.b64decode(desk.said[2:]), b""
        desk.receive(base64.b64encode(client.receive(challenge)) + b"\r\n")
    assert desk.said.startswith(b"+OK 3" if password == PASSWORD else b"-ERR [AUTH]")
    assert ScramDone(USER, password == PASSWORD) in desk.asked


def test_case_061_a_line_without_end_is_not_kept() -> None:
    desk = Desk()
    desk.said = b""
    for _ in range(500):
        desk.receive(b"x" * 1000)
        assert desk.core.buffered <= 1000
    assert desk.said == b"-ERR line too long\r\n"
    desk.receive(b"\r\nCAPA\r\n")
    assert desk.said.count(b"\r\n.\r\n") == 1 and not desk.closed
    desk.receive(b"y" * 256)
    assert desk.closed


def test_lines_of_255_octets_and_auth_lines_of_12288() -> None:
    desk = Desk()
    desk.said = b""
    desk.receive(b"USER " + b"u" * 248 + b"\r\n")  # 255 with its end
    assert desk.said == b"+OK\r\n"
    desk.receive(b"USER " + b"u" * 249 + b"\r\n")
    assert desk.said.endswith(b"-ERR line too long\r\n")
    response = base64.b64encode(b"\0" + b"u" * 500 + b"\0" + b"p" * 900)
    desk.receive(b"AUTH PLAIN " + response + b"\r\n")
    assert desk.said.endswith(b"[AUTH] authentication failed\r\n")
    desk.receive(b"AUTH PLAIN\r\n" + b"A" * 12_287)
    assert not desk.closed
    desk.receive(b"A")
    assert desk.closed


def test_case_185_long_passwords_are_never_asked_about() -> None:
    desk = Desk()
    desk.receive(b"AUTH PLAIN " + base64.b64encode(b"\0ada\0" + b"p" * 1025) + b"\r\n")
    desk.receive(b"AUTH PLAIN " + base64.b64encode(b"\0ad\xff\0pw") + b"\r\n")
    desk.receive(b"USER \xff\r\n")
    assert desk.asked == []


def test_case_052_what_is_slipped_in_after_stls_is_never_obeyed() -> None:
    desk = Desk()
    desk.receive(b"STLS\r\nNOOP\r\n")
    assert desk.closed and desk.said.endswith(b"-ERR octets after STLS\r\n")
    desk = Desk()
    desk.receive(b"STLS\r\n")
    desk.receive(b"USER x\r\n")  # deaf
    desk.core.secured()
    desk.receive(b"")
    assert desk.said.endswith(b"+OK begin TLS\r\n")


def test_messages_asked_for_next_are_known() -> None:
    desk = Desk()
    desk.receive(LOGIN)
    desk.core.receive(b"RETR 3\r\ntop 1 0\r\nRETR 9\r\nRETR 2\nNOOP\r\nRETR 1\r\n")
    assert desk.core.upcoming(9) == [2, 0, 1]
    assert desk.core.upcoming(1) == [2]


def test_case_193_ten_thousand_lines_at_once() -> None:
    desk = Desk()
    desk.receive(LOGIN)
    desk.said = b""
    desk.receive(b"NOOP\r\n" * 10_000)
    assert desk.said == b"+OK\r\n" * 10_000 and desk.core.buffered == 0


COMMANDS = st.sampled_from(
    [
        b"STAT",
        b"LIST",
        b"LIST 2",
        b"UIDL",
        b"UIDL 1",
        b"RETR 1",
        b"RETR 2",
        b"TOP 2 1",
        b"TOP 1 0",
        b"DELE 1",
        b"DELE 3",
    ]
    + [b"RSET", b"NOOP", b"QUIT", b"CAPA", b"LANG", b"LANG *", b"UTF8", b"AUTH", b"AUTH PLAIN", b"*", b"", b"x" * 300]
    + [
        LOGIN.strip(),
        b"AUTH PLAIN AGFkYUBwaWxsYXJib3gudGVzdABzZWNyZXQgd29yZA==",
        b"AUTH SCRAM-SHA-256 biwsbj1hLHI9Yg==",
    ]
)
SESSIONS = st.lists(COMMANDS | st.binary(max_size=20), max_size=12).map(lambda lines: b"\r\n".join([*lines, b""]))


def story(pieces: list[bytes]) -> tuple[bytes, list[object], dict[int, bytes]]:
    desk = Desk()
    for piece in pieces:
        desk.receive(piece)
    return desk.said, desk.asked, desk.messages


def cut(octets: bytes, cuts: list[int]) -> list[bytes]:
    places = [0, *sorted(c % (len(octets) + 1) for c in cuts), len(octets)]
    return [octets[a:b] for a, b in itertools.pairwise(places)]


@settings(max_examples=300, deadline=None)
@given(SESSIONS, st.lists(st.integers(0, 9999), max_size=20), st.booleans())
def test_the_story_is_the_same_however_the_octets_are_cut(octets: bytes, cuts: list[int], in_login: bool) -> None:
    octets = LOGIN + octets if in_login else octets
    assert story(cut(octets, cuts)) == story([octets])
    assert story([octets[i : i + 1] for i in range(len(octets))]) == story([octets])


@given(st.lists(st.binary(max_size=400), max_size=5))
def test_nothing_raises(pieces: list[bytes]) -> None:
    story(pieces)


def unstuffed(wire: bytes) -> bytes:
    """As a client does it (RFC 1939 §3), reading lines to the LF."""
    lines = wire.split(b"\n")
    assert lines[-2:] == [b".\r", b""]
    assert b".\r" not in lines[:-2]
    return b"\n".join([line[1:] if line.startswith(b".") else line for line in lines[:-2]] + [b""])


LINES = st.lists(st.sampled_from([b".", b"..", b"a", b"\r\n", b"\n", b"\r", b".\r\n", b"\r\n.\r\n"])).map(b"".join)


@given(LINES)
def test_a_client_gets_the_message_and_nothing_in_it_ends_it(octets: bytes) -> None:
    expected = octets if octets.endswith(b"\r\n") or not octets else octets + b"\r\n"
    assert unstuffed(stuffed(octets)) == expected


@given(LINES, st.lists(st.integers(0, 99)), st.integers(0, 5))
def test_pieces_are_as_the_whole(octets: bytes, cuts: list[int], lines: int) -> None:
    stuffer, cutter = Stuffer(), Top(lines)
    assert b"".join([stuffer.feed(p) for p in cut(octets, cuts)] + [stuffer.finish()]) == stuffed(octets)
    assert b"".join(cutter.feed(p) for p in cut(octets, cuts)) == top(octets, lines)


@pytest.mark.parametrize(
    ("octets", "lines", "expected"),
    [
        (MESSAGES[15], 0, b"Subject: two\r\n\r\n"),
        (MESSAGES[15], 2, b"Subject: two\r\n\r\n1\r\n2\r\n"),
        (MESSAGES[15], 99, MESSAGES[15]),
        (b"\r\nbody\r\nmore", 1, b"\r\nbody\r\n"),
        (b"A: b\n\nx\ny\n", 1, b"A: b\n\nx\n"),
        (b"no body", 3, b"no body"),
        (b"", 0, b""),
    ],
)
def test_top(octets: bytes, lines: int, expected: bytes) -> None:
    assert top(octets, lines) == expected
