"""IDLE: the session sleeps without a task, and is woken when its account changes. Source: RFC 2177.

Signals may be lost, so the listener's sweep wakes each idle session once a minute as well.
"""

from __future__ import annotations

from pillarbox.net.imap_mailboxes import known_account
from pillarbox.net.imap_session import ImapSession, handles
from pillarbox.net.imap_sync import finish, sync
from pillarbox.protocol.imap.commands import Idle
from pillarbox.protocol.imap.server import IdleDone


@handles(Idle)
async def idle(session: ImapSession, tag: bytes, command: Idle) -> None:
    """First subscribed, then told of all that is new: so nothing is missed in between."""
    session.idle_tag = tag
    signals = session.service.signals
    if signals is not None and session.selected is not None:
        session.idle_end = signals.subscribe(f"account:{known_account(session).id}", session.line.wake)
    session.line.write(b"+ Idling.\r\n")
    session.core.idling()
    await sync(session)


@handles(IdleDone)
async def done(session: ImapSession, tag: bytes, event: IdleDone) -> None:
    session.stop_waiting()
    if event.good:
        await finish(session, tag)
    else:
        session.say(tag, b"BAD", b"DONE expected.")
