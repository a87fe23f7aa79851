"""How far an SMTP session has come: where it is, what was counted, and what each answer leads to.

What may be said where is the table in `rules.py`; what the lines mean is `commands.py`.
Source: RFC 5321 §4.1.4 (order), §4.3.2 (replies to each command); RFC 2033 §4.2 (replies after LMTP's content),
RFC 3207 §4.2 (a session begins again inside TLS); cases 51, 59, 65, 69, 83.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from pillarbox.protocol.smtp.auth import Login
from pillarbox.protocol.smtp.events import (
    Answered,
    Auth,
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
from pillarbox.protocol.smtp.replies import Reply
from pillarbox.protocol.smtp.rules import NOT_WAITED, TOO_MANY_ERRORS, TOO_MANY_JUNK, Mode, SmtpConfig, State
from pillarbox.protocol.smtp.transfer import ChunkTransfer, DataTransfer, Transfer

# An attribute of an enum costs ten times as much as a name, and these are asked for with every command.
FRESH: Final = State.FRESH
READY: Final = State.READY
MAIL: Final = State.MAIL
RCPT: Final = State.RCPT
CONTENT: Final = State.CONTENT
CHUNKING: Final = State.CHUNKING
CHUNK: Final = State.CHUNK
AUTH: Final = State.AUTH
SECURING: Final = State.SECURING
OVER: Final = State.OVER


class Progress:
    """The state of one session, as `SmtpServer` and the commands share it. `buffer` is what was not read yet."""

    __slots__ = (
        "auth_failures",
        "buffer",
        "config",
        "errors",
        "errors_close",
        "is_authenticated",
        "is_binary",
        "is_over",
        "is_secure",
        "is_trusted",
        "is_utf8",
        "junk",
        "junk_close",
        "login",
        "make_nonce",
        "may_relay",
        "messages",
        "next",
        "recipients",
        "state",
        "transfer",
    )

    def __init__(
        self,
        config: SmtpConfig,
        make_nonce: Callable[[], str],
        is_secure: bool,
        is_trusted: bool,
        may_relay: bool,
        is_stressed: bool,
    ) -> None:
        self.config = config
        self.make_nonce = make_nonce
        self.is_secure = is_secure
        self.is_trusted = is_trusted
        self.may_relay = may_relay
        limits = config.limits
        self.errors_close = limits.errors_close
        self.junk_close = limits.junk_commands
        if is_stressed:
            self.errors_close = min(limits.errors_close, limits.stress_errors)
            self.junk_close = min(limits.junk_commands, limits.stress_junk_commands)
        self.buffer = bytearray()
        self.state = self.next = FRESH  # where we are, and where success of the pending command leads
        self.is_authenticated = self.is_over = False
        self.errors = self.junk = self.auth_failures = self.messages = 0
        self.login: Login | None = None
        # Of the transaction:
        self.recipients = 0
        self.is_utf8 = self.is_binary = False
        self.transfer: Transfer | None = None

    def answer(self, event: Event, reply: Reply) -> bytes:
        """Count, move, and return the octets to send."""
        code = reply.code
        if code >= 500:
            self.errors += 1
            if self.errors >= self.errors_close and not self.is_trusted:
                reply, code = TOO_MANY_ERRORS, 421
        octets = reply.encode()
        if type(event) is not Answered:
            octets = self._move(event, octets) if code < 400 else self._stay(event, reply, octets)
        if code == 421:
            self.end()
        return octets

    def _move(self, event: Event, octets: bytes) -> bytes:
        """What a positive answer leads to."""
        kind = type(event)
        if kind is Rcpt:
            self.recipients += 1
            self.state = RCPT
        elif kind is Mail:
            assert isinstance(event, Mail)
            self.is_utf8 = event.envelope.smtputf8
            self.is_binary = event.envelope.body == "BINARYMIME"
            self.state = MAIL
        elif kind is Data:
            self.state = self.next
            if self.next is CHUNK:
                return b""
            self.transfer = DataTransfer(self.config.limits, self.is_binary)
        elif kind is ContentEnd:
            octets = self._each(octets)
            self.finish_message(True)
        elif kind is Hello or kind is Reset:
            self._forget_transaction()
            self.state = self.next
        elif kind is StartTls:
            self.state = SECURING
        elif kind is Auth:
            self.leave_auth()
            self.is_authenticated = True
        elif kind is Quit:
            self.end()
        return octets

    def _stay(self, event: Event, reply: Reply, octets: bytes) -> bytes:
        """What a negative answer leads to."""
        match event:
            case Data() if self.next is CHUNK:
                assert isinstance(self.transfer, ChunkTransfer)
                self.transfer.refuse(reply)
                self.state = CHUNK
                return b""
            case Data() if self.buffer:
                self.end()
                return NOT_WAITED.encode()
            case ContentEnd():
                is_last = self.transfer is not None and self.transfer.is_last
                octets = self._each(octets)
                self.finish_message(False)
                if is_last:
                    self.end()
            case Auth():
                self.leave_auth()
                if reply.code >= 500:
                    self.auth_failures += 1
        return octets

    def _each(self, octets: bytes) -> bytes:
        """With LMTP the end of a message is answered for each recipient, also if the answer is one for all."""
        if self.config.mode is not Mode.LMTP or (self.transfer is not None and self.transfer.is_single):
            return octets
        return octets * self.recipients

    def finish_message(self, is_accepted: bool) -> None:
        """The end of content was answered."""
        self.state = READY
        self._forget_transaction()
        if is_accepted:
            self.messages += 1
            self.junk = 0

    def _forget_transaction(self) -> None:
        self.transfer = None
        self.recipients = 0
        self.is_utf8 = self.is_binary = False

    def leave_auth(self) -> None:
        """The exchange, if there is one, is over."""
        if self.login is not None:
            self.login = None
            self.state = READY

    def secured(self) -> None:
        """Begin again inside TLS; what came in the clear is forgotten, read or not. Source: RFC 3207 §4.2."""
        self.buffer.clear()
        self.state = FRESH
        self.is_secure = True

    def end(self) -> None:
        """The session is over; what is in the buffer is never looked at."""
        self.is_over = True
        self.state = OVER
        self.buffer.clear()

    def closing(self, reply: Reply) -> Answered:
        """Answer, then close."""
        self.end()
        return Answered(reply)

    def junk_or(self, event: Event) -> Event:
        """Count a command that brings no mail forward. Case 83."""
        self.junk += 1
        if self.junk >= self.junk_close and not self.is_trusted:
            return self.closing(TOO_MANY_JUNK)
        return event
