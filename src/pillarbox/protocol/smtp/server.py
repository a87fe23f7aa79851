"""One SMTP session as the server sees it, without I/O: octets in, events out; replies in, octets out.

MX, submission and LMTP are one core with one parser, so that no second dialect exists. Here octets become lines, and
one event waits for its answer; what lines mean is `commands.py`, how content arrives `transfer.py`, where the session
stands `progress.py`. What mail is taken for whom is the desk's business.
Source: RFC 5321; RFC 2033 (LMTP), 2920 (PIPELINING), 1870 (SIZE), 6152 (8BITMIME), 6531 (SMTPUTF8), 2034
(ENHANCEDSTATUSCODES), 3207 (STARTTLS), 4954 (AUTH), 3030 (CHUNKING), 9422 (LIMITS), 3461 (DSN).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from pillarbox.protocol.scram import ScramVerifier
from pillarbox.protocol.smtp.commands import read_command, read_response
from pillarbox.protocol.smtp.events import Answered, Content, Event
from pillarbox.protocol.smtp.progress import AUTH, CHUNK, CHUNKING, CONTENT, SECURING, Progress
from pillarbox.protocol.smtp.replies import Reply
from pillarbox.protocol.smtp.rules import (
    AUTH_TOO_LONG,
    EARLY,
    NOT_WAITED,
    PARAMETERS_TOO_LONG,
    SYNTAX,
    TOO_LONG,
    SmtpConfig,
    greeting,
)

_SKIP_LIMIT: Final = 64 * 1024
"""A line that is longer than this beyond its limit is not waited for."""
_CR: Final = 13


class SmtpServer:
    """One SMTP session: `receive` octets, take events with `next_event`, answer each with `reply`.

    `is_over` tells the shell to close when the last octets are written. Nothing a peer sends raises. `make_nonce`
    gives a fresh printable nonce (for SCRAM). A trusted client may send as many messages and idle commands as it
    likes, and make as many mistakes; one that may relay need not log in; with one that came under stress there is
    less patience.
    """

    __slots__ = (
        "_is_greeted",
        "_is_skipping",
        "_line_octets",
        "_long_lines",
        "_pending",
        "_progress",
        "_skipped",
        "config",
    )

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
        self._progress = Progress(config, make_nonce, is_secure, is_trusted, may_relay, is_stressed)
        self._pending: Event | None = None
        self._line_octets = config.limits.smtp_line_octets
        self._is_greeted = self._is_skipping = False
        self._skipped = self._long_lines = 0

    # --- what the shell does --------------------------------------------------------------------------------------

    def greet(self, refusal: Reply | None = None) -> bytes:
        """The greeting; or the refusal, and the session is over. Also refuses who spoke first (case 58)."""
        self._is_greeted = True
        if refusal is None and self._progress.buffer:
            refusal = EARLY
        if refusal is not None:
            self._progress.end()
            return refusal.encode()
        return greeting(self.config)

    def receive(self, octets: bytes) -> None:
        """Take what arrived. While an event is pending it is only kept: see `buffered`."""
        at = self._progress
        if not at.is_over:
            at.buffer += octets

    @property
    def buffered(self) -> int:
        """Octets that arrived and were not looked at: while an event is pending, stop reading when this grows."""
        return len(self._progress.buffer)

    @property
    def is_over(self) -> bool:
        """True when nothing more will be said."""
        return self._progress.is_over

    @property
    def is_authenticated(self) -> bool:
        """True when the client has logged in."""
        return self._progress.is_authenticated

    @property
    def is_slow(self) -> bool:
        """True when there were so many errors that each answer should take a second."""
        at = self._progress
        return at.errors >= self.config.limits.errors_slow and not at.is_trusted

    @property
    def is_in_content(self) -> bool:
        """True while the client is sending a message."""
        state = self._progress.state
        return state is CONTENT or state is CHUNK

    def next_event(self) -> Event | None:
        """What the client said next, or None when more octets, or first an answer to the pending event, are needed."""
        if self._pending is not None or not self._is_greeted:
            return None
        at = self._progress
        state = at.state
        if state is CONTENT or state is CHUNK:
            return self._next_content()
        if state is AUTH:
            assert at.login is not None
            self._pending = challenge = at.login.take_challenge()
            if challenge is not None:
                return challenge
        if not at.buffer or state is SECURING:
            return None
        if self._is_skipping and not self._skip():
            return None
        line = self._take_line()
        if line is None:
            return None
        if type(line) is not bytes:
            assert isinstance(line, Reply)
            event: Event | None = Answered(line)
        else:
            event = read_command(at, line) if state is not AUTH else read_response(at, line)
        self._pending = event
        return event if event is not None else self._next_content()

    def _next_content(self) -> Event | None:
        """The next piece of a message, its end, or the end of a chunk."""
        at = self._progress
        assert at.transfer is not None
        event = at.transfer.next_event(at.buffer)
        if type(event) is not Content:
            self._pending = event
            if type(event) is Answered:
                if event.reply is NOT_WAITED:
                    at.end()
                else:
                    at.state = CHUNKING
        return event

    def reply(self, reply: Reply) -> bytes:
        """Answer the pending event, move if the answer is positive, and return the octets to send."""
        event, self._pending = self._pending, None
        return self._progress.answer(event, reply) if event is not None else b""

    def reply_each(self, replies: Sequence[Reply]) -> bytes:
        """Answer the end of a message for each accepted recipient, in order. Source: RFC 2033 §4.2."""
        self._pending = None
        self._progress.finish_message(any(reply.code < 400 for reply in replies))
        return b"".join([reply.encode() for reply in replies])

    def supply_verifier(self, verifier: ScramVerifier) -> None:
        """Answer the question for a verifier; the exchange goes on."""
        at = self._progress
        assert at.login is not None
        self._pending = None
        at.login.supply_verifier(verifier)
        at.state = AUTH

    def secured(self) -> None:
        """Begin again inside TLS; what came in the clear is forgotten, read or not. Source: RFC 3207 §4.2."""
        self._progress.secured()

    def interrupt(self, reply: Reply) -> bytes:
        """Our side ends the session now (timeout, shutdown): the octets to send before closing."""
        self._pending = None
        self._progress.end()
        return reply.encode()

    # --- lines ----------------------------------------------------------------------------------------------------

    def _take_line(self) -> bytes | Reply | None:
        """A line without CRLF, what is wrong with it, or None until there is a whole one."""
        at = self._progress
        buffer = at.buffer
        limit = self._line_octets
        if len(buffer) > limit and (at.state is AUTH or buffer[:5].upper() == b"AUTH "):
            limit = self.config.limits.auth_line_octets
        end = buffer.find(b"\n", 0, limit)
        if end < 0:
            return self._refuse_long_line() if len(buffer) >= limit else None
        if end and buffer[end - 1] == _CR:
            line = bytes(buffer[: end - 1])
            del buffer[: end + 1]
            return line
        del buffer[: end + 1]  # a bare LF: RFC 5321 §2.3.8
        at.leave_auth()
        return SYNTAX

    def _refuse_long_line(self) -> Reply:
        """Answer once and skip the rest of the line; the second time the session is over. Case 61."""
        at = self._progress
        start = bytes(at.buffer[:5]).upper()
        if at.state is AUTH or start == b"AUTH ":
            reply = AUTH_TOO_LONG
        elif start in (b"MAIL ", b"RCPT "):  # what makes these long are parameters (case 81)
            reply = PARAMETERS_TOO_LONG
        else:
            reply = TOO_LONG
        at.leave_auth()
        self._skipped = 0
        self._is_skipping = True
        self._long_lines += 1
        if self._long_lines > 1:
            at.end()
        return reply

    def _skip(self) -> bool:
        """Drop what is left of a long line; True when it has ended."""
        at = self._progress
        end = at.buffer.find(b"\n")
        if end >= 0:
            del at.buffer[: end + 1]
            self._is_skipping = False
            return True
        self._skipped += len(at.buffer)
        at.buffer.clear()
        if self._skipped > _SKIP_LIMIT:
            at.end()
        return False
