"""FETCH: what is asked for, which columns of the store answer it, and the octets of the answer.

Most answers stand ready in the store; then a slice of some 1,000 messages is written by one join over its columns.
Only sections of bodies are put together message by message. Source: RFC 3501 §6.4.5, §7.4.2.
"""

from __future__ import annotations

import re
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeAlias

from pillarbox.message.section import Section, locate, parse_section, select_fields, select_fields_of_all
from pillarbox.message.wire import FIELD_CODES, LISTED_FIELDS
from pillarbox.model.flags import flag_names
from pillarbox.model.joined import blocks
from pillarbox.protocol.imap.columns import LENGTHS, date_columns, number_texts
from pillarbox.protocol.imap.lexer import Lexer, ParseError

RECENT: Final = 1 << 64
"""\\Recent among flag bits: over the 64 that the store keeps."""
MAX_ITEMS: Final = 200
MAX_TIMES: Final = 10
"""How often one FETCH may ask for the same octets of a message."""
PIECE_OCTETS: Final = 1 << 16
"""Octets of a message that are handed out before more items of it are looked at."""
_NAME: Final = re.compile(rb"[A-Za-z0-9.]{1,40}")

SIMPLE: Final = frozenset(
    (b"UID", b"FLAGS", b"INTERNALDATE", b"RFC822.SIZE", b"ENVELOPE", b"BODY", b"BODYSTRUCTURE")
)  # fmt: skip
MACROS: Final = {
    b"ALL": (b"FLAGS", b"INTERNALDATE", b"RFC822.SIZE", b"ENVELOPE"),
    b"FAST": (b"FLAGS", b"INTERNALDATE", b"RFC822.SIZE"),
    b"FULL": (b"FLAGS", b"INTERNALDATE", b"RFC822.SIZE", b"ENVELOPE", b"BODY"),
}
_OLD_SECTIONS: Final = {
    b"RFC822": (Section((), ""), False),
    b"RFC822.HEADER": (Section((), "HEADER"), True),
    b"RFC822.TEXT": (Section((), "TEXT"), False),
}
_IN_PREFIX: Final = frozenset((b"delivered-to", b"return-path", b"received"))


@dataclass(frozen=True, slots=True)
class FetchItem:
    """One thing asked for. `label` is how the answer names it; a section has `section`, and the range it is cut to."""

    label: bytes
    section: Section | None = None
    peek: bool = True
    partial: tuple[int, int] | None = None
    """(offset, length)."""

    def is_listed(self) -> bool:
        """Can the fields asked for be cut from the `headers` column?"""
        section = self.section
        return (
            section is not None
            and section.what == "HEADER.FIELDS"
            and not section.path
            and section.names <= LISTED_FIELDS
        )


# --- grammar ----------------------------------------------------------------------------------------------------------


def parse_fetch_items(lexer: Lexer) -> tuple[FetchItem, ...]:
    """What follows the sequence set. Raises ParseError. Source: RFC 3501 §9 (fetch, fetch-att)."""
    items: dict[FetchItem, None] = {}
    if not lexer.open():
        name = lexer.match(_NAME, "fetch item").upper()
        if name in MACROS:
            return tuple(FetchItem(label) for label in MACROS[name])
        return (_parse_item(lexer, name),)
    while True:
        items[_parse_item(lexer, lexer.match(_NAME, "fetch item").upper())] = None
        if len(items) > MAX_ITEMS:
            raise ParseError("too many fetch items")
        if lexer.close():
            _check_sections(items)
            return tuple(items)
        lexer.space()


def _check_sections(items: Iterable[FetchItem]) -> None:
    """Raises ParseError if the answer could be many times as long as the message: sections may repeat, as partials or
    with different field names, and hold one another."""
    contents: Counter[tuple[int, ...]] = Counter()
    headers: Counter[tuple[int, ...]] = Counter()
    for item in items:
        if item.section:
            (contents if item.section.what in ("", "TEXT") else headers)[item.section.path] += 1
    if contents.total() + headers.total() <= MAX_TIMES:
        return
    for path in contents.keys() | headers.keys():
        if headers[path] + sum(contents[path[:length]] for length in range(len(path) + 1)) > MAX_TIMES:
            raise ParseError(f"the same octets are asked for more than {MAX_TIMES} times")


def _parse_item(lexer: Lexer, name: bytes) -> FetchItem:
    if name in (b"BODY", b"BODY.PEEK") and lexer.take(b"["):
        return _parse_section(lexer, peek=name == b"BODY.PEEK")
    if name in SIMPLE:
        return FetchItem(name)
    if name in _OLD_SECTIONS:
        section, peek = _OLD_SECTIONS[name]
        return FetchItem(name, section, peek)
    raise ParseError("unknown fetch item")


def _parse_section(lexer: Lexer, peek: bool) -> FetchItem:
    end = lexer.octets.find(b"]", lexer.at)
    if end < 0:
        raise ParseError("] expected")
    text = lexer.octets[lexer.at : end]
    section = parse_section(text)
    if section is None:
        raise ParseError("bad section")
    lexer.at = end + 1
    head, paren, names = text.partition(b"(")
    label = b"BODY[" + head.upper() + paren + names + b"]"
    if not lexer.take(b"<"):
        return FetchItem(label, section, peek)
    offset = lexer.long_number()
    lexer.expect(b".", "partial")
    length = lexer.long_number()
    lexer.expect(b">", "partial")
    if length == 0:
        raise ParseError("an empty partial")
    return FetchItem(b"%b<%d>" % (label, offset), section, peek, (offset, length))


# --- the plan ---------------------------------------------------------------------------------------------------------


class FlagTexts(dict[int, bytes]):
    """Bits → the names of flags, as they stand in an answer; made when first asked for."""

    def __init__(self, keywords: Sequence[str] = ()) -> None:
        super().__init__()
        self.keywords = list(keywords)

    def __missing__(self, bits: int) -> bytes:
        names = flag_names(bits & ~RECENT, self.keywords)
        if bits & RECENT:
            names.append("\\Recent")
        text = " ".join(names).encode("ascii", "replace")
        if len(self) < 65536:
            self[bits] = text
        return text


class Rows(Protocol):
    """The placements of a slice: columns of equal length."""

    uids: array[int]
    emails: array[int]
    received_s: array[int]
    sizes: array[int]


@dataclass(frozen=True, slots=True)
class Read:
    """Octets of an email (prefix + content) to be put here. `finish` makes the answer's octets of them, if given."""

    email: int
    offset: int
    length: int
    finish: Callable[[bytes], bytes] | None = None


Piece: TypeAlias = bytes | Read
Form: TypeAlias = tuple[Any, ...]


class FetchPlan:
    """How a FETCH is answered: the columns to ask the store for, and how rows become octets.

    `marks_seen`: the messages become \\Seen, and their FLAGS are told with that (RFC 3501 §6.4.5).
    """

    def __init__(self, items: Sequence[FetchItem], uid: bool, read_only: bool = False) -> None:
        self.marks_seen = not read_only and any(not item.peek for item in items)
        labels = [item.label for item in items]
        chosen = list(items)
        if self.marks_seen and b"FLAGS" not in labels:
            chosen.insert(0, FetchItem(b"FLAGS"))
        if uid and b"UID" not in labels:
            chosen.insert(0, FetchItem(b"UID"))
        self.items = tuple(chosen)
        self.needs_octets = any(item.section and not item.is_listed() for item in chosen)
        self.columns = self._columns()
        self.needs_flags = any(item.label == b"FLAGS" for item in chosen)
        self._pieces = self._row_pieces()

    def _columns(self) -> tuple[str, ...]:
        columns: dict[str, None] = {}
        for item in self.items:
            if item.label in _READY:
                columns[_READY[item.label]] = None
            elif item.section and item.is_listed():
                columns |= {"headers": None, "field_codes": None}
                if item.section.names & _IN_PREFIX:
                    columns["prefix"] = None
        if self.needs_octets:
            columns |= {"prefix": None, "parts": None, "data": None}
        return tuple(columns)

    # --- all from columns

    def _row_pieces(self) -> list[bytes]:
        """An answer as holes (empty octets, at even places) for the columns, and literal octets after each, up to the
        number of the next answer."""
        texts = [_TEMPLATES.get(item.label) or _list_template(item) for item in self.items]
        pieces = [b""]
        before = b" FETCH ("
        for first, *others, last in texts:
            pieces.append(before + first)
            for other in others:
                pieces += [b"", other]
            pieces.append(b"")
            before = last + b" "
        return [*pieces, before[:-1] + b")\r\n* "]

    def format_rows(
        self, numbers: Sequence[int], rows: Rows, flags: list[bytes], stored: Sequence[Sequence[Any]]
    ) -> list[bytes]:
        """The answers for a slice when `needs_octets` is false, to be sent one after the other. `flags`: texts, if
        `needs_flags`; `stored`: the columns asked for.

        The columns are laid into a list of pieces with strides, and joined: five times as fast as `%`.
        """
        count = len(numbers)
        if not count:
            return []
        by_name = dict(zip(self.columns, stored, strict=True))
        columns: list[Sequence[bytes]] = [number_texts(numbers)]
        for item in self.items:
            match item.label:
                case b"UID":
                    columns.append(number_texts(rows.uids))
                case b"FLAGS":
                    columns.append(flags)
                case b"INTERNALDATE":
                    columns += date_columns(rows.received_s)
                case b"RFC822.SIZE":
                    columns.append(number_texts(rows.sizes))
                case b"ENVELOPE" | b"BODY" | b"BODYSTRUCTURE":
                    columns.append(by_name[_READY[item.label]])
                case _:
                    columns += _listed_columns(item, by_name)
        stride = len(self._pieces)
        pieces = [b"* ", *self._pieces * count]
        for place, column in enumerate(columns):
            pieces[2 * place + 1 :: stride] = column
        pieces[-1] = pieces[-1][:-2]
        return blocks(pieces)

    # --- with octets of bodies

    def message_pieces(self, number: int, rows: Rows, index: int, flags: bytes, form: Form) -> Iterator[Piece]:
        """The answer for one message of a slice: octets, and reads of what is not in the row."""
        values = dict(zip(self.columns, form, strict=True))
        prefix, data, parts = values["prefix"], values["data"], values["parts"]
        whole = None if data is None else prefix + data
        size = len(whole) if whole is not None else rows.sizes[index]
        out: list[bytes] = []
        lead = b"* %d FETCH (" % number
        for item in self.items:
            out.append(lead)
            lead = b" "
            match item.label:
                case b"UID":
                    out.append(b"UID %d" % rows.uids[index])
                case b"FLAGS":
                    out.append(b"FLAGS (%b)" % flags)
                case b"INTERNALDATE":
                    day, minute, second = (column[0] for column in date_columns(rows.received_s[index : index + 1]))
                    out.append(b'INTERNALDATE "%b %b%b +0000"' % (day, minute, second))
                case b"RFC822.SIZE":
                    out.append(b"RFC822.SIZE %d" % rows.sizes[index])
                case b"ENVELOPE" | b"BODY" | b"BODYSTRUCTURE":
                    out.append(b"%b %b" % (item.label, values[_READY[item.label]]))
                case _:
                    place = _place(item, parts, len(prefix), size)
                    if place is None:
                        out.append(item.label + b" NIL")
                    elif whole is not None:
                        out.append(_from_memory(item, whole, *place))
                    else:
                        yield from _from_disk(item, rows.emails[index], b"".join(out), *place)
                        out.clear()
            if len(out[-1] if out else b"") >= PIECE_OCTETS:
                yield b"".join(out)
                out.clear()
        out.append(b")\r\n")
        yield b"".join(out)


_READY: Final = {b"ENVELOPE": "envelope", b"BODY": "body", b"BODYSTRUCTURE": "bodystructure"}
_TEMPLATES: Final = {
    b"UID": (b"UID ", b""),
    b"FLAGS": (b"FLAGS (", b")"),
    b"INTERNALDATE": (b'INTERNALDATE "', b" ", b"", b' +0000"'),
    b"RFC822.SIZE": (b"RFC822.SIZE ", b""),
    b"ENVELOPE": (b"ENVELOPE ", b""),
    b"BODY": (b"BODY ", b""),
    b"BODYSTRUCTURE": (b"BODYSTRUCTURE ", b""),
}
"""What stands before, between and after the columns of an item."""


def _listed_columns(item: FetchItem, by_name: Mapping[str, Sequence[Any]]) -> tuple[list[bytes], list[bytes]]:
    """Lengths and texts of a list of header fields. Each text begins with the LF after its length, and the empty line
    that ends it is in the template."""
    assert item.section is not None
    names, headers = item.section.names, by_name["headers"]
    try:
        texts = select_fields_of_all(headers, by_name["field_codes"], b"".join(map(FIELD_CODES.__getitem__, names)))
    except ValueError:  # an odd message among them
        texts = [b"\n" + select_fields(header, names, False)[:-2] for header in headers]
    if names & _IN_PREFIX:
        ours = (select_fields(prefix, names & _IN_PREFIX, False)[:-2] for prefix in by_name["prefix"])
        texts = [b"\n" + own + text[1:] for own, text in zip(ours, texts, strict=True)]
    if item.partial:
        texts = [b"\n" + _clip(text[1:] + b"\r\n", item.partial) for text in texts]
    rest = -1 if item.partial else 1
    return [LENGTHS[len(text) + rest] for text in texts], texts


def _list_template(item: FetchItem) -> tuple[bytes, ...]:
    return item.label + b" {", b"}\r", b"" if item.partial else b"\r\n"


def _place(item: FetchItem, parts: bytes, prefix_length: int, size: int) -> tuple[int, int] | None:
    """(offset, length) in prefix + content, cut to the partial unless fields are still to be selected."""
    assert item.section is not None
    if not item.section.path and item.section.what == "":
        offset, length = 0, size
    else:
        pieces = locate(item.section, parts, prefix_length)
        if not pieces:
            return None
        offset, length = pieces[0]
        length = max(0, min(length, size - offset))
    if item.partial and not item.section.selects_fields:
        skip = min(item.partial[0], length)
        return offset + skip, min(item.partial[1], length - skip)
    return offset, length


def _from_memory(item: FetchItem, whole: bytes, offset: int, length: int) -> bytes:
    octets = whole if length == len(whole) else whole[offset : offset + length]
    assert item.section is not None
    if item.section.selects_fields:
        octets = _selected(item, octets)
    return b"%b {%d}\r\n%b" % (item.label, len(octets), octets)


def _from_disk(item: FetchItem, email: int, before: bytes, offset: int, length: int) -> Iterator[Piece]:
    assert item.section is not None
    if item.section.selects_fields:
        yield before

        def finish(octets: bytes) -> bytes:
            selected = _selected(item, octets)
            return b"%b {%d}\r\n%b" % (item.label, len(selected), selected)

        yield Read(email, offset, length, finish)
    else:
        yield b"%b%b {%d}\r\n" % (before, item.label, length)
        if length:
            yield Read(email, offset, length)


def _selected(item: FetchItem, header: bytes) -> bytes:
    assert item.section is not None
    text = select_fields(header, item.section.names, item.section.inverted)
    return _clip(text, item.partial) if item.partial else text


def _clip(text: bytes, partial: tuple[int, int]) -> bytes:
    return text[partial[0] : partial[0] + partial[1]]
