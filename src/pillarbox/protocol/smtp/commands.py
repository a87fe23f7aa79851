"""What the lines of a client say: a verb decides who reads the rest, and the session's progress whether it may come.

Nothing here moves a session on (that is `progress.py`, when the answer is known), except that it may end it. Paths and
parameters are read by `grammar.py`. Source: RFC 5321 §4.1.1 (commands), §4.1.4 (order); RFC 2033 §4.1 (LHLO), 3207 §4
(STARTTLS), 4954 §4 (AUTH), 3030 §2 (BDAT), 6409 §4.3 (submission asks for a login); cases 51, 59-61, 66, 80, 83.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from pillarbox.protocol.smtp.auth import begin_login
from pillarbox.protocol.smtp.events import Answered, Auth, Data, Event, Hello, Quit, Rcpt, Reset, StartTls
from pillarbox.protocol.smtp.grammar import Mistaken, parse_hello, parse_mail, parse_rcpt
from pillarbox.protocol.smtp.progress import AUTH, CHUNK, FRESH, MAIL, RCPT, Progress
from pillarbox.protocol.smtp.replies import Reply
from pillarbox.protocol.smtp.rules import (
    AUTH_FIRST,
    AUTH_NEEDS_TLS,
    BAD_CHUNK,
    BAD_SEQUENCE,
    BINARY_BY_DATA,
    FIXED,
    HELLO_FIRST,
    INJECTED,
    MOVES,
    NO_PARAMETERS,
    NO_RECIPIENTS,
    NOT_SMTP,
    NOT_WAITED,
    SYNTAX,
    TLS_FIRST,
    TOO_BIG,
    TOO_MANY_LOGINS,
    TOO_MANY_MESSAGES,
    TOO_MANY_RECIPIENTS,
    UNKNOWN,
    Mode,
    hello_reply,
)
from pillarbox.protocol.smtp.transfer import ChunkTransfer, parse_chunk

_NOT_SMTP_LINE: Final = re.compile(
    rb"(?:GET|POST|PUT|HEAD|CONNECT|OPTIONS|DELETE|PATCH|TRACE)\s|[A-Za-z][A-Za-z0-9-]*:(?:\s|\Z)", re.IGNORECASE
)
_CONTROL: Final = re.compile(rb"[\x00-\x1f\x7f]")
_ORDERED: Final = frozenset({b"MAIL", b"RCPT", b"AUTH", b"STARTTLS"})
_MAY_BE_UTF8: Final = frozenset({b"MAIL", b"RCPT"})
_DATA: Final = Data()
_QUIT: Final = Quit()
_RESET: Final = Reset()


def read_command(at: Progress, line: bytes) -> Event | None:
    """What a line (without CRLF) says. None for BDAT, when its chunk is next."""
    verb, _, argument = line.partition(b" ")
    verb = verb.upper()
    handler = _HANDLERS.get(verb)
    if handler is None:
        return _strange_command(at, line, verb)
    is_printable = line.isascii() and line.decode().isprintable()
    if not is_printable and (verb not in _MAY_BE_UTF8 or _CONTROL.search(line)):
        return Answered(SYNTAX)
    target = MOVES.get((at.state, verb))
    if target is not None:
        at.next = target
    elif verb in _ORDERED:
        return Answered(HELLO_FIRST if at.state is FRESH else BAD_SEQUENCE)
    try:
        return handler(at, argument.rstrip(b" "))
    except Mistaken as mistake:
        return Answered(mistake.reply)


def read_response(at: Progress, line: bytes) -> Event:
    """The client's answer to a challenge of AUTH."""
    assert at.login is not None
    return _carry_on(at, at.login.respond(line))


def _strange_command(at: Progress, line: bytes, verb: bytes) -> Event:
    """A fixed answer, something that is no SMTP at all (case 60), or an unknown verb."""
    if _CONTROL.search(line) or not (line.isascii() or verb == b"VRFY"):
        return Answered(SYNTAX)
    if fixed := FIXED.get(verb):
        return at.junk_or(Answered(fixed))
    return at.closing(NOT_SMTP) if _NOT_SMTP_LINE.match(line) else Answered(UNKNOWN)


def _may_login(at: Progress) -> bool:
    return at.is_secure or at.config.allows_cleartext_login


# --- the session ------------------------------------------------------------------------------------------------------


def _ehlo(at: Progress, argument: bytes) -> Event:
    if at.config.mode is Mode.LMTP:
        return Answered(UNKNOWN)  # RFC 2033 §4.1
    return _hello(at, argument, True)


def _helo(at: Progress, argument: bytes) -> Event:
    if at.config.mode is Mode.LMTP:
        return Answered(UNKNOWN)
    return _hello(at, argument, False)


def _lhlo(at: Progress, argument: bytes) -> Event:
    if at.config.mode is not Mode.LMTP:
        return Answered(UNKNOWN)
    return _hello(at, argument, True)


def _hello(at: Progress, argument: bytes, is_extended: bool) -> Event:
    config = at.config
    name = parse_hello(argument)
    reply = hello_reply(config, at.is_secure, _may_login(at)) if is_extended else Reply(250, None, config.hostname)
    event = Hello(name, is_extended, reply)
    return event if at.state is FRESH else at.junk_or(event)


def _starttls(at: Progress, argument: bytes) -> Event:
    """Source: RFC 3207 §4; case 51."""
    if not at.config.has_starttls or at.is_secure:
        return Answered(UNKNOWN if not at.config.has_starttls else BAD_SEQUENCE)
    if argument:
        return Answered(NO_PARAMETERS)
    return at.closing(INJECTED) if at.buffer else StartTls()


def _auth(at: Progress, argument: bytes) -> Event:
    """`AUTH mechanism [initial response]`. Source: RFC 4954 §4; cases 54-57."""
    config = at.config
    if not config.mechanisms:
        return Answered(UNKNOWN)
    if at.is_authenticated:
        return Answered(BAD_SEQUENCE)
    if not _may_login(at):
        return Answered(AUTH_NEEDS_TLS)
    if at.auth_failures >= config.limits.auth_failures_per_session:
        return at.closing(TOO_MANY_LOGINS)
    begun = begin_login(argument, config.mechanisms, at.make_nonce)
    if isinstance(begun, Reply):
        return Answered(begun)
    at.login, event = begun
    return _carry_on(at, event)


def _carry_on(at: Progress, event: Answered | Auth) -> Event:
    """After a challenge the next line is the client's response; with any other answer of ours the exchange ends."""
    if type(event) is Answered:
        if event.reply.code == 334:
            at.state = AUTH
        else:
            at.leave_auth()
    return event


def _rset(at: Progress, argument: bytes) -> Event:
    return at.junk_or(_RESET) if not argument else Answered(NO_PARAMETERS)


def _quit(at: Progress, argument: bytes) -> Event:
    return _QUIT


# --- a transaction ----------------------------------------------------------------------------------------------------


def _mail(at: Progress, argument: bytes) -> Event:
    config = at.config
    if config.mode is Mode.SUBMISSION and not at.is_authenticated and not at.may_relay:
        return Answered(AUTH_FIRST if _may_login(at) else TLS_FIRST)
    if at.messages >= config.limits.messages_per_session and not at.is_trusted:
        return at.closing(TOO_MANY_MESSAGES)
    return parse_mail(argument, config.limits.message_octets, config.allows_binary)


def _rcpt(at: Progress, argument: bytes) -> Event:
    recipient = parse_rcpt(argument, at.is_utf8)
    if at.recipients >= at.config.limits.recipients:
        return Answered(TOO_MANY_RECIPIENTS)
    return Rcpt(recipient)


def _data(at: Progress, argument: bytes) -> Event:
    """Refused DATA whose content is here already ends the session: never read that as commands. Case 59."""
    if argument:
        refusal = NO_PARAMETERS
    elif at.state is not RCPT:
        refusal = NO_RECIPIENTS if at.state is MAIL else BAD_SEQUENCE
    elif at.is_binary:
        refusal = BINARY_BY_DATA
    else:
        return _DATA
    return at.closing(NOT_WAITED) if at.buffer else Answered(refusal)


def _bdat(at: Progress, argument: bytes) -> Event | None:
    """`BDAT size [LAST]`; the chunk follows at once, whatever we think of it. Source: RFC 3030 §2; case 66."""
    chunk = parse_chunk(argument)
    if chunk is None:
        return at.closing(BAD_CHUNK)  # where would the next command begin?
    size, is_end = chunk
    limits = at.config.limits
    transfer = at.transfer
    is_first = not isinstance(transfer, ChunkTransfer)
    if not isinstance(transfer, ChunkTransfer):
        at.transfer = transfer = ChunkTransfer(limits, at.is_binary)
    refusal = transfer.expect(size, is_end, NOT_WAITED if (at.state, b"BDAT") not in MOVES else None)
    if refusal is None and is_first:
        return _DATA
    if size > 2 * limits.message_octets:
        return at.closing(refusal or TOO_BIG)
    at.state = CHUNK
    return None


_HANDLERS: Final[dict[bytes, Callable[[Progress, bytes], Event | None]]] = {
    b"EHLO": _ehlo,
    b"HELO": _helo,
    b"LHLO": _lhlo,
    b"STARTTLS": _starttls,
    b"AUTH": _auth,
    b"MAIL": _mail,
    b"RCPT": _rcpt,
    b"DATA": _data,
    b"BDAT": _bdat,
    b"RSET": _rset,
    b"QUIT": _quit,
}
