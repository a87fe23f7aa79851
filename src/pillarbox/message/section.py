"""Sections of a message: BODY[2.1.MIME], HEADER.FIELDS, by packed offsets. Source: RFC 3501 §6.4.5, §9 (section).

The offsets are kept with the message, so that a section is served without parsing the message again.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import compress
from struct import Struct, iter_unpack
from typing import Final

from pillarbox.message.scan import Kind, Message
from pillarbox.model.joined import blocks, join

_RECORD: Final = Struct("<HBxIII")  # parent (0xFFFF: none), kind, header start, body start, body end
_NO_DOTS_AT: Final = 3
"""Where the first record has a 1 if no line of the content begins with a dot; what is older has a 0."""
BODY_START_AT: Final = 8
"""Where a record has the start of the body, in four octets, the lowest first."""
_BODY_START: Final = Struct("<8xI4x")
RECORD_OCTETS: Final = _RECORD.size
"""The first so many octets of packed parts are about the message itself."""
_DOTTED: Final = re.compile(rb"\n\.")  # twice as quick as `in`
_NO_PARENT: Final = 0xFFFF
MAX_SECTION_OCTETS: Final = 16 * 1024
MAX_DEPTH: Final = 100
MAX_NAMES: Final = 500

_SECTION: Final = re.compile(
    rb"((?:[1-9][0-9]{0,5}(?:\.[1-9][0-9]{0,5})*)?)\.?"
    rb"(HEADER\.FIELDS\.NOT|HEADER\.FIELDS|HEADER|TEXT|MIME|)(?: \(([^()]*)\))?",
    re.IGNORECASE,
)
HEADER_END: Final = b"\0\n"
"""Stands between headers that are looked at together: a line that is in none of them."""
CODES_END: Final = b"\xff"
"""The same between the codes of their lines."""
_FIELD_NAME: Final = re.compile(rb'"((?:[^"\\]|\\.)*)"|([^ "]+)')


@dataclass(frozen=True, slots=True)
class Section:
    """What stands in the brackets of BODY[…]."""

    path: tuple[int, ...]
    """Part numbers, outermost first; empty for the message itself."""
    what: str
    """"" (all of it), "HEADER", "TEXT", "MIME", "HEADER.FIELDS" or "HEADER.FIELDS.NOT"."""
    names: frozenset[bytes] = frozenset()
    """Field names in lower case, for the last two."""

    @property
    def selects_fields(self) -> bool:
        """True if the located header is to be passed through `select_fields`."""
        return self.what.startswith("HEADER.FIELDS")

    @property
    def inverted(self) -> bool:
        """True for HEADER.FIELDS.NOT."""
        return self.what == "HEADER.FIELDS.NOT"


@lru_cache(maxsize=256)
def parse_section(text: bytes) -> Section | None:
    """Parse the octets between the brackets; None if they are no section (the answer is BAD). Bounded: case 172."""
    if len(text) > MAX_SECTION_OCTETS:
        return None
    match = _SECTION.fullmatch(text)
    if match is None:
        return None
    digits, word, listed = match.groups()
    what = word.decode("ascii").upper()
    if bool(digits and word) != (text[len(digits) : len(digits) + 1] == b"."):
        return None
    path = tuple(int(number) for number in digits.split(b".")) if digits else ()
    if len(path) > MAX_DEPTH or (what == "MIME" and not path):
        return None
    if (listed is not None) != what.startswith("HEADER.FIELDS"):
        return None
    names = frozenset((quoted or plain).lower() for quoted, plain in _FIELD_NAME.findall(listed or b""))
    if (listed is not None and not names) or len(names) > MAX_NAMES:
        return None
    return Section(path, what, names)


def pack_parts(message: Message) -> bytes:
    """The offsets of all parts, 16 octets each; and whether dots must be looked for when it is sent by POP3."""
    pack = _RECORD.pack
    packed = bytearray().join(
        [
            pack(p.parent if p.parent >= 0 else _NO_PARENT, p.kind, p.header_start, p.body_start, p.body_end)
            for p in message.parts
        ]
    )
    packed[_NO_DOTS_AT] = not message.octets.startswith(b".") and _DOTTED.search(message.octets) is None
    return bytes(packed)


def body_starts(records: bytes) -> list[int]:
    """Where the body begins in each of several contents. `records`: the first RECORD_OCTETS of their packed parts."""
    return [start for (start,) in _BODY_START.iter_unpack(records)] if len(records) % RECORD_OCTETS == 0 else []


def all_without_dots(records: bytes) -> bool:
    """True if it is known of each of these contents that no line begins with a dot."""
    return b"\0" not in records[_NO_DOTS_AT::RECORD_OCTETS]


def locate(section: Section, parts: bytes, prefix_len: int = 0) -> list[tuple[int, int]] | None:
    """Where a section is in prefix + content, as (offset, length) pieces; None if the message has no such section.

    `parts` is what `pack_parts` made of the content. The message's own header begins with the prefix. For
    HEADER.FIELDS it is the whole header: `select_fields` picks from it.
    """
    if len(parts) < _RECORD.size:
        return None
    if not section.path:
        _, _, _, body_start, body_end = _RECORD.unpack_from(parts, 0)
        if section.what == "":
            return [(0, prefix_len + body_end)]
        if section.what == "TEXT":
            return [(prefix_len + body_start, body_end - body_start)]
        return [(0, prefix_len + body_start)]
    index = _find(section.path, parts)
    if index is None:
        return None
    _, kind, header_start, body_start, body_end = _RECORD.unpack_from(parts, index * _RECORD.size)
    if section.what == "MIME":
        if index == 0:
            return [(0, prefix_len + body_start)]
        return [(prefix_len + header_start, body_start - header_start)]
    if section.what != "":
        if kind != Kind.MESSAGE:
            return None
        # The enclosed message is the record after its part.
        _, _, header_start, body_start, body_end = _RECORD.unpack_from(parts, (index + 1) * _RECORD.size)
        if section.what != "TEXT":
            return [(prefix_len + header_start, body_start - header_start)]
    return [(prefix_len + body_start, body_end - body_start)]


def _find(path: tuple[int, ...], parts: bytes) -> int | None:
    """The index of the part with this path of numbers, or None."""
    records = list(iter_unpack(_RECORD.format, parts))
    index, inside = 0, True  # inside: the next number counts within the entity at index, which is a message
    for number in path:
        kind = records[index][1]
        if inside and kind != Kind.MULTIPART:
            if number != 1:
                return None
        else:
            if kind == Kind.MESSAGE:
                index += 1
                if records[index][1] != Kind.MULTIPART:
                    if number != 1:
                        return None
                    inside = False
                    continue
            if records[index][1] != Kind.MULTIPART:
                return None
            child = _child(records, index, number)
            if child is None:
                return None
            index = child
        inside = False
    return index


def _child(records: list[tuple[int, ...]], parent: int, number: int) -> int | None:
    """The index of the parent's child with this number, counted from 1."""
    for index in range(parent + 1, len(records)):
        if records[index][0] == parent:
            number -= 1
            if number == 0:
                return index
        elif records[index][0] < parent or records[index][0] == _NO_PARENT:
            return None
    return None


@lru_cache(maxsize=256)
def _selector(names: frozenset[bytes]) -> re.Pattern[bytes]:
    """Finds the fields of these names; begins with a literal, as that is what `re` searches for fast."""
    alternatives = b"|".join(re.escape(name) for name in sorted(names))
    return re.compile(rb"\n((?:%b)(?:[ \t]|\r?\n(?=[ \t]))*:[^\n]*(?:\n[ \t][^\n]*)*)" % alternatives, re.IGNORECASE)


def select_fields_of_all(headers: Sequence[bytes], codes: Sequence[bytes], wanted: bytes) -> list[bytes]:
    """Of many headers the lines whose codes are in `wanted`: of each an LF, its fields, and no empty line.

    `codes[i]` has an octet for each line of `headers[i]`, which all end with CRLF. What is done for all at once costs a
    third of looking at one header after the other; that each text begins with the LF before it saves a sixth of that.
    Raises ValueError if lines and codes do not fit together.
    """
    lines = join(headers, HEADER_END).split(b"\n")
    codes_of_lines = join(codes, CODES_END) + CODES_END
    if lines[-1] or len(lines) != len(codes_of_lines):
        raise ValueError("lines without codes")
    lines[-1] = HEADER_END[:1]
    chosen = [b"", *compress(lines, codes_of_lines.translate(_mask(wanted)))]
    texts = b"\n".join(blocks(chosen, b"\n")).split(HEADER_END[:1])
    texts.pop()
    if len(texts) != codes_of_lines.count(CODES_END):
        raise ValueError("a line with a NUL")
    return texts


@lru_cache(maxsize=256)
def _mask(wanted: bytes) -> bytes:
    """A table for `translate`: 1 for these codes and for the end of a header, else 0."""
    return bytes(code in wanted + CODES_END for code in range(256))


_FIELD_END: Final = re.compile(rb"\r?\n(?![ \t])")


def select_fields(header: bytes, names: frozenset[bytes], invert: bool) -> bytes:
    """The fields of `header` whose names are in `names` (lower case), or are not, in order, and an empty line.

    Lines end with CRLF in the result. Source: RFC 3501 §6.4.5 (HEADER.FIELDS, HEADER.FIELDS.NOT).
    """
    if invert:
        lines = _FIELD_END.split(header)
        found = [line for line in lines if line and line.partition(b":")[0].rstrip(b" \t\r\n").lower() not in names]
    elif names:
        found = _selector(names).findall(b"\n" + header)
    else:
        found = []
    if not found:
        return b"\r\n"
    result = b"\n".join(found) + b"\n\r\n"
    if result.count(b"\n") != result.count(b"\r\n"):
        result = result.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
    return result
