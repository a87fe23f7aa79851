"""Trace lines, and the fields that submission adds. RFC 5321 §4.4, RFC 3848, RFC 6409 §8."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pillarbox.message.headers import parse_fields
from pillarbox.message.received import (
    format_delivered_to,
    format_received,
    format_return_path,
    missing_fields,
    with_protocol,
)
from pillarbox.model.address import Address

ADA = Address("ada", "pillarbox.test")


@pytest.mark.parametrize(
    ("how", "keyword"),
    [
        ({"esmtp": False}, "SMTP"),
        ({}, "ESMTP"),
        ({"tls": True}, "ESMTPS"),
        ({"auth": True}, "ESMTPA"),
        ({"tls": True, "auth": True}, "ESMTPSA"),
        ({"lmtp": True}, "LMTP"),
        ({"lmtp": True, "tls": True, "auth": True}, "LMTPSA"),
        ({"utf8": True}, "UTF8SMTP"),
        ({"utf8": True, "tls": True, "auth": True}, "UTF8SMTPSA"),
        ({"utf8": True, "lmtp": True}, "UTF8LMTP"),
    ],
)
def test_with(how: dict[str, bool], keyword: str) -> None:
    assert with_protocol(**how) == keyword


def test_received() -> None:
    assert format_received(
        helo="mail.x.example",
        peer_name="host.x.example",
        peer_address="2001:db8::1",
        by="mx.pillarbox.test",
        protocol="ESMTPS",
        message_id="0123",
        at=1_800_000_000,
        recipient=ADA,
        tls="TLSv1.3 TLS_AES_256_GCM_SHA384",
    ) == (
        b"Received: from mail.x.example (host.x.example [IPv6:2001:db8::1])\r\n"
        b"\t(using TLSv1.3 TLS_AES_256_GCM_SHA384)\r\n"
        b"\tby mx.pillarbox.test with ESMTPS id 0123\r\n"
        b"\tfor <ada@pillarbox.test>; Fri, 15 Jan 2027 08:00:00 +0000\r\n"
    )


@given(st.text(max_size=300))
def test_a_strange_helo_stays_inside_its_field(helo: str) -> None:
    field = format_received(
        helo=helo, peer_address="192.0.2.1", by="mx.pillarbox.test", protocol="ESMTP", message_id="1", at=0
    )
    assert len(parse_fields(field, 0, len(field), set()).lines) == 1
    assert field.count(b"\n") == 3 and field.count(b"(") == field.count(b")") == 1
    assert b"\0" not in field and b" for " not in field


def test_delivery_lines() -> None:
    assert format_return_path(None) == b"Return-Path: <>\r\n"
    assert format_return_path(Address("a b", "x.example")) == b'Return-Path: <"a b"@x.example>\r\n'
    assert format_delivered_to(ADA) == b"Delivered-To: ada@pillarbox.test\r\n"


def test_submission_adds_what_is_missing() -> None:
    now = 1_800_000_000
    added = b"Date: Fri, 15 Jan 2027 08:00:00 +0000\r\nMessage-ID: <1@pillarbox.test>\r\n"
    assert missing_fields({b"from"}, now_s=now, message_id="1@pillarbox.test") == added
    assert missing_fields({b"date", b"message-id"}, now_s=now, message_id="1@pillarbox.test") == b""
