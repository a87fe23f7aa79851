"""What transcripts cannot show of the server core: what is counted, bounded memory, early talkers. Cases 51–69, 83."""

from __future__ import annotations

import base64

import pytest

from pillarbox.model.settings import Limits
from pillarbox.protocol.sasl import ScramClient
from pillarbox.protocol.smtp.events import Mail
from pillarbox.protocol.smtp.rules import SmtpConfig
from pillarbox.protocol.smtp.server import SmtpServer

from .play import Conversation, config_for


def test_case_058_who_speaks_before_the_greeting() -> None:
    smtp = SmtpServer(SmtpConfig("mail.us.example"), str)
    smtp.receive(b"EHLO x\r\n")
    assert smtp.next_event() is None
    assert smtp.greet().startswith(b"554 5.5.0")
    assert smtp.is_over


def test_case_061_a_line_without_end_is_bounded() -> None:
    talk = Conversation()
    said = b""
    for _ in range(500):
        said += talk.say(b"x" * 1000)
        assert talk.smtp.buffered <= 4096
    assert said == b"500 5.5.2 line too long\r\n"
    assert talk.smtp.is_over


def test_a_long_line_is_forgiven_once() -> None:
    talk = Conversation()
    assert talk.say(b"x" * 3000 + b"\r\nNOOP\r\n") == b"500 5.5.2 line too long\r\n250 2.0.0 OK\r\n"
    assert talk.say(b"x" * 3000 + b"\r\nNOOP\r\n") == b"500 5.5.2 line too long\r\n"
    assert talk.smtp.is_over


@pytest.mark.parametrize(
    ("octets", "code"),
    [
        (b"MAIL FROM:<a@x.example> ENVID=" + b"x" * 10_000, b"501 5.5.4"),  # case 81
        (b"AUTH PLAIN " + b"A" * 13_000, b"500 5.5.6"),  # case 56
        (b"AUTH PLAIN\r\n" + b"A" * 13_000, b"500 5.5.6"),
    ],
)
def test_long_lines_by_kind(octets: bytes, code: bytes) -> None:
    talk = Conversation(config_for("submission"), is_secure=True)
    talk.lines("EHLO x")
    assert talk.say(octets + b"\r\n").splitlines()[-1].startswith(code)
    assert talk.lines("NOOP").startswith(b"250")


def test_case_056_an_auth_line_of_12_kib_is_read() -> None:
    talk = Conversation(config_for("submission"), is_secure=True)
    talk.lines("EHLO x")
    assert talk.lines("AUTH PLAIN " + "A" * 12_000).startswith(b"501 5.5.2")


def test_case_057_logins_that_are_never_finished_leave_nothing() -> None:
    talk = Conversation(config_for("submission", Limits(errors_close=10**6)), is_secure=True)
    talk.lines("EHLO x")
    for _ in range(1000):
        talk.lines("AUTH LOGIN", "*")
    assert talk.smtp.buffered == 0
    assert talk.lines("AUTH PLAIN AGFkYQBzM2NyZXQ=").startswith(b"235")


def test_scram_over_smtp() -> None:
    """RFC 5802 §5 in the frame of RFC 4954 §4."""
    for name, password, end in (("ada", "s3cret", b"235"), ("ada", "wrong", b"535"), ("eve", "s3cret", b"535")):
        talk = Conversation(config_for("submission"), is_secure=True)
        talk.lines("EHLO x")
        client = ScramClient(name, password, "clientnonce")
        said = talk.lines("AUTH SCRAM-SHA-256 " + base64.b64encode(client.begin() or b"").decode())
        while said.startswith(b"334"):
            said = talk.say(base64.b64encode(client.receive(base64.b64decode(said[4:]))) + b"\r\n")
        assert said.startswith(end)
        assert client.is_satisfied() == (end == b"235")


def test_case_069_errors_are_counted() -> None:
    talk = Conversation()
    talk.lines("EHLO x", "MAIL FROM:<a@x.example>")
    for n in range(1, 20):
        assert talk.lines("RCPT TO:<nobody@us.example>").startswith(b"550 5.1.1")
        assert talk.smtp.is_slow == (n >= 10)
    assert talk.lines("RCPT TO:<nobody@us.example>") == b"421 4.7.0 too many errors, closing\r\n"
    assert talk.smtp.is_over
    trusted = Conversation(is_trusted=True)
    trusted.lines("EHLO x", "MAIL FROM:<a@x.example>")
    assert trusted.lines(*["RCPT TO:<nobody@us.example>"] * 100).count(b"550 5.1.1") == 100
    assert not trusted.smtp.is_slow


def test_under_stress_there_is_less_patience() -> None:
    talk = Conversation(is_stressed=True)
    talk.lines("EHLO x", "MAIL FROM:<a@x.example>")
    said = talk.lines(*["RCPT TO:<nobody@us.example>"] * 9)
    assert said.count(b"550 5.1.1") == 2 and said.endswith(b"421 4.7.0 too many errors, closing\r\n")
    talk = Conversation(is_stressed=True)
    assert talk.say(b"NOOP\r\n" * 9).count(b"250 ") == 4 and talk.smtp.is_over


def test_case_083_ten_thousand_noops() -> None:
    talk = Conversation()
    said = talk.say(b"NOOP\r\n" * 10_000)
    assert said == b"250 2.0.0 OK\r\n" * 99 + b"421 4.7.0 too many commands without mail, closing\r\n"
    assert talk.smtp.is_over
    trusted = Conversation(is_trusted=True)
    assert trusted.say(b"NOOP\r\n" * 1000) == b"250 2.0.0 OK\r\n" * 1000


def test_messages_per_session() -> None:
    talk = Conversation(config_for(limits=Limits(messages_per_session=2)))
    talk.lines("EHLO x")
    message = ("MAIL FROM:<a@x.example>", "RCPT TO:<ada@us.example>", "DATA", "x", ".")
    assert talk.lines(*message).endswith(b"250 2.0.0 OK\r\n")
    assert talk.lines(*message).endswith(b"250 2.0.0 OK\r\n")
    assert talk.lines(*message).startswith(b"421 4.7.0")
    assert (len(talk.messages), talk.smtp.is_over) == (2, True)


def test_rset_between_messages_is_no_junk() -> None:
    talk = Conversation(config_for(limits=Limits(junk_commands=3)))
    talk.lines("EHLO x")
    for _ in range(10):
        talk.lines("RSET", "MAIL FROM:<a@x.example>", "RCPT TO:<ada@us.example>", "DATA", "x", ".")
    assert len(talk.messages) == 10


def test_an_event_is_pending_until_it_is_answered() -> None:
    """RFC 2920 §3.2: a client that pipelines never runs ahead of our verdicts."""
    smtp = SmtpServer(SmtpConfig("mail.us.example"), str)
    smtp.greet()
    smtp.receive(b"HELO x\r\nMAIL FROM:<a@x.example>\r\nRCPT TO:<ada@us.example>\r\n")
    hello = smtp.next_event()
    assert hello is not None
    assert smtp.next_event() is None
    smtp.reply(hello.reply)
    assert isinstance(smtp.next_event(), Mail)
    assert smtp.next_event() is None


def test_relay_networks_need_no_login_for_submission() -> None:
    smtp = SmtpServer(config_for("submission"), str, may_relay=True)
    smtp.greet()
    smtp.receive(b"HELO x\r\n")
    hello = smtp.next_event()
    assert hello is not None
    smtp.reply(hello.reply)
    smtp.receive(b"MAIL FROM:<a@x.example>\r\n")
    assert isinstance(smtp.next_event(), Mail)


def test_binarymime_binds_no_line_rules() -> None:
    """RFC 3030 §3: in BODY=BINARYMIME bare CR, LF and NUL are content; DATA cannot carry it."""
    talk = Conversation(config_for(allows_binary=True))
    talk.lines("EHLO x", "MAIL FROM:<a@x.example> BODY=BINARYMIME", "RCPT TO:<ada@us.example>")
    assert talk.lines("DATA").startswith(b"503 5.5.1")
    octets = b"a\rb\nc\0" + b"x" * 70_000
    assert talk.say(b"BDAT %d LAST\r\n" % len(octets) + octets).startswith(b"250")
    assert talk.messages == [octets]


def test_a_desk_that_refuses_a_chunk_is_heard_after_it() -> None:
    """RFC 3030 §2: the chunk comes whatever we say."""
    from pillarbox.model.status import Status
    from pillarbox.protocol.smtp.events import ContentEnd, Data
    from pillarbox.protocol.smtp.replies import Stage, reply_for

    talk = Conversation()
    talk.lines("EHLO x", "MAIL FROM:<a@x.example>", "RCPT TO:<ada@us.example>")
    smtp = talk.smtp
    smtp.receive(b"BDAT 6 LAST\r\nNO")
    assert isinstance(smtp.next_event(), Data)
    assert smtp.reply(reply_for(Stage.DATA, Status(4, 3, 1))) == b""
    assert smtp.next_event() is None
    smtp.receive(b"OP\r\nNOOP\r\n")
    end = smtp.next_event()
    assert isinstance(end, ContentEnd)
    assert end.refusal is not None
    assert smtp.reply(end.refusal).startswith(b"452 4.3.1")
    assert talk.say(b"") == b"250 2.0.0 OK\r\n"
