"""The text of a message for search, and HTML made plain. Source: RFC 3501 §6.4.4 (SEARCH); HTML Living Standard §13.2.

HTML is reduced by finding, not by parsing: good enough to find words and show a line, never to show a page.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from typing import Final

from pillarbox.message import encoded_word
from pillarbox.message.headers import Header, unfold
from pillarbox.message.scan import Kind, scan
from pillarbox.message.structure import decoded_text, filenames

SEARCHED_FIELDS: Final = frozenset(
    b"from sender reply-to to cc bcc subject comments keywords content-description list-id organization".split()
)
TEXT_LIMIT_OCTETS: Final = 4 * 1024 * 1024
"""Of one message's text parts, before decoding."""

_TAG_NAME: Final = re.compile(r"/?([A-Za-z][A-Za-z0-9]*)|[!?/]")
_HIDDEN: Final = frozenset(("script", "style", "head", "title", "template", "noscript"))
_ENDS: Final = {name: re.compile("</" + name, re.IGNORECASE | re.ASCII) for name in _HIDDEN}
_RAW: Final = frozenset(("script", "style"))
"""Without an end, all that follows is theirs."""
_INLINE: Final = frozenset(
    (
        "a",
        "abbr",
        "b",
        "bdi",
        "bdo",
        "big",
        "code",
        "em",
        "font",
        "i",
        "kbd",
        "mark",
        "q",
        "s",
        "small",
        "span",
        "strong",
        "sub",
        "sup",
        "tt",
        "u",
    )
)


def plain_from_html(source: str, limit: int | None = None) -> str:
    """The words of an HTML text: tags and comments gone, entities read. Linear; about `limit` characters at most."""
    pieces: list[str] = []
    position, size, length = 0, len(source), 0
    unclosed: set[str] = set()  # hidden elements known to have no end further on: not searched for again
    while position < size and (limit is None or length < limit):
        opening = source.find("<", position)
        text = source[position : opening if opening >= 0 else size]
        pieces.append(text)
        length += len(text)
        if opening < 0:
            break
        match = _TAG_NAME.match(source, opening + 1)
        if match is None:  # a lone "<"
            pieces.append("<")
            position = opening + 1
            continue
        if source.startswith("<!--", opening):
            end = source.find("-->", opening + 4)
            position = end + 3 if end >= 0 else size
            continue
        closing = source.find(">", match.end())
        position = closing + 1 if closing >= 0 else size
        name = (match[1] or "").lower()
        if name in _HIDDEN and match[0][0] != "/":
            ending = _ENDS[name].search(source, position) if name not in unclosed else None
            if ending is not None:
                position = ending.start()
            elif name in _RAW:
                break
            else:
                unclosed.add(name)
        elif name not in _INLINE:
            pieces.append(" ")
    return html.unescape("".join(pieces))


def search_text(octets: bytes, limit: int = TEXT_LIMIT_OCTETS) -> Iterator[str]:
    """Decoded text to be searched: header fields that people read, text parts, names of attachments.

    Yields pieces as they are decoded, at most `limit` octets of bodies in all.
    """
    message = scan(octets)
    for part in message.parts:
        yield from _header_text(part.header)
        if part.kind is not Kind.LEAF:
            continue
        names = filenames(part)
        if names:
            yield " ".join(names)
        major = part.content_type.value
        if limit <= 0 or not major.startswith(b"text/"):
            continue
        text = decoded_text(message, part, limit)
        limit -= part.body_end - part.body_start
        yield plain_from_html(text) if major == b"text/html" else text


def _header_text(header: Header) -> Iterator[str]:
    for name, line in zip(header.names, header.lines, strict=True):
        if name in SEARCHED_FIELDS:
            value = unfold(line.partition(b":")[2])
            if value:
                yield encoded_word.decode(value)
