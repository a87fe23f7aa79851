"""SEARCH: keys as a tree, and which messages of a slice they match.

Substrings are compared without case, after decoding (encoded words, charsets, transfer encodings); an empty string
matches every message that has the field. What needs only placements is asked first, headers next, octets last, and
each only for the messages that are still in question. Source: RFC 3501 §6.4.4, RFC 9051 §6.4.4.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Final, TypeAlias

from pillarbox.message import encoded_word
from pillarbox.message.date import parse_date
from pillarbox.message.headers import header_end, header_values, unfold
from pillarbox.message.scan import Kind, scan
from pillarbox.message.section import select_fields
from pillarbox.message.structure import decoded_text
from pillarbox.message.text import plain_from_html
from pillarbox.message.wire import LISTED_FIELDS
from pillarbox.model.uids import UidSet, normalise

MAX_TEXT_OCTETS: Final = 1 << 26
"""Of one message's text parts; a message is not larger by default."""


@dataclass(frozen=True, slots=True)
class All:
    pass


@dataclass(frozen=True, slots=True)
class HasFlag:
    """A system flag (or \\Recent) by its bit, or a keyword by its name."""

    bit: int
    keyword: str = ""


@dataclass(frozen=True, slots=True)
class InSet:
    """Sequence numbers or UIDs, as written: 0 stands for "*"."""

    ranges: tuple[tuple[int, int], ...]
    uid: bool


@dataclass(frozen=True, slots=True)
class Size:
    octets: int
    larger: bool


@dataclass(frozen=True, slots=True)
class Dated:
    """`day` is a proleptic ordinal; `order` "<" (BEFORE), "=" (ON) or ">" (SINCE, the day itself too)."""

    order: str
    day: int
    sent: bool
    """By the Date field, as written there, instead of the internal date."""


@dataclass(frozen=True, slots=True)
class InHeader:
    """`name` in lower case; `text` folded."""

    name: bytes
    text: str


@dataclass(frozen=True, slots=True)
class InText:
    """BODY, or TEXT with `header`. `text` folded."""

    text: str
    header: bool


@dataclass(frozen=True, slots=True)
class And:
    keys: tuple[Key, ...]


@dataclass(frozen=True, slots=True)
class Or:
    one: Key
    other: Key


@dataclass(frozen=True, slots=True)
class Not:
    key: Key


Key: TypeAlias = All | HasFlag | InSet | Size | Dated | InHeader | InText | And | Or | Not


def fold(text: str) -> str:
    """Text as it is compared."""
    return text.casefold()


@dataclass(slots=True)
class Batch:
    """Messages to be looked at, as columns. `headers` and `octets` are there if the key asks for them."""

    numbers: Sequence[int]
    uids: Sequence[int]
    flags: Sequence[int]
    received_s: Sequence[int]
    sizes: Sequence[int]
    headers: Sequence[bytes] = ()
    """The listed fields (prefix included)."""
    octets: Callable[[int], bytes] = lambda index: b""
    """All of the message at an index."""
    is_wanted: bool = True
    """Made False, from any thread, when nobody waits for the answer any more: the rest matches nothing."""


@dataclass(frozen=True, slots=True)
class Searcher:
    """A search key in one mailbox: how many messages it has, its last UID, and the names of its keywords."""

    key: Key
    exists: int
    last_uid: int
    keywords: tuple[str, ...]

    def needs(self) -> tuple[bool, bool]:
        """Does it need (listed headers, octets)?"""
        level = cost(self.key)
        return _mentions_headers(self.key), level == 2

    def matches(self, batch: Batch) -> list[int]:
        """Indices of the messages that match, ascending."""
        return self._match(self.key, batch, list(range(len(batch.uids))))

    def first_pass(self) -> Searcher:
        """What of the key can be decided by placements alone: it matches all that the whole key does."""
        keys = self.key.keys if isinstance(self.key, And) else (self.key,)
        return Searcher(And(tuple(k for k in keys if cost(k) == 0)), self.exists, self.last_uid, self.keywords)

    def _match(self, key: Key, batch: Batch, among: list[int]) -> list[int]:
        if not among:
            return among
        match key:
            case All():
                return among
            case And(keys):
                for each in sorted(keys, key=cost):
                    among = self._match(each, batch, among)
                return among
            case Or(one, other):
                if cost(other) < cost(one):
                    one, other = other, one
                first = self._match(one, batch, among)
                found = set(first)
                second = self._match(other, batch, [i for i in among if i not in found])
                return sorted(first + second) if second else first
            case Not(inner):
                found = set(self._match(inner, batch, among))
                return [i for i in among if i not in found]
            case HasFlag():
                return self._with_flag(key, batch, among)
            case InSet(ranges, uid):
                return self._in_set(ranges, uid, batch, among)
            case Size(octets, larger):
                sizes = batch.sizes
                return [i for i in among if (sizes[i] > octets if larger else sizes[i] < octets)]
            case Dated():
                return _dated(key, batch, among)
            case InHeader(name, text):
                return [i for i in among if batch.is_wanted and _in_header(batch, i, name, text)]
            case InText(text, header):
                return [i for i in among if batch.is_wanted and _in_text(batch, i, text, header)]

    def _with_flag(self, key: HasFlag, batch: Batch, among: list[int]) -> list[int]:
        bit = key.bit
        if key.keyword:
            folded = key.keyword.lower()
            bit = next((1 << 5 + i for i, name in enumerate(self.keywords) if name.lower() == folded), 0)
        flags = batch.flags
        return [i for i in among if flags[i] & bit]

    def _in_set(self, ranges: tuple[tuple[int, int], ...], uid: bool, batch: Batch, among: list[int]) -> list[int]:
        wanted = resolve_set(ranges, self.last_uid if uid else self.exists)
        values = batch.uids if uid else batch.numbers
        return [i for i in among if values[i] in wanted]


def resolve_set(ranges: tuple[tuple[int, int], ...], last: int) -> UidSet:
    """The intervals with `last` for "*". In an empty mailbox "*" is nothing. Source: RFC 3501 §9 (seq-range)."""
    if not last:
        ranges = tuple(r for r in ranges if 0 not in r)
    return UidSet(normalise((a or last, b or last) for a, b in ranges))


def cost(key: Key) -> int:
    """0: placements are enough; 1: listed header fields; 2: the message itself."""
    match key:
        case InText():
            return 2
        case InHeader(name, _):
            return 1 if name in LISTED_FIELDS else 2
        case Dated():
            return 1 if key.sent else 0
        case And(keys):
            return max(map(cost, keys), default=0)
        case Or(one, other):
            return max(cost(one), cost(other))
        case Not(inner):
            return cost(inner)
    return 0


def text_keys(key: Key) -> int:
    """How many of its keys look into the messages themselves: each reads them all anew."""
    match key:
        case And(keys):
            return sum(map(text_keys, keys))
        case Or(one, other):
            return text_keys(one) + text_keys(other)
        case Not(inner):
            return text_keys(inner)
    return 1 if cost(key) == 2 else 0


def _mentions_headers(key: Key) -> bool:
    match key:
        case And(keys):
            return any(map(_mentions_headers, keys))
        case Or(one, other):
            return _mentions_headers(one) or _mentions_headers(other)
        case Not(inner):
            return _mentions_headers(inner)
    return cost(key) == 1


# --- dates ------------------------------------------------------------------------------------------------------------

_EPOCH_DAY: Final = date(1970, 1, 1).toordinal()
_WRITTEN_DATE: Final = re.compile(
    rb"(?:[A-Za-z]{3,9}\.?,?)?[ \t]*(\d{1,2})[ \t-]+([A-Za-z]{3})[A-Za-z]{0,6}[ \t-]+(\d{4})\b"
)
_MONTHS: Final = {
    name: number for number, name in enumerate(b"jan feb mar apr may jun jul aug sep oct nov dec".split(), 1)
}


def _dated(key: Dated, batch: Batch, among: list[int]) -> list[int]:
    if key.sent:
        days = {i: _sent_day(batch.headers[i]) for i in among}
    else:
        received = batch.received_s
        days = {i: received[i] // 86400 + _EPOCH_DAY for i in among}
    day = key.day
    match key.order:
        case "<":
            return [i for i, d in days.items() if d is not None and d < day]
        case "=":
            return [i for i, d in days.items() if d == day]
    return [i for i, d in days.items() if d is not None and d >= day]


def _sent_day(headers: bytes) -> int | None:
    """The day in the Date field, "disregarding time and timezone"; None without a date. Source: RFC 3501 §6.4.4."""
    field_text = select_fields(headers, frozenset((b"date",)), False)
    value = unfold(field_text.partition(b":")[2])
    written = _WRITTEN_DATE.match(value)
    if written and (month := _MONTHS.get(written[2].lower())):
        try:
            return date(int(written[3]), month, int(written[1])).toordinal()
        except ValueError:
            return None
    seconds = parse_date(value)
    return None if seconds is None else seconds // 86400 + _EPOCH_DAY


# --- text -------------------------------------------------------------------------------------------------------------


def _in_header(batch: Batch, index: int, name: bytes, text: str) -> bool:
    if name in LISTED_FIELDS:
        values = header_values(select_fields(batch.headers[index], frozenset((name,)), False), name)
    else:
        octets = batch.octets(index)
        values = header_values(octets[: header_end(octets)], name)
    if not text:
        return bool(values)
    return any(text in fold(encoded_word.decode(value)) or text in fold(_raw(value)) for value in values)


def _in_text(batch: Batch, index: int, text: str, header: bool) -> bool:
    if not text:
        return True
    octets = batch.octets(index)
    if header and text in fold(header_text(octets)):
        return True
    return any(text in fold(piece) for piece in body_texts(octets))


def header_text(octets: bytes) -> str:
    """The whole header, unfolded and decoded."""
    block = octets[: header_end(octets)]
    unfolded = re.sub(rb"\r?\n(?=[ \t])", b"", block)
    return "\n".join(encoded_word.decode(line) for line in unfolded.split(b"\n"))


def body_texts(octets: bytes) -> Iterator[str]:
    """The texts of a message's body: text parts decoded (HTML also without its tags), headers of parts within."""
    message = scan(octets)
    for number, part in enumerate(message.parts):
        if number:
            yield header_text(octets[part.header_start : part.body_start])
        if part.kind is not Kind.LEAF:
            continue
        kind = part.content_type.value
        if kind.startswith(b"text/") or not kind:
            text = decoded_text(message, part, MAX_TEXT_OCTETS)
            yield text
            if kind == b"text/html":
                yield plain_from_html(text)


def _raw(value: bytes) -> str:
    return value.decode("utf-8", "replace")
