"""What a whole message must be to be taken: a header that all readers read alike, no loop, an honest author.

Each check raises Refused. Source: RFC 5321 §6.3 (loops), RFC 5322 §3.6, RFC 6409 §6.1; cases 74, 96, 123, 124.
"""

from __future__ import annotations

from typing import Final

from pillarbox.mail.route import Router
from pillarbox.message.defects import Defect
from pillarbox.message.fields import parse_addresses
from pillarbox.message.scan import Message, scan
from pillarbox.model.address import Address, make_address
from pillarbox.model.errors import Refused
from pillarbox.model.mailbox import Account
from pillarbox.model.status import Status

_CONTENT: Final = Status(5, 6, 0)

_REFUSED_DEFECTS: Final = {
    Defect.HEADER_TOO_LARGE: "header-too-large",
    Defect.TOO_MANY_FIELDS: "too-many-fields",
    Defect.FIELD_TOO_LARGE: "field-too-large",
    Defect.LEADING_CONTINUATION: "malformed-header",
    Defect.FOLDED_NAME: "malformed-header",
    Defect.DUPLICATE_FROM: "two-authors",
}
"""A missing From is taken: real programs send such mail, and DMARC, which needs an author, is not checked yet.
A space before the colon is obsolete syntax (RFC 5322 §4.5), and refused only for the field it is used to forge."""
_LOOP: Final = Status(5, 4, 6)


def check_header(message: Message, submitted: bool = False) -> None:
    """Refuse what readers would disagree on (5.6.0); two authors are no user's own mail (5.7.1; case 74)."""
    if message.defects:
        if submitted and message.root.header.names.count(b"from") > 1:
            raise Refused(Status(5, 7, 1), "author", "there are several From fields")
        for defect in message.defects:
            if defect in _REFUSED_DEFECTS and _is_in_header(message, defect):
                raise Refused(_CONTENT, _REFUSED_DEFECTS[defect], f"the header is not acceptable ({defect.value})")
        if Defect.SPACE_BEFORE_COLON in message.defects and _has_spaced_from(message):
            raise Refused(_CONTENT, "malformed-header", "space before the colon of From")


def _is_in_header(message: Message, defect: Defect) -> bool:
    """Defects are of the whole message; only its own header concerns the door."""
    if len(message.parts) == 1 or defect is Defect.DUPLICATE_FROM:
        return True
    return defect in scan(_header(message)).defects


def _header(message: Message) -> bytes:
    return message.octets[: message.root.body_start]


def _has_spaced_from(message: Message) -> bool:
    header = message.root.header
    return any(
        name == b"from" and line.partition(b":")[0].endswith((b" ", b"\t"))
        for name, line in zip(header.names, header.lines, strict=True)
    )


def count_hops(message: Message) -> int:
    """How many Received fields the message came with."""
    return message.root.header.names.count(b"received")


def check_hops(hops: int, limit: int) -> None:
    """Refuse what has passed through too many hosts (5.4.6)."""
    if hops >= limit:
        raise Refused(_LOOP, "too-many-hops", "too many hops, this message is looping")


def delivered_to(message: Message) -> frozenset[str]:
    """The addresses, lower case, of the Delivered-To fields the message came with."""
    if b"delivered-to" not in message.root.values:
        return frozenset()
    values = message.root.header.all_values(b"delivered-to")
    return frozenset(value.decode("utf-8", "replace").casefold() for value in values)


async def check_author(message: Message, account: Account, router: Router) -> None:
    """An authenticated sender is the author: one From field, every mailbox in it their own (5.7.1; case 74)."""
    authors = message.root.header.names.count(b"from")
    if not authors:
        return
    assert authors == 1, "check_header has refused two"
    found = parse_addresses(message.root.values[b"from"])
    mailboxes = found.mailboxes
    if not mailboxes or found.defects:
        raise Refused(Status(5, 7, 1), "author", "the From field is not a list of addresses")
    for mailbox in mailboxes:
        address = _address(mailbox.local or b"", mailbox.domain or b"")
        if address is None or not await router.reaches(address, account):
            raise Refused(Status(5, 7, 1), "author", "the From field names an address that is not yours")


def _address(local: bytes, domain: bytes) -> Address | None:
    try:
        return make_address(local.decode(), domain.decode())
    except UnicodeDecodeError:
        return None
