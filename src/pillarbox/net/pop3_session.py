"""One POP3 connection: read, feed the core, ask the desk and the store, write.

A task runs only while something is waited for. What was said in one go is answered in one write; the client that does
not read is not written for (back-pressure, at most 256 KiB), and is read no further.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, cast

from pillarbox.mail.desk import Session
from pillarbox.mail.metrics import count
from pillarbox.model.errors import DamagedMessage, NoSuchAccount, NoSuchMailbox, NoSuchMessage, Refused, Trouble
from pillarbox.model.ids import AccountId
from pillarbox.model.mailbox import Account
from pillarbox.model.uids import UidSet
from pillarbox.net.maildrop_lock import MaildropLock
from pillarbox.net.pop3_login import describe, give_verifier, log_in, new_core, start_tls, trouble
from pillarbox.net.pop3_messages import LargeMessage, look_up, remove
from pillarbox.net.pop3_outlet import FLUSH_OCTETS, Outlet
from pillarbox.net.pop3_reader import Reader
from pillarbox.net.pop3_service import Service
from pillarbox.protocol.pop3.content import ending
from pillarbox.protocol.pop3.events import (
    AskVerifier,
    Close,
    Event,
    Listing,
    Login,
    Retrieve,
    Say,
    ScramDone,
    StartTls,
    Update,
)
from pillarbox.protocol.pop3.server import Pop3Server

AT_ONCE: Final = 500
"""Commands answered in one go."""
TURN_S: Final = 0.01
"""A client that sends many commands at once lets others have their turn so often (case 193)."""
INPUT_OCTETS: Final = 64 * 1024
"""Commands of a client that wait for their turn; then nothing more is read."""
READ_AHEAD_S: Final = 5.0
"""How long messages read ahead are kept for a client that says nothing."""


class Pop3Session(Outlet):
    """See the module. `account_id` is None until the login."""

    __slots__ = (
        "_active_s", "_began_s", "_core", "_eof", "_held", "_is_admitted", "_is_paused", "_lock", "_reader",
        "_retiring", "_scram_account", "_service", "_session", "_task", "_unsubscribe", "_updating",
    )  # fmt: skip

    def __init__(self, service: Service) -> None:
        super().__init__(service.clock)
        self._service = service
        self._began_s = self._active_s = service.clock.monotonic()
        self._core: Pop3Server | None = None
        self._session = Session("pop3", "local")
        self._task: asyncio.Task[None] | None = None
        self._reader: Reader | None = None
        self._lock: MaildropLock | None = None
        self._unsubscribe: Callable[[], None] | None = None
        self._scram_account: Account | None = None
        self._held: bytearray | None = None
        """Octets that came inside TLS before the core knew of it: a fast client's first command."""
        self._is_admitted = self._is_paused = self._eof = self._retiring = self._updating = False

    @property
    def account_id(self) -> AccountId | None:
        return self._session.account.id if self._session.account else None

    # --- what the loop tells us --------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        service = self._service
        self._use(cast(asyncio.Transport, transport))  # uvloop's are no subclasses
        describe(self._session, transport)
        service.began(self)
        try:
            service.gate.admit(self._session)
        except Refused as refused:
            self._write(b"-ERR [SYS/TEMP] %s\r\n" % (refused.note or "try again later").encode("ascii", "replace"))
            self._close()
            return
        self._is_admitted = True
        self._core = new_core(service, self._session)
        self._write(self._core.greeting())
        self._flush()

    def data_received(self, data: bytes) -> None:
        if self._core is None or self._closing_s >= 0:
            return
        self._active_s = self._clock.monotonic()
        if self._held is not None:
            self._held += data
            return
        if self._task is None:
            reader = self._reader
            if reader and self._writable is None and reader.is_fresh(self._active_s):
                asked = self._core.receive_retrieve(data)
                if asked is not None:
                    octets = reader.take(asked.index, asked.lines)
                    if octets is None:
                        self._begin(asked)
                    elif self._transport:
                        self._transport.write(b"".join((self._core.retrieved(), octets, ending(octets))))
                    return
            self._core.receive(data)
            self._answer()
            return
        self._core.receive(data)
        if self._core.buffered > INPUT_OCTETS and self._transport and not self._is_paused:
            self._is_paused = True
            self._transport.pause_reading()

    def eof_received(self) -> bool:
        """The client has said all it will say; what is being answered is still sent."""
        self._eof = True
        return self._task is not None and not self._session.tls

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is deleted without QUIT (case 194); an update in progress is carried through."""
        if self._lost:
            return
        self._lost = True
        self.resume_writing()
        if self._task and not self._updating:
            self._task.cancel()
        if self._is_admitted:
            self._service.gate.leave(self._session)
        if self._unsubscribe:
            self._unsubscribe()
        if not self._updating:
            self._release()
        if self._reader:
            self._reader.forget()
        self._core = self._reader = None
        self._out.clear()
        self._service.ended(self)

    # --- what the listener tells us ----------------------------------------------------------------------------------

    def end(self) -> None:
        """The account may no longer log in. POP3 has no word for it: the connection ends."""
        if self._updating:
            self._retiring = True
        else:
            self.abort()

    def retire(self) -> None:
        """End when what is being answered is answered."""
        self._retiring = True
        if self._task is None:
            self._close()

    def check_deadlines(self, now_s: float) -> None:
        """Called every few seconds. Source: RFC 1939 §3 (autologout: closed without a word and without an update)."""
        limits = self._service.limits
        if self._is_stuck(now_s, limits.write_stall_s):
            self.abort()
        elif self._closing_s >= 0 or self._stalled_s >= 0:
            return
        elif self._session.account is None:
            if now_s - self._began_s > limits.first_command_timeout_s:
                self._close()
        elif self._task is None:
            if now_s - self._active_s > READ_AHEAD_S and self._reader:
                self._reader.forget()
            if now_s - self._active_s > limits.pop3_idle_s:
                self._close()

    # --- answering ---------------------------------------------------------------------------------------------------

    def _answer(self) -> None:
        """Answer at once what needs nothing from elsewhere; begin a task for the rest."""
        core, reader, now_s = self._core, self._reader, self._active_s
        assert core
        if self._writable or (reader and reader.is_stale):
            self._begin(None)
            return
        is_fresh = reader is not None and reader.is_fresh(now_s)  # nobody else can do anything until we return
        for _ in range(AT_ONCE):
            event = core.next_event()
            if event is None:
                break
            if isinstance(event, Retrieve):
                octets = reader.take(event.index, event.lines) if reader and is_fresh else None
                if octets is None:
                    self._begin(event)
                    return
                self._send(octets)
            elif isinstance(event, Say):
                self._write(event.octets)
            else:
                self._begin(event)
                return
            if self._out_octets >= FLUSH_OCTETS:
                self._flush()
                if self._writable:
                    self._begin(None)
                    return
        else:
            if event := core.next_event():
                self._begin(event)
                return
        self._flush()

    def _begin(self, event: Event | None) -> None:
        if isinstance(event, Close):
            self._write(event.octets)
            self._close()
            return
        self._task = asyncio.get_running_loop().create_task(self._work(event))

    async def _work(self, event: Event | None) -> None:
        """Do what `event` says and all that follows it."""
        try:
            await self._drain()
            if event is None and self._core:
                await self._refresh()
                event = self._core.next_event()
            turn_s = self._clock.monotonic()
            while event is not None and not self._lost:
                if self._clock.monotonic() - turn_s > TURN_S:
                    await asyncio.sleep(0)
                    turn_s = self._clock.monotonic()
                if not isinstance(event, Retrieve):
                    await self._do(event)
                elif (octets := self._at_hand(event)) is not None:
                    self._send(octets)
                    await self._drain()
                else:
                    await self._refresh()
                    await self._retrieve(event)
                if self._closing_s >= 0 or self._retiring or self._core is None:
                    break
                if self._reader and self._reader.is_stale:
                    await self._refresh()
                event = self._core.next_event()
        except asyncio.CancelledError:
            if not self._lost:
                raise
        except ConnectionError:
            self.abort()
        except (Trouble, NoSuchAccount, NoSuchMailbox) as error:
            if self._core:
                self._write(trouble(self._service, self._session, self._core, "cannot read mailbox", error))
            self._close()
        except Exception as error:  # what nobody foresaw is ours
            self._service.log.error("pop3 session failed", peer=self._session.peer, error=repr(error), exc_info=True)
            if not self._lost:
                self._write(b"-ERR [SYS/TEMP] internal error\r\n")
                self._close()
        finally:
            self._task = None
            self._rest()

    def _rest(self) -> None:
        """Nothing is being done: send what was said, and read on."""
        if self._lost or self._closing_s >= 0:
            return
        self._flush()
        if self._retiring or self._eof:
            self._close()
            return
        if self._is_paused and self._transport:
            self._is_paused = False
            self._transport.resume_reading()
        self._active_s = self._clock.monotonic()

    async def _do(self, event: Event) -> None:
        match event:
            case Say(octets):
                self._write(octets)
                await self._drain()
            case Listing(pieces):
                for piece in pieces:
                    self._write(piece)
                    await self._drain()
            case Login(username, password):
                await self._log_in(self._service.logins.password(self._session, username, password))
            case AskVerifier(username):
                assert self._core
                said, self._scram_account = await give_verifier(self._service, self._session, self._core, username)
                self._write(said)
            case ScramDone(username, ok):
                account, self._scram_account = self._scram_account, None
                await self._log_in(self._service.logins.scram_done(self._session, username, account, ok))
            case StartTls(octets):
                await self._start_tls(octets)
            case Update(uids):
                await self._update(uids)
            case Close(octets):
                self._write(octets)
                self._close()

    async def _start_tls(self, octets: bytes) -> None:
        assert self._transport and self._core and self._service.tls
        self._write(octets)
        self._flush()
        plain = self._transport
        self._held = held = bytearray()
        secured = await start_tls(self._service, plain, self)
        if secured is None or self._lost:
            plain.abort()
            self.connection_lost(None)  # the plain transport no longer tells us
            return
        self._use(secured)
        describe(self._session, secured)
        self._core.secured()
        self._held = None
        self._core.receive(bytes(held))

    async def _log_in(self, check: Awaitable[Account]) -> None:
        assert self._core
        self._flush()
        said, opened = await log_in(self._service, self._session, self._core, check, lambda: self._lost)
        if opened:
            self._lock, self._reader = opened.lock, opened.reader
            if self._service.signals:
                topic = f"account:{self.account_id}"
                self._unsubscribe = self._service.signals.subscribe(topic, self._reader.changed)
        self._write(said)

    # --- messages ----------------------------------------------------------------------------------------------------

    async def _refresh(self) -> None:
        """Find out what others did to the mailbox, unless that was done a moment ago."""
        self._active_s = self._clock.monotonic()
        if self._reader and not self._reader.is_fresh(self._active_s):
            await self._reader.refresh(self._active_s)

    def _at_hand(self, event: Retrieve) -> bytes | None:
        assert self._reader
        return self._reader.take(event.index, event.lines) if self._reader.is_fresh(self._active_s) else None

    def _send(self, octets: bytes) -> None:
        assert self._core
        self._out += (self._core.retrieved(), octets, ending(octets))
        self._out_octets += len(octets)

    async def _retrieve(self, event: Retrieve) -> None:
        """Read a message, others with it, and send it."""
        assert self._reader and self._core
        core = self._core
        try:
            found = await look_up(self._reader, core, event)
        except NoSuchMessage:
            self._write(core.refuse("", "message expunged meanwhile"))
        except DamagedMessage as error:
            self._service.log.error("damaged message", account=self.account_id, number=event.index, error=str(error))
            self._write(core.refuse("SYS/PERM", "the message is damaged"))
        except (Trouble, NoSuchAccount, NoSuchMailbox) as error:
            self._write(trouble(self._service, self._session, core, "cannot read message", error))
        else:
            if self._core is None:
                return
            if isinstance(found, bytes):
                self._send(found)
            else:
                await self._stream(event, found)
        await self._drain()

    async def _stream(self, event: Retrieve, large: LargeMessage) -> None:
        """In pieces. There is no way to tell of trouble but to end the connection without the final dot."""
        assert self._core
        self._write(self._core.retrieved())
        try:
            async for piece in large.pieces():
                self._write(piece)
                await self._drain()
        except (Trouble, DamagedMessage, NoSuchMessage) as error:
            self._service.log.error("message cut off", account=self.account_id, number=event.index, error=str(error))
            raise ConnectionError from error

    async def _update(self, uids: tuple[int, ...]) -> None:
        """QUIT: all marked messages go, or none (case 34)."""
        assert self._reader and self._core and self._session.account
        core, account = self._core, self._session.account
        self._updating = True
        try:
            ok = not uids or await remove(self._reader, UidSet.of(uids), account.id, self._service.log)
        finally:
            self._updating = False
            self._release()  # before the answer: the next session may come at once
        count(self._service.metrics, "pop3_sessions", result="ok" if ok else "failed")
        self._write(core.updated(ok))
        self._close()

    def _release(self) -> None:
        if self._lock:
            self._lock.release()
            self._lock = None
