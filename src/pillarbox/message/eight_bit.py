"""A message made fit for a next hop without 8BITMIME: its 8-bit parts get a transfer encoding, all else stays.

The stored original is never touched; this makes the octets of one transmission. Source: RFC 6152 §3, RFC 2045 §6.
"""

from __future__ import annotations

from typing import Final

from pillarbox.message import transfer
from pillarbox.message.build import encode_body
from pillarbox.message.defects import Defect
from pillarbox.message.scan import Kind, Message, Part, scan

_UNSURE: Final = frozenset((Defect.TOO_DEEP, Defect.TOO_MANY_PARTS, Defect.HEADER_TOO_LARGE, Defect.TOO_MANY_FIELDS))
_HIGH_TO_MARK: Final = bytes(range(128)) + b"?" * 128

Edit = tuple[int, int, bytes]
"""(start, end, what stands there instead)."""


def downgrade_to_7bit(octets: bytes, *, break_signatures: bool = False) -> bytes | None:
    """The message in 7-bit octets; itself, if it is so already. None where it cannot be, or must not.

    It cannot be if a header holds 8-bit octets (only SMTPUTF8 carries it), or if an 8-bit part may not be encoded (a
    multipart or message that was not taken apart). It must not be if that breaks a signature: inside multipart/signed
    never; with DKIM-Signature only if `break_signatures`.
    """
    if octets.isascii():
        return octets
    message = scan(octets)
    values = message.root.values
    if not _UNSURE.isdisjoint(message.defects) or (b"dkim-signature" in values and not break_signatures):
        return None
    edits: list[Edit] = []
    for index, part in enumerate(message.parts):
        if not octets[part.header_start : part.body_start].isascii() or _is_sealed(message, part):
            return None
        found = _edits_of(message, index, part)
        if found is None:
            return None
        edits += found
    result = _apply(octets, edits)
    return result if result.isascii() else None


def _is_sealed(message: Message, part: Part) -> bool:
    """True for a multipart/signed that holds 8-bit octets: no encoding may change inside."""
    if part.content_type.value != b"multipart/signed":
        return False
    return not message.octets[part.body_start : part.body_end].isascii()


def _edits_of(message: Message, index: int, part: Part) -> list[Edit] | None:
    """What must change in one part; None if it cannot be changed."""
    octets = message.octets
    body = octets[part.body_start : part.body_end]
    if part.kind is not Kind.LEAF:
        gaps = _gaps(message, index, part) if part.kind is Kind.MULTIPART else []
        marks = [(start, end, octets[start:end].translate(_HIGH_TO_MARK)) for start, end in gaps]
        edits = [mark for mark in marks if mark[2] != octets[mark[0] : mark[1]]]
        return [*edits, *_encoding_edit(part, b"7bit")] if part.encoding in (b"8bit", b"binary") else edits
    if body.isascii():
        return []
    declared = part.values.get(b"content-type", b"").lower()
    if declared.startswith((b"multipart/", b"message/")):
        return None
    is_text = part.content_type.value.startswith(b"text/")
    encoding, encoded = encode_body(transfer.decode(body, part.encoding), is_text=is_text)
    if encoding == "base64" and part.parent >= 0:
        encoded = encoded.removesuffix(b"\r\n")  # the line break before a boundary belongs to the boundary
    edits = _encoding_edit(part, encoding.encode("ascii"))
    if part.parent < 0 and not declared:
        # RFC 1428 §3: 8-bit text of a message that says nothing about itself.
        end = edits[0][0]
        edits.append((end, end, b"MIME-Version: 1.0\r\nContent-Type: text/plain; charset=unknown-8bit\r\n"))
    return [*edits, (part.body_start, part.body_end, encoded)]


def _encoding_edit(part: Part, encoding: bytes) -> list[Edit]:
    """Replace every Content-Transfer-Encoding field, or add one below the last field."""
    line = b"Content-Transfer-Encoding: " + encoding
    fields = part.header.fields
    found = [(f.start, f.end, line) for f in fields if f.name == b"content-transfer-encoding"]
    if found:
        return found
    # At the start of the header: there always is one place, even where the header has no fields.
    return [(part.header_start, part.header_start, line + b"\r\n")]


def _gaps(message: Message, index: int, part: Part) -> list[tuple[int, int]]:
    """What of a multipart's body is in none of its parts: preamble, boundary lines, epilogue."""
    gaps: list[tuple[int, int]] = []
    position = part.body_start
    for child in message.parts[index + 1 :]:
        if child.header_start >= part.body_end and child.parent < index:
            break
        if child.parent == index:
            gaps.append((position, child.header_start))
            position = child.body_end
    gaps.append((position, part.body_end))
    return gaps


def _apply(octets: bytes, edits: list[Edit]) -> bytes:
    """Make the edits; those at one place stand in the order they were given."""
    pieces: list[bytes] = []
    position = 0
    for start, end, replacement in sorted(edits, key=lambda edit: (edit[0], edit[1])):
        pieces += (octets[position:start], replacement)
        position = end
    pieces.append(octets[position:])
    return b"".join(pieces)
