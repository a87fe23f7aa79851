"""The IMAP ENVELOPE in wire form. Source: RFC 3501 §7.4.2 (envelope), §9 (nstring, address)."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

from pillarbox.message.fields import ANGLE, BARE, AddressList, parse_addresses

_QUOTABLE: Final = re.compile(rb"[\t -~]*")


def format_nstring(value: bytes | None) -> bytes:
    """NIL, a quoted string, or a literal where a quoted string cannot hold the octets.

    NUL cannot travel in either (RFC 3501 §9, CHAR8): it becomes 0x80, as other servers do.
    """
    if value is None:
        return b"NIL"
    return format_string(value)


def format_string(value: bytes) -> bytes:
    """A quoted string or a literal."""
    if _QUOTABLE.fullmatch(value):
        if b'"' in value or b"\\" in value:
            value = value.replace(b"\\", b"\\\\").replace(b'"', b'\\"')
        return b'"%b"' % value
    if b"\0" in value:
        value = value.replace(b"\0", b"\x80")
    return b"{%d}\r\n%b" % (len(value), value)


def format_addresses(value: bytes | None) -> bytes:
    """An unfolded address field as a list of address structures, NIL if there is none in it."""
    if not value:
        return b"NIL"
    if len(value) <= 128:
        return _format_short(value)
    return _format_list(value)


def _format_list(value: bytes) -> bytes:
    """The usual forms go straight from the pattern to the wire: all that it captures may stand in quotes."""
    out: list[bytes] = []
    if len(value) <= 4096 and _QUOTABLE.fullmatch(value):
        position, size = 0, len(value)
        while position < size:
            match = ANGLE.match(value, position)
            if match is not None:
                quoted, phrase, local, domain = match.groups()
                name = phrase.strip(b" ") if quoted is None else quoted
                out.append(b'("%b" NIL "%b" "%b")' % (name, local, domain) if name else _NAMELESS % (local, domain))
            elif match := BARE.match(value, position):
                out.append(_NAMELESS % match.groups())
            else:
                break
            position = match.end()
        else:
            return b"(%b)" % b"".join(out)
    return _format_entries(parse_addresses(value))


_format_short = lru_cache(maxsize=4096)(_format_list)
_NAMELESS: Final = b'(NIL NIL "%b" "%b")'


def _format_entries(addresses: AddressList) -> bytes:
    if not addresses.entries:
        return b"NIL"
    out: list[bytes] = []
    for name, route, local, domain in addresses.entries:
        if domain is None:
            out.append(b"(NIL NIL %b NIL)" % format_nstring(local))
            continue
        # NIL in place of mailbox or host would mean a group; other servers say the same.
        mailbox, host = local or b"MISSING_MAILBOX", domain or b"MISSING_DOMAIN"
        four = (format_nstring(name), format_nstring(route), format_string(mailbox), format_string(host))
        out.append(b"(%b %b %b %b)" % four)
    return b"(%b)" % b"".join(out)


def format_envelope(values: dict[bytes, bytes]) -> bytes:
    """ENVELOPE from a header's first values (name → unfolded value): date, subject, from, sender, reply-to, to, cc,
    bcc, in-reply-to, message-id. A missing or empty Sender or Reply-To is filled from From.
    """
    get = values.get
    sender = format_addresses(get(b"from"))
    own_sender = format_addresses(get(b"sender"))
    reply_to = format_addresses(get(b"reply-to"))
    return b"(%b %b %b %b %b %b %b %b %b %b)" % (
        format_nstring(get(b"date")),
        format_nstring(get(b"subject")),
        sender,
        sender if own_sender == b"NIL" else own_sender,
        sender if reply_to == b"NIL" else reply_to,
        format_addresses(get(b"to")),
        format_addresses(get(b"cc")),
        format_addresses(get(b"bcc")),
        format_nstring(get(b"in-reply-to")),
        format_nstring(get(b"message-id")),
    )
