"""BODY and BODYSTRUCTURE in wire form, in one walk over the parts, without recursion. Source: RFC 3501 §7.4.2, §9."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

from pillarbox.message.envelope import format_envelope, format_nstring, format_string
from pillarbox.message.parameters import Parameters, parse_parameters
from pillarbox.message.scan import Kind, Message, Part

_EMPTY_PART: Final = b'("text" "plain" ("charset" "us-ascii") NIL NIL "7bit" 0 0'
_TAIL: Final = frozenset((b"content-md5", b"content-disposition", b"content-language", b"content-location"))
_LANGUAGE: Final = re.compile(rb"[A-Za-z0-9-]+")


def format_structures(message: Message) -> tuple[bytes, bytes]:
    """(BODY, BODYSTRUCTURE): the second with extension data. Source: RFC 3501 §7.4.2."""
    parts = message.parts
    if len(parts) == 1 and parts[0].kind is Kind.LEAF:
        basic = _leaf(parts[0])
        return basic + b")", b"%b %b)" % (basic, _extension(parts[0]))
    body: list[bytes] = []
    full: list[bytes] = []
    open_: list[int] = []
    for index, part in enumerate(parts):
        while open_ and open_[-1] != part.parent:
            _close(parts[open_.pop()], body, full)
        if part.kind is Kind.MULTIPART:
            body.append(b"(")
            full.append(b"(")
            if not part.children:
                body.append(_EMPTY_PART + b")")
                full.append(_EMPTY_PART + b" NIL NIL NIL NIL)")
            open_.append(index)
            continue
        piece = _leaf(part)
        body.append(piece)
        full.append(piece)
        if part.kind is Kind.MESSAGE:
            envelope = b" %b " % format_envelope(parts[index + 1].values)
            body.append(envelope)
            full.append(envelope)
            open_.append(index)
        else:
            _close(part, body, full)
    while open_:
        _close(parts[open_.pop()], body, full)
    return b"".join(body), b"".join(full)


def _close(part: Part, body: list[bytes], full: list[bytes]) -> None:
    """What follows a part's own data and its children's."""
    if part.kind is Kind.MULTIPART:
        subtype = format_string(part.content_type.value.partition(b"/")[2])
        body.append(b" %b)" % subtype)
        parameters = format_parameters(part.content_type.parameters)
        full.append(b" %b %b %b)" % (subtype, parameters, _disposition_to_location(part)))
    elif part.kind is Kind.MESSAGE:
        body.append(b" %d)" % part.lines)
        full.append(b" %d %b)" % (part.lines, _extension(part)))
    else:
        body.append(b")")
        full.append(b" %b)" % _extension(part))


def _leaf(part: Part) -> bytes:
    """Type, parameters, id, description, encoding and size (and lines of a text), without the closing parenthesis."""
    get = part.values.get
    content_type = part.content_type
    front, is_text = _type_and_parameters(content_type.value, content_type.parameters)
    identity, description = get(b"content-id"), get(b"content-description")
    size = part.body_end - part.body_start
    if identity is None and description is None:
        middle = b"NIL NIL"
    else:
        middle = b"%b %b" % (format_nstring(identity), format_nstring(description))
    encoding = format_string(part.encoding)
    if is_text:
        return b"%b %b %b %d %d" % (front, middle, encoding, size, part.lines)
    return b"%b %b %b %d" % (front, middle, encoding, size)


def _type_and_parameters(value: bytes, parameters: Parameters) -> tuple[bytes, bool]:
    if sum(len(item) for _, item in parameters) <= 100:
        return _type_and_parameters_short(value, parameters)
    return _format_type(value, parameters)


def _format_type(value: bytes, parameters: Parameters) -> tuple[bytes, bool]:
    major, _, minor = value.partition(b"/")
    is_text = major == b"text"
    if is_text and not any(name in (b"charset", b"charset*") for name, _ in parameters):
        parameters = (*parameters, (b"charset", b"us-ascii"))  # the default of RFC 2046 §4.1.2, said aloud
    return b"(%b %b %b" % (format_string(major), format_string(minor), format_parameters(parameters)), is_text


_type_and_parameters_short = lru_cache(maxsize=512)(_format_type)


def format_parameters(parameters: Parameters) -> bytes:
    """("name" "value" …) or NIL."""
    if not parameters:
        return b"NIL"
    return b"(%b)" % b" ".join(b"%b %b" % (format_string(name), format_string(value)) for name, value in parameters)


def _extension(part: Part) -> bytes:
    """md5, disposition, language, location of a part that is no multipart."""
    if _TAIL.isdisjoint(part.values):
        return b"NIL NIL NIL NIL"
    return b"%b %b" % (format_nstring(part.values.get(b"content-md5")), _disposition_to_location(part))


def _disposition_to_location(part: Part) -> bytes:
    get = part.values.get
    disposition = get(b"content-disposition")
    shown = b"NIL"
    if disposition:
        parsed = parse_parameters(disposition)
        if parsed.value:
            shown = b"(%b %b)" % (format_string(parsed.value), format_parameters(parsed.parameters))
    return b"%b %b %b" % (shown, _language(get(b"content-language")), format_nstring(get(b"content-location")))


def _language(value: bytes | None) -> bytes:
    """One tag as a string, several as a list. Source: RFC 3282 §2."""
    tags = _LANGUAGE.findall(value)[:64] if value else []
    if not tags:
        return b"NIL"
    if len(tags) == 1:
        return format_string(tags[0])
    return b"(%b)" % b" ".join(format_string(tag) for tag in tags)
