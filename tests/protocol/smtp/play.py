"""Plays a transcript against an SmtpServer with a small obliging desk, and tells the story of a session.

`C:` lines are sent with CRLF; `S:` lines are what must come back, `…` matches the rest of the line. `R:` lines are
raw octets in Python notation (no CRLF added). `S: (closed)` says that the session is over.
The desk knows ada@us.example, bob@us.example; refuses relaying; `full@` is over quota; `sender@bad.example` is refused.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable
from pathlib import Path

from pillarbox.model.address import Address
from pillarbox.model.secret import fake_secret, make_secret
from pillarbox.model.settings import Limits
from pillarbox.model.status import Status
from pillarbox.protocol.sasl import MECHANISMS, Authenticated, CheckPassword, GetVerifier
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
from pillarbox.protocol.smtp.replies import Reply, Stage, reply_for
from pillarbox.protocol.smtp.rules import (
    AUTH_OK,
    BYE,
    GO_AHEAD,
    MAIL_OK,
    OK,
    RCPT_OK,
    TLS_GO_AHEAD,
    Mode,
    SmtpConfig,
)
from pillarbox.protocol.smtp.server import SmtpServer

USERS = {"ada", "bob"}
SECRET = make_secret("s3cret", b"0123456789abcdef", 4096)


def config_for(mode: str = "mx", limits: Limits | None = None, **more: bool) -> SmtpConfig:
    """A listener of the kind that transcripts name: mx, submission, lmtp."""
    limits = limits or Limits()
    if mode == "submission":
        return SmtpConfig("mail.us.example", Mode.SUBMISSION, limits, True, MECHANISMS)
    return SmtpConfig("mail.us.example", Mode.LMTP if mode == "lmtp" else Mode.MX, limits, **more)


class Conversation:
    """A server core and its desk; `say` returns what the server sends."""

    def __init__(
        self,
        config: SmtpConfig | None = None,
        is_secure: bool = False,
        is_trusted: bool = False,
        is_stressed: bool = False,
    ) -> None:
        self.smtp = SmtpServer(
            config or config_for(), lambda: "servernonce", is_secure, is_trusted, is_stressed=is_stressed
        )
        self.events: list[Event] = []
        self.messages: list[bytes] = []
        self.sent = bytearray(self.smtp.greet())
        self._content = b""
        self._recipients: list[Address] = []

    def say(self, octets: bytes) -> bytes:
        self.smtp.receive(octets)
        out = bytearray()
        while (event := self.smtp.next_event()) is not None:
            self.events.append(event)
            out += self._answer(event)
        self.sent += out
        return bytes(out)

    def lines(self, *lines: str) -> bytes:
        return self.say("".join(f"{line}\r\n" for line in lines).encode())

    def _answer(self, event: Event) -> bytes:
        smtp = self.smtp
        match event:
            case Answered(reply) | Hello(_, _, reply):
                return smtp.reply(reply)
            case StartTls():
                octets = smtp.reply(TLS_GO_AHEAD)
                smtp.secured()
                return octets
            case Auth(question):
                return self._authenticate(question)
            case Mail(envelope, _):
                path = envelope.reverse_path
                bad = path is not None and path.domain == "bad.example"
                self._recipients = []
                return smtp.reply(reply_for(Stage.MAIL, Status(5, 7, 1)) if bad else MAIL_OK)
            case Rcpt(recipient):
                return smtp.reply(self._rcpt(recipient.address))
            case Data():
                self._content = b""
                return smtp.reply(GO_AHEAD)
            case Content(octets):
                self._content += octets
                return b""
            case ContentEnd(_, _, refusal):
                if refusal is None:
                    self.messages.append(self._content)
                    if smtp.config.mode is Mode.LMTP:
                        return smtp.reply_each([self._delivered(address) for address in self._recipients])
                return smtp.reply(refusal or OK)
            case Reset():
                return smtp.reply(OK)
            case Quit():
                return smtp.reply(BYE)

    def _rcpt(self, address: Address) -> Reply:
        if address.domain not in ("us.example", ""):
            return reply_for(Stage.RCPT, Status(5, 7, 1), "relay denied")
        if address.local.lower() not in USERS | {"postmaster", "full"}:
            return reply_for(Stage.RCPT, Status(5, 1, 1))
        self._recipients.append(address)
        return RCPT_OK

    def _delivered(self, address: Address) -> Reply:
        full = address.local == "full"
        return (
            reply_for(Stage.CONTENT, Status(4, 2, 2)) if full else Reply(250, Status(2, 1, 5), f"{address} delivered")
        )

    def _authenticate(self, question: object) -> bytes:
        match question:
            case CheckPassword(authcid, _, password):
                good = (authcid, password) == ("ada", "s3cret")
                return self.smtp.reply(AUTH_OK if good else reply_for(Stage.AUTH, Status(5, 7, 8)))
            case GetVerifier(username):
                self.smtp.supply_verifier(SECRET if username == "ada" else fake_secret(username, b"x", 4096))
                return b""
            case Authenticated():
                return self.smtp.reply(AUTH_OK)
        return self.smtp.reply(reply_for(Stage.AUTH, Status(5, 7, 8)))


def play(path: Path) -> None:
    """Run a transcript file; `# mode: submission tls` on its first line chooses the listener."""
    lines = path.read_text().splitlines()
    words = lines[0].removeprefix("# mode:").split()
    limits = Limits(message_octets=2000, recipients=3, junk_commands=5) if "small" in words else None
    talk = Conversation(config_for(words[0], limits, has_starttls="starttls" in words), "tls" in words)
    waiting = bytes(talk.sent)
    for number, line in enumerate(lines, 1):
        if line.startswith("C: "):
            waiting += talk.say(line[3:].encode() + b"\r\n")
        elif line.startswith("R: "):
            waiting += talk.say(ast.literal_eval(f'b"{line[3:]}"'))
        elif line == "S: (closed)":
            assert talk.smtp.is_over, f"{path.name}:{number}: still open"
        elif line.startswith("S: "):
            said, _, waiting = waiting.partition(b"\r\n")
            wanted = line[3:]
            heard = said.decode()
            right = heard.startswith(wanted[:-1]) if wanted.endswith("…") else heard == wanted
            assert right, f"{path.name}:{number}: wanted {wanted!r}, got {heard!r}"
        elif line and not line.startswith("#"):
            raise AssertionError(f"{path.name}:{number}: what is this? {line!r}")
    assert waiting == b"", f"{path.name}: unexpected {waiting!r}"


def story(pieces: Iterable[bytes], config: SmtpConfig, is_secure: bool = False) -> tuple[object, ...]:
    """What a session comes to: events (contents joined), octets sent, and whether it is over."""
    talk = Conversation(config, is_secure)
    for piece in pieces:
        talk.say(piece)
    events: list[object] = []
    for event in talk.events:
        if isinstance(event, Content) and events and isinstance(events[-1], Content):
            events[-1] = Content(events[-1].octets + event.octets)
        else:
            events.append(event)
    return events, bytes(talk.sent), talk.messages, talk.smtp.is_over
