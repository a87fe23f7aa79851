"""Memory of idle TLS IMAP sessions: all processes of the server, proportional (PSS), with them minus without.

Each session logs in, selects INBOX and waits in IDLE; sessions are spread over many accounts. Before the base is
taken, each account has logged in a few times, so that what is kept per account is in the base as in daily life.

    python -m bench.idle [--sessions 2000] [--accounts 100] [--peer yes]
"""

from __future__ import annotations

import resource
import time

from tests.neighbours.mailhost import MailHost, User
from tests.neighbours.processes import children, proportional_memory_octets
from tests.neighbours.wire import ImapWire

from bench.figures import Row, arguments, finish
from bench.hosts import Hosts, both, make_users, pillarbox_alone

SETTLE_S = 3.0
WARMING = 4  # times that each account logs in beforehand: so that each worker has met it
KIB = 1024


def rows(sessions: int, accounts: int, peer: str = "no") -> list[Row]:
    """Measure ours, and the peer when asked (Dovecot has a process for each session)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < sessions + 500:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(sessions + 500, hard), hard))
    users = make_users([f"idle{number}" for number in range(accounts)])
    theirs = None
    if peer == "yes":
        with both(users, idle_sessions=sessions) as hosts:
            ours = measure(hosts.ours.mailhost, users, sessions, hosts.ours.family)
            theirs = measure(hosts.theirs.mailhost, users, sessions, lambda: _peer_family(hosts))
    else:
        with pillarbox_alone(users) as server:
            ours = measure(server.mailhost, users, sessions, server.family)
    return [
        Row("base, no session", "MiB", ours[0] / KIB**2, theirs and theirs[0] / KIB**2, "", more_is_better=False),
        Row(f"idle TLS session ({sessions:,})", "KiB", ours[1] / KIB, theirs and theirs[1] / KIB, "", False),
        Row("  of these, as a bound", "KiB", ours[1] / KIB, None, "≤ 50", more_is_better=False),
    ]


def measure(mailhost: MailHost, users: tuple[User, ...], sessions: int, family) -> tuple[float, float]:  # type: ignore[no-untyped-def]
    """Return the base in octets, and octets a session."""
    for user in users * WARMING:
        idling(mailhost, user).close()
    time.sleep(SETTLE_S)
    base = proportional_memory_octets(family())
    opened = [idling(mailhost, users[number % len(users)]) for number in range(sessions)]
    try:
        time.sleep(SETTLE_S)
        full = proportional_memory_octets(family())
    finally:
        for imap in opened:
            imap.close()
    return base, (full - base) / sessions


def idling(mailhost: MailHost, user: User) -> ImapWire:
    """Return a TLS session that waits in IDLE."""
    imap = ImapWire(mailhost.imaps, user, tls=True)
    imap.select()
    imap.send(b"i IDLE\r\n")
    said = imap.response()
    assert said.startswith(b"+"), said
    return imap


def _peer_family(hosts: Hosts) -> list[int]:
    dovecot, master = hosts.theirs.dovecot.server, hosts.theirs.postfix.master_pid()
    return [*(dovecot.family() if dovecot else []), master, *children(master)]


def main() -> None:
    """Measure and print."""
    options = arguments(__doc__, sessions=2000, accounts=100, peer="no")
    finish(rows(options.sessions, options.accounts, options.peer), as_json=options.json)


if __name__ == "__main__":
    main()
