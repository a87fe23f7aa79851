"""Delivery status notifications: what our senders are told of mail that failed, or waits.

Source: RFC 3461 §6, RFC 3464 (format), RFC 6522 (multipart/report), RFC 6533 (internationalised). Words that come from
another host are made one printable line before they are quoted (case 122).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from pillarbox.message.build import (
    build_message,
    encode_body,
    format_field,
    format_mailbox,
    multipart_entity,
    structured_field,
    text_entity,
)
from pillarbox.message.date import format_date
from pillarbox.message.headers import header_end
from pillarbox.model.outcome import Delivered, Outcome

MAX_HEADER_OCTETS: Final = 50 * 1024
"""Of the original's header that is returned: whole lines, no more than this (case 122)."""
MAX_RETURNED_OCTETS: Final = 1024 * 1024
"""A longer original is returned by its header only, whatever RET says."""
MAX_TEXT: Final = 900
"""Characters of a remote host's words."""

_NOT_XTEXT: Final = re.compile(r"[^!-*,-<>-~]")


class Action(StrEnum):
    """What became of a recipient. Source: RFC 3464 §2.3.3."""

    FAILED = "failed"
    DELAYED = "delayed"
    DELIVERED = "delivered"
    RELAYED = "relayed"
    EXPANDED = "expanded"


@dataclass(frozen=True, slots=True)
class ReportedRecipient:
    """One recipient of a report."""

    address: str
    """local@domain as it was last used."""
    outcome: Outcome
    action: Action
    original: str = ""
    """ORCPT as "type;address", decoded; empty if none was given."""
    last_attempt_at: float | None = None
    will_retry_until: float | None = None
    """For DELAYED: when we give up. Seconds since 1970, as all times here."""


@dataclass(frozen=True, slots=True)
class Report:
    """What a notification says, apart from its recipients."""

    to: str
    """local@domain of the original sender: the reverse-path."""
    reporting_mta: str
    """Our host name."""
    postmaster: str
    """local@domain for the From field."""
    message_id: str
    """Of the notification, without angle brackets."""
    now_s: float
    arrived_at: float | None = None
    envid: str = ""
    """ENVID, decoded."""
    return_full: bool = False
    """RET=FULL was asked for."""
    smtputf8: bool = False
    """The original came with SMTPUTF8: its sender reads RFC 6533's types."""


_SUBJECTS: Final = {
    Action.FAILED: "Your message could not be delivered",
    Action.DELAYED: "Your message is delayed",
    Action.DELIVERED: "Your message was delivered",
    Action.RELAYED: "Your message was passed on",
    Action.EXPANDED: "Your message was sent to a list",
}
_OPENINGS: Final = {
    Action.FAILED: "Your message could not be delivered to the recipients below. We will not try again.",
    Action.DELAYED: "Your message has not been delivered to the recipients below yet. We keep trying;\n"
    "you need not send it again.",
    Action.DELIVERED: "Your message was delivered to the recipients below.",
    Action.RELAYED: "Your message was passed on to systems that do not confirm delivery, for the recipients below.",
    Action.EXPANDED: "Your message was sent on to the members of the lists below.",
}


def build_dsn(report: Report, recipients: Sequence[ReportedRecipient], original: bytes) -> bytes:
    """A whole notification as octets, to be sent from the null reverse-path to `report.to`.

    All recipients should have one action; the first one's makes the subject. `original` is the message, or its
    header alone. Has 8-bit octets only if `report.smtputf8`, or if a full original that has them is returned.
    """
    action = recipients[0].action if recipients else Action.FAILED
    utf8 = report.smtputf8
    sender = format_mailbox("Mail Delivery System", report.postmaster, utf8=utf8)
    fields = [
        structured_field("From", sender),
        structured_field("To", report.to if utf8 or report.to.isascii() else "undisclosed-recipients:;"),
        format_field("Subject", _SUBJECTS[action]),
        structured_field("Date", format_date(report.now_s)),
        structured_field("Message-ID", f"<{report.message_id}>"),
        structured_field("Auto-Submitted", "auto-replied"),  # RFC 3834 §5
    ]
    entities = [
        text_entity(_plain_words(report, action, recipients)),
        _status_entity(report, recipients),
        _returned_entity(report, original, action),
    ]
    entity = multipart_entity("report", entities, [("report-type", "delivery-status")])
    return build_message(fields, entity)


def one_line(text: str, limit: int = MAX_TEXT) -> str:
    """A stranger's words as one printable line: controls, escapes and invisible characters become "?"."""
    line = " ".join(text[: limit * 2].split())[:limit]
    if line.isprintable():
        return line
    return "".join(char if char.isprintable() else "?" for char in line)


def _plain_words(report: Report, action: Action, recipients: Sequence[ReportedRecipient]) -> str:
    """The part for people."""
    lines = [f"This is the mail system at {report.reporting_mta}.", "", *_OPENINGS[action].split("\n"), ""]
    for recipient in recipients:
        outcome = recipient.outcome
        lines.append(f"  <{one_line(recipient.address)}>")
        if isinstance(outcome, Delivered):
            lines.append(f"    {outcome.status}")
        else:
            said = f"{one_line(outcome.remote)} said: " if outcome.remote else ""
            lines.append(f"    {said}{one_line(outcome.text) or 'no reason was given'} ({outcome.status})")
        if recipient.will_retry_until is not None:
            lines.append(f"    We try until {format_date(recipient.will_retry_until)}.")
        lines.append("")
    return "\n".join(lines)


def _status_entity(report: Report, recipients: Sequence[ReportedRecipient]) -> bytes:
    """The part for programs. Source: RFC 3464 §2.2, §2.3; RFC 6533 §4."""
    groups = [_message_fields(report)]
    groups += [_recipient_fields(recipient, report.smtputf8) for recipient in recipients]
    body = b"\r\n".join(b"".join(group) for group in groups)
    if body.isascii():
        return b"Content-Type: message/delivery-status\r\n\r\n" + body
    encoding, body = encode_body(body)
    head = f"Content-Type: message/global-delivery-status\r\nContent-Transfer-Encoding: {encoding}\r\n\r\n"
    return head.encode("ascii") + body


def _message_fields(report: Report) -> list[bytes]:
    fields = [structured_field("Reporting-MTA", f"dns; {report.reporting_mta}")]
    if report.envid:
        fields.insert(0, structured_field("Original-Envelope-Id", _xtext(report.envid)))
    if report.arrived_at is not None:
        fields.append(structured_field("Arrival-Date", format_date(report.arrived_at)))
    return fields


def _recipient_fields(recipient: ReportedRecipient, utf8: bool) -> list[bytes]:
    outcome = recipient.outcome
    fields: list[bytes] = []
    if recipient.original:
        kind, _, address = recipient.original.partition(";")
        fields.append(_typed("Original-Recipient", one_line(kind, 50), address, utf8))
    fields.append(_typed("Final-Recipient", "rfc822", recipient.address, utf8))
    fields.append(structured_field("Action", recipient.action.value))
    fields.append(structured_field("Status", str(outcome.status)))
    if outcome.remote:
        fields.append(structured_field("Remote-MTA", f"dns; {_ascii(one_line(outcome.remote, 255))}"))
        if outcome.text:
            fields.append(structured_field("Diagnostic-Code", f"smtp; {_ascii(one_line(outcome.text))}"))
    elif outcome.text:
        fields.append(structured_field("Diagnostic-Code", f"x-pillarbox; {_ascii(one_line(outcome.text))}"))
    if recipient.last_attempt_at is not None:
        fields.append(structured_field("Last-Attempt-Date", format_date(recipient.last_attempt_at)))
    if recipient.action is Action.DELAYED and recipient.will_retry_until is not None:
        fields.append(structured_field("Will-Retry-Until", format_date(recipient.will_retry_until)))
    return fields


def _typed(name: str, kind: str, address: str, utf8: bool) -> bytes:
    """An address with its type; one that is not ASCII is of type utf-8. Source: RFC 6533 §3."""
    address = one_line(address)
    if address.isascii() or utf8:
        return structured_field(name, f"{kind if address.isascii() else 'utf-8'}; {address}")
    escaped = "".join(char if char.isascii() and char not in "\\" else f"\\x{{{ord(char):X}}}" for char in address)
    return structured_field(name, f"utf-8; {escaped}")


def _ascii(text: str) -> str:
    return text.encode("ascii", "replace").decode("ascii")


def _xtext(text: str) -> str:
    """xtext, so that the envelope id stays what it was. Source: RFC 3461 §4."""
    return _NOT_XTEXT.sub(lambda match: f"+{ord(match[0]) & 0xFF:02X}", text[:100])


def _returned_entity(report: Report, original: bytes, action: Action) -> bytes:
    """The original or its header. Source: RFC 6522 §3 (3), §4; RFC 6533 §5."""
    end = header_end(original)
    if report.return_full and action is Action.FAILED and end < len(original) <= MAX_RETURNED_OCTETS:
        kind = "message/rfc822" if original[:end].isascii() else "message/global"
        encoding = "7bit" if original.isascii() else "8bit"
        head = f"Content-Type: {kind}\r\nContent-Transfer-Encoding: {encoding}\r\n\r\n"
        return head.encode("ascii") + original
    header = original[:end].rstrip(b"\r\n") + b"\r\n"
    if len(header) > MAX_HEADER_OCTETS:
        cut = header.rfind(b"\n", 0, MAX_HEADER_OCTETS) + 1
        header = header[: cut or MAX_HEADER_OCTETS]
    kind = "text/rfc822-headers" if header.isascii() else "message/global-headers"
    encoding, body = encode_body(header)
    head = f"Content-Type: {kind}\r\nContent-Transfer-Encoding: {encoding}\r\n\r\n"
    return head.encode("ascii") + body
