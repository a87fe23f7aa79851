"""The rules of an SMTP session as tables: states and moves, what is configured, and the replies that never change.

Source: RFC 5321 §4.1.4 (order), §4.2 (replies); the extensions' RFCs as named in `server.py`; CASES 51–83.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, IntEnum
from functools import lru_cache
from typing import Final

from pillarbox.model.settings import Limits
from pillarbox.model.status import Status
from pillarbox.protocol.smtp.replies import Reply


class Mode(Enum):
    """What kind of server: for other servers' mail, for users' mail, or for final delivery (LMTP)."""

    MX = "smtp"
    SUBMISSION = "submission"
    LMTP = "lmtp"


@dataclass(frozen=True, slots=True, eq=False)
class SmtpConfig:
    """What a listener's sessions have in common; one object for all of them, as EHLO replies are kept for each."""

    hostname: str
    mode: Mode = Mode.MX
    limits: Limits = field(default_factory=Limits)
    has_starttls: bool = False
    mechanisms: tuple[str, ...] = ()
    """SASL mechanisms to offer; see `sasl.MECHANISMS`."""
    allows_cleartext_login: bool = False
    announces_dsn: bool = False
    allows_binary: bool = False
    """BODY=BINARYMIME (RFC 3030)."""


class State(IntEnum):
    """Where the session is."""

    FRESH = 0
    """No EHLO yet, or not since STARTTLS."""
    READY = 1
    MAIL = 2
    """MAIL was accepted, no recipient yet."""
    RCPT = 3
    CONTENT = 4
    """Between DATA and the end of the message."""
    CHUNKING = 5
    """Between chunks, after the first BDAT."""
    CHUNK = 6
    """Within a chunk."""
    AUTH = 7
    """The client's next line is a response."""
    SECURING = 8
    """Deaf until the handshake is over."""
    OVER = 9


_IN_TRANSACTION: Final = (State.MAIL, State.RCPT, State.CHUNKING)
_ANY: Final = (State.FRESH, State.READY, *_IN_TRANSACTION)

MOVES: Final[dict[tuple[State, bytes], State]] = {
    **{(state, verb): State.READY for state in _ANY for verb in (b"EHLO", b"HELO", b"LHLO")},
    **{(state, b"RSET"): State.READY for state in _ANY[1:]},
    (State.FRESH, b"RSET"): State.FRESH,
    (State.READY, b"STARTTLS"): State.SECURING,
    (State.READY, b"AUTH"): State.READY,
    (State.READY, b"MAIL"): State.MAIL,
    (State.MAIL, b"RCPT"): State.RCPT,
    (State.RCPT, b"RCPT"): State.RCPT,
    (State.RCPT, b"DATA"): State.CONTENT,
    (State.RCPT, b"BDAT"): State.CHUNK,
    (State.CHUNKING, b"BDAT"): State.CHUNK,
}
"""(where we are, what was said) → where success leads. What is not here is out of order. Source: RFC 5321 §4.1.4."""

OK: Final = Reply(250, Status(2, 0, 0), "OK")
MAIL_OK: Final = Reply(250, Status(2, 1, 0), "sender OK")
RCPT_OK: Final = Reply(250, Status(2, 1, 5), "recipient OK")
GO_AHEAD: Final = Reply(354, None, "end the message with a dot on a line by itself")
TLS_GO_AHEAD: Final = Reply(220, Status(2, 0, 0), "go ahead")
AUTH_OK: Final = Reply(235, Status(2, 7, 0), "authentication succeeded")

BYE: Final = Reply(221, Status(2, 0, 0), "bye")
BAD_SEQUENCE: Final = Reply(503, Status(5, 5, 1), "bad sequence of commands")
HELLO_FIRST: Final = Reply(503, Status(5, 5, 1), "say hello first")
NO_RECIPIENTS: Final = Reply(503, Status(5, 5, 1), "no valid recipients")
NOT_WAITED: Final = Reply(503, Status(5, 5, 0), "content without permission, closing")
SYNTAX: Final = Reply(500, Status(5, 5, 2), "syntax error")
UNKNOWN: Final = Reply(500, Status(5, 5, 1), "command not recognised")
NO_PARAMETERS: Final = Reply(501, Status(5, 5, 4), "no parameters allowed")
TOO_LONG: Final = Reply(500, Status(5, 5, 2), "line too long")
PARAMETERS_TOO_LONG: Final = Reply(501, Status(5, 5, 4), "line too long")
AUTH_TOO_LONG: Final = Reply(500, Status(5, 5, 6), "authentication exchange line too long")
TOO_MANY_ERRORS: Final = Reply(421, Status(4, 7, 0), "too many errors, closing")
TOO_MANY_JUNK: Final = Reply(421, Status(4, 7, 0), "too many commands without mail, closing")
TOO_MANY_MESSAGES: Final = Reply(421, Status(4, 7, 0), "enough messages for one session, come again")
TOO_MANY_LOGINS: Final = Reply(421, Status(4, 7, 0), "too many failed logins, closing")
TOO_MANY_RECIPIENTS: Final = Reply(452, Status(4, 5, 3), "too many recipients, send the others later")
NOT_SMTP: Final = Reply(421, Status(4, 7, 0), "this is a mail server, closing")
NOT_YOU: Final = Reply(550, Status(5, 7, 0), "not for you")
EARLY: Final = Reply(554, Status(5, 5, 0), "you spoke before the greeting")
INJECTED: Final = Reply(501, Status(5, 5, 1), "commands after STARTTLS, closing")
TLS_FIRST: Final = Reply(530, Status(5, 7, 0), "STARTTLS first")
AUTH_FIRST: Final = Reply(530, Status(5, 7, 0), "authentication required")
AUTH_NEEDS_TLS: Final = Reply(538, Status(5, 7, 11), "encryption required first")
AUTH_UNKNOWN: Final = Reply(504, Status(5, 5, 4), "mechanism not supported")
AUTH_BAD: Final = Reply(501, Status(5, 5, 2), "cannot decode response")
AUTH_CANCELLED: Final = Reply(501, Status(5, 7, 0), "authentication cancelled")
BAD_CHUNK: Final = Reply(501, Status(5, 5, 4), "BDAT needs a size, closing")
TOO_BIG: Final = Reply(552, Status(5, 3, 4), "message too big")
BARE: Final = Reply(550, Status(5, 5, 2), "bare carriage return or line feed in message")
MALFORMED: Final = Reply(554, Status(5, 6, 0), "NUL or a line over 64 KiB in message")
BINARY_BY_DATA: Final = Reply(503, Status(5, 5, 1), "BINARYMIME needs BDAT")

FIXED: Final = {
    b"VRFY": Reply(252, Status(2, 5, 2), "send some mail, and see"),
    b"EXPN": Reply(502, Status(5, 5, 1), "not available"),
    b"HELP": Reply(214, Status(2, 0, 0), "see RFC 5321"),
    b"NOOP": OK,
    b"ETRN": Reply(458, Status(4, 5, 0), "no queues are run on request"),
    b"TURN": Reply(502, Status(5, 5, 1), "not available"),
    b"ATRN": Reply(502, Status(5, 5, 1), "not available"),
    b"SEND": Reply(502, Status(5, 5, 1), "not available"),
    b"SOML": Reply(502, Status(5, 5, 1), "not available"),
    b"SAML": Reply(502, Status(5, 5, 1), "not available"),
    b"XCLIENT": NOT_YOU,
    b"XFORWARD": NOT_YOU,
    b"PROXY": NOT_YOU,
}
"""Verbs that have the same answer always; all of them are junk (they bring no mail forward)."""


@lru_cache(maxsize=64)
def greeting(config: SmtpConfig) -> bytes:
    return Reply(220, None, f"{config.hostname} {'LMTP' if config.mode is Mode.LMTP else 'ESMTP'} pillarbox").encode()


@lru_cache(maxsize=64)
def hello_reply(config: SmtpConfig, is_secure: bool, may_login: bool) -> Reply:
    """The extensions we offer. Source: RFC 5321 §4.1.1.1."""
    limits = config.limits
    lines = [
        config.hostname,
        "PIPELINING",
        f"SIZE {limits.message_octets}",
        "8BITMIME",
        "SMTPUTF8",
        "ENHANCEDSTATUSCODES",
        "CHUNKING",
        f"LIMITS RCPTMAX={limits.recipients} MAILMAX={limits.messages_per_session}",
    ]
    if config.allows_binary:
        lines.append("BINARYMIME")
    if config.announces_dsn:
        lines.append("DSN")
    if config.has_starttls and not is_secure:
        lines.append("STARTTLS")
    if config.mechanisms and may_login:
        lines.append("AUTH " + " ".join(config.mechanisms))
    lines.append("HELP")
    return Reply(250, None, "\n".join(lines))
