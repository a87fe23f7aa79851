"""The first words of a message, for lists. Source: RFC 8970 §3 (at most 200 characters, no markup)."""

from __future__ import annotations

import re
from typing import Final

from pillarbox.message.scan import Kind, Message, Part
from pillarbox.message.structure import decoded_text, is_attachment
from pillarbox.message.text import plain_from_html

PREVIEW_CHARACTERS: Final = 200
_LOOK_OCTETS: Final = (1024, 32 * 1024)
"""Of the encoded text: the first usually holds enough of a plain one."""
_INVISIBLE: Final = re.compile(r"[\x00-\x08\x0e-\x1f\x7f\u00ad\u034f\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]+")


def preview(message: Message) -> str:
    """The beginning of the first text that is no attachment (plain before HTML), on one line; may be empty."""
    part = _first_text(message)
    if part is None:
        return ""
    is_html = part.content_type.value == b"text/html"
    line = ""
    for look in _LOOK_OCTETS[is_html:]:
        text = decoded_text(message, part, look)
        if is_html:
            text = plain_from_html(text, PREVIEW_CHARACTERS * 8)
        line = _one_line(text[: PREVIEW_CHARACTERS * 2])
        if len(line) < PREVIEW_CHARACTERS - 1:
            line = _one_line(text)
        if not line.isprintable():
            line = _one_line(_INVISIBLE.sub("", text))
        if len(line) >= PREVIEW_CHARACTERS - 1 or part.body_end - part.body_start <= look:
            break
    return line


def _one_line(text: str) -> str:
    """White space made single spaces, cut to size. 200 characters hold at most 100 words."""
    return " ".join(text.split(None, PREVIEW_CHARACTERS // 2))[:PREVIEW_CHARACTERS].rstrip()


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
