"""One SMTP session as the server sees it, without I/O: octets in, events out; replies in, octets out.

MX, submission and LMTP are one core with one parser, so that no second dialect exists. What is decided here is
syntax, order, transparency and the counting of errors; what mail is taken for whom is the desk's business.
Source: RFC 5321; RFC 2033 (LMTP), 2920 (PIPELINING), 1870 (SIZE), 6152 (8BITMIME), 6531 (SMTPUTF8), 2034
(ENHANCEDSTATUSCODES), 3207 (STARTTLS), 4954 (AUTH), 3030 (CHUNKING), 9422 (LIMITS), 3461 (DSN).
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Sequence
from typing import Final

from pillarbox.model.status import Status
from pillarbox.protocol.sasl import (
    Challenge,
    Exchange,
    Reason,
    Rejected,
    Step,
    decode_base64,
    new_exchange,
)
from pillarbox.protocol.scram import ScramVerifier
from pillarbox.protocol.smtp.content import ContentReader, Defect
from pillarbox.protocol.smtp.events import (
    Answered,
    Auth,
    Content,
    ContentEnd,
    Data,
    Event,
    Hello,
    Mail,
    Quit,
    Rcpt,
    Reset,
    StartTls,
)
from pillarbox.protocol.smtp.grammar import Mistaken, parse_hello, parse_mail, parse_rcpt
from pillarbox.protocol.smtp.replies import Reply
from pillarbox.protocol.smtp.rules import (
    AUTH_BAD,
    AUTH_CANCELLED,
    AUTH_FIRST,
    AUTH_NEEDS_TLS,
    AUTH_TOO_LONG,
    AUTH_UNKNOWN,
    BAD_CHUNK,
    BAD_SEQUENCE,
    BARE,
    BINARY_BY_DATA,
    EARLY,
    FIXED,
    HELLO_FIRST,
    INJECTED,
    MALFORMED,
    MOVES,
    NO_PARAMETERS,
    NO_RECIPIENTS,
    NOT_SMTP,
    NOT_WAITED,
    PARAMETERS_TOO_LONG,
    SYNTAX,
    TLS_FIRST,
    TOO_BIG,
    TOO_LONG,
    TOO_MANY_ERRORS,
    TOO_MANY_JUNK,
    TOO_MANY_LOGINS,
    TOO_MANY_MESSAGES,
    TOO_MANY_RECIPIENTS,
    UNKNOWN,
    Mode,
    SmtpConfig,
    State,
    greeting,
    hello_reply,
)

_NOT_SMTP_LINE: Final = re.compile(
    rb"(?:GET|POST|PUT|HEAD|CONNECT|OPTIONS|DELETE|PATCH|TRACE)\s|[A-Za-z][A-Za-z0-9-]*:(?:\s|\Z)", re.IGNORECASE
)
_PRINTABLE: Final = re.compile(rb"[\x20-\x7e]*")
_CONTROL: Final = re.compile(rb"[\x00-\x1f\x7f]")
_ORDERED: Final = frozenset({b"MAIL", b"RCPT", b"AUTH", b"STARTTLS"})
_MAY_BE_UTF8: Final = frozenset({b"MAIL", b"RCPT"})
_CHUNK_SIZE: Final = re.compile(rb"([0-9]{1,19})(?: +(LAST))?", re.IGNORECASE)
_MAX_CHUNK: Final = (1 << 63) - 1
_SKIP_LIMIT: Final = 64 * 1024
"""A line that is longer than this beyond its limit is not waited for."""


class SmtpServer:
    """One SMTP session: `receive` octets, take events with `next_event`, answer each with `reply`.

    `is_over` tells the shell to close when the last octets are written. Nothing a peer sends raises. `make_nonce`
    gives a fresh printable nonce (for SCRAM). A trusted client may send as many messages and idle commands as it
    likes, and make as many mistakes; one that may relay need not log in; with one that came under stress there is
    less patience.
    """

    def __init__(
        self,
        config: SmtpConfig,
        make_nonce: Callable[[], str],
        is_secure: bool = False,
        is_trusted: bool = False,
        may_relay: bool = False,
        is_stressed: bool = False,
    ) -> None:
        self.config = config
        limits = config.limits
        self._errors_close = min(limits.errors_close, limits.stress_errors) if is_stressed else limits.errors_close
        self._junk_close = (
            min(limits.junk_commands, limits.stress_junk_commands) if is_stressed else limits.junk_commands
        )
        self._make_nonce = make_nonce
        self._is_trusted = is_trusted
        self._may_relay = may_relay
        self._buffer = bytearray()
        self._state = State.FRESH
        self._next = State.FRESH
        self._pending: Event | None = None
        self._exchange: Exchange | None = None
        self._challenge: bytes | None = None
        self._reader: ContentReader | None = None
        self._chunk_left = 0
        self._chunk_size = 0
        self._chunk_is_last = False
        self._chunk_refusal: Reply | None = None
        self._has_ended = False  # the end of the message was seen, ContentEnd is due
        self._is_last_message = False
        self._is_single = False  # with LMTP: this end of content gets one reply only
        self._is_skipping = False
        self._skipped = 0
        self._long_lines = 0
        self._is_greeted = False
        self._is_utf8 = False
        self._is_binary = False
        self._junk = 0
        self._recipients = 0
        self.is_secure = is_secure
        self.is_authenticated = False
        self.is_over = False
        self.errors = 0
        self.auth_failures = 0
        self.messages = 0

    # --- what the shell does --------------------------------------------------------------------------------------

    def greet(self, refusal: Reply | None = None) -> bytes:
        """The greeting; or the refusal, and the session is over. Also refuses who spoke first (case 58)."""
        self._is_greeted = True
        if refusal is None and self._buffer:
            refusal = EARLY
        if refusal is not None:
            self._end()
            return refusal.encode()
        return greeting(self.config)

    def receive(self, octets: bytes) -> None:
        """Take what arrived. While an event is pending it is only kept: see `buffered`."""
        if not self.is_over:
            self._buffer += octets

    @property
    def buffered(self) -> int:
        """Octets that arrived and were not looked at: while an event is pending, stop reading when this grows."""
        return len(self._buffer)

    @property
    def is_slow(self) -> bool:
        """True when there were so many errors that each answer should take a second."""
        return self.errors >= self.config.limits.errors_slow and not self._is_trusted

    @property
    def is_in_content(self) -> bool:
        """True while the client is sending a message."""
        return self._state in (State.CONTENT, State.CHUNK)

    def next_event(self) -> Event | None:
        """What the client said next, or None when more octets, or first an answer to the pending event, are needed."""
        if self._pending is not None or not self._is_greeted:
            return None
        if self._challenge is not None:
            return self._pend(Answered(_challenge_reply(self._challenge)))
        state = self._state
        if state is State.CONTENT:
            return self._next_content() if self._buffer or self._has_ended else None
        if state is State.CHUNK:
            return self._next_chunk()
        return self._next_command() if self._buffer and state is not State.SECURING else None

    def _next_command(self) -> Event | None:
        """The next line, as a command or as an answer to a challenge."""
        if self._is_skipping and not self._skip():
            return None
        line = self._take_line()
        if line is None:
            return None
        if type(line) is not bytes:
            assert isinstance(line, Reply)
            return self._pend(Answered(line))
        event = self._respond(line) if self._state is State.AUTH else self._command(line)
        self._pending = event
        return event if event is not None else self._next_chunk()

    def reply(self, reply: Reply) -> bytes:
        """Answer the pending event, move if the answer is positive, and return the octets to send."""
        event, self._pending = self._pending, None
        if event is None:
            return b""
        code = reply.code
        if code >= 500:
            self.errors += 1
            if self.errors >= self._errors_close and not self._is_trusted:
                reply, code = TOO_MANY_ERRORS, 421
        octets = reply.encode()
        if type(event) is Answered:
            self._challenge = None
        elif code < 400:
            octets = self._move(event, octets)
        else:
            octets = self._stay(event, reply, octets)
        if code == 421:
            self._end()
        return octets

    def reply_each(self, replies: Sequence[Reply]) -> bytes:
        """Answer the end of a message for each accepted recipient, in order. Source: RFC 2033 §4.2."""
        self._pending = None
        self._finish_message(any(reply.code < 400 for reply in replies))
        return b"".join([reply.encode() for reply in replies])

    def supply_verifier(self, verifier: ScramVerifier) -> None:
        """Answer the question for a verifier; the exchange goes on."""
        assert self._exchange is not None
        self._pending = None
        step = self._exchange.verifier(verifier)
        assert isinstance(step, Challenge)
        self._challenge = step.data
        self._state = State.AUTH

    def secured(self) -> None:
        """Begin again inside TLS; what came in the clear is forgotten, read or not. Source: RFC 3207 §4.2."""
        self._buffer.clear()
        self._state = State.FRESH
        self.is_secure = True

    def interrupt(self, reply: Reply) -> bytes:
        """Our side ends the session now (timeout, shutdown): the octets to send before closing."""
        self._pending = None
        self._end()
        return reply.encode()

    # --- lines ----------------------------------------------------------------------------------------------------

    def _pend(self, event: Event) -> Event:
        self._pending = event
        return event

    def _end(self) -> None:
        self.is_over = True
        self._state = State.OVER
        self._challenge = None
        self._buffer.clear()

    def _closing(self, reply: Reply) -> Event:
        """Answer, then close; what else is in the buffer is never looked at."""
        self._end()
        return Answered(reply)

    def _take_line(self) -> bytes | Reply | None:
        """A line without CRLF, what is wrong with it, or None until there is a whole one."""
        buffer = self._buffer
        limit = self.config.limits.smtp_line_octets
        if len(buffer) > limit and (self._state is State.AUTH or buffer[:5].upper() == b"AUTH "):
            limit = self.config.limits.auth_line_octets
        end = buffer.find(b"\n", 0, limit)
        if end < 0:
            return self._refuse_long_line() if len(buffer) >= limit else None
        if buffer[end - 1 : end] == b"\r":
            line = bytes(buffer[: end - 1])
            del buffer[: end + 1]
            return line
        del buffer[: end + 1]  # a bare LF: RFC 5321 §2.3.8
        self._leave_auth()
        return SYNTAX

    def _refuse_long_line(self) -> Reply:
        """Answer once and skip the rest of the line; the second time the session is over. Case 61."""
        start = bytes(self._buffer[:5]).upper()
        if self._state is State.AUTH or start == b"AUTH ":
            reply = AUTH_TOO_LONG
        elif start in (b"MAIL ", b"RCPT "):  # what makes these long are parameters (case 81)
            reply = PARAMETERS_TOO_LONG
        else:
            reply = TOO_LONG
        self._leave_auth()
        self._skipped = 0
        self._is_skipping = True
        self._long_lines += 1
        if self._long_lines > 1:
            self._end()
        return reply

    def _skip(self) -> bool:
        """Drop what is left of a long line; True when it has ended."""
        end = self._buffer.find(b"\n")
        if end >= 0:
            del self._buffer[: end + 1]
            self._is_skipping = False
            return True
        self._skipped += len(self._buffer)
        self._buffer.clear()
        if self._skipped > _SKIP_LIMIT:
            self._end()
        return False

    # --- commands -------------------------------------------------------------------------------------------------

    def _command(self, line: bytes) -> Event | None:
        """What a line says; the verb decides who reads the rest. None for BDAT, when its chunk is next."""
        verb, _, argument = line.partition(b" ")
        verb = verb.upper()
        handler = _HANDLERS.get(verb)
        if handler is None:
            return self._strange_command(line, verb)
        if not _PRINTABLE.fullmatch(line) and (verb not in _MAY_BE_UTF8 or _CONTROL.search(line)):
            return Answered(SYNTAX)
        target = MOVES.get((self._state, verb))
        if target is not None:
            self._next = target
        elif verb in _ORDERED:
            return Answered(HELLO_FIRST if self._state is State.FRESH else BAD_SEQUENCE)
        try:
            return handler(self, argument.rstrip(b" "))
        except Mistaken as mistake:
            return Answered(mistake.reply)

    def _strange_command(self, line: bytes, verb: bytes) -> Event:
        """A fixed answer, something that is no SMTP at all (case 60), or an unknown verb."""
        if _CONTROL.search(line) or not (line.isascii() or verb == b"VRFY"):
            return Answered(SYNTAX)
        if fixed := FIXED.get(verb):
            return self._junk_or(Answered(fixed))
        return self._closing(NOT_SMTP) if _NOT_SMTP_LINE.match(line) else Answered(UNKNOWN)

    def _junk_or(self, event: Event) -> Event:
        """Count a command that brings no mail forward. Case 83."""
        self._junk += 1
        if self._junk >= self._junk_close and not self._is_trusted:
            return self._closing(TOO_MANY_JUNK)
        return event

    def _hello(self, argument: bytes, verb: bytes) -> Event:
        config = self.config
        if (verb == b"LHLO") != (config.mode is Mode.LMTP):
            return Answered(UNKNOWN)  # RFC 2033 §4.1
        name = parse_hello(argument)
        may_login = self.is_secure or config.allows_cleartext_login
        reply = hello_reply(config, self.is_secure, may_login) if verb != b"HELO" else Reply(250, None, config.hostname)
        event = Hello(name, verb != b"HELO", reply)
        return event if self._state is State.FRESH else self._junk_or(event)

    def _ehlo(self, argument: bytes) -> Event:
        return self._hello(argument, b"EHLO")

    def _helo(self, argument: bytes) -> Event:
        return self._hello(argument, b"HELO")

    def _lhlo(self, argument: bytes) -> Event:
        return self._hello(argument, b"LHLO")

    def _starttls(self, argument: bytes) -> Event:
        """Source: RFC 3207 §4; case 51."""
        if not self.config.has_starttls or self.is_secure:
            return Answered(UNKNOWN if not self.config.has_starttls else BAD_SEQUENCE)
        if argument:
            return Answered(NO_PARAMETERS)
        return self._closing(INJECTED) if self._buffer else StartTls()

    def _rset(self, argument: bytes) -> Event:
        return self._junk_or(Reset()) if not argument else Answered(NO_PARAMETERS)

    def _quit(self, argument: bytes) -> Event:
        return Quit()

    def _mail(self, argument: bytes) -> Event:
        config = self.config
        if config.mode is Mode.SUBMISSION and not self.is_authenticated and not self._may_relay:
            may_login = self.is_secure or config.allows_cleartext_login
            return Answered(AUTH_FIRST if may_login else TLS_FIRST)
        if self.messages >= config.limits.messages_per_session and not self._is_trusted:
            return self._closing(TOO_MANY_MESSAGES)
        return parse_mail(argument, config.limits.message_octets, config.allows_binary)

    def _rcpt(self, argument: bytes) -> Event:
        recipient = parse_rcpt(argument, self._is_utf8)
        if self._recipients >= self.config.limits.recipients:
            return Answered(TOO_MANY_RECIPIENTS)
        return Rcpt(recipient)

    # --- content --------------------------------------------------------------------------------------------------

    def _data(self, argument: bytes) -> Event:
        if argument:
            return self._refuse_data(NO_PARAMETERS)
        if self._state is not State.RCPT:
            return self._refuse_data(NO_RECIPIENTS if self._state is State.MAIL else BAD_SEQUENCE)
        return Data() if not self._is_binary else self._refuse_data(BINARY_BY_DATA)

    def _refuse_data(self, reply: Reply) -> Event:
        """Refuse DATA; if its content is here already, never read that as commands. Case 59."""
        return self._closing(NOT_WAITED) if self._buffer else Answered(reply)

    def _bdat(self, argument: bytes) -> Event | None:
        """`BDAT size [LAST]`; the chunk follows at once, whatever we think of it. Source: RFC 3030 §2; case 66."""
        said = _CHUNK_SIZE.fullmatch(argument)
        if not said or (size := int(said[1])) > _MAX_CHUNK:
            return self._closing(BAD_CHUNK)  # where would the next command begin?
        limits = self.config.limits
        taken = self._reader.size if self._reader else 0
        self._chunk_left = self._chunk_size = size
        self._chunk_is_last = bool(said[2])
        self._chunk_refusal = None
        if (self._state, b"BDAT") not in MOVES:
            self._chunk_refusal = NOT_WAITED
        elif taken + size > limits.message_octets:
            self._chunk_refusal = TOO_BIG
        if self._chunk_refusal is None and self._reader is None:
            return Data()
        if size > 2 * limits.message_octets:
            return self._closing(self._chunk_refusal or TOO_BIG)
        self._state = State.CHUNK
        return None

    def _next_content(self) -> Event | None:
        reader = self._reader
        assert reader is not None
        if self._has_ended:
            return self._end_content()
        octets, self._has_ended = reader.take_data(self._buffer)
        if octets:
            return Content(octets)
        if reader.size > 2 * self.config.limits.message_octets:  # case 65
            self._is_last_message = self._has_ended = True
        return self._end_content() if self._has_ended else None

    def _next_chunk(self) -> Event | None:
        left = self._chunk_left
        if left and not self._buffer:
            return None
        octets = min(left, len(self._buffer))
        self._chunk_left = left = left - octets
        if self._chunk_refusal is not None:
            del self._buffer[:octets]
            return self._refuse_chunk(self._chunk_refusal) if not left else None
        reader = self._reader
        assert reader is not None
        is_end = self._chunk_is_last and not left
        if (octets or is_end) and (piece := reader.take_chunk(self._buffer, octets, is_end)):
            return Content(piece)
        if left:
            return None
        if self._chunk_is_last:
            return self._end_content()
        self._state = State.CHUNKING
        return self._pend(Answered(Reply(250, Status(2, 0, 0), f"{self._chunk_size} octets received")))

    def _refuse_chunk(self, reply: Reply) -> Event:
        """The chunk is discarded, and with it the transaction."""
        if reply is NOT_WAITED:
            return self._pend(self._closing(reply))
        self._is_single = not self._chunk_is_last
        return self._pend(ContentEnd(Defect.TOO_BIG if reply is TOO_BIG else Defect.NONE, self._chunk_size, reply))

    def _end_content(self) -> Event:
        reader = self._reader
        assert reader is not None
        defects = reader.defects
        refusal = None
        if defects is not Defect.NONE:
            if Defect.TOO_BIG in defects:
                refusal = TOO_BIG
            elif Defect.NUL in defects or Defect.LONG_LINE in defects:
                refusal = MALFORMED
            else:
                refusal = BARE
        return self._pend(ContentEnd(defects, reader.size, refusal))

    def _finish_message(self, is_accepted: bool) -> None:
        self._state = State.READY
        self._forget_transaction()
        if is_accepted:
            self.messages += 1
            self._junk = 0

    def _forget_transaction(self) -> None:
        self._reader = None
        self._recipients = 0
        self._is_utf8 = self._is_binary = self._has_ended = self._is_single = False

    # --- authentication -------------------------------------------------------------------------------------------

    def _auth(self, argument: bytes) -> Event:
        """`AUTH mechanism [initial response]`. Source: RFC 4954 §4; cases 54–57."""
        config = self.config
        if not config.mechanisms:
            return Answered(UNKNOWN)
        if self.is_authenticated:
            return Answered(BAD_SEQUENCE)
        if not (self.is_secure or config.allows_cleartext_login):
            return Answered(AUTH_NEEDS_TLS)
        if self.auth_failures >= config.limits.auth_failures_per_session:
            return self._closing(TOO_MANY_LOGINS)
        words = argument.split(b" ")
        if not argument or len(words) > 2:
            return Answered(AUTH_BAD)
        mechanism = words[0].decode("ascii").upper()
        exchange = new_exchange(mechanism, self._make_nonce()) if mechanism in config.mechanisms else None
        if exchange is None:
            return Answered(AUTH_UNKNOWN)
        initial = None
        if len(words) == 2:
            initial = b"" if words[1] == b"=" else decode_base64(words[1])
            if initial is None:
                return Answered(AUTH_BAD)
        self._exchange = exchange
        return self._step(exchange.begin(initial))

    def _respond(self, line: bytes) -> Event:
        """The client's answer to a challenge. Source: RFC 4954 §4."""
        assert self._exchange is not None
        response = decode_base64(line)
        if line == b"*" or response is None:
            self._leave_auth()
            return Answered(AUTH_CANCELLED if line == b"*" else AUTH_BAD)
        return self._step(self._exchange.receive(response))

    def _step(self, step: Step) -> Event:
        if isinstance(step, Challenge):
            self._state = State.AUTH
            return Answered(_challenge_reply(step.data))
        if isinstance(step, Rejected) and step.reason is Reason.MALFORMED:
            self._leave_auth()
            return Answered(AUTH_BAD)
        return Auth(step)

    def _leave_auth(self) -> None:
        if self._exchange is not None:
            self._exchange = None
            self._state = State.READY

    # --- answers --------------------------------------------------------------------------------------------------

    def _move(self, event: Event, octets: bytes) -> bytes:
        """What a positive answer leads to."""
        kind = type(event)
        if kind is Rcpt:
            self._recipients += 1
            self._state = State.RCPT
        elif kind is Mail:
            assert isinstance(event, Mail)
            self._is_utf8 = event.envelope.smtputf8
            self._is_binary = event.envelope.body == "BINARYMIME"
            self._state = State.MAIL
        elif kind is Data:
            limits = self.config.limits
            self._reader = ContentReader(limits.message_octets, limits.content_line_octets, self._is_binary)
            self._state = self._next
            return b"" if self._next is State.CHUNK else octets
        elif kind is ContentEnd:
            octets = self._each(octets)
            self._finish_message(True)
        elif kind is Hello or kind is Reset:
            self._forget_transaction()
            self._state = self._next
        elif kind is StartTls:
            self._state = State.SECURING
        elif kind is Auth:
            self._leave_auth()
            self.is_authenticated = True
        elif kind is Quit:
            self._end()
        return octets

    def _stay(self, event: Event, reply: Reply, octets: bytes) -> bytes:
        """What a negative answer leads to."""
        match event:
            case Data() if self._next is State.CHUNK:  # the chunk comes all the same, and is answered after it
                self._chunk_refusal = reply
                self._state = State.CHUNK
                return b""
            case Data() if self._buffer:
                self._end()
                return NOT_WAITED.encode()
            case ContentEnd():
                octets = self._each(octets)
                self._finish_message(False)
                if self._is_last_message:
                    self._end()
            case Auth():
                self._leave_auth()
                if reply.code >= 500:
                    self.auth_failures += 1
        return octets

    def _each(self, octets: bytes) -> bytes:
        """With LMTP the end of a message is answered for each recipient, also if the answer is one for all."""
        return octets * self._recipients if self.config.mode is Mode.LMTP and not self._is_single else octets


_HANDLERS: Final[dict[bytes, Callable[[SmtpServer, bytes], Event | None]]] = {
    b"EHLO": SmtpServer._ehlo,
    b"HELO": SmtpServer._helo,
    b"LHLO": SmtpServer._lhlo,
    b"STARTTLS": SmtpServer._starttls,
    b"AUTH": SmtpServer._auth,
    b"MAIL": SmtpServer._mail,
    b"RCPT": SmtpServer._rcpt,
    b"DATA": SmtpServer._data,
    b"BDAT": SmtpServer._bdat,
    b"RSET": SmtpServer._rset,
    b"QUIT": SmtpServer._quit,
}


def _challenge_reply(challenge: bytes) -> Reply:
    return Reply(334, None, base64.b64encode(challenge).decode())
