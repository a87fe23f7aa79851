"""The fields of a header block, by offsets. Source: RFC 5322 §2.2, §3.6, §4.5; RFC 6532 §3.

No field is decoded or copied here. What the values mean is for `fields`, `date`, `parameters`, `encoded_word`.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from pillarbox.message.defects import Defect
from pillarbox.message.limits import DEFAULT, Limits


class Field(NamedTuple):
    """One header field. Offsets count from the start of the octets that were scanned."""

    name: bytes
    """Lower case; empty where the line is no field at all."""
    start: int
    value_start: int
    """Just after the colon."""
    end: int
    """Before the CRLF (or LF) that ends the field; value_start ≤ end."""


class Header:
    """The fields of one header block, in order. What a value means is not looked at."""

    __slots__ = ("lines", "names", "start", "values")

    def __init__(self, start: int, lines: list[bytes], names: list[bytes], values: dict[bytes, bytes]) -> None:
        self.start = start
        self.lines = lines
        """Each field as received, folded, without the LF that ends it."""
        self.names = names
        """Of the lines, in lower case; empty where a line is no field."""
        self.values = values
        """Name → unfolded value of the first field of that name: the one that counts, everywhere (case 134)."""

    @property
    def fields(self) -> list[Field]:
        """The fields by their offsets."""
        fields: list[Field] = []
        start = self.start
        for name, line in zip(self.names, self.lines, strict=True):
            end = start + len(line) - line.endswith(b"\r")
            fields.append(Field(name, start, start + line.find(b":") + 1, end))
            start += len(line) + 1
        return fields

    def all_values(self, name: bytes) -> list[bytes]:
        """The unfolded values of all fields of a name (lower case), in order."""
        found = (line for own, line in zip(self.names, self.lines, strict=True) if own == name)
        return [unfold(line.partition(b":")[2]) for line in found]


_FIELD_END: Final = re.compile(rb"\n(?![ \t])")
_NAME: Final = re.compile(rb"[!-9;-~]+")
_BLANK_CONTINUATION: Final = re.compile(rb"\n[ \t]+\r?(?:\n|\Z)")

ONCE: Final = frozenset(
    b"from sender reply-to to cc bcc subject date message-id in-reply-to references mime-version content-type "
    b"content-transfer-encoding content-id content-description content-disposition".split()
)
"""Fields that may stand only once (RFC 5322 §3.6, RFC 2045)."""

_COMMON: Final = (
    "From Sender Reply-To To Cc CC Bcc Subject Date Message-ID Message-Id In-Reply-To References MIME-Version "
    "Mime-Version Content-Type Content-Transfer-Encoding Content-Disposition Content-ID Content-Description Received "
    "Return-Path Delivered-To DKIM-Signature Authentication-Results X-Mailer User-Agent List-Id List-Post "
    "List-Unsubscribe"
)
_LOWER: Final = {name.encode(): name.lower().encode() for name in _COMMON.split()}
"""The usual spellings, so that most names need neither check nor change."""


def parse_fields(octets: bytes, start: int, end: int, defects: set[Defect], limits: Limits = DEFAULT) -> Header:
    """The fields of the header block octets[start:end] (the empty line not included), in order; defects are added.

    A line that is no field has an empty name; nothing is dropped short of the limits.
    """
    if start >= end:
        return Header(start, [], [], {})
    if end - start > limits.header_octets:
        end = start + limits.header_octets
        defects.add(Defect.HEADER_TOO_LARGE)
    block = octets[start:end]
    _note_odd_octets(block, defects)
    lines = _FIELD_END.split(block, limits.fields)
    last = lines.pop()
    if last and len(lines) < limits.fields:
        lines.append(last)
    elif last:
        defects.add(Defect.TOO_MANY_FIELDS)
    names: list[bytes] = []
    values: dict[bytes, bytes] = {}
    lower, add_name, field_octets = _LOWER.get, names.append, limits.field_octets
    for line in lines:
        spelled, colon, value = line.partition(b":")
        name = lower(spelled)
        if name is None or not colon:
            name = _odd_name(spelled if colon else b"", defects)
        add_name(name)
        if len(value) > field_octets:
            value = value[:field_octets]
            defects.add(Defect.FIELD_TOO_LARGE)
        if name not in values:
            if b"\n" in value:
                value = value.replace(b"\r\n", b"").replace(b"\n", b"")
            values[name] = value.strip(b" \t\r")
    return Header(start, lines, names, values)


def _note_odd_octets(block: bytes, defects: set[Defect]) -> None:
    """What is wrong with a header block whatever its fields are."""
    lines = block.count(b"\r\n")
    if block.count(b"\n") != lines:
        defects.add(Defect.BARE_LF)
    if block.count(b"\r") != lines:
        defects.add(Defect.BARE_CR)
    if block[:1] in (b" ", b"\t"):
        defects.add(Defect.LEADING_CONTINUATION)
    # Only a header with white space before a line end can have a line of nothing else.
    unusual = Defect.BARE_LF in defects or block[-1:] != b"\n"
    if (unusual or b" \r\n" in block or b"\t\r\n" in block) and _BLANK_CONTINUATION.search(block):
        defects.add(Defect.BLANK_CONTINUATION)
    if not block.isascii():
        try:
            block.decode("utf-8")
        except UnicodeDecodeError:
            defects.add(Defect.EIGHT_BIT_HEADER)


def _odd_name(spelled: bytes, defects: set[Defect]) -> bytes:
    """The name in lower case, empty if it is none; says what is odd about it."""
    name = spelled.rstrip(b" \t\r\n")
    if name != spelled:
        defects.add(Defect.FOLDED_NAME if b"\n" in spelled[len(name) :] else Defect.SPACE_BEFORE_COLON)
    if _NAME.fullmatch(name):
        return name.lower()
    defects.add(Defect.MALFORMED_FIELD)
    return b""


def unfold(value: bytes) -> bytes:
    """A field's value on one line, without white space at its ends. Source: RFC 5322 §2.2.3."""
    if b"\n" in value:
        value = value.replace(b"\r\n", b"").replace(b"\n", b"")
    return value.strip(b" \t\r")


def header_end(octets: bytes) -> int:
    """Where the body begins: after the first empty line, which CRLF or LF ends; the length, if there is none.

    White space on a line, or a bare CR, does not make it empty (case 135).
    """
    if octets[:2] == b"\r\n":
        return 2
    if octets[:1] == b"\n":
        return 1
    crlf = octets.find(b"\n\r\n")
    lf = octets.find(b"\n\n", 0, crlf + 1 if crlf >= 0 else len(octets))
    if lf >= 0:
        return lf + 2
    return crlf + 3 if crlf >= 0 else len(octets)


def header_values(header: bytes, name: bytes) -> list[bytes]:
    """All values, unfolded, of the fields `name` (lower case) in a header block."""
    return parse_fields(header, 0, header_end(header), set()).all_values(name)
