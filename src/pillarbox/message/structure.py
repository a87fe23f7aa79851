"""What is in a part, decoded when asked for. Source: RFC 2045 §6, RFC 2183 §2.3, RFC 2231."""

from __future__ import annotations

from pillarbox.message import charset, transfer
from pillarbox.message.parameters import ParameterField, parse_parameters
from pillarbox.message.scan import Message, Part


def raw_body(message: Message, part: Part, limit: int | None = None) -> bytes:
    """The body as received, at most `limit` octets of it."""
    end = part.body_end if limit is None else min(part.body_end, part.body_start + limit)
    return message.octets[part.body_start : end]


def decoded_body(message: Message, part: Part, limit: int | None = None) -> bytes:
    """The body without its transfer encoding; `limit` counts octets before decoding."""
    return transfer.decode(raw_body(message, part, limit), part.encoding)


def decoded_text(message: Message, part: Part, limit: int | None = None) -> str:
    """The body as text in its charset, U+FFFD for what is not in it; `limit` counts octets before decoding."""
    label = part.content_type.get(b"charset")
    octets = decoded_body(message, part, limit)
    return charset.guess(octets) if label is None else charset.decode(octets, label.decode("latin-1"))


def disposition(part: Part) -> ParameterField | None:
    """Content-Disposition, or None if there is none."""
    value = part.values.get(b"content-disposition")
    return parse_parameters(value) if value else None


def is_attachment(part: Part) -> bool:
    """True if the sender marked the part as an attachment."""
    given = disposition(part)
    return given is not None and given.value == b"attachment"


def filenames(part: Part) -> list[str]:
    """All names that a reader might give the part, the likeliest first, without duplicates (case 147)."""
    names: list[str] = []
    given = disposition(part)
    for source, name in ((given, b"filename"), (part.content_type, b"name")):
        if source is None:
            continue
        plain = source.get(name)
        names += [source.text(name) or "", "" if plain is None else charset.guess(plain)]
    return [candidate for candidate in dict.fromkeys(names) if candidate]
