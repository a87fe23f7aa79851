"""One IMAP connection: octets between the transport and its session, TLS, back-pressure, timeouts, the end.

A session has a task only while a command runs; an idle one is a few objects. A client that does not read is waited for
with at most four times `write_buffer_octets` in the buffer, and cut off when it stalls (cases 169, 191).
Source: RFC 3501 §5.4, §7.1.5 (BYE); LIMITS in the manual.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Coroutine
from typing import Any, Final, Protocol, cast

from pillarbox.mail.desk import Session
from pillarbox.mail.metrics import count
from pillarbox.model.errors import Refused
from pillarbox.net.imap_session import ImapSession, Service
from pillarbox.net.imap_sync import sync
from pillarbox.net.tls import describe
from pillarbox.protocol.imap.responses import bye
from pillarbox.protocol.imap.server import Event

POLL_S: Final = 60.0
"""An idle session asks for changes so often, as signals may be lost."""
INPUT_OCTETS: Final = 1 << 16
"""No more is read from a client while a command of it runs."""
WRITE_OCTETS: Final = 1 << 16
KEEPALIVE_S: Final = 300
TURN_S: Final = 0.01
"""A client that sends many commands at once lets others have their turn so often."""
READY_S: Final = 0.005
"""Answers to commands sent together go out together, but for a later one that takes its time they wait no longer."""
ENDING_S: Final = 5.0
"""A session that is ended while a command runs may answer it before its BYE; after so long it is just cut off."""
LINGER_S: Final = 2.0
"""A connection that we ended is kept for so long, for the client to read our last words."""


class Sessions(Protocol):
    """The listener, as a connection needs it."""

    service: Service

    def joined(self, connection: ImapConnection) -> None: ...

    def left(self, connection: ImapConnection) -> None: ...


class ImapConnection(asyncio.Protocol):
    """One connection: octets between the transport and its session. Implements `imap_session.Line`."""

    __slots__ = (
        "_admitted",
        "_closing",
        "_drained",
        "_ending",
        "_flushing",
        "_heard_s",
        "_held",
        "_loop",
        "_out",
        "_paused_s",
        "_polled_s",
        "_reading",
        "_said_s",
        "_service",
        "_stopping",
        "_transport",
        "_woken",
        "gone",
        "listener",
        "session",
        "task",
    )

    def __init__(self, listener: Sessions) -> None:
        self.listener = listener
        self._service = listener.service
        self._loop = asyncio.get_running_loop()
        self.gone: asyncio.Future[None] = self._loop.create_future()
        self.task: asyncio.Task[None] | None = None
        self._transport: asyncio.Transport | None = None
        self._out = bytearray()
        self._drained: asyncio.Future[None] | None = None
        self._held: bytearray | None = None
        """Octets that came inside TLS before the session knew of it: a fast client's first command."""
        now_s = self._service.clock.monotonic()
        self._heard_s = self._said_s = self._polled_s = now_s
        self._paused_s: float | None = None
        self._flushing: asyncio.TimerHandle | None = None
        self._ending: tuple[bytes, float] | None = None
        """Our last words, for when the running command has been answered, and since when they wait."""
        self._admitted = self._closing = self._stopping = self._woken = False
        self._reading = True
        self.session = ImapSession(self._service, self, Session("imap", ""))

    # --- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._use(cast(asyncio.Transport, transport))
        policy = self.session.policy
        peer, local = transport.get_extra_info("peername"), transport.get_extra_info("sockname")
        policy.peer = peer[0] if isinstance(peer, tuple) else "local"
        policy.local = local[0] if isinstance(local, tuple) else ""
        policy.tls = describe(transport.get_extra_info("ssl_object"))
        _keep_alive(transport.get_extra_info("socket"))
        self.listener.joined(self)
        try:
            self._service.gate.admit(policy)
        except Refused:
            count(self._service.metrics, "imap_refused")
            self.say_bye(b"Too many connections; try again later.", b"LIMIT")
            return
        self._admitted = True
        self.session.greet()
        self._flush()

    def _use(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        transport.set_write_buffer_limits(high=4 * self._service.limits.write_buffer_octets - WRITE_OCTETS)

    def data_received(self, data: bytes) -> None:
        self._heard_s = self._service.clock.monotonic()
        if self._closing:
            return
        if self._held is not None:
            self._held += data
            return
        self.session.core.receive(data)
        self._pump()
        self._flow()  # after the core has taken what it can: nobody else would read on

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._closing = True
        self.listener.left(self)
        if self._admitted:
            self._service.gate.leave(self.session.policy)
        if self.task is not None:
            self.task.cancel()
        else:
            self.session.lost()
        self._release()
        self._transport = None
        if not self.gone.done():
            self.gone.set_result(None)

    def pause_writing(self) -> None:
        self._paused_s = self._service.clock.monotonic()

    def resume_writing(self) -> None:
        self._paused_s = None
        self._release()

    def _release(self) -> None:
        if self._drained and not self._drained.done():
            self._drained.set_result(None)
        self._drained = None

    # --- the session's work

    def _flow(self) -> None:
        """Read on, or wait until what was read is worked off."""
        much = self.session.core.buffered > INPUT_OCTETS
        if self._transport is None or self._closing or much != self._reading:
            return
        self._reading = not much
        if much:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    def _pump(self) -> None:
        """Begin to work, if there is something to do and nothing is being done."""
        if self.task is not None or self._closing or self._stopping or self._ending:
            return
        event = self.session.core.next_event()
        if event is not None:
            self._run(self._converse(event))
        elif self._woken:
            self._run(self._tell())

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        self.task = self._loop.create_task(self._work(work))

    async def _work(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except asyncio.CancelledError:
            if not self._closing:
                raise
        finally:
            self.task = None
            if self._flushing:
                self._flushing.cancel()
                self._flushing = None
            if self.gone.done():
                self.session.lost()
            elif self._ending and not self._closing:
                self.write(self._ending[0])
                self.close()
            else:
                self._flush()
                self._pump()
                self._flow()

    async def _converse(self, event: Event | None) -> None:
        turn_s = self._service.clock.monotonic()
        while event is not None and not self._closing:
            self._said_s = self._service.clock.monotonic()
            if self._out and self._flushing is None:
                self._flushing = self._loop.call_later(READY_S, self._flush_ready)
            await self.session.answer(event)
            self._said_s = self._service.clock.monotonic()
            if len(self._out) > WRITE_OCTETS:
                await self.drain()
            if self._said_s - turn_s > TURN_S:
                await asyncio.sleep(0)
                turn_s = self._service.clock.monotonic()
            self._flow()
            ends = self._closing or self._stopping or self._ending
            event = None if ends else self.session.core.next_event()

    def _flush_ready(self) -> None:
        self._flushing = None
        self._flush()

    def wake(self) -> None:
        """The account has changed: an idle session tells of it."""
        self._woken = True
        self._pump()

    async def _tell(self) -> None:
        self._woken = False
        self._polled_s = self._service.clock.monotonic()
        if self.session.idle_tag:
            await self.session.guarded(b"*", sync(self.session))

    # --- Line

    def write(self, octets: bytes) -> None:
        self._out += octets

    async def send(self, octets: bytes) -> None:
        if len(octets) <= WRITE_OCTETS:
            if len(self._out) + len(octets) > WRITE_OCTETS:
                await self.drain()
            self._out += octets
            return
        self._flush()
        view = memoryview(octets)
        for start in range(0, len(octets), WRITE_OCTETS):
            if self._transport is None:
                raise ConnectionError("the client has gone")
            self._transport.write(view[start : start + WRITE_OCTETS])
            if self._paused_s is not None:
                await self.drain()

    async def drain(self) -> None:
        self._flush()
        while self._paused_s is not None:
            if self._transport is None:
                raise ConnectionError("the client has gone")
            if self._drained is None:
                self._drained = self._loop.create_future()
            await self._drained
        if self._transport is None:
            raise ConnectionError("the client has gone")

    def _flush(self) -> None:
        if self._out:
            if self._transport is not None and not self._closing:
                self._transport.write(bytes(self._out))
            self._out.clear()

    async def secure(self, context: ssl.SSLContext) -> str:
        """Raises ConnectionError if the handshake fails."""
        self._flush()
        old = self._transport
        if old is None:
            raise ConnectionError("the client has gone")
        old.pause_reading()
        self._held = bytearray()
        timeout_s = self._service.limits.handshake_timeout_s
        try:
            new = await self._loop.start_tls(old, self, context, server_side=True, ssl_handshake_timeout=timeout_s)
        except (OSError, TimeoutError) as error:
            raise ConnectionError("the TLS handshake failed") from error
        if new is None:
            raise ConnectionError("the client has gone")
        self._use(new)
        self._reading = True
        return describe(new.get_extra_info("ssl_object"))

    def secured(self) -> None:
        held, self._held = self._held, None
        if held:
            self.session.core.receive(bytes(held))

    def close(self) -> None:
        """Say no more. What the client still sends is read and dropped for a moment: else the reset of a connection
        closed with unread octets would take our last words with it."""
        self._flush()
        if self._closing or self._transport is None:
            return
        self._closing = True
        self._said_s = self._service.clock.monotonic()
        if not self._reading:
            self._transport.resume_reading()
        if self._transport.can_write_eof():
            self._transport.write_eof()
        else:
            self._transport.close()

    def abort(self) -> None:
        self._closing = True
        if self._transport is not None:
            self._transport.abort()

    # --- what the listener asks

    def say_bye(self, text: bytes, code: bytes = b"", at_once: bool = False) -> None:
        """End the session, a running command answered before it. `at_once` it is not waited for: in the middle of an
        answer nothing can be said any more, the connection just ends."""
        if self._closing:
            return
        if self.task is None:
            self.write(bye(text, code))
            self.close()
        elif at_once:
            self._cut_off()
        elif self._ending is None:
            self._ending = bye(text, code), self._service.clock.monotonic()

    def _cut_off(self) -> None:
        self.close()
        if self.task is not None:
            self.task.cancel()

    def leave(self) -> None:
        """Close the connection when all is sent, without waiting for the client."""
        if self._transport is not None:
            self._transport.close()

    def stop(self) -> None:
        """Begin no more commands."""
        self._stopping = True

    def look_after(self, now_s: float) -> None:
        """Timeouts. Source: RFC 3501 §5.4; LIMITS."""
        limits, session = self._service.limits, self.session
        if self._closing:
            unread = self._transport is not None and self._transport.get_write_buffer_size()
            if now_s - self._said_s > (limits.write_stall_s if unread else LINGER_S):
                self.abort()
        elif self._ending and now_s - self._ending[1] > ENDING_S:
            self._cut_off()
        elif self._paused_s is not None:
            if now_s - self._paused_s > limits.write_stall_s:
                self.abort()
        elif session.append is not None:
            if now_s - self._heard_s > limits.first_command_timeout_s:
                self.say_bye(b"Your message does not come.")
        elif self.task is not None:
            return
        elif session.account is None:
            if now_s - self._said_s > limits.first_command_timeout_s:
                self.say_bye(b"You do not log in.")
        elif now_s - self._heard_s > limits.imap_idle_s:
            self.say_bye(b"You have said nothing for too long.")
        elif session.idle_tag and session.selected and now_s - self._polled_s >= POLL_S:
            self._polled_s = now_s
            self.wake()


def _keep_alive(sock: socket.socket | None) -> None:
    """So that peers whose cable was pulled are noticed (case 191)."""
    if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_S)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
