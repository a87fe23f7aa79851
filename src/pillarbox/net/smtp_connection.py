"""One connection of SMTP, submission or LMTP: octets to the core, questions to the desk, answers back in one write.

What can be answered without waiting is answered within `data_received`; for the rest one task runs, and the client's
further octets wait. There is no timer per connection: the sweep in `smtpd.py` looks at deadlines.
Source: RFC 5321 §4.5.3.2 (timeouts), RFC 2920 §3.2 (one write for a batch), RFC 3207 (STARTTLS), RFC 2033 (LMTP);
cases 2, 10, 15, 16, 51, 53, 69, 84, 85.
"""

from __future__ import annotations

import asyncio
import base64
import os
import types
from collections.abc import Coroutine, Generator
from typing import TYPE_CHECKING, Any, Final, cast

from pillarbox.mail.desk import Session, Transaction
from pillarbox.mail.metrics import count
from pillarbox.model.errors import Refused, Trouble
from pillarbox.model.mailbox import Account
from pillarbox.model.outcome import Delivered, Outcome
from pillarbox.model.status import Status
from pillarbox.net.tls import describe
from pillarbox.protocol.sasl import Authenticated, CheckPassword, GetVerifier
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
)
from pillarbox.protocol.smtp.server import SmtpServer
from pillarbox.store.api import ContentWriter

if TYPE_CHECKING:
    from pillarbox.net.smtpd import SmtpService

CHECK_S: Final = 1.0
"""How often deadlines are looked at while something is going on."""
RATE_GRACE_S: Final = 10.0
"""A message may start slowly; then `min_rate_octets_s` holds."""
SLOW_ANSWER_S: Final = 1.0
DRAIN_OCTETS: Final = 1 << 18
"""So much content is written before the store is waited for."""
READ_AHEAD_OCTETS: Final = 1 << 16
"""So much may wait while the desk thinks; then reading stops."""
FLUSH_OCTETS: Final = 1 << 14
LINGER_S: Final = 5.0

_TROUBLE: Final = Status(4, 3, 0)
_ACCEPTED: Final = Status(2, 0, 0)
_WRONG: Final = Status(5, 7, 8)
_TIMEOUT: Final = Reply(421, Status(4, 4, 2), "timeout, closing")
_TOO_SLOW: Final = Reply(421, Status(4, 4, 2), "too slow, closing")
STOPPING: Final = Reply(421, Status(4, 3, 2), "going down, try again later")
_OUR_TROUBLE: Final = Reply(421, Status(4, 3, 0), "trouble on our side, try again later")
_STAGES: Final = {Auth: Stage.AUTH, Mail: Stage.MAIL, Rcpt: Stage.RCPT, Data: Stage.DATA, ContentEnd: Stage.CONTENT}


def make_nonce() -> str:
    """24 printable characters of randomness, for SCRAM."""
    return base64.b64encode(os.urandom(18)).decode()


class SmtpConnection(asyncio.Protocol):
    """One connection of a client."""

    __slots__ = (
        "_account",
        "_content_failure",
        "_content_octets",
        "_content_since_s",
        "_greeting",
        "_has_eof",
        "_is_accepting",
        "_is_admitted",
        "_is_closing",
        "_is_paused",
        "_is_polite",
        "_is_reading",
        "_is_securing",
        "_is_working",
        "_loop",
        "_message_since_s",
        "_out",
        "_scram_user",
        "_secured",
        "_service",
        "_smtp",
        "_task",
        "_transaction",
        "_transport",
        "_undrained",
        "_writer",
        "_written_s",
        "check_at_s",
        "session",
    )

    def __init__(self, service: SmtpService) -> None:
        self._service = service
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._task: asyncio.Task[None] | None = None
        self._out = bytearray()
        self._transaction: Transaction | None = None
        self._writer: ContentWriter | None = None
        self._scram_user: tuple[str, Account | None] | None = None
        self._greeting: asyncio.TimerHandle | None = None
        self._secured = bytearray()
        self._is_securing = self._is_accepting = self._is_admitted = self._is_closing = self._is_paused = False
        self._is_polite = self._has_eof = self._is_working = False
        self._is_reading = True
        self._undrained = 0
        self._content_octets = 0
        self._content_since_s = 0.0
        self._content_failure: Reply | None = None
        self.check_at_s = 0.0

    # --- called by the loop ---------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        service = self._service
        self._transport = transport = cast(asyncio.Transport, transport)  # uvloop's are not of this class
        self._message_since_s = self._written_s = now_s = self._loop.time()
        self.check_at_s = now_s + service.limits.first_command_timeout_s
        self.session = session = Session(
            service.config.mode.value,
            _host(transport.get_extra_info("peername")),
            _host(transport.get_extra_info("sockname")),
        )
        if service.limits.write_buffer_octets != 65536:  # what the loop does by itself
            transport.set_write_buffer_limits(high=service.limits.write_buffer_octets)
        tls = transport.get_extra_info("ssl_object")
        if tls is not None:
            session.tls = describe(tls)
        refusal = STOPPING if service.is_stopping else None
        if refusal is None:
            try:
                service.gate.admit(session)
                self._is_admitted = True
            except Refused as refused:
                refusal = reply_for(Stage.CONNECT, refused.status, refused.note)
                self._log_refusal(Stage.CONNECT, refused)
        self._smtp = SmtpServer(
            service.config, make_nonce, tls is not None, session.trusted, session.may_relay, session.stressed
        )
        service.sessions.add(self)
        if service.metrics is not None:
            count(service.metrics, "smtp_sessions", protocol=session.protocol)
        wait_s = service.greeting_wait_s(session) if refusal is None else 0.0
        if wait_s > 0.0:
            self._greeting = self._loop.call_later(wait_s, self._greet)
        else:
            self._greet(refusal)

    def _greet(self, refusal: Reply | None = None) -> None:
        if self._greeting is not None:
            self._greeting.cancel()
            self._greeting = None
        if self._transport is not None:
            self._out += self._smtp.greet(refusal)
            self._flush()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._greeting is not None:
            self._greeting.cancel()
        self._service.sessions.discard(self)
        if self._task is not None and not self._is_accepting:
            self._task.cancel()
        if not self._is_accepting:
            self._forget_transaction()
        if self._is_admitted:
            self._is_admitted = False
            self._service.gate.leave(self.session)

    def data_received(self, data: bytes) -> None:
        if self._is_securing:
            self._secured += data
            return
        try:
            self._smtp.receive(data)
            self._content_octets += len(data)
            if self._greeting is not None:  # who speaks before the greeting is no mail server (case 58)
                self._greet()
            elif not self._is_working:
                self._work()
            elif self._smtp.buffered > READ_AHEAD_OCTETS:
                self._stop_reading()
        except MemoryError:
            self.end(_OUR_TROUBLE)

    def eof_received(self) -> bool:
        """A client that closes its half still gets the answers to what it said, but nothing is waited for."""
        self._has_eof = True
        return self._is_working

    def pause_writing(self) -> None:
        self._is_paused = True
        self._stop_reading()

    def resume_writing(self) -> None:
        self._is_paused = False
        if not self._is_working and self._transport is not None:
            self._work()

    # --- the conversation -----------------------------------------------------------------------------------------

    def _work(self) -> None:
        """Answer what can be answered now; start a task for what must be waited for."""
        smtp = self._smtp
        while not self._is_paused and (event := smtp.next_event()) is not None:
            if smtp.is_slow or self._undrained > DRAIN_OCTETS or not self._answer_now(event):
                self._start(self._converse(event))
                return
            if len(self._out) > FLUSH_OCTETS:
                self._flush()
        self._flush()

    def _start(self, work: Coroutine[Any, None, None]) -> None:
        """Run it as far as it goes without waiting; only if it must wait it becomes a task. Most answers of the desk
        come from memory, and a task costs as much as the rest of a command. (So a desk may not ask for the current
        task before it first waits, as `asyncio.timeout` does.)"""
        self._is_working = True
        try:
            waits_for = work.send(None)
        except StopIteration:
            return
        self._task = self._loop.create_task(_go_on(work, waits_for))

    async def _converse(self, event: Event | None) -> None:
        """Answer this event and what follows it, waiting where that is needed."""
        smtp = self._smtp
        try:
            while event is not None:
                if smtp.is_slow and type(event) is not Content:
                    self._flush()
                    await asyncio.sleep(SLOW_ANSWER_S)
                if self._undrained > DRAIN_OCTETS:
                    await self._drain()
                if not self._answer_now(event):
                    self._out += await self._ask(event)
                if self._transport is None:
                    return
                if len(self._out) > FLUSH_OCTETS:
                    self._flush()
                event = smtp.next_event() if not self._is_paused else None
        except MemoryError:
            self.end(_OUR_TROUBLE)
        except Exception:
            self._service.log.error("unforeseen", peer=self.session.peer, exc_info=True)
            self.end(_OUR_TROUBLE)
        finally:
            self._task = None
            self._is_working = False
        self._flush()

    def _answer_now(self, event: Event) -> bool:
        """Answer an event that nobody need be asked about; False for others."""
        smtp = self._smtp
        kind = type(event)
        if kind is Content:
            assert isinstance(event, Content)
            self._take_content(event.octets)
        elif kind is Answered:
            assert isinstance(event, Answered)
            self._out += smtp.reply(event.reply)
        elif kind is Data:
            self._out += smtp.reply(self._open_content())
        elif kind is Hello:
            assert isinstance(event, Hello)
            self.session.helo = event.name
            self.session.esmtp = event.is_extended
            self._forget_transaction()
            self._out += smtp.reply(event.reply)
        elif kind is ContentEnd:
            assert isinstance(event, ContentEnd)
            refusal = event.refusal or self._content_failure
            if refusal is None:
                return False
            self._forget_transaction()
            self._out += smtp.reply(refusal)
        elif kind is Reset:
            self._forget_transaction()
            self._out += smtp.reply(OK)
        elif kind is Quit:
            self._is_polite = True
            self._out += smtp.reply(BYE)
        else:
            return False
        return True

    async def _ask(self, event: Event) -> bytes:
        """Put an event to the desk, and return the octets of the answer. What goes wrong becomes a reply."""
        stage = _STAGES.get(type(event), Stage.STARTTLS)
        try:
            return await self._ask_desk(event)
        except Refused as refused:
            self._log_refusal(stage, refused)
            return self._smtp.reply(reply_for(stage, refused.status, refused.note))
        except Trouble as trouble:
            self._service.log.warning("trouble", stage=stage.value, peer=self.session.peer, error=str(trouble))
            return self._smtp.reply(reply_for(stage, trouble.status))
        except MemoryError:
            raise
        except Exception:
            self._service.log.error("unforeseen", stage=stage.value, peer=self.session.peer, exc_info=True)
            return self._smtp.reply(reply_for(stage, _TROUBLE))

    async def _ask_desk(self, event: Event) -> bytes:
        """Raises Refused, Trouble."""
        smtp, desk, session = self._smtp, self._service.desk, self.session
        match event:
            case Rcpt(recipient):
                assert self._transaction is not None
                await desk.rcpt(session, self._transaction, recipient)
                return smtp.reply(RCPT_OK)
            case Mail(envelope, size_octets):
                self._transaction = await desk.mail(session, envelope, size_octets)
                return smtp.reply(MAIL_OK)
            case ContentEnd():
                return await self._accept()
            case Auth(CheckPassword(authcid, authzid, password)):
                self._check_authzid(authcid, authzid)
                return self._log_in(await self._service.logins.password(session, authcid, password))
            case Auth(GetVerifier(username)):
                verifier, account = await self._service.logins.verifier(session, username)
                self._scram_user = username, account
                smtp.supply_verifier(verifier)
                return b""
            case Auth(question):
                return await self._end_scram(question)
            case StartTls():
                await self._secure()
                return b""
        raise AssertionError(event)

    # --- messages -------------------------------------------------------------------------------------------------

    def _open_content(self) -> Reply:
        assert self._transaction is not None
        self._undrained = self._content_octets = 0
        self._content_failure = None
        self._content_since_s = self._loop.time()
        try:
            self._writer = self._service.desk.content(self.session, self._transaction)
        except Refused as refused:
            self._log_refusal(Stage.DATA, refused)
            return reply_for(Stage.DATA, refused.status, refused.note)
        except Trouble as trouble:
            return reply_for(Stage.DATA, trouble.status)
        return GO_AHEAD

    def _take_content(self, octets: bytes) -> None:
        if self._writer is None:
            return
        try:
            self._writer.write(octets)
        except Trouble as trouble:  # the rest is read and forgotten, then answered (case 10)
            self._content_failure = reply_for(Stage.CONTENT, trouble.status)
            self._writer.abort()
            self._writer = None
        self._undrained += len(octets)

    async def _drain(self) -> None:
        """Let the store catch up; the time that takes is not held against the client."""
        self._undrained = 0
        if self._writer is None:
            return
        since_s = self._loop.time()
        try:
            await self._writer.drain()
        except Trouble as trouble:
            self._content_failure = reply_for(Stage.CONTENT, trouble.status)
            self._writer.abort()
            self._writer = None
        self._content_since_s += self._loop.time() - since_s

    async def _accept(self) -> bytes:
        """Make the message ours. It is seen through even if the client goes away meanwhile (case 2)."""
        transaction, writer = self._transaction, self._writer
        assert transaction is not None
        assert writer is not None
        recipients = list(transaction.recipients)
        self._is_accepting = True
        try:
            spool_id, outcomes = await self._service.desk.accept(self.session, transaction, writer)
        except BaseException:
            writer.abort()
            raise
        finally:
            self._is_accepting = False
            self._transaction = self._writer = None
        self._message_since_s = self._loop.time()
        self._service.know(self.session)
        if self._service.config.mode is not Mode.LMTP:
            return self._smtp.reply(Reply(250, _ACCEPTED, f"queued as {spool_id}"))
        return self._smtp.reply_each(
            [_lmtp_reply(outcome, str(r.address), spool_id) for outcome, r in zip(outcomes, recipients, strict=True)]
        )

    def _forget_transaction(self) -> None:
        self._transaction = None
        self._content_failure = None
        if self._writer is not None:
            self._writer.abort()
            self._writer = None

    # --- logins and TLS -------------------------------------------------------------------------------------------

    def _check_authzid(self, authcid: str, authzid: str) -> None:
        if authzid and authzid.casefold() != authcid.casefold():
            self.session.auth_failures += 1
            raise Refused(_WRONG, "authzid")

    def _log_in(self, account: Account) -> bytes:
        self.session.account = account
        try:
            self._service.gate.login(self.session)
        except Refused:
            self.session.account = None
            raise
        return self._smtp.reply(AUTH_OK)

    async def _end_scram(self, question: object) -> bytes:
        """SCRAM has ended, well or not; or a password was refused unseen. Raises Refused."""
        user, self._scram_user = self._scram_user, None
        if user is None:
            self.session.auth_failures += 1
            raise Refused(_WRONG, "credentials")
        is_good = isinstance(question, Authenticated)
        if isinstance(question, Authenticated) and question.authzid:
            is_good = question.authzid.casefold() == user[0].casefold()
        account = await self._service.logins.scram_done(self.session, *user, is_good)
        return self._log_in(account)

    async def _secure(self) -> None:
        """STARTTLS. What arrives inside TLS before we hear of the handshake's end is kept for after it."""
        transport, context = self._transport, self._service.tls
        assert transport is not None
        assert context is not None
        self._out += self._smtp.reply(TLS_GO_AHEAD)
        self._flush()
        self._is_securing = True
        try:
            secured = await self._loop.start_tls(
                transport,
                self,
                context,
                server_side=True,
                ssl_handshake_timeout=self._service.limits.handshake_timeout_s,
            )
        except asyncio.CancelledError:
            transport.abort()
            raise
        except (OSError, TimeoutError):  # a failed handshake is the client's affair
            transport.abort()
            if self._transport is not None:  # start_tls may leave us without connection_lost
                self.connection_lost(None)
            return
        finally:
            self._is_securing = False
        if secured is None or self._transport is None:
            return
        self._transport = secured
        self.session.tls = describe(secured.get_extra_info("ssl_object"))
        self.session.helo = ""
        self._smtp.secured()
        if self._secured:
            self._smtp.receive(bytes(self._secured))
            self._secured.clear()

    # --- deadlines and endings ------------------------------------------------------------------------------------

    def check(self, now_s: float) -> None:
        """A deadline may have passed. Called by the sweep, when `check_at_s` is over."""
        transport, limits = self._transport, self._service.limits
        if transport is None:
            return
        self.check_at_s = now_s + CHECK_S
        if transport.get_write_buffer_size() or self._is_closing:
            if now_s - self._written_s >= limits.write_stall_s:  # it does not read (case 85), or lingers
                transport.abort()
        elif self._is_working:
            return
        elif self._smtp.is_in_content:
            elapsed_s = now_s - self._content_since_s
            if elapsed_s > RATE_GRACE_S and self._content_octets < elapsed_s * limits.min_rate_octets_s:
                self.end(_TOO_SLOW)
        elif now_s - self._written_s >= self._command_timeout_s() or (
            now_s - self._message_since_s >= limits.session_without_message_s and not self.session.trusted
        ):
            self.end(_TIMEOUT)

    def _command_timeout_s(self) -> float:
        limits, session = self._service.limits, self.session
        is_early = not session.helo or (session.protocol == "submission" and session.account is None)
        timeout_s = limits.first_command_timeout_s if is_early else limits.command_timeout_s
        return min(timeout_s, limits.stress_timeout_s) if session.stressed else timeout_s

    def stop(self) -> None:
        """The server is going down: end, unless a message is on its way."""
        if not self._is_working and not self._smtp.is_in_content:
            self.end(STOPPING)

    def end(self, reply: Reply) -> None:
        """Say this and close."""
        if self._transport is not None and not self._smtp.is_over:
            self._out += self._smtp.interrupt(reply)
            self._flush()

    def _flush(self) -> None:
        """Write what was answered; close if that was the last word; read on if reading had stopped."""
        transport, smtp = self._transport, self._smtp
        if transport is None:
            self._out.clear()
            return
        if self._out:
            transport.write(bytes(self._out))
            self._out.clear()
            self._written_s = now_s = self._loop.time()
            self.check_at_s = now_s + CHECK_S
        if smtp.is_over:
            self._close(transport)
        elif self._service.is_stopping and not self._is_working and not smtp.is_in_content:
            self.end(STOPPING)
        elif self._has_eof and not self._is_working:
            transport.close()
        elif not self._is_reading and not self._is_paused:
            self._is_reading = True
            transport.resume_reading()

    def _close(self, transport: asyncio.Transport) -> None:
        """Close when all is written. A client that is still sending is listened to for a moment, or it would get a
        reset in place of our last words."""
        if self._is_closing:
            return
        self._is_closing = True
        if not self._is_polite and self._is_admitted and transport.can_write_eof():
            transport.write_eof()
            self._written_s = self._loop.time() - self._service.limits.write_stall_s + LINGER_S
            if not self._is_reading:
                self._is_reading = True
                transport.resume_reading()
        else:
            transport.close()

    def _stop_reading(self) -> None:
        if self._is_reading and self._transport is not None:
            self._is_reading = False
            self._transport.pause_reading()

    def _log_refusal(self, stage: Stage, refused: Refused) -> None:
        service, session = self._service, self.session
        if service.metrics is not None:
            count(service.metrics, "smtp_refused", stage=stage.value, status=str(refused.status))
        service.log.info(
            "refused",
            stage=stage.value,
            status=str(refused.status),
            rule=refused.rule,
            peer=session.peer,
            protocol=session.protocol,
            helo=session.helo,
        )


@types.coroutine
def _go_on(work: Coroutine[Any, None, None], waits_for: Any) -> Generator[Any, None, None]:
    """The rest of a coroutine that was started by hand and is waiting for this future."""
    error: BaseException | None = None
    while True:
        try:
            yield waits_for
        except BaseException as raised:  # cancellation goes to where the coroutine waits
            error = raised
        try:
            waits_for = work.send(None) if error is None else work.throw(error)
        except StopIteration:
            return
        error = None


def _host(name: object) -> str:
    """The IP address of a socket's name, or "local" for a unix socket."""
    if isinstance(name, tuple) and name:
        return str(name[0]).partition("%")[0]
    return "local"


def _lmtp_reply(outcome: Outcome, address: str, spool_id: str) -> Reply:
    """Source: RFC 2033 §4.2."""
    if isinstance(outcome, Delivered):
        return Reply(250, Status(2, 1, 5), f"<{address}> queued as {spool_id}")
    return reply_for(Stage.CONTENT, outcome.status, f"<{address}> {outcome.text}")
