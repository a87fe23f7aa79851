"""Messages that we write ourselves: header fields encoded and folded, entities put together.

An entity is octets: its MIME fields, an empty line, its body. Received mail never passes through here.
Source: RFC 5322 §2.2, §3; RFC 2045-2047; RFC 2231; RFC 6532.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Iterable, Sequence
from typing import Final

from pillarbox.message import encoded_word

LINE: Final = 78
"""Characters of a header line that we write, where it can be folded. Source: RFC 5322 §2.1.1."""
MAX_LINE: Final = 998

_NAME: Final = re.compile(r"[!-9;-~]+")
_FORBIDDEN: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_ATOMS: Final = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(?: [A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*")
_TOKEN: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`{|}~-]+")
_LINE_END: Final = re.compile(rb"\r\n|\r|\n")


def format_field(name: str, value: str, *, utf8: bool = False) -> bytes:
    """An unstructured field: encoded words where needed (raw UTF-8 if `utf8`, RFC 6532), folded, ended by CRLF.

    Raises: ValueError, if name or value hold what would end the field (case 139).
    """
    text = check(value) if utf8 else encoded_word.encode(check(value))
    if any(len(word) > MAX_LINE - 20 for word in text.split(" ")):
        raise ValueError("a word of a header field is too long for a line")
    return structured_field(name, text)


def structured_field(name: str, value: str) -> bytes:
    """A field whose value is in its final form; folded at spaces, ended by CRLF. Raises: ValueError as format_field."""
    if not _NAME.fullmatch(name) or not name.isascii():
        raise ValueError("not a field name")
    lines: list[str] = []
    line = f"{name}:"
    for word in check(value).split(" "):
        if len(line) + 1 + len(word) > LINE and line.strip() and not line.endswith(":") and word:
            lines.append(line)
            line = ""
        line += f" {word}"
    lines.append(line)
    return "\r\n".join(lines).rstrip(" ").encode("utf-8", "replace") + b"\r\n"


def check(value: str) -> str:
    """The value itself. Raises: ValueError, if it holds a control character other than tab."""
    if _FORBIDDEN.search(value):
        raise ValueError("a control character in a header field")
    return value


def format_mailbox(display_name: str, addr_spec: str, *, utf8: bool = False) -> str:
    """`Name <local@domain>`, the name as atoms, a quoted string or encoded words; the bare address without a name."""
    check(addr_spec)
    if any(char in addr_spec for char in "<>,;() "):
        # Inside quotes these are lawful; outside they would make another address of it.
        quoted = addr_spec.startswith('"') and '"@' in addr_spec
        if not quoted or any(char in addr_spec.rpartition('"@')[2] for char in "<>,;() "):
            raise ValueError("not an address")
    if not display_name:
        return addr_spec
    if _ATOMS.fullmatch(check(display_name)) and "=?" not in display_name:
        name = display_name
    elif display_name.isascii() or utf8:
        escaped = display_name.replace("\\", "\\\\").replace('"', '\\"')
        name = f'"{escaped}"'
    else:
        name = encoded_word.encode(display_name)
    return f"{name} <{addr_spec}>"


def format_parameter(name: str, value: str) -> str:
    """`; name=value`: a token, a quoted string, or RFC 2231 in UTF-8."""
    if _TOKEN.fullmatch(value):
        return f"; {name}={value}"
    if value.isascii():
        escaped = check(value).replace("\\", "\\\\").replace('"', '\\"')
        return f'; {name}="{escaped}"'
    encoded = "".join(
        chr(octet) if (chr(octet).isalnum() and octet < 128) or octet in b".-_~" else f"%{octet:02X}"
        for octet in check(value).encode("utf-8", "replace")
    )
    return f"; {name}*=utf-8''{encoded}"


def text_entity(text: str, subtype: str = "plain") -> bytes:
    """A text part: 7bit where that is possible, else quoted-printable or base64 in UTF-8."""
    octets = _LINE_END.sub(b"\r\n", text.encode("utf-8", "replace"))
    charset = "us-ascii" if octets.isascii() else "utf-8"
    encoding, body = encode_body(octets)
    head = f"Content-Type: text/{subtype}; charset={charset}\r\nContent-Transfer-Encoding: {encoding}\r\n\r\n"
    return head.encode("ascii") + body


def encode_body(octets: bytes, *, is_text: bool = True) -> tuple[str, bytes]:
    """(transfer encoding, body): the lightest one that makes lines of 7-bit octets of it. Source: RFC 2045 §6.2."""
    if is_text and octets.isascii() and b"\0" not in octets and not _has_odd_lines(octets):
        return "7bit", octets
    high = len(octets) - len(octets.translate(None, bytes(range(128, 256))))
    if is_text and high * 3 <= len(octets) and octets.count(b"\r") == octets.count(b"\n") == octets.count(b"\r\n"):
        return "quoted-printable", quoted_printable(octets)
    return "base64", base64.encodebytes(octets).replace(b"\n", b"\r\n")


def _has_odd_lines(octets: bytes) -> bool:
    """True for lines over 998 octets, or line ends other than CRLF."""
    lines = octets.count(b"\r\n")
    if octets.count(b"\r") != lines or octets.count(b"\n") != lines:
        return True
    return any(len(line) > MAX_LINE for line in octets.split(b"\r\n"))


def quoted_printable(octets: bytes) -> bytes:
    """Text with CRLF line ends in quoted-printable, lines of at most 76 characters. Source: RFC 2045 §6.7."""
    lines = octets.split(b"\r\n")
    return b"\r\n".join(binascii.b2a_qp(line, istext=False).replace(b"=\n", b"=\r\n") for line in lines)


def multipart_entity(subtype: str, entities: Sequence[bytes], parameters: Iterable[tuple[str, str]] = ()) -> bytes:
    """A multipart of the entities, with a boundary that none of them holds. Source: RFC 2046 §5.1."""
    digest = hashlib.blake2b(digest_size=15)
    for entity in entities:
        digest.update(entity)
    boundary = f"=_{digest.hexdigest()}"
    while any(boundary.encode() in entity for entity in entities):
        boundary = f"{boundary}_"
    extra = "".join(format_parameter(name, value) for name, value in parameters)
    head = structured_field("Content-Type", f'multipart/{subtype}{extra}; boundary="{boundary}"')
    line = f"--{boundary}".encode()
    pieces = [b"%b\r\n%b\r\n" % (line, entity) for entity in entities]
    return b"%b\r\n%b%b--\r\n" % (head, b"".join(pieces), line)


def build_message(fields: Iterable[bytes], entity: bytes) -> bytes:
    """A message: its header fields as made by format_field and structured_field, then the entity."""
    return b"".join([*fields, b"MIME-Version: 1.0\r\n", entity])
