"""Logins to POP3: who it is, the lock on their maildrop, and INBOX as it is now. RFC 1939 §4, RFC 5034, RFC 2449 §8."""

from __future__ import annotations

import asyncio
import base64
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from pillarbox.mail.desk import Session
from pillarbox.model.errors import NoSuchAccount, NoSuchMailbox, Refused, Trouble
from pillarbox.model.mailbox import Account
from pillarbox.model.status import Status
from pillarbox.net import tls
from pillarbox.net.maildrop_lock import MaildropLock
from pillarbox.net.pop3_messages import open_inbox
from pillarbox.net.pop3_reader import Reader
from pillarbox.net.pop3_service import Service
from pillarbox.protocol.pop3.server import Pop3Server

WRONG: Final = Status(5, 7, 8)


@dataclass(frozen=True, slots=True)
class Opened:
    """A maildrop that is ours until the lock is released."""

    lock: MaildropLock
    reader: Reader


def new_core(service: Service, session: Session) -> Pop3Server:
    """The conversation of a new connection."""
    return Pop3Server(
        service.settings.hostname or "localhost",
        _nonce,
        offers_tls=service.tls is not None,
        is_secure=bool(session.tls),
        cleartext_login=service.listener.cleartext_login,
        auth_failures=service.limits.auth_failures_per_session,
        auth_line_octets=service.limits.auth_line_octets,
    )


def describe(session: Session, transport: asyncio.BaseTransport) -> None:
    """Who is at the other end of this, and how it is secured; "local" for a unix socket."""
    peer, local = transport.get_extra_info("peername"), transport.get_extra_info("sockname")
    session.peer = str(peer[0]) if isinstance(peer, tuple) else "local"
    session.local = str(local[0]) if isinstance(local, tuple) else "local"
    session.tls = tls.describe(transport.get_extra_info("ssl_object"))


def _nonce() -> str:
    return base64.b64encode(secrets.token_bytes(18)).decode()


async def log_in(
    service: Service, session: Session, core: Pop3Server, check: Awaitable[Account], is_lost: Callable[[], bool]
) -> tuple[bytes, Opened | None]:
    """Check, lock, load and welcome them: returns what to say, and the maildrop if it was opened.

    Nothing is counted or kept for a connection that `is_lost` meanwhile.
    """
    lock: MaildropLock | None = None
    opened: Opened | None = None
    try:
        account = await check
        lock = service.locks.take(account.id)
        if lock is None:
            return core.refuse("IN-USE", "another session has this mailbox open"), None
        maildrop, reader = await open_inbox(service.store.mailboxes, account.id, core.utf8)
        if is_lost():
            return b"", None
        session.account = account
        try:
            service.gate.login(session)
        except Refused:
            session.account = None
            raise
        opened = Opened(lock, reader)
    except Refused as refused:
        return _refusal(core, refused), None
    except (Trouble, NoSuchAccount, NoSuchMailbox, OSError) as error:
        return trouble(service, session, core, "cannot open mailbox", error), None
    finally:
        if lock and opened is None:
            lock.release()
    service.log.info("login", protocol="pop3", peer=session.peer, account=account.id, tls=session.tls or "none")
    return core.welcome(maildrop), opened


async def give_verifier(
    service: Service, session: Session, core: Pop3Server, username: str
) -> tuple[bytes, Account | None]:
    """What SCRAM must know of a user: returns what to say, if it is no, and the account, if there is one."""
    try:
        verifier, account = await service.logins.verifier(session, username)
    except Refused as refused:
        return _refusal(core, refused), None
    except Trouble as error:
        return trouble(service, session, core, "cannot check login", error), None
    core.verifier(verifier)
    return b"", account


async def start_tls(service: Service, plain: asyncio.Transport, protocol: asyncio.Protocol) -> asyncio.Transport | None:
    """The transport inside TLS; None if the handshake fails or takes too long."""
    assert service.tls
    timeout_s = service.limits.handshake_timeout_s
    try:
        return await asyncio.get_running_loop().start_tls(
            plain, protocol, service.tls, server_side=True, ssl_handshake_timeout=timeout_s
        )
    except (OSError, TimeoutError):
        return None


def _refusal(core: Pop3Server, refused: Refused) -> bytes:
    return core.refuse("AUTH" if refused.status == WRONG else "SYS/TEMP", refused.note or "login refused")


def trouble(service: Service, session: Session, core: Pop3Server, event: str, error: Exception) -> bytes:
    """What to say when something of ours has failed; what it was is for the log only."""
    service.log.warning(event, protocol="pop3", peer=session.peer, error=repr(error))
    return core.refuse("SYS/TEMP", "try again later")
