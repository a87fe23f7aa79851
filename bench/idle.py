"""Memory of idle TLS IMAP sessions: all processes of the server, proportional (PSS), with them minus without.

Each session logs in, selects INBOX and waits in IDLE; sessions are spread over many accounts. Before the base is
taken, each account has logged in a few times, so that what is kept per account is in the base as in daily life.

With `--wake yes` each account then gets one message, one account after the other: for each of its sessions the time
is taken from the reply 250 to the untagged EXISTS (case 190). The client reads all of them in one thread, so its own
work is in the figure.

    python -m bench.idle [--sessions 2000] [--accounts 100] [--peer yes] [--wake yes]
"""

from __future__ import annotations

import resource
import selectors
import socket
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

from tests.neighbours.mailhost import MailHost, User
from tests.neighbours.processes import children, proportional_memory_octets
from tests.neighbours.wire import ImapWire, deliver

from bench.figures import Row, arguments, finish
from bench.hosts import Hosts, both, make_users, pillarbox_alone

SETTLE_S = 3.0
WAIT_S = 30.0
MESSAGE = b"From: outside@sender.test\r\nTo: %s\r\nSubject: wake up\r\n\r\nHello.\r\n"
WARMING = 4  # times that each account logs in beforehand: so that each worker has met it
KIB = 1024


def rows(sessions: int, accounts: int, peer: str = "no", wake: str = "no") -> list[Row]:
    """Measure ours, and the peer when asked (Dovecot has a process for each session)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < sessions + 500:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(sessions + 500, hard), hard))
    users = make_users([f"idle{number}" for number in range(accounts)])
    theirs = None
    if peer == "yes":
        with both(users, idle_sessions=sessions) as hosts:
            ours = measure(hosts.ours.mailhost, users, sessions, hosts.ours.family, wake == "yes")
            theirs = measure(hosts.theirs.mailhost, users, sessions, lambda: _peer_family(hosts), wake == "yes")
    else:
        with pillarbox_alone(users) as server:
            ours = measure(server.mailhost, users, sessions, server.family, wake == "yes")
    found = [
        Row("base, no session", "MiB", ours.base / KIB**2, theirs and theirs.base / KIB**2, "", more_is_better=False),
        Row(f"idle TLS session ({sessions:,})", "KiB", ours.each / KIB, theirs and theirs.each / KIB, "", False),
        Row("  of these, as a bound", "KiB", ours.each / KIB, None, "≤ 50", more_is_better=False),
        Row("all of them and the base", "MiB", ours.full / KIB**2, theirs and theirs.full / KIB**2, "", False),
    ]
    if ours.waits_s:
        waits = [_p95_ms(ours.waits_s), _p95_ms(theirs.waits_s) if theirs else None]
        found += [
            Row("250 to EXISTS, p95", "ms", waits[0] or 0, waits[1], "", more_is_better=False),
            Row("  of these, as a bound", "ms", waits[0] or 0, None, "≤ 200", more_is_better=False),
        ]
    return found


@dataclass(frozen=True, slots=True)
class Measured:
    """Octets without sessions, with all of them, and for each; seconds until each heard of a message."""

    base: float
    full: float
    each: float
    waits_s: tuple[float, ...]


def measure(
    mailhost: MailHost, users: tuple[User, ...], sessions: int, family: Callable[[], list[int]], wake: bool
) -> Measured:
    """Open the sessions, and look at what they cost; wake them once if asked."""
    for user in users * WARMING:
        idling(mailhost, user).close()
    time.sleep(SETTLE_S)
    base = proportional_memory_octets(family())
    opened = [idling(mailhost, users[number % len(users)]) for number in range(sessions)]
    try:
        time.sleep(SETTLE_S)
        full = proportional_memory_octets(family())
        waits_s: list[float] = []
        if wake:
            for number, user in enumerate(users):
                waits_s += woken(mailhost, user, opened[number :: len(users)])
    finally:
        for imap in opened:
            imap.close()
    return Measured(base, full, (full - base) / sessions, tuple(waits_s))


def woken(mailhost: MailHost, user: User, sessions: list[ImapWire]) -> list[float]:
    """Deliver one message to the user; return how many seconds later each session told of it."""
    waits_s: list[float] = []
    with selectors.DefaultSelector() as selector:
        said = {imap.sock: b"" for imap in sessions}
        for imap in sessions:
            selector.register(imap.sock, selectors.EVENT_READ)
        deliver(mailhost, user.address, MESSAGE % user.address.encode())
        begun_s = time.perf_counter()
        while said:
            ready = selector.select(WAIT_S)
            if not ready:
                raise SystemExit(f"bench: {len(said)} sessions of {user.address} heard nothing")
            for key, _ in ready:
                sock = key.fileobj
                assert isinstance(sock, socket.socket)
                said[sock] += sock.recv(4096)
                if b" EXISTS\r\n" in said[sock]:
                    waits_s.append(time.perf_counter() - begun_s)
                    selector.unregister(sock)
                    del said[sock]
    return waits_s


def _p95_ms(waits_s: tuple[float, ...]) -> float:
    return 1000 * statistics.quantiles(waits_s, n=20)[-1]


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
    options = arguments(__doc__, sessions=2000, accounts=100, peer="no", wake="no")
    finish(rows(options.sessions, options.accounts, options.peer, options.wake), as_json=options.json)


if __name__ == "__main__":
    main()
