"""The first words of a message, for lists. Source: RFC 8970 §3 (at most 200 characters, no markup)."""

from __future__ import annotations

import re
from typing import Final

from pillarbox.message.scan import Kind, Message, Part
from pillarbox.message.structure import decoded_text, is_attachment
from pillarbox.message.text import plain_from_html

PREVIEW_CHARACTERS: Final = 200
_LOOK_OCTETS: Final = {b"text/plain": 2048, b"text/html": 32 * 1024}
_INVISIBLE: Final = re.compile(r"[\x00-\x08\x0e-\x1f\x7f\u00ad\u034f\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]+")


def preview(message: Message) -> str:
    """The beginning of the first text that is no attachment (plain before HTML), on one line; may be empty."""
    part = _first_text(message)
    if part is None:
        return ""
    kind = part.content_type.value
    text = decoded_text(message, part, _LOOK_OCTETS.get(kind, 2048))
    if kind == b"text/html":
        text = plain_from_html(text, PREVIEW_CHARACTERS * 8)
    if not text.isascii() or not text.isprintable():
        text = _INVISIBLE.sub("", text)
    return " ".join(text[: PREVIEW_CHARACTERS * 10].split())[:PREVIEW_CHARACTERS].rstrip()


def _first_text(message: Message) -> Part | None:
    other: Part | None = None
    for part in message.parts[:50]:
        if part.kind is not Kind.LEAF or not part.content_type.value.startswith(b"text/"):
            continue
        if part.body_end <= part.body_start or is_attachment(part):
            continue
        if part.content_type.value == b"text/plain":
            return part
        if other is None:
            other = part
    return other
