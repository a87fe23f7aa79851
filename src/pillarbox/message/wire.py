"""All that readers ask of a message, computed once at arrival and kept as it goes over the wire.

What is in `WireForms` depends on `VERSION`, the octets, and the Date and Message-ID that we added to them.
Source: RFC 3501 §7.4.2, RFC 5256 §2, RFC 8970.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from pillarbox.message import encoded_word
from pillarbox.message.bodystructure import format_structures
from pillarbox.message.date import parse_date
from pillarbox.message.defects import Defect
from pillarbox.message.envelope import format_envelope
from pillarbox.message.fields import parse_message_ids
from pillarbox.message.preview import preview
from pillarbox.message.scan import Message, scan
from pillarbox.message.section import pack_parts, select_fields
from pillarbox.message.subject import base_subject

VERSION: Final = 1
"""Rises when any form changes for the same octets: what was stored is then computed again."""

FIELD_CODES: Final = {
    name: bytes((code,))
    for code, name in enumerate(
        b"from to cc bcc subject date message-id reply-to sender in-reply-to references mime-version content-type "
        b"content-transfer-encoding content-disposition list-id list-post list-unsubscribe list-help mailing-list "
        b"x-mailing-list x-list precedence x-priority x-msmail-priority priority importance newsgroups followup-to "
        b"disposition-notification-to return-receipt-to delivered-to x-spam-status x-spam-flag x-spam-level "
        b"x-spam-score auto-submitted x-label keywords resent-from resent-to resent-date resent-message-id "
        b"organization lines user-agent x-mailer x-original-to status x-status x-uid x-uidl x-bogosity "
        b"x-google-thread-id content-description list-subscribe".split(),
        start=1,
    )
}
"""Fields kept in `WireForms.headers`, in lower case (those that clients ask for to show a list of messages), and how
`WireForms.field_codes` writes their names. Other codes need another VERSION, more fields too: 0 and 255 stay free."""
LISTED_FIELDS: Final = frozenset(FIELD_CODES)
_ADDED: Final = frozenset((b"date", b"message-id"))
"""Fields that submission adds (RFC 6409 §8)."""


@dataclass(frozen=True, slots=True)
class WireForms:
    """What a message looks like to IMAP, POP3, search and threading. Bytes are ready to send."""

    envelope: bytes
    """ENVELOPE with its parentheses."""
    body: bytes
    """BODY: the structure without extension data."""
    bodystructure: bytes
    headers: bytes
    """The fields named in LISTED_FIELDS, as received and in order, each ended by CRLF; without an empty line."""
    field_codes: bytes
    """One octet for each line of `headers`: the code of its field's name. So some are found without reading all."""
    parts: bytes
    """Packed offsets for `section.locate`."""
    preview: str
    """RFC 8970: at most 200 characters."""
    subject: str
    """Decoded."""
    base_subject: str
    """RFC 5256 §2.1; case kept."""
    sent_at: int | None
    """Date field in seconds since 1970."""
    message_id: str
    """Without angle brackets; empty if there is none."""
    references: list[str]
    """Ids in References, else the first in In-Reply-To (RFC 5256 §3, REFERENCES); without angle brackets."""
    defects: tuple[Defect, ...]
    """Sorted."""


def wire_forms(octets: bytes, prefix: bytes = b"") -> WireForms:
    """Compute all forms of a message from its octets. Never raises, whatever they are.

    `prefix` are the fields that we put above it: a Date or Message-ID there counts as the message's own.
    """
    added = select_fields(prefix, _ADDED, False)[:-2] if prefix else b""
    return forms_with(added, scan(octets))


def forms_with(added: bytes, message: Message) -> WireForms:
    """The same for a message that is scanned already, and was given these fields: offsets and structure of the
    content, header forms of both together."""
    forms = _forms_of(message)
    if not added:
        return forms
    whole = _forms_of(scan(added + message.octets[: message.root.body_start]))
    return replace(
        forms, envelope=whole.envelope, headers=whole.headers, field_codes=whole.field_codes, sent_at=whole.sent_at,
        message_id=whole.message_id,
    )  # fmt: skip


def _forms_of(message: Message) -> WireForms:
    values = message.parts[0].values
    defects = message.defects
    body, bodystructure = format_structures(message)
    subject = encoded_word.decode(values[b"subject"]) if b"subject" in values else ""
    sent_at = None
    if b"date" in values:
        sent_at = parse_date(values[b"date"])
        if sent_at is None:
            defects.add(Defect.BAD_DATE)
    message_ids = parse_message_ids(values[b"message-id"]) if b"message-id" in values else None
    references = parse_message_ids(values[b"references"]) if b"references" in values else []
    if not references and b"in-reply-to" in values:
        references = parse_message_ids(values[b"in-reply-to"])[:1]
    headers, field_codes = listed_headers(message)
    return WireForms(
        envelope=format_envelope(values),
        body=body,
        bodystructure=bodystructure,
        headers=headers,
        field_codes=field_codes,
        parts=pack_parts(message),
        preview=preview(message),
        subject=subject,
        base_subject=base_subject(subject),
        sent_at=sent_at,
        message_id=message_ids[0] if message_ids else "",
        references=references,
        defects=tuple(sorted(defects)) if defects else (),
    )


def listed_headers(message: Message) -> tuple[bytes, bytes]:
    """The fields of the message's own header that LISTED_FIELDS names, each ended by CRLF, and codes of their lines."""
    header, codes_of = message.parts[0].header, FIELD_CODES
    found = [line for name, line in zip(header.names, header.lines, strict=True) if name in codes_of]
    if not found:
        return b"", b""
    codes = [codes_of[name] for name in header.names if name in codes_of]
    found.append(b"")
    headers = b"\n".join(found)
    if Defect.BARE_LF in message.defects or not headers.endswith(b"\r\n"):
        headers = headers.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
    if headers.count(b"\n") > len(codes):  # some are folded
        codes = [code * (1 + line.count(b"\n")) for code, line in zip(codes, found, strict=False)]
    return headers, b"".join(codes)
