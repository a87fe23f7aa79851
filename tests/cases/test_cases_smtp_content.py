"""Content by DATA and BDAT, octet by octet, against a real server. Cases 41–50, 59, 64–67."""

from __future__ import annotations

import contextlib

import pytest

from .world import DOMAIN, SENDER, World, messages, until, wait_for

TEXT = b"From: carl@[192.0.2.1]\r\nSubject: one\r\n\r\nhello"
SECOND = b"MAIL FROM:<evil@[192.0.2.1]>\r\nRCPT TO:<bob@us.example>\r\nDATA\r\nSubject: two\r\n\r\nx\r\n.\r\n"
BARE = "550 5.5.2"
MARKS = {
    "case_041": (b"\n.\n", BARE),
    "case_042": (b"\r.\r", BARE),
    "case_043": (b"\r.\n", BARE),
    "case_044": (b"\n.\r", BARE),
    "case_045": (b"\n.\r\n", BARE),
    "case_046": (b"\r\n.\n", BARE),
    "case_047_cr": (b"\r.\r\n", BARE),
    "case_047_dot": (b"\r\n.\r", BARE),
    "case_048_before": (b"\r\n\0.\r\n", "554 5.6.0"),
    "case_048_after": (b"\r\n.\0\r\n", "554 5.6.0"),
}


@pytest.mark.parametrize("port", ["mx", "lmtp"])
@pytest.mark.parametrize("name", MARKS)
def test_false_ends_do_not_end_data(world: World, name: str, port: str) -> None:
    mark, answer = MARKS[name]
    with world.to_content(port) as line:
        line.send(TEXT + mark + SECOND)
        assert line.reply() == answer
        assert line.say("NOOP") == "250 2.0.0"  # nothing of it was taken for a command


def test_case_041_to_048_nothing_was_delivered_twice_or_at_all(world: World) -> None:
    world.deliver(TEXT, "bob")
    with world.imap(user="bob") as bob, world.imap(user="ada") as ada:
        assert (messages(bob), messages(ada)) == (1, 0)


def test_case_041_submission_refuses_bare_lines_too(world: World) -> None:
    with world.smtp("submission") as line:
        assert line.say("AUTH PLAIN AGFkYUB1cy5leGFtcGxlAGNvcnJlY3QgaG9yc2U=") == "235 2.7.0"
        line.say(f"MAIL FROM:<ada@{DOMAIN}>")
        line.say(f"RCPT TO:<bob@{DOMAIN}>")
        assert line.say("DATA") == "354"
        line.send(f"From: ada@{DOMAIN}\r\n\r\nx".encode() + b"\n.\n\r\n.\r\n")
        assert line.reply() == BARE


def test_case_050_the_end_comes_octet_by_octet(world: World) -> None:
    with world.imap(user="eve") as eve, world.to_content(user="eve") as line:
        for octet in TEXT + b"\r\n..\r\n.\r\n":
            line.send(bytes((octet,)))
        assert line.reply() == "250 2.0.0"
        wait_for(eve, 1)
        eve.imap("SELECT INBOX")
        assert "." in eve.imap("FETCH 1 BODY.PEEK[TEXT]")
        assert line.say("NOOP") == "250 2.0.0"


@pytest.mark.parametrize("content", [b"DATA\r\nSubject: x\r\n\r\nQUIT\r\n.\r\n", b"BDAT 6 LAST\r\nQUIT\r\n"])
def test_case_059_content_without_permission_is_never_read_as_commands(world: World, content: bytes) -> None:
    with world.smtp() as line:
        line.send(SENDER.encode() + b"\r\nRCPT TO:<nobody@us.example>\r\n" + content + b"NOOP\r\n")
        assert [line.reply() for _ in range(3)] == ["250 2.1.0", "550 5.1.1", "503 5.5.0"]
        assert line.rest() == ""


def test_case_063_a_size_too_large_is_refused_at_once(world: World) -> None:
    with world.smtp() as line:
        assert line.say(SENDER + " SIZE=99999999999") == "552 5.3.4"


def test_case_064_065_more_than_was_said_is_read_and_dropped_up_to_a_bound(world: World) -> None:
    piece = (b"a" * 76 + b"\r\n") * 10_000
    before = world.rss_kib()
    with world.smtp() as line:
        line.say(SENDER + " SIZE=100")
        line.say(f"RCPT TO:<ada@{DOMAIN}>")
        assert line.say("DATA") == "354"
        for _ in range(60 * 1024 * 1024 // len(piece)):
            line.send(piece)
        line.send(b".\r\n")
        assert line.reply() == "552 5.3.4"
        assert line.say("NOOP") == "250 2.0.0"
    with world.to_content() as line:
        with contextlib.suppress(ConnectionError):
            for _ in range(110 * 1024 * 1024 // len(piece)):
                line.send(piece)
        assert line.reply() in ("552 5.3.4", "")  # a reset may overtake it
        assert line.rest() == ""
    assert world.rss_kib() - before < 40_000
    with world.imap(user="ada") as reader:  # what was begun on disk goes when its last write is over
        until(lambda: messages(reader) == 0 and not list((world.home / "tmp").iterdir()))


@pytest.mark.parametrize("size", ["9223372036854775808", "-1", "+5", "0x10", "", "5LAST", "5 LAST LAST", "9" * 30])
def test_case_066_a_chunk_of_no_size(world: World, size: str) -> None:
    with world.smtp() as line:
        line.say(SENDER)
        line.say(f"RCPT TO:<ada@{DOMAIN}>")
        assert line.say(f"BDAT {size}") == "501 5.5.4"
        assert line.rest() == ""  # where the next command begins nobody knows


def test_case_066_chunks_out_of_order_or_too_large(world: World) -> None:
    with world.smtp() as line:
        line.say(SENDER)
        line.say(f"RCPT TO:<ada@{DOMAIN}>")
        line.send(b"BDAT 4\r\nX: y")
        assert line.reply() == "250 2.0.0"
        # the message is not whole: all but BDAT and RSET is out of order
        assert [line.say(c) for c in ("DATA", SENDER, f"RCPT TO:<ada@{DOMAIN}>")] == ["503 5.5.1"] * 3
        assert line.say("RSET") == "250 2.0.0"
        line.say(SENDER)
        line.say(f"RCPT TO:<ada@{DOMAIN}>")
        size = 52 * 1024 * 1024 + 1024 * 1024
        line.send(b"BDAT %d LAST\r\n" % size)
        for _ in range(53):
            line.send(bytes(1024 * 1024))
        assert line.reply() == "552 5.3.4"
        assert line.say("NOOP") == "250 2.0.0"
        line.say(SENDER)
        line.say(f"RCPT TO:<ada@{DOMAIN}>")
        assert line.say("BDAT 9223372036854775807 LAST") == "552 5.3.4"
        assert line.rest() == ""


def test_case_067_a_chunk_with_bare_lines(world: World) -> None:
    with world.smtp() as line:
        line.say(SENDER)
        line.say(f"RCPT TO:<ada@{DOMAIN}>")
        line.send(b"BDAT 16 LAST\r\nSubject: x\n\n\nyz\n"[: 14 + 16])
        assert line.reply() == BARE
        assert line.say("NOOP") == "250 2.0.0"
