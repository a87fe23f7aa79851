"""One POP3 connection: read, feed the core, ask the desk and the store, write.

A task runs only while something is waited for. What was said in one go is answered in one write; the client that does
not read is not written for (back-pressure, at most 256 KiB), and is read no further.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import secrets
from collections.abc import Callable
from typing import Any, Final, cast

from pillarbox.mail.desk import Session
from pillarbox.mail.metrics import count
from pillarbox.model.errors import DamagedMessage, NoSuchAccount, NoSuchMailbox, NoSuchMessage, Refused, Trouble
from pillarbox.model.ids import AccountId
from pillarbox.model.mailbox import Account
from pillarbox.model.status import Status
from pillarbox.model.uids import UidSet
from pillarbox.net import tls as tls_module
from pillarbox.net.maildrop_lock import MaildropLock
from pillarbox.net.pop3_messages import LargeMessage, open_inbox
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

FLUSH_OCTETS: Final = 64 * 1024
AT_ONCE: Final = 500
"""Commands answered in one go."""
TURN_S: Final = 0.01
"""A client that sends many commands at once lets others have their turn so often (case 193)."""
INPUT_OCTETS: Final = 64 * 1024
"""Commands of a client that wait for their turn; then nothing more is read."""
UPCOMING: Final = 64
"""Messages read together for a client that pipelines."""
READ_AHEAD_S: Final = 5.0
"""How long messages read ahead are kept for a client that says nothing."""
WRONG: Final = Status(5, 7, 8)
EXPUNGED: Final = "message expunged meanwhile"


class Pop3Session(asyncio.Protocol):
    """See the module. `account_id` is None until the login."""

    __slots__ = (
        "_active_s",
        "_backlog",
        "_began_s",
        "_closing_s",
        "_core",
        "_eof",
        "_held",
        "_is_admitted",
        "_is_paused",
        "_lock",
        "_lost",
        "_out",
        "_out_octets",
        "_reader",
        "_retiring",
        "_scram_account",
        "_service",
        "_session",
        "_stalled_s",
        "_task",
        "_transport",
        "_unsubscribe",
        "_updating",
        "_writable",
    )

    def __init__(self, service: Service) -> None:
        self._service = service
        self._began_s = self._active_s = service.clock.monotonic()
        self._transport: asyncio.Transport | None = None
        self._core: Pop3Server | None = None
        self._session = Session("pop3", "local")
        self._task: asyncio.Task[None] | None = None
        self._reader: Reader | None = None
        self._lock: MaildropLock | None = None
        self._unsubscribe: Callable[[], None] | None = None
        self._scram_account: Account | None = None
        self._writable: asyncio.Future[None] | None = None
        self._stalled_s = -1.0
        self._closing_s = -1.0
        self._backlog = 0
        self._held: bytearray | None = None
        """Octets that came inside TLS before the core knew of it: a fast client's first command."""
        self._out: list[bytes] = []
        self._out_octets = 0
        self._is_admitted = self._is_paused = self._eof = self._lost = self._retiring = self._updating = False

    @property
    def account_id(self) -> AccountId | None:
        return self._session.account.id if self._session.account else None

    # --- what the loop tells us --------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        service = self._service
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are no subclasses
        self._transport.set_write_buffer_limits(high=2 * FLUSH_OCTETS, low=FLUSH_OCTETS // 2)
        self._session.peer = _host(transport.get_extra_info("peername"))
        self._session.local = _host(transport.get_extra_info("sockname"))
        self._session.tls = tls_module.describe(transport.get_extra_info("ssl_object"))
        service.began(self)
        try:
            service.gate.admit(self._session)
        except Refused as refused:
            self._write(b"-ERR [SYS/TEMP] %s\r\n" % (refused.note or "try again later").encode("ascii", "replace"))
            self._close()
            return
        self._is_admitted = True
        self._core = Pop3Server(
            service.settings.hostname or "localhost",
            _nonce,
            offers_tls=service.tls is not None,
            is_secure=bool(self._session.tls),
            cleartext_login=service.listener.cleartext_login,
            auth_failures=service.limits.auth_failures_per_session,
            auth_line_octets=service.limits.auth_line_octets,
        )
        self._write(self._core.greeting())
        self._flush()

    def data_received(self, data: bytes) -> None:
        if self._core is None or self._closing_s >= 0:
            return
        self._active_s = self._service.clock.monotonic()
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

    def pause_writing(self) -> None:
        if self._writable is None and not self._lost:
            self._writable = asyncio.get_running_loop().create_future()
            self._stalled_s = self._service.clock.monotonic()

    def resume_writing(self) -> None:
        if self._writable and not self._writable.done():
            self._writable.set_result(None)
        self._writable = None
        self._stalled_s = -1.0

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

    def abort(self) -> None:
        """End now."""
        if self._transport:
            self._transport.abort()

    def check_deadlines(self, now_s: float) -> None:
        """Called every few seconds. Source: RFC 1939 §3 (autologout: closed without a word and without an update)."""
        limits = self._service.limits
        if self._closing_s >= 0 and now_s - self._closing_s > limits.write_stall_s:
            self.abort()
        elif self._stalled_s >= 0:
            left = self._transport.get_write_buffer_size() if self._transport else 0
            if left != self._backlog:  # it reads, if slowly
                self._backlog, self._stalled_s = left, now_s
            elif now_s - self._stalled_s > limits.write_stall_s:
                self.abort()
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
            turn_s = self._service.clock.monotonic()
            while event is not None and not self._lost:
                if self._service.clock.monotonic() - turn_s > TURN_S:
                    await asyncio.sleep(0)
                    turn_s = self._service.clock.monotonic()
                if not isinstance(event, Retrieve):
                    await self._do(event)
                elif not (self._is_fresh and self._serve(event)):
                    await self._refresh()
                    await self._retrieve(event)
                elif self._out_octets >= FLUSH_OCTETS:
                    await self._drain()
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
            self._trouble("cannot read mailbox", error)
            self._close()
        except Exception as error:  # what nobody foresaw is ours
            self._failed(error)
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
        self._active_s = self._service.clock.monotonic()

    def _failed(self, error: Exception) -> None:
        self._service.log.error("pop3 session failed", peer=self._session.peer, error=repr(error), exc_info=True)
        if not self._lost:
            self._write(b"-ERR [SYS/TEMP] internal error\r\n")
            self._close()

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
                self._flush()
                await self._log_in(lambda: self._service.logins.password(self._session, username, password))
            case AskVerifier(username):
                await self._ask_verifier(username)
            case ScramDone(username, ok):
                account, self._scram_account = self._scram_account, None
                self._flush()
                await self._log_in(lambda: self._service.logins.scram_done(self._session, username, account, ok))
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
        loop = asyncio.get_running_loop()
        plain = self._transport
        self._held = held = bytearray()
        try:
            secured = await loop.start_tls(
                plain,
                self,
                self._service.tls,
                server_side=True,
                ssl_handshake_timeout=self._service.limits.handshake_timeout_s,
            )
        except (OSError, TimeoutError):
            secured = None
        if secured is None or self._lost:
            plain.abort()
            self.connection_lost(None)  # the plain transport no longer tells us
            return
        self._transport = secured
        secured.set_write_buffer_limits(high=2 * FLUSH_OCTETS, low=FLUSH_OCTETS // 2)
        self._session.tls = tls_module.describe(secured.get_extra_info("ssl_object"))
        self._core.secured()
        self._held = None
        self._core.receive(bytes(held))

    # --- login -------------------------------------------------------------------------------------------------------

    async def _ask_verifier(self, username: str) -> None:
        assert self._core
        try:
            verifier, account = await self._service.logins.verifier(self._session, username)
        except Refused as refused:
            self._refuse_login(refused)
        except Trouble as error:
            self._trouble("cannot check login", error)
        else:
            if self._core:
                self._scram_account = account
                self._core.verifier(verifier)

    async def _log_in(self, check: Callable[[], Any]) -> None:
        try:
            account = await check()
            if self._core:
                await self._open(account)
        except Refused as refused:
            self._refuse_login(refused)
        except (Trouble, NoSuchAccount, NoSuchMailbox, OSError) as error:
            self._trouble("cannot open mailbox", error)
        finally:
            if self._session.account is None:
                self._release()

    async def _open(self, account: Account) -> None:
        """Lock and load INBOX, and welcome them."""
        assert self._core
        service = self._service
        self._lock = service.locks.take(account.id)
        if self._lock is None:
            self._write(self._core.refuse("IN-USE", "another session has this mailbox open"))
            return
        maildrop, reader = await open_inbox(service.store.mailboxes, account.id, self._core.utf8)
        if self._core is None:
            return
        self._session.account = account
        try:
            service.gate.login(self._session)
        except Refused:
            self._session.account = None
            raise
        self._reader = reader
        if service.signals:
            self._unsubscribe = service.signals.subscribe(f"account:{account.id}", reader.changed)
        self._write(self._core.welcome(maildrop))
        service.log.info("login", protocol="pop3", peer=self._session.peer, account=account.id, tls=self._session.tls)

    def _refuse_login(self, refused: Refused) -> None:
        if self._core:
            code = "AUTH" if refused.status == WRONG else "SYS/TEMP"
            self._write(self._core.refuse(code, refused.note or "login refused"))

    def _trouble(self, event: str, error: Exception) -> None:
        self._service.log.warning(event, protocol="pop3", peer=self._session.peer, error=repr(error))
        if self._core:
            self._write(self._core.refuse("SYS/TEMP", "try again later"))

    # --- messages ----------------------------------------------------------------------------------------------------

    @property
    def _is_fresh(self) -> bool:
        return self._reader is not None and self._reader.is_fresh(self._active_s)

    async def _refresh(self) -> None:
        """Find out what others did to the mailbox, unless that was done a moment ago."""
        self._active_s = self._service.clock.monotonic()
        if self._reader and not self._is_fresh:
            await self._reader.refresh(self._active_s)

    def _serve(self, event: Retrieve) -> bool:
        """Send a message that has been read ahead, if there is one; says if it did. Only while `_is_fresh`."""
        assert self._reader
        octets = self._reader.take(event.index, event.lines)
        if octets is None:
            return False
        self._send(octets)
        return True

    def _send(self, octets: bytes) -> None:
        assert self._core
        self._out += (self._core.retrieved(), octets, ending(octets))
        self._out_octets += len(octets)

    async def _retrieve(self, event: Retrieve) -> None:
        """Read a message, others with it, and send it."""
        assert self._reader and self._core
        try:
            if self._core.maildrop and self._core.maildrop.find(event.index + 1) is None:  # so `_refresh` has learnt
                self._write(self._core.refuse("", EXPUNGED))
                return
            found = await self._reader.find(event.index, event.lines, self._core.upcoming(UPCOMING))
            if self._core is None:
                return
            if found is None:
                self._write(self._core.refuse("", EXPUNGED))
            elif isinstance(found, bytes):
                self._send(found)
            else:
                await self._stream(event, found)
        except NoSuchMessage:
            if self._core and self._reader:
                self._reader.gone(event.index)
                self._write(self._core.refuse("", EXPUNGED))
        except DamagedMessage as error:
            self._service.log.error("damaged message", account=self.account_id, number=event.index, error=str(error))
            if self._core:
                self._write(self._core.refuse("SYS/PERM", "the message is damaged"))
        except (Trouble, NoSuchAccount, NoSuchMailbox) as error:
            self._trouble("cannot read message", error)
        await self._drain()

    async def _stream(self, event: Retrieve, email: int) -> None:
        """A large message, in pieces. Trouble with the first is answered; later there is no way to tell but to end
        the connection without the final dot."""
        assert self._reader and self._core
        large = LargeMessage(await self._reader.open(email), event.lines, utf8=self._core.utf8)
        await large.begin()
        if self._core is None:
            return
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
        core, account, ok = self._core, self._session.account, True
        if uids:
            self._updating = True
            try:
                await self._reader.expunge(UidSet.of(uids))
            except (Trouble, NoSuchAccount, NoSuchMailbox) as error:
                ok = False
                self._service.log.error("cannot remove messages", account=account.id, error=repr(error))
            finally:
                self._updating = False
                self._release()  # before the answer: the next session may come at once
        else:
            self._release()
        count(self._service.metrics, "pop3_sessions", result="ok" if ok else "failed")
        self._write(core.updated(ok))
        self._close()

    def _release(self) -> None:
        if self._lock:
            self._lock.release()
            self._lock = None

    # --- writing -----------------------------------------------------------------------------------------------------

    def _write(self, octets: bytes) -> None:
        """Say this, with what else is said in this turn."""
        self._out.append(octets)
        self._out_octets += len(octets)

    def _flush(self) -> None:
        if self._out and self._transport and not self._lost:
            octets = self._out[0] if len(self._out) == 1 else b"".join(self._out)
            self._transport.write(octets)
        self._out.clear()
        self._out_octets = 0

    async def _drain(self) -> None:
        """Send if it is much, and wait until the client has read most of what was sent. Raises ConnectionError."""
        if self._out_octets < FLUSH_OCTETS and not self._writable:
            return
        self._flush()
        if self._writable:
            await self._writable
        if self._lost:
            raise ConnectionResetError

    def _close(self) -> None:
        """Send what was said, and end the connection."""
        if self._closing_s < 0 and not self._lost:
            self._flush()
            self._closing_s = self._service.clock.monotonic()
            if self._transport:
                with contextlib.suppress(OSError):
                    self._transport.close()


def _host(name: Any) -> str:
    """IP address of a socket's name; "local" for a unix socket."""
    return str(name[0]) if isinstance(name, tuple) else "local"


def _nonce() -> str:
    return base64.b64encode(secrets.token_bytes(18)).decode()
