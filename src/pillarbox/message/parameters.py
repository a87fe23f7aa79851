"""Content-Type and Content-Disposition with their parameters. Source: RFC 2045 §5.1, RFC 2183, RFC 2231.

Read tolerantly: what follows a mistake is still looked at, and the first of two equal parameters counts.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Final
from urllib.parse import unquote_to_bytes

from pillarbox.message import charset, encoded_word
from pillarbox.message.defects import Defect
from pillarbox.message.limits import DEFAULT

Parameters = tuple[tuple[bytes, bytes], ...]
"""(name in lower case, value), in order. A name that ends with "*" has an extended value, `charset'language'%xx`."""


@dataclass(frozen=True, slots=True)
class ParameterField:
    """A value with parameters: `text/plain; charset=utf-8` or `attachment; filename=x`."""

    value: bytes
    """What stands before the first semicolon, lower case, without comments: b"text/plain"."""
    parameters: Parameters
    defects: frozenset[Defect] = frozenset()

    def get(self, name: bytes) -> bytes | None:
        """The raw value of a parameter (lower-case name), or None."""
        for key, value in self.parameters:
            if key == name:
                return value
        return None

    def text(self, name: bytes) -> str | None:
        """A parameter decoded: RFC 2231 first, else with encoded words (RFC 2047 forbids them; senders use them)."""
        extended = self.get(name + b"*")
        if extended is not None:
            return decode_extended(extended)
        value = self.get(name)
        return None if value is None else encoded_word.decode(value)


_PARAMETER: Final = re.compile(rb';[;\s]*([^\s;="]+)\s*=\s*(?:"([^"\\]*(?:\\.[^"\\]*)*)"?|([^;\s]*))|;', re.DOTALL)
_QUOTED_PAIR: Final = re.compile(rb"\\(.)", re.DOTALL)
_PIECE: Final = re.compile(rb"([^*]+)\*([0-9]{1,4})(\*?)")
_LEXEME: Final = re.compile(rb'[^"()\\]+|\\.?|["()]', re.DOTALL)


def parse_parameters(value: bytes) -> ParameterField:
    """Read an unfolded field value. Never fails: what cannot be read is left out."""
    if len(value) <= 200:
        return _parse_short(value)
    return _parse(value)


def _parse(value: bytes) -> ParameterField:
    defects: set[Defect] = set()
    if b"(" in value:
        value = without_comments(value)
    head, semicolon, rest = value.partition(b";")
    if not semicolon:
        return ParameterField(head.strip().lower(), ())
    found: list[tuple[bytes, bytes]] = []
    seen: set[bytes] = set()
    split = False
    for count, match in enumerate(_PARAMETER.finditer(semicolon + rest)):
        if count >= DEFAULT.parameters:
            defects.add(Defect.TOO_MANY_PARAMETERS)
            break
        name, quoted, plain = match.groups()
        if name is None:
            continue
        name = name.lower()
        if quoted is not None:
            plain = _QUOTED_PAIR.sub(rb"\1", quoted) if b"\\" in quoted else quoted
        if name in seen:
            if name == b"boundary" and dict(found).get(name) != plain:
                defects.add(Defect.AMBIGUOUS_BOUNDARY)
            continue
        seen.add(name)
        split = split or b"*" in name
        found.append((name, plain))
    return ParameterField(head.strip().lower(), _joined(found) if split else tuple(found), frozenset(defects))


_parse_short = lru_cache(maxsize=1024)(_parse)


def _joined(found: list[tuple[bytes, bytes]]) -> Parameters:
    """Put `name*0`, `name*1*` … together under `name`, or `name*` if a piece is encoded. Source: RFC 2231 §3, §4.1."""
    whole: dict[bytes, bytes] = {}
    pieces: dict[bytes, dict[int, tuple[bytes, bool]]] = {}
    for name, value in found:
        match = _PIECE.fullmatch(name)
        if match is None:
            whole[name] = value
            continue
        base = match[1]
        whole.setdefault(base + b"*", b"")  # keeps the place of the first piece
        pieces.setdefault(base, {}).setdefault(int(match[2]), (value, bool(match[3])))
    result: list[tuple[bytes, bytes]] = []
    for name, value in whole.items():
        base = name[:-1]
        if base not in pieces or not name.endswith(b"*") or value:
            result.append((name, value))
            continue
        numbered = pieces[base]
        run: list[tuple[bytes, bool]] = []
        while len(run) in numbered:
            run.append(numbered[len(run)])
        if any(encoded for _, encoded in run):
            # A plain piece among encoded ones is taken literally: its percent signs are protected.
            joined = b"".join(text if encoded else text.replace(b"%", b"%25") for text, encoded in run)
            result.append((name, joined))
        elif run and base not in whole:
            result.append((base, b"".join(text for text, _ in run)))
    return tuple(result)


def decode_extended(value: bytes) -> str:
    """Decode `charset'language'percent-encoded`; without the quotes it is taken as UTF-8. Source: RFC 2231 §4."""
    label, first, rest = value.partition(b"'")
    _, second, text = rest.partition(b"'")
    if not first or not second:
        label, text = b"utf-8", value
    return charset.decode(unquote_to_bytes(text), label.decode("latin-1"))


def without_comments(value: bytes) -> bytes:
    """Replace each comment outside of quoted strings by a space; an open one reaches to the end. RFC 5322 §3.2.2."""
    kept: list[bytes] = []
    depth, quoted = 0, False
    for match in _LEXEME.finditer(value):
        piece = match[0]
        if piece == b"(" and not quoted:
            depth += 1
            kept.append(b" ")
        elif piece == b")" and depth:
            depth -= 1
        elif depth == 0:
            quoted ^= piece == b'"'
            kept.append(piece)
    return b"".join(kept)
