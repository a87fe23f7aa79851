"""One IMAP session: what is selected, how commands are carried out one after the other, and how errors are answered.

The commands themselves are in `imap_login`, `imap_mailboxes`, `imap_messages`, `imap_append`, `imap_idle`; `HANDLERS`
joins them to the values of `protocol/imap/commands`. Everything shared by the sessions of a listener is in `Service`.
"""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from pillarbox.mail.desk import Gate, Logins, Session
from pillarbox.mail.metrics import Log, Metrics, count
from pillarbox.model.clock import Clock
from pillarbox.model.errors import (
    DamagedMessage,
    LimitReached,
    MailboxExists,
    MailboxName,
    NoSuchAccount,
    NoSuchMailbox,
    OverQuota,
    Trouble,
)
from pillarbox.model.mailbox import Account
from pillarbox.model.settings import Limits, Listener, Settings
from pillarbox.protocol.imap.commands import Append, Request
from pillarbox.protocol.imap.fetch import FlagTexts
from pillarbox.protocol.imap.responses import bye, capabilities, tagged
from pillarbox.protocol.imap.server import (
    AppendEnd,
    AppendOctets,
    Event,
    IdleDone,
    ImapServer,
    Mistake,
    SaslAnswer,
    Send,
)
from pillarbox.protocol.imap.view import NoSuchNumber, View
from pillarbox.protocol.sasl import Exchange
from pillarbox.store.api import ContentWriter, Signals, Store


class Line(Protocol):
    """The connection, as a session needs it."""

    def write(self, octets: bytes) -> None:
        """Say this, with what else is said in this turn."""

    async def send(self, octets: bytes) -> None:
        """Say much: in pieces, waiting for the client to read."""

    async def drain(self) -> None:
        """Wait until the client has read most of what was said."""

    async def secure(self, context: ssl.SSLContext) -> str:
        """Begin TLS; returns protocol and cipher. What comes inside it is held back until `secured`."""

    def secured(self) -> None:
        """The session has begun again: hand it what came inside TLS so far."""

    def wake(self) -> None:
        """The account has changed: tell of it, if the session idles."""

    def close(self) -> None:
        """End the connection when all is sent."""

    def abort(self) -> None:
        """End it now: what was promised cannot be kept."""


@dataclass(slots=True)
class Service:
    """What the sessions of a listener share."""

    store: Store
    logins: Logins
    gate: Gate
    settings: Settings
    listener: Listener
    tls: ssl.SSLContext | None
    clock: Clock
    log: Log
    metrics: Metrics | None
    signals: Signals | None
    searches: ThreadPoolExecutor
    """Threads that look through messages."""
    appends: dict[str, int] = field(default_factory=dict)
    """Account → large messages on their way from clients."""

    @property
    def limits(self) -> Limits:
        return self.settings.limits


@dataclass(slots=True)
class Selected:
    """The selected mailbox, as this session sees it."""

    id: int
    name: str
    read_only: bool
    view: View
    modseq: int
    """The account's modseq up to which the client knows everything (but for what `view` keeps back)."""
    keywords: tuple[str, ...]
    texts: FlagTexts


@dataclass(slots=True)
class Appending:
    """An APPEND whose message is arriving."""

    tag: bytes
    command: Append
    mailbox: int
    uidvalidity: int
    writer: ContentWriter
    budget: bool
    trouble: Trouble | None = None


class MailboxGone(Exception):
    """The selected mailbox was deleted by someone else."""


class ImapSession:
    """The state of one session. One task at a time runs in it, and only while there is something to do."""

    __slots__ = (
        "account",
        "append",
        "core",
        "exchange",
        "idle_end",
        "idle_tag",
        "line",
        "policy",
        "sasl_tag",
        "sasl_user",
        "selected",
        "service",
    )

    def __init__(self, service: Service, line: Line, policy: Session) -> None:
        self.service = service
        self.line = line
        self.policy = policy
        self.core = ImapServer(service.limits)
        self.account: Account | None = None
        self.selected: Selected | None = None
        self.append: Appending | None = None
        self.exchange: Exchange | None = None
        self.sasl_tag = b""
        self.sasl_user: tuple[str, Account | None] | None = None
        self.idle_tag = b""
        self.idle_end: Callable[[], None] | None = None

    # --- saying

    def greet(self) -> None:
        self.line.write(tagged(b"*", b"OK", b"Pillarbox is ready.", b"CAPABILITY " + self.capabilities()))

    def capabilities(self) -> bytes:
        return capabilities(self.account is not None, self.may_login(), self.may_starttls())

    def may_login(self) -> bool:
        """Are passwords taken on this connection as it is? Source: RFC 3501 §6.2.3."""
        return bool(self.policy.tls) or self.service.listener.cleartext_login

    def may_starttls(self) -> bool:
        return self.service.tls is not None and not self.policy.tls and self.service.listener.tls == "starttls"

    def say(self, tag: bytes, condition: bytes, text: bytes, code: bytes = b"") -> None:
        self.line.write(tagged(tag, condition, text, code))

    def ok(self, tag: bytes, text: bytes = b"Done.", code: bytes = b"") -> None:
        self.say(tag, b"OK", text, code)

    def no(self, tag: bytes, text: bytes, code: bytes = b"") -> None:
        self.say(tag, b"NO", text, code)

    def end(self, text: bytes, code: bytes = b"") -> None:
        """Say BYE and close."""
        self.line.write(bye(text, code))
        self.core.close()
        self.line.close()

    # --- what the shell of a connection calls

    async def answer(self, event: Event) -> None:
        """Carry out one event. Raises only cancellation."""
        match event:
            case Request(tag, command):
                count(self.service.metrics, "imap_commands", command=type(command).__name__.lower())
                await self.guarded(tag, HANDLERS[type(command)](self, tag, command))
            case Send(octets):
                self.line.write(octets)
            case AppendOctets() | AppendEnd():
                tag = self.append.tag if self.append else b"*"
                await self.guarded(tag, EVENT_HANDLERS[type(event)](self, tag, event))
            case SaslAnswer():
                await self.guarded(self.sasl_tag, EVENT_HANDLERS[SaslAnswer](self, self.sasl_tag, event))
            case IdleDone():
                await self.guarded(self.idle_tag, EVENT_HANDLERS[IdleDone](self, self.idle_tag, event))
            case Mistake():
                self._mistake(event)

    def _mistake(self, mistake: Mistake) -> None:
        if self.append:  # what followed the message was wrong
            tag = self.append.tag
            self.drop_append()
            self.say(tag, b"BAD", b"Something follows the message.")
        self.stop_waiting()
        self.line.write(mistake.octets)
        if mistake.close:
            if not mistake.octets:
                self.line.write(bye(b"Too much."))
            self.line.close()

    async def guarded(self, tag: bytes, work: Awaitable[None]) -> None:
        """Answer what goes wrong. Texts of exceptions go to the log, never to the client."""
        try:
            await work
        except MailboxGone:
            self.end(b"The selected mailbox was deleted.")
        except NoSuchNumber:
            self.say(tag, b"BAD", b"No such message.")
        except NoSuchAccount:
            self.end(b"This account is not here any more.", b"UNAVAILABLE")
        except tuple(_ANSWERS) as error:
            code, text = next(answer for kind, answer in _ANSWERS.items() if isinstance(error, kind))
            self.no(tag, text, code)
            if isinstance(error, Trouble | DamagedMessage):
                self._log_error("imap trouble", error)
        except (ConnectionError, TimeoutError):
            self.line.abort()
        except Exception as error:
            self._log_error("imap command failed", error)
            self.no(tag, b"Our mistake; it is in the log.", b"SERVERBUG")

    def _log_error(self, event: str, error: Exception) -> None:
        account = str(self.account.id) if self.account else ""
        self.service.log.error(event, account=account, peer=self.policy.peer, error=repr(error), exc_info=error)

    # --- ends

    def stop_waiting(self) -> None:
        """Neither idle nor in an exchange any more."""
        if self.idle_end:
            self.idle_end()
        self.idle_end, self.idle_tag = None, b""
        self.exchange = None

    def drop_append(self) -> None:
        """Forget a message that was arriving."""
        if self.append:
            self.append.writer.abort()
            self.release_append()

    def release_append(self) -> None:
        if self.append and self.append.budget and self.account:
            appends, key = self.service.appends, str(self.account.id)
            appends[key] -= 1
            if not appends[key]:
                del appends[key]
        self.append = None

    def lost(self) -> None:
        """The connection is gone."""
        self.stop_waiting()
        self.drop_append()
        self.core.close()


_ANSWERS: Final[dict[type[Exception], tuple[bytes, bytes]]] = {
    NoSuchMailbox: (b"NONEXISTENT", b"No such mailbox."),
    MailboxExists: (b"ALREADYEXISTS", b"There is such a mailbox already."),
    MailboxName: (b"CANNOT", b"That cannot be done with this name."),
    OverQuota: (b"OVERQUOTA", b"The quota would be passed."),
    LimitReached: (b"LIMIT", b"There may not be more of these."),
    DamagedMessage: (b"SERVERBUG", b"A message is damaged here."),
    Trouble: (b"UNAVAILABLE", b"We have trouble; try again later."),
}
"""Exception → (response code of RFC 5530, text)."""

Handler = Callable[["ImapSession", bytes, Any], Awaitable[None]]
HANDLERS: Final[dict[type, Handler]] = {}
"""Command → what carries it out. Filled by `handles` in the modules of the commands."""
EVENT_HANDLERS: Final[dict[type, Handler]] = {}
"""The same for what is no command: octets of a message, answers to challenges, the end of IDLE."""


def handles(*kinds: type) -> Callable[[Handler], Handler]:
    """Decorator: this carries out commands of these types."""

    def register(handler: Handler) -> Handler:
        for kind in kinds:
            (EVENT_HANDLERS if kind in (AppendOctets, AppendEnd, SaslAnswer, IdleDone) else HANDLERS)[kind] = handler
        return handler

    return register
