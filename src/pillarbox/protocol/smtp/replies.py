"""SMTP replies, and the one table from (stage, Status) to codes and texts.

The floors below the wire say what they mean as a `Status` (RFC 3463); which three digits that is depends on where in
the conversation it is said. Source: RFC 5321 §4.2, RFC 5248 (status codes and replies), RFC 4954 §6, CASES.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from typing import Final

from pillarbox.model.status import Status


class Stage(Enum):
    """Where in a session something is answered."""

    CONNECT = "connect"
    STARTTLS = "starttls"
    AUTH = "auth"
    MAIL = "mail"
    RCPT = "rcpt"
    DATA = "data"
    """The command, before the content."""
    CONTENT = "content"
    """The end of the content: the verdict on a message."""


@dataclass(frozen=True, slots=True)
class Reply:
    """`code` is 200 to 599; `text` one or several lines joined with a line feed; `status` may be missing (None)."""

    code: int
    status: Status | None
    text: str

    def encode(self) -> bytes:
        """The octets on the wire, CRLF at the end. Source: RFC 5321 §4.2.1, RFC 2034 §4 (status on each line)."""
        return _encode(self.code, self.status, self.text)


@lru_cache(maxsize=1024)
def _encode(code: int, status: Status | None, text: str) -> bytes:
    mark = f"{status} " if status else ""
    if code == 334:  # a challenge: base64 of any length (RFC 4954 §4)
        return f"334 {text}\r\n".encode()
    lines = [_clean(line) for line in text.split("\n")]
    head = "".join(f"{code}-{mark}{line}\r\n" for line in lines[:-1])
    return f"{head}{code} {mark}{lines[-1]}\r\n".encode()


_UNPRINTABLE: Final = re.compile(r"[^\x20-\x7e]")


def _clean(line: str) -> str:
    """Printable ASCII, at most 480 characters: whatever a reply quotes, it stays one line. RFC 5321 §4.5.3.1.5."""
    return _UNPRINTABLE.sub("?", line)[:480]


# Statuses whose code is the same at every stage that is not listed in _STAGED below.
_CODES: Final[dict[Status, int]] = {
    Status(4, 2, 1): 450,
    Status(4, 2, 2): 452,
    Status(4, 3, 1): 452,
    Status(4, 3, 2): 421,
    Status(4, 4, 2): 421,
    Status(4, 5, 3): 452,
    Status(4, 7, 0): 421,
    Status(4, 7, 1): 450,
    Status(5, 1, 3): 501,
    Status(5, 1, 6): 550,
    Status(5, 1, 7): 501,
    Status(5, 1, 10): 556,
    Status(5, 2, 2): 552,
    Status(5, 2, 3): 552,
    Status(5, 3, 4): 552,
    Status(5, 4, 6): 554,
    Status(5, 5, 0): 503,
    Status(5, 5, 1): 503,
    Status(5, 5, 2): 500,
    Status(5, 5, 3): 552,
    Status(5, 5, 4): 501,
    Status(5, 5, 6): 500,
    Status(5, 6, 0): 554,
    Status(5, 6, 3): 554,
    Status(5, 6, 7): 553,
    Status(5, 6, 9): 550,
    Status(5, 7, 8): 535,
    Status(5, 7, 9): 534,
    Status(5, 7, 11): 538,
}

_STAGED: Final[dict[tuple[Stage, Status], int]] = {
    (Stage.CONNECT, Status(4, 3, 0)): 421,
    (Stage.CONNECT, Status(5, 5, 0)): 554,
    (Stage.STARTTLS, Status(4, 7, 0)): 454,
    (Stage.STARTTLS, Status(4, 3, 0)): 454,
    (Stage.AUTH, Status(4, 3, 0)): 454,
    (Stage.AUTH, Status(4, 3, 2)): 454,
    (Stage.AUTH, Status(5, 5, 2)): 501,
    (Stage.AUTH, Status(5, 7, 0)): 501,
    (Stage.MAIL, Status(5, 7, 0)): 530,
    (Stage.MAIL, Status(4, 7, 0)): 451,
    (Stage.MAIL, Status(4, 7, 1)): 451,
    (Stage.RCPT, Status(4, 7, 0)): 451,
    (Stage.CONTENT, Status(4, 7, 0)): 451,
    (Stage.CONTENT, Status(4, 7, 1)): 451,
    (Stage.CONTENT, Status(5, 5, 2)): 550,
}

_TEXTS: Final[dict[Status, str]] = {
    Status(2, 0, 0): "OK",
    Status(2, 1, 0): "sender OK",
    Status(2, 1, 5): "recipient OK",
    Status(2, 6, 0): "message accepted",
    Status(2, 7, 0): "authentication succeeded",
    Status(4, 2, 1): "mailbox busy, try again later",
    Status(4, 2, 2): "mailbox full, try again later",
    Status(4, 3, 0): "trouble on our side, try again later",
    Status(4, 3, 1): "no space now, try again later",
    Status(4, 3, 2): "too busy, try again later",
    Status(4, 4, 2): "timeout, closing",
    Status(4, 4, 3): "DNS trouble, try again later",
    Status(4, 5, 3): "too many recipients, send the others later",
    Status(4, 7, 0): "try again later",
    Status(4, 7, 1): "not now, try again later",
    Status(5, 1, 1): "no such user here",
    Status(5, 1, 2): "no such domain",
    Status(5, 1, 3): "bad recipient address",
    Status(5, 1, 7): "bad sender address",
    Status(5, 1, 8): "sender domain does not exist",
    Status(5, 1, 10): "recipient domain takes no mail",
    Status(5, 2, 1): "mailbox disabled",
    Status(5, 2, 2): "mailbox full",
    Status(5, 3, 4): "message too big",
    Status(5, 4, 6): "mail loop",
    Status(5, 5, 1): "bad sequence of commands",
    Status(5, 5, 2): "syntax error",
    Status(5, 5, 4): "bad parameter",
    Status(5, 5, 6): "line too long",
    Status(5, 6, 0): "message malformed",
    Status(5, 6, 7): "address needs SMTPUTF8",
    Status(5, 7, 0): "authentication required",
    Status(5, 7, 1): "refused",
    Status(5, 7, 8): "authentication credentials invalid",
    Status(5, 7, 11): "encryption required first",
    Status(5, 7, 27): "sender domain takes no mail",
}

_BY_CLASS: Final = {2: "OK", 4: "try again later", 5: "refused"}


def reply_for(stage: Stage, status: Status, note: str = "") -> Reply:
    """The reply that says `status` at this stage; `note` (what a peer may read) replaces the usual text.

    A status that the table does not know becomes 250, 451 or 550 by its class, 454 or 535 within AUTH, 554 where
    only that is allowed. Never raises.
    """
    code = _STAGED.get((stage, status)) or _CODES.get(status) or _by_class(stage, status)
    return Reply(code, status, note or _TEXTS.get(status) or _BY_CLASS[status.klass])


def _by_class(stage: Stage, status: Status) -> int:
    match stage, status.klass:
        case Stage.CONNECT, 2:
            return 220
        case Stage.AUTH, 2:
            return 235
        case _, 2:
            return 250
        case Stage.CONNECT, 4:
            return 421
        case Stage.AUTH, 4:
            return 454
        case Stage.MAIL | Stage.RCPT, 4 if status.subject in (1, 2):
            return 450
        case _, 4:
            return 451
        case Stage.CONNECT | Stage.DATA | Stage.STARTTLS, _:
            return 554
        case Stage.AUTH, _:
            return 535
        case Stage.CONTENT, _ if status.subject in (3, 4, 5, 6):
            return 554
    return 550
