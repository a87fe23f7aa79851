"""Delivery status notifications. RFC 3464, RFC 6533; case 122."""

from __future__ import annotations

import email
import email.policy
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pillarbox.message.dsn import Action, Report, ReportedRecipient, build_dsn, one_line
from pillarbox.message.scan import scan
from pillarbox.message.structure import decoded_body
from pillarbox.model.outcome import Deferred, Delivered, Failed
from pillarbox.model.status import Status

NOW = 1_800_000_000.0
ORIGINAL = b"From: ada@pillarbox.test\r\nTo: bob@x.example\r\nSubject: hi\r\n\r\nThe body.\r\n"
REPORT = Report("ada@pillarbox.test", "mx.pillarbox.test", "postmaster@pillarbox.test", "1.dsn@pillarbox.test", NOW)


def failed(text: str = "550 5.1.1 no such user", address: str = "bob@x.example", **more: str) -> ReportedRecipient:
    outcome = Failed(Status(5, 1, 1), text, "mx.x.example")
    return ReportedRecipient(address, outcome, Action.FAILED, last_attempt_at=NOW - 5, **more)


def test_a_failure_as_the_standard_library_reads_it() -> None:
    report = replace(REPORT, envid="e+1", arrived_at=NOW - 60)
    octets = build_dsn(report, [failed(original="rfc822;bob@orig.example")], ORIGINAL)
    message = email.message_from_bytes(octets, policy=email.policy.default)
    assert message.get_content_type() == "multipart/report"
    assert message.get_param("report-type") == "delivery-status"
    assert message["Auto-Submitted"] == "auto-replied"
    words, status, returned = message.iter_parts()
    assert (
        "<bob@x.example>" in words.get_content() and "mx.x.example said: 550 5.1.1 no such user" in words.get_content()
    )
    whole, recipient = status.get_payload()
    assert dict(whole) == {
        "Original-Envelope-Id": "e+2B1",
        "Reporting-MTA": "dns; mx.pillarbox.test",
        "Arrival-Date": "Fri, 15 Jan 2027 07:59:00 +0000",
    }
    assert dict(recipient) == {
        "Original-Recipient": "rfc822; bob@orig.example",
        "Final-Recipient": "rfc822; bob@x.example",
        "Action": "failed",
        "Status": "5.1.1",
        "Remote-MTA": "dns; mx.x.example",
        "Diagnostic-Code": "smtp; 550 5.1.1 no such user",
        "Last-Attempt-Date": "Fri, 15 Jan 2027 07:59:55 +0000",
    }
    assert returned.get_content_type() == "text/rfc822-headers"
    assert "Subject: hi" in returned.get_content() and "The body" not in octets.decode()
    assert octets.isascii() and not scan(octets).defects


def test_a_delay() -> None:
    waiting = ReportedRecipient(
        "bob@x.example", Deferred(Status(4, 4, 1), "no answer"), Action.DELAYED, will_retry_until=NOW + 86400
    )
    octets = build_dsn(REPORT, [waiting], ORIGINAL)
    assert b"Action: delayed\r\nStatus: 4.4.1\r\n" in octets
    assert b"Diagnostic-Code: x-pillarbox; no answer\r\n" in octets
    assert b"Will-Retry-Until: Sat, 16 Jan 2027 08:00:00 +0000\r\n" in octets
    assert b"you need not send it again" in octets


def test_a_success() -> None:
    octets = build_dsn(REPORT, [ReportedRecipient("bob@x.example", Delivered(), Action.DELIVERED)], ORIGINAL)
    assert b"Action: delivered\r\nStatus: 2.0.0\r\n" in octets


@given(st.text(max_size=40), st.text(max_size=40), st.text(max_size=20), st.binary(max_size=60), st.booleans())
def test_no_words_and_no_original_make_it_fail(words: str, orcpt: str, envid: str, original: bytes, flag: bool) -> None:
    report = replace(REPORT, envid=envid, return_full=flag, smtputf8=flag)
    octets = build_dsn(report, [failed(words, address=f"{orcpt}@x", original=orcpt)], original)
    assert [part.content_type.value.partition(b"/")[0] for part in scan(octets).parts[:2]] == [b"multipart", b"text"]


def test_several_recipients_have_a_group_of_fields_each() -> None:
    octets = build_dsn(REPORT, [failed(), failed(address="eve@x.example")], ORIGINAL)
    status = scan(octets).parts[2]
    groups = decoded_body(scan(octets), status).split(b"\r\n\r\n")
    assert [group.count(b"Final-Recipient") for group in groups] == [0, 1, 1]


def test_ret_full_returns_the_message() -> None:
    report = replace(REPORT, return_full=True)
    assert build_dsn(report, [failed()], ORIGINAL).count(b"Content-Type: message/rfc822\r\n") == 1
    assert ORIGINAL in build_dsn(report, [failed()], ORIGINAL)
    huge = ORIGINAL + b"x\r\n" * 1_000_000
    assert len(build_dsn(report, [failed()], huge)) < 10_000


def test_case_122_headers_are_bounded() -> None:
    header = b"From: ada@pillarbox.test\r\n" + b"X-Pad: yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy\r\n" * 10_000 + b"\r\n"
    octets = build_dsn(REPORT, [failed()], header)
    assert len(octets) < 60 * 1024
    assert scan(octets).parts[3].content_type.value == b"text/rfc822-headers"


@pytest.mark.parametrize("evil", ["550 x\r\nBcc: y", "550 \x1b[31m", "550 \0", "550 \u202e", "550 " + "y" * 100_000])
def test_case_122_remote_words_are_escaped(evil: str) -> None:
    octets = build_dsn(REPORT, [failed(evil)], ORIGINAL)
    assert len(octets) < 10_000
    assert b"\r\nBcc:" not in octets and b"\x1b" not in octets and b"\0" not in octets
    assert "\u202e" not in one_line(evil)


def test_case_122_markup_stays_text() -> None:
    octets = build_dsn(REPORT, [failed("550 <script>x</script>")], ORIGINAL)
    assert all(part.content_type.value != b"text/html" for part in scan(octets).parts)


def test_addresses_that_are_not_ascii() -> None:
    octets = build_dsn(REPORT, [failed(address="阿@x.example")], ORIGINAL)
    assert octets.isascii()
    assert rb"Final-Recipient: utf-8; \x{963F}@x.example" in octets
    report = replace(REPORT, smtputf8=True)
    international = scan(build_dsn(report, [failed(address="阿@x.example")], "Subject: ä\r\n\r\n".encode()))
    assert [part.content_type.value for part in international.parts[2:]] == [
        b"message/global-delivery-status",
        b"message/global-headers",
    ]
    assert "utf-8; 阿@x.example".encode() in decoded_body(international, international.parts[2])
