"""What the server says, as octets. Source: RFC 3501 §7, §9; RFC 5530 (response codes)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final

from pillarbox.model.flags import SYSTEM_FLAGS
from pillarbox.model.mailbox import Mailbox
from pillarbox.protocol.imap.names import SEPARATOR, encode_name

_ATOM: Final = re.compile(rb'[^\x00-\x20\x7f-\xff(){%*"\\\]]+')
_QUOTABLE: Final = re.compile(rb"[^\x00\r\n\x80-\xff]*")

BEFORE_LOGIN: Final = (b"IMAP4rev1", b"LITERAL+", b"SASL-IR", b"ID", b"ENABLE")
AFTER_LOGIN: Final = (
    b"IDLE",
    b"NAMESPACE",
    b"CHILDREN",
    b"UNSELECT",
    b"UIDPLUS",
    b"MOVE",
    b"SPECIAL-USE",
)
MECHANISMS: Final = ("SCRAM-SHA-256", "PLAIN")

SYSTEM_NAMES: Final = " ".join(SYSTEM_FLAGS)


def capabilities(logged_in: bool, may_login: bool, may_starttls: bool) -> bytes:
    """`may_login`: passwords are taken on this connection as it is (RFC 3501 §6.2.3, LOGINDISABLED)."""
    names = list(BEFORE_LOGIN)
    if logged_in:
        names += AFTER_LOGIN
    else:
        if may_starttls:
            names.append(b"STARTTLS")
        if may_login:
            names += [b"AUTH=" + name.encode("ascii") for name in MECHANISMS]
        else:
            names.append(b"LOGINDISABLED")
    return b" ".join(names)


def tagged(tag: bytes, condition: bytes, text: bytes, code: bytes = b"") -> bytes:
    """`a1 OK [code] text`; a tag of `*` makes it untagged."""
    if code:
        return b"%b %b [%b] %b\r\n" % (tag, condition, code, text)
    return b"%b %b %b\r\n" % (tag, condition, text)


def bye(text: bytes, code: bytes = b"") -> bytes:
    return tagged(b"*", b"BYE", text, code)


def quoted(octets: bytes) -> bytes:
    """A string: quoted where that can hold it, else a literal."""
    if len(octets) <= 1024 and _QUOTABLE.fullmatch(octets):
        return b'"' + octets.replace(b"\\", b"\\\\").replace(b'"', b'\\"') + b'"'
    return b"{%d}\r\n%b" % (len(octets), octets)


def astring(octets: bytes) -> bytes:
    """As an atom where that can hold it."""
    if _ATOM.fullmatch(octets) and octets.upper() != b"NIL":
        return octets
    return quoted(octets)


def mailbox_name(name: str) -> bytes:
    return astring(encode_name(name))


def flags_response(keywords: Sequence[str]) -> bytes:
    """`* FLAGS (…)`. Source: RFC 3501 §7.2.6."""
    return b"* FLAGS (%b)\r\n" % " ".join([SYSTEM_NAMES, *keywords]).encode("ascii", "replace")


def permanent_flags(keywords: Sequence[str], read_only: bool) -> bytes:
    names = "" if read_only else " ".join([SYSTEM_NAMES, *keywords, "\\*"])
    return b"* OK [PERMANENTFLAGS (%b)] Flags that are kept.\r\n" % names.encode("ascii", "replace")


def selected(mailbox: Mailbox, exists: int, recent: int, first_unseen: int, read_only: bool) -> bytes:
    """All untagged responses of SELECT and EXAMINE; `first_unseen` is a sequence number or 0. Source: §6.3.1."""
    lines = [
        flags_response(mailbox.keywords),
        permanent_flags(mailbox.keywords, read_only),
        b"* %d EXISTS\r\n* %d RECENT\r\n" % (exists, recent),
        b"* OK [UNSEEN %d] First unseen.\r\n" % first_unseen if first_unseen else b"",
        b"* OK [UIDVALIDITY %d] UIDs valid.\r\n" % mailbox.uidvalidity,
        b"* OK [UIDNEXT %d] Predicted next UID.\r\n" % mailbox.uidnext,
    ]
    return b"".join(lines)


def list_response(kind: bytes, attributes: Iterable[str], name: str) -> bytes:
    """`kind` is LIST or LSUB."""
    return b'* %b (%b) "%b" %b\r\n' % (
        kind,
        " ".join(attributes).encode("ascii"),
        SEPARATOR.encode("ascii"),
        mailbox_name(name),
    )


def status_response(name: str, values: Iterable[tuple[bytes, int]]) -> bytes:
    return b"* STATUS %b (%b)\r\n" % (mailbox_name(name), b" ".join(b"%b %d" % pair for pair in values))


def search_response(numbers: Sequence[int]) -> bytes:
    """One line; empty if nothing was found. Source: RFC 3501 §7.2.5."""
    return b"* SEARCH" + (b" %d" * len(numbers)) % tuple(numbers) + b"\r\n"


def expunge_responses(numbers: Sequence[int]) -> bytes:
    """In the order in which they are to be told."""
    return (b"* %d EXPUNGE\r\n" * len(numbers)) % tuple(numbers)


def id_response(fields: Sequence[tuple[bytes, bytes]]) -> bytes:
    return b"* ID (%b)\r\n" % b" ".join(quoted(name) + b" " + quoted(value) for name, value in fields)
