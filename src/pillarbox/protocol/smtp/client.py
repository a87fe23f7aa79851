"""One SMTP or LMTP session as the client sees it, without I/O: replies in, commands and outcomes out.

Commands are pipelined where the server allows it, content goes by BDAT where it can. Every recipient gets an outcome,
whatever happens. Source: RFC 5321; RFC 2033 (LMTP), 2920 (PIPELINING), 1870 (SIZE), 3030 (CHUNKING), 3207
(STARTTLS), 3461 (DSN), 4954 (AUTH), 6531 (SMTPUTF8), 9422 (LIMITS). Cases 18, 19, 49, 116, 118–121.
"""

from __future__ import annotations

import base64
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import Final, TypeAlias

from pillarbox.model.envelope import Envelope, Recipient
from pillarbox.model.errors import PeerError
from pillarbox.model.outcome import Deferred, Failed, Outcome
from pillarbox.model.status import Status
from pillarbox.protocol.sasl import SaslClient, decode_base64
from pillarbox.protocol.smtp.answers import Answer, AnswerReader
from pillarbox.protocol.smtp.content import ContentWriter
from pillarbox.protocol.smtp.grammar import encode_xtext

LOST: Final = Status(4, 4, 2)
PROTOCOL_ERROR: Final = Status(4, 5, 0)
NO_SECURITY: Final = Status(4, 7, 10)
NO_LOGIN: Final = Status(4, 7, 8)
TOO_BIG: Final = Status(5, 3, 4)
NEEDS_SMTPUTF8: Final = Status(5, 6, 7)
TOO_MANY_RECIPIENTS: Final = Status(4, 5, 3)


class TlsUse(Enum):
    """What to do about STARTTLS."""

    NEVER = "never"
    MAY = "may"
    """Use it where it is offered."""
    MUST = "must"
    """No mail without it."""


@dataclass(frozen=True, slots=True)
class HandshakeDue:
    """Do the TLS handshake, then call `secured`."""


@dataclass(frozen=True, slots=True)
class Ready:
    """The session is set up; `extensions` are known: `begin` may be called."""


@dataclass(frozen=True, slots=True)
class ContentDue:
    """Hand the message to `content`, in pieces, while `wants_content`; then `end_content`."""


@dataclass(frozen=True, slots=True)
class Finished:
    """The transaction is over: one outcome for each recipient, in order."""

    outcomes: tuple[Outcome, ...]


@dataclass(frozen=True, slots=True)
class Broken:
    """The session ended before a transaction: what that means for everyone who was to get mail through it."""

    outcome: Outcome


ClientEvent: TypeAlias = HandshakeDue | Ready | ContentDue | Finished | Broken
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
        self._writer: ContentWriter | None = None
        self._is_chunking = False
        self._chunk = b""
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
        if (refused := self._refuse_at_once(size_octets, needs_smtputf8)) is not None:
            self._settle_rest(refused)
            self._finish()
            return
        if self._needs_reset:
            self._needs_reset = False
            self._send(b"RSET", self._on_reset)
        self._send(self._mail_command(envelope, size_octets, has_eight_bit, needs_smtputf8), self._on_mail)
        limit = self.limit("RCPTMAX", len(self._recipients))
        last = min(limit, len(self._recipients)) - 1
        for index, recipient in enumerate(self._recipients):
            if index >= limit:
                self._outcomes[index] = self._ours(TOO_MANY_RECIPIENTS, "limit of recipients")
                continue
            self._send(self._rcpt_command(recipient), partial(self._on_rcpt, index=index, is_last=index == last))
        self._is_chunking = "CHUNKING" in self.extensions and self._may_pipeline
        if self._may_pipeline and not self._is_chunking:
            self._send(b"DATA", self._on_data)
        self._pump()

    def content(self, octets: bytes) -> None:
        """The next piece of the message."""
        if not self.wants_content:
            return
        assert self._writer is not None
        wire = self._writer.write(octets)
        if not self._is_chunking:
            self._output += wire
            return
        if self._chunk:
            self._output += b"BDAT %d\r\n" % len(self._chunk) + self._chunk
            self._expected.append(self._on_chunk)
        self._chunk = wire

    def end_content(self) -> None:
        """The message is whole."""
        if not self.wants_content:
            return
        assert self._writer is not None
        self.wants_content = False
        self._content_sent = True
        if self._is_chunking:
            rest = self._chunk + self._writer.finish()
            self._output += b"BDAT %d LAST\r\n" % len(rest) + rest
            self._chunk = b""
        else:
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
        for line in answer.lines[1:]:
            keyword, _, value = line.strip().partition(" ")
            self.extensions[keyword.upper()] = value.strip()
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

    def _refuse_at_once(self, size_octets: int, needs_smtputf8: bool) -> Outcome | None:
        """What the server's extensions rule out."""
        limit = self.extensions.get("SIZE", "")
        if limit.isascii() and limit.isdigit() and 0 < int(limit[:20]) < size_octets:
            return Failed(TOO_BIG, f"{self._remote} takes at most {int(limit[:20])} octets")
        if needs_smtputf8 and "SMTPUTF8" not in self.extensions:
            return Failed(NEEDS_SMTPUTF8, f"{self._remote} does not offer SMTPUTF8")
        return None

    def limit(self, name: str, default: int) -> int:
        """A limit that the server announced ("RCPTMAX", "MAILMAX"), at least 1. Source: RFC 9422 §4."""
        for word in self.extensions.get("LIMITS", "").upper().split():
            found, _, value = word.partition("=")
            if found == name and value.isascii() and value.isdigit() and len(value) < 7:
                return max(int(value), 1)
        return default

    def _mail_command(self, envelope: Envelope, size_octets: int, has_eight_bit: bool, needs_smtputf8: bool) -> bytes:
        path = str(envelope.reverse_path) if envelope.reverse_path else ""
        words = [f"MAIL FROM:<{path}>"]
        if "SIZE" in self.extensions:
            words.append(f"SIZE={size_octets}")
        if has_eight_bit and "8BITMIME" in self.extensions:
            words.append("BODY=8BITMIME")
        if needs_smtputf8:
            words.append("SMTPUTF8")
        if "DSN" in self.extensions:
            if envelope.ret:
                words.append(f"RET={envelope.ret}")
            if envelope.envid:
                words.append(f"ENVID={encode_xtext(envelope.envid)}")
        return " ".join(words).encode()

    def _rcpt_command(self, recipient: Recipient) -> bytes:
        words = [f"RCPT TO:<{recipient.address}>"]
        if "DSN" in self.extensions:
            if recipient.notify:
                words.append(f"NOTIFY={','.join(sorted(recipient.notify))}")
            if recipient.orcpt:
                words.append(f"ORCPT={encode_orcpt(recipient.orcpt)}")
        return " ".join(words).encode()

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
        self._writer = ContentWriter(is_data=not self._is_chunking)
        self._chunk = b""
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


def encode_orcpt(orcpt: str) -> str:
    """`type;address` for the wire. Source: RFC 3461 §4.2, RFC 6533 §3."""
    kind, _, address = orcpt.partition(";")
    if kind.lower() == "utf-8":
        plain = (c if 0x21 <= ord(c) <= 0x7E and c not in "+=\\" else f"\\x{{{ord(c):02X}}}" for c in address)
        return f"{kind};{''.join(plain)}"
    return f"{kind};{encode_xtext(address)}"
