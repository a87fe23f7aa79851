"""The trace lines that we put above a message, and the fields that submission adds.

Source: RFC 5321 §4.4 (Received, Return-Path), RFC 3848 and RFC 6531 §4.3 (with), RFC 6409 §8 (Date, Message-ID).
"""

from __future__ import annotations

import re
from collections.abc import Container
from typing import Final

from pillarbox.message.date import format_date
from pillarbox.model.address import Address

_UNSAFE: Final = re.compile(r"[^!#-'*+\-./0-9:=?@A-Z\[\]^-~\u00a1-\U0010ffff]")
"""What a host name from a stranger may not bring into a Received field: white space, controls, quotes, parentheses …"""


def with_protocol(
    *, esmtp: bool = True, lmtp: bool = False, tls: bool = False, auth: bool = False, utf8: bool = False
) -> str:
    """The "with" keyword: ESMTP, ESMTPS, ESMTPSA, LMTPA, UTF8SMTPS, … Source: RFC 3848 §1, RFC 6531 §4.3."""
    if utf8:
        base = "UTF8LMTP" if lmtp else "UTF8SMTP"
    elif lmtp:
        base = "LMTP"
    elif esmtp:
        base = "ESMTP"
    else:
        return "SMTP"
    return base + ("S" if tls else "") + ("A" if auth else "")


def format_received(
    *,
    helo: str,
    peer_address: str,
    by: str,
    protocol: str,
    message_id: str,
    at: float,
    peer_name: str = "",
    recipient: Address | None = None,
    tls: str = "",
) -> bytes:
    """One Received field, three or four lines, ended by CRLF.

    `helo` is what the peer called itself (any text; made harmless), `peer_name` its name by reverse DNS or "",
    `message_id` our spool id. Give `recipient` only if the message has one (RFC 5321 §7.2: others stay hidden).
    `tls` is a note such as "TLSv1.3 TLS_AES_256_GCM_SHA384". `at`: seconds since 1970.
    """
    literal = f"IPv6:{peer_address}" if ":" in peer_address else peer_address
    name = f"{_harmless(peer_name)} " if peer_name else ""
    secured = f"\r\n\t(using {_harmless_words(tls)})" if tls else ""
    wanted = f"\r\n\tfor <{recipient}>; " if recipient is not None else ";\r\n\t"
    return (
        f"Received: from {_harmless(helo) or 'unknown'} ({name}[{_harmless(literal)}]){secured}\r\n"
        f"\tby {by} with {protocol} id {message_id}{wanted}{format_date(at)}\r\n"
    ).encode("utf-8", "replace")


def _harmless(text: str) -> str:
    return _UNSAFE.sub("?", text[:255])


def _harmless_words(text: str) -> str:
    return " ".join(_harmless(word) for word in text[:255].split())


def format_return_path(reverse_path: Address | None) -> bytes:
    """`Return-Path: <…>`, `<>` for the null sender. Source: RFC 5321 §4.4."""
    return f"Return-Path: <{reverse_path or ''}>\r\n".encode("utf-8", "replace")


def format_delivered_to(recipient: Address) -> bytes:
    """`Delivered-To: …`, by which a loop is known. Source: RFC 9228 §2."""
    return f"Delivered-To: {recipient}\r\n".encode("utf-8", "replace")


def missing_fields(present: Container[bytes], *, now_s: float, message_id: str) -> bytes:
    """What submission puts above a message without Date or Message-ID; empty if it has both.

    `present` are the names of its fields in lower case, `message_id` is without angle brackets.
    Source: RFC 6409 §8.2, §8.3.
    """
    lines: list[str] = []
    if b"date" not in present:
        lines.append(f"Date: {format_date(now_s)}\r\n")
    if b"message-id" not in present:
        lines.append(f"Message-ID: <{message_id}>\r\n")
    return "".join(lines).encode("ascii", "replace")
