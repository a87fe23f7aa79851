"""One connection of SMTP, submission or LMTP: octets to the core, events to who answers them, octets back.

What can be answered without waiting is answered within `data_received`; for the rest one task runs, and the client's
further octets wait. There is no timer per connection: the sweep in `smtpd.py` looks at deadlines. What is answered, and
who is asked for it, is `smtp_conversation.py`. Source: RFC 5321 §4.5.3.2 (timeouts), RFC 2920 §3.2 (one write for a
batch), RFC 3207 (STARTTLS); cases 15, 16, 51, 58, 69, 84, 85.
"""

from __future__ import annotations

import asyncio
import types
from collections.abc import Coroutine, Generator
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

from pillarbox.mail.desk import Session
from pillarbox.mail.metrics import count
from pillarbox.model.errors import Refused
from pillarbox.model.status import Status
from pillarbox.net.smtp_conversation import SmtpConversation, log_refusal, make_nonce
from pillarbox.net.tls import describe
from pillarbox.protocol.smtp.events import Content, Event, StartTls
from pillarbox.protocol.smtp.replies import Reply, Stage, reply_for
from pillarbox.protocol.smtp.rules import TLS_GO_AHEAD
from pillarbox.protocol.smtp.server import SmtpServer

if TYPE_CHECKING:
    from pillarbox.net.smtpd import SmtpService

__all__ = ["STOPPING", "SmtpConnection", "make_nonce"]

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

_TIMEOUT: Final = Reply(421, Status(4, 4, 2), "timeout, closing")
_TOO_SLOW: Final = Reply(421, Status(4, 4, 2), "too slow, closing")
STOPPING: Final = Reply(421, Status(4, 3, 2), "going down, try again later")
_OUR_TROUBLE: Final = Reply(421, Status(4, 3, 0), "trouble on our side, try again later")

Work: TypeAlias = Coroutine[Any, None, bytes]
"""An answer that may have to be waited for."""


class SmtpConnection(asyncio.Protocol):
    """One connection of a client."""

    __slots__ = (
        "_greeting",
        "_has_eof",
        "_is_admitted",
        "_is_closing",
        "_is_paused",
        "_is_reading",
        "_is_working",
        "_loop",
        "_out",
        "_secured",
        "_service",
        "_smtp",
        "_talk",
        "_task",
        "_transport",
        "_written_s",
        "check_at_s",
        "session",
    )

    def __init__(self, service: SmtpService) -> None:
        self._service = service
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._task: asyncio.Task[None] | None = None
        self._out = b""
        self._greeting: asyncio.TimerHandle | None = None
        self._secured: bytearray | None = None  # during a handshake: what came inside TLS already
        self._is_admitted = self._is_closing = self._is_paused = self._has_eof = self._is_working = False
        self._is_reading = True
        self.check_at_s = 0.0

    # --- called by the loop ---------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        service = self._service
        self._transport = transport = cast(asyncio.Transport, transport)  # uvloop's are not of this class
        self._written_s = now_s = self._loop.time()
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
                log_refusal(service, session, Stage.CONNECT, refused)
        self._smtp = smtp = SmtpServer(
            service.config, make_nonce, tls is not None, session.trusted, session.may_relay, session.stressed
        )
        self._talk = SmtpConversation(service, session, smtp, self._loop, now_s)
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
        if not self._talk.is_accepting:
            if self._task is not None:
                self._task.cancel()
            self._talk.forget_transaction()
        if self._is_admitted:
            self._is_admitted = False
            self._service.gate.leave(self.session)

    def data_received(self, data: bytes) -> None:
        if self._secured is not None:
            self._secured += data
            return
        try:
            self._smtp.receive(data)
            self._talk.content_octets += len(data)
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

    # --- events and answers ---------------------------------------------------------------------------------------

    def _work(self) -> None:
        """Answer what can be answered now; start a task for what must be waited for."""
        smtp = self._smtp
        self._is_working = True
        try:
            while not self._is_paused and (event := smtp.next_event()) is not None:
                answer = self._answer(event)
                octets = answer if isinstance(answer, bytes) else self._start(answer)
                if octets is None:
                    return
                self._out += octets
                if len(self._out) > FLUSH_OCTETS:
                    self._flush()
        except BaseException:
            self._is_working = False
            raise
        self._is_working = False
        self._flush()

    def _answer(self, event: Event) -> bytes | Work:
        """The answer, or the work that leads to it."""
        talk = self._talk
        if self._smtp.is_slow or talk.undrained > DRAIN_OCTETS or type(event) is StartTls:
            return self._answer_slowly(event)
        octets = talk.answer(event)
        return octets if octets is not None else talk.ask(event)

    async def _answer_slowly(self, event: Event) -> bytes:
        """Answer when a fine was paid, and the store has caught up; or begin TLS."""
        if self._smtp.is_slow and type(event) is not Content:
            self._flush()
            await asyncio.sleep(SLOW_ANSWER_S)
        talk = self._talk
        if talk.undrained > DRAIN_OCTETS:
            await talk.drain()
        if type(event) is StartTls:
            await self._secure()
            return b""
        octets = talk.answer(event)
        return octets if octets is not None else await talk.ask(event)

    def _start(self, work: Work) -> bytes | None:
        """Run it as far as it goes without waiting; only if it must wait it becomes a task (None). Most answers of the
        desk come from memory, and a task costs as much as the rest of a command. (So a desk may not ask for the current
        task before it first waits, as `asyncio.timeout` does.)"""
        try:
            waits_for = work.send(None)
        except StopIteration as done:
            return cast(bytes, done.value)
        except Exception as error:
            self._give_up(error)
            return b""
        self._task = self._loop.create_task(self._converse(_go_on(work, waits_for)))
        return None

    async def _converse(self, work: Work) -> None:
        """See an answer through, and answer what follows it, waiting where that is needed."""
        smtp = self._smtp
        try:
            answer: bytes | Work = work
            while True:
                octets = answer if isinstance(answer, bytes) else await answer
                if self._transport is None:
                    return
                self._out += octets
                if len(self._out) > FLUSH_OCTETS:
                    self._flush()
                if self._is_paused or (event := smtp.next_event()) is None:
                    break
                answer = self._answer(event)
        except Exception as error:
            self._give_up(error)
        finally:
            self._task = None
            self._is_working = False
        self._flush()

    def _give_up(self, error: Exception) -> None:
        """What nobody foresaw is ours."""
        if not isinstance(error, MemoryError):
            self._service.log.error("unforeseen", peer=self.session.peer, exc_info=error)
        self.end(_OUR_TROUBLE)

    async def _secure(self) -> None:
        """STARTTLS. What arrives inside TLS before we hear of the handshake's end is kept for after it."""
        transport, context = self._transport, self._service.tls
        assert transport is not None
        assert context is not None
        self._out += self._smtp.reply(TLS_GO_AHEAD)
        self._flush()
        self._secured = received = bytearray()
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
            self._secured = None
        if secured is None or self._transport is None:
            return
        self._transport = secured
        self.session.tls = describe(secured.get_extra_info("ssl_object"))
        self.session.helo = ""
        self._smtp.secured()
        if received:
            self._smtp.receive(bytes(received))

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
            elapsed_s = now_s - self._talk.content_since_s
            if elapsed_s > RATE_GRACE_S and self._talk.content_octets < elapsed_s * limits.min_rate_octets_s:
                self.end(_TOO_SLOW)
        elif now_s - self._written_s >= self._command_timeout_s() or (
            now_s - self._talk.message_since_s >= limits.session_without_message_s and not self.session.trusted
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
            self._out = b""
            return
        if self._out:
            transport.write(self._out)
            self._out = b""
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
        if not self._talk.is_polite and self._is_admitted and transport.can_write_eof():
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


@types.coroutine
def _go_on(work: Work, waits_for: Any) -> Generator[Any, None, bytes]:
    """The rest of a coroutine that was started by hand and is waiting for this future."""
    error: BaseException | None = None
    while True:
        try:
            yield waits_for
        except BaseException as raised:  # cancellation goes to where the coroutine waits
            error = raised
        try:
            waits_for = work.send(None) if error is None else work.throw(error)
        except StopIteration as done:
            return cast(bytes, done.value)
        error = None


def _host(name: object) -> str:
    """The IP address of a socket's name, or "local" for a unix socket."""
    if isinstance(name, tuple) and name:
        return str(name[0]).partition("%")[0]
    return "local"
