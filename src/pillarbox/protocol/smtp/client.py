"""One SMTP or LMTP session as the client sees it, without I/O: replies in, commands and outcomes out.

Commands are pipelined where the server allows it, content goes by BDAT where it can. Every recipient gets an outcome,
whatever happens. What the server offers, and what that makes of MAIL and RCPT, is `extensions.py`; sockets, TLS and
time are the shell's. Source: RFC 5321; RFC 2033 (LMTP), 2920 (PIPELINING), 3030 (CHUNKING), 3207 (STARTTLS), 4954
(AUTH). Cases 18, 19, 49, 116, 118–121.
"""

from __future__ import annotations

import base64
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, TypeAlias

from pillarbox.model.envelope import Envelope, Recipient
from pillarbox.model.errors import PeerError
from pillarbox.model.outcome import Deferred, Failed, Outcome
from pillarbox.model.status import Status
from pillarbox.protocol.sasl import SaslClient, decode_base64
from pillarbox.protocol.smtp.answers import Answer, AnswerReader
from pillarbox.protocol.smtp.client_events import Broken, ClientEvent, ContentDue, Finished, HandshakeDue, Ready, TlsUse
from pillarbox.protocol.smtp.content import ChunkWriter, ContentWriter
from pillarbox.protocol.smtp.extensions import (
    announced_limit,
    mail_command,
    parse_extensions,
    rcpt_command,
    ruled_out,
)

LOST: Final = Status(4, 4, 2)
PROTOCOL_ERROR: Final = Status(4, 5, 0)
NO_SECURITY: Final = Status(4, 7, 10)
NO_LOGIN: Final = Status(4, 7, 8)
TOO_MANY_RECIPIENTS: Final = Status(4, 5, 3)

__all__ = ["Broken", "ClientEvent", "ContentDue", "Finished", "HandshakeDue", "Ready", "SmtpClient", "TlsUse"]

Handler: TypeAlias = Callable[[Answer], None]


class SmtpClient:
    """`receive` octets, take events with `next_event`, write what `take_output` gives. Nothing a peer says raises.

    `remote` names the peer in outcomes; `sasl` are ways to log in, the best first. `next_event` salts a password when
    the server speaks SCRAM, which may take a second: run it in a thread while `is_authenticating`.
    """

    def __init__(
        self,
        hostname: str,
        remote: str,
        tls: TlsUse = TlsUse.MAY,
        sasl: Sequence[SaslClient] = (),
        is_lmtp: bool = False,
        is_secure: bool = False,
    ) -> None:
        self._hostname = hostname.encode()
        self._remote = remote
        self._tls = tls
        self._logins = sasl
        self._sasl: SaslClient | None = None
        self._is_lmtp = is_lmtp
        self._reader = AnswerReader()
        self._output = bytearray()
        self._events: deque[ClientEvent] = deque()
        self._expected: deque[Handler] = deque([self._on_greeting])
        self._unsent: deque[tuple[bytes, Handler]] = deque()
        self._may_pipeline = False
        self._is_securing = False
        self._needs_reset = False
        self._recipients: tuple[Recipient, ...] = ()
        self._outcomes: list[Outcome | None] = []
        self._accepted: list[int] = []
        self._in_transaction = False
        self._content_sent = False
        self._writer: ContentWriter | ChunkWriter | None = None
        self._is_chunking = False
        self.extensions: dict[str, str] = {}
        self.wants_content = False
        self.is_authenticating = False
        self.is_ready = False
        self.is_secure = is_secure
        self.is_over = False
        self.messages = 0
        self.answers = 0

    # --- what the shell does --------------------------------------------------------------------------------------

    def receive(self, octets: bytes) -> None:
        """Take what arrived."""
        if not self.is_over:
            self._reader.receive(octets)

    def next_event(self) -> ClientEvent | None:
        """What to do next, or None when more octets are needed."""
        while not self._events and not self.is_over and not self._is_securing:
            try:
                answer = self._reader.take()
                if answer is None:
                    break
                self._take_answer(answer)
            except PeerError as error:
                self._fail(self._ours(PROTOCOL_ERROR, str(error), self._content_sent))
            self._pump()
        return self._events.popleft() if self._events else None

    def take_output(self) -> bytes:
        """The octets to send now."""
        octets = bytes(self._output)
        self._output.clear()
        return octets

    def secured(self) -> None:
        """Begin again inside TLS; what was learnt in the clear is forgotten. Source: RFC 3207 §4.2."""
        self._is_securing = False
        self.is_secure = True
        self._reader.clear()
        self._hello()
        self._pump()

    @property
    def patience_s(self) -> float:
        """How long the next answer may take. Source: RFC 5321 §4.5.3.2."""
        if self._content_sent:
            return 600.0
        if self._in_transaction and self._expected and self._expected[0] == self._on_data:
            return 120.0
        return 300.0

    def begin(self, envelope: Envelope, size_octets: int, has_eight_bit: bool, needs_smtputf8: bool) -> None:
        """Start a transaction; Finished comes in any case. Only after Ready, and after the last one Finished."""
        assert self.is_ready and not self._in_transaction
        self.is_ready = False
        self._in_transaction = True
        self._content_sent = False
        self._recipients = envelope.recipients
        self._outcomes = [None] * len(envelope.recipients)
        self._accepted = []
        offers = self.extensions
        if (refused := ruled_out(offers, self._remote, size_octets, needs_smtputf8)) is not None:
            self._settle_rest(refused)
            self._finish()
            return
        if self._needs_reset:
            self._needs_reset = False
            self._send(b"RSET", self._on_reset)
        self._send(mail_command(offers, envelope, size_octets, has_eight_bit, needs_smtputf8), self._on_mail)
        limit = self.limit("RCPTMAX", len(self._recipients))
        last = min(limit, len(self._recipients)) - 1
        for index, recipient in enumerate(self._recipients):
            if index >= limit:
                self._outcomes[index] = self._ours(TOO_MANY_RECIPIENTS, "limit of recipients")
                continue
            self._send(rcpt_command(offers, recipient), partial(self._on_rcpt, index=index, is_last=index == last))
        self._is_chunking = "CHUNKING" in offers and self._may_pipeline
        if self._may_pipeline and not self._is_chunking:
            self._send(b"DATA", self._on_data)
        self._pump()

    def content(self, octets: bytes) -> None:
        """The next piece of the message."""
        if not self.wants_content:
            return
        assert self._writer is not None
        wire = self._writer.write(octets)
        self._output += wire
        if wire and self._is_chunking:
            self._expected.append(self._on_chunk)

    def end_content(self) -> None:
        """The message is whole."""
        if not self.wants_content:
            return
        assert self._writer is not None
        self.wants_content = False
        self._content_sent = True
        self._output += self._writer.finish()
        if self._is_lmtp:  # RFC 2033 §4.2: a reply for each recipient that was accepted
            for index in self._accepted:
                self._expected.append(partial(self._on_delivered, index=index))
        else:
            self._expected.append(partial(self._on_delivered, index=None))

    def lost(self, text: str) -> None:
        """The connection ended, or was given up for slowness. After the end of content the outcome is unknown."""
        if not self.is_over:
            self._fail(self._ours(LOST, text, self._content_sent))

    def quit(self) -> None:
        """Say goodbye; the answer does not matter."""
        if not self.is_over:
            self._output += b"QUIT\r\n"
            self.is_over = True

    # --- sending and hearing --------------------------------------------------------------------------------------

    def _send(self, command: bytes, handler: Handler) -> None:
        self._unsent.append((command, handler))

    def _pump(self) -> None:
        """Send what may be sent: everything, or one command at a time without PIPELINING."""
        while self._unsent and (self._may_pipeline or not self._expected):
            command, handler = self._unsent.popleft()
            self._output += command + b"\r\n"
            self._expected.append(handler)

    def _take_answer(self, answer: Answer) -> None:
        self.answers += 1
        if answer.code == 421:  # RFC 5321 §3.8: may come at any time
            self._fail(answer.outcome(self._remote))
        elif self._expected:
            self._expected.popleft()(answer)
            if self._in_transaction and not self._expected and not self._unsent and not self.wants_content:
                self._finish_if_settled()
        else:
            raise PeerError("unexpected reply")

    def _fail(self, outcome: Outcome) -> None:
        """The session is over; whoever has no outcome yet gets this one."""
        self.is_over = True
        self.wants_content = self.is_ready = False
        self._expected.clear()
        self._unsent.clear()
        if self._in_transaction:
            self._settle_rest(outcome)
            self._finish()
        else:
            self._events.append(Broken(outcome))

    def _ours(self, status: Status, text: str, unknown: bool = False) -> Deferred:
        """What we say about the peer, as it did not say it itself."""
        return Deferred(status, f"{self._remote}: {text}", unknown=unknown)

    # --- setting up -----------------------------------------------------------------------------------------------

    def _on_greeting(self, answer: Answer) -> None:
        """A host that refuses everybody may be one of several: try later, except for 521 (RFC 7504 §3)."""
        if answer.code == 220:
            self._hello()
            return
        is_final = answer.code == 521
        status = answer.status if is_final else Status(4, 3, 2)
        self._fail((Failed if is_final else Deferred)(status, answer.text, self._remote))

    def _hello(self) -> None:
        self.extensions = {}
        self._may_pipeline = False
        self._send((b"LHLO " if self._is_lmtp else b"EHLO ") + self._hostname, self._on_ehlo)

    def _on_ehlo(self, answer: Answer) -> None:
        if answer.code // 100 == 5 and not self._is_lmtp:  # RFC 5321 §3.2
            self._send(b"HELO " + self._hostname, self._on_helo)
            return
        self.extensions = parse_extensions(answer.lines)
        self._may_pipeline = "PIPELINING" in self.extensions
        self._on_helo(answer)

    def _on_helo(self, answer: Answer) -> None:
        if answer.code // 100 != 2:
            self._fail(Deferred(Status(4, 3, 2), answer.text, self._remote))
        elif self.is_secure or self._tls is TlsUse.NEVER:
            self._log_in()
        elif "STARTTLS" in self.extensions:
            self._send(b"STARTTLS", self._on_starttls)
        elif self._tls is TlsUse.MUST:
            self._fail(self._ours(NO_SECURITY, "STARTTLS not offered"))
        else:
            self._log_in()

    def _on_starttls(self, answer: Answer) -> None:
        """Octets behind the 220 were put there by somebody who cannot speak TLS. Source: RFC 3207 §4; case 118."""
        if answer.code == 220:
            if self._reader:
                self._fail(self._ours(NO_SECURITY, "unencrypted octets after STARTTLS"))
            else:
                self._is_securing = True
                self._events.append(HandshakeDue())
        elif self._tls is TlsUse.MUST:
            self._fail(Deferred(NO_SECURITY, answer.text, self._remote))
        else:
            self._log_in()

    def _log_in(self) -> None:
        """Source: RFC 4954 §4. A login that fails is our trouble, so mail waits."""
        offered = self.extensions.get("AUTH", "").upper().split()
        sasl = next((login for login in self._logins if login.name in offered), None)
        if not self._logins:
            self._be_ready()
        elif sasl is None:
            self._fail(self._ours(NO_LOGIN, "no common way to log in"))
        else:
            self._sasl = sasl
            self.is_authenticating = True
            initial = sasl.begin()
            command = b"AUTH " + sasl.name.encode()
            if initial is not None:
                command += b" " + (base64.b64encode(initial) or b"=")
            self._send(command, self._on_auth)

    def _on_auth(self, answer: Answer) -> None:
        assert self._sasl is not None
        if answer.code == 334:
            challenge = decode_base64(answer.lines[-1].strip().encode("utf-8", "replace"))
            if challenge is None:
                raise PeerError("challenge is not base64")
            self._send(base64.b64encode(self._sasl.receive(challenge)), self._on_auth)
        elif answer.code // 100 == 2 and self._sasl.is_satisfied():
            self.is_authenticating = False
            self._be_ready()
        else:
            self._fail(Deferred(NO_LOGIN, answer.text, self._remote))

    def _be_ready(self) -> None:
        self.is_ready = True
        self._events.append(Ready())

    # --- a transaction --------------------------------------------------------------------------------------------

    def limit(self, name: str, default: int) -> int:
        """A limit that the server announced ("RCPTMAX", "MAILMAX"), at least 1. Source: RFC 9422 §4."""
        return announced_limit(self.extensions, name, default)

    def _on_reset(self, answer: Answer) -> None:
        if answer.code // 100 != 2:
            raise PeerError("RSET refused")

    def _on_mail(self, answer: Answer) -> None:
        if answer.code // 100 != 2:
            self._settle_rest(answer.outcome(self._remote))
            if not self._may_pipeline:
                self._unsent.clear()

    def _on_rcpt(self, answer: Answer, index: int, is_last: bool) -> None:
        if self._outcomes[index] is None:
            if answer.code // 100 == 2:
                self._accepted.append(index)
            else:
                self._outcomes[index] = answer.outcome(self._remote, is_rcpt=True)
        if not is_last or (self._may_pipeline and not self._is_chunking):
            return
        if not self._accepted:
            self._needs_reset = True
        elif self._is_chunking:
            self._want_content()
        else:
            self._send(b"DATA", self._on_data)

    def _on_data(self, answer: Answer) -> None:
        if answer.code == 354:
            if self._accepted:
                self._want_content()
            else:  # RFC 2920 §3.1: it was pipelined, so an empty message must be sent
                self._output += b".\r\n"
                self._expected.append(_ignore)
        elif answer.code < 400:
            raise PeerError("DATA was not answered with 354")  # case 121
        else:
            self._needs_reset = True
            self._settle_rest(answer.outcome(self._remote))

    def _want_content(self) -> None:
        self._writer = ChunkWriter() if self._is_chunking else ContentWriter(is_data=True)
        self.wants_content = True
        self._events.append(ContentDue())

    def _on_chunk(self, answer: Answer) -> None:
        if answer.code // 100 != 2:
            self.wants_content = False
            self._needs_reset = True
            self._settle_rest(answer.outcome(self._remote))

    def _on_delivered(self, answer: Answer, index: int | None) -> None:
        """The verdict on the message, for one recipient (LMTP) or for all."""
        outcome = answer.outcome(self._remote)
        if index is None:
            self._settle_rest(outcome)
        elif self._outcomes[index] is None:
            self._outcomes[index] = outcome

    def _settle_rest(self, outcome: Outcome) -> None:
        self._outcomes = [outcome if known is None else known for known in self._outcomes]

    def _finish_if_settled(self) -> None:
        self._settle_rest(self._ours(PROTOCOL_ERROR, "no answer"))
        self.messages += 1
        self._finish()

    def _finish(self) -> None:
        self._in_transaction = self._content_sent = False
        self.is_ready = not self.is_over
        self._writer = None
        self._events.append(Finished(tuple(outcome for outcome in self._outcomes if outcome is not None)))


def _ignore(answer: Answer) -> None:
    """The answer to an empty message that goes nowhere."""
