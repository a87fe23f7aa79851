"""A message with UTF-8 in its header, as a client gets it that did not say UTF8: the header in ASCII, the body as is.

Words become encoded words; a mailbox whose address needs UTF-8 becomes an empty group with its name and address as
text, so that nobody answers to it by accident. Octets that are no UTF-8 are no internationalised message but a broken
one, and go out as they came in. Source: RFC 6856 §2.1 (surrogates), RFC 6858 §2 (simplified downgrading), RFC 6532.
"""

from __future__ import annotations

import re
from typing import Final

from pillarbox.message import encoded_word
from pillarbox.message.build import format_field, format_mailbox, structured_field
from pillarbox.message.fields import Mailbox, parse_addresses
from pillarbox.message.headers import header_end, unfold

MAX_HEADER_OCTETS: Final = 1024 * 1024
"""A header that is longer goes out as it is."""
_ADDRESSES: Final = frozenset(
    b"from sender reply-to to cc bcc resent-from resent-sender resent-to resent-cc resent-bcc resent-reply-to"
    b" return-path delivered-to disposition-notification-to".split()
)
_FIELD_END: Final = re.compile(rb"(?<=\n)(?![ \t])")


def surrogate(octets: bytes) -> bytes:
    """The message with an ASCII header; itself, if its header is ASCII already."""
    if octets.isascii():
        return octets
    end = header_end(octets)
    header = octets[:end]
    return octets if header.isascii() else _header(header) + octets[end:]


class Surrogate:
    """The same, piece by piece: `feed` each, then send what `finish` returns as well."""

    __slots__ = ("_held", "_is_through")

    def __init__(self) -> None:
        self._held = b""
        self._is_through = False

    def feed(self, octets: bytes) -> bytes:
        """What can be sent now: nothing before the header has ended."""
        if self._is_through:
            return octets
        self._held += octets
        end = header_end(self._held)
        if end == len(self._held) and end < MAX_HEADER_OCTETS:
            return b""
        return self.finish()

    def finish(self) -> bytes:
        """What is still held."""
        held, self._held, self._is_through = self._held, b"", True
        return surrogate(held) if len(held) <= 2 * MAX_HEADER_OCTETS else held


def _header(header: bytes) -> bytes:
    return b"".join([line if line.isascii() else _field(line) for line in _FIELD_END.split(header)])


def _field(field: bytes) -> bytes:
    """One field, folded, with its end."""
    try:
        field.decode()
    except UnicodeDecodeError:
        return field
    spelled, colon, raw = field.partition(b":")
    try:
        if not colon:
            raise ValueError("no field")
        name, value = spelled.decode("ascii"), unfold(raw)
        if spelled.lower() in _ADDRESSES:
            return structured_field(name, _addresses(value))
        return format_field(name, value.decode())
    except ValueError:  # what cannot be written again: the least that is ASCII
        return re.sub(rb"[\x80-\xff]+", b"?", field)


def _addresses(value: bytes) -> str:
    entries = parse_addresses(value).entries
    if not entries or any(entry.is_group_mark for entry in entries):
        return _group(value.decode())
    return ", ".join(map(_mailbox, entries))


def _mailbox(entry: Mailbox) -> str:
    if entry.addr_spec.isascii():
        return format_mailbox(entry.display_name, entry.addr_spec)
    return _group(f"{entry.display_name} <{entry.addr_spec}>" if entry.name else entry.addr_spec)


def _group(text: str) -> str:
    """Source: RFC 6858 §3.1.1: a group without members is no address."""
    return encoded_word.encode(text) + " :;"
