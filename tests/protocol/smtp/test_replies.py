"""The table from (stage, Status) to replies, against CASES and LIMITS; and that no text breaks a reply."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pillarbox.model.status import Status, parse_status
from pillarbox.protocol.smtp.replies import Reply, Stage, reply_for


@pytest.mark.parametrize(
    ("stage", "status", "code", "source"),
    [
        ("connect", "4.7.0", 421, "LIMITS: sessions per IP"),
        ("connect", "4.3.2", 421, "LIMITS: total sessions"),
        ("connect", "5.5.0", 554, "case 58"),
        ("content", "4.3.0", 451, "case 8"),
        ("content", "4.3.1", 452, "cases 10, 11"),
        ("mail", "4.3.1", 452, "case 12"),
        ("content", "5.5.2", 550, "cases 41 to 47, 67"),
        ("content", "5.6.0", 554, "cases 48, 123, 124"),
        ("auth", "5.7.8", 535, "LIMITS: auth failures"),
        ("auth", "4.7.0", 421, "LIMITS: auth failures"),
        ("auth", "5.5.2", 501, "case 56"),
        ("auth", "5.7.0", 501, "case 57"),
        ("auth", "5.7.11", 538, "case 54"),
        ("auth", "4.3.0", 454, "RFC 4954 §4"),
        ("mail", "5.3.4", 552, "case 63"),
        ("content", "5.3.4", 552, "case 64"),
        ("rcpt", "4.5.3", 452, "case 68"),
        ("rcpt", "5.7.1", 550, "case 71"),
        ("mail", "5.7.1", 550, "case 73"),
        ("content", "5.7.1", 550, "cases 74, 95"),
        ("rcpt", "5.1.3", 501, "case 76"),
        ("rcpt", "5.6.7", 553, "case 77"),
        ("rcpt", "5.1.1", 550, "cases 78, 93"),
        ("mail", "5.1.7", 501, "case 133"),
        ("mail", "5.7.0", 530, "RFC 4954 §6"),
        ("rcpt", "4.2.2", 452, "case 94"),
        ("rcpt", "5.2.2", 552, "case 94"),
        ("content", "5.4.6", 554, "cases 96, 101"),
        ("rcpt", "5.1.10", 556, "case 103"),
        ("mail", "5.7.27", 550, "case 103"),
        ("mail", "4.4.3", 451, "case 105"),
        ("content", "4.7.1", 451, "case 155"),
        ("mail", "4.7.1", 451, "LIMITS: per sending IP volume"),
        ("rcpt", "4.7.1", 450, "LIMITS: greylist, submission rate"),
        ("rcpt", "4.2.1", 450, "LIMITS: per recipient mailbox"),
        ("content", "4.4.2", 421, "LIMITS: data rate"),
        ("starttls", "4.7.0", 454, "RFC 3207 §4"),
        ("rcpt", "2.1.5", 250, "RFC 3463 §3.2"),
        ("auth", "2.7.0", 235, "RFC 4954 §4"),
    ],
)
def test_table(stage: str, status: str, code: int, source: str) -> None:
    parsed = parse_status(status)
    assert parsed is not None
    reply = reply_for(Stage(stage), parsed)
    assert (reply.code, reply.status) == (code, parsed), source
    assert reply.text


def test_our_trouble_is_never_their_verdict() -> None:
    for stage in Stage:
        for subject in range(8):
            for detail in range(30):
                for klass in (2, 4, 5):
                    reply = reply_for(stage, Status(klass, subject, detail))
                    assert reply.code // 100 == klass


@given(text=st.text(max_size=600), code=st.sampled_from([250, 451, 550]))
def test_no_text_breaks_a_reply(text: str, code: int) -> None:
    """Case 122: what is quoted in a reply cannot add lines or escapes to it."""
    octets = Reply(code, Status(code // 100, 0, 0), text).encode()
    lines = octets.split(b"\r\n")
    assert lines.pop() == b""
    assert all(re.fullmatch(rb"%d[ -]\d\.0\.0 [ -~]{0,480}" % code, line) for line in lines)
    assert [line[3:4] for line in lines] == [b"-"] * (len(lines) - 1) + [b" "]
